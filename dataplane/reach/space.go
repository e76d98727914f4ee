package reach

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sort"

	"go4.org/netipx"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// space is all packets, parted so finely that no rule of the plans tells apart two of one part: addresses into classes, and what packets
// differ in besides into atoms.
type space struct {
	*services
	points  []point
	classes []class
	views   []*view // one a plan
	moved   bool    // some address is on one node in one plan and on another in the other
}

// point is an address that is somebody's, or neighbouring ones that nobody's network parts.
type point struct {
	first, last netip.Addr
	class       int
	place       int  // index of places; 0 of those that are on no node
	strange     bool // it is not the same one's in all plans
}

// class is points that all rules, and all nodes, treat alike.
type class struct {
	family policy.Families
	points []int
	places bits // where they are
	twice  bits // where there are two of them, or a host, which is its own peer
}

// view is how one plan sees the space.
type view struct {
	plan     *policy.Plan
	staged   bool
	space    *space
	sides    []*side
	sideOf   map[string]int
	books    map[v3.Ref]*[2][]rule
	standing []int // of each class: index of what is alike
	nodes    []string
	guards   []*guard
	guardOf  map[string]int
	own      [][2]int // of each class: the guards of its workloads, by direction; -1 none

	guarded   map[*policy.Endpoint][2]int // these, by endpoint
	deciders  []Decider
	deciderOf map[Decider]int
	routes    map[routeKey]*route
	results   int32
	outcomes  map[[mostPosts + 1]int32]*outcome // by what the posts say
	alike     map[string]*outcome
}

// side is what some rules ask of one end.
type side struct {
	any    bool
	points bits   // whose address it takes
	ports  []bits // the services that it takes of them, where they depend on the address
	at     []int32
	in     []bool  // of each class: its points are taken
	takes  []int32 // of each class: index of ports
}

// rule is a policy's rule as guards ask it.
type rule struct {
	*policy.Rule
	matches  map[policy.Families]bits
	src, dst int // sides
}

// unspoken are the addresses from and to which nothing is sent from one host to another.
var unspoken = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("0.0.0.0/32"), netip.MustParsePrefix("::/127")}

// special are those that nodes keep to themselves.
var special = []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8")}

func newSpace(o Options, plans ...*policy.Plan) *space {
	s := &space{}
	for _, p := range plans {
		s.views = append(s.views, &view{plan: p, staged: o.Staged, space: s, sideOf: map[string]int{}, books: map[v3.Ref]*[2][]rule{},
			guardOf: map[string]int{}, guarded: map[*policy.Endpoint][2]int{}, deciderOf: map[Decider]int{}, routes: map[routeKey]*route{},
			outcomes: map[[mostPosts + 1]int32]*outcome{}, alike: map[string]*outcome{}})
	}
	c := newCuts()
	if o.Proto != 0 {
		c.proto(o.Proto)
	}
	if o.Port != 0 {
		for _, n := range portProtos {
			c.cut(n, number, int(o.Port), int(o.Port))
		}
	}
	for _, v := range s.views {
		v.cut(c)
	}
	s.services = c.services()
	s.part()
	for _, v := range s.views {
		v.compile()
	}
	s.classify()
	return s
}

// asked are the policies that are asked: those that are only staged only if they count.
func (v *view) asked(yield func(*policy.Policy) bool) {
	for i := range v.plan.Policies {
		if p := &v.plan.Policies[i]; (v.staged || !p.Staged) && !yield(p) {
			return
		}
	}
}

func (v *view) rules(yield func(*policy.Rule) bool) {
	for p := range v.asked {
		for _, rules := range [][]policy.Rule{p.Ingress, p.Egress} {
			for i := range rules {
				if !yield(&rules[i]) {
					return
				}
			}
		}
	}
}

func (v *view) cut(c cuts) {
	done := map[string]bool{}
	for r := range v.rules {
		c.rule(r)
		for of, s := range []*policy.Side{number: &r.Dst, origin: &r.Src} {
			for _, id := range slices.Concat(s.PortSets, s.NotPortSets) {
				if key := fmt.Sprint(of, id); !done[key] {
					done[key] = true
					for p := range v.plan.Set(id).Ports.All() {
						c.cut(p.Proto, of, int(p.Port), int(p.Port))
					}
				}
			}
		}
	}
}

