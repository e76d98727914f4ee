package policy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tierwall/tierwall/apis/selector"
)

// What one object may ask of every node. Who may write it is often not who runs the nodes, and some of what it says multiplies: a port
// with each address, a selector with each pod of the cluster. What asks for more fails closed, and its author is told; nothing that is
// written by hand comes near. How many objects there may be is for a ResourceQuota to say.
const (
	// MaxRules of a policy in one direction: one for each protocol and peer of a rule of Kubernetes'.
	MaxRules = 20_000
	// MaxSelectors that are different, in one policy.
	MaxSelectors = 2_048
	// MaxClauses of all selectors of one policy together.
	MaxClauses = 16_384
	// MaxAddrs of one pod: until its node has reported them they are what it says of itself.
	MaxAddrs = 64
	// MaxPorts of one endpoint or EndpointSlice, each counted at each of its addresses.
	MaxPorts = 100_000
	// MaxServicePorts of a service that a rule names, counted so: each slice may be in bounds, and there may be many.
	MaxServicePorts = 1_000_000
	// maxErrors that are told of one object.
	maxErrors = 20
)

// bounded puts a denial in place of the rules of a policy that asks for too much: it guards what it selects, and lets nothing through.
func (b *book) bounded() error {
	err := b.excess()
	if err == nil {
		return nil
	}
	denial := func(rules []Rule) []Rule {
		if len(rules) == 0 {
			return nil
		}
		return []Rule{{Action: Deny, Families: AnyFamily, Note: fmt.Sprintf("the policy is too large (%v), so it denies", err)}}
	}
	b.sets, b.policy.Ingress, b.policy.Egress = map[string]setSpec{}, denial(b.policy.Ingress), denial(b.policy.Egress)
	return fmt.Errorf("spec: %w: it denies everything in its place until it is made several", err)
}

func (b *book) excess() error {
	if n := max(len(b.policy.Ingress), len(b.policy.Egress)); n > MaxRules {
		return fmt.Errorf("%d rules in one direction, one for each peer and protocol, are more than %d", n, MaxRules)
	}
	if n := len(b.sets); n > MaxSelectors {
		return fmt.Errorf("%d different selectors and lists of named ports are more than %d", n, MaxSelectors)
	}
	clauses := clausesOf(b.subject)
	for _, s := range b.sets {
		clauses += clausesOf(s.sel)
	}
	if clauses > MaxClauses {
		return fmt.Errorf("%d clauses in all selectors together are more than %d", clauses, MaxClauses)
	}
	return nil
}

func clausesOf(s *selector.Selector) int {
	if s == nil {
		return 0
	}
	return s.Clauses()
}

// bounded leaves out ports of an endpoint that has too many at too many addresses.
func (m *member) bounded() error {
	n := len(m.addrs) * len(m.ports)
	if n <= MaxPorts {
		return nil
	}
	err := fmt.Errorf("ports: %d named ports at each of %d addresses are more than %d together: no rule finds them by name", len(m.ports), len(m.addrs), MaxPorts)
	m.ports = nil
	return err
}

// some of the errors: of thousands in one object the first are enough to begin with.
func some(errs []error) error {
	var kept []error
	left := 0
	for _, err := range errs {
		if err == nil {
			continue
		}
		if len(kept) < maxErrors {
			kept = append(kept, err)
		} else {
			left++
		}
	}
	if left > 0 {
		kept = append(kept, fmt.Errorf("and %d more", left))
	}
	return errors.Join(kept...)
}

// brief is a text no longer than a line: a selector may have a megabyte.
func brief(text string) string {
	const most = 256
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
