package ruleset

import (
	"cmp"
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
		return fmt.Sprintf("%s %d elements %s set %s", c.Op, c.Set.Elems.Len(), to, c.Set.Name)
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
// before it is named, and what is deleted is named no more. have may be nil. What the tables share costs next to nothing.
//
//	base chains that will stand elsewhere · new chains without rules · new sets · new maps · members to delete · members to add · rules ·
//	old maps · old chains · old sets
func Diff(have, want *Table) []Change {
	if have == nil {
		have = &Table{Name: want.Name}
	}
	d := differ{}
	pairs(have.Chains, want.Chains, chainOrder, d.chain)
	pairs(have.Sets, want.Sets, setOrder, d.set)
	pairs(have.Maps, want.Maps, mapOrder, d.vmap)
	return slices.Concat(d.moved(), d.newChains, d.newSets, d.newMaps, d.gone, d.come, d.rules, d.oldMaps, d.oldChains, d.oldSets)
}

// differ gathers changes by the place at which they are made.
type differ struct {
	newChains, newSets, newMaps, gone, come, rules, oldMaps, oldChains, oldSets []Change
}

// moved takes the old base chains out whose names new ones have: those can be made when the old ones are gone.
func (d *differ) moved() (out []Change) {
	names := map[string]bool{}
	for _, ch := range d.newChains {
		if ch.Chain.Hook != "" {
			names[ch.Chain.Name] = true
		}
	}
	d.oldChains = slices.DeleteFunc(d.oldChains, func(ch Change) bool {
		moves := ch.Chain.Hook != "" && names[ch.Chain.Name]
		if moves {
			out = append(out, ch)
		}
		return moves
	})
	return out
}

// pairs walks two lists that are in order, and shows what of one is in the other: both, or one and nil.
func pairs[T any](have, want []*T, order func(a, b *T) int, show func(have, want *T)) {
	for len(have) > 0 || len(want) > 0 {
		c := 0
		switch {
		case len(have) > 0 && len(want) > 0 && have[0] == want[0]: // shared, and so the same
			have, want = have[1:], want[1:]
			continue
		case len(have) == 0:
			c = 1
		case len(want) == 0:
			c = -1
		default:
			c = order(have[0], want[0])
		}
		var h, w *T
		if c <= 0 {
			h, have = have[0], have[1:]
		}
		if c >= 0 {
			w, want = want[0], want[1:]
		}
		show(h, w)
	}
}

// The kernel cannot change what an object is, so what it is belongs to its place in the order: a set of another type, or a base chain
// at another place, is another object. Sets and maps must have another name too, or the old one could not be there while the new one is
// made; to a base chain nothing leads, so that it can go before.
func setOrder(a, b *Set) int {
	if c := strings.Compare(a.Name, b.Name); c != 0 || a.Type == b.Type && a.Interval == b.Interval {
		return c
	}
	return cmp.Or(cmp.Compare(a.Type, b.Type), map[bool]int{true: 1, false: -1}[a.Interval])
}

func mapOrder(a, b *Map) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type))
}

func chainOrder(a, b *Chain) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Hook, b.Hook), cmp.Compare(a.Priority, b.Priority))
}

func (d *differ) chain(h, w *Chain) {
	switch {
	case w == nil:
		d.oldChains = append(d.oldChains, Change{Op: Delete, Chain: h})
		return
	case h == nil:
		d.newChains = append(d.newChains, Change{Op: Add, Chain: &Chain{Name: w.Name, Hook: w.Hook, Priority: w.Priority}})
		h = &Chain{}
	}
	if !sameRules(h.Rules, w.Rules) {
		d.rules = append(d.rules, Change{Op: Replace, Chain: w, Within: true})
	}
}

func sameRules(a, b []Rule) bool {
	return shared(a, b) || reflect.DeepEqual(a, b)
}

func (d *differ) set(h, w *Set) {
	switch {
	case w == nil:
		d.oldSets = append(d.oldSets, Change{Op: Delete, Set: h})
	case h == nil:
		d.newSets = append(d.newSets, Change{Op: Add, Set: w})
	case !w.Elems.Same(h.Elems):
		gone, come := w.Elems.Since(h.Elems)
		d.gone, d.come = append(d.gone, w.part(Delete, gone)...), append(d.come, w.part(Add, come)...)
	}
}

func (d *differ) vmap(h, w *Map) {
	switch {
	case w == nil:
		d.oldMaps = append(d.oldMaps, Change{Op: Delete, Map: h})
		return
	case h == nil:
		d.newMaps = append(d.newMaps, Change{Op: Add, Map: w})
		return
	}
	gone, come := split(h.Entries, w.Entries, Entry.compare)
	part := func(op Op, e []Entry) []Change {
		if len(e) == 0 {
			return nil
		}
		return []Change{{Op: op, Map: &Map{Name: w.Name, Type: w.Type, Entries: e}, Within: true}}
	}
	d.gone, d.come = append(d.gone, part(Delete, gone)...), append(d.come, part(Add, come)...)
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
