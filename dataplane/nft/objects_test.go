package nft_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// The changes to a table are judged as the whole is: what is accepted is right, what is right is accepted unless an object changes
// into another kind, and what is known afterwards is what the whole would teach.
func TestChangesAreJudgedAsTheWholeIs(t *testing.T) {
	g := &tables{drawn: map[string]int{}}
	accepted, refused := map[string]int{}, map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		have, another := g.table(rt), g.table(rt)
		for _, s := range spoils {
			want := copied(have)
			if rapid.IntRange(0, 3).Draw(rt, "another") == 0 {
				want = copied(another)
			}
			s.spoil(rt, want)
			wrong := nft.Check(want)
			got, same := nft.Judged(have, want)
			if should := wrong == nil && !nft.Clash(have, want); got != should || !same {
				rt.Fatalf("%s: accepted %v, as the whole %v (%v); what is known is the same: %v\nfrom %s\nto %s", s.name, got, should, wrong, same, have, want)
			}
			counts := map[bool]map[string]int{true: accepted, false: refused}[got]
			counts[s.name]++
		}
	})
	for _, s := range spoils {
		if s.refuse && refused[s.name] == 0 || !s.refuse && accepted[s.name] == 0 {
			t.Errorf("%s: accepted %d times, refused %d times", s.name, accepted[s.name], refused[s.name])
		}
	}
}

// spoils are what is done to a table that was right. Each may do nothing, where there is nothing to do it to.
var spoils = []struct {
	name   string
	refuse bool // the result may be wrong
	spoil  func(*rapid.T, *ruleset.Table)
}{
	{"nothing", false, func(*rapid.T, *ruleset.Table) {}},
	{"a set goes", true, func(rt *rapid.T, t *ruleset.Table) { t.Sets = without(rt, t.Sets) }},
	{"a map goes", true, func(rt *rapid.T, t *ruleset.Table) { t.Maps = without(rt, t.Maps) }},
	{"a chain goes", true, func(rt *rapid.T, t *ruleset.Table) { t.Chains = without(rt, t.Chains) }},
	{"a set twice", true, func(rt *rapid.T, t *ruleset.Table) { t.Sets = twice(rt, t.Sets) }},
	{"a map twice", true, func(rt *rapid.T, t *ruleset.Table) { t.Maps = twice(rt, t.Maps) }},
	{"a chain twice", true, func(rt *rapid.T, t *ruleset.Table) { t.Chains = twice(rt, t.Chains) }},
	{"a set is another", true, func(rt *rapid.T, t *ruleset.Table) {
		one(rt, t.Sets, func(s *ruleset.Set) { s.Type, s.Elems = draw(rt, "type", allTypes()...), ruleset.Elems{} })
	}},
	{"a rule goes", false, func(rt *rapid.T, t *ruleset.Table) {
		one(rt, t.Chains, func(c *ruleset.Chain) { c.Rules = without(rt, c.Rules) })
	}},
	{"an element goes", false, func(rt *rapid.T, t *ruleset.Table) {
		one(rt, t.Sets, func(s *ruleset.Set) { s.Elems = ruleset.ElemsOf(without(rt, s.Elems.Slice())...) })
	}},
	{"an element twice", true, func(rt *rapid.T, t *ruleset.Table) {
		one(rt, t.Sets, func(s *ruleset.Set) { s.Elems = ruleset.ElemsOf(twice(rt, s.Elems.Slice())...) })
	}},
	{"elements in disorder", true, func(rt *rapid.T, t *ruleset.Table) {
		one(rt, t.Sets, func(s *ruleset.Set) { swapped(rt, s.Elems.Slice()) })
	}},
	{"other elements", true, func(rt *rapid.T, t *ruleset.Table) {
		one(rt, t.Sets, func(s *ruleset.Set) { s.Elems = ruleset.ElemsOf(elems(rt, s.Type, rapid.Bool().Draw(rt, "ranges"))...) })
	}},
	{"overlapping elements", true, func(rt *rapid.T, t *ruleset.Table) {
		one(rt, t.Sets, func(s *ruleset.Set) {
			all := append(s.Elems.Slice(), elems(rt, s.Type, s.Interval)...)
			slices.SortFunc(all, ruleset.Elem.Compare)
			s.Elems = ruleset.ElemsOf(all...)
		})
	}},
	{"an entry goes", false, func(rt *rapid.T, t *ruleset.Table) {
		one(rt, t.Maps, func(m *ruleset.Map) { m.Entries = without(rt, m.Entries) })
	}},
	{"an entry twice", true, func(rt *rapid.T, t *ruleset.Table) {
		one(rt, t.Maps, func(m *ruleset.Map) { m.Entries = twice(rt, m.Entries) })
	}},
	{"entries in disorder", true, func(rt *rapid.T, t *ruleset.Table) {
		one(rt, t.Maps, func(m *ruleset.Map) { swapped(rt, m.Entries) })
	}},
	{"an entry leads elsewhere", true, func(rt *rapid.T, t *ruleset.Table) {
		one(rt, t.Maps, func(m *ruleset.Map) {
			one(rt, each(m.Entries), func(e *ruleset.Entry) { e.Verdict = ruleset.Verdict{Kind: ruleset.Goto, Chain: anyChain(rt, t)} })
		})
	}},
	{"an entry rejects", true, func(rt *rapid.T, t *ruleset.Table) {
		one(rt, t.Maps, func(m *ruleset.Map) {
			one(rt, each(m.Entries), func(e *ruleset.Entry) { e.Verdict = ruleset.Verdict{Kind: ruleset.Reject} })
		})
	}},
	{"a new jump", true, added(func(rt *rapid.T, t *ruleset.Table) ruleset.Rule {
		return ruleset.Rule{Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: anyChain(rt, t)}}
	})},
	{"a new reject", true, added(func(*rapid.T, *ruleset.Table) ruleset.Rule {
		return ruleset.Rule{Verdict: ruleset.Verdict{Kind: ruleset.Reject}}
	})},
	{"a new notrack", true, added(func(*rapid.T, *ruleset.Table) ruleset.Rule { return ruleset.Rule{NoTrack: true} })},
	{"a new lookup", true, added(func(rt *rapid.T, _ *ruleset.Table) ruleset.Rule {
		return ruleset.Rule{VMap: &ruleset.VMap{Key: ruleset.KeyIPSAddr, Map: draw(rt, "map", "o0", "o1", "o2", "o3")}}
	})},
	{"a new question", true, added(func(rt *rapid.T, _ *ruleset.Table) ruleset.Rule {
		return ruleset.Rule{Matches: []ruleset.Match{{Key: ruleset.KeyIPDAddr, Set: draw(rt, "set", "o0", "o1", "o2", "o3")}}}
	})},
	{"another hook", true, func(rt *rapid.T, t *ruleset.Table) {
		one(rt, t.Chains, func(c *ruleset.Chain) {
			c.Hook, c.Priority = draw(rt, "hook", "postrouting", "prerouting", "nowhere"), draw(rt, "priority", -400, 0)
		})
	}},
	{"a long name", true, func(rt *rapid.T, t *ruleset.Table) {
		one(rt, t.Chains, func(c *ruleset.Chain) { c.Name = strings.Repeat("x", draw(rt, "length", 127, 128)) })
		slices.SortFunc(t.Chains, func(a, b *ruleset.Chain) int { return strings.Compare(a.Name, b.Name) })
	}},
}

