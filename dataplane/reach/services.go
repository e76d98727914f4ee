package reach

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// bits is a set of atoms.
type bits []uint64

func newBits(n int) bits { return make(bits, (n+63)/64) }

func (b bits) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bits) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }

func (b bits) empty() bool { return !slices.ContainsFunc(b, func(w uint64) bool { return w != 0 }) }

func (b bits) meets(o bits) bool {
	for i, w := range b {
		if w&o[i] != 0 {
			return true
		}
	}
	return false
}

func (b bits) add(o bits) {
	for i, w := range o {
		b[i] |= w
	}
}

func (b bits) keep(o bits) {
	for i, w := range o {
		b[i] &= w
	}
}

func (b bits) drop(o bits) {
	for i, w := range o {
		b[i] &^= w
	}
}

func (b bits) and(o bits) bits { c := slices.Clone(b); c.keep(o); return c }
func (b bits) not(o bits) bits { c := slices.Clone(b); c.drop(o); return c }

// services are all that packets differ in besides their addresses, cut into atoms that no rule tells apart. A packet's number is its
// destination port, or the type and code of ICMP; its origin is its source port.
type services struct {
	protos []proto    // by number; the last one is all others
	at     [256]uint8 // by number: index of protos
	n      int        // atoms
}

// proto is the atoms of one protocol: for each number, for each origin.
type proto struct {
	number          uint8 // 0: all that have no place of their own
	first           int
	numbers, origin []int // where each part begins; the first one is 0
}

// cuts is where the numbers and origins of each protocol are to be cut.
type cuts map[uint8]*[2]map[int]bool

const (
	number = 0
	origin = 1
	top    = 1 << 16
)

var portProtos = []uint8{policy.ProtoTCP, policy.ProtoUDP, policy.ProtoSCTP, policy.ProtoUDPLite}

func newCuts() cuts {
	c := cuts{}
	for _, n := range append([]uint8{policy.ProtoICMP, policy.ProtoICMPv6}, portProtos...) {
		c.proto(n)
	}
	for _, t := range policy.NeighbourDiscovery { // which some posts let by
		c.cut(policy.ProtoICMPv6, number, int(t)<<8, int(t)<<8|255)
	}
	return c
}

func (c cuts) proto(n uint8) *[2]map[int]bool {
	if c[n] == nil {
		c[n] = &[2]map[int]bool{{0: true}, {0: true}}
	}
	return c[n]
}

func (c cuts) cut(proto uint8, of, from, to int) {
	at := c.proto(proto)[of]
	at[from] = true
	if to+1 < top {
		at[to+1] = true
	}
}

func (c cuts) rule(r *policy.Rule) {
	for _, n := range []uint8{r.Proto, r.NotProto} {
		if n != 0 {
			c.proto(n)
		}
	}
	for _, i := range []*policy.ICMP{r.ICMP, r.NotICMP} {
		if i != nil {
			from, to := icmpRange(i)
			c.cut(policy.ProtoICMP, number, from, to)
			c.cut(policy.ProtoICMPv6, number, from, to)
		}
	}
	for of, s := range []*policy.Side{number: &r.Dst, origin: &r.Src} {
		for _, p := range slices.Concat(s.Ports, s.NotPorts) {
			for _, n := range portProtos {
				if r.Proto == 0 || r.Proto == n {
					c.cut(n, of, int(p.Min), int(p.Max))
				}
			}
		}
	}
}

func icmpRange(i *policy.ICMP) (from, to int) {
	if i.Code < 0 {
		return int(i.Type) << 8, int(i.Type)<<8 | 255
	}
	return int(i.Type)<<8 | int(i.Code), int(i.Type)<<8 | int(i.Code)
}

