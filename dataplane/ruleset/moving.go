package ruleset

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// Compiler expresses one plan after another, and remembers the last: what has not changed since costs next to nothing. The first plan
// is expressed as a whole, and so is each that differs from the last in more than its sets. The table of a plan does not depend on what
// came before it. A Compiler is for one goroutine.
type Compiler struct {
	options Options
	worth   int
	last    *policy.Plan
	table   *Table
	moving  map[string]*moving     // by the ID of the plan's set
	guards  map[guardKey]guardName // of the last plan
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
	return &Compiler{options: o, worth: worthMap, moving: map[string]*moving{}}
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
			at := find(next.Sets, m.name(&families[j]))
			set := *next.Sets[at]
			set.Elems = m.elems[j]
			next.Sets[at] = &set
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
	of    policy.Set
	elems [2]Elems // by family
}

// name of the set that has the addresses, or ports of addresses, of a family.
func (m *moving) name(f *family) string {
	if m.of.OfPorts {
		return portSet(f, m.of.ID)
	}
	return addrSet(f, m.of.ID)
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
	at := &m.elems[f.index()]
	*at = at.Changed(gone, come)
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

// planSets makes the sets that move while rules stay. A set of addresses always has its hashes, even empty, so that a pod's
// coming and going touches no rule; it has intervals only while a network set is among its members.
func (c *compiler) planSets() {
	for i := range c.plan.Sets {
		s := c.plan.Sets[i]
		if s.Staged {
			continue
		}
		m := c.moving[s.ID]
		if m == nil || m.of.OfPorts != s.OfPorts {
			m = &moving{of: policy.Set{ID: s.ID, OfPorts: s.OfPorts}}
			c.moving[s.ID] = m
		}
		for j := range families {
			f := &families[j]
			m.follow(s, f)
			typ := f.addr
			if s.OfPorts {
				typ = f.port
			}
			c.set(m.name(f), typ, false).Elems = m.elems[j]
			if nets := c.netElems(f, s.Nets); len(nets) > 0 {
				c.set(netSet(f, s.ID), f.addr, true).gathered = nets
			}
		}
		m.of = *s
	}
	c.forgetSets()
}

// forgetSets that the plan has not.
func (c *compiler) forgetSets() {
	for id := range c.moving {
		if s := c.plan.Set(id); s == nil || s.Staged {
			delete(c.moving, id)
		}
	}
}

// find the set of the name, which is there.
func find(sets []*Set, name string) int {
	i, _ := slices.BinarySearchFunc(sets, name, func(s *Set, name string) int { return strings.Compare(s.Name, name) })
	return i
}
