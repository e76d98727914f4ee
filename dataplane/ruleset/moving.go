package ruleset

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// Compiler expresses one plan after another, and remembers the last: what has not changed since costs next to nothing.
//
//	only members of sets have changed          their sets alone are looked at
//	endpoints have come, gone or changed       and the guards that the last plan had not
//	policies have changed                      and the guards that these policies stand in
//
// The table of a plan does not depend on what came before it. A Compiler is for one goroutine.
type Compiler struct {
	options  Options
	worth    int // so many rules are worth a map by port
	last     *policy.Plan
	table    *Table
	settings policy.Settings
	moving   map[string]*moving // by the ID of the plan's set
	hasNets  map[string]bool    // the interval sets that there are among these
	names    map[guardKey]guardName
	guards   *guards
}

// guardKey is where a guard's tiers are: a plan shares those that have not changed with the last.
type guardKey struct {
	at        *policy.Tier
	direction policy.Direction
}

// guardName is what a guard's chain is called.
type guardName struct {
	tiers []policy.Tier // which keeps them where they are
	name  string        // without the mode's suffix
}

// NewCompiler makes one that has expressed nothing yet.
func NewCompiler(o Options) *Compiler {
	return &Compiler{options: o, worth: worthMap, moving: map[string]*moving{}, guards: newGuards()}
}

// Compile expresses a plan. Equal plans give equal tables. changes are those from the table of the last plan, as Diff gives them, and
// never nil; for the first plan, those from nothing.
func (c *Compiler) Compile(p *policy.Plan) (t *Table, changes []Change) {
	if t, changes = c.moved(p); t == nil {
		t = c.whole(p)
		changes = Diff(c.table, t)
	}
	if changes == nil {
		changes = []Change{}
	}
	c.last, c.table = p, t
	return t, changes
}

// Compile expresses a plan for one who has no other.
func Compile(p *policy.Plan, o Options) *Table { return NewCompiler(o).whole(p) }

// moved is the table of a plan that differs from the last only in the elements of its sets, and the changes; nil for any other.
func (c *Compiler) moved(p *policy.Plan) (*Table, []Change) {
	if c.last == nil || !p.SameRules(c.last) || len(p.Sets) != len(c.last.Sets) {
		return nil, nil
	}
	var gone, come []Change
	next := *c.table
	shared := true // the list of sets, with the last table
	for i := range p.Sets {
		s, was := p.Sets[i], c.last.Sets[i]
		if s == was {
			continue
		}
		if s.ID != was.ID || s.Staged != was.Staged {
			return nil, nil
		}
		if s.Staged {
			continue
		}
		if !sameNets(s.Nets, was.Nets) {
			return nil, nil // whether there are any is what rules are made by
		}
		m := c.moving[s.ID]
		for j := range families {
			left, joined := m.follow(s, &families[j])
			if len(left)+len(joined) == 0 {
				continue
			}
			if shared {
				next.Sets, shared = slices.Clone(next.Sets), false
			}
			set := m.sets[j]
			next.Sets[find(next.Sets, set.Name)] = set
			gone, come = append(gone, set.part(Delete, left)...), append(come, set.part(Add, joined)...)
		}
		m.of = *s
	}
	byName := func(a, b Change) int { return strings.Compare(a.Set.Name, b.Set.Name) }
	slices.SortFunc(gone, byName)
	slices.SortFunc(come, byName)
	return &next, append(gone, come...)
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

// follow brings the elements of a family to what the set is now, and gives what has gone and what has come.
func (m *moving) follow(s *policy.Set, f *family) (gone, come []Elem) {
	if s.OfPorts {
		left, joined := s.Ports.Since(m.of.Ports)
		gone = elems(left, func(p policy.AddrPort) bool { return f.has(p.Addr) }, addrPortElem)
		come = elems(joined, func(p policy.AddrPort) bool { return f.has(p.Addr) }, addrPortElem)
	} else {
		left, joined := s.Addrs.Since(m.of.Addrs)
		gone, come = elems(left, f.has, addrElem), elems(joined, f.has, addrElem)
	}
	if at := &m.sets[f.index()]; len(gone)+len(come) > 0 {
		next := **at
		next.Elems = next.Elems.Changed(gone, come)
		*at = &next
	}
	return gone, come
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

// sameNets tells at once whether two lists are one.
func sameNets(a, b []netip.Prefix) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

// planSets brings the sets that move while rules stay to what they are now, and gives them in order. A set of addresses always has its
// hashes, even empty, so that a pod's coming and going touches no rule; it has intervals only while a network set is among its members.
func (c *compiler) planSets() []*Set {
	var byFamily [2][3][]*Set // of addresses, networks and ports: one list behind the other is nearly in order
	hasNets := map[string]bool{}
	there := map[string]*moving{}
	for _, s := range c.plan.Sets {
		if s.Staged {
			continue
		}
		m := c.moving[s.ID]
		if m == nil || m.of.OfPorts != s.OfPorts {
			m = newMoving(s)
		}
		there[s.ID] = m
		for j := range families {
			f, lists := &families[j], &byFamily[j]
			m.follow(s, f)
			if !sameNets(s.Nets, m.of.Nets) {
				m.nets[j] = nil
				if nets := c.netElems(f, s.Nets); len(nets) > 0 {
					m.nets[j] = &Set{Name: netSet(f, s.ID), Type: f.addr, Interval: true, Elems: ElemsOf(nets...)}
				}
			}
			if s.OfPorts {
				lists[2] = append(lists[2], m.sets[j])
			} else {
				lists[0] = append(lists[0], m.sets[j])
			}
			if m.nets[j] != nil {
				lists[1] = append(lists[1], m.nets[j])
				hasNets[m.nets[j].Name] = true
			}
		}
		m.of = *s
	}
	c.moving = there
	if !maps.Equal(hasNets, c.hasNets) || !reflect.DeepEqual(c.settings, c.Compiler.settings) {
		c.hasNets, c.Compiler.settings = hasNets, c.settings
		c.guards.stale() // what all rules are made by
	}
	var all []*Set
	for kind := range 3 {
		for j := range families {
			all = append(all, byFamily[j][kind]...)
		}
	}
	slices.SortFunc(all, func(a, b *Set) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// find the set of the name, which is there.
func find(sets []*Set, name string) int {
	i, _ := slices.BinarySearchFunc(sets, name, func(s *Set, name string) int { return strings.Compare(s.Name, name) })
	return i
}
