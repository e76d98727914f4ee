package lab

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/tierwall/tierwall/dataplane/policy"
)

func TestMain(m *testing.M) {
	if role, ok := roles[os.Getenv("LAB_TEST_ROLE")]; ok {
		role()
		return
	}
	if err := Enter(); err != nil {
		noNamespaces = err
	}
	status := m.Run()
	_ = os.RemoveAll(binaries)
	os.Exit(status)
}

var noNamespaces error

func needNamespaces(t *testing.T) {
	t.Helper()
	Need(t, noNamespaces)
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

var small = Cluster{
	Nodes: []Node{
		{"n1", []Uplink{{"eth0", addrs("192.0.2.1", "2001:db8::1")}, {"eth1", addrs("192.0.2.129")}}},
		{"n2", []Uplink{{"ens5", addrs("192.0.2.2", "2001:db8::2")}}},
	},
	Workloads: []Workload{
		{Name: "a/one", Node: "n1", Addrs: addrs("10.0.0.1", "fd00::1")},
		{Name: "a/two", Node: "n1", Iface: "tap0", Addrs: addrs("10.0.0.2", "fd00::2")},
		{Name: "a/three", Node: "n2", Addrs: addrs("10.0.1.1", "fd00::1:1")},
	},
	Outside: addrs("198.51.100.9", "2001:db8:f::9"),
}

// Without policy everybody reaches everybody, by every protocol and in both families.
func TestEveryoneReachesEveryone(t *testing.T) {
	needNamespaces(t)
	l, err := Build(small)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	protocols := []policy.Flow{
		{Proto: policy.ProtoTCP, DstPort: 80}, {Proto: policy.ProtoUDP, DstPort: 53}, {Proto: policy.ProtoSCTP, DstPort: 36412},
		{Proto: policy.ProtoUDPLite, DstPort: 9}, {Proto: policy.ProtoICMP, ICMPType: 8}, {Proto: policy.ProtoICMPv6, ICMPType: 128},
		{Proto: 47}, {Proto: 253},
	}
	var all []netip.Addr
	for a := range l.owner {
		all = append(all, a)
	}
	var flows []policy.Flow
	for _, src := range all {
		for _, dst := range all {
			for _, f := range protocols {
				f.Src, f.Dst = src, dst
				f.SrcPort = uint16(20000 + len(flows))
				if src.Is4() != dst.Is4() || !sendable(f) {
					continue
				}
				flows = append(flows, f)
			}
		}
	}
	seen, err := l.Send(t.Context(), flows, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range seen {
		if o != Arrived {
			t.Errorf("%s: %s", text(flows[i]), o)
		}
	}
	t.Logf("%d flows", len(flows))
}
