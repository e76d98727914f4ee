package nft_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
	"github.com/tierwall/tierwall/test/lab"
	"github.com/tierwall/tierwall/test/scenario"
)

var noNamespaces error

func TestMain(m *testing.M) {
	noNamespaces = lab.Enter()
	os.Exit(m.Run())
}

// inNamespace runs f on a thread with a network namespace of its own, which is gone afterwards.
func inNamespace(t testing.TB, f func()) {
	t.Helper()
	lab.Need(t, noNamespaces)
	if err := isolated(f); err != nil {
		t.Fatal(err)
	}
}

func isolated(f func()) (err error) {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with its namespace
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("%v", p)
			}
			close(done)
		}()
		must(unix.Unshare(unix.CLONE_NEWNET))
		f()
	}()
	return <-done
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func open() *nft.Conn {
	c, err := nft.Open(ruleset.DefaultTable)
	must(err)
	return c
}

// shell runs the nft program, which tests alone use, as a judge.
func shell(input string, args ...string) string {
	cmd := exec.Command("nft", args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		panic(fmt.Sprintf("nft %v: %v: %s", args, err, out))
	}
	return string(out)
}

// listed is what the nft program lists of our table, without what only tells who owns it.
func listed() string {
	out := ownerLines.ReplaceAllString(shell("", "-s", "list", "table", "inet", ruleset.DefaultTable), "")
	return strings.Replace(out, " {}", " {\n}", 1)
}

var ownerLines = regexp.MustCompile(`( # progname \S+|\n\tflags [^\n]*\n)`)

func tableOf(node string, objs []client.Object) *ruleset.Table {
	x := policy.NewIndex(node, policy.Options{})
	for _, o := range objs {
		_ = x.Set(o)
	}
	return ruleset.Compile(x.Plan(), ruleset.Options{})
}

// Every table of the corpus: what netlink makes is listed as what `nft -f` makes of the text, reads back as what was meant,
// and applies a second time without a change.
func TestTextAndNetlinkAreOne(t *testing.T) {
	all, err := scenario.Load("../../test/scenarios")
	if err != nil {
		t.Fatal(err)
	}
	tables := 0
	for _, s := range all {
		for _, node := range []string{"n1", "n2", "bare"} {
			want := tableOf(node, s.Objects)
			tables++
			var text, netlink string
			inNamespace(t, func() {
				shell(want.String(), "-f", "-")
				text = listed()
			})
			inNamespace(t, func() {
				c := open()
				defer c.Close()
				_, err := c.Apply(want)
				must(err)
				netlink = listed()
				reads(t, c, want)
				changes, err := c.Apply(want)
				must(err)
				if len(changes) > 0 {
					t.Errorf("%s, node %s: applied again: %v", s.Name, node, changes)
				}
			})
			if diff := cmp.Diff(text, netlink); diff != "" {
				t.Fatalf("%s, node %s: -text +netlink:\n%s", s.Name, node, diff)
			}
		}
	}
	t.Logf("%d tables", tables)
}

func reads(t interface{ Errorf(string, ...any) }, c *nft.Conn, want *ruleset.Table) {
	have, err := c.Read()
	must(err)
	if diff := cmp.Diff(want.String(), have.String()); diff != "" {
		t.Errorf("-applied +read:\n%s", diff)
	}
	if changes := ruleset.Diff(have, want); len(changes) > 0 {
		t.Errorf("what is read differs: %v", changes)
	}
}

// From any table to any other: the kernel has exactly the wanted one after each step, whether the connection remembers the last
// or has to read it.
func TestApplyFromAnyTableToAnyOther(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var wants []*ruleset.Table
		for range rapid.IntRange(2, 4).Draw(rt, "steps") {
			wants = append(wants, tableOf("n1", scenario.Cluster(rt)))
		}
		reopen := rapid.Bool().Draw(rt, "reopen")
		inNamespace(t, func() {
			c := open()
			for _, want := range wants {
				_, err := c.Apply(want)
				must(err)
				reads(rt, c, want)
				if reopen {
					must(c.Close())
					c = open()
				}
			}
			must(c.Close())
		})
	})
}

