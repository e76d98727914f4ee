package ruleset

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Change is one step from one Table to another. Exactly one of the pointers is set; for Elems and Entries together with the
// set or map that they are of. A chain is always written whole.
type Change struct {
	Op    Op
	Set   *Set
	Map   *Map
	Chain *Chain
	// Within says that only members of the set or map change, or only the rules of the chain: Set.Elems, Map.Entries and
	// Chain.Rules are the members to add or delete, or the new rules.
	Within bool
}

// Op of a Change.
type Op uint8

// The operations. Replace is for the rules of a chain.
const (
	Add Op = iota
	Delete
	Replace
)

var opWords = [...]string{Add: "add", Delete: "delete", Replace: "replace"}

func (o Op) String() string { return opWords[o] }

// String is one line, for people: "add 3 elements to set addr4-…".
func (c Change) String() string {
	to := map[Op]string{Add: "to", Delete: "from"}[c.Op]
	switch {
	case c.Set != nil && c.Within:
		return fmt.Sprintf("%s %d elements %s set %s", c.Op, len(c.Set.Elems), to, c.Set.Name)
	case c.Set != nil:
		return fmt.Sprintf("%s set %s", c.Op, c.Set.Name)
	case c.Map != nil && c.Within:
		return fmt.Sprintf("%s %d entries %s map %s", c.Op, len(c.Map.Entries), to, c.Map.Name)
	case c.Map != nil:
		return fmt.Sprintf("%s map %s", c.Op, c.Map.Name)
	case c.Within:
		return fmt.Sprintf("%s the rules of chain %s", c.Op, c.Chain.Name)
	}
	return fmt.Sprintf("%s chain %s", c.Op, c.Chain.Name)
}

// Diff gives the changes that make want of have, in an order in which one transaction can make them: what is named exists
// before it is named, and what is deleted is named no more. have may be nil.
//
//	new chains without rules · new sets · new maps · members to delete · members to add · rules ·
//	old maps · old chains · old sets
func Diff(have, want *Table) []Change {
	if have == nil {
		have = &Table{Name: want.Name}
	}
	d := differ{}
	d.chains(index(have.Chains, chainKey), index(want.Chains, chainKey), want)
	d.sets(index(have.Sets, setKey), index(want.Sets, setKey), want)
	d.maps(index(have.Maps, mapKey), index(want.Maps, mapKey), want)
	return slices.Concat(d.newChains, d.newSets, d.newMaps, d.gone, d.come, d.rules, d.oldMaps, d.oldChains, d.oldSets)
}

// differ gathers changes by the place at which they are made.
type differ struct {
	newChains, newSets, newMaps, gone, come, rules, oldMaps, oldChains, oldSets []Change
}

func index[T any](all []T, key func(*T) string) map[string]*T {
	out := make(map[string]*T, len(all))
	for i := range all {
		out[key(&all[i])] = &all[i]
	}
	return out
}

// The kernel cannot change what an object is, so what it is belongs to its key: a set of another type, or a base chain at
// another place, is another object. It must have another name too, or the old one could not be there while it is made.
func setKey(s *Set) string     { return fmt.Sprintf("%s %d %v", s.Name, s.Type, s.Interval) }
func mapKey(m *Map) string     { return fmt.Sprintf("%s %d", m.Name, m.Type) }
func chainKey(c *Chain) string { return fmt.Sprintf("%s %s %d", c.Name, c.Hook, c.Priority) }

func (d *differ) chains(have, want map[string]*Chain, t *Table) {
	for i := range t.Chains {
		w := &t.Chains[i]
		h, ok := have[chainKey(w)]
		if !ok {
			d.newChains = append(d.newChains, Change{Op: Add, Chain: &Chain{Name: w.Name, Hook: w.Hook, Priority: w.Priority}})
			h = &Chain{}
		}
		if !reflect.DeepEqual(h.Rules, w.Rules) && len(h.Rules)+len(w.Rules) > 0 {
			d.rules = append(d.rules, Change{Op: Replace, Chain: w, Within: true})
		}
	}
	for _, key := range sortedNames(have) {
		if want[key] == nil {
			d.oldChains = append(d.oldChains, Change{Op: Delete, Chain: have[key]})
		}
	}
}

func (d *differ) sets(have, want map[string]*Set, t *Table) {
	for i := range t.Sets {
		w := &t.Sets[i]
		h, ok := have[setKey(w)]
		if !ok {
			d.newSets = append(d.newSets, Change{Op: Add, Set: w})
			continue
		}
		gone, come := split(h.Elems, w.Elems, Elem.Compare)
		part := func(e []Elem) *Set { return &Set{Name: w.Name, Type: w.Type, Interval: w.Interval, Elems: e} }
		if len(gone) > 0 {
			d.gone = append(d.gone, Change{Op: Delete, Set: part(gone), Within: true})
		}
		if len(come) > 0 {
			d.come = append(d.come, Change{Op: Add, Set: part(come), Within: true})
		}
	}
	for _, key := range sortedNames(have) {
		if want[key] == nil {
			d.oldSets = append(d.oldSets, Change{Op: Delete, Set: have[key]})
		}
	}
}

func (d *differ) maps(have, want map[string]*Map, t *Table) {
	for i := range t.Maps {
		w := &t.Maps[i]
		h, ok := have[mapKey(w)]
		if !ok {
			d.newMaps = append(d.newMaps, Change{Op: Add, Map: w})
			continue
		}
		gone, come := split(h.Entries, w.Entries, Entry.compare)
		part := func(e []Entry) *Map { return &Map{Name: w.Name, Type: w.Type, Entries: e} }
		if len(gone) > 0 {
			d.gone = append(d.gone, Change{Op: Delete, Map: part(gone), Within: true})
		}
		if len(come) > 0 {
			d.come = append(d.come, Change{Op: Add, Map: part(come), Within: true})
		}
	}
	for _, key := range sortedNames(have) {
		if want[key] == nil {
			d.oldMaps = append(d.oldMaps, Change{Op: Delete, Map: have[key]})
		}
	}
}

func (e Entry) compare(o Entry) int {
	if c := e.Key.Compare(o.Key); c != 0 {
		return c
	}
	return strings.Compare(e.Verdict.String(), o.Verdict.String())
}

// split walks two sorted lists and gives what is only in the first, and only in the second.
func split[E any](have, want []E, compare func(E, E) int) (gone, come []E) {
	for len(have) > 0 && len(want) > 0 {
		switch c := compare(have[0], want[0]); {
		case c == 0:
			have, want = have[1:], want[1:]
		case c < 0:
			gone, have = append(gone, have[0]), have[1:]
		default:
			come, want = append(come, want[0]), want[1:]
		}
	}
	return append(gone, have...), append(come, want...)
}
