package policy

import (
	"slices"

	"github.com/tierwall/tierwall/apis/selector"
)

// byLabel finds the members that may be selected without a look at all of them: those with a label's value. A label is indexed
// when a selector first requires it.
type byLabel map[string]map[string]map[*member]struct{}

// candidates are the members among which are all that a selector matches: the smallest group that it requires, or nil, false
// when it requires nothing.
func (b *builder) candidates(s *selector.Selector) (least map[*member]struct{}, ok bool) {
	if s == nil {
		return nil, false
	}
	for _, e := range s.Requires() {
		group := b.byLabel.of(e.Label, b)[e.Value]
		if !ok || len(group) < len(least) {
			least, ok = group, true
		}
	}
	return least, ok
}

// of is the members by a label's value.
func (y byLabel) of(label string, b *builder) map[string]map[*member]struct{} {
	if y[label] == nil {
		y[label] = map[string]map[*member]struct{}{}
		for _, m := range b.index.members {
			y.put(label, m, b)
		}
	}
	return y[label]
}

func (y byLabel) put(label string, m *member, b *builder) {
	value, ok := b.labels(m).Get(label)
	if !ok {
		return
	}
	if y[label][value] == nil {
		y[label][value] = map[*member]struct{}{}
	}
	y[label][value][m] = struct{}{}
}

// follow puts one member in place of another.
func (y byLabel) follow(was, now *member, b *builder) {
	for label, values := range y {
		if was != nil {
			value, _ := b.labelsThen(was).Get(label)
			delete(values[value], was)
			if len(values[value]) == 0 {
				delete(values, value)
			}
		}
		if now != nil {
			y.put(label, now, b)
		}
	}
}

// labelsThen are the labels that a member had when it was last looked at.
func (b *builder) labelsThen(m *member) labels { return labels{m.labels, m.inherits} }

// wanting are the live sets by one of the equalities that they require, so that a member is shown only to those that may want it.
type wanting struct {
	by     map[string]map[string]map[*liveSet]struct{}
	others map[*liveSet]struct{} // which require none
}

func newWanting() wanting {
	return wanting{map[string]map[string]map[*liveSet]struct{}{}, map[*liveSet]struct{}{}}
}

func (w *wanting) add(l *liveSet) {
	e, ok := narrowest(l.spec.sel)
	if !ok {
		w.others[l] = struct{}{}
		return
	}
	if w.by[e.Label] == nil {
		w.by[e.Label] = map[string]map[*liveSet]struct{}{}
	}
	if w.by[e.Label][e.Value] == nil {
		w.by[e.Label][e.Value] = map[*liveSet]struct{}{}
	}
	w.by[e.Label][e.Value][l] = struct{}{}
}

func (w *wanting) remove(l *liveSet) {
	if e, ok := narrowest(l.spec.sel); ok {
		delete(w.by[e.Label][e.Value], l)
	} else {
		delete(w.others, l)
	}
}

// each shows the sets that may want what has these labels.
func (w *wanting) each(l labels, yield func(*liveSet)) {
	for set := range w.others {
		yield(set)
	}
	for label, values := range w.by {
		if value, ok := l.Get(label); ok {
			for set := range values[value] {
				yield(set)
			}
		}
	}
}

// narrowest is the equality by which a selector is found. A namespace has many members, and every pod the same orchestrator.
func narrowest(s *selector.Selector) (e selector.Equality, ok bool) {
	if s == nil {
		return e, false
	}
	width := map[string]int{labelNamespace: 1, labelOrchestrator: 2}
	for _, r := range s.Requires() {
		if !ok || width[r.Label] < width[e.Label] {
			e, ok = r, true
		}
	}
	return e, ok
}

// subjects are a list's policies by one of the equalities that their subjects require, as where they stand in the list: an endpoint is
// shown only to those that may select it.
type subjects struct {
	by     map[string]map[string][]int
	others []int // which require none
}

func subjectsOf(books []*book) subjects {
	s := subjects{by: map[string]map[string][]int{}}
	for at, k := range books {
		e, ok := narrowest(k.subject)
		switch {
		case k.subject == nil: // it selects nothing
		case !ok:
			s.others = append(s.others, at)
		default:
			if s.by[e.Label] == nil {
				s.by[e.Label] = map[string][]int{}
			}
			s.by[e.Label][e.Value] = append(s.by[e.Label][e.Value], at)
		}
	}
	return s
}

// among are the policies that may select what has these labels, in the order of the list.
func (s *subjects) among(l labels) []int {
	out := slices.Clone(s.others)
	for label, values := range s.by {
		if value, ok := l.Get(label); ok {
			out = append(out, values[value]...)
		}
	}
	slices.Sort(out)
	return out
}
