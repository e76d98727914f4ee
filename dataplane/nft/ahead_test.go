package nft_test

import (
	"fmt"
	"testing"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// What is laid ready before a change is what is new, and nothing that is there leads to it.
func TestAhead(t *testing.T) {
	to := func(chain string) []ruleset.Rule {
		return []ruleset.Rule{{Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: chain}}}
	}
	base := func(rules []ruleset.Rule) *ruleset.Chain {
		return &ruleset.Chain{Name: "in", Hook: "input", Rules: rules}
	}
	have := &ruleset.Table{Name: "t", Sets: []*ruleset.Set{{Name: "s"}}, Chains: []*ruleset.Chain{{Name: "a"}, base(to("a"))}}
	for _, c := range []struct {
		name string
		want *ruleset.Table
		laid string // the changes that lay ready, and those that take them back
	}{
		{"nothing new", have, "[] []"},
		{"other rules, other elements", &ruleset.Table{Name: "t", Sets: []*ruleset.Set{{Name: "s", Elems: ruleset.ElemsOf(ruleset.Elem{Num: 1})}},
			Chains: []*ruleset.Chain{{Name: "a", Rules: to("b")}, base(nil)}}, "[] []"},
		{"a hash set is filled when the rules that read it come into force", &ruleset.Table{Name: "t",
			Sets: []*ruleset.Set{{Name: "new"}, {Name: "s"}}, Chains: []*ruleset.Chain{{Name: "a"}, base(nil)}}, "[] []"},
		{"a chain, with the set and the map that it reads, and not the base chain that leads to it", &ruleset.Table{Name: "t",
			Sets: []*ruleset.Set{{Name: "new"}}, Maps: []*ruleset.Map{{Name: "m"}},
			Chains: []*ruleset.Chain{{Name: "a", Rules: to("b")}, {Name: "b", Rules: to("a")}, base(to("b")), {Name: "out", Hook: "output", Rules: to("b")}}},
			"[add chain b add set new add map m replace the rules of chain b] [delete map m delete chain b delete set new]"},
		{"an interval set", &ruleset.Table{Name: "t", Sets: []*ruleset.Set{{Name: "nets", Interval: true}, {Name: "s"}}, Chains: []*ruleset.Chain{{Name: "a"}, base(nil)}},
			"[add set nets] [delete set nets]"},
		{"an interval set that nothing reads", &ruleset.Table{Name: "t", Sets: []*ruleset.Set{{Name: "nets", Interval: true}, {Name: "s"}}, Chains: have.Chains}, "[] []"},
	} {
		changes := ruleset.Diff(have, c.want)
		first, then := nft.Ahead(changes)
		if got := fmt.Sprint(first, nft.Undone(first)); got != c.laid || len(first)+len(then) != len(changes) {
			t.Errorf("%s: want %s, got %s, and %d of %d changes", c.name, c.laid, got, len(first)+len(then), len(changes))
		}
	}
}
