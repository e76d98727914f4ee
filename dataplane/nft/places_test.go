package nft_test

import (
	"strings"
	"testing"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// What only some places can do is refused at the others, with the rule and the base chain that leads to it, and taken where the
// kernel takes it.
func TestPlaces(t *testing.T) {
	rejects := ruleset.Rule{ID: "r", Verdict: ruleset.Verdict{Kind: ruleset.Reject}}
	untracked := ruleset.Rule{ID: "r", NoTrack: true}
	for _, test := range []struct {
		hook     string
		priority int
		rule     ruleset.Rule
		want     string // in the error; "" for none
	}{
		{"prerouting", -150, rejects, ""},
		{"input", 0, rejects, ""},
		{"forward", 0, rejects, ""},
		{"output", 0, rejects, ""},
		{"postrouting", 0, rejects, "(r), which base chain base at postrouting 0 leads to: the kernel does not reject"},
		{"prerouting", -300, untracked, ""},
		{"output", -300, untracked, ""},
		{"output", -201, untracked, ""},
		{"output", -200, untracked, "(r), which base chain base at output -200 leads to: notrack is for"},
		{"prerouting", -20, untracked, "notrack is for prerouting and output before priority -200"},
		{"input", -300, untracked, "notrack is for"},
		{"forward", -300, untracked, "notrack is for"},
		{"postrouting", -300, untracked, "notrack is for"},
	} {
		for way, rules := range ways(test.rule) {
			table := &ruleset.Table{Name: ruleset.DefaultTable, Chains: []*ruleset.Chain{
				{Name: "base", Hook: test.hook, Priority: test.priority, Rules: rules}, {Name: "far", Rules: []ruleset.Rule{test.rule}},
				{Name: "near", Rules: []ruleset.Rule{{Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: "far"}}}}},
				Maps: []*ruleset.Map{{Name: "m", Type: ruleset.TypeIface, Entries: []ruleset.Entry{
					{Key: ruleset.Elem{Iface: "eth0"}, Verdict: ruleset.Verdict{Kind: ruleset.Goto, Chain: "near"}}}}}}
			err := nft.Check(table)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%s %d, %s: want %q, got %v", test.hook, test.priority, way, test.want, err)
			}
			if err == nil {
				inNamespace(t, func() {
					c := open()
					defer c.Close()
					_, err := c.Apply(table)
					must(err)
					reads(t, c, table)
				})
			}
		}
	}
}

// ways in which a base chain comes to a rule.
func ways(r ruleset.Rule) map[string][]ruleset.Rule {
	return map[string][]ruleset.Rule{
		"itself":  {{Counter: true}, r},
		"by jump": {{Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: "near"}}},
		"by map":  {{VMap: &ruleset.VMap{Key: ruleset.KeyIIFName, Map: "m"}}},
	}
}

// Chains that lead in a circle are the kernel's to refuse: looking at them ends.
func TestPlacesInACircle(t *testing.T) {
	if err := nft.Check(refused()["a circle of jumps"]); err != nil {
		t.Error(err)
	}
}

