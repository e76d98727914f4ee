package policy

import (
	"slices"

	"github.com/tierwall/tierwall/apis/selector"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Rank is a tier and all its policies in the order in which they are asked, whoever is selected by them: staged ones stand where they would
// stand if they were in force.
type Rank struct {
	Tier     string
	Order    float64
	Default  Action
	Missing  bool // nobody made the tier: it stands behind all others
	Policies []Standing
}

// Standing is where one policy stands in its tier, and for whom.
type Standing struct {
	Policy          Policy             // its rules, as far as they are understood
	Order           float64            // +Inf: it has none, and is among the last
	Subject         *selector.Selector // nil: it is not understood for whom, so for nobody
	Ingress, Egress bool               // the directions in which it has a say
	Forward         bool               // applyOnForward
}

// Guards tells whether the policy has a say in a direction.
func (s *Standing) Guards(d Direction) bool {
	if d == Ingress {
		return s.Ingress
	}
	return s.Egress
}

// Ranks are all tiers that have a policy, in order. Deletions that are staged stand nowhere.
func (x *Index) Ranks() (out []Rank) {
	var books []*book
	for _, from := range []map[v3.Ref]*book{x.books, x.staged} {
		for _, ref := range sortedRefs(from) {
			if b := from[ref]; !b.drops {
				books = append(books, b)
			}
		}
	}
	for _, t := range x.orderedTiers(books) {
		r := Rank{Tier: t.name, Order: t.order, Default: t.action, Missing: !t.known}
		for _, b := range t.books {
			s := Standing{b.policy, b.order, b.subject, b.ingress, b.egress, b.forward}
			s.Policy.Staged = has(x.staged, b.ref)
			r.Policies = append(r.Policies, s)
		}
		out = append(out, r)
	}
	return out
}

// Labels of an endpoint or a network set, with what it inherits; nil when there is none.
func (x *Index) Labels(ref v3.Ref) selector.Labels {
	m := x.members[ref]
	if m == nil {
		return nil
	}
	x.Plan()
	return x.last.labels(m)
}

// MembersOf a set of the plan: the endpoints and network sets that its selector finds, by Ref. What a service or a selector of Nodes finds
// has addresses only.
func (x *Index) MembersOf(id string) (out []v3.Ref) {
	x.Plan()
	l := x.last.live[id]
	for ref, m := range x.members {
		if l != nil && slices.Contains(m.in, l) {
			out = append(out, ref)
		}
	}
	slices.SortFunc(out, v3.Ref.Compare)
	return out
}
