package ruleset

import (
	"reflect"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// guards are those of the last plan, for the next, and all that they were made into:
//
//	guard ──► tier chains ──► policy chains ──► chains by port, log chains
//	  └─────────┴──────────────────┴──► maps by port, sets of networks and ports
//
// They share most of that, so a pool counts how many have each thing; what none has any more is in no table.
type guards struct {
	by     map[string]*kept // by the name of the guard's chain
	sets   pool[Set]        // besides the moving ones
	maps   pool[Map]
	chains pool[Chain]
}

func newGuards() *guards {
	return &guards{by: map[string]*kept{},
		sets:   newPool(setName, func(a, b *Set) bool { return a.Type == b.Type && a.Interval == b.Interval && a.Elems.Equal(b.Elems) }),
		maps:   newPool(mapName, func(a, b *Map) bool { return a.Type == b.Type && slices.Equal(a.Entries, b.Entries) }),
		chains: newPool(chainName, func(a, b *Chain) bool { return sameRules(a.Rules, b.Rules) })}
}

// kept is a guard: the policies that it was made of, and what it was made into.
type kept struct {
	policies []policy.Policy
	has      reached
	stale    bool
}

// reached is names of sets, maps and chains.
type reached struct{ sets, maps, chains []string }

// guardKept tells whether the guard of the name is as it was for the last plan.
func (c *compiler) guardKept(name string) bool {
	k := c.guards.by[name]
	if k == nil || k.stale {
		return false
	}
	if c.last != nil && shared(c.plan.Policies, c.last.Policies) {
		return true
	}
	for i := range k.policies {
		was := &k.policies[i]
		if now := c.plan.Policy(was.Ref); now == nil || !alike(now, was) {
			k.stale = true
			return false
		}
	}
	return true
}

// alike tells whether two policies have the same rules, and the same in all that rules are made by.
func alike(a, b *policy.Policy) bool {
	return a.Tier == b.Tier && a.Stage == b.Stage && alikeRules(a.Ingress, b.Ingress) && alikeRules(a.Egress, b.Egress)
}

func alikeRules(a, b []policy.Rule) bool {
	return shared(a, b) || len(a) == len(b) && reflect.DeepEqual(a, b)
}

// stale says that no guard can be kept.
func (g *guards) stale() {
	for _, k := range g.by {
		k.stale = true
	}
}

// keep the guards of this plan, and no others: those that were made join before those that are not used any more leave, so that what
// both have stays what it is.
func (c *compiler) keep() {
	g := c.guards
	var leaving []*kept
	for name, k := range g.by {
		if !c.used[name] || c.made.chains[name] != nil {
			leaving = append(leaving, k)
			delete(g.by, name)
		}
	}
	for _, made := range c.fresh {
		base := c.names[guardKey{&made.Tiers[0], made.Direction}].name
		for _, suffix := range suffixes {
			if name := base + suffix; c.made.chains[name] != nil && g.by[name] == nil {
				g.by[name] = c.kept(name, made.Tiers)
				g.join(&g.by[name].has, c.made)
			}
		}
	}
	if len(c.names) > 2*c.named { // most are of guards that have gone
		c.names = map[guardKey]guardName{}
	}
	for _, k := range leaving {
		g.leave(&k.has)
	}
	g.sets.settle()
	g.maps.settle()
	g.chains.settle()
}

func (c *compiler) kept(name string, tiers []policy.Tier) *kept {
	k := &kept{has: c.made.reach(name)}
	for _, t := range tiers {
		for _, ref := range t.Policies {
			k.policies = append(k.policies, *c.plan.Policy(ref))
		}
	}
	return k
}

func (g *guards) join(r *reached, made *objects) {
	for _, name := range r.sets {
		g.sets.join(name, made.sets[name].sorted())
	}
	for _, name := range r.maps {
		g.maps.join(name, made.maps[name].sorted())
	}
	for _, name := range r.chains {
		g.chains.join(name, made.chains[name])
	}
}

func (g *guards) leave(r *reached) {
	for _, name := range r.sets {
		g.sets.leave(name)
	}
	for _, name := range r.maps {
		g.maps.leave(name)
	}
	for _, name := range r.chains {
		g.chains.leave(name)
	}
}

// reach is all that a chain leads to and reads, itself included.
func (o *objects) reach(chain string) (out reached) {
	seen := map[string]bool{}
	var walk func(chain string)
	walk = func(chain string) {
		if seen["chain "+chain] || o.chains[chain] == nil {
			return
		}
		seen["chain "+chain] = true
		out.chains = append(out.chains, chain)
		for i := range o.chains[chain].Rules {
			r := &o.chains[chain].Rules[i]
			for _, m := range r.Matches {
				if o.sets[m.Set] != nil && !seen[m.Set] {
					seen[m.Set] = true
					out.sets = append(out.sets, m.Set)
				}
			}
			if r.VMap != nil && o.maps[r.VMap.Map] != nil && !seen[r.VMap.Map] {
				seen[r.VMap.Map] = true
				out.maps = append(out.maps, r.VMap.Map)
				for _, e := range o.maps[r.VMap.Map].Entries {
					walk(e.Verdict.Chain)
				}
			}
			walk(r.Verdict.Chain)
		}
	}
	walk(chain)
	return out
}

// pool is objects of one sort that guards have, each with how many have it.
type pool[T any] struct {
	name    func(*T) string
	equal   func(a, b *T) bool
	by      map[string]*pooled[T]
	list    []*T            // in order, as of the last settle
	touched map[string]bool // what has come, gone or changed since
}

type pooled[T any] struct {
	object *T
	users  int
}

func newPool[T any](name func(*T) string, equal func(a, b *T) bool) pool[T] {
	return pool[T]{name: name, equal: equal, by: map[string]*pooled[T]{}, touched: map[string]bool{}}
}

// join says that one more has an object. Where it is equal to what there is under its name, that stays.
func (p *pool[T]) join(name string, o *T) {
	have := p.by[name]
	switch {
	case have == nil:
		have = &pooled[T]{object: o}
		p.by[name], p.touched[name] = have, true
	case !p.equal(have.object, o): // whoever has it was made anew as well
		have.object, p.touched[name] = o, true
	}
	have.users++
}

func (p *pool[T]) leave(name string) {
	if p.by[name].users--; p.by[name].users == 0 {
		delete(p.by, name)
		p.touched[name] = true
	}
}

// settle brings the list up to date.
func (p *pool[T]) settle() {
	if len(p.touched) == 0 {
		return
	}
	list := make([]*T, 0, len(p.by))
	for _, o := range p.list {
		if !p.touched[p.name(o)] {
			list = append(list, o)
		}
	}
	var anew []*T
	for name := range p.touched {
		if have := p.by[name]; have != nil {
			anew = append(anew, have.object)
		}
	}
	slices.SortFunc(anew, func(a, b *T) int { return strings.Compare(p.name(a), p.name(b)) })
	p.list = merge(list, anew, p.name)
	p.touched = map[string]bool{}
}

// merge two lists that are in order, of which the second is short; of a name in both the second has it.
func merge[T any](long, short []*T, name func(*T) string) []*T {
	if len(short) == 0 {
		return long
	}
	byName := func(o *T, n string) int { return strings.Compare(name(o), n) }
	out := make([]*T, 0, len(long)+len(short))
	for _, o := range short {
		i, there := slices.BinarySearchFunc(long, name(o), byName)
		out = append(append(out, long[:i]...), o)
		if long = long[i:]; there {
			long = long[1:]
		}
	}
	return append(out, long...)
}
