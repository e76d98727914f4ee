package policy

import (
	"iter"
	"net/netip"
	"slices"
)

// liveSet is a set that the last plan had, kept up to date member by member: what one member's change costs does not depend on
// how many others there are.
type liveSet struct {
	spec   setSpec
	staged bool // only staged policies name it
	gone   bool // no plan has it any more; a member may still think that it is in it
	addrs  counted[netip.Addr]
	ports  counted[AddrPort]
	nets   map[netip.Prefix]int
	net    []netip.Prefix // merged

	by    *builder // of a set of Nodes: when it was made
	slice int      // of a service's: after how many changes of slices
	value *Set     // of now, or nil when that has to be made anew
}

// counted is elements that several members may give.
type counted[T interface {
	comparable
	Compare(T) int
}] struct {
	elems Sorted[T]
	again map[T]int // how often more than once
}

func (c *counted[T]) add(x T) {
	if !c.elems.Has(x) {
		c.elems = c.elems.with(x)
		return
	}
	if c.again == nil {
		c.again = map[T]int{}
	}
	c.again[x]++
}

func (c *counted[T]) remove(x T) {
	switch n := c.again[x]; {
	case n > 1:
		c.again[x]--
	case n == 1:
		delete(c.again, x)
	default:
		c.elems = c.elems.without(x)
	}
}

// fill is add for many at once, into an empty one.
func (c *counted[T]) fill(all []T) {
	slices.SortFunc(all, T.Compare)
	c.again = map[T]int{}
	for i := 1; i < len(all); i++ {
		if all[i] == all[i-1] {
			c.again[all[i]]++
		}
	}
	c.elems = SortedOf(slices.Compact(all)...)
}

// share is what a member gives to a set.
type share struct {
	addrs []netip.Addr
	ports []AddrPort
	nets  []netip.Prefix
}

func (s *setSpec) share(m *member) (g share) {
	if len(s.names) == 0 {
		return share{addrs: m.addrs, nets: m.nets}
	}
	for _, p := range m.ports {
		if !slices.Contains(s.names, p.name) || s.proto != 0 && p.proto != s.proto {
			continue
		}
		for _, a := range m.addrs {
			g.ports = append(g.ports, AddrPort{a, p.proto, p.port})
		}
	}
	return g
}

func (l *liveSet) add(m *member) {
	l.value = nil
	g := l.spec.share(m)
	for _, a := range g.addrs {
		l.addrs.add(a)
	}
	for _, p := range g.ports {
		l.ports.add(p)
	}
	for _, n := range g.nets {
		l.nets[n]++
	}
	l.merge(len(g.nets))
}

func (l *liveSet) remove(m *member) {
	l.value = nil
	g := l.spec.share(m)
	for _, a := range g.addrs {
		l.addrs.remove(a)
	}
	for _, p := range g.ports {
		l.ports.remove(p)
	}
	for _, n := range g.nets {
		if l.nets[n]--; l.nets[n] == 0 {
			delete(l.nets, n)
		}
	}
	l.merge(len(g.nets))
}

// merge the networks anew, if any has come or gone: whoever has many changes rarely.
func (l *liveSet) merge(changed int) {
	if changed == 0 {
		return
	}
	l.net = nil
	if len(l.nets) > 0 {
		l.net = mergeNets(sortedNets(l.nets))
	}
}

func sortedNets(in map[netip.Prefix]int) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(in))
	for n := range in {
		out = append(out, n)
	}
	return out
}

// fill puts in every member that is selected, and notes with it that it is in.
func (l *liveSet) fill(members iter.Seq[*member], selected func(*member) bool) {
	var all share
	for m := range members {
		if !selected(m) {
			continue
		}
		g := l.spec.share(m)
		all.addrs, all.ports = append(all.addrs, g.addrs...), append(all.ports, g.ports...)
		for _, n := range g.nets {
			l.nets[n]++
		}
		m.in = append(m.in, l)
	}
	l.addrs.fill(all.addrs)
	l.ports.fill(all.ports)
	l.merge(len(l.nets))
}

// set is the value of now.
func (l *liveSet) set() *Set {
	return &Set{ID: l.spec.id, About: l.spec.about, OfPorts: l.spec.ports || len(l.spec.names) > 0, Staged: l.staged,
		Addrs: l.addrs.elems, Ports: l.ports.elems, Nets: l.net}
}