// everyRule has each key with each way to compare, every verdict, and every type of set and map.
func everyRule() *ruleset.Table {
	a4, b4 := netip.MustParseAddr("10.0.0.4"), netip.MustParseAddr("10.0.0.9")
	a6, b6 := netip.MustParseAddr("fd00::4"), netip.MustParseAddr("fd00::9")
	max4, max6 := netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
	one := func(a netip.Addr) ruleset.Elem { return ruleset.Elem{From: a, To: a} }
	span := func(a, b netip.Addr) ruleset.Elem { return ruleset.Elem{From: a, To: b} }
	ports := func(a, b uint16) ruleset.Elem { return ruleset.Elem{Port: a, PortTo: b} }
	t := &ruleset.Table{Name: ruleset.DefaultTable, Sets: []*ruleset.Set{
		{Name: "a4", Type: ruleset.TypeIPv4, Elems: ruleset.ElemsOf(one(a4), one(b4))},
		{Name: "a6", Type: ruleset.TypeIPv6, Elems: ruleset.ElemsOf(one(a6))},
		{Name: "i6", Type: ruleset.TypeICMPv6, Elems: ruleset.ElemsOf(ruleset.Elem{Num: 133}, ruleset.Elem{Num: 135})},
		{Name: "ia4", Type: ruleset.TypeIfaceIPv4, Elems: ruleset.ElemsOf(ruleset.Elem{Iface: "eth0", From: a4, To: a4}, ruleset.Elem{Iface: "exactly15bytes!", From: a4, To: a4})},
		{Name: "ia6", Type: ruleset.TypeIfaceIPv6, Elems: ruleset.ElemsOf(ruleset.Elem{Iface: "eth0", From: a6, To: a6})},
		{Name: "ic", Type: ruleset.TypeICMP, Elems: ruleset.ElemsOf(ruleset.Elem{Num: 8})},
		{Name: "if", Type: ruleset.TypeIface, Elems: ruleset.ElemsOf(ruleset.Elem{Iface: "a.b-c_d:e"}, ruleset.Elem{Iface: "eth0"})},
		{Name: "n4", Type: ruleset.TypeIPv4, Interval: true, Elems: ruleset.ElemsOf(one(netip.MustParseAddr("0.0.0.0")), span(a4, b4), span(b4.Next(), netip.MustParseAddr("10.0.0.12")), span(netip.MustParseAddr("240.0.0.0"), max4))},
		{Name: "n6", Type: ruleset.TypeIPv6, Interval: true, Elems: ruleset.ElemsOf(span(a6, b6), one(max6))},
		{Name: "p", Type: ruleset.TypePort, Interval: true, Elems: ruleset.ElemsOf(ports(0, 1), ports(80, 80), ports(1000, 65535))},
		{Name: "pp", Type: ruleset.TypeProtoPort, Elems: ruleset.ElemsOf(ruleset.Elem{Proto: 6, Port: 80, PortTo: 80}, ruleset.Elem{Proto: 132, Port: 65535, PortTo: 65535})},
		{Name: "s4", Type: ruleset.TypeIPv4Port, Elems: ruleset.ElemsOf(ruleset.Elem{From: a4, To: a4, Proto: 6, Port: 80, PortTo: 80}, ruleset.Elem{From: a4, To: a4, Proto: 17, Port: 53, PortTo: 53})},
		{Name: "s6", Type: ruleset.TypeIPv6Port, Elems: ruleset.ElemsOf(ruleset.Elem{From: a6, To: a6, Proto: 132, Port: 7, PortTo: 7})},
	}, Maps: []*ruleset.Map{
		{Name: "m4", Type: ruleset.TypeIPv4, Entries: []ruleset.Entry{{Key: one(a4), Verdict: ruleset.Verdict{Kind: ruleset.Goto, Chain: "x/y"}}, {Key: one(b4), Verdict: ruleset.Verdict{Kind: ruleset.Accept}}}},
		{Name: "m6", Type: ruleset.TypeIPv6, Entries: []ruleset.Entry{{Key: one(a6), Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: "x/y"}}, {Key: one(b6), Verdict: ruleset.Verdict{Kind: ruleset.Drop}}}},
		{Name: "mi", Type: ruleset.TypeIface, Entries: []ruleset.Entry{{Key: ruleset.Elem{Iface: "eth0"}, Verdict: ruleset.Verdict{Kind: ruleset.Return}}}},
		{Name: "mia", Type: ruleset.TypeIfaceIPv4, Entries: []ruleset.Entry{{Key: ruleset.Elem{Iface: "eth0", From: a4, To: a4}, Verdict: ruleset.Verdict{Kind: ruleset.Return}}}},
		{Name: "mia6", Type: ruleset.TypeIfaceIPv6, Entries: []ruleset.Entry{{Key: ruleset.Elem{Iface: "eth0", From: a6, To: a6}, Verdict: ruleset.Verdict{Kind: ruleset.Goto, Chain: "x/y"}}}},
		{Name: "mpp", Type: ruleset.TypeProtoPort, Entries: []ruleset.Entry{{Key: ruleset.Elem{Proto: 17, Port: 53, PortTo: 53}, Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: "x/y"}}}},
	}}
	proto := func(n uint32) ruleset.Match {
		return ruleset.Match{Key: ruleset.KeyL4Proto, Elem: ruleset.Elem{Num: n}}
	}
	var rules []ruleset.Rule
	add := func(m ...ruleset.Match) {
		for _, not := range []bool{false, true} {
			r := ruleset.Rule{ID: ruleset.RuleID(fmt.Sprintf("rule %d", len(rules))), Counter: true, Matches: slices.Clone(m), Verdict: ruleset.Verdict{Kind: ruleset.Accept}}
			r.Matches[len(m)-1].Not = not
			rules = append(rules, r)
		}
	}
	for k := range ruleset.Key(ruleset.AllKeys) {
		value := func(e ruleset.Elem, before ...ruleset.Match) { add(append(before, ruleset.Match{Key: k, Elem: e})...) }
		set := func(name string, before ...ruleset.Match) { add(append(before, ruleset.Match{Key: k, Set: name})...) }
		switch k {
		case ruleset.KeyIIFName, ruleset.KeyOIFName:
			value(ruleset.Elem{Iface: "eth0"})
			value(ruleset.Elem{Iface: "cali*"})
			value(ruleset.Elem{Iface: "e*"})
			set("if")
		case ruleset.KeyIIFNameIPSAddr:
			set("ia4")
		case ruleset.KeyIIFNameIP6SAddr:
			set("ia6")
		case ruleset.KeyProtoDPort:
			set("pp")
		case ruleset.KeyNFProto:
			value(ruleset.Elem{Num: 10})
		case ruleset.KeyL4Proto:
			value(ruleset.Elem{Num: 17})
		case ruleset.KeyIPSAddr, ruleset.KeyIPDAddr:
			value(one(a4))
			value(span(a4, b4))
			value(span(netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("10.255.255.255")))
			value(span(netip.MustParseAddr("10.0.0.4"), netip.MustParseAddr("10.0.0.7")))
			set("a4")
			set("n4")
		case ruleset.KeyIP6SAddr, ruleset.KeyIP6DAddr:
			value(one(a6))
			value(span(a6, b6))
			value(span(netip.MustParseAddr("fd00::"), netip.MustParseAddr("fd00::ffff:ffff:ffff:ffff")))
			set("a6")
			set("n6")
		case ruleset.KeySPort, ruleset.KeyDPort:
			value(ports(80, 80), proto(6))
			value(ports(80, 90), proto(17))
			set("p", proto(132))
		case ruleset.KeyIPSAddrPort, ruleset.KeyIPDAddrPort:
			set("s4")
		case ruleset.KeyIP6SAddrPort, ruleset.KeyIP6DAddrPort:
			set("s6")
		case ruleset.KeyICMPType:
			value(ruleset.Elem{Num: 8}, ruleset.Match{Key: ruleset.KeyNFProto, Elem: ruleset.Elem{Num: 2}}, proto(1))
			set("ic", ruleset.Match{Key: ruleset.KeyNFProto, Elem: ruleset.Elem{Num: 2}}, proto(1))
		case ruleset.KeyICMPCode:
			value(ruleset.Elem{Num: 3}, ruleset.Match{Key: ruleset.KeyNFProto, Elem: ruleset.Elem{Num: 2}}, proto(1))
		case ruleset.KeyICMPv6Type:
			value(ruleset.Elem{Num: 128}, ruleset.Match{Key: ruleset.KeyNFProto, Elem: ruleset.Elem{Num: 10}}, proto(58))
			set("i6", ruleset.Match{Key: ruleset.KeyNFProto, Elem: ruleset.Elem{Num: 10}}, proto(58))
		case ruleset.KeyICMPv6Code:
			value(ruleset.Elem{Num: 3}, ruleset.Match{Key: ruleset.KeyNFProto, Elem: ruleset.Elem{Num: 10}}, proto(58))
		case ruleset.KeyCTState:
			value(ruleset.Elem{Num: ruleset.CTEstablished | ruleset.CTRelated})
		case ruleset.KeyCTStatus:
			value(ruleset.Elem{Num: ruleset.CTStatusDNAT})
		case ruleset.KeySAddrType:
			value(ruleset.Elem{Num: ruleset.AddrLocal})
		case ruleset.KeyMark, ruleset.KeyCTMark:
			value(ruleset.Elem{Num: 0x10, Mask: 0xf0})
		default:
			panic(fmt.Sprintf("no case for key %s", k))
		}
	}
	rules = append(rules,
		ruleset.Rule{Log: &ruleset.LogStmt{Prefix: "a prefix: "}, Counter: true},
		ruleset.Rule{Limit: &ruleset.Limit{Rate: 10, Unit: ruleset.Minute, Burst: 7}, Counter: true},
		ruleset.Rule{Mark: &ruleset.SetMark{Set: 0x10000}},
		ruleset.Rule{Mark: &ruleset.SetMark{Clear: 0x10000}, Verdict: ruleset.Verdict{Kind: ruleset.Accept}},
		ruleset.Rule{ID: "all at once", Matches: []ruleset.Match{proto(17)}, Counter: true, Limit: &ruleset.Limit{Rate: 1, Unit: ruleset.Day, Burst: 1},
			Log: &ruleset.LogStmt{Prefix: "p"}, Mark: &ruleset.SetMark{Set: 3}, VMap: &ruleset.VMap{Key: ruleset.KeyIIFNameIPSAddr, Map: "mia"}},
		ruleset.Rule{VMap: &ruleset.VMap{Key: ruleset.KeyIPSAddr, Map: "m4"}},
		ruleset.Rule{VMap: &ruleset.VMap{Key: ruleset.KeyIP6DAddr, Map: "m6"}},
		ruleset.Rule{VMap: &ruleset.VMap{Key: ruleset.KeyIIFNameIPSAddr, Map: "mia"}},
		ruleset.Rule{VMap: &ruleset.VMap{Key: ruleset.KeyIIFNameIP6SAddr, Map: "mia6"}, Counter: true},
		ruleset.Rule{VMap: &ruleset.VMap{Key: ruleset.KeyProtoDPort, Map: "mpp"}},
		ruleset.Rule{VMap: &ruleset.VMap{Key: ruleset.KeyIIFName, Map: "mi"}, Matches: []ruleset.Match{{Key: ruleset.KeyIIFName, Not: true, Elem: ruleset.Elem{Iface: "lo"}}}},
		ruleset.Rule{ID: ruleset.RuleID(strings.Repeat("x", 127)), Verdict: ruleset.Verdict{Kind: ruleset.Reject}},
	)
	// What is asked before a statement is not the same question as what is asked behind it.
	asked := ruleset.Rule{Matches: []ruleset.Match{{Key: ruleset.KeyNFProto, Elem: ruleset.Elem{Num: 2}}}, VMap: &ruleset.VMap{Key: ruleset.KeyIPSAddr, Map: "m4"}}
	counts, limits, logs, marks, untracked := asked, asked, asked, asked, asked
	counts.Counter, limits.Limit, logs.Log = true, &ruleset.Limit{Rate: 1, Unit: ruleset.Second, Burst: 1}, &ruleset.LogStmt{Prefix: "p"}
	marks.Mark, untracked.NoTrack = &ruleset.SetMark{Set: 1}, true
	rules = append(rules, counts, limits, logs, marks)
	for _, k := range []ruleset.VerdictKind{ruleset.Accept, ruleset.Drop, ruleset.Return, ruleset.Jump, ruleset.Goto} {
		v := ruleset.Verdict{Kind: k}
		if k == ruleset.Jump || k == ruleset.Goto {
			v.Chain = "x/y"
		}
		rules = append(rules, ruleset.Rule{Matches: []ruleset.Match{proto(6)}, Verdict: v})
	}
	t.Chains = []*ruleset.Chain{{Name: "every", Rules: rules}, {Name: "x/y"}}
	for _, h := range []string{"prerouting", "output"} {
		t.Chains = append(t.Chains, &ruleset.Chain{Name: "raw-" + h, Hook: h, Priority: -300, Rules: []ruleset.Rule{
			{NoTrack: true}, untracked,
			{Matches: []ruleset.Match{proto(6)}, Counter: true, Mark: &ruleset.SetMark{Set: 1}, NoTrack: true, Verdict: ruleset.Verdict{Kind: ruleset.Accept}}}})
	}
	for i, h := range []string{"prerouting", "input", "forward", "output", "postrouting"} {
		to := "every"
		if h == "postrouting" { // where the kernel has no reject
			to = "x/y"
		}
		t.Chains = append(t.Chains, &ruleset.Chain{Name: h, Hook: h, Priority: i - 20, Rules: []ruleset.Rule{{Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: to}}}})
	}
	slices.SortFunc(t.Chains, func(a, b *ruleset.Chain) int { return strings.Compare(a.Name, b.Name) })
	return t
}

