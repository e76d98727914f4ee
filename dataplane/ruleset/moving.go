package ruleset

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// movingSets are the sets of the last plan, as sets of the table: they move while rules stay.
type movingSets struct {
	of      []*policy.Set // the plan's
	by      map[string]*moving
	list    []*Set          // of the table, in order
	hasNets map[string]bool // those of them that are of networks, by name
}

// follow brings them to what a plan has, and gives those that have changed; or says that there are others than there were.
func (m *movingSets) follow(now []*policy.Set) (changed []*Set, others bool) {
	others = !slices.EqualFunc(now, m.of, func(a, b *policy.Set) bool {
		return a == b || a.ID == b.ID && a.OfPorts == b.OfPorts && a.Staged == b.Staged
	})
	for i := 0; i < len(now) && !others; i++ {
		if now[i] != m.of[i] && !now[i].Staged {
			var c []*Set
			c, others = m.by[now[i].ID].follow(now[i])
			changed = append(changed, c...)
		}
	}
	if m.of = now; others {
		m.anew()
		return nil, true
	}
	if len(changed) > 0 {
		m.list = slices.Clone(m.list)
		put(m.list, changed)
	}
	return changed, false
}

// anew makes the list from the plan's sets. A set of addresses always has its hashes, even empty, so that a pod's coming and going
// touches no rule; it has intervals only while a network set is among its members.
func (m *movingSets) anew() {
	there := make(map[string]*moving, len(m.of))
	m.list, m.hasNets = nil, map[string]bool{}
	for _, s := range m.of {
		if s.Staged {
			continue
		}
		own := m.by[s.ID]
		if own == nil || own.of.OfPorts != s.OfPorts {
			own = newMoving(s)
		}
		there[s.ID] = own
		own.follow(s)
		for j := range families {
			m.list = append(m.list, own.sets[j])
			if nets := own.nets[j]; nets != nil {
				m.list, m.hasNets[nets.Name] = append(m.list, nets), true
			}
		}
	}
	slices.SortFunc(m.list, func(a, b *Set) int { return strings.Compare(a.Name, b.Name) })
	m.by = there
}

// put sets in place of those of their names, which are there.
func put(list, sets []*Set) {
	for _, s := range sets {
		i, _ := slices.BinarySearchFunc(list, s.Name, func(s *Set, name string) int { return strings.Compare(s.Name, name) })
		list[i] = s
	}
}

// moving is a set of the plan, as the sets of the table that hold it.
type moving struct {
	of   policy.Set
	sets [2]*Set // of the addresses, or ports of addresses, of each family
	nets [2]*Set // of the networks, where there are any
}

func newMoving(s *policy.Set) *moving {
	m := &moving{of: policy.Set{ID: s.ID, OfPorts: s.OfPorts}}
	for j := range families {
		f := &families[j]
		if m.sets[j] = (&Set{Name: addrSet(f, s.ID), Type: f.addr}); s.OfPorts {
			m.sets[j] = &Set{Name: portSet(f, s.ID), Type: f.port}
		}
	}
	return m
}

// follow brings the sets to what the plan's is now, and gives those that have changed. others says that there are networks of a family
// now where there were none, or the other way round.
func (m *moving) follow(s *policy.Set) (changed []*Set, others bool) {
	for j := range families {
		f := &families[j]
		if gone, come := m.since(s, f); len(gone)+len(come) > 0 {
			next := *m.sets[j]
			next.Elems = next.Elems.Changed(gone, come)
			m.sets[j] = &next
			changed = append(changed, &next)
		}
		if shared(s.Nets, m.of.Nets) {
			continue
		}
		was := m.nets[j]
		m.nets[j] = nil
		if nets := netElems(f, s.Nets); len(nets) > 0 {
			m.nets[j] = &Set{Name: netSet(f, s.ID), Type: f.addr, Interval: true, Elems: ElemsOf(nets...)}
			changed = append(changed, m.nets[j])
		}
		others = others || (was == nil) != (m.nets[j] == nil)
	}
	m.of = *s
	return changed, others
}

// since the last follow: what of a family has gone, and what has come.
func (m *moving) since(s *policy.Set, f *family) (gone, come []Elem) {
	if !s.OfPorts {
		left, joined := s.Addrs.Since(m.of.Addrs)
		return elems(left, f.has, addrElem), elems(joined, f.has, addrElem)
	}
	has := func(p policy.AddrPort) bool { return f.has(p.Addr) }
	left, joined := s.Ports.Since(m.of.Ports)
	return elems(left, has, addrPortElem), elems(joined, has, addrPortElem)
}

func addrElem(a netip.Addr) Elem { return Elem{From: a, To: a} }

func addrPortElem(p policy.AddrPort) Elem {
	return Elem{From: p.Addr, To: p.Addr, Proto: p.Proto, Port: p.Port, PortTo: p.Port}
}

// elems of those that has takes.
func elems[T any](all []T, has func(T) bool, elem func(T) Elem) (out []Elem) {
	for _, x := range all {
		if has(x) {
			out = append(out, elem(x))
		}
	}
	return out
}

// part is the change of a set's elements, if there are any.
func (s *Set) part(op Op, elems []Elem) []Change {
	if len(elems) == 0 {
		return nil
	}
	return []Change{{Op: op, Within: true, Set: &Set{Name: s.Name, Type: s.Type, Interval: s.Interval, Elems: ElemsOf(elems...)}}}
}

// shared tells at once whether two lists are one.
func shared[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }
