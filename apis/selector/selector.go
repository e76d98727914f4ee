// Package selector is the language in which policies choose endpoints by label: parse, match, print. It knows nothing of
// policies or of where labels come from. Grammar and meaning are Calico's (contract §2).
package selector

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
)

// Labels is what a selector is matched against.
type Labels interface {
	Get(key string) (value string, ok bool)
}

// Map is Labels in a plain map.
type Map map[string]string

// Get implements Labels.
func (m Map) Get(key string) (string, bool) {
	v, ok := m[key]
	return v, ok
}

// Selector is a parsed expression. It is immutable.
type Selector struct {
	root node
	text string
}

// node is one operation of the tree.
type node struct {
	op     op
	label  string
	values []string // sorted and without duplicates for sets, one for comparisons
	kids   []node   // of And and Or at least two, of Not one
}

type op uint8

const (
	opAll op = iota
	opGlobal
	opHas
	opEq
	opNe
	opIn
	opNotIn
	opContains
	opStartsWith
	opEndsWith
	opNot
	opAnd
	opOr
)

// comparisons are the operations of a label and one value: how they print and what they mean. A label that is missing
// gives false for all but != (contract §2.2).
var comparisons = map[op]struct {
	word  string
	match func(have, want string) bool
}{
	opEq:         {"==", func(have, want string) bool { return have == want }},
	opNe:         {"!=", func(have, want string) bool { return have != want }},
	opContains:   {"contains", strings.Contains},
	opStartsWith: {"starts with", strings.HasPrefix},
	opEndsWith:   {"ends with", strings.HasSuffix},
}

// Matches tells whether labels satisfy the selector. global() matches everything here: its meaning is given by whoever
// rewrites the selector (contract §2.5).
func (s *Selector) Matches(labels Labels) bool { return s.root.matches(labels) }

func (n *node) matches(l Labels) bool {
	switch n.op {
	case opAll, opGlobal:
		return true
	case opNot:
		return !n.kids[0].matches(l)
	case opAnd, opOr:
		for i := range n.kids {
			if n.kids[i].matches(l) == (n.op == opOr) {
				return n.op == opOr
			}
		}
		return n.op == opAnd
	}
	have, ok := l.Get(n.label)
	switch n.op {
	case opHas:
		return ok
	case opIn, opNotIn:
		_, in := slices.BinarySearch(n.values, have)
		return (ok && in) == (n.op == opIn)
	}
	if !ok {
		return n.op == opNe
	}
	return comparisons[n.op].match(have, n.values[0])
}

// String is the canonical form (contract §2.3): Parse(s.String()) is the same selector.
func (s *Selector) String() string { return s.text }

func (n *node) print(b *strings.Builder) {
	switch n.op {
	case opAll:
		b.WriteString("all()")
	case opGlobal:
		b.WriteString("global()")
	case opHas:
		b.WriteString("has(" + n.label + ")")
	case opNot:
		b.WriteByte('!')
		n.kids[0].print(b)
	case opAnd, opOr:
		sep := map[op]string{opAnd: " && ", opOr: " || "}[n.op]
		b.WriteByte('(')
		for i := range n.kids {
			if i > 0 {
				b.WriteString(sep)
			}
			n.kids[i].print(b)
		}
		b.WriteByte(')')
	case opIn, opNotIn:
		b.WriteString(n.label + map[op]string{opIn: " in {", opNotIn: " not in {"}[n.op])
		for i, v := range n.values {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(quote(v))
		}
		b.WriteByte('}')
	default:
		b.WriteString(n.label + " " + comparisons[n.op].word + " " + quote(n.values[0]))
	}
}

// quote prints a value. The language has no escapes, so a value never holds both kinds of quotes.
func quote(v string) string {
	if strings.Contains(v, `"`) {
		return "'" + v + "'"
	}
	return `"` + v + `"`
}

// ID names the selector by its meaning's canonical text: "s:" and base64url of a SHA-224 (contract §2.3). With ":"
// replaced it is safe in the name of a kernel object.
func (s *Selector) ID() string {
	sum := sha256.Sum224([]byte("s:" + s.text))
	return "s:" + base64.RawURLEncoding.EncodeToString(sum[:])
}

func of(n node) *Selector {
	var b strings.Builder
	n.print(&b)
	return &Selector{root: n, text: b.String()}
}

