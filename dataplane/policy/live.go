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
	net    []netip.Prefix // merged, unless apart
	apart  bool           // some have come or gone since

	by     *builder // of a set of Nodes: when it was made
	slice  int      // of a service's: after how many changes of slices
	excess int      // of a service's: ports, if there are too many
	value  *Set     // of now, or nil when that has to be made anew
}

// counted is elements that several members may give.
type counted[T interface {
	comparable
	Compare(T) int
}] struct {
	elems Sorted[T]
	again map[T]int // how often more than once
}

// add what a member gives, and remove it: all at once, for a network set may have thousands.
func (c *counted[T]) add(all []T) {
	var come []T
	for _, x := range sorted(all) {
		if !c.elems.Has(x) && (len(come) == 0 || come[len(come)-1] != x) {
			come = append(come, x)
			continue
		}
		if c.again == nil {
			c.again = map[T]int{}
		}
		c.again[x]++
	}
	c.elems = c.elems.Changed(nil, come)
}

func (c *counted[T]) remove(all []T) {
	var gone []T
	for _, x := range sorted(all) {
		switch n := c.again[x]; {
		case n > 1:
			c.again[x]--
		case n == 1:
			delete(c.again, x)
		default:
			gone = append(gone, x)
		}
	}
	c.elems = c.elems.Changed(gone, nil)
}

func sorted[T interface{ Compare(T) int }](in []T) []T {
	if slices.IsSortedFunc(in, T.Compare) {
		return in
	}
	in = slices.Clone(in)
	slices.SortFunc(in, T.Compare)
	return in
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
		if _, named := slices.BinarySearch(s.names, p.name); !named || s.proto != 0 && p.proto != s.proto {
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
	l.addrs.add(g.addrs)
	l.ports.add(g.ports)
	for _, n := range g.nets {
		l.nets[n]++
	}
	l.apart = l.apart || len(g.nets) > 0
}

func (l *liveSet) remove(m *member) {
	l.value = nil
	g := l.spec.share(m)
	l.addrs.remove(g.addrs)
	l.ports.remove(g.ports)
	for _, n := range g.nets {
		if l.nets[n]--; l.nets[n] == 0 {
			delete(l.nets, n)
		}
	}
	l.apart = l.apart || len(g.nets) > 0
}

// merge the networks anew, if any has come or gone: whoever has many changes rarely, and all that has changed at once counts once.
func (l *liveSet) merge() {
	if !l.apart {
		return
	}
	l.net, l.apart = nil, false
	if len(l.nets) > 0 {
		l.net = mergeNets(netsOf(l.nets))
	}
}

func netsOf(in map[netip.Prefix]int) []netip.Prefix {
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
	l.apart = len(l.nets) > 0
}

// set is the value of now.
func (l *liveSet) set() *Set {
	l.merge()
	return &Set{ID: l.spec.id, About: l.spec.about, OfPorts: l.spec.ports || len(l.spec.names) > 0, Staged: l.staged,
		Addrs: l.addrs.elems, Ports: l.ports.elems, Nets: l.net}
}
