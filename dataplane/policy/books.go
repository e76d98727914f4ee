package policy

import (
	"cmp"
	"errors"
	"math"
	"strings"

	"github.com/tierwall/tierwall/apis/selector"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

// book is one policy: where it stands, whom it guards, and its compiled rules.
type book struct {
	ref             v3.Ref
	tier            string
	order           float64            // +Inf when the user gave none
	subject         *selector.Selector // nil: it selects nothing
	ingress, egress bool
	forward         bool // applyOnForward
	drops           bool // a staged policy that stands for the deletion of the one of its name
	policy          Policy
	sets            map[string]setSpec
}

// stands tells whether the book is asked at a stage (contract §4.3): untracked and preDNAT policies are asked nowhere else, and
// forwarded packets meet only what asks for them.
func (b *book) stands(s Stage) bool {
	if s == Forward {
		return b.policy.Stage == Normal && b.forward
	}
	return b.policy.Stage == s
}

// guards tells whether the book has a say in a direction.
func (b *book) guards(d Direction) bool {
	if d == Ingress {
		return b.ingress
	}
	return b.egress
}

// selects tells whether the book guards an endpoint with these labels at a place.
func (b *book) selects(g *Guard, l labels) bool {
	return b.stands(g.Stage) && b.guards(g.Direction) && b.subject != nil && b.subject.Matches(l)
}

// compare is the order of policies within a tier (contract §4.1): by order, then bytewise by name/namespace/kind.
func (b *book) compare(o *book) int {
	return cmp.Or(cmp.Compare(b.order, o.order), strings.Compare(b.tieBreak(), o.tieBreak()))
}

// tieBreak puts a staged policy where it would stand if it were in force.
func (b *book) tieBreak() string {
	return b.ref.Name + "/" + b.ref.Namespace + "/" + enforcedKind(b.ref.Kind)
}

func enforcedKind(kind string) string { return strings.TrimPrefix(kind, "Staged") }

// spec is what NetworkPolicy and GlobalNetworkPolicy have in common.
type spec struct {
	tier                                           string
	order                                          *float64
	selector, namespaceSelector, serviceAccountSel string
	types                                          []v3.PolicyType
	ingress, egress                                []v3.Rule
	stage                                          Stage
	forward                                        bool
}

func specOf(o *v3.NetworkPolicySpec) spec {
	return spec{tier: o.Tier, order: o.Order, selector: o.Selector, serviceAccountSel: o.ServiceAccountSelector,
		types: o.Types, ingress: o.Ingress, egress: o.Egress}
}

func globalSpec(o *v3.GlobalNetworkPolicySpec) spec {
	s := spec{tier: o.Tier, order: o.Order, selector: o.Selector, namespaceSelector: o.NamespaceSelector,
		serviceAccountSel: o.ServiceAccountSelector, types: o.Types, ingress: o.Ingress, egress: o.Egress, forward: o.ApplyOnForward}
	switch {
	case o.DoNotTrack: // which wins if both are set (contract §4.3)
		s.stage = Untracked
	case o.PreDNAT:
		s.stage = PreDNAT
	}
	return s
}

func (x *Index) setBook(ref v3.Ref, s spec) (err error) {
	x.books[ref], err = bookOf(ref, s)
	return err
}

func bookOf(ref v3.Ref, s spec) (*book, error) {
	b := &book{ref: ref, tier: cmp.Or(s.tier, "default"), order: math.Inf(1), forward: s.forward, sets: map[string]setSpec{}}
	if s.order != nil {
		b.order = *s.order
	}
	b.policy = Policy{Ref: ref, Tier: b.tier, Stage: s.stage}
	b.ingress, b.egress = types(s)
	c := compiler{ref: ref, sets: b.sets}
	var errs [3]error
	b.subject, errs[0] = subject(ref.Namespace, s.selector, s.namespaceSelector, s.serviceAccountSel)
	if b.ingress {
		b.policy.Ingress, errs[1] = c.rules("spec.ingress", s.ingress, Ingress)
	}
	if b.egress {
		b.policy.Egress, errs[2] = c.rules("spec.egress", s.egress, Egress)
	}
	return b, errors.Join(append(errs[:], b.bounded())...)
}

// types infers what the user left out (contract §1.4), as admission does: a stored object may lack it.
func types(s spec) (ingress, egress bool) {
	if len(s.types) == 0 {
		return len(s.ingress) > 0 || len(s.egress) == 0, len(s.egress) > 0
	}
	for _, t := range s.types {
		ingress = ingress || t == v3.PolicyTypeIngress
		egress = egress || t == v3.PolicyTypeEgress
	}
	return ingress, egress
}

// tier is a Tier object's say.
type tier struct {
	name   string
	order  float64
	action Action
	known  bool
}

const defaultTierOrder = 1_000_000

// builtinTiers exist whether or not anybody wrote them down (contract §1.3).
var builtinTiers = []tier{
	{name: "default", order: defaultTierOrder, action: Deny, known: true},
	{name: "kube-admin", order: 1_000, action: Pass, known: true},
	{name: "kube-baseline", order: 10_000_000, action: Pass, known: true},
}

func tierOf(o *v3.Tier) tier {
	t := tier{name: o.Name, order: defaultTierOrder, action: Deny, known: true}
	if o.Spec.Order != nil {
		t.order = *o.Spec.Order
	}
	if o.Spec.DefaultAction != nil && *o.Spec.DefaultAction == v3.Pass {
		t.action = Pass
	}
	return t
}

// compare is the order of tiers (contract §4.1): known ones first, by order, then by name.
func (t tier) compare(o tier) int {
	if t.known != o.known {
		if t.known {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(t.order, o.order), strings.Compare(t.name, o.name))
}

// tiersByName are the tiers that somebody made, and the built-in ones.
func (x *Index) tiersByName() map[string]tier {
	out := map[string]tier{}
	for _, t := range builtinTiers {
		out[t.name] = t
	}
	for _, t := range x.tiers {
		out[t.name] = t
	}
	return out
}
