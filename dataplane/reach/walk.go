package reach

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// Decider is what decides about packets: a rule, the end of a tier, or what refuses whatever comes.
type Decider struct {
	Direction policy.Direction
	Stage     policy.Stage
	Tier      string // "" for what is no tier to the user
	Policy    v3.Ref // zero where no policy's rule decides
	Rule      int    // of the policy; -1 where none
	Action    policy.Action
	Because   string // in place of a rule
}

var acts = map[policy.Action]string{policy.Allow: "allows", policy.Deny: "denies", policy.Pass: "passes"}

func (d Decider) String() string {
	where := d.Direction.String()
	if d.Stage != policy.Normal {
		where += " " + d.Stage.String()
	}
	switch {
	case d.Policy == (v3.Ref{}) && d.Tier == "":
		return fmt.Sprintf("%s: %s", where, d.Because)
	case d.Policy == (v3.Ref{}):
		return fmt.Sprintf("%s: tier %s %s at its end, because of %s", where, d.Tier, acts[d.Action], d.Because)
	case d.Policy.Kind == "Profile":
		return fmt.Sprintf("%s: %s %s", where, d.Policy, acts[d.Action])
	}
	return fmt.Sprintf("%s: %s rule %d %s", where, d.Policy, d.Rule, acts[d.Action])
}

func (v *view) decider(d Decider) int {
	i, ok := v.deciderOf[d]
	if !ok {
		i = len(v.deciders)
		v.deciderOf[d] = i
		v.deciders = append(v.deciders, d)
	}
	return i
}

// guard is the guards of all endpoints that ask the same.
type guard struct {
	stage     policy.Stage
	direction policy.Direction
	tiers     []policy.Tier
	sides     [2][]int   // which its rules name of the destination and of the source
	groupOf   [2][]int32 // of each class; nil until somebody asks
	verdicts  map[[2]int32]*verdicts
}

// verdicts are what a guard says of all packets between two classes: each atom is in one decision at most.
type verdicts struct {
	id        int32
	decisions []decision
}

type decision struct {
	by    int // decider
	what  bits
	allow bool
	skip  bool // later policy of host endpoints is not asked
}

// guardsOf the workload that has an address, by direction; -1 for none.
func (v *view) guardsOf(a netip.Addr) [2]int {
	out := [2]int{-1, -1}
	e := v.plan.Workload(a)
	if e == nil {
		return out
	}
	if have, ok := v.guarded[e]; ok {
		return have
	}
	for i := range e.Guards {
		if g := &e.Guards[i]; g.Stage == policy.Normal {
			out[g.Direction] = v.guard(g)
		}
	}
	v.guarded[e] = out
	return out
}

func (v *view) guard(g *policy.Guard) int {
	tiers := g.Tiers
	if v.staged && g.HasStaged {
		tiers = g.Staged
	}
	key := fmt.Sprint(g.Stage, g.Direction, tiers)
	if i, ok := v.guardOf[key]; ok {
		return i
	}
	c := &guard{stage: g.Stage, direction: g.Direction, tiers: tiers, verdicts: map[[2]int32]*verdicts{}}
	for _, t := range tiers {
		for _, ref := range t.Policies {
			for _, r := range v.books[ref][g.Direction] {
				c.sides[number], c.sides[origin] = append(c.sides[number], r.dst), append(c.sides[origin], r.src)
			}
		}
	}
	for of := range c.sides {
		slices.Sort(c.sides[of])
		c.sides[of] = slices.DeleteFunc(slices.Compact(c.sides[of]), func(i int) bool { return v.sides[i].any })
	}
	v.guardOf[key] = len(v.guards)
	v.guards = append(v.guards, c)
	return v.guardOf[key]
}

// group puts classes together that the sides of a guard take alike.
func (v *view) group(g *guard, of int) {
	ids := map[string]int32{}
	g.groupOf[of] = make([]int32, len(v.space.classes))
	var mark []byte
	for c := range v.space.classes {
		mark = append(mark[:0], byte(v.space.classes[c].family))
		for _, i := range g.sides[of] {
			s := v.sides[i]
			if !s.in[c] {
				mark = append(mark, 0)
			} else if mark = append(mark, 1); s.ports != nil {
				mark = binary.LittleEndian.AppendUint32(mark, uint32(s.takes[c]))
			}
		}
		id, ok := ids[string(mark)]
		if !ok {
			id = int32(len(ids))
			ids[string(mark)] = id
		}
		g.groupOf[of][c] = id
	}
}