func (c cuts) services() *services {
	s := &services{}
	add := func(p proto) {
		p.first = s.n
		s.n += len(p.numbers) * len(p.origin)
		s.protos = append(s.protos, p)
	}
	for _, n := range slices.Sorted(maps.Keys(c)) {
		s.at[n] = uint8(len(s.protos))
		add(proto{number: n, numbers: slices.Sorted(maps.Keys(c[n][number])), origin: slices.Sorted(maps.Keys(c[n][origin]))})
	}
	for n := range 256 {
		if c[uint8(n)] == nil {
			s.at[n] = uint8(len(s.protos))
		}
	}
	add(proto{numbers: []int{0}, origin: []int{0}})
	return s
}

func (s *services) none() bits { return newBits(s.n) }

func (s *services) all() bits {
	b := s.none()
	for i := range s.n {
		b.set(i)
	}
	return b
}

// mark adds the atoms of a protocol with a number or an origin in a range.
func (s *services) mark(b bits, n uint8, of, from, to int) {
	p := &s.protos[s.at[n]]
	for i, number := range p.numbers {
		for k, origin := range p.origin {
			if v := [2]int{number, origin}[of]; from <= v && v <= to {
				b.set(p.first + i*len(p.origin) + k)
			}
		}
	}
}

// proto is all of one protocol.
func (s *services) proto(n uint8) bits {
	b := s.none()
	s.mark(b, n, number, 0, top)
	return b
}

// ported is all of the protocols that have ports.
func (s *services) ported() bits {
	b := s.none()
	for _, n := range portProtos {
		s.mark(b, n, number, 0, top)
	}
	return b
}

func (s *services) discovery() bits {
	b := s.none()
	for _, t := range policy.NeighbourDiscovery {
		s.mark(b, policy.ProtoICMPv6, number, int(t)<<8, int(t)<<8|255)
	}
	return b
}

func (s *services) icmp(i *policy.ICMP, f policy.Families) bits {
	b := s.none()
	from, to := icmpRange(i)
	s.mark(b, icmpOf(f), number, from, to)
	return b
}

func icmpOf(f policy.Families) uint8 {
	if f == policy.IPv6 {
		return policy.ProtoICMPv6
	}
	return policy.ProtoICMP
}

// real are the packets that there are in a family: ICMP is IPv4's, ICMPv6 IPv6's.
func (s *services) real(f policy.Families) bits {
	return s.all().not(s.proto(icmpOf(policy.AnyFamily ^ f)))
}

func (s *services) ranges(b bits, of int, ports []policy.PortRange) {
	for _, r := range ports {
		for _, n := range portProtos {
			s.mark(b, n, of, int(r.Min), int(r.Max))
		}
	}
}

// rule is what a rule asks of a packet of a family, but for its addresses and the ports that depend on them.
func (s *services) rule(r *policy.Rule, f policy.Families) bits {
	b := s.all()
	if r.Proto != 0 {
		b.keep(s.proto(r.Proto))
	}
	if r.NotProto != 0 {
		b.drop(s.proto(r.NotProto))
	}
	if r.ICMP != nil {
		b.keep(s.icmp(r.ICMP, f))
	}
	if r.NotICMP != nil {
		b.drop(s.icmp(r.NotICMP, f))
	}
	for of, side := range []*policy.Side{number: &r.Dst, origin: &r.Src} {
		if len(side.PortSets) == 0 && len(side.Ports) > 0 {
			in := s.none()
			s.ranges(in, of, side.Ports)
			b.keep(in)
		}
		out := s.none()
		s.ranges(out, of, side.NotPorts)
		b.drop(out)
	}
	return b
}

// atom of a packet.
func (s *services) atom(f *policy.Flow) int {
	p := &s.protos[s.at[f.Proto]]
	n, o := 0, 0
	switch {
	case policy.HasPorts(f.Proto):
		n, o = int(f.DstPort), int(f.SrcPort)
	case f.Proto == policy.ProtoICMP || f.Proto == policy.ProtoICMPv6:
		n = int(f.ICMPType)<<8 | int(f.ICMPCode)
	}
	return p.first + below(p.numbers, n)*len(p.origin) + below(p.origin, o)
}

