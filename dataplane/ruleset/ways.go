package ruleset

import (
	"net/netip"
	"slices"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// ways are the alternatives in which a rule can match: each is matches that must all hold, and becomes one nft rule. A rule has
// one way for each address family that it looks at, for addresses and for networks of a selector, for numeric and for named
// ports.
//
//	from role == 'db' to port 5432 of TCP
//	    meta l4proto tcp th dport 5432 ip saddr @addr4-…
//	    meta l4proto tcp th dport 5432 ip6 saddr @addr6-…
func (c *compiler) ways(r *policy.Rule) (out [][]Match) {
	if !needsFamily(r) && r.Families == policy.AnyFamily {
		return c.familyWays(r, nil)
	}
	for i := range families {
		if f := &families[i]; r.Families&f.bit != 0 {
			out = append(out, c.familyWays(r, f)...)
		}
	}
	return out
}

func needsFamily(r *policy.Rule) bool {
	side := func(s *policy.Side) bool {
		return len(s.Nets)+len(s.NotNets)+len(s.Sets)+len(s.NotSets)+len(s.PortSets)+len(s.NotPortSets) > 0
	}
	return side(&r.Src) || side(&r.Dst) || r.ICMP != nil || r.NotICMP != nil
}

// familyWays is the ways of one family, or of both when f is nil and nothing in the rule tells them apart. What is cheap to ask
// comes first: protocol, ports, networks, sets.
func (c *compiler) familyWays(r *policy.Rule, f *family) [][]Match {
	ways := [][]Match{protoMatches(r)}
	if r.ICMP != nil {
		if r.Proto != f.icmp {
			return nil
		}
		ways = and(ways, icmpMatches(r.ICMP, f))
	}
	if r.NotICMP != nil {
		ways = either(ways, notICMP(r, f))
	}
	ways = c.ports(ways, r, &r.Dst, f, KeyDPort, func(f *family) Key { return f.daddrPort })
	ways = c.ports(ways, r, &r.Src, f, KeySPort, func(f *family) Key { return f.saddrPort })
	ways = c.addrs(ways, r, &r.Dst, f, daddrs)
	ways = c.addrs(ways, r, &r.Src, f, saddrs)
	if f != nil {
		for i := range ways {
			ways[i] = f.imply(ways[i])
		}
	}
	return ways
}

// imply puts the family in front, unless an address says it.
func (f *family) imply(way []Match) []Match {
	says := func(m Match) bool {
		return slices.Contains([]Key{f.saddr, f.daddr, f.saddrPort, f.daddrPort}, m.Key)
	}
	if slices.ContainsFunc(way, says) {
		return way
	}
	return append([]Match{{Key: KeyNFProto, Elem: Elem{Num: f.nfproto}}}, way...)
}

// and adds matches to every way.
func and(ways [][]Match, more []Match) [][]Match {
	if len(more) == 0 {
		return ways
	}
	return either(ways, [][]Match{more})
}

// either continues every way in each of several ways.
func either(ways, more [][]Match) (out [][]Match) {
	for _, w := range ways {
		for _, m := range more {
			out = append(out, slices.Concat(w, m))
		}
	}
	return out
}

func protoMatches(r *policy.Rule) (out []Match) {
	if r.Proto != 0 {
		out = append(out, Match{Key: KeyL4Proto, Elem: Elem{Num: uint32(r.Proto)}})
	}
	if r.NotProto != 0 {
		out = append(out, Match{Key: KeyL4Proto, Not: true, Elem: Elem{Num: uint32(r.NotProto)}})
	}
	return out
}

func icmpMatches(i *policy.ICMP, f *family) []Match {
	out := []Match{{Key: f.icmpType, Elem: Elem{Num: uint32(i.Type)}}}
	if i.Code >= 0 {
		out = append(out, Match{Key: f.icmpCode, Elem: Elem{Num: uint32(i.Code)}})
	}
	return out
}

// notICMP is NOT(protocol and type and code): another protocol, or another type, or that type and another code.
func notICMP(r *policy.Rule, f *family) (out [][]Match) {
	isICMP := Match{Key: KeyL4Proto, Elem: Elem{Num: uint32(f.icmp)}}
	if r.Proto != 0 && r.Proto != f.icmp || r.NotProto == f.icmp {
		return [][]Match{nil} // it is no ICMP anyway
	}
	var known []Match
	if r.Proto == 0 {
		other := isICMP
		other.Not = true
		out, known = append(out, []Match{other}), []Match{isICMP}
	}
	is := icmpMatches(r.NotICMP, f)
	for i := range is {
		not := is[i]
		not.Not = true
		out = append(out, slices.Concat(known, is[:i], []Match{not}))
	}
	return out
}

// ports: a number of the list or a named port; none of the negated ones.
func (c *compiler) ports(ways [][]Match, r *policy.Rule, s *policy.Side, f *family, port Key, addrPort func(*family) Key) [][]Match {
	var any [][]Match
	if len(s.Ports) > 0 {
		any = append(any, []Match{c.portMatch(port, s.Ports, false)})
	}
	for _, id := range s.PortSets {
		any = append(any, []Match{{Key: addrPort(f), Set: portSet(f, id)}})
	}
	if len(any) > 0 {
		ways = either(ways, apart(r, any))
	}
	var none []Match
	if len(s.NotPorts) > 0 {
		none = append(none, c.portMatch(port, s.NotPorts, true))
	}
	for _, id := range s.NotPortSets {
		none = append(none, Match{Key: addrPort(f), Not: true, Set: portSet(f, id)})
	}
	if r.Proto == 0 && len(none) > 0 {
		return either(ways, withPorts(none))
	}
	return and(ways, none)
}

// withPorts asks for ports only packets that have them: to load the port of another one may read behind its end, and then the rule
// would not match.
func withPorts(none []Match) (out [][]Match) {
	var others []Match
	for _, p := range []uint32{policy.ProtoTCP, policy.ProtoUDP, policy.ProtoSCTP, policy.ProtoUDPLite} {
		is := Match{Key: KeyL4Proto, Elem: Elem{Num: p}}
		out = append(out, slices.Concat([]Match{is}, none))
		is.Not = true
		others = append(others, is)
	}
	return append(out, others)
}

// apart makes alternatives of which a packet takes only one, where it matters how often a rule matches: it logs once.
func apart(r *policy.Rule, any [][]Match) [][]Match {
	if r.Action != policy.Log {
		return any
	}
	out := make([][]Match, len(any))
	for i := range any {
		out[i] = slices.Clone(any[i])
		for _, before := range any[:i] {
			not := before[0]
			not.Not = !not.Not
			out[i] = append(out[i], not)
		}
	}
	return out
}

// portMatch of a list. Many rules may share one, those for each peer of a rule: it is made once.
func (c *compiler) portMatch(key Key, ports []policy.PortRange, not bool) Match {
	at := portList{&ports[0], len(ports)}
	if name, ok := c.portSets[at]; ok && c.sets[name] != nil {
		return Match{Key: key, Not: not, Set: name}
	}
	elems := make([]Elem, len(ports))
	for i, p := range ports {
		elems[i] = Elem{Port: p.Min, PortTo: p.Max}
	}
	m := c.match(key, TypePort, "ports", elems, not)
	if m.Set != "" {
		c.portSets[at] = m.Set
	}
	return m
}

// portList is where a list is.
type portList struct {
	at *policy.PortRange
	n  int
}

// match compares with the one element, or with a set named by its content.
func (c *compiler) match(key Key, t Type, prefix string, elems []Elem, not bool) Match {
	if len(elems) == 1 {
		return Match{Key: key, Not: not, Elem: elems[0]}
	}
	s := c.set(prefix+"-"+hash(elems), t, true)
	s.gathered = elems
	return Match{Key: key, Not: not, Set: s.Name}
}

// addrs: in the networks and in every set; in none of the negated ones.
func (c *compiler) addrs(ways [][]Match, r *policy.Rule, s *policy.Side, f *family, key func(*family) Key) [][]Match {
	if f == nil {
		return ways
	}
	var all []Match
	if nets := netElems(f, s.Nets); len(nets) > 0 && !f.whole(nets) {
		all = append(all, c.match(key(f), f.addr, "nets"+f.digit, nets, false))
	}
	if nets := netElems(f, s.NotNets); f.whole(nets) {
		return nil
	} else if len(nets) > 0 {
		all = append(all, c.match(key(f), f.addr, "nets"+f.digit, nets, true))
	}
	for _, id := range s.NotSets {
		for _, name := range c.setNames(f, id) {
			all = append(all, Match{Key: key(f), Not: true, Set: name})
		}
	}
	ways = and(ways, all)
	for _, id := range s.Sets {
		var any [][]Match
		for _, name := range c.setNames(f, id) {
			any = append(any, []Match{{Key: key(f), Set: name}})
		}
		ways = either(ways, apart(r, any))
	}
	return ways
}

// whole tells whether joined ranges are every address of the family: nothing that a rule would have to ask.
func (f *family) whole(nets []Elem) bool {
	return len(nets) == 1 && nets[0] == netElem(f.all)
}

// setNames are the sets that together hold a plan's set.
func (c *compiler) setNames(f *family, id string) []string {
	names := []string{addrSet(f, id)}
	if c.moving.hasNets[netSet(f, id)] {
		names = append(names, netSet(f, id))
	}
	return names
}

func netElem(n netip.Prefix) Elem { return Elem{From: n.Addr(), To: lastAddr(n)} }

// lastAddr of a network.
func lastAddr(n netip.Prefix) netip.Addr {
	b := n.Addr().AsSlice()
	for i := n.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// joinRanges makes one range of those that touch: fewer elements, and no overlap.
func joinRanges(in []Elem) []Elem {
	slices.SortFunc(in, Elem.Compare)
	var out []Elem
	for _, e := range in {
		if n := len(out); n > 0 && (e.From.Compare(out[n-1].To) <= 0 || e.From == out[n-1].To.Next()) {
			if e.To.Compare(out[n-1].To) > 0 {
				out[n-1].To = e.To
			}
			continue
		}
		out = append(out, e)
	}
	return out
}
