package lint

import (
	"fmt"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// walk is one list of tiers that some guards have: those that have the same are one.
type walk struct {
	guard *policy.Guard
	host  bool
}

func walksOf(p *policy.Plan) (out []walk) {
	seen := map[string]bool{}
	for i := range p.Endpoints {
		e := &p.Endpoints[i]
		for j := range e.Guards {
			g := &e.Guards[j]
			key := fmt.Sprint(e.Host(), g.Stage, g.Direction, g.Tiers)
			if !seen[key] {
				seen[key] = true
				out = append(out, walk{g, e.Host()})
			}
		}
	}
	return out
}

// Shadow is a rule that never decides: wherever it is asked, one before it has taken every packet that it matches.
type Shadow struct {
	Policy    v3.Ref
	Direction policy.Direction
	Rule      int // in the object
	Action    policy.Action
	By        v3.Ref // of which rule, at the first such place
	ByRule    int
	ByAction  policy.Action
}

// String says which rule stands before it.
func (s *Shadow) String() string {
	return fmt.Sprintf("rule %d of %s (%s) takes every packet that it matches", s.ByRule, s.By, s.ByAction)
}

// asked is a rule that has been asked before, in a walk.
type asked struct {
	ref  v3.Ref
	rule *policy.Rule
	tier int
	past bool // a Pass stands before it in its tier: what that takes does not meet this rule, and may meet later tiers
}

type ruleKey struct {
	ref   v3.Ref
	d     policy.Direction
	index int
}

// Shadows of a plan, as far as one rule alone takes all of another.
func Shadows(p *policy.Plan) (out []Shadow) { return shadows(p, walksOf(p)) }

func shadows(p *policy.Plan, walks []walk) (out []Shadow) {
	open, found := map[ruleKey]bool{}, map[ruleKey]Shadow{}
	var order []ruleKey
	for _, w := range walks {
		var before []asked
		for n, t := range w.guard.Tiers {
			past := false
			for _, ref := range t.Policies {
				rules := p.Policy(ref).Rules(w.guard.Direction)
				for i := range rules {
					r := &rules[i]
					key := ruleKey{ref, w.guard.Direction, r.Index}
					by := shadowOf(r, ref, n, before)
					_, known := found[key]
					switch {
					case by == nil:
						open[key] = true
					case !known:
						found[key] = Shadow{ref, w.guard.Direction, r.Index, r.Action, by.ref, by.rule.Index, by.rule.Action}
						order = append(order, key)
					}
					past = past || r.Action == policy.Pass
					if r.Action != policy.Log {
						before = append(before, asked{ref, r, n, past})
					}
				}
			}
		}
	}
	for _, key := range order {
		if !open[key] && written(key.ref) {
			out = append(out, found[key])
		}
	}
	return out
}

// written tells policies that somebody wrote from profiles and what is built in.
func written(ref v3.Ref) bool {
	return ref.Kind != "Profile" && ref.Kind != "Failsafe" && ref.Kind != "Protection"
}

// shadowOf a rule is the first that takes all of it. Pass does so in its own tier only; alternatives of one rule are one.
func shadowOf(r *policy.Rule, ref v3.Ref, tier int, before []asked) *asked {
	for i := range before {
		a := &before[i]
		if a.ref == ref && a.rule.Index == r.Index || (a.rule.Action == policy.Pass || a.past) && a.tier != tier {
			continue
		}
		if covers(a.rule, r) {
			return a
		}
	}
	return nil
}
