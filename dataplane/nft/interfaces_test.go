package nft_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"github.com/tierwall/tierwall/dataplane/nft"
)

// Each change of a link, an address or a route to a pod is told, and what is no route to a pod is not.
func TestInterfaces(t *testing.T) {
	h, pod := newHost(t), newHost(t)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var told <-chan []nft.Interface
	h.do(func() {
		var err error
		told, err = nft.Interfaces(ctx)
		must(err)
	})
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	lo := nft.Interface{Name: "lo", Addrs: addrs("127.0.0.1", "::1"), Nets: loopback}
	pod0 := nft.Interface{Name: "pod0", Peers: addrs("10.1.0.5", "10.1.0.6", "fd00::5")}
	cali0 := nft.Interface{Name: "cali0", Peers: pod0.Peers}
	owned := nft.Interface{Name: "cali0", Addrs: addrs("10.9.0.1"), Peers: addrs("10.1.0.6", "fd00::5")}
	bridge := nft.Interface{Name: "br0", Bridge: true}
	for _, step := range []struct {
		name string
		do   func()
		want []nft.Interface
	}{
		{"at first", func() {}, []nft.Interface{lo}},
		{"routes to a pod, one in a table of its own, and routes that are none", func() {
			h.link("pod0", pod, "eth0")
			h.do(func() {
				addRoute(route("pod0", "10.2.0.0/24", ""))
				addRoute(route("pod0", "10.3.0.1/32", "10.2.0.1"))
				addRoute(route("pod0", "169.254.1.1/32", ""))
				addRoute(route("pod0", "10.1.0.5/32", ""))
				addRoute(route("pod0", "fd00::5/128", ""))
				own := route("pod0", "10.1.0.6/32", "")
				own.Table = 100
				addRoute(own)
			})
		}, []nft.Interface{lo, pod0}},
		{"a bridge", func() {
			h.do(func() { must(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}})) })
		}, []nft.Interface{bridge, lo, pod0}},
		{"another name", func() {
			h.do(func() { must(netlink.LinkSetName(linkOf("pod0"), "cali0")) })
		}, []nft.Interface{bridge, cali0, lo}},
		{"an address instead of a route", func() {
			h.do(func() {
				must(netlink.RouteDel(route("cali0", "10.1.0.5/32", "")))
				own("cali0", "10.9.0.1/32")
			})
		}, []nft.Interface{bridge, owned, lo}},
		{"down", func() {
			h.do(func() { must(netlink.LinkSetDown(linkOf("cali0"))) })
		}, []nft.Interface{bridge, {Name: "cali0", Addrs: addrs("10.9.0.1")}, lo}},
		{"gone", func() {
			h.do(func() { must(netlink.LinkDel(linkOf("cali0"))) })
		}, []nft.Interface{bridge, lo}},
	} {
		step.do()
		if diff := await(told, step.want); diff != "" {
			t.Fatalf("%s: -want +last told:\n%s", step.name, diff)
		}
	}
	stop()
	for range told { // it ends
	}
}

// await reads until what is wanted is told, and gives the difference if it never is.
func await(told <-chan []nft.Interface, want []nft.Interface) (diff string) {
	timeout := time.After(10 * time.Second)
	diff = "nothing was told"
	for {
		select {
		case now, open := <-told:
			if diff = cmp.Diff(want, now, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{}), sameAddr); diff == "" || !open {
				return diff
			}
		case <-timeout:
			return diff
		}
	}
}

// Thousands of routes that are none of pods' do not make it look, and the one that is is not lost among them.
func TestInterfacesAmongManyRoutes(t *testing.T) {
	h, pod := newHost(t), newHost(t)
	h.link("pod0", pod, "eth0")
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var told <-chan []nft.Interface
	h.do(func() {
		var err error
		told, err = nft.Interfaces(ctx)
		must(err)
		for i := range 5000 {
			a := netip.AddrFrom4([4]byte{10, 100 + byte(i>>12), byte(i >> 4), byte(i << 4)})
			addRoute(route("pod0", netip.PrefixFrom(a, 28).String(), ""))
		}
		addRoute(route("pod0", "10.1.0.5/32", ""))
	})
	want := []nft.Interface{{Name: "lo", Addrs: addrs("127.0.0.1", "::1"), Nets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, {Name: "pod0", Peers: addrs("10.1.0.5")}}
	if diff := await(told, want); diff != "" {
		t.Fatalf("-want +last told:\n%s", diff)
	}
	stop()
	for range told { // it ends
	}
}
