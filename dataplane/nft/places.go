package nft

import (
	"fmt"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// What a rule may do depends on the base chains that lead to it. The kernel refuses the whole transaction for a reject at the
// wrong place, without saying which; and a notrack behind connection tracking does nothing, without saying so.

// trackingPriority is where connection tracking looks at packets, in prerouting and output.
const trackingPriority = -200

// places refuses rules that stand, or that jumps, gotos and maps lead to, where they cannot do what they say.
func places(t *ruleset.Table) error {
	chains := make(map[string]*ruleset.Chain, len(t.Chains))
	for i := range t.Chains {
		chains[t.Chains[i].Name] = t.Chains[i]
	}
	next := ways(t)
	for i := range t.Chains {
		base := t.Chains[i]
		if base.Hook == "" {
			continue
		}
		for _, name := range reached(base.Name, next) {
			if err := placed(chains[name], base); err != nil {
				return err
			}
		}
	}
	return nil
}

// ways are the chains that each chain leads to.
func ways(t *ruleset.Table) map[string][]string {
	maps := make(map[string][]string, len(t.Maps))
	for i := range t.Maps {
		seen := map[string]bool{"": true}
		for _, e := range t.Maps[i].Entries {
			if to := e.Verdict.Chain; !seen[to] {
				seen[to] = true
				maps[t.Maps[i].Name] = append(maps[t.Maps[i].Name], to)
			}
		}
	}
	out := make(map[string][]string, len(t.Chains))
	for i := range t.Chains {
		var to []string
		for _, r := range t.Chains[i].Rules {
			if r.Verdict.Chain != "" {
				to = append(to, r.Verdict.Chain)
			}
			if r.VMap != nil {
				to = append(to, maps[r.VMap.Map]...)
			}
		}
		out[t.Chains[i].Name] = to
	}
	return out
}

// reached from a chain is itself and all chains that it leads to, once each.
func reached(from string, next map[string][]string) []string {
	out, seen := []string{from}, map[string]bool{from: true}
	for i := 0; i < len(out); i++ {
		for _, to := range next[out[i]] {
			if !seen[to] {
				seen[to] = true
				out = append(out, to)
			}
		}
	}
	return out
}

// place is what only some base chains let the chains that they lead to do.
type place uint8

const (
	rejecting place = 1 << iota
	untracking
)

var whyNot = map[place]string{rejecting: "the kernel does not reject there",
	untracking: fmt.Sprintf("notrack is for prerouting and output before priority %d", trackingPriority)}

// forbidden at a hook.
func forbidden(hook string, priority int) (out place) {
	if hook == "postrouting" {
		out |= rejecting
	}
	if early := (hook == "prerouting" || hook == "output") && priority < trackingPriority; hook != "" && !early {
		out |= untracking
	}
	return out
}

// demanded by a rule.
func demanded(r *ruleset.Rule) (out place) {
	if r.Verdict.Kind == ruleset.Reject {
		out |= rejecting
	}
	if r.NoTrack {
		out |= untracking
	}
	return out
}

// placed refuses the rules of a chain that cannot do at the base chain what they say.
func placed(c, base *ruleset.Chain) error {
	forbids := forbidden(base.Hook, base.Priority)
	for i := range c.Rules {
		r := &c.Rules[i]
		for _, p := range []place{untracking, rejecting} {
			if p&forbids&demanded(r) != 0 {
				return fmt.Errorf("chain %s: rule %d (%s), which base chain %s at %s %d leads to: %s",
					c.Name, i+1, r.ID, base.Name, base.Hook, base.Priority, whyNot[p])
			}
		}
	}
	return nil
}