func TestEveryKeyTypeAndVerdict(t *testing.T) {
	want := everyRule()
	var text, netlink string
	inNamespace(t, func() {
		shell(want.String(), "-f", "-")
		text = listed()
	})
	inNamespace(t, func() {
		c := open()
		defer c.Close()
		_, err := c.Apply(want)
		must(err)
		netlink = listed()
		reads(t, c, want)
	})
	if diff := cmp.Diff(text, netlink); diff != "" {
		t.Fatalf("-text +netlink:\n%s", diff)
	}
}

func small(port uint16, extra ...ruleset.Elem) *ruleset.Table {
	return &ruleset.Table{Name: ruleset.DefaultTable,
		Sets: []*ruleset.Set{{Name: "s", Type: ruleset.TypeIPv4, Elems: ruleset.ElemsOf(extra...)}},
		Chains: []*ruleset.Chain{{Name: "out", Hook: "output", Priority: -20, Rules: []ruleset.Rule{{ID: "the port", Counter: true,
			Matches: []ruleset.Match{{Key: ruleset.KeyL4Proto, Elem: ruleset.Elem{Num: 17}}, {Key: ruleset.KeyDPort, Elem: ruleset.Elem{Port: port, PortTo: port}}},
			Verdict: ruleset.Verdict{Kind: ruleset.Drop}}}}}}
}