// All selects everything.
func All() *Selector { return of(node{op: opAll}) }

// Has selects what has a label.
func Has(label string) *Selector { return of(node{op: opHas, label: label}) }

// Equals selects what has a label of that value.
func Equals(label, value string) *Selector {
	return of(node{op: opEq, label: label, values: []string{value}})
}

// In selects what has a label with one of the values.
func In(label string, values ...string) *Selector {
	return of(node{op: opIn, label: label, values: set(values)})
}

// NotIn selects what has no such label or another value.
func NotIn(label string, values ...string) *Selector {
	return of(node{op: opNotIn, label: label, values: set(values)})
}

func set(values []string) []string {
	values = slices.Clone(values)
	slices.Sort(values)
	return slices.Compact(values)
}

// Not selects what s does not.
func Not(s *Selector) *Selector { return of(negate(s.root)) }

// negate cancels a double negation, as parsing does.
func negate(n node) node {
	if n.op == opNot {
		return n.kids[0]
	}
	return node{op: opNot, kids: []node{n}}
}

// And selects what all of them select. nil ones ask for nothing and are left out; it is nil when all are.
func And(sels ...*Selector) *Selector {
	var kids []node
	var last *Selector
	for _, s := range sels {
		if s != nil {
			kids, last = append(kids, s.root), s
		}
	}
	if len(kids) < 2 {
		return last
	}
	return of(node{op: opAnd, kids: kids})
}

// Prefixed gives every label name a prefix: a selector of namespaces becomes one of endpoints (contract §2.5).
func (s *Selector) Prefixed(prefix string) *Selector {
	return of(s.root.rewrite(func(n node) node {
		if n.label != "" {
			n.label = prefix + n.label
		}
		return n
	}))
}

// ReplaceAll puts another selector in the place of each all().
func (s *Selector) ReplaceAll(with *Selector) *Selector {
	return of(s.root.rewrite(func(n node) node {
		if n.op == opAll {
			return with.root
		}
		return n
	}))
}

// rewrite gives a copy in which each node, kids first, went through f.
func (n node) rewrite(f func(node) node) node {
	kids := n.kids
	n.kids = nil
	for _, k := range kids {
		n.kids = append(n.kids, k.rewrite(f))
	}
	if n.op == opNot {
		return f(negate(n.kids[0]))
	}
	return f(n)
}

// UsesGlobal tells whether global() stands in it anywhere.
func (s *Selector) UsesGlobal() bool { return s.root.uses(opGlobal) }

func (n *node) uses(o op) bool {
	return n.op == o || slices.ContainsFunc(n.kids, func(k node) bool { return k.uses(o) })
}

// Equality is a label and the value that it must have.
type Equality struct{ Label, Value string }

// Requires gives equalities each of which holds for whatever the selector matches: those that it joins by &&. There may be none.
func (s *Selector) Requires() []Equality { return s.root.requires() }

func (n *node) requires() (out []Equality) {
	switch {
	case n.op == opEq, n.op == opIn && len(n.values) == 1:
		return []Equality{{n.label, n.values[0]}}
	case n.op == opAnd:
		for i := range n.kids {
			out = append(out, n.kids[i].requires()...)
		}
	}
	return out
}

// RequiredLabels are labels that whatever the selector matches has, for what it joins by &&. There may be none.
func (s *Selector) RequiredLabels() []string { return s.root.requiredLabels() }

func (n *node) requiredLabels() (out []string) {
	switch n.op {
	case opHas, opEq, opIn, opContains, opStartsWith, opEndsWith:
		return []string{n.label}
	case opAnd:
		for i := range n.kids {
			out = append(out, n.kids[i].requiredLabels()...)
		}
	}
	return out
}

// Clauses is how many questions about labels it asks: what it costs to match.
func (s *Selector) Clauses() int { return s.root.clauses() }

func (n *node) clauses() (sum int) {
	for i := range n.kids {
		sum += n.kids[i].clauses()
	}
	return max(sum, 1)
}

// Labels are the labels that it asks about, sorted.
func (s *Selector) Labels() []string { return set(s.root.labels()) }

func (n *node) labels() (out []string) {
	if n.label != "" {
		out = append(out, n.label)
	}
	for i := range n.kids {
		out = append(out, n.kids[i].labels()...)
	}
	return out
}
