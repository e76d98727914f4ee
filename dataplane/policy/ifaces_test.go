package policy_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/scenario"
)

// Behind which interface a pod is: alone only where its address, and no other of the family, is routed; never an uplink.
func TestInterfacesOfPods(t *testing.T) {
	own, other, six := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::1")
	net := netip.MustParsePrefix("10.0.0.0/24")
	for name, c := range map[string]struct {
		iface         policy.Iface
		alone, shared []string
	}{
		"its route alone":         {policy.Iface{Name: "i", Peers: []netip.Addr{own, six}}, []string{"i"}, nil},
		"nobody's route as well":  {policy.Iface{Name: "i", Peers: []netip.Addr{own, netip.MustParseAddr("10.0.0.9")}}, []string{"i"}, nil},
		"another's route as well": {policy.Iface{Name: "i", Peers: []netip.Addr{own, other}}, nil, []string{"i"}},
		"an uplink":               {policy.Iface{Name: "i", Peers: []netip.Addr{own}, Uplink: true}, nil, nil},
		"a bridge":                {policy.Iface{Name: "i", Peers: []netip.Addr{own}, Shared: true}, nil, []string{"i"}},
		"a bridge's network":      {policy.Iface{Name: "i", Nets: []netip.Prefix{net}, Shared: true}, nil, []string{"i"}},
		"a bridge that leads out": {policy.Iface{Name: "i", Nets: []netip.Prefix{net}, Shared: true, Uplink: true}, nil, nil},
		"another's":               {policy.Iface{Name: "i", Peers: []netip.Addr{other}}, nil, nil},
	} {
		x := policy.NewIndex("n1", policy.Options{})
		if err := x.Set(scenario.Pod("ns", "p", "n1", []string{own.String(), six.String()}, nil)); err != nil {
			t.Fatal(err)
		}
		if err := x.Set(scenario.Pod("ns", "q", "n1", []string{other.String()}, nil)); err != nil {
			t.Fatal(err)
		}
		x.SetInterfaces([]policy.Iface{c.iface})
		if e := x.Plan().Endpoints[0]; !slices.Equal(e.Ifaces, c.alone) || !slices.Equal(e.Shared, c.shared) {
			t.Errorf("%s: alone %v, among others %v", name, e.Ifaces, e.Shared)
		}
	}
}

// Who is unknown behind a bridge of pods is refused, whatever address he gave himself; neighbour discovery passes.
func TestUnknownBehindBridge(t *testing.T) {
	x := policy.NewIndex("n1", policy.Options{})
	for _, o := range []struct{ name, addr string }{{"p", "10.0.0.1"}, {"q", "fd00::1"}} {
		if err := x.Set(scenario.Pod("ns", o.name, "n1", []string{o.addr}, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Set(scenario.Namespace("ns", map[string]string{})); err != nil {
		t.Fatal(err)
	}
	x.SetInterfaces([]policy.Iface{{Name: "eth0"}, {Name: "br0", Shared: true, Nets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/64")}}})
	p := x.Plan()
	for _, c := range []struct {
		from, to string
		proto    uint8
		icmp     uint8
		want     policy.Action
	}{
		{"10.0.0.1", "198.51.100.7", policy.ProtoTCP, 0, policy.Allow},
		{"10.0.0.77", "198.51.100.7", policy.ProtoTCP, 0, policy.Deny},
		{"10.0.0.77", "10.0.0.1", policy.ProtoTCP, 0, policy.Deny},
		{"fe80::1", "fd00::1", policy.ProtoTCP, 0, policy.Deny},
		{"fe80::1", "fd00::1", policy.ProtoICMPv6, 135, policy.Allow},
		{"fe80::1", "fd00::1", policy.ProtoICMPv6, 128, policy.Deny},
	} {
		f := policy.Flow{Src: netip.MustParseAddr(c.from), Dst: netip.MustParseAddr(c.to), Proto: c.proto, ICMPType: c.icmp, SrcPort: 5000, DstPort: 80,
			Via: "n1", InIface: "br0"}
		if got := p.Trace(f); got.Verdict != c.want {
			t.Errorf("%s to %s: %s, want %s: %+v", c.from, c.to, got.Verdict, c.want, got.Steps)
		}
	}
}

// A workload's interface is no host endpoint's: when the workload comes or goes, so does what stands there.
func TestHostEndpointMakesWayForAWorkload(t *testing.T) {
	x := policy.NewIndex("n1", policy.Options{})
	at := netip.MustParseAddr("172.16.1.1")
	x.SetInterfaces([]policy.Iface{{Name: "veth9", Addrs: []netip.Addr{at}}})
	h, w := &v3.HostEndpoint{}, &v3.WorkloadEndpoint{}
	h.Name, h.Spec.Node, h.Spec.ExpectedIPs = "h", "n1", []string{at.String()}
	w.Namespace, w.Name, w.Spec.Node, w.Spec.InterfaceName, w.Spec.IPNetworks = "ns", "w", "n1", "veth9", []string{"10.0.0.1/32"}
	_ = x.Set(h)
	stands := func() []string {
		for _, e := range x.Plan().Endpoints {
			if e.Host() {
				return e.Ifaces
			}
		}
		return nil
	}
	for _, step := range []struct {
		do    func()
		there bool
	}{{func() {}, true}, {func() { _ = x.Set(w) }, false}, {func() { x.Delete(v3.Ref{Kind: "WorkloadEndpoint", Namespace: "ns", Name: "w"}) }, true}} {
		if step.do(); slices.Contains(stands(), "veth9") != step.there {
			t.Errorf("it stands on %v, want there %v", stands(), step.there)
		}
	}
}

// A host endpoint that guards nothing, because its node has no such interface, is told so; where nobody has said what there is, it is not.
func TestHostEndpointThatStandsNowhere(t *testing.T) {
	at := netip.MustParseAddr("192.0.2.1")
	eth0 := []policy.Iface{{Name: "eth0", Addrs: []netip.Addr{at}}}
	for _, c := range []struct {
		says, iface, expects, node string
		there                      []policy.Iface
		note                       string
	}{
		{"by name", "eth0", "", "n1", eth0, ""},
		{"by address", "", "192.0.2.1", "n1", eth0, ""},
		{"by all names", "*", "", "n1", eth0, ""},
		{"by a name that there is not", "eth7", "", "n1", eth0, "stands on interface eth7, which its node does not have now"},
		{"by an address that there is not", "", "192.0.2.7", "n1", eth0, "stands on no interface"},
		{"on another node", "eth7", "", "n2", eth0, ""},
		{"nobody has said what there is", "eth7", "", "n1", nil, ""},
	} {
		x := policy.NewIndex("n1", policy.Options{})
		x.SetInterfaces(c.there)
		h := &v3.HostEndpoint{}
		h.Name, h.Spec.Node, h.Spec.InterfaceName = "h", c.node, c.iface
		if c.expects != "" {
			h.Spec.ExpectedIPs = []string{c.expects}
		}
		_ = x.Set(h)
		notes := x.Plan().Notes
		if (len(notes) > 0) != (c.note != "") || len(notes) > 0 && (notes[0].About.Name != "h" || !strings.HasPrefix(notes[0].Text, c.note)) {
			t.Errorf("%s: %v", c.says, notes)
		}
	}
}