// The kernel does to packets what the table says, and counts them: rules of one ID together.
func TestPacketsAreDroppedAndAccepted(t *testing.T) {
	inNamespace(t, func() {
		loopbackUp()
		c := open()
		defer c.Close()
		port := func(id ruleset.RuleID, n uint16, k ruleset.VerdictKind) ruleset.Rule {
			return ruleset.Rule{ID: id, Counter: true, Verdict: ruleset.Verdict{Kind: k}, Matches: []ruleset.Match{
				{Key: ruleset.KeyL4Proto, Elem: ruleset.Elem{Num: 17}}, {Key: ruleset.KeyDPort, Elem: ruleset.Elem{Port: n, PortTo: n}}}}
		}
		want := small(5001)
		want.Chains[0].Rules = append(want.Chains[0].Rules, port("accepted", 5002, ruleset.Accept), port("accepted", 5003, ruleset.Accept),
			port("never asked", 5002, ruleset.Drop), ruleset.Rule{Verdict: ruleset.Verdict{Kind: ruleset.Drop}})
		_, err := c.Apply(want)
		must(err)
		for port, want := range map[int]bool{5001: false, 5002: true, 5003: true, 5004: false} {
			if got := datagramArrives(port); got != want {
				t.Errorf("port %d: arrives %v", port, got)
			}
		}
		counts, err := c.Counters()
		must(err)
		want1 := map[ruleset.RuleID]nft.Count{"the port": {Packets: 1, Bytes: 29}, "accepted": {Packets: 2, Bytes: 58}, "never asked": {}}
		if diff := cmp.Diff(want1, counts); diff != "" {
			t.Error(diff)
		}
	})
}

