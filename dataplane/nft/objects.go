package nft

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// objects are what a table's sets, maps and chains are and how they lead to one another, without their elements and rules: as much
// as one must know to judge changes to the table without looking at the rest of it.
//
//	base chain ──► map ──► chain ──► set
//	                └────► chain ──► chain
//
// Every object is a node. A rule that names another is an edge, and so is an entry of a map; edges are counted. What cannot be judged
// so is refused with errUnsure, and then the whole table is looked at (check.go), whose word counts. So these may refuse what is
// right, and never accept what is wrong.
type objects struct {
	checker
	nodes   map[ref]*node
	demands int // how many chains do something that is not to be had everywhere
}

// ref names an object. Sets and maps share their names.
type ref struct {
	chain bool
	name  string
}

// kind is what the kernel cannot change of an object.
type kind struct {
	isMap, interval bool
	typ             ruleset.Type
	hook            string
	priority        int
}

func setKind(s *ruleset.Set) kind     { return kind{typ: s.Type, interval: s.Interval} }
func mapKind(m *ruleset.Map) kind     { return kind{isMap: true, typ: m.Type} }
func chainKind(c *ruleset.Chain) kind { return kind{hook: c.Hook, priority: c.Priority} }

// kinds of a table's objects.
func kinds(t *ruleset.Table) map[ref]kind {
	out := make(map[ref]kind, len(t.Sets)+len(t.Maps)+len(t.Chains))
	for i := range t.Sets {
		out[ref{false, t.Sets[i].Name}] = setKind(t.Sets[i])
	}
	for i := range t.Maps {
		out[ref{false, t.Maps[i].Name}] = mapKind(t.Maps[i])
	}
	for i := range t.Chains {
		out[ref{true, t.Chains[i].Name}] = chainKind(t.Chains[i])
	}
	return out
}

type node struct {
	kind
	forbids  place         // what the chains that it leads to cannot do, as it is a base chain
	demands  place         // what its own rules do
	to, from map[*node]int // how many rules or entries lead there, and here
}

func newNode(k kind) *node {
	return &node{kind: k, forbids: forbidden(k.hook, k.priority), to: map[*node]int{}, from: map[*node]int{}}
}

func (n *node) link(to *node) {
	n.to[to]++
	to.from[n]++
}

func (n *node) unlink(to *node) {
	if n.to[to]--; n.to[to] == 0 {
		delete(n.to, to)
	}
	if to.from[n]--; to.from[n] == 0 {
		delete(to.from, n)
	}
}

func (n *node) unlinkAll() {
	for to := range n.to {
		delete(to.from, n)
	}
	clear(n.to)
}

// misplaced tells whether a base chain that leads to the node forbids what is done there, or in a chain that it leads to.
func (n *node) misplaced() bool {
	above := n.gather(func(n *node) (map[*node]int, place) { return n.from, n.forbids })
	below := n.gather(func(n *node) (map[*node]int, place) { return n.to, n.demands })
	return above&below != 0
}

func (n *node) gather(look func(*node) (next map[*node]int, has place)) (all place) {
	seen := map[*node]bool{n: true}
	for reached := []*node{n}; len(reached) > 0; {
		next, has := look(reached[0])
		reached = reached[1:]
		all |= has
		for to := range next {
			if !seen[to] {
				seen[to] = true
				reached = append(reached, to)
			}
		}
	}
	return all
}

// errUnsure says that the changes alone do not tell whether the table is right.
var errUnsure = errors.New("the whole table has to be looked at")

// learn the objects of a table that check has found right.
func learn(t *ruleset.Table) *objects {
	o := &objects{checker: newChecker(), nodes: make(map[ref]*node, len(t.Sets)+len(t.Maps)+len(t.Chains))}
	_ = o.names(t) // they are right
	for r, k := range kinds(t) {
		o.nodes[r] = newNode(k)
	}
	for i := range t.Maps {
		o.count(t.Maps[i], (*node).link)
	}
	for i := range t.Chains {
		o.rules(o.nodes[ref{true, t.Chains[i].Name}], t.Chains[i].Rules)
	}
	return o
}

// accept the changes that lead from one table to another, or say that they cannot be. After an error the objects are of no use.
func (o *objects) accept(changes []ruleset.Change, have, want *ruleset.Table) error {
	var touched, gone []*node
	for i := range changes {
		n, err := o.change(&changes[i], have, want)
		if err != nil {
			return fmt.Errorf("%s: %w", changes[i], err)
		}
		if changes[i].Op == ruleset.Delete && !changes[i].Within {
			gone = append(gone, n)
		} else if changes[i].Set == nil {
			touched = append(touched, n)
		}
	}
	named := func(n *node) bool { return len(n.from) > 0 }
	complete := len(want.Sets) == len(o.sets) && len(want.Maps) == len(o.maps) && len(want.Chains) == len(o.chains) // and none is twice
	if !complete || slices.ContainsFunc(gone, named) || o.demands > 0 && slices.ContainsFunc(touched, (*node).misplaced) {
		return errUnsure
	}
	return nil
}

func (o *objects) change(ch *ruleset.Change, have, want *ruleset.Table) (*node, error) {
	var r ref
	var k kind
	switch {
	case ch.Set != nil:
		r, k = ref{false, ch.Set.Name}, setKind(ch.Set)
	case ch.Map != nil:
		r, k = ref{false, ch.Map.Name}, mapKind(ch.Map)
	default:
		r, k = ref{true, ch.Chain.Name}, chainKind(ch.Chain)
	}
	n := o.nodes[r]
	added := ch.Op == ruleset.Add && !ch.Within
	if added != (n == nil) || !added && n.kind != k {
		return nil, errUnsure
	}
	switch {
	case added:
		n = newNode(k)
		if err := o.add(ch, r, n); err != nil {
			return nil, err
		}
	case !ch.Within:
		o.remove(r, n)
		return n, nil
	}
	return n, o.content(ch, n, have, want)
}

