package nft_test

import (
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// Each way to spoil a table is refused by an error that names the object.
func TestCheck(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	six := netip.MustParseAddr("fd00::1")
	to := func(k ruleset.VerdictKind, chain string) ruleset.Verdict {
		return ruleset.Verdict{Kind: k, Chain: chain}
	}
	set := func(typ ruleset.Type, interval bool, e ...ruleset.Elem) func(*ruleset.Table) {
		return func(t *ruleset.Table) {
			t.Sets = []*ruleset.Set{{Name: "s", Type: typ, Interval: interval, Elems: ruleset.ElemsOf(e...)}}
		}
	}
	vmap := func(typ ruleset.Type, e ...ruleset.Entry) func(*ruleset.Table) {
		return func(t *ruleset.Table) { t.Maps = []*ruleset.Map{{Name: "m", Type: typ, Entries: e}} }
	}
	rule := func(r ruleset.Rule) func(*ruleset.Table) {
		return func(t *ruleset.Table) { t.Chains[0].Rules = []ruleset.Rule{r} }
	}
	match := func(k ruleset.Key, e ruleset.Elem) func(*ruleset.Table) {
		return rule(ruleset.Rule{ID: "r", Matches: []ruleset.Match{{Key: k, Elem: e}}})
	}
	limit := func(rate uint64, u ruleset.Unit, burst uint32) ruleset.Rule {
		return ruleset.Rule{Limit: &ruleset.Limit{Rate: rate, Unit: u, Burst: burst}}
	}
	for _, test := range []struct {
		name  string
		spoil func(*ruleset.Table)
		want  string // in the error; "" for none
	}{
		{"nothing", func(*ruleset.Table) {}, ""},
		{"two sets of a name", func(t *ruleset.Table) { t.Sets = append(t.Sets, t.Sets[0]) }, "set s: there are two"},
		{"a map named as a set", func(t *ruleset.Table) { t.Maps = append(t.Maps, &ruleset.Map{Name: "s"}) }, "map s: there are two"},
		{"two chains of a name", func(t *ruleset.Table) { t.Chains = append(t.Chains, t.Chains[0]) }, "chain out: there are two"},
		{"no name", func(t *ruleset.Table) { t.Chains[0].Name = "" }, `chain ""`},
		{"a name of 128", func(t *ruleset.Table) { t.Chains[0].Name = strings.Repeat("x", 128) }, "1 to 127 bytes"},
		{"an unknown type", set(99, false), "set s: there is no type 99"},
		{"an unknown type of a map", vmap(99), "map m: there is no type 99"},
		{"intervals of names", set(ruleset.TypeIface, true), "set s: type ifname has no intervals"},
		{"intervals of concatenations", set(ruleset.TypeIPv4Port, true), "has no intervals"},
		{"a range in a hash", set(ruleset.TypeIPv4, false, addrElem(a, b)), "set s: {From:10.0.0.1 To:10.0.0.2"},
		{"a range backwards", set(ruleset.TypeIPv4, true, addrElem(b, a)), "set s: {From:10.0.0.2"},
		{"the other family", set(ruleset.TypeIPv4, false, addrElem(six, six)), "set s: {From:fd00::1"},
		{"a range over both", set(ruleset.TypeIPv6, true, addrElem(a, six)), "set s: {From:10.0.0.1"},
		{"no address", set(ruleset.TypeIPv4, false, ruleset.Elem{}), "set s: {From:invalid IP"},
		{"a zone", set(ruleset.TypeIPv6, false, addrElem(six.WithZone("eth0"), six.WithZone("eth0"))), "set s: {From:fd00::1%eth0"},
		{"an address with a port", set(ruleset.TypeIPv4, false, ruleset.Elem{From: a, To: a, Port: 1, PortTo: 1}), "set s: "},
		{"unsorted", set(ruleset.TypeIPv4, false, addrElem(b, b), addrElem(a, a)), "set s: elements"},
		{"twice", set(ruleset.TypePort, false, portElem(1, 1), portElem(1, 1)), "set s: elements"},
		{"overlapping", set(ruleset.TypePort, true, portElem(1, 5), portElem(5, 6)), "set s: elements"},
		{"touching", set(ruleset.TypePort, true, portElem(1, 5), portElem(6, 6)), ""},
		{"a long interface", set(ruleset.TypeIface, false, ruleset.Elem{Iface: "exactly16bytes!!"}), "set s: "},
		{"no interface", set(ruleset.TypeIface, false, ruleset.Elem{}), "set s: "},
		{"ICMP type 256", set(ruleset.TypeICMP, false, ruleset.Elem{Num: 256}), "set s: "},
		{"a range of ports of an address", set(ruleset.TypeIPv4Port, false, ruleset.Elem{From: a, To: a, Proto: 6, Port: 1, PortTo: 2}), "set s: "},
		{"reject in a map", vmap(ruleset.TypeIPv4, ruleset.Entry{Key: addrElem(a, a), Verdict: to(ruleset.Reject, "")}), `map m: a map has no verdict "reject"`},
		{"nothing in a map", vmap(ruleset.TypeIPv4, ruleset.Entry{Key: addrElem(a, a)}), "map m: a map has no verdict"},
		{"a map to nowhere", vmap(ruleset.TypeIPv4, ruleset.Entry{Key: addrElem(a, a), Verdict: to(ruleset.Goto, "no")}), "map m: goto no: there is no such chain"},
		{"a key twice", vmap(ruleset.TypeIPv4, ruleset.Entry{Key: addrElem(a, a), Verdict: to(ruleset.Drop, "")}, ruleset.Entry{Key: addrElem(a, a), Verdict: to(ruleset.Accept, "")}), "map m: keys"},
		{"an unknown hook", func(t *ruleset.Table) { t.Chains[0].Hook = "ingress" }, `chain out: there is no hook "ingress"`},
		{"a priority and no hook", func(t *ruleset.Table) { t.Chains[0].Hook = "" }, "chain out: it cannot have priority -20"},
		{"a huge priority", func(t *ruleset.Table) { t.Chains[0].Priority = math.MaxInt32 + 1 }, "chain out: it cannot have priority"},
		{"a jump to nowhere", rule(ruleset.Rule{ID: "r", Verdict: to(ruleset.Jump, "no")}), "chain out: rule 1 (r): jump no: there is no such chain"},
		{"a jump without a chain", rule(ruleset.Rule{ID: "r", Verdict: to(ruleset.Jump, "")}), "rule 1 (r)"},
		{"accept somewhere", rule(ruleset.Rule{ID: "r", Verdict: to(ruleset.Accept, "out")}), "accept out leads nowhere"},
		{"an unknown verdict", rule(ruleset.Rule{ID: "r", Verdict: to(77, "")}), "there is no verdict 77"},
		{"a comment of 129", rule(ruleset.Rule{ID: ruleset.RuleID(strings.Repeat("x", 129))}), "at most 128 bytes"},
		{"a prefix of 128", rule(ruleset.Rule{ID: "r", Log: &ruleset.LogStmt{Prefix: strings.Repeat("x", 128)}}), "1 to 127 bytes"},
		{"an unknown set", rule(ruleset.Rule{Matches: []ruleset.Match{{Key: ruleset.KeyIPSAddr, Set: "no"}}}), "ip saddr @no: there is no such set"},
		{"a set of another type", rule(ruleset.Rule{Matches: []ruleset.Match{{Key: ruleset.KeyIP6SAddr, Set: "s"}}}), "ip6 saddr @s: there is no such set of that type"},
		{"a set and a value", rule(ruleset.Rule{Matches: []ruleset.Match{{Key: ruleset.KeyIPSAddr, Set: "s", Elem: addrElem(a, a)}}}), "both a set and a value"},
		{"an unknown map", rule(ruleset.Rule{VMap: &ruleset.VMap{Key: ruleset.KeyIPSAddr, Map: "s"}}), "there is no such map"},
		{"a map and a verdict", func(t *ruleset.Table) {
			vmap(ruleset.TypeIPv4)(t)
			rule(ruleset.Rule{VMap: &ruleset.VMap{Key: ruleset.KeyIPSAddr, Map: "m"}, Verdict: to(ruleset.Drop, "")})(t)
		}, "both a map and drop"},
		{"a map of ICMP types alone", func(t *ruleset.Table) {
			vmap(ruleset.TypeICMP)(t)
			rule(ruleset.Rule{VMap: &ruleset.VMap{Key: ruleset.KeyICMPType, Map: "m"}})(t)
		}, "does not ask for protocol 1"},
		{"a star in a set", set(ruleset.TypeIface, false, ruleset.Elem{Iface: "cali*"}), `set s: "cali*": a set has whole interface names`},
		{"a star with an address", set(ruleset.TypeIfaceIPv4, false, ruleset.Elem{Iface: "e*", From: a, To: a}), "set s: "},
		{"an interface with an address", set(ruleset.TypeIfaceIPv4, false, ruleset.Elem{Iface: "eth0", From: a, To: a}), ""},
		{"an interface without its address", set(ruleset.TypeIfaceIPv4, false, ruleset.Elem{Iface: "eth0"}), "set s: "},
		{"an interface with a range", set(ruleset.TypeIfaceIPv4, false, ruleset.Elem{Iface: "eth0", From: a, To: b}), "set s: "},
		{"an interface with an address and a port", set(ruleset.TypeIfaceIPv4, false, ruleset.Elem{Iface: "eth0", From: a, To: a, Port: 1}), "set s: "},
		{"an interface with the other family", set(ruleset.TypeIfaceIPv6, false, ruleset.Elem{Iface: "eth0", From: a, To: a}), "set s: "},
		{"a protocol's port", set(ruleset.TypeProtoPort, false, ruleset.Elem{Proto: 6, Port: 80, PortTo: 80}), ""},
		{"a protocol's ports", set(ruleset.TypeProtoPort, false, ruleset.Elem{Proto: 6, Port: 80, PortTo: 81}), "set s: "},
		{"a protocol's port with an address", set(ruleset.TypeProtoPort, false, ruleset.Elem{Proto: 6, From: a, To: a, Port: 80, PortTo: 80}), "set s: "},
		{"a protocol's ports as intervals", set(ruleset.TypeProtoPort, true, ruleset.Elem{Proto: 6, Port: 80, PortTo: 81}), "has no intervals"},
		{"an address without its interface", set(ruleset.TypeIfaceIPv4, false, ruleset.Elem{From: a, To: a}), "set s: "},
		{"a star alone", match(ruleset.KeyIIFName, ruleset.Elem{Iface: "*"}), "iifname: "},
		{"a star amid", match(ruleset.KeyOIFName, ruleset.Elem{Iface: "c*i"}), "oifname: "},
		{"two stars", match(ruleset.KeyOIFName, ruleset.Elem{Iface: "c**"}), "oifname: "},
		{"a star at the end", match(ruleset.KeyIIFName, ruleset.Elem{Iface: "exactly15bytes*"}), ""},
		{"a long star", match(ruleset.KeyIIFName, ruleset.Elem{Iface: "exactly15bytes!*"}), "iifname: "},
		{"an interface's address as a value", match(ruleset.KeyIIFNameIPSAddr, ruleset.Elem{Iface: "eth0", From: a, To: a}), "compares with sets only"},
		{"no status", match(ruleset.KeyCTStatus, ruleset.Elem{}), "no bit of ct status"},
		{"type 12 of addresses", match(ruleset.KeySAddrType, ruleset.Elem{Num: 12}), "no type 12"},
		{"a ct mark outside its mask", match(ruleset.KeyCTMark, ruleset.Elem{Num: 3, Mask: 1}), "no mark under mask 0x1 is 0x3"},
		{"a ct mark", match(ruleset.KeyCTMark, ruleset.Elem{Num: 1, Mask: 3}), ""},
		{"a mark both set and cleared", rule(ruleset.Rule{Mark: &ruleset.SetMark{Set: 1, Clear: 2}}), "setting bits or by clearing"},
		{"a mark as it was", rule(ruleset.Rule{Mark: &ruleset.SetMark{}}), "setting bits or by clearing"},
		{"a limit of none", rule(limit(0, ruleset.Second, 1)), "a limit of 0 packets"},
		{"a limit without burst", rule(limit(1, ruleset.Second, 0)), "a burst of 0"},
		{"a limit a week", rule(limit(1, 604800, 1)), "a limit for each 604800 seconds: the units are [1 60 3600 86400]"},
		{"a limit without unit", rule(limit(1, 0, 1)), "a limit for each 0 seconds"},
		{"a limit finer than the clock", rule(limit(1e9+1, ruleset.Second, 1)), "out of bounds"},
		{"the largest rate", rule(limit(1e9, ruleset.Second, math.MaxUint32)), ""},
		{"a burst of a thousand years", rule(limit(1, ruleset.Day, math.MaxUint32)), "out of bounds"},
		{"an unknown key", match(99, ruleset.Elem{}), "key 99"},
		{"an unknown key of a set", rule(ruleset.Rule{Matches: []ruleset.Match{{Key: 99, Set: "s"}}}), "key 99 @s"},
		{"a concatenation of values", match(ruleset.KeyIPSAddrPort, ruleset.Elem{}), "compares with sets only"},
		{"protocol 256", match(ruleset.KeyL4Proto, ruleset.Elem{Num: 256}), "meta l4proto: "},
		{"no state", match(ruleset.KeyCTState, ruleset.Elem{}), "no bit of ct state"},
		{"a mark outside its mask", match(ruleset.KeyMark, ruleset.Elem{Num: 3, Mask: 1}), "no mark under mask 0x1 is 0x3"},
		{"a mark", match(ruleset.KeyMark, ruleset.Elem{Num: 1, Mask: 3}), ""},
		{"a range of addresses", match(ruleset.KeyIPSAddr, addrElem(a, b)), ""},
		{"ports backwards", match(ruleset.KeyDPort, portElem(2, 1)), "th dport: "},
		{"a long name", match(ruleset.KeyIIFName, ruleset.Elem{Iface: "exactly16bytes!!"}), "iifname: "},
	} {
		table := small(1)
		test.spoil(table)
		err := nft.Check(table)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: want %q, got %v", test.name, test.want, err)
		}
	}
}

// What an ICMP field implies is asked for, or a rule would look for its type in TCP's first byte.
func TestImpliedProtocol(t *testing.T) {
	icmp := func(m ...ruleset.Match) *ruleset.Table {
		out := small(1)
		out.Chains[0].Rules = []ruleset.Rule{{Matches: append(m, ruleset.Match{Key: ruleset.KeyICMPv6Type, Elem: ruleset.Elem{Num: 128}}), Verdict: ruleset.Verdict{Kind: ruleset.Drop}}}
		return out
	}
	inNamespace(t, func() {
		c := open()
		defer c.Close()
		_, err := c.Apply(icmp())
		must(err)
		reads(t, c, icmp(ruleset.Match{Key: ruleset.KeyL4Proto, Elem: ruleset.Elem{Num: 58}}))
		for _, again := range []*ruleset.Table{icmp(), icmp(ruleset.Match{Key: ruleset.KeyL4Proto, Elem: ruleset.Elem{Num: 58}})} {
			changes, err := c.Apply(again)
			must(err)
			if len(changes) > 0 {
				t.Errorf("applied again: %v", changes)
			}
		}
	})
}
