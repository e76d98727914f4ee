package controllers

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// Before its network is up a node has the interfaces that it had, as far as it has none of that name with an address.
func TestExpectedInterfaces(t *testing.T) {
	at := func(name string, addrs ...string) (f nft.Interface) {
		f.Name = name
		for _, a := range addrs {
			f.Addrs = append(f.Addrs, netip.MustParseAddr(a))
		}
		return f
	}
	got := expected([]nft.Interface{at("eth1"), at("lo", "127.0.0.1"), at("eth2", "192.0.2.77")},
		[]nft.Interface{at("eth0", "192.0.2.1"), at("eth1", "192.0.2.2"), at("eth2", "192.0.2.3")})
	want := []nft.Interface{at("eth0", "192.0.2.1"), at("eth1", "192.0.2.2"), at("eth2", "192.0.2.77"), at("lo", "127.0.0.1")}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	// so a host endpoint that names no interface stands where it stood
	index := policy.NewIndex("n1", policy.Options{})
	h := &v3.HostEndpoint{Spec: v3.HostEndpointSpec{Node: "n1", ExpectedIPs: []string{"192.0.2.1"}}}
	h.Name = "h"
	if err := index.Set(h); err != nil {
		t.Fatal(err)
	}
	a := Agent{Node: "n1", Expected: []nft.Interface{at("eth0", "192.0.2.1")}}
	a.setInterfaces(index, []nft.Interface{at("lo", "127.0.0.1")})
	if e := index.Plan().Endpoints; len(e) != 1 || !cmp.Equal(e[0].Ifaces, []string{"eth0"}) {
		t.Errorf("it stands on %+v", e)
	}
}