// add an object of a name that there is not.
func (o *objects) add(ch *ruleset.Change, r ref, n *node) error {
	o.nodes[r] = n
	switch {
	case ch.Set != nil:
		o.sets[r.name] = ch.Set.Type
		return name("set", r.name, false)
	case ch.Map != nil:
		o.maps[r.name] = ch.Map.Type
		return name("map", r.name, false)
	}
	o.chains[r.name] = true
	return name("chain", r.name, false)
}

func (o *objects) remove(r ref, n *node) {
	n.unlinkAll()
	if n.demands != 0 {
		o.demands--
	}
	delete(o.nodes, r)
	if r.chain {
		delete(o.chains, r.name)
	} else {
		delete(o.sets, r.name)
		delete(o.maps, r.name)
	}
}

// content checks what an added object has, or what is added to it or taken from it.
func (o *objects) content(ch *ruleset.Change, n *node, have, want *ruleset.Table) error {
	switch {
	case ch.Chain != nil:
		if err := o.checker.chain(ch.Chain); err != nil {
			return err
		}
		o.rules(n, ch.Chain.Rules)
	case ch.Map != nil && ch.Op == ruleset.Delete:
		o.count(ch.Map, (*node).unlink)
	case ch.Map != nil:
		if err := o.checker.vmap(ch.Map); err != nil {
			return err
		}
		o.count(ch.Map, (*node).link)
		if ch.Within && !inPlace(ch.Map.Entries, entriesOf(have, ch.Map.Name), entriesOf(want, ch.Map.Name), byKey, keyBehind) {
			return errUnsure
		}
	case ch.Op == ruleset.Add:
		if err := o.checker.set(ch.Set); err != nil {
			return err
		}
		if ch.Within && !fit(ch.Set, elemsOf(have, ch.Set.Name), elemsOf(want, ch.Set.Name)) {
			return errUnsure
		}
	}
	return nil
}

// count the chains that the entries lead to, by link or unlink.
func (o *objects) count(m *ruleset.Map, f func(n, to *node)) {
	n := o.nodes[ref{false, m.Name}]
	for _, e := range m.Entries {
		if to := o.nodes[ref{true, e.Verdict.Chain}]; to != nil {
			f(n, to)
		}
	}
}

// rules are what the chain has from now on.
func (o *objects) rules(n *node, rules []ruleset.Rule) {
	n.unlinkAll()
	before := n.demands
	n.demands = 0
	for i := range rules {
		r := &rules[i]
		n.demands |= demanded(r)
		for _, m := range r.Matches {
			if m.Set != "" {
				n.link(o.nodes[ref{false, m.Set}])
			}
		}
		if r.VMap != nil {
			n.link(o.nodes[ref{false, r.VMap.Map}])
		}
		if r.Verdict.Chain != "" {
			n.link(o.nodes[ref{true, r.Verdict.Chain}])
		}
	}
	switch {
	case before == 0 && n.demands != 0:
		o.demands++
	case before != 0 && n.demands == 0:
		o.demands--
	}
}

// fit tells whether the elements that are added to a set are in place. Single ones cannot overlap: that they are there once is enough.
func fit(added *ruleset.Set, have, want ruleset.Elems) bool {
	if added.Interval {
		return inPlace(added.Elems.Slice(), have.Slice(), want.Slice(), ruleset.Elem.Compare, behind)
	}
	for e := range added.Elems.All() {
		if have.Has(e) || !want.Has(e) {
			return false
		}
	}
	return true
}

func byKey(a, b ruleset.Entry) int      { return a.Key.Compare(b.Key) }
func keyBehind(a, b ruleset.Entry) bool { return byKey(a, b) < 0 }

// inPlace tells whether all of a list is in order, if what is added to it is so itself, and what was there before was: then each that
// is added must stand, once, between neighbours that are before and behind it.
func inPlace[E comparable](added, before, all []E, compare func(a, b E) int, behind func(a, b E) bool) bool {
	for _, e := range added {
		if i, found := slices.BinarySearchFunc(before, e, compare); found && before[i] == e {
			return false
		}
		i, found := slices.BinarySearchFunc(all, e, compare)
		if !found || all[i] != e || i > 0 && !behind(all[i-1], e) || i+1 < len(all) && !behind(e, all[i+1]) {
			return false
		}
	}
	return true
}

func elemsOf(t *ruleset.Table, name string) ruleset.Elems {
	return byName(t.Sets, name, func(s *ruleset.Set) string { return s.Name }).Elems
}

func entriesOf(t *ruleset.Table, name string) []ruleset.Entry {
	return byName(t.Maps, name, func(m *ruleset.Map) string { return m.Name }).Entries
}

func rulesOf(t *ruleset.Table, name string) []ruleset.Rule {
	return byName(t.Chains, name, func(c *ruleset.Chain) string { return c.Name }).Rules
}

// byName finds the object of the name in a list that is sorted by name; where it is not, it may find none, which has nothing.
func byName[T any](all []*T, name string, nameOf func(*T) string) (found T) {
	i := sort.Search(len(all), func(i int) bool { return nameOf(all[i]) >= name })
	if i < len(all) && nameOf(all[i]) == name {
		found = *all[i]
	}
	return found
}
