package policy

import (
	"iter"
	"maps"
	"slices"

	"github.com/tierwall/tierwall/apis/selector"
)

// byLabel finds the members that may be selected without a look at all of them: those with a label, and with its value. A label is
// indexed when a selector first requires it.
type byLabel map[string]*labelled

// labelled are the members that have a label, by its value.
type labelled struct {
	by map[string]map[*member]struct{}
	n  int
}

// all of them.
func (l *labelled) all(yield func(*member) bool) {
	for _, group := range l.by {
		for m := range group {
			if !yield(m) {
				return
			}
		}
	}
}

// candidates are the members among which are all that a selector matches: the smallest group that it requires, or nil, 0 when it
// requires nothing.
func (b *builder) candidates(s *selector.Selector) (least iter.Seq[*member], n int) {
	if s == nil {
		return nil, 0
	}
	for _, e := range s.Requires() {
		if group := b.byLabel[e.Label].by[e.Value]; least == nil || len(group) < n {
			least, n = maps.Keys(group), len(group)
		}
	}
	for _, label := range s.RequiredLabels() {
		if l := b.byLabel[label]; least == nil || l.n < n {
			least, n = l.all, l.n
		}
	}
	return least, n
}

// begin indexes labels that were not, with one look at each member.
func (y byLabel) begin(labels map[string]bool, b *builder) {
	for label := range labels {
		if y[label] != nil {
			delete(labels, label)
			continue
		}
		y[label] = &labelled{by: map[string]map[*member]struct{}{}}
	}
	if len(labels) == 0 {
		return
	}
	for _, m := range b.index.members {
		b.labels(m).each(func(label, value string) {
			if labels[label] {
				y[label].put(value, m)
			}
		})
	}
}

func (l *labelled) put(value string, m *member) {
	if l.by[value] == nil {
		l.by[value] = map[*member]struct{}{}
	}
	l.by[value][m] = struct{}{}
	l.n++
}

func (l *labelled) remove(value string, m *member) {
	if _, there := l.by[value][m]; !there {
		return
	}
	l.n--
	if delete(l.by[value], m); len(l.by[value]) == 0 {
		delete(l.by, value)
	}
}

// follow puts one member in place of another.
func (y byLabel) follow(was, now *member, b *builder) {
	if was != nil {
		b.labelsThen(was).each(func(label, value string) {
			if l := y[label]; l != nil {
				l.remove(value, was)
			}
		})
	}
	if now != nil {
		b.labels(now).each(func(label, value string) {
			if l := y[label]; l != nil {
				l.put(value, now)
			}
		})
	}
}

// labelsThen are the labels that a member had when it was last looked at.
func (b *builder) labelsThen(m *member) labels { return labels{m.labels, m.inherits} }

// wanting are the live sets by one of the equalities that they require, or else by a label, so that a member is shown only to those
// that may want it.
type wanting struct {
	by     map[string]map[string]map[*liveSet]struct{}
	having map[string]map[*liveSet]struct{}
	others map[*liveSet]struct{} // which require none
}

func newWanting() wanting {
	return wanting{map[string]map[string]map[*liveSet]struct{}{}, map[string]map[*liveSet]struct{}{}, map[*liveSet]struct{}{}}
}

// group in which a set is.
func (w *wanting) group(l *liveSet) map[*liveSet]struct{} {
	if e, ok := narrowest(l.spec.sel); ok {
		if w.by[e.Label] == nil {
			w.by[e.Label] = map[string]map[*liveSet]struct{}{}
		}
		return groupOf(w.by[e.Label], e.Value)
	}
	if l.spec.sel != nil {
		if labels := l.spec.sel.RequiredLabels(); len(labels) > 0 {
			return groupOf(w.having, slices.MinFunc(labels, func(a, b string) int { return width[a] - width[b] }))
		}
	}
	return w.others
}

func groupOf(in map[string]map[*liveSet]struct{}, key string) map[*liveSet]struct{} {
	if in[key] == nil {
		in[key] = map[*liveSet]struct{}{}
	}
	return in[key]
}

func (w *wanting) add(l *liveSet)    { w.group(l)[l] = struct{}{} }
func (w *wanting) remove(l *liveSet) { delete(w.group(l), l) }

// each shows the sets that may want what has these labels.
func (w *wanting) each(l labels, yield func(*liveSet)) {
	for set := range w.others {
		yield(set)
	}
	l.each(func(label, value string) {
		for set := range w.by[label][value] {
			yield(set)
		}
		for set := range w.having[label] {
			yield(set)
		}
	})
}

// width of a label: a namespace has many members, and every pod the same orchestrator.
var width = map[string]int{labelNamespace: 1, labelOrchestrator: 2}

// narrowest is the equality by which a selector is found.
func narrowest(s *selector.Selector) (e selector.Equality, ok bool) {
	if s == nil {
		return e, false
	}
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
	l.each(func(label, value string) { out = append(out, s.by[label][value]...) })
	slices.Sort(out)
	return out
}