func added(rule func(*rapid.T, *ruleset.Table) ruleset.Rule) func(*rapid.T, *ruleset.Table) {
	return func(rt *rapid.T, t *ruleset.Table) {
		one(rt, t.Chains, func(c *ruleset.Chain) { c.Rules = append(c.Rules, rule(rt, t)) })
	}
}

func anyChain(rt *rapid.T, t *ruleset.Table) string {
	names := []string{"c0", "c1", "c2", "c3", "z-leaf1"}
	for _, c := range t.Chains {
		names = append(names, c.Name)
	}
	return draw(rt, "chain", names...)
}

// one of them, if there is any, is given to f.
func one[T any](rt *rapid.T, all []*T, f func(*T)) {
	if len(all) > 0 {
		f(all[rapid.IntRange(0, len(all)-1).Draw(rt, "which")])
	}
}

// each gives where each of a list is.
func each[T any](all []T) (out []*T) {
	for i := range all {
		out = append(out, &all[i])
	}
	return out
}

func without[T any](rt *rapid.T, all []T) []T {
	if len(all) == 0 {
		return all
	}
	i := rapid.IntRange(0, len(all)-1).Draw(rt, "which")
	return slices.Delete(slices.Clone(all), i, i+1)
}

func twice[T any](rt *rapid.T, all []T) []T {
	if len(all) == 0 {
		return all
	}
	again := all[rapid.IntRange(0, len(all)-1).Draw(rt, "which")]
	return slices.Insert(slices.Clone(all), rapid.IntRange(0, len(all)).Draw(rt, "where"), again)
}

func swapped[T any](rt *rapid.T, all []T) {
	if len(all) > 0 {
		i, j := rapid.IntRange(0, len(all)-1).Draw(rt, "one"), rapid.IntRange(0, len(all)-1).Draw(rt, "other")
		all[i], all[j] = all[j], all[i]
	}
}

func copied(t *ruleset.Table) *ruleset.Table {
	out := &ruleset.Table{Name: t.Name, Sets: slices.Clone(t.Sets), Maps: slices.Clone(t.Maps), Chains: slices.Clone(t.Chains)}
	for i, s := range out.Sets {
		out.Sets[i] = &ruleset.Set{Name: s.Name, Type: s.Type, Interval: s.Interval, Elems: ruleset.ElemsOf(slices.Clone(s.Elems.Slice())...)}
	}
	for i, m := range out.Maps {
		out.Maps[i] = &ruleset.Map{Name: m.Name, Type: m.Type, Entries: slices.Clone(m.Entries)}
	}
	for i, c := range out.Chains {
		out.Chains[i] = &ruleset.Chain{Name: c.Name, Hook: c.Hook, Priority: c.Priority, Rules: slices.Clone(c.Rules)}
	}
	return out
}