// part cuts all addresses at each that is somebody's and at the ends of each network that somebody names.
func (s *space) part() {
	begins := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	one := func(a netip.Addr) {
		begins = append(begins, a)
		if next := a.Next(); next.IsValid() {
			begins = append(begins, next)
		}
	}
	nets := func(nets []netip.Prefix) {
		for _, n := range nets {
			begins = append(begins, n.Masked().Addr())
			if next := netipx.PrefixLastIP(n).Next(); next.IsValid() {
				begins = append(begins, next)
			}
		}
	}
	nets(unspoken)
	nets(special)
	for _, v := range s.views {
		for r := range v.rules {
			for _, side := range []*policy.Side{&r.Src, &r.Dst} {
				nets(side.Nets)
				nets(side.NotNets)
			}
		}
		for _, set := range v.plan.Sets {
			if set.Staged && !v.staged {
				continue
			}
			for a := range set.Addrs.All() {
				one(a)
			}
			nets(set.Nets)
			for p := range set.Ports.All() {
				one(p.Addr)
			}
		}
		for i := range v.plan.Endpoints {
			e := &v.plan.Endpoints[i]
			nets(e.Sources)
			for _, a := range e.Addrs {
				one(a)
			}
		}
		for _, h := range v.plan.Hosts {
			for _, a := range h.Addrs {
				one(a)
			}
		}
	}
	slices.SortFunc(begins, netip.Addr.Compare)
	begins = slices.Compact(begins)
	for i, a := range begins {
		if slices.ContainsFunc(unspoken, func(n netip.Prefix) bool { return n.Contains(a) }) {
			continue
		}
		last := netipx.PrefixLastIP(netip.PrefixFrom(a, 0))
		if i+1 < len(begins) && begins[i+1].Is4() == a.Is4() {
			last = begins[i+1].Prev()
		}
		s.points = append(s.points, point{first: a, last: last})
	}
}

// from is the first point that does not lie before an address.
func (s *space) from(a netip.Addr) int {
	return sort.Search(len(s.points), func(i int) bool { return !s.points[i].last.Less(a) })
}

// find is the point of an address, or -1 of one that is unspoken.
func (s *space) find(a netip.Addr) int {
	if i := s.from(a); i < len(s.points) && !a.Less(s.points[i].first) {
		return i
	}
	return -1
}

func (s *space) markNets(b bits, nets []netip.Prefix) {
	for _, n := range nets {
		last := netipx.PrefixLastIP(n)
		for i := s.from(n.Masked().Addr()); i < len(s.points) && !last.Less(s.points[i].first); i++ {
			b.set(i)
		}
	}
}

// compile makes of rules what guards ask.
func (v *view) compile() {
	sets := map[string]bits{}
	for p := range v.asked {
		k := &[2][]rule{}
		for d := policy.Ingress; d <= policy.Egress; d++ {
			rules := p.Rules(d)
			for i := range rules {
				r := &rules[i]
				c := rule{Rule: r, matches: map[policy.Families]bits{}, src: v.side(&r.Src, origin, sets), dst: v.side(&r.Dst, number, sets)}
				for _, f := range []policy.Families{policy.IPv4, policy.IPv6} {
					if r.Families&f != 0 {
						c.matches[f] = v.space.rule(r, f)
					}
				}
				k[d] = append(k[d], c)
			}
		}
		v.books[p.Ref] = k
	}
}

func (v *view) members(id string, known map[string]bits) bits {
	b, ok := known[id]
	if !ok {
		set := v.plan.Set(id)
		b = newBits(len(v.space.points))
		for a := range set.Addrs.All() {
			if i := v.space.find(a); i >= 0 {
				b.set(i)
			}
		}
		v.space.markNets(b, set.Nets)
		known[id] = b
	}
	return b
}

// side gives the number of what a rule asks of one end; the same is asked once.
func (v *view) side(s *policy.Side, of int, sets map[string]bits) int {
	named := len(s.PortSets)+len(s.NotPortSets) > 0
	key := fmt.Sprint(s.Nets, s.NotNets, s.Sets, s.NotSets)
	if named {
		key += fmt.Sprint(of, s.Ports, s.PortSets, s.NotPortSets)
	}
	if i, ok := v.sideOf[key]; ok {
		return i
	}
	n := len(v.space.points)
	c := &side{points: newBits(n), any: !named && len(s.Nets)+len(s.NotNets)+len(s.Sets)+len(s.NotSets) == 0}
	if len(s.Nets) > 0 {
		v.space.markNets(c.points, s.Nets)
	} else {
		for i := range n {
			c.points.set(i)
		}
	}
	not := newBits(n)
	v.space.markNets(not, s.NotNets)
	for _, id := range s.Sets {
		c.points.keep(v.members(id, sets))
	}
	for _, id := range s.NotSets {
		not.add(v.members(id, sets))
	}
	c.points.drop(not)
	if named {
		v.named(c, s, of)
	}
	v.sideOf[key] = len(v.sides)
	v.sides = append(v.sides, c)
	return v.sideOf[key]
}

