package nft_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// node is a table as a node of some size has it: one set of n addresses, and n/10 chains of ten rules.
func node(n int, addrs int) *ruleset.Table {
	t := small(1)
	a := netip.MustParseAddr("10.0.0.0")
	for range addrs {
		t.Sets[0].Elems = append(t.Sets[0].Elems, addrElem(a, a))
		a = a.Next()
	}
	for i := range n / 10 {
		c := ruleset.Chain{Name: fmt.Sprintf("policy%06d", i)}
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