func datagramArrives(port int) bool {
	at := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
	server, err := net.ListenUDP("udp4", at)
	must(err)
	defer server.Close()
	sender, err := net.DialUDP("udp4", nil, at)
	must(err)
	defer sender.Close()
	if _, err := sender.Write([]byte("x")); err != nil && !errors.Is(err, unix.EPERM) {
		panic(err)
	}
	must(server.SetReadDeadline(time.Now().Add(200 * time.Millisecond)))
	_, err = server.Read(make([]byte, 1))
	return err == nil
}

// While a connection lives nobody else can touch its table; when it has gone the table stays, and the next takes it over.
func TestOwnedAndAdopted(t *testing.T) {
	inNamespace(t, func() {
		first := open()
		_, err := first.Apply(small(1))
		must(err)
		shell("", "flush", "ruleset")
		reads(t, first, small(1))
		second := open()
		reads(t, second, small(1))
		if err := second.Delete(); !errors.Is(err, nft.ErrOwned) {
			t.Errorf("deleted by one who does not own it: %v", err)
		}
		if _, err := second.Apply(small(2)); !errors.Is(err, nft.ErrOwned) {
			t.Errorf("a second owner: %v", err)
		}
		must(first.Close())
		reads(t, second, small(1))
		_, err = second.Apply(small(2))
		must(err)
		reads(t, second, small(2))
		shell("", "flush", "ruleset")
		reads(t, second, small(2))
		must(second.Delete())
		if have, err := second.Read(); have != nil || err != nil {
			t.Errorf("deleted, and there is %v, %v", have, err)
		}
		must(second.Close())
	})
}

