package convert

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierwall/tierwall/apis/selector"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

const (
	namespaceOf     = "projectcalico.org/namespace" // of a pod or a network set
	namespaceName   = "projectcalico.org/name"      // of a namespace
	namespacePrefix = "pcns."                       // of a namespace's labels, as its pods inherit them
)

// choice is pods by their labels and by their namespaces'.
type choice struct {
	namespaces, pods []selector.Term
	alone            bool // network sets are not meant
}

// choose the pods that Calico's two selectors find, of one namespace where the second says nothing. What else has labels is not looked for.
func (l *losses) choose(at, namespace, text, of string) (c choice) {
	for _, t := range l.terms(at+".namespaceSelector", of) {
		if t.Label == namespaceName {
			t.Label = corev1.LabelMetadataName
		}
		if l.own(at+".namespaceSelector", t) {
			c.namespaces = append(c.namespaces, t)
		}
	}
	if of == "" && namespace != "" {
		c.namespaces = []selector.Term{{Label: corev1.LabelMetadataName, Values: []string{namespace}}}
	}
	for _, t := range l.terms(at+".selector", text) {
		switch {
		case t.Label == orchestrator && !t.Not && slices.Equal(t.Values, []string{"k8s"}): // as all pods have
			c.alone = true
		case t.Label == namespaceOf && !t.Not && len(t.Values) == 0: // and network sets of a namespace
		case t.Label == namespaceOf:
			t.Label = corev1.LabelMetadataName
			c.namespaces = append(c.namespaces, t)
		case l.own(at+".selector", t):
			c.pods = append(c.pods, t)
		}
	}
	return c
}

// terms of a selector that is a list of them.
func (l *losses) terms(at, text string) []selector.Term {
	s, err := selector.Parse(text)
	if err != nil {
		l.add(at, "%v", err)
		return nil
	}
	terms, ok := s.Terms()
	if !ok {
		l.add(at, "Kubernetes' selectors are lists of labels, each with values that it has or has not: %s is none", text)
	}
	return terms
}

// own tells whether a label is a pod's or a namespace's own.
func (l *losses) own(at string, t selector.Term) bool {
	for _, prefix := range []string{"projectcalico.org/", namespacePrefix, "pcsa."} {
		if strings.HasPrefix(t.Label, prefix) {
			l.add(at, "%s is no label of a pod's or a namespace's own", t.Label)
			return false
		}
	}
	return true
}

// names of the namespaces, if they are chosen by nothing else.
func (c *choice) names() (out []string, ok bool) {
	if slices.ContainsFunc(c.namespaces, func(t selector.Term) bool { return t.Label != corev1.LabelMetadataName }) {
		return nil, false
	}
	at := slices.IndexFunc(c.namespaces, demands)
	if at < 0 {
		return nil, false
	}
	return slices.DeleteFunc(slices.Clone(c.namespaces[at].Values), func(name string) bool {
		return slices.ContainsFunc(c.namespaces, func(t selector.Term) bool {
			return len(t.Values) > 0 && slices.Contains(t.Values, name) == t.Not || t.Not && len(t.Values) == 0
		})
	}), true
}

// demands tells whether a label must have one of some values.
func demands(t selector.Term) bool { return !t.Not && len(t.Values) > 0 }

// apart tells whether nothing has the labels that both ask for, as they demand others of one.
func apart(a, b []selector.Term) bool {
	return slices.ContainsFunc(a, func(t selector.Term) bool {
		return demands(t) && slices.ContainsFunc(b, func(o selector.Term) bool {
			return o.Label == t.Label && demands(o) && !slices.ContainsFunc(t.Values, func(v string) bool { return slices.Contains(o.Values, v) })
		})
	})
}

// in tells whether it is pods of just that namespace.
func (c *choice) in(namespace string) bool {
	t := c.namespaces
	return len(t) == 1 && t[0].Label == corev1.LabelMetadataName && !t[0].Not && slices.Equal(t[0].Values, []string{namespace})
}

// labelSelector is Kubernetes' form of terms.
func labelSelector(terms []selector.Term) (out metav1.LabelSelector) {
	operators := map[[2]bool]metav1.LabelSelectorOperator{{false, true}: metav1.LabelSelectorOpIn, {true, true}: metav1.LabelSelectorOpNotIn,
		{false, false}: metav1.LabelSelectorOpExists, {true, false}: metav1.LabelSelectorOpDoesNotExist}
	for _, t := range terms {
		if had, twice := out.MatchLabels[t.Label]; !t.Not && len(t.Values) == 1 && (!twice || had == t.Values[0]) {
			if out.MatchLabels == nil {
				out.MatchLabels = map[string]string{}
			}
			out.MatchLabels[t.Label] = t.Values[0]
			continue
		}
		out.MatchExpressions = append(out.MatchExpressions, metav1.LabelSelectorRequirement{Key: t.Label, Operator: operators[[2]bool{t.Not, len(t.Values) > 0}], Values: t.Values})
	}
	return out
}

