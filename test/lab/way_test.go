package lab

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// crossroads are three nodes, of which two have two uplinks, two workloads, one more that nobody knows, and two outsiders who are
// apart.
func crossroads(t *testing.T) *Lab {
	needNamespaces(t)
	return built(t, Cluster{
		Nodes: []Node{
			{"n1", []Uplink{{"eth0", addrs("192.0.2.1")}, {"eth1", addrs("192.0.2.11")}}},
			{"n2", []Uplink{{"eth0", addrs("192.0.2.2", "2001:db8::2")}}},
			{"n3", []Uplink{{"eth0", addrs("192.0.2.3", "2001:db8::3")}, {"eth1", nil}}},
		},
		Workloads: []Workload{
			{Name: "a/one", Node: "n1", Iface: "one", Addrs: addrs("10.0.0.1", "fd00::1")},
			{Name: "a/two", Node: "n2", Iface: "two", Addrs: addrs("10.0.1.1", "fd00::1:1")},
			{Name: "n3/x", Node: "n3", Iface: "x", Claims: addrs("203.0.113.9")},
		},
		Outside: addrs("198.51.100.1", "198.51.100.3", "2001:db8:9::1"), Beyond: addrs("198.51.100.2", "2001:db8:a::1"),
	})
}

func way(src, dst string, f policy.Flow) policy.Flow {
	f.Src, f.Dst, f.Proto, f.DstPort = netip.MustParseAddr(src), netip.MustParseAddr(dst), policy.ProtoTCP, 80
	return f
}

// crossing are flows that say by which way they go, and the place, NODE IN OUT, that they pass then. They differ in their ways
// alone where they can, so that no flow's way becomes another's.
var crossing = map[string][]struct {
	at   string
	flow policy.Flow
}{
	"by a node": {
		{"n3 eth0 eth0", way("198.51.100.1", "10.0.1.1", policy.Flow{Via: "n3"})},
		{"n3 eth0 eth0", way("198.51.100.1", "198.51.100.2", policy.Flow{Via: "n3"})},
		{"n3 eth0 eth0", way("2001:db8:9::1", "2001:db8:a::1", policy.Flow{Via: "n3"})},
		{"n3 eth0 eth0", way("10.0.0.1", "10.0.1.1", policy.Flow{Via: "n3"})},
		{"n2 eth0 two", way("198.51.100.1", "10.0.1.1", policy.Flow{})},
	},
	"in by an interface": {
		{"n3 eth1 eth0", way("198.51.100.1", "10.0.1.1", policy.Flow{Via: "n3", InIface: "eth1"})},
		{"n1 eth1 one", way("198.51.100.1", "10.0.0.1", policy.Flow{InIface: "eth1"})},
		{"n1 eth0 one", way("198.51.100.1", "10.0.0.1", policy.Flow{InIface: "eth0"})},
		{"n1 eth0 one", way("198.51.100.1", "10.0.0.1", policy.Flow{})},
	},
	"out by an interface": {
		{"n3 eth0 eth1", way("198.51.100.1", "198.51.100.2", policy.Flow{Via: "n3", OutIface: "eth1"})},
		{"n3 eth1 eth1", way("198.51.100.1", "10.0.1.1", policy.Flow{Via: "n3", InIface: "eth1", OutIface: "eth1"})},
		{"n1 one eth1", way("10.0.0.1", "198.51.100.2", policy.Flow{OutIface: "eth1"})},
		{"n1 one eth0", way("10.0.0.1", "198.51.100.2", policy.Flow{})},
	},
	"behind an interface": {
		{"n3 x eth0", way("203.0.113.7", "10.0.1.1", policy.Flow{Via: "n3", InIface: "x"})}, // from nobody's address
		{"n3 x eth0", way("10.0.0.1", "198.51.100.2", policy.Flow{Via: "n3", InIface: "x"})},
		{"n3 x eth0", way("fd00::1", "2001:db8:a::1", policy.Flow{Via: "n3", InIface: "x"})},
		{"n1 one eth0", way("198.51.100.1", "10.0.1.1", policy.Flow{Via: "n1", InIface: "one"})},
		{"n1 eth0 eth1", way("10.0.0.1", "198.51.100.2", policy.Flow{Via: "n1", InIface: "eth0", OutIface: "eth1"})}, // an outsider's lie
		{"n3 eth0 x", way("198.51.100.1", "203.0.113.9", policy.Flow{Via: "n3", OutIface: "x"})},
	},
}

// A flow goes the way that it says: it arrives, and does not when that way, and no other, is closed.
func TestWays(t *testing.T) {
	for name, cases := range crossing {
		t.Run(name, func(t *testing.T) {
			l := crossroads(t)
			for _, a := range addrs("203.0.113.7", "203.0.113.9") { // somebody must have it: an address is of who owns it
				l.owner[a] = l.owner[netip.MustParseAddr("198.51.100.2")]
			}
			port := uint16(20000)
			for _, c := range cases {
				place := strings.Fields(c.at)
				for _, closed := range []struct {
					rule string
					want Observation
				}{
					{"", Arrived}, {"iifname " + place[1] + " oifname " + place[2] + " ct direction original drop", Lost},
					{"iifname != " + place[1] + " ct direction original drop", Arrived}, {"oifname != " + place[2] + " ct direction original drop", Arrived},
				} {
					l.nft(t, place[0], forward(closed.rule))
					f := c.flow
					port++
					f.SrcPort = port
					seen, err := l.Send(t.Context(), []policy.Flow{f}, soon)
					if err != nil {
						t.Fatal(err)
					}
					if seen[0] != closed.want {
						t.Errorf("%+v with %q on %s: %s, want %s", f, closed.rule, place[0], seen[0], closed.want)
					}
				}
				l.nft(t, place[0], "flush ruleset")
			}
		})
	}
}