// Each of the words that a packet can show does to packets what it says.
func TestWordsDoWhatTheySay(t *testing.T) {
	udp := ruleset.Match{Key: ruleset.KeyL4Proto, Elem: ruleset.Elem{Num: 17}}
	rest := ruleset.Rule{Matches: []ruleset.Match{udp}, Verdict: ruleset.Verdict{Kind: ruleset.Drop}}
	match := func(k ruleset.Key, e ruleset.Elem) ruleset.Match { return ruleset.Match{Key: k, Elem: e} }
	not := func(k ruleset.Key, e ruleset.Elem) ruleset.Match { return ruleset.Match{Key: k, Not: true, Elem: e} }
	marked := func(bits uint32) ruleset.Match {
		return match(ruleset.KeyMark, ruleset.Elem{Num: bits, Mask: 0xff})
	}
	accept := ruleset.Verdict{Kind: ruleset.Accept}
	when := func(m ...ruleset.Match) []ruleset.Rule { return []ruleset.Rule{{Matches: m, Verdict: accept}} }
	translated, bit := ruleset.Elem{Num: ruleset.CTStatusDNAT}, ruleset.Elem{Num: 1, Mask: 1}
	eth, local, untracked := ruleset.Elem{Iface: "eth*"}, ruleset.Elem{Num: ruleset.AddrLocal}, ruleset.Elem{Num: ruleset.CTUntracked}
	set := func(bits uint32) ruleset.Rule { return ruleset.Rule{Mark: &ruleset.SetMark{Set: bits}} }
	cleared := ruleset.Rule{Mark: &ruleset.SetMark{Clear: 5}}
	for _, test := range []struct {
		name    string
		raw     []ruleset.Rule // in prerouting, before connection tracking
		in      []ruleset.Rule // in input, before a drop of all
		arrives []bool         // each of so many packets from a new socket
	}{
		{"an interface that begins so", nil, when(match(ruleset.KeyIIFName, ruleset.Elem{Iface: "l*"})), []bool{true}},
		{"an interface that begins otherwise", nil, when(match(ruleset.KeyIIFName, eth)), []bool{false}},
		{"an interface that does not begin so", nil, when(not(ruleset.KeyIIFName, eth)), []bool{true}},
		{"an interface with its address", nil, when(ruleset.Match{Key: ruleset.KeyIIFNameIPSAddr, Set: "lo"}), []bool{true}},
		{"an interface with another's address", nil, when(ruleset.Match{Key: ruleset.KeyIIFNameIPSAddr, Set: "other"}), []bool{false}},
		{"an address of the host's", nil, when(match(ruleset.KeySAddrType, local)), []bool{true}},
		{"an address that is not the host's", nil, when(not(ruleset.KeySAddrType, local)), []bool{false}},
		{"not translated", nil, when(not(ruleset.KeyCTStatus, translated)), []bool{true}},
		{"translated", nil, when(match(ruleset.KeyCTStatus, translated)), []bool{false}},
		{"no mark of the connection", nil, when(match(ruleset.KeyCTMark, ruleset.Elem{Mask: 1})), []bool{true}},
		{"a mark of the connection", nil, when(match(ruleset.KeyCTMark, bit)), []bool{false}},
		{"tracked", nil, when(match(ruleset.KeyCTState, untracked)), []bool{false}},
		{"untracked", []ruleset.Rule{{NoTrack: true}}, when(match(ruleset.KeyCTState, untracked)), []bool{true}},
		{"bits set", []ruleset.Rule{set(6), set(8)}, when(marked(14)), []bool{true}},
		{"bits cleared", []ruleset.Rule{set(14), cleared}, when(marked(10)), []bool{true}},
		{"a limit", nil, []ruleset.Rule{{Limit: &ruleset.Limit{Rate: 1, Unit: ruleset.Day, Burst: 2}, Verdict: accept}}, []bool{true, true, false}},
	} {
		inNamespace(t, func() {
			loopbackUp()
			c := open()
			defer c.Close()
			lo := addrs("127.0.0.1")[0]
			_, err := c.Apply(&ruleset.Table{Name: ruleset.DefaultTable, Sets: []*ruleset.Set{
				{Name: "lo", Type: ruleset.TypeIfaceIPv4, Elems: ruleset.ElemsOf(ruleset.Elem{Iface: "lo", From: lo, To: lo})},
				{Name: "other", Type: ruleset.TypeIfaceIPv4, Elems: ruleset.ElemsOf(ruleset.Elem{Iface: "eth0", From: lo, To: lo})},
			}, Chains: []*ruleset.Chain{
				{Name: "in", Hook: "input", Rules: append(test.in, rest)},
				{Name: "out", Hook: "output", Priority: -300, Rules: untrackedToo(test.raw)},
				{Name: "raw", Hook: "prerouting", Priority: -300, Rules: test.raw},
			}})
			must(err)
			for i, want := range test.arrives {
				if got := datagramArrives(5000 + i); got != want {
					t.Errorf("%s: packet %d arrives %v", test.name, i+1, got)
				}
			}
		})
	}
}

// untrackedToo is what output must say, as packets over the loopback keep the connection that they have got there.
func untrackedToo(raw []ruleset.Rule) (out []ruleset.Rule) {
	for _, r := range raw {
		if r.NoTrack {
			out = append(out, r)
		}
	}
	return out
}
