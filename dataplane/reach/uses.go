package reach

import (
	"slices"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// Use says of a rule whether there is any packet that it decides about, logs or passes on, where it is asked.
type Use struct {
	Policy    v3.Ref
	Direction policy.Direction
	Rule      int // in the object that the user wrote
	Decides   bool
	Why       string    // it never does
	By        []Decider // that take what it would match, the first first
}

// Uses are the rules of all policies in force that select somebody, by policy, direction and rule. A rule that becomes several counts once.
func Uses(p *policy.Plan) []Use {
	s := newSpace(Options{}, p)
	u := using{view: s.views[0], of: map[ruleKey]*usage{}, seen: map[guardKey]bool{}}
	for a := range s.classes {
		for b := range s.classes {
			if s.classes[a].family == s.classes[b].family {
				for _, p := range s.pairs(a, b) {
					u.way(p)
				}
			}
		}
	}
	return u.uses()
}

type using struct {
	*view
	of   map[ruleKey]*usage
	seen map[guardKey]bool
}

type ruleKey struct {
	policy    v3.Ref
	direction policy.Direction
	rule      int
}

type guardKey struct {
	guard    int
	src, dst int32
}

type usage struct {
	decides bool
	by      []Decider
}

// way asks every guard on the way from one class to another, whatever those before it let pass.
func (u *using) way(p pair) {
	src, dst := u.space.points[p.src].class, u.space.points[p.dst].class
	for _, t := range u.route(p).posts {
		g := t.guard
		switch g {
		case refusal:
			continue
		case ofSource:
			g = u.own[src][policy.Egress]
		case ofDestination:
			g = u.own[dst][policy.Ingress]
		}
		k := u.guards[g]
		u.ask(k, src, dst)
		at := guardKey{g, k.groupOf[origin][src], k.groupOf[number][dst]}
		if !u.seen[at] {
			u.seen[at] = true
			u.walk(k, src, dst)
		}
	}
}

// taken is what a decider has taken.
type taken struct {
	by   Decider
	what bits
}

// walk is view.walk with a memory of who took what.
func (u *using) walk(g *guard, src, dst int) {
	left := u.space.real(u.space.classes[src].family)
	var before []taken
	for _, t := range g.tiers {
		passed := u.space.none()
		for _, ref := range t.Policies {
			rules := u.books[ref][g.direction]
			for i := range rules {
				r := &rules[i]
				if m := u.match(r, src, dst); m != nil {
					by := Decider{Direction: g.direction, Stage: g.stage, Tier: t.Name, Policy: ref, Rule: r.Index, Action: r.Action}
					if took := u.note(by, m, left, before); r.Action != policy.Log && !took.empty() {
						before = append(before, taken{by, took})
						left.drop(took)
						if r.Action == policy.Pass {
							passed.add(took)
						}
					}
				}
			}
		}
		if t.Default == policy.Pass {
			passed.add(left)
		} else if !left.empty() {
			d := Decider{Direction: g.direction, Stage: g.stage, Tier: t.Name, Rule: -1, Action: t.Default}
			if len(t.Policies) > 0 {
				d.Because = t.Policies[0].String()
			}
			before = append(before, taken{d, left})
		}
		left = passed
	}
}

// note gives what a rule takes of what is left, or notes who has taken it before.
func (u *using) note(by Decider, m, left bits, before []taken) bits {
	k := ruleKey{by.Policy, by.Direction, by.Rule}
	use := u.of[k]
	if use == nil {
		use = &usage{}
		u.of[k] = use
	}
	took := m.and(left)
	use.decides = use.decides || !took.empty()
	if use.decides {
		return took
	}
	for _, b := range before {
		if b.what.meets(m) && !slices.Contains(use.by, b.by) {
			use.by = append(use.by, b.by)
		}
	}
	return took
}

func (u *using) uses() (out []Use) {
	for p := range u.asked {
		if builtIn(p.Ref) || p.Ref.Kind == "Profile" {
			continue
		}
		for d := policy.Ingress; d <= policy.Egress; d++ {
			told := map[int]bool{}
			for _, r := range p.Rules(d) {
				if !told[r.Index] {
					told[r.Index] = true
					out = append(out, u.of[ruleKey{p.Ref, d, r.Index}].use(p.Ref, d, r.Index))
				}
			}
		}
	}
	return out
}

func (u *usage) use(ref v3.Ref, d policy.Direction, rule int) Use {
	out := Use{Policy: ref, Direction: d, Rule: rule}
	switch {
	case u == nil || len(u.by) == 0 && !u.decides:
		out.Why = "it matches no packet between the ends that there are"
	case u.decides:
		out.Decides = true
	case !slices.ContainsFunc(u.by, func(b Decider) bool { return b.Policy != ref }):
		out.Why, out.By = "earlier rules of the same policy take all that it would match", u.by
	default:
		out.Why, out.By = "earlier policies or tiers take all that it would match", u.by
	}
	return out
}