// A table without owner, as another program or an older version left it, becomes exactly ours; other tables stay.
func TestForeignTableIsReplaced(t *testing.T) {
	inNamespace(t, func() {
		shell(`table inet tierwall {
			map s {
				type ipv4_addr : ipv4_addr
			}
			set timed {
				type ipv4_addr
				timeout 5s
			}
			chain out {
				type nat hook output priority 5;
			}
			chain more {
				tcp flags syn meta mark set 7 limit rate 5/second
			}
		}
		table ip other {
			chain c {
				counter
			}
		}
`, "-f", "-")
		c := open()
		defer c.Close()
		_, err := c.Apply(small(1, ruleset.Elem{From: netip.MustParseAddr("10.0.0.1"), To: netip.MustParseAddr("10.0.0.1")}))
		must(err)
		reads(t, c, small(1, ruleset.Elem{From: netip.MustParseAddr("10.0.0.1"), To: netip.MustParseAddr("10.0.0.1")}))
		if !strings.Contains(shell("", "list", "ruleset"), "table ip other") {
			t.Error("another's table has gone")
		}
	})
}

// refused are tables that only the kernel knows to be wrong.
func refused() map[string]*ruleset.Table {
	circle, toBase := small(2), small(2)
	circle.Sets = append(circle.Sets, &ruleset.Set{Name: "t", Type: ruleset.TypePort, Elems: ruleset.ElemsOf(ruleset.Elem{Port: 1, PortTo: 1})})
	circle.Chains = append(circle.Chains,
		&ruleset.Chain{Name: "x", Rules: []ruleset.Rule{{Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: "y"}}}},
		&ruleset.Chain{Name: "y", Rules: []ruleset.Rule{{Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: "x"}}}})
	circle.Chains[0].Rules = append(circle.Chains[0].Rules, ruleset.Rule{Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: "x"}})
	toBase.Chains = append(toBase.Chains, &ruleset.Chain{Name: "x", Rules: []ruleset.Rule{{Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: "out"}}}})
	return map[string]*ruleset.Table{"a circle of jumps": circle, "a jump to a base chain": toBase}
}

