package nft_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// What is laid ready before a change is what is new, and nothing that is there leads to it.
func TestAhead(t *testing.T) {
	to := func(chain string) []ruleset.Rule {
		return []ruleset.Rule{{Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: chain}}}
	}
	base := func(rules []ruleset.Rule) ruleset.Chain {
		return ruleset.Chain{Name: "in", Hook: "input", Rules: rules}
	}
	have := &ruleset.Table{Name: "t", Sets: []ruleset.Set{{Name: "s"}}, Chains: []ruleset.Chain{base(to("a")), {Name: "a"}}}
	for _, c := range []struct {
		name             string
		have, want, laid *ruleset.Table
	}{
		{"no table", nil, have, nil},
		{"nothing new", have, have, nil},
		{"other rules, other elements", have, &ruleset.Table{Name: "t", Sets: []ruleset.Set{{Name: "s", Elems: []ruleset.Elem{{Num: 1}}}},
			Chains: []ruleset.Chain{base(nil), {Name: "a", Rules: to("b")}}}, nil},
		{"a hash set is filled when the rules that read it come into force", have, &ruleset.Table{Name: "t",
			Sets: []ruleset.Set{{Name: "s"}, {Name: "new"}}, Chains: have.Chains}, nil},
		{"a chain, with the set that it reads, and not the base chain that leads to it", have, &ruleset.Table{Name: "t",
			Sets:   []ruleset.Set{{Name: "new"}},
			Chains: []ruleset.Chain{base(to("b")), {Name: "out", Hook: "output", Rules: to("b")}, {Name: "b", Rules: to("a")}, {Name: "a", Rules: to("b")}}},
			&ruleset.Table{Name: "t", Sets: []ruleset.Set{{Name: "s"}, {Name: "new"}},
				Chains: []ruleset.Chain{base(to("a")), {Name: "a"}, {Name: "b", Rules: to("a")}}}},
		{"an interval set", have, &ruleset.Table{Name: "t", Sets: []ruleset.Set{{Name: "s"}, {Name: "nets", Interval: true}}, Chains: have.Chains},
			&ruleset.Table{Name: "t", Sets: []ruleset.Set{{Name: "s"}, {Name: "nets", Interval: true}}, Chains: have.Chains}},
	} {
		if diff := cmp.Diff(c.laid, nft.Ahead(c.have, c.want), sameAddr); diff != "" {
			t.Errorf("%s: -want +have:\n%s", c.name, diff)
		}
	}
}