// ask gives what a guard says of the packets from one class to another.
func (v *view) ask(g *guard, src, dst int) *verdicts {
	for of := range g.groupOf {
		if g.groupOf[of] == nil {
			v.group(g, of)
		}
	}
	at := [2]int32{g.groupOf[origin][src], g.groupOf[number][dst]}
	out := g.verdicts[at]
	if out == nil {
		out = &verdicts{id: v.results}
		v.results++
		v.walk(g, src, dst, func(d decision) { out.decisions = append(out.decisions, d) })
		g.verdicts[at] = out
	}
	return out
}

// match is what a rule takes of the packets from one class to another; nil for nothing.
func (v *view) match(r *rule, src, dst int) bits {
	from, to := v.sides[r.src], v.sides[r.dst]
	m := r.matches[v.space.classes[src].family]
	if m == nil || !from.in[src] || !to.in[dst] {
		return nil
	}
	if from.ports != nil {
		m = m.and(from.ports[from.takes[src]])
	}
	if to.ports != nil {
		m = m.and(to.ports[to.takes[dst]])
	}
	return m
}

// walk goes through a guard with all packets at once, as policy.Guard says: what a rule takes of those that are left, the next does not
// see, and what passes comes to the next tier.
func (v *view) walk(g *guard, src, dst int, decide func(decision)) {
	left := v.space.all()
	stateless := g.stage == policy.Untracked || g.stage == policy.PreDNAT
	for _, t := range g.tiers {
		passed := v.space.none()
		for _, ref := range t.Policies {
			rules := v.books[ref][g.direction]
			for i := range rules {
				r := &rules[i]
				m := v.match(r, src, dst)
				if m == nil || r.Action == policy.Log || !m.meets(left) {
					continue
				}
				m = m.and(left)
				left.drop(m)
				if r.Action == policy.Pass {
					passed.add(m)
					continue
				}
				by := v.decider(Decider{Direction: g.direction, Stage: g.stage, Tier: t.Name, Policy: ref, Rule: r.Index, Action: r.Action})
				allow := r.Action == policy.Allow
				decide(decision{by, m, allow, allow && stateless && !builtIn(ref)})
			}
		}
		switch {
		case t.Default == policy.Pass:
			passed.add(left)
		case !left.empty():
			d := Decider{Direction: g.direction, Stage: g.stage, Tier: t.Name, Rule: -1, Action: t.Default, Because: "no policy and no profile decided"}
			if len(t.Policies) > 0 {
				d.Because = t.Policies[0].String()
			}
			allow := t.Default == policy.Allow
			decide(decision{v.decider(d), left, allow, allow && stateless})
		}
		left = passed
	}
}

// builtIn are the policies that nobody wrote.
func builtIn(r v3.Ref) bool { return r.Kind == "Failsafe" || r.Kind == "Protection" }

// route is the posts between standings.
type route struct {
	id    int32
	posts []post
}

// post is a policy.Post of which the guard may be that of the source's or of the destination's own workload.
type post struct {
	guard                  int // -1: of the source; -2: of the destination; -3: everything is refused
	refused                int // by this decider
	host, fresh, discovery bool
}

const (
	ofSource = -1 - iota
	ofDestination
	refusal
)

type routeKey struct {
	family   policy.Families
	src, dst int // standings
	same     bool
}

// pair is two points that stand for all pairs of two classes with such nodes.
type pair struct{ src, dst int }

// pairs are the ways in which points of two classes may lie to each other: on one node, or on two. Where an address is on different nodes
// in two plans, it is every pair of nodes.
func (s *space) pairs(a, b int) (out []pair) {
	src, dst := &s.classes[a], &s.classes[b]
	if s.moved {
		return s.everyPair(src, dst, a == b)
	}
	common := src.places.and(dst.places)
	if a == b {
		common = src.twice
	}
	for i := 1; i < 64*len(common); i++ {
		if common[i/64] == 0 {
			i |= 63
		} else if common.has(i) {
			p := pair{s.at(src, i, -1), s.at(dst, i, -1)}
			if other := s.at(dst, i, p.src); other >= 0 {
				p.dst = other
			}
			out = append(out, p)
			break
		}
	}
	for _, p := range src.points[:1] {
		if q := s.apart(dst, p); q >= 0 {
			return append(out, pair{p, q})
		}
		q := dst.points[0]
		if p := s.apart(src, q); p >= 0 {
			return append(out, pair{p, q})
		}
	}
	return out
}

// at is a point of a class at a place, but for one point; -1 for none.
func (s *space) at(c *class, place, but int) int {
	for _, i := range c.points {
		if s.points[i].place == place && i != but {
			return i
		}
	}
	return -1
}