// After a transaction that the kernel refuses it has what it had, be that nothing; and the Conn works on, and owns its table.
func TestRefusedTransactionChangesNothing(t *testing.T) {
	for name, bad := range refused() {
		for _, had := range []*ruleset.Table{nil, small(1)} {
			inNamespace(t, func() {
				c := open()
				defer c.Close()
				if had != nil {
					_, err := c.Apply(had)
					must(err)
				}
				if _, err := c.Apply(bad); err == nil {
					t.Errorf("%s was accepted", name)
				}
				switch have, err := c.Read(); {
				case err != nil:
					t.Error(err)
				case had == nil && have != nil:
					t.Errorf("%s left %s", name, have)
				case had != nil:
					reads(t, c, had)
				}
				_, err := c.Apply(small(3))
				must(err)
				shell("", "flush", "ruleset")
				reads(t, c, small(3))
			})
		}
	}
}

// A hundred thousand elements all arrive in each kind of set, and one more costs one change.
func TestLargeSets(t *testing.T) {
	lab.Need(t, noNamespaces)
	n := 100_000
	if !mayEnlargeBuffers() {
		n = 2_000
		t.Logf("%d elements instead of 100000: a transaction must fit into a socket's buffer, which only real root may enlarge", n)
	}
	a, port := netip.MustParseAddr("10.0.0.0"), ruleset.Elem{Proto: 6, Port: 80, PortTo: 80}
	var hash, ranges, concat []ruleset.Elem
	for range n + 1 {
		hash = append(hash, addrElem(a, a))
		ranges = append(ranges, addrElem(a, a.Next()))
		port.From, port.To = a, a
		concat = append(concat, port)
		a = a.Next().Next().Next()
	}
	entries := func(elems []ruleset.Elem) (out []ruleset.Entry) {
		for _, e := range elems {
			out = append(out, ruleset.Entry{Key: e, Verdict: ruleset.Verdict{Kind: ruleset.Goto, Chain: "x"}})
		}
		return out
	}
	with := func(n int) *ruleset.Table {
		return &ruleset.Table{Name: ruleset.DefaultTable, Chains: []*ruleset.Chain{{Name: "x"}},
			Sets: []*ruleset.Set{{Name: "concat", Type: ruleset.TypeIPv4Port, Elems: ruleset.ElemsOf(concat[:n]...)}, {Name: "hash", Type: ruleset.TypeIPv4, Elems: ruleset.ElemsOf(hash[:n]...)},
				{Name: "ranges", Type: ruleset.TypeIPv4, Interval: true, Elems: ruleset.ElemsOf(ranges[:n]...)}},
			Maps: []*ruleset.Map{{Name: "map", Type: ruleset.TypeIPv4, Entries: entries(hash[:n])}}}
	}
	inNamespace(t, func() {
		c := open()
		defer c.Close()
		_, err := c.Apply(with(n))
		must(err)
		have, err := c.Read()
		must(err)
		if changes := ruleset.Diff(have, with(n)); len(changes) > 0 {
			t.Errorf("what arrived differs: %v", changes)
		}
		changes, err := c.Apply(with(n + 1))
		must(err)
		want := "[add 1 elements to set concat add 1 elements to set hash add 1 elements to set ranges add 1 entries to map map]"
		if got := fmt.Sprint(changes); got != want {
			t.Errorf("changes: %v", got)
		}
	})
}

