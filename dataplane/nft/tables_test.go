package nft_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
	"github.com/tierwall/tierwall/test/lab"
)

// tables draws tables of anything that a Table can hold, with few names and few values so that things collide, and counts what it
// has drawn.
type tables struct {
	drawn     map[string]int
	plausible bool // only what nft accepts: no rule that contradicts itself or asks twice
}

func (g *tables) count(what string, v any) { g.drawn[fmt.Sprintf("%s %v", what, v)]++ }

// The corners of each type's values, sorted.
var (
	pool4 = addrs("0.0.0.0", "0.0.0.1", "10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.255", "10.0.1.0", "127.255.255.255", "128.0.0.0",
		"255.255.255.254", "255.255.255.255")
	pool6 = addrs("::", "::1", "::ffff:10.0.0.1", "fd00::", "fd00::1", "fd00::ffff", "fd00::1:0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe",
		"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
	poolPort  = []uint16{0, 1, 2, 80, 81, 82, 443, 1000, 65534, 65535}
	poolProto = []uint8{1, 6, 17, 58, 132, 255}
	poolIface = []string{"a", "eth0", "eth1", "exactly15bytes!", "lo"}
	poolStar  = []string{"c*", "cali*", "calico.*", "exactly15bytes*"}
	poolICMP  = []uint32{0, 3, 8, 128, 255}
)

func addrs(texts ...string) (out []netip.Addr) {
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// some draws a sorted part of a sorted pool.
func some[T any](rt *rapid.T, pool []T) (out []T) {
	for _, v := range pool {
		if rapid.Bool().Draw(rt, "in") {
			out = append(out, v)
		}
	}
	return out
}

func draw[T any](rt *rapid.T, what string, from ...T) T {
	return rapid.SampledFrom(from).Draw(rt, what)
}

// spans makes single values of some points and ranges of other, neighbouring ones.
func spans[T any](rt *rapid.T, points []T, elem func(from, to T) ruleset.Elem, ranges bool) (out []ruleset.Elem) {
	for i := 0; i < len(points); i++ {
		from, to := points[i], points[i]
		if ranges && i+1 < len(points) && rapid.Bool().Draw(rt, "range") {
			i++
			to = points[i]
		}
		out = append(out, elem(from, to))
	}
	return out
}

func addrElem(from, to netip.Addr) ruleset.Elem { return ruleset.Elem{From: from, To: to} }
func portElem(from, to uint16) ruleset.Elem     { return ruleset.Elem{Port: from, PortTo: to} }

// elems draws the elements of a set.
func elems(rt *rapid.T, t ruleset.Type, interval bool) (out []ruleset.Elem) {
	switch t {
	case ruleset.TypeIPv4:
		return spans(rt, some(rt, pool4), addrElem, interval)
	case ruleset.TypeIPv6:
		return spans(rt, some(rt, pool6), addrElem, interval)
	case ruleset.TypePort:
		return spans(rt, some(rt, poolPort), portElem, interval)
	case ruleset.TypeIface:
		for _, n := range some(rt, poolIface) {
			out = append(out, ruleset.Elem{Iface: n})
		}
	case ruleset.TypeICMP, ruleset.TypeICMPv6:
		for _, n := range some(rt, poolICMP) {
			out = append(out, ruleset.Elem{Num: n})
		}
	case ruleset.TypeIPv4Port, ruleset.TypeIPv6Port:
		pool := map[ruleset.Type][]netip.Addr{ruleset.TypeIPv4Port: pool4, ruleset.TypeIPv6Port: pool6}[t]
		for _, a := range some(rt, pool) {
			p := draw(rt, "port", poolPort...)
			out = append(out, ruleset.Elem{From: a, To: a, Proto: draw(rt, "proto", poolProto...), Port: p, PortTo: p})
		}
	case ruleset.TypeProtoPort:
		for _, proto := range some(rt, poolProto) {
			for _, e := range spans(rt, some(rt, poolPort), portElem, false) {
				e.Proto = proto
				out = append(out, e)
			}
		}
	case ruleset.TypeIfaceIPv4, ruleset.TypeIfaceIPv6:
		pool := map[ruleset.Type][]netip.Addr{ruleset.TypeIfaceIPv4: pool4, ruleset.TypeIfaceIPv6: pool6}[t]
		for _, a := range some(rt, pool) {
			for _, n := range some(rt, poolIface) {
				out = append(out, ruleset.Elem{From: a, To: a, Iface: n})
			}
		}
	}
	return out
}

func hasIntervals(t ruleset.Type) bool {
	return t == ruleset.TypeIPv4 || t == ruleset.TypeIPv6 || t == ruleset.TypePort
}

// table draws one. Chains jump only to later ones, and maps only to leaves, so that nothing leads in a circle.
func (g *tables) table(rt *rapid.T) *ruleset.Table {
	t := &ruleset.Table{Name: ruleset.DefaultTable}
	leaves := some(rt, []string{"z-leaf1", "z-leaf2"})
	for _, name := range some(rt, []string{"o0", "o1", "o2", "o3", "o4", "o5", "o6", "o7"}) {
		typ := draw(rt, "type", allTypes()...)
		if rapid.Bool().Draw(rt, "map") {
			g.count("map of", typ)
			t.Maps = append(t.Maps, &ruleset.Map{Name: name, Type: typ, Entries: g.entries(rt, typ, leaves)})
			continue
		}
		s := &ruleset.Set{Name: name, Type: typ, Interval: hasIntervals(typ) && rapid.Bool().Draw(rt, "interval")}
		g.count("set of", fmt.Sprint(typ, s.Interval))
		s.Elems = ruleset.ElemsOf(elems(rt, typ, s.Interval)...)
		t.Sets = append(t.Sets, s)
	}
	names := some(rt, []string{"c0", "c1", "c2", "c3"})
	plain := slices.Clone(leaves)
	for i := len(names) - 1; i >= 0; i-- {
		c := &ruleset.Chain{Name: names[i]}
		if rapid.Bool().Draw(rt, "base") {
			c.Hook = draw(rt, "hook", "prerouting", "input", "forward", "output", "postrouting")
			c.Priority = draw(rt, "priority", -400, -20, 0, 7)
			g.count("hook", c.Hook)
		}
		for range rapid.IntRange(0, 4).Draw(rt, "rules") {
			c.Rules = append(c.Rules, g.rule(rt, t, plain, c))
		}
		if c.Hook == "" {
			plain = append(plain, c.Name)
		}
		t.Chains = slices.Insert(t.Chains, 0, c)
	}
	for _, l := range leaves {
		t.Chains = append(t.Chains, &ruleset.Chain{Name: l, Rules: []ruleset.Rule{{ID: "leaf", Counter: true}}})
	}
	return t
}

func allTypes() (out []ruleset.Type) {
	for t := range ruleset.Type(ruleset.AllTypes) {
		out = append(out, t)
	}
	return out
}

func (g *tables) entries(rt *rapid.T, typ ruleset.Type, leaves []string) (out []ruleset.Entry) {
	for _, e := range elems(rt, typ, false) {
		v := ruleset.Verdict{Kind: draw(rt, "verdict", ruleset.Accept, ruleset.Drop, ruleset.Return)}
		if len(leaves) > 0 && rapid.Bool().Draw(rt, "leads") {
			v = ruleset.Verdict{Kind: draw(rt, "verdict", ruleset.Jump, ruleset.Goto), Chain: draw(rt, "leaf", leaves...)}
		}
		g.count("entry", v.Kind)
		out = append(out, ruleset.Entry{Key: e, Verdict: v})
	}
	return out
}

func (g *tables) rule(rt *rapid.T, t *ruleset.Table, chains []string, in *ruleset.Chain) ruleset.Rule {
	r := ruleset.Rule{Counter: rapid.Bool().Draw(rt, "counter")}
	r.ID = ruleset.RuleID(draw(rt, "id", "", "gnp/a ingress 1", "ünïcode", strings.Repeat("x", 128)))
	for range rapid.IntRange(0, 3).Draw(rt, "matches") {
		r.Matches = append(r.Matches, g.match(rt, t)...)
	}
	if g.plausible {
		r.Matches = onceOnly(r.Matches)
	}
	g.statements(rt, &r)
	// A plain chain may be reached from everywhere.
	if r.NoTrack = in.Priority == -400 && (in.Hook == "prerouting" || in.Hook == "output") && rapid.Bool().Draw(rt, "notrack"); r.NoTrack {
		g.count("notrack in", in.Hook)
	}
	if i := rapid.IntRange(-1, len(t.Maps)-1).Draw(rt, "vmap"); i >= 0 {
		return g.lookup(rt, r, t.Maps[i])
	}
	r.Verdict.Kind = draw(rt, "verdict", ruleset.Continue, ruleset.Accept, ruleset.Drop, ruleset.Return, ruleset.Reject, ruleset.Jump, ruleset.Goto)
	switch r.Verdict.Kind {
	case ruleset.Jump, ruleset.Goto:
		if len(chains) == 0 {
			r.Verdict.Kind = ruleset.Drop
			break
		}
		r.Verdict.Chain = draw(rt, "chain", chains...)
	case ruleset.Reject:
		if in.Hook == "" || in.Hook == "postrouting" {
			r.Verdict.Kind = ruleset.Accept
			break
		}
		g.count("reject in", in.Hook)
	}
	g.count("verdict", r.Verdict.Kind)
	if reflect.DeepEqual(r, ruleset.Rule{ID: r.ID}) { // nft has no rule of nothing
		r.Counter = true
	}
	return r
}

// statements of a rule; but for the counter, each is rare.
func (g *tables) statements(rt *rapid.T, r *ruleset.Rule) {
	rare := func(what string) bool { return rapid.IntRange(0, 3).Draw(rt, what) == 0 }
	if rare("limit") {
		r.Limit = &ruleset.Limit{Rate: draw[uint64](rt, "rate", 1, 100, 1e9), Burst: draw[uint32](rt, "burst", 1, 5, 1<<16),
			Unit: draw(rt, "unit", ruleset.Second, ruleset.Minute, ruleset.Hour, ruleset.Day)}
		g.count("limit per", r.Limit.Unit)
	}
	if rare("log") {
		r.Log = &ruleset.LogStmt{Prefix: draw(rt, "prefix", "a: ", strings.Repeat("y", 127))}
		g.count("log", len(r.Log.Prefix))
	}
	if rare("mark") {
		bits, set := draw[uint32](rt, "bits", 1, 0x10000, 0xff00ff, 1<<31), rapid.Bool().Draw(rt, "set")
		r.Mark = map[bool]*ruleset.SetMark{true: {Set: bits}, false: {Clear: bits}}[set]
		g.count("mark set", set)
	}
}

// lookup makes the rule end in a map.
func (g *tables) lookup(rt *rapid.T, r ruleset.Rule, m *ruleset.Map) ruleset.Rule {
	key := draw(rt, "key", keysOf[m.Type]...)
	g.count("vmap by", key)
	if protocol(key).Elem.Num != 0 {
		r.Matches = append(r.Matches, protocol(key))
	}
	if g.plausible && contradicts(append(slices.Clone(r.Matches), ruleset.Match{Key: key})) {
		return ruleset.Rule{ID: r.ID, Counter: true}
	}
	if g.plausible {
		r.Matches = onceOnly(r.Matches)
	}
	r.VMap = &ruleset.VMap{Key: key, Map: m.Name}
	return r
}

// onceOnly leaves out what is asked a second time, which nft may drop, and all of a rule that contradicts itself; and it asks for
// fields in their order in the packet, which is what nft does with those that stand side by side.
func onceOnly(matches []ruleset.Match) (out []ruleset.Match) {
	if contradicts(matches) {
		return nil
	}
	for _, m := range matches {
		// nft 1.0.6 joins "th sport != 1 th dport != 2" into one comparison of both, which is another question.
		joined := m.Not && m.Set == "" && slices.ContainsFunc(out, func(o ruleset.Match) bool { return o.Not && o.Set == "" })
		if !slices.Contains(out, m) && !joined {
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b ruleset.Match) int { return int(a.Key) - int(b.Key) })
	return out
}

// contradicts tells whether a rule asks for more than one family, or protocol, or for ports of what has none (at which nft itself
// may break down).
func contradicts(matches []ruleset.Match) bool {
	families, protocols := map[uint32]bool{}, map[uint32]bool{}
	ports, portless := false, false
	for _, m := range matches {
		switch words := strings.Fields(m.Key.String()); {
		case slices.Contains(words, "ip"):
			families[2] = true
		case slices.Contains(words, "ip6"):
			families[10] = true
		case m.Key == ruleset.KeyNFProto && m.Not:
			families[2+10-m.Elem.Num] = true
		case m.Key == ruleset.KeyNFProto:
			families[m.Elem.Num] = true
		case m.Key == ruleset.KeyL4Proto:
			protocols[m.Elem.Num] = true
		}
		ports = ports || strings.HasSuffix(m.Key.String(), "port")
		portless = portless || protocol(m.Key).Elem.Num != 0 || m.Key == ruleset.KeyL4Proto && !slices.Contains([]uint32{6, 17, 132}, m.Elem.Num)
	}
	return len(families) > 1 || len(protocols) > 1 || ports && portless
}

// keysOf a type: the fields that a set or map of it can be asked for.
var keysOf = map[ruleset.Type][]ruleset.Key{
	ruleset.TypeIPv4: {ruleset.KeyIPSAddr, ruleset.KeyIPDAddr}, ruleset.TypeIPv6: {ruleset.KeyIP6SAddr, ruleset.KeyIP6DAddr},
	ruleset.TypePort: {ruleset.KeySPort, ruleset.KeyDPort}, ruleset.TypeProtoPort: {ruleset.KeyProtoDPort},
	ruleset.TypeIPv4Port: {ruleset.KeyIPSAddrPort, ruleset.KeyIPDAddrPort}, ruleset.TypeIPv6Port: {ruleset.KeyIP6SAddrPort, ruleset.KeyIP6DAddrPort},
	ruleset.TypeIfaceIPv4: {ruleset.KeyIIFNameIPSAddr}, ruleset.TypeIfaceIPv6: {ruleset.KeyIIFNameIP6SAddr},
	ruleset.TypeIface: {ruleset.KeyIIFName, ruleset.KeyOIFName}, ruleset.TypeICMP: {ruleset.KeyICMPType}, ruleset.TypeICMPv6: {ruleset.KeyICMPv6Type},
}

func protocol(k ruleset.Key) ruleset.Match {
	n := map[ruleset.Key]uint32{ruleset.KeyICMPType: 1, ruleset.KeyICMPCode: 1, ruleset.KeyICMPv6Type: 58, ruleset.KeyICMPv6Code: 58}[k]
	return ruleset.Match{Key: ruleset.KeyL4Proto, Elem: ruleset.Elem{Num: n}}
}

// match draws a comparison with a set of the table or with a value, after the protocol where the field is of one.
func (g *tables) match(rt *rapid.T, t *ruleset.Table) (out []ruleset.Match) {
	m := ruleset.Match{Not: rapid.Bool().Draw(rt, "not")}
	if len(t.Sets) > 0 && rapid.Bool().Draw(rt, "set") {
		s := t.Sets[rapid.IntRange(0, len(t.Sets)-1).Draw(rt, "which")]
		m.Set, m.Key = s.Name, draw(rt, "key", keysOf[s.Type]...)
	} else {
		m.Key, m.Elem = value(rt)
	}
	g.count("match", fmt.Sprint(m.Key, m.Not, m.Set != ""))
	if strings.HasSuffix(m.Elem.Iface, "*") {
		g.count("star", fmt.Sprint(m.Key, m.Not))
	}
	if protocol(m.Key).Elem.Num != 0 {
		out = append(out, protocol(m.Key))
	}
	return append(out, m)
}

// value draws a field that can be compared with a value, and the value.
func value(rt *rapid.T) (ruleset.Key, ruleset.Elem) {
	k := ruleset.Key(rapid.IntRange(0, ruleset.AllKeys-1).Draw(rt, "key"))
	one := func(e []ruleset.Elem) ruleset.Elem { return draw(rt, "value", e...) }
	switch k {
	case ruleset.KeyIIFName, ruleset.KeyOIFName:
		return k, ruleset.Elem{Iface: draw(rt, "name", slices.Concat(poolIface, poolStar)...)}
	case ruleset.KeyNFProto:
		return k, ruleset.Elem{Num: draw[uint32](rt, "family", 2, 10)}
	case ruleset.KeyL4Proto:
		return k, ruleset.Elem{Num: uint32(draw(rt, "proto", poolProto...))}
	case ruleset.KeyIPSAddr, ruleset.KeyIPDAddr:
		return k, one(spans(rt, pool4, addrElem, true))
	case ruleset.KeyIP6SAddr, ruleset.KeyIP6DAddr:
		return k, one(spans(rt, pool6, addrElem, true))
	case ruleset.KeySPort, ruleset.KeyDPort:
		return k, one(spans(rt, poolPort, portElem, true))
	case ruleset.KeyICMPType, ruleset.KeyICMPCode, ruleset.KeyICMPv6Type, ruleset.KeyICMPv6Code:
		return k, ruleset.Elem{Num: draw(rt, "icmp", poolICMP...)}
	case ruleset.KeyCTState:
		return k, ruleset.Elem{Num: draw[uint32](rt, "state", ruleset.CTInvalid, ruleset.CTNew|ruleset.CTUntracked, ruleset.CTEstablished|ruleset.CTRelated)}
	case ruleset.KeyCTStatus:
		return k, ruleset.Elem{Num: draw[uint32](rt, "status", ruleset.CTStatusDNAT, 1, 0x10|ruleset.CTStatusDNAT)}
	case ruleset.KeySAddrType:
		return k, ruleset.Elem{Num: draw[uint32](rt, "type", 0, 1, ruleset.AddrLocal, 11)}
	case ruleset.KeyCTMark:
	default: // a concatenation has no values
		k = ruleset.KeyMark
	}
	mask := draw[uint32](rt, "mask", 1, 0xff00, 0xffffffff)
	return k, ruleset.Elem{Mask: mask, Num: mask & rapid.Uint32().Draw(rt, "mark")}
}

// everything that the generator must have drawn: each key with and without not, with a set where there are sets of it and with a
// value where it has values, each type as a set, an interval set and a map, each verdict of rules and of maps, each hook.
func everything() (out []string) {
	for typ := range ruleset.Type(ruleset.AllTypes) {
		out = append(out, fmt.Sprintf("map of %v", typ), fmt.Sprintf("set of %v", fmt.Sprint(typ, false)))
		if hasIntervals(typ) {
			out = append(out, fmt.Sprintf("set of %v", fmt.Sprint(typ, true)))
		}
		for _, k := range keysOf[typ] {
			out = append(out, fmt.Sprintf("vmap by %v", k), "match "+fmt.Sprint(k, true, true), "match "+fmt.Sprint(k, false, true))
		}
	}
	for k := range ruleset.Key(ruleset.AllKeys) {
		if !strings.Contains(k.String(), " . ") {
			out = append(out, "match "+fmt.Sprint(k, true, false), "match "+fmt.Sprint(k, false, false))
		}
	}
	for v := ruleset.Continue; v <= ruleset.Goto; v++ {
		out = append(out, fmt.Sprintf("verdict %v", v))
		if v != ruleset.Continue && v != ruleset.Reject {
			out = append(out, fmt.Sprintf("entry %v", v))
		}
	}
	for _, h := range []string{"prerouting", "input", "forward", "output", "postrouting"} {
		out = append(out, "hook "+h)
	}
	for _, h := range []string{"prerouting", "input", "forward", "output"} {
		out = append(out, "reject in "+h)
	}
	for _, k := range []ruleset.Key{ruleset.KeyIIFName, ruleset.KeyOIFName} {
		out = append(out, "star "+fmt.Sprint(k, true), "star "+fmt.Sprint(k, false))
	}
	return append(out, "log 3", "log 127", "limit per 1", "limit per 60", "limit per 3600", "limit per 86400", "mark set true", "mark set false",
		"notrack in prerouting", "notrack in output")
}

// Any table to any other, with whatever may have happened in between: the kernel then has exactly what was wanted, and a second
// Apply has nothing to do.
func TestApplyFromAnythingToAnything(t *testing.T) {
	lab.Need(t, noNamespaces)
	g := &tables{drawn: map[string]int{}}
	rapid.Check(t, func(rt *rapid.T) {
		owned := rapid.Bool().Draw(rt, "owned")
		type step struct {
			want   *ruleset.Table
			reopen bool
			others string // what another program does before
		}
		var steps []step
		for range rapid.IntRange(1, 4).Draw(rt, "steps") {
			s := step{want: g.table(rt), reopen: rapid.Bool().Draw(rt, "reopen")}
			if s.reopen || !owned {
				s.others = draw(rt, "others", others...)
			}
			steps = append(steps, s)
		}
		if err := isolated(func() {
			reopen := func() *nft.Conn {
				c := open()
				if !owned {
					c.Unowned()
				}
				return c
			}
			c := reopen()
			for _, s := range steps {
				if s.reopen {
					must(c.Close())
				}
				_ = attempt(s.others) // the kernel may not let them
				if s.reopen {
					c = reopen()
				}
				if _, err := c.Apply(s.want); err != nil {
					panic(fmt.Sprintf("%v\n%s", err, s.want))
				}
				reads(rt, c, nft.Explicit(s.want))
				again, err := c.Apply(s.want)
				must(err)
				if len(again) > 0 {
					rt.Errorf("applied again: %v", again)
				}
			}
			must(c.Close())
		}); err != nil {
			rt.Fatal(err)
		}
	})
	// What is rare may not have been drawn so often as to be among so few tables: it is looked for, and applied.
	more := rapid.Custom(g.table)
	for i := 0; len(g.missing()) > 0 && i < 5000 && !t.Failed(); i++ {
		before := len(g.missing())
		if table := more.Example(i); len(g.missing()) < before {
			g.applies(t, table)
		}
	}
	if missing := g.missing(); len(missing) > 0 {
		t.Errorf("never drawn: %s", strings.Join(missing, ", "))
	}
}

// missing is what no table has had yet.
func (g *tables) missing() (out []string) {
	for _, what := range everything() {
		if g.drawn[what] == 0 {
			out = append(out, what)
		}
	}
	return out
}

// applies makes a table in the kernel, where it is then already.
func (g *tables) applies(t *testing.T, want *ruleset.Table) {
	if err := isolated(func() {
		c := open()
		_, err := c.Apply(want)
		must(err)
		again, err := c.Apply(want)
		must(err)
		if len(again) > 0 {
			t.Errorf("applied again: %v", again)
		}
		must(c.Close())
	}); err != nil {
		t.Fatal(err)
	}
}

// others are what another program may do while the table has no living owner.
var others = []string{
	"", "flush ruleset", "flush table inet tierwall", "delete table inet tierwall",
	"add table inet tierwall { flags dormant; }",
	"add table ip other; add chain ip other c; add rule ip other c counter",
	"add chain inet tierwall foreign { type filter hook output priority 3; policy drop; }",
	"add chain inet tierwall nat { type nat hook output priority 3; }",
	"add chain inet tierwall c0; add rule inet tierwall c0 tcp flags syn accept",
	"add chain inet tierwall c3; add rule inet tierwall c3 accept",
	"add chain inet tierwall c3; add rule inet tierwall c3 ip saddr { 1.2.3.4, 5.6.7.8 } accept",
	"add set inet tierwall o2x { type ipv4_addr; timeout 3s; }",
	"add map inet tierwall o2x { type ipv4_addr : mark; }",
	"add counter inet tierwall stray",
}

// attempt is what another program does, and whether the kernel let it.
func attempt(input string) bool {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(input)
	return cmd.Run() == nil
}

// Whatever others have done to the table while it had no owner is undone, and their own tables stay.
func TestOthersAreUndone(t *testing.T) {
	for _, others := range others {
		for _, owned := range []bool{true, false} {
			inNamespace(t, func() {
				c := open()
				if !owned {
					c.Unowned()
				}
				_, err := c.Apply(everyRule())
				must(err)
				must(c.Close())
				done := attempt(others)
				asleep := owned && strings.Contains(others, "dormant") // what persists cannot be put to sleep
				if done == asleep {
					t.Errorf("owned %v: %s: the kernel let them: %v", owned, others, done)
				}
				foreign := strings.Contains(shell("", "list", "ruleset"), "table ip other")
				c = open()
				if !owned {
					c.Unowned()
				}
				_, err = c.Apply(everyRule())
				must(err)
				reads(t, c, everyRule())
				all := shell("", "list", "ruleset")
				if strings.Contains(all, "dormant") || strings.Contains(all, "stray") || strings.Contains(all, "table ip other") != foreign {
					t.Errorf("owned %v: after %s and Apply there is\n%s", owned, others, all)
				}
				must(c.Close())
			})
		}
	}
}

// What nft makes of the text of any table is listed as what we make of the table.
func TestAnyTextAndNetlinkAreOne(t *testing.T) {
	lab.Need(t, noNamespaces)
	g := &tables{drawn: map[string]int{}, plausible: true}
	rapid.Check(t, func(rt *rapid.T) {
		want := g.table(rt)
		var text, netlink string
		err := isolated(func() {
			shell(want.String(), "-f", "-")
			text = listed()
		})
		err = errors.Join(err, isolated(func() {
			c := open()
			defer c.Close()
			_, err := c.Apply(want)
			must(err)
			netlink = listed()
		}))
		if diff := cmp.Diff(text, netlink); diff != "" || err != nil {
			rt.Errorf("%v\n-text +netlink:\n%s\nof %s", err, diff, want)
		}
	})
}