// netset is a network set, of a namespace or of none.
type netset struct {
	ref    v3.Ref
	labels selector.Map // with what it inherits
	nets   []string
	lone   bool // its namespace is not among the objects, so what it inherits is not known
}

func newNetset(o v3.Object, nets []string, namespaces map[string]*corev1.Namespace) netset {
	s := netset{ref: v3.RefOf(o), labels: selector.Map{}, nets: nets}
	for k, v := range o.GetLabels() {
		s.labels[k] = v
	}
	if s.ref.Namespace == "" {
		return s
	}
	for _, name := range []string{namespaceOf, namespacePrefix + namespaceName, namespacePrefix + corev1.LabelMetadataName} {
		s.labels[name] = s.ref.Namespace
	}
	if n := namespaces[s.ref.Namespace]; n != nil {
		for k, v := range n.Labels {
			s.labels[namespacePrefix+k] = v
		}
	} else {
		s.lone = true
	}
	return s
}

// asksNamespaces tells whether a selector is about more of a namespace than its name.
func asksNamespaces(text string) bool {
	s, err := selector.Parse(text)
	return err == nil && slices.ContainsFunc(s.Labels(), func(label string) bool { return label != namespaceName && label != corev1.LabelMetadataName })
}

// isFound by a rule's selectors, of a policy of a namespace or of none (contract §2.6).
func (s *netset) isFound(e *v3.EntityRule, namespace string) bool {
	text, err := selector.Parse(e.Selector)
	of, errOf := selector.Parse(e.NamespaceSelector)
	switch {
	case err != nil || errOf != nil || !text.Matches(s.labels):
		return false
	case e.NamespaceSelector == "":
		return namespace == "" || s.ref.Namespace == namespace
	case of.UsesGlobal():
		return s.ref.Namespace == ""
	}
	return of.Prefixed(namespacePrefix).ReplaceAll(selector.Has(namespaceOf)).Matches(s.labels)
}

// block is a network, and what of it is excepted.
type block struct {
	cidr   netip.Prefix
	except []netip.Prefix
}

// blocks are the addresses of an end that names no labels. What is excepted must be within: what is beside it excepts nothing, and what is
// around it leaves nothing.
func (l *losses) blocks(at string, e *v3.EntityRule) (out []block) {
	nets := e.Nets
	if len(nets) == 0 && len(e.NotNets) > 0 { // of the family of what is excepted alone
		nets = []string{"0.0.0.0/0"}
		if strings.Contains(e.NotNets[0], ":") {
			nets = []string{"::/0"}
		}
	}
	excepted := l.prefixes(at+".notNets", e.NotNets)
	for _, net := range l.prefixes(at+".nets", nets) {
		b := block{cidr: net}
		covered := false
		for _, not := range excepted {
			switch {
			case not.Addr().Is4() != net.Addr().Is4() || not.Bits() <= net.Bits() && not.Contains(net.Addr()):
				covered = true
			case net.Contains(not.Addr()):
				b.except = append(b.except, not)
			}
		}
		if !covered {
			out = append(out, b)
		}
	}
	if len(nets) > 0 && len(out) == 0 {
		l.add(at+".notNets", "it leaves nobody, and Kubernetes has no peer that is nobody")
	}
	return out
}

func (l *losses) prefixes(at string, texts []string) (out []netip.Prefix) {
	for _, text := range texts {
		p, err := prefix(text)
		if err != nil {
			l.add(at, "%v", err)
			continue
		}
		out = append(out, p)
	}
	return out
}

func prefix(text string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// without what is excepted: the networks that are left.
func (b *block) without() []netip.Prefix {
	for _, not := range b.except {
		if not.Bits() <= b.cidr.Bits() && not.Contains(b.cidr.Addr()) {
			return nil
		}
	}
	if !slices.ContainsFunc(b.except, b.cidr.Overlaps) {
		return []netip.Prefix{b.cidr}
	}
	bits := b.cidr.Bits() + 1
	low := block{netip.PrefixFrom(b.cidr.Addr(), bits), b.except}
	high := block{netip.PrefixFrom(withBit(b.cidr.Addr(), bits-1), bits), b.except}
	return append(low.without(), high.without()...)
}

// withBit of an address set, counted from the first.
func withBit(a netip.Addr, bit int) netip.Addr {
	b := a.AsSlice()
	b[bit/8] |= 0x80 >> (bit % 8)
	out, _ := netip.AddrFromSlice(b)
	return out
}