func mayEnlargeBuffers() bool {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	must(err)
	defer unix.Close(s)
	return unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20) == nil
}

// A set may outgrow the size that it was made with, little by little or at once.
func TestSetsOutgrowTheirSize(t *testing.T) {
	of := func(from, n int) *ruleset.Table {
		t := &ruleset.Table{Name: ruleset.DefaultTable, Sets: []*ruleset.Set{{Name: "s", Type: ruleset.TypeIPv4}}, Maps: []*ruleset.Map{{Name: "m", Type: ruleset.TypeIPv4}}}
		var elems []ruleset.Elem
		for i := range n {
			a := netip.AddrFrom4([4]byte{10, byte((from + i) >> 16), byte((from + i) >> 8), byte(from + i)})
			elems = append(elems, addrElem(a, a))
			t.Maps[0].Entries = append(t.Maps[0].Entries, ruleset.Entry{Key: addrElem(a, a), Verdict: ruleset.Verdict{Kind: ruleset.Accept}})
		}
		t.Sets[0].Elems = ruleset.ElemsOf(elems...)
		return t
	}
	inNamespace(t, func() {
		c := open()
		defer c.Close()
		for _, step := range [][2]int{{0, 1000}, {0, 3000}, {0, 6000}, {100_000, 6000}, {0, 50_000}, {0, 1}, {7, 80_000}} {
			_, err := c.Apply(of(step[0], step[1]))
			must(err)
			reads(t, c, of(step[0], step[1]))
		}
	})
}

// Another program that commits all the time cannot keep a table from being applied, nor spoil it, whether it is owned or not.
func TestOthersCommitMeanwhile(t *testing.T) {
	for _, owned := range []bool{true, false} {
		inNamespace(t, func() {
			// The socket belongs to this namespace, whatever thread uses it.
			other, err := nftables.New(nftables.AsLasting())
			must(err)
			stop, stopped := make(chan struct{}), make(chan error)
			go func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						stopped <- other.CloseLasting()
						return
					default:
					}
					other.AddTable(&nftables.Table{Name: fmt.Sprintf("other%d", i%100), Family: nftables.TableFamilyIPv4})
					if err := other.Flush(); err != nil {
						stopped <- err
						return
					}
					runtime.Gosched()
				}
			}()
			c := open()
			defer c.Close()
			if !owned {
				c.Unowned()
			}
			done := 0
			for i := range 50 {
				if _, err := c.Apply(small(uint16(1 + i))); err == nil {
					done++
				} else if owned && done > 0 || !errors.Is(err, unix.ERESTART) {
					t.Errorf("owned %v: %v", owned, err)
				}
			}
			close(stop)
			must(<-stopped)
			t.Logf("owned %v: %d of 50 applied", owned, done)
			_, err = c.Apply(small(99))
			must(err)
			reads(t, c, small(99))
		})
	}
}

func loopbackUp() {
	lo, err := netlink.LinkByName("lo")
	must(err)
	must(netlink.LinkSetUp(lo))
}