// below is the last that begins at or before n.
func below(begins []int, n int) int {
	i, ok := slices.BinarySearch(begins, n)
	if !ok {
		i--
	}
	return i
}

// text is a set of services among those that count: "all", "none", "TCP 80,443; UDP 53", or "all but TCP 25" where that says less.
func (s *services) text(b, counts bits) string {
	b = b.and(counts)
	rest := counts.not(b)
	switch {
	case b.empty():
		return "none"
	case rest.empty():
		return "all"
	}
	is, but := s.list(b, counts), s.list(rest, counts)
	if len(but) < len(is) {
		return "all but " + strings.Join(but, "; ")
	}
	return strings.Join(is, "; ")
}

// order of protocols for people.
var shown = []uint8{policy.ProtoTCP, policy.ProtoUDP, policy.ProtoSCTP, policy.ProtoUDPLite, policy.ProtoICMP, policy.ProtoICMPv6}

// list is one text a protocol, the best known first.
func (s *services) list(b, counts bits) (out []string) {
	for _, n := range shown {
		out = append(out, s.protos[s.at[n]].texts(b, counts)...)
	}
	for i := range s.protos {
		if !slices.Contains(shown, s.protos[i].number) {
			out = append(out, s.protos[i].texts(b, counts)...)
		}
	}
	return out
}

func (p *proto) name() string {
	if p.number == 0 {
		return "other protocols"
	}
	if _, unnamed := fmt.Sscan(policy.ProtoName(p.number), new(int)); unnamed == nil {
		return fmt.Sprintf("protocol %d", p.number)
	}
	return policy.ProtoName(p.number)
}

// texts are the numbers, those with the same origins together.
func (p *proto) texts(b, counts bits) (out []string) {
	whole, any := true, false
	by := map[string][]int{} // parts of numbers by the text of their origins
	var order []string
	for i := range p.numbers {
		var from []int
		full := true
		for k := range p.origin {
			switch at := p.first + i*len(p.origin) + k; {
			case b.has(at):
				from, any = append(from, k), true
			case counts.has(at):
				full = false
			}
		}
		whole = whole && full
		if len(from) == 0 {
			continue
		}
		origins := ""
		if !full {
			origins = " from " + rangesText(p.origin, from, false)
		}
		if by[origins] == nil {
			order = append(order, origins)
		}
		by[origins] = append(by[origins], i)
	}
	if !any {
		return nil
	}
	if whole {
		return []string{p.name()}
	}
	icmp := p.number == policy.ProtoICMP || p.number == policy.ProtoICMPv6
	for _, origins := range order {
		text := p.name()
		if len(by[origins]) < len(p.numbers) {
			text += " " + rangesText(p.numbers, by[origins], icmp)
		}
		out = append(out, text+origins)
	}
	return out
}

// rangesText joins parts that lie side by side.
func rangesText(begins, parts []int, icmp bool) string {
	var out []string
	for i := 0; i < len(parts); {
		k := i
		for k+1 < len(parts) && parts[k+1] == parts[k]+1 {
			k++
		}
		from, to := begins[parts[i]], top-1
		if parts[k]+1 < len(begins) {
			to = begins[parts[k]+1] - 1
		}
		out = append(out, rangeText(from, to, icmp))
		i = k + 1
	}
	if icmp {
		return strings.Join(out, ",")
	}
	return strings.Join(out, ",")
}

func rangeText(from, to int, icmp bool) string {
	switch {
	case icmp && from&255 == 0 && to&255 == 255 && from>>8 == to>>8:
		return fmt.Sprintf("type %d", from>>8)
	case icmp && from&255 == 0 && to&255 == 255:
		return fmt.Sprintf("types %d-%d", from>>8, to>>8)
	case icmp && from == to:
		return fmt.Sprintf("type %d code %d", from>>8, from&255)
	case icmp:
		return fmt.Sprintf("type %d code %d to type %d code %d", from>>8, from&255, to>>8, to&255)
	case from == to:
		return fmt.Sprint(from)
	}
	return fmt.Sprintf("%d-%d", from, to)
}
