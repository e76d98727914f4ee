package nft_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// node is a table as a node of some size has it: one set of n addresses, and n/10 chains of ten rules.
func node(n int, addrs int) *ruleset.Table {
	t := small(1)
	a := netip.MustParseAddr("10.0.0.0")
	elems := slices.Clone(t.Sets[0].Elems.Slice())
	for range addrs {
		elems = append(elems, addrElem(a, a))
		a = a.Next()
	}
	t.Sets[0].Elems = ruleset.ElemsOf(elems...)
	for i := range n / 10 {
		c := &ruleset.Chain{Name: fmt.Sprintf("policy%06d", i)}
		for j := range uint16(10) {
			c.Rules = append(c.Rules, ruleset.Rule{ID: ruleset.RuleID(c.Name), Counter: true, Verdict: ruleset.Verdict{Kind: ruleset.Accept},
				Matches: []ruleset.Match{{Key: ruleset.KeyL4Proto, Elem: ruleset.Elem{Num: 6}},
					{Key: ruleset.KeyDPort, Elem: portElem(j, j)}, {Key: ruleset.KeyIPSAddr, Set: "s"}}})
		}
		t.Chains = append(t.Chains, c)
	}
	return t
}

// One address of 10,000 comes and goes beside 1,000 rules: by a Conn that owns its table, by one that must read it first, and
// as a whole.
func BenchmarkApply(b *testing.B) {
	if noNamespaces != nil {
		b.Skipf("left out, for the kernel cannot be used here: %v", noNamespaces)
	}
	tables := []*ruleset.Table{node(1000, 10_000), node(1000, 10_001)}
	for _, bench := range []struct {
		name          string
		reopen, whole bool
	}{{"one-element", false, false}, {"one-element-read-first", true, false}, {"whole", false, true}} {
		b.Run(bench.name, func(b *testing.B) {
			if err := isolated(func() {
				c := open()
				_, err := c.Apply(tables[1])
				must(err)
				b.ResetTimer()
				for i := range b.N {
					switch {
					case bench.reopen:
						must(c.Close())
						c = open()
					case bench.whole:
						must(c.Delete())
					}
					_, err := c.Apply(tables[i%2])
					must(err)
				}
				b.StopTimer()
				must(c.Close())
			}); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// policies is the table of a node with 250 endpoints of 20 policies each: 250 chains that jump to those, 1,000 sets, and n addresses
// in the largest of them.
func policies(n int) *ruleset.Table {
	t := &ruleset.Table{Name: ruleset.DefaultTable}
	for i := range 1000 {
		s := &ruleset.Set{Name: fmt.Sprintf("addr4-%04d", i), Type: ruleset.TypeIPv4}
		size, a := 10, netip.MustParseAddr("10.0.0.0")
		if i == 500 {
			size = n
		}
		var elems []ruleset.Elem
		for range size {
			elems = append(elems, addrElem(a, a))
			a = a.Next()
		}
		s.Elems = ruleset.ElemsOf(elems...)
		t.Sets = append(t.Sets, s)
	}
	forward := &ruleset.Chain{Name: "from-workload", Hook: "forward", Priority: -20, Rules: []ruleset.Rule{{VMap: &ruleset.VMap{Key: ruleset.KeyIIFName, Map: "from-workload"}}}}
	dispatch := &ruleset.Map{Name: "from-workload", Type: ruleset.TypeIface}
	var guards, shared []*ruleset.Chain
	for i := range 250 {
		guard := &ruleset.Chain{Name: fmt.Sprintf("guard-%04d", i)}
		for j := range 20 {
			guard.Rules = append(guard.Rules, ruleset.Rule{Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: fmt.Sprintf("policy-%04d", (i*7+j)%1000)}})
		}
		guards = append(guards, guard)
		dispatch.Entries = append(dispatch.Entries, ruleset.Entry{Key: ruleset.Elem{Iface: fmt.Sprintf("tap%04d", i)},
			Verdict: ruleset.Verdict{Kind: ruleset.Goto, Chain: guard.Name}})
	}
	for i := range 1000 {
		c := &ruleset.Chain{Name: fmt.Sprintf("policy-%04d", i)}
		for j := range uint16(5) {
			c.Rules = append(c.Rules, ruleset.Rule{ID: ruleset.RuleID(c.Name), Counter: true, Verdict: ruleset.Verdict{Kind: ruleset.Accept},
				Matches: []ruleset.Match{{Key: ruleset.KeyL4Proto, Elem: ruleset.Elem{Num: 6}}, {Key: ruleset.KeyDPort, Elem: portElem(j, j)},
					{Key: ruleset.KeyIPSAddr, Set: t.Sets[i].Name}}})
		}
		shared = append(shared, c)
	}
	t.Maps = []*ruleset.Map{dispatch}
	t.Chains = slices.Concat([]*ruleset.Chain{forward}, guards, shared)
	return t
}

// One address comes and goes in the largest set of a node with 250 endpoints: by Change, by one who knows the changes, and by Apply,
// which has to look for them.
func BenchmarkOneElement(b *testing.B) {
	if noNamespaces != nil {
		b.Skipf("left out, for the kernel cannot be used here: %v", noNamespaces)
	}
	with := policies(100_001)
	without := copied(with)
	without.Sets[500].Elems = ruleset.ElemsOf(without.Sets[500].Elems.Slice()[:100_000]...)
	tables := []*ruleset.Table{without, with}
	changes := [][]ruleset.Change{ruleset.Diff(with, without), ruleset.Diff(without, with)}
	for _, known := range []bool{true, false} {
		b.Run(map[bool]string{true: "known", false: "unknown"}[known], func(b *testing.B) {
			if err := isolated(func() {
				c := open()
				defer c.Close()
				_, err := c.Apply(with)
				must(err)
				var took []time.Duration
				b.ResetTimer()
				for i := range b.N {
					var ch []ruleset.Change
					if known {
						ch = changes[i%2]
					}
					begin := time.Now()
					done, err := c.Change(tables[i%2], ch)
					took = append(took, time.Since(begin))
					if must(err); len(done) != 1 {
						panic(fmt.Sprint(done))
					}
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-median")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
			}); err != nil {
				b.Fatal(err)
			}
		})
	}
}
