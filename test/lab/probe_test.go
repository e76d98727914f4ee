package lab

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tierwall/tierwall/dataplane/policy"
)

const soon = 300 * time.Millisecond

func built(t testing.TB, c Cluster) *Lab {
	l, err := Build(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// nft gives a node a ruleset.
func (l *Lab) nft(t testing.TB, node, ruleset string) {
	t.Helper()
	var out []byte
	err := l.nodes[node].do(func() (err error) {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(ruleset)
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
}

// forward is a ruleset for the packets that a node forwards.
func forward(rules string) string {
	return "flush ruleset\ntable inet t { chain c { type filter hook forward priority 0; policy accept;\n" + rules + "\n}\n}\n"
}

var one, two, three = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.1.1")
var one6, three6 = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::1:1")

// probes are flows that differ from each other in one thing.
var probes = map[string]policy.Flow{
	"tcp":        {Src: one, Dst: three, Proto: policy.ProtoTCP, SrcPort: 5001, DstPort: 80},
	"tcp81":      {Src: one, Dst: three, Proto: policy.ProtoTCP, SrcPort: 5001, DstPort: 81},
	"tcp from":   {Src: one, Dst: three, Proto: policy.ProtoTCP, SrcPort: 5002, DstPort: 80},
	"tcp two":    {Src: two, Dst: three, Proto: policy.ProtoTCP, SrcPort: 5001, DstPort: 80},
	"tcp6":       {Src: one6, Dst: three6, Proto: policy.ProtoTCP, SrcPort: 5001, DstPort: 80},
	"udp":        {Src: one, Dst: three, Proto: policy.ProtoUDP, SrcPort: 5001, DstPort: 80},
	"udp6":       {Src: one6, Dst: three6, Proto: policy.ProtoUDP, SrcPort: 5001, DstPort: 80},
	"sctp":       {Src: one, Dst: three, Proto: policy.ProtoSCTP, SrcPort: 5001, DstPort: 80},
	"sctp81":     {Src: one, Dst: three, Proto: policy.ProtoSCTP, SrcPort: 5001, DstPort: 81},
	"echo":       {Src: one, Dst: three, Proto: policy.ProtoICMP, ICMPType: 8},
	"echo code":  {Src: one, Dst: three, Proto: policy.ProtoICMP, ICMPType: 8, ICMPCode: 3},
	"timestamp":  {Src: one, Dst: three, Proto: policy.ProtoICMP, ICMPType: 13},
	"echo6":      {Src: one6, Dst: three6, Proto: policy.ProtoICMPv6, ICMPType: 128},
	"udplite":    {Src: one, Dst: three, Proto: policy.ProtoUDPLite, SrcPort: 5001, DstPort: 80},
	"gre":        {Src: one, Dst: three, Proto: 47},
	"253":        {Src: one, Dst: three, Proto: 253},
	"253 across": {Src: two, Dst: three, Proto: 253},
}

// missing is what becomes of the probes that are not as the others.
func (l *Lab) missing(t testing.TB, flows map[string]policy.Flow) map[string]Observation {
	t.Helper()
	var names []string
	var list []policy.Flow
	for name, f := range flows {
		names, list = append(names, name), append(list, f)
	}
	seen, err := l.Send(t.Context(), list, soon)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]Observation{}
	for i, o := range seen {
		if o != Arrived {
			out[names[i]] = o
		}
	}
	return out
}

// A rule in a node stops what it says and nothing else, and an answer that is stopped is told from a packet that is.
func TestRulesAreSeen(t *testing.T) {
	needNamespaces(t)
	l := built(t, small)
	for _, c := range []struct {
		node, rules string
		want        map[string]Observation
	}{
		{"n2", "", nil},
		{"n2", "tcp dport 80 drop", map[string]Observation{"tcp": Lost, "tcp from": Lost, "tcp two": Lost, "tcp6": Lost}},
		{"n2", "tcp dport 80 reject with tcp reset", map[string]Observation{"tcp": Lost, "tcp from": Lost, "tcp two": Lost, "tcp6": Lost}},
		{"n1", "ip saddr 10.0.0.1 tcp sport 5002 drop", map[string]Observation{"tcp from": Lost}},
		{"n1", "ip saddr 10.0.0.2 tcp dport 80 drop", map[string]Observation{"tcp two": Lost}},
		{"n2", "ip6 daddr fd00::1:1 udp dport 80 drop", map[string]Observation{"udp6": Lost}},
		{"n2", "udp dport 80 reject", map[string]Observation{"udp": Lost, "udp6": Lost}},
		{"n2", "sctp dport 81 drop", map[string]Observation{"sctp81": Lost}},
		{"n2", "icmp type echo-request icmp code 3 drop", map[string]Observation{"echo code": Lost}},
		{"n2", "icmp type timestamp-request drop", map[string]Observation{"timestamp": Lost}},
		{"n2", "icmpv6 type echo-request drop", map[string]Observation{"echo6": Lost}},
		{"n2", "ip protocol 136 drop", map[string]Observation{"udplite": Lost}},
		{"n2", "ip protocol 47 drop", map[string]Observation{"gre": Lost}},
		{"n1", "ip saddr 10.0.0.2 ip protocol 253 drop", map[string]Observation{"253 across": Lost}},
		{"n2", "iifname \"cali*\" tcp sport 81 drop", map[string]Observation{"tcp81": Unanswered}},
		{"n2", "ip saddr 10.0.1.1 udp sport 80 drop", map[string]Observation{"udp": Unanswered}},
		{"n2", "icmp type echo-reply drop", map[string]Observation{"echo": Unanswered, "echo code": Unanswered}},
		{"n1", "icmpv6 type echo-reply drop", map[string]Observation{"echo6": Unanswered}},
	} {
		t.Run(c.node+" "+c.rules, func(t *testing.T) {
			l.nft(t, c.node, forward(c.rules))
			defer l.nft(t, c.node, "flush ruleset")
			if have := l.missing(t, probes); !maps.Equal(have, c.want) {
				t.Errorf("have %v, want %v", have, c.want)
			}
		})
	}
}

// Connections that are let through open the way to nothing but their answers: not to a flow that looks like an answer,
// nor to a connection of a later Send that looks like an earlier one.
func TestFlowsDoNotHelpEachOther(t *testing.T) {
	needNamespaces(t)
	l := built(t, small)
	stateful := forward("ct state established,related accept\nip saddr 10.0.1.1 drop\nip6 saddr fd00::1:1 drop")
	flows, want := maps.Clone(probes), map[string]Observation{}
	for name, f := range probes {
		f.Src, f.Dst, f.SrcPort, f.DstPort = f.Dst, f.Src, f.DstPort, f.SrcPort
		flows[name+" back"], want[name+" back"] = f, Lost
	}
	l.nft(t, "n2", stateful)
	for range 3 {
		if have := l.missing(t, flows); !maps.Equal(have, want) {
			t.Errorf("have %v, want %v", have, want)
		}
	}
	l.nft(t, "n2", forward("ct state established accept\ndrop"))
	for name := range flows {
		want[name] = Lost
	}
	if have := l.missing(t, flows); !maps.Equal(have, want) {
		t.Errorf("after they had all been let through: have %v, want %v", have, want)
	}
}

// Connection tracking, which checks checksums here, calls no packet of ours invalid. Every protocol number is sent or said
// to be unsendable.
func TestPacketsAreWellFormed(t *testing.T) {
	needNamespaces(t)
	l := built(t, small)
	for name, n := range l.nodes {
		if err := n.do(func() error { return sysctl("netfilter/nf_conntrack_checksum=1") }); err != nil {
			t.Fatal(err)
		}
		l.nft(t, name, forward("ct state invalid drop"))
	}
	flows, want := map[string]policy.Flow{}, map[string]Observation{}
	for proto := range 256 {
		for _, ends := range [][2]netip.Addr{{one, three}, {one6, three6}} {
			f := policy.Flow{Src: ends[0], Dst: ends[1], Proto: uint8(proto), SrcPort: 5001, DstPort: 99}
			for _, f.ICMPType = range append(requests[f.Proto], 0)[:max(1, len(requests[f.Proto]))] {
				name := fmt.Sprintf("%d to %s type %d", proto, f.Dst, f.ICMPType)
				if !policy.HasPorts(f.Proto) {
					f.SrcPort, f.DstPort = 0, 0
				}
				flows[name] = f
				switch {
				case !sendable(f):
					want[name] = Unsent
				case f.Proto == policy.ProtoUDPLite: // Linux checks it as if it were UDP
					want[name] = Lost
				}
			}
		}
	}
	if len(want) > 30 {
		t.Errorf("%d of %d are not sent", len(want), len(flows))
	}
	if have := l.missing(t, flows); !maps.Equal(have, want) {
		t.Errorf("have %v,\nwant %v", have, want)
	}
}

func TestUnsendable(t *testing.T) {
	at := func(src, dst string, proto uint8, srcPort, dstPort uint16) policy.Flow {
		return policy.Flow{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Proto: proto, SrcPort: srcPort, DstPort: dstPort}
	}
	for why, f := range map[string]policy.Flow{
		"no source port":      at("10.0.0.1", "10.0.1.1", policy.ProtoTCP, 0, 80),
		"no destination port": at("10.0.0.1", "10.0.1.1", policy.ProtoUDP, 80, 0),
		"both ends are one":   at("10.0.0.1", "10.0.0.1", policy.ProtoTCP, 80, 80),
		"multicast":           at("10.0.0.1", "224.0.0.1", policy.ProtoUDP, 80, 80),
		"multicast 6":         at("fd00::1", "ff02::1", policy.ProtoUDP, 80, 80),
		"broadcast":           at("10.0.0.1", "255.255.255.255", policy.ProtoUDP, 80, 80),
		"loopback":            at("127.0.0.1", "10.0.0.1", policy.ProtoUDP, 80, 80),
		"of one link":         at("fe80::1", "fd00::1", policy.ProtoUDP, 80, 80),
		"no address":          {Dst: one, Proto: policy.ProtoUDP, SrcPort: 80, DstPort: 80},
		"an answer":           {Src: one, Dst: three, Proto: policy.ProtoICMP, ICMPType: 0},
		"wrong family":        {Src: one, Dst: three, Proto: policy.ProtoICMPv6, ICMPType: 128},
	} {
		if sendable(f) {
			t.Errorf("%s: %s is said to be sendable", why, text(f))
		}
	}
	if f := at("10.0.0.1", "169.254.169.254", policy.ProtoTCP, 5000, 80); !sendable(f) {
		t.Errorf("%s is said not to be sendable", text(f))
	}
}

// Everything that a lab takes it gives back.
func TestNothingIsLeft(t *testing.T) {
	needNamespaces(t)
	held := func() (out []string) {
		for _, dir := range []string{"/proc/self/fd", "/sys/class/net", os.TempDir()} {
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				target, err := os.Readlink(dir + "/" + e.Name())
				if err == nil && (strings.HasPrefix(target, "net:") || strings.HasPrefix(target, "socket:")) {
					out = append(out, target)
				}
				if dir != "/proc/self/fd" && (dir != os.TempDir() || strings.HasPrefix(e.Name(), "tierwall-lab")) {
					out = append(out, e.Name())
				}
			}
		}
		return out
	}
	before := held()
	for range 2 {
		l, err := Build(small)
		if err != nil {
			t.Fatal(err)
		}
		l.missing(t, probes)
		if during := held(); len(during) <= len(before) {
			t.Fatalf("a lab that holds nothing: %v", during)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if after := held(); len(after) != len(before) {
		t.Errorf("before %v, after %v", before, after)
	}
	misplaced := Cluster{Nodes: small.Nodes, Workloads: []Workload{{Name: "a/b", Node: "none", Addrs: addrs("10.0.0.1")}}}
	if _, err := Build(misplaced); err == nil || !strings.Contains(err.Error(), "a/b is on node none") {
		t.Errorf("a workload on a node that is not there: %v", err)
	}
	if after := held(); len(after) != len(before) {
		t.Errorf("after a failure: before %v, after %v", before, after)
	}
}

func TestStrangersAreNamed(t *testing.T) {
	needNamespaces(t)
	l := built(t, small)
	f := probes["tcp"]
	f.Dst = netip.MustParseAddr("10.9.9.9")
	if _, err := l.Send(t.Context(), []policy.Flow{f}, soon); err == nil || !strings.Contains(err.Error(), "nobody in the lab has the address 10.9.9.9") {
		t.Error(err)
	}
}

func BenchmarkLab(b *testing.B) {
	if noNamespaces != nil && !errors.Is(noNamespaces, ErrNoNamespaces) {
		b.Fatal(noNamespaces)
	}
	c := Cluster{}
	for n := range 3 {
		c.Nodes = append(c.Nodes, Node{fmt.Sprint("n", n), []Uplink{{"eth0", addrs(fmt.Sprint("192.0.2.", n+1))}}})
	}
	for p := range 40 {
		c.Workloads = append(c.Workloads, Workload{Name: fmt.Sprint("a/p", p), Node: c.Nodes[p%3].Name, Addrs: addrs(fmt.Sprint("10.0.0.", p+1), fmt.Sprintf("fd00::%x", p+1))})
	}
	var flows []policy.Flow
	for i := range 500 {
		flows = append(flows, policy.Flow{Src: c.Workloads[i%40].Addrs[i%2], Dst: c.Workloads[(i*7+2)%40].Addrs[i%2], Proto: []uint8{6, 17}[i%2], SrcPort: uint16(20000 + i), DstPort: uint16(1 + i%9)})
	}
	b.Run("Build", func(b *testing.B) {
		for b.Loop() {
			l, err := Build(c)
			if err != nil {
				b.Fatal(err)
			}
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, rules := range map[string]string{"Allowed": "", "Denied": "drop"} {
		b.Run("Send500"+name, func(b *testing.B) {
			l := built(b, c)
			for _, n := range l.Nodes() {
				l.nft(b, n, forward(rules))
			}
			for b.Loop() {
				if _, err := l.Send(b.Context(), flows, 700*time.Millisecond); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