// apart is a point of a class that is not on the node of another point.
func (s *space) apart(c *class, from int) int {
	for _, i := range c.points {
		if s.points[i].place == 0 || s.points[i].place != s.points[from].place {
			return i
		}
	}
	return -1
}

func (s *space) everyPair(src, dst *class, one bool) (out []pair) {
	seen := map[[2]int]bool{}
	for _, a := range src.points {
		for _, b := range dst.points {
			at := [2]int{s.points[a].place, s.points[b].place}
			if one && a == b && s.views[0].plan.Workload(s.points[a].first) != nil || seen[at] {
				continue
			}
			seen[at] = true
			out = append(out, pair{a, b})
		}
	}
	return out
}

// route is found once for all that stand alike.
func (v *view) route(p pair) *route {
	a, b := &v.space.points[p.src], &v.space.points[p.dst]
	k := routeKey{policy.FamilyOf(a.first), v.standing[a.class], v.standing[b.class], v.together(p)}
	r := v.routes[k]
	if r == nil {
		r = &route{id: int32(len(v.routes))}
		src, dst := v.plan.Workload(a.first), v.plan.Workload(b.first)
		for _, p := range v.plan.Posts(a.first, b.first) {
			t := post{fresh: p.Fresh, discovery: p.Discovery && a.first.Is6(), host: p.Endpoint != nil && p.Endpoint.Host()}
			switch {
			case p.Guard == nil:
				t.guard = refusal
				t.refused = v.decider(Decider{Direction: p.Direction, Rule: -1, Action: policy.Deny, Because: p.Why})
			case p.Endpoint == src && p.Direction == policy.Egress:
				t.guard = ofSource
			case p.Endpoint == dst && p.Direction == policy.Ingress:
				t.guard = ofDestination
			default:
				t.guard = v.guard(p.Guard)
			}
			r.posts = append(r.posts, t)
		}
		v.routes[k] = r
	}
	return r
}

// outcome is what becomes of all packets from one class to another.
type outcome struct {
	view    *view
	id      int
	allowed bits
	parts   []decision // what decided what, in the order of the way; what is allowed at one post may be denied at a later one
}

// mostPosts is more than any way has.
const mostPosts = 15

// outcome of the packets between the classes of two points.
func (v *view) outcome(p pair) *outcome {
	if p.src == p.dst && v.plan.Workload(v.space.points[p.src].first) != nil {
		return v.toItself()
	}
	r := v.route(p)
	src, dst := v.space.points[p.src].class, v.space.points[p.dst].class
	var said [mostPosts]*verdicts
	k := [mostPosts + 1]int32{r.id}
	for i := range r.posts {
		g := r.posts[i].guard
		switch g {
		case refusal:
			continue
		case ofSource:
			g = v.own[src][policy.Egress]
		case ofDestination:
			g = v.own[dst][policy.Ingress]
		}
		said[i] = v.ask(v.guards[g], src, dst)
		k[i+1] = said[i].id
	}
	out := v.outcomes[k]
	if out == nil {
		out = v.combine(r, said[:])
		v.outcomes[k] = out
	}
	return out
}

// toItself is a workload's packet to its own address: it never leaves the workload.
func (v *view) toItself() *outcome { return v.combine(&route{}, nil) }

// combine asks one post after the other.
func (v *view) combine(r *route, said []*verdicts) *outcome {
	o := &outcome{view: v, allowed: v.space.all()}
	skip := v.space.none()
	discovery := v.space.discovery()
	mark := []byte{}
	note := func(d decision, what bits) {
		if !what.empty() {
			d.what = what
			o.parts = append(o.parts, d)
			mark = binary.LittleEndian.AppendUint32(append(mark, key(what)...), uint32(d.by))
		}
	}
	for i, t := range r.posts {
		if t.fresh {
			skip = v.space.none()
		}
		asked := slices.Clone(o.allowed)
		if t.host {
			asked.drop(skip)
		}
		if t.discovery {
			asked.drop(discovery)
		}
		if t.guard == refusal {
			note(decision{by: t.refused}, asked)
			o.allowed.drop(asked)
			continue
		}
		for _, d := range said[i].decisions {
			what := d.what.and(asked)
			note(d, what)
			if !d.allow {
				o.allowed.drop(what)
			} else if d.skip && t.host {
				skip.add(what)
			}
		}
	}
	mark = append(mark, key(o.allowed)...)
	if have := v.alike[string(mark)]; have != nil {
		return have
	}
	o.id = len(v.alike)
	v.alike[string(mark)] = o
	return o
}
