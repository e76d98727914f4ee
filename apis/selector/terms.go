package selector

// Term is what a selector that is a list of them asks of one label.
type Term struct {
	Label  string
	Not    bool     // the label is none of Values, or is missing; without Values it is missing
	Values []string // one of which the label has; without any it is there
}

// Terms are what all must hold, when that is all that the selector says: a label's being there or not, or among values or not. It is what
// Kubernetes' label selectors can say.
func (s *Selector) Terms() (out []Term, ok bool) { return s.root.terms() }

func (n *node) terms() (out []Term, ok bool) {
	switch n.op {
	case opAll:
		return nil, true
	case opHas:
		return []Term{{Label: n.label}}, true
	case opEq, opNe, opIn, opNotIn:
		return []Term{{n.label, n.op == opNe || n.op == opNotIn, n.values}}, len(n.values) > 0
	case opNot:
		out, ok = n.kids[0].terms()
		if !ok || len(out) != 1 {
			return nil, false
		}
		out[0].Not = !out[0].Not
		return out, true
	case opAnd:
		for i := range n.kids {
			t, ok := n.kids[i].terms()
			if !ok {
				return nil, false
			}
			out = append(out, t...)
		}
		return out, true
	}
	return nil, false
}
