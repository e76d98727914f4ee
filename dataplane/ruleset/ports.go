package ruleset

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// Most rules are about a port, and most packets are for another one. Neighbouring steps that each name their ports become one
// lookup in a verdict map, which leads a packet past all that cannot match it, in the order that they had:
//
//	jump np/web/ingress                  meta l4proto . th dport vmap @ports-…     tcp 80:  jump np/web/ingress/tcp-80
//	jump np/db/ingress            ──►    jump np/any/ingress                       tcp 443: jump np/web/ingress/tcp-443
//	jump np/any/ingress                                                            tcp 5432: jump np/db/ingress/tcp-5432
//
// A packet that no port leads away goes on behind the map, and so does one that comes back undecided. A step that may match other
// packets too (no port, a named one, many) stays between the maps where it was, so nothing changes its place in the order.

// step of a list that is walked in order: a policy, or a rule of one.
type step struct {
	ports  []Elem            // protocol and port of the only packets that it can match; nil when there may be others
	rules  func() []Rule     // for any packet
	at     func(Elem) []Rule // for packets to one of its ports
	weight int               // how many rules of policies a packet is compared with here
	copies int               // and how many there are where each stands once for every port that it names
}

const (
	mostPorts  = 16     // that a rule may name to be found by its ports
	worthMap   = 6      // a packet is compared with fewer rules in less time than a lookup takes (test/bench)
	mostOwn    = 1024   // ports that a policy may name to be found by them in its tier: each guard has them once more
	mostCopies = 65_536 // of a run's steps, one for each port that they name: where there would be more, each is asked in turn
)

// list is steps, and the chains that they are led to.
type list struct {
	owner string // the chain in which they stand
	steps []step
	chain func(port Elem, run int, steps []step) string // for packets to a port, in a run of the list: what its steps have for it
}

// byPort gives the rules of a list.
func (c *compiler) byPort(l list) (out []Rule) {
	for n, steps := 0, l.steps; len(steps) > 0; n++ {
		run, weight, copies := 0, 0, 0
		for run < len(steps) && steps[run].ports != nil {
			weight += steps[run].weight
			copies += steps[run].copies
			run++
		}
		if weight >= c.worth && copies <= max(mostCopies, weight) {
			out = append(out, Rule{VMap: &VMap{KeyProtoDPort, c.portMap(l, n, steps[:run])}})
		} else {
			run = min(run+1, len(steps)) // with the step that ends the run
			for _, s := range steps[:run] {
				out = append(out, s.rules()...)
			}
		}
		steps = steps[run:]
	}
	return out
}

// portMap leads packets to each port to what the steps of a run have for it.
func (c *compiler) portMap(l list, run int, steps []step) string {
	m := c.newMap(fmt.Sprintf("ports-%s-%d", hash(l.owner), run), TypeProtoPort)
	naming := naming(steps)
	for _, p := range slices.SortedFunc(maps.Keys(naming), Elem.Compare) {
		m.Entries = append(m.Entries, Entry{p, Verdict{Jump, l.chain(p, run, naming[p])}})
	}
	return m.Name
}

// naming are the steps that name each port.
func naming(steps []step) map[Elem][]step {
	out := map[Elem][]step{}
	for _, s := range steps {
		for _, p := range s.ports {
			out[p] = append(out[p], s)
		}
	}
	return out
}

// portsOf a rule; nil when it may match packets to other ports, or names too many.
func portsOf(r *policy.Rule) (out []Elem) {
	if !policy.HasPorts(r.Proto) || len(r.Dst.PortSets) > 0 {
		return nil
	}
	for _, p := range r.Dst.Ports {
		for n := int(p.Min); n <= int(p.Max); n++ {
			if out = append(out, Elem{Proto: r.Proto, Port: uint16(n), PortTo: uint16(n)}); len(out) > mostPorts {
				return nil
			}
		}
	}
	return out
}

// portsOfAll rules, and how many it is with those that several name; nil when one of them may match packets to other ports, or all
// together name too many.
func portsOfAll(rules []policy.Rule) (out []Elem, copies int) {
	for i := range rules {
		ports := portsOf(&rules[i])
		if ports == nil {
			return nil, 0
		}
		out = append(out, ports...)
	}
	copies = len(out)
	slices.SortFunc(out, Elem.Compare)
	if out = slices.Compact(out); len(out) > mostOwn {
		return nil, 0
	}
	return out, copies
}

// policySteps are a tier's policies. One that has something for a port is jumped to; of several there is a chain, for all who have the
// same ones.
func (c *compiler) policySteps(owner string, steps []step) list {
	return list{owner, steps, func(port Elem, _ int, steps []step) string {
		if len(steps) == 1 {
			return steps[0].at(port)[0].Verdict.Chain
		}
		chain := &Chain{}
		for _, s := range steps {
			chain.Rules = append(chain.Rules, s.at(port)...)
		}
		chain.Name = "ports/" + hash(chain.Rules)
		c.chains[chain.Name] = chain
		return chain.Name
	}}
}

// policyStep jumps to a policy, or to what it has for a port. The names of those chains do not say what is in them: who jumps there is
// not concerned by a change of the policy's rules.
func (c *compiler) policyStep(p *policy.Policy, d policy.Direction, m mode) step {
	jump := func(chain string) []Rule { return []Rule{{Verdict: Verdict{Jump, chain}}} }
	var own list
	var named map[Elem][]step
	ports, copies := portsOfAll(p.Rules(d))
	return step{
		ports: ports,
		rules: func() []Rule { return jump(c.policyChain(p, d, m)) },
		at: func(port Elem) []Rule {
			if named == nil {
				own = c.ruleSteps(p, d, m)
				named = naming(own.steps)
			}
			return jump(own.chain(port, 0, named[port]))
		},
		weight: len(p.Rules(d)),
		copies: copies,
	}
}

// ruleSteps are the rules of a policy.
func (c *compiler) ruleSteps(p *policy.Policy, d policy.Direction, m mode) list {
	l := list{owner: fmt.Sprintf("%s/%s%s", policyName(p), d, m.suffix)}
	for i := range p.Rules(d) {
		rules := func() []Rule { return c.rule(p, i, d, m) }
		ports := portsOf(&p.Rules(d)[i])
		l.steps = append(l.steps, step{ports: ports, rules: rules, weight: 1, copies: len(ports)})
	}
	l.chain = func(port Elem, run int, steps []step) string {
		name := fmt.Sprintf("%s/%s/%s-%d%s", policyName(p), d, numberOr(protoWords, uint32(port.Proto)), port.Port, m.suffix)
		if run > 0 {
			name += fmt.Sprintf("/%d", run)
		}
		if c.chains[name] == nil {
			chain := &Chain{Name: name}
			for _, s := range steps {
				chain.Rules = append(chain.Rules, s.rules()...)
			}
			c.chains[name] = chain
		}
		return name
	}
	return l
}