// A flow is sent where it is translated, and what it is masqueraded as is who its sender is to whom it comes.
func TestTranslation(t *testing.T) {
	l := crossroads(t)
	service := netip.MustParseAddr("10.96.0.1")
	for _, node := range []string{"n1", "n3"} {
		l.nft(t, node, `table ip t {
			chain in { type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 meta l4proto {tcp, udp} dnat to 10.0.1.1:80; ip daddr 10.96.0.1 dnat to 10.0.1.1; }
			chain own { type nat hook output priority -100; ip daddr 10.96.0.1 tcp dport 8080 dnat to 10.0.1.1:80; }
			chain out { type nat hook postrouting priority srcnat; ip saddr 198.51.100.1 masquerade; }
		}`)
	}
	to := func(src string, f policy.Flow) policy.Flow {
		f.OrigDst, f.OrigDstPort = service, 8080
		return way(src, "10.0.1.1", f)
	}
	udp, icmp := to("10.0.0.1", policy.Flow{NATNode: "n1"}), to("10.0.0.1", policy.Flow{NATNode: "n1", ICMPType: 8})
	udp.Proto, icmp.Proto, icmp.DstPort, icmp.OrigDstPort = policy.ProtoUDP, policy.ProtoICMP, 0, 0
	for i, c := range []struct {
		flow policy.Flow
		want Observation
	}{
		{to("10.0.0.1", policy.Flow{NATNode: "n1"}), Arrived},
		{udp, Arrived},
		{icmp, Arrived},
		{to("192.0.2.1", policy.Flow{NATNode: "n1"}), Arrived},
		{to("192.0.2.2", policy.Flow{NATNode: "n2"}), Lost}, // which translates nothing
		{to("198.51.100.2", policy.Flow{Via: "n3", NATNode: "n3"}), Arrived},
		{to("198.51.100.1", policy.Flow{Via: "n3", NATNode: "n3", Masquerade: netip.MustParseAddr("192.0.2.3")}), Arrived},
	} {
		if c.flow.Proto != policy.ProtoICMP {
			c.flow.SrcPort = uint16(20000 + i)
		}
		seen, err := l.Send(t.Context(), []policy.Flow{c.flow}, time.Second)
		if err != nil || seen[0] != c.want {
			t.Errorf("%+v: %s, %v, want %s", c.flow, seen[0], err, c.want)
		}
	}
}

// What would not go as it says is not sent.
func TestNoWay(t *testing.T) {
	l := crossroads(t)
	for _, f := range []policy.Flow{
		way("198.51.100.1", "198.51.100.3", policy.Flow{}),
		way("198.51.100.1", "10.0.0.1", policy.Flow{InIface: "eth9"}),
		way("10.0.0.1", "198.51.100.1", policy.Flow{OutIface: "eth9"}),
		way("198.51.100.1", "10.0.0.1", policy.Flow{Via: "n9"}),
	} {
		f.SrcPort = 20000
		if err := l.steer(f); !errors.Is(err, errNoWay) {
			t.Errorf("%+v: %v", f, err)
		}
		if seen, err := l.Send(t.Context(), []policy.Flow{f}, soon); err != nil || seen[0] != Unsent {
			t.Errorf("%+v: %s, %v", f, seen[0], err)
		}
	}
}

// A command runs in its node's namespace, and one that fails says where and what it said.
func TestRun(t *testing.T) {
	l := crossroads(t)
	if err := l.Run(t.Context(), "n1", "ip -4 address show dev eth1 | grep -q 192.0.2.11"); err != nil {
		t.Error(err)
	}
	for _, c := range []struct{ node, command, want string }{
		{"n2", "ip -4 address show dev eth1", "on node n2: ip -4 address show dev eth1: exit status 1"},
		{"n1", "echo because >&2; false", "because"},
		{"n9", "true", `no node "n9"`},
	} {
		if err := l.Run(t.Context(), c.node, c.command); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s: %v, want %q", c.node, c.command, err, c.want)
		}
	}
}

// Interfaces that only flows name are made: uplinks, and workloads' that nobody knows. Outsiders who talk to each other are apart.
func TestClusterOfWays(t *testing.T) {
	index := policy.NewIndex("", policy.Options{})
	if err := index.Set(pod("one", "n1", false, "10.0.0.1")); err != nil {
		t.Fatal(err)
	}
	flows := []policy.Flow{
		way("198.51.100.1", "10.0.0.1", policy.Flow{InIface: "eth7"}),
		way("198.51.100.1", "10.0.0.1", policy.Flow{InIface: "cali7"}),
		way("10.0.0.1", "198.51.100.1", policy.Flow{OutIface: "cali8"}),
		way("198.51.100.1", "198.51.100.2", policy.Flow{Via: "n1", OutIface: "cali8"}),
		way("10.0.0.1", "198.51.100.1", policy.Flow{InIface: "eth9", Via: "n9"}),
		way("10.0.0.1", "198.51.100.1", policy.Flow{OutIface: ifaceOf("a/one")}),
	}
	want := Cluster{
		Nodes: []Node{{"n1", []Uplink{{"eth0", nil}, {"eth7", nil}}}},
		Workloads: []Workload{
			{Name: "a/one", Node: "n1", Addrs: addrs("10.0.0.1"), Claims: addrs("198.51.100.1")},
			{Name: "n1/cali7", Node: "n1", Iface: "cali7"},
			{Name: "n1/cali8", Node: "n1", Iface: "cali8", Claims: addrs("198.51.100.1", "198.51.100.2")},
		},
		Outside: addrs("198.51.100.1"), Beyond: addrs("198.51.100.2"),
	}
	if diff := cmp.Diff(want, ClusterOf(index.Plan(), flows), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}
