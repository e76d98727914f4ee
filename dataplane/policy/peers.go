package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/tierwall/tierwall/apis/selector"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

// subject is the selector of the endpoints that a policy guards (contract §2.5): its own selector, and its namespace or
// namespaceSelector, and its serviceAccountSelector.
func subject(namespace, sel, nsSel, saSel string) (*selector.Selector, error) {
	own, err := parse("spec.selector", sel)
	if err != nil {
		return nil, err
	}
	ns, err := parse("spec.namespaceSelector", nsSel)
	if err != nil {
		return nil, err
	}
	sa, err := parse("spec.serviceAccountSelector", saSel)
	if err != nil {
		return nil, err
	}
	if own == nil && namespace == "" && ns == nil && sa == nil {
		return selector.All(), nil
	}
	return selector.And(own, inNamespace(namespace), ofNamespaces(ns), ofServiceAccounts(sa)), nil
}

// parse gives nil for the empty text, which asks for nothing.
func parse(field, text string) (*selector.Selector, error) {
	if text == "" {
		return nil, nil
	}
	s, err := selector.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	if s.UsesGlobal() {
		return nil, fmt.Errorf("%s: global() stands only alone, in a rule's namespaceSelector", field)
	}
	return s, nil
}

func inNamespace(namespace string) *selector.Selector {
	if namespace == "" {
		return nil
	}
	return selector.Equals(labelNamespace, namespace)
}

// ofNamespaces turns a selector of namespaces into one of what is in them.
func ofNamespaces(s *selector.Selector) *selector.Selector {
	if s == nil {
		return nil
	}
	return s.Prefixed(namespacePrefix).ReplaceAll(selector.Has(labelNamespace))
}

func ofServiceAccounts(s *selector.Selector) *selector.Selector {
	if s == nil {
		return nil
	}
	return s.Prefixed(serviceAccountPfx).ReplaceAll(selector.Has(labelServiceAccount))
}

// peer is the selectors of a rule's end (contract §2.6), nil where there is none.
func (c *compiler) peer(in *v3.EntityRule) (pos, neg *selector.Selector, err error) {
	if pos, err = parse("selector", in.Selector); err != nil {
		return nil, nil, err
	}
	if neg, err = parse("notSelector", in.NotSelector); err != nil {
		return nil, nil, err
	}
	accounts, err := accounts(in.ServiceAccounts)
	if err != nil {
		return nil, nil, err
	}
	namespaces, err := c.namespaces(in.NamespaceSelector, pos != nil || neg != nil || accounts != nil)
	if err != nil {
		return nil, nil, err
	}
	return selector.And(namespaces, accounts, pos), neg, nil
}

// namespaces is where a peer may be: what the namespaceSelector says, else the policy's own namespace if it has one and the
// peer is chosen by labels at all.
func (c *compiler) namespaces(text string, byLabels bool) (*selector.Selector, error) {
	if text == "" {
		if !byLabels {
			return nil, nil
		}
		return inNamespace(c.ref.Namespace), nil
	}
	s, err := selector.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("namespaceSelector: %w", err)
	}
	if s.UsesGlobal() {
		if s.String() != "global()" {
			return nil, errors.New("namespaceSelector: global() stands only alone")
		}
		return selector.Not(selector.Has(labelNamespace)), nil
	}
	return ofNamespaces(s), nil
}

func accounts(in *v3.ServiceAccountMatch) (*selector.Selector, error) {
	if in == nil {
		return nil, nil
	}
	s, err := parse("serviceAccounts.selector", in.Selector)
	if err != nil {
		return nil, err
	}
	var names *selector.Selector
	if len(in.Names) > 0 {
		names = selector.In(labelServiceAccount, in.Names...)
	}
	return selector.And(names, ofServiceAccounts(s)), nil
}

// mergePorts sorts ranges and joins those that touch.
func mergePorts(in []PortRange) []PortRange {
	in = slices.Clone(in)
	slices.SortFunc(in, func(a, b PortRange) int { return cmp.Or(cmp.Compare(a.Min, b.Min), cmp.Compare(a.Max, b.Max)) })
	out := in[:0]
	for _, r := range in {
		if n := len(out); n > 0 && int(r.Min) <= int(out[n-1].Max)+1 {
			out[n-1].Max = max(out[n-1].Max, r.Max)
			continue
		}
		out = append(out, r)
	}
	return out
}