// named finds the services that a side with ports by name takes of each point.
func (v *view) named(c *side, s *policy.Side, of int) {
	base := v.space.all()
	if len(s.PortSets) > 0 {
		base = v.space.none()
		v.space.ranges(base, of, s.Ports)
	}
	c.ports, c.at = []bits{base}, make([]int32, len(v.space.points))
	plus, minus := map[int]bits{}, map[int]bits{}
	collect := func(ids []string, into map[int]bits) {
		for _, id := range ids {
			for p := range v.plan.Set(id).Ports.All() {
				i := v.space.find(p.Addr)
				if i < 0 || !policy.HasPorts(p.Proto) {
					continue
				}
				if into[i] == nil {
					into[i] = v.space.none()
				}
				v.space.mark(into[i], p.Proto, of, int(p.Port), int(p.Port))
			}
		}
	}
	collect(s.PortSets, plus)
	collect(s.NotPortSets, minus)
	ids := map[string]int32{key(base): 0}
	for i := range c.at {
		if plus[i] == nil && minus[i] == nil {
			continue
		}
		b := slices.Clone(base)
		if plus[i] != nil {
			b.add(plus[i])
		}
		if minus[i] != nil {
			b.drop(minus[i])
		}
		id, ok := ids[key(b)]
		if !ok {
			id = int32(len(c.ports))
			ids[key(b)] = id
			c.ports = append(c.ports, b)
		}
		c.at[i] = id
	}
}

func key(b bits) string {
	var out []byte
	for _, w := range b {
		out = binary.LittleEndian.AppendUint64(out, w)
	}
	return string(out)
}

// classify puts points together that all sides of all plans take alike, that stand alike, and that the same guards guard.
func (s *space) classify() {
	marks := make([][]byte, len(s.points))
	firsts := make([]netip.Addr, len(s.points))
	for i := range s.points {
		firsts[i] = s.points[i].first
		for k := range s.views {
			s.points[i].strange = s.points[i].strange || s.owner(k, i) != s.owner(0, i)
		}
		marks[i] = append(marks[i], byte(policy.FamilyOf(firsts[i])), 0)
		if s.points[i].strange {
			marks[i][1] = 1
		}
	}
	places := make([]string, len(s.points))
	standings := make([][]int, len(s.views))
	guards := make([][][2]int, len(s.views))
	for k, v := range s.views {
		v.mark(marks)
		ids := map[string]int{}
		standings[k], guards[k] = make([]int, len(s.points)), make([][2]int, len(s.points))
		v.nodes = make([]string, len(s.points))
		for i, st := range v.plan.Footings(firsts) {
			id, ok := ids[st.Like]
			if !ok {
				id = len(ids)
				ids[st.Like] = id
			}
			standings[k][i], guards[k][i] = id, v.guardsOf(firsts[i])
			for _, n := range []int{id, guards[k][i][0], guards[k][i][1]} {
				marks[i] = binary.LittleEndian.AppendUint32(marks[i], uint32(n))
			}
			v.nodes[i] = st.Node
			places[i] += fmt.Sprintf("%q", st.Node)
			s.moved = s.moved || st.Node != s.views[0].nodes[i]
		}
	}
	s.gather(marks, places)
	for k, v := range s.views {
		v.standing, v.own = make([]int, len(s.classes)), make([][2]int, len(s.classes))
		for c := range s.classes {
			i := s.classes[c].points[0]
			v.standing[c], v.own[c] = standings[k][i], guards[k][i]
		}
		v.project()
	}
}

// mark appends to each point's mark whether each side takes it, and which services of it.
func (v *view) mark(marks [][]byte) {
	row := (len(v.sides) + 7) / 8
	at := make([]int, len(marks))
	for i := range marks {
		at[i] = len(marks[i])
		marks[i] = append(marks[i], make([]byte, row)...)
	}
	for k, s := range v.sides {
		for i := range marks {
			if s.points.has(i) {
				marks[i][at[i]+k/8] |= 1 << (k % 8)
			}
			if s.at != nil {
				marks[i] = binary.LittleEndian.AppendUint32(marks[i], uint32(s.at[i]))
			}
		}
	}
}

func (s *space) gather(marks [][]byte, places []string) {
	none := ""
	for range s.views {
		none += `""`
	}
	placeOf := map[string]int{none: 0}
	for _, p := range places {
		if _, ok := placeOf[p]; !ok {
			placeOf[p] = len(placeOf)
		}
	}
	classOf := map[string]int{}
	for i := range s.points {
		p := &s.points[i]
		c, ok := classOf[string(marks[i])]
		if !ok {
			c = len(s.classes)
			classOf[string(marks[i])] = c
			s.classes = append(s.classes, class{family: policy.FamilyOf(p.first), places: newBits(len(placeOf)), twice: newBits(len(placeOf))})
		}
		p.class, p.place = c, placeOf[places[i]]
		k := &s.classes[c]
		k.points = append(k.points, i)
		if p.place > 0 && (k.places.has(p.place) || s.views[0].plan.Workload(p.first) == nil) {
			k.twice.set(p.place)
		}
		k.places.set(p.place)
	}
}

// project says of each class which sides take it.
func (v *view) project() {
	for _, s := range v.sides {
		s.in = make([]bool, len(v.space.classes))
		s.takes = make([]int32, len(v.space.classes))
		for c := range v.space.classes {
			i := v.space.classes[c].points[0]
			s.in[c] = s.points.has(i)
			if s.at != nil {
				s.takes[c] = s.at[i]
			}
		}
	}
}
