package nft_test

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/tierwall/tierwall/dataplane/nft"
)

// The way to an address is that of the routes, or of the rules for the address that it is sent from. To the host itself
// there is none.
func TestRouteTo(t *testing.T) {
	h, near, far := newHost(t), newHost(t), newHost(t)
	h.link("near0", near, "eth0")
	h.link("far0", far, "eth0")
	h.do(func() {
		own("near0", "10.0.0.1/24")
		own("near0", "fd00::1/112")
		own("far0", "10.0.1.1/24")
		own("far0", "fd00::1:1/112")
		addRoute(route("far0", "10.9.0.0/16", "10.0.1.2"))
		addRoute(route("far0", "fd09::/16", "fd00::1:2"))
		addRoute(&netlink.Route{Dst: route("lo", "10.8.0.0/16", "").Dst, Type: 7}) // unreachable
		own7 := route("near0", "10.9.0.0/16", "10.0.0.2")
		own7.Table = 7
		addRoute(own7)
		rule := netlink.NewRule()
		rule.Table, rule.Src = 7, route("near0", "10.0.0.1/32", "").Dst
		must(netlink.RuleAdd(rule))
		for _, test := range []struct{ to, from, want string }{
			{"10.0.0.9", "", "near0"}, {"fd00::9", "", "near0"}, {"10.0.1.9", "", "far0"}, {"10.9.1.1", "", "far0"},
			{"fd09::1", "", "far0"},
			{"10.9.1.1", "10.0.0.1", "near0"}, {"10.9.1.1", "10.0.1.1", "far0"},
			{"10.0.0.1", "", ""}, {"127.0.0.53", "", ""}, {"::1", "", ""},
			{"198.51.100.1", "", ""}, {"2001:db8::1", "", ""}, {"10.8.0.1", "", ""},
		} {
			var from netip.Addr
			if test.from != "" {
				from = netip.MustParseAddr(test.from)
			}
			if have, err := nft.RouteTo(netip.MustParseAddr(test.to), from); err != nil || have != test.want {
				t.Errorf("to %s from %q: %q, %v, want %q", test.to, test.from, have, err, test.want)
			}
		}
	})
}
