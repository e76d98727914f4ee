package policy

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tierwall/tierwall/apis/selector"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

// labels are a member's own, then those of its profiles in order; the first that has a key wins (contract §1.10).
type labels struct {
	own       map[string]string
	inherited []map[string]string
}

// Get implements selector.Labels.
func (l labels) Get(key string) (string, bool) {
	if v, ok := l.own[key]; ok {
		return v, true
	}
	for _, m := range l.inherited {
		if v, ok := m[key]; ok {
			return v, true
		}
	}
	return "", false
}

// each label that counts.
func (l labels) each(yield func(label, value string)) {
	for k, v := range l.own {
		yield(k, v)
	}
	for i, m := range l.inherited {
		before := labels{l.own, l.inherited[:i]}
		for k, v := range m {
			if _, said := before.Get(k); !said {
				yield(k, v)
			}
		}
	}
}

// labels of a member, found once: when a profile changes its heirs become other members.
func (b *builder) labels(m *member) labels {
	if m.found {
		return labels{m.labels, m.inherits}
	}
	for _, name := range m.profiles {
		if p, ok := b.profiles[name]; ok && len(p.labels) > 0 {
			m.inherits = append(m.inherits, p.labels)
		}
	}
	m.found, m.like = true, nil
	return labels{m.labels, m.inherits}
}

// sets brings every set that a rule names up to date, and gives the plan them.
func (b *builder) sets() {
	b.follow()
	if b.ordered == nil {
		b.order()
	}
	next := *b.plan
	next.Sets = make([]*Set, len(b.ordered))
	for i, l := range b.ordered {
		next.Sets[i] = b.set(l)
	}
	next.Notes = slices.Concat(b.notes, b.crowded())
	b.plan = &next
}

// crowded notes the network sets that are in a set together with more networks than one should have, and services that have too much.
func (b *builder) crowded() (out []Note) {
	for _, l := range b.ordered {
		if l.excess > 0 {
			out = append(out, Note{l.spec.service, fmt.Sprintf("has %d ports, counted at each of its addresses, more than %d: no rule for its ports matches them",
				l.excess, MaxServicePorts)})
		}
		if len(l.net) <= MaxNets {
			continue
		}
		for ref, m := range b.index.members {
			if len(m.nets) > 0 && slices.Contains(m.in, l) {
				out = append(out, Note{ref, fmt.Sprintf("is one of %s, which have %d networks, more than %d: a change of one takes the kernel many seconds",
					brief(l.spec.about), len(l.net), MaxNets)})
			}
		}
	}
	slices.SortFunc(out, func(a, b Note) int { return cmp.Or(a.About.Compare(b.About), strings.Compare(a.Text, b.Text)) })
	return out
}

// order the sets that rules name, and begin those that the last rules did not.
func (b *builder) order() {
	b.byLabel.begin(b.requiredLabels(), b)
	live := make(map[string]*liveSet, len(b.specs))
	b.ordered = make([]*liveSet, 0, len(b.specs))
	for _, id := range sortedKeys(b.specs) {
		l := b.live[id]
		if l == nil {
			l = b.begin(b.specs[id])
		}
		live[id], l.staged = l, !b.enforcedSets[id]
		b.ordered = append(b.ordered, l)
	}
	b.keepUnused(live)
	b.live = live
}

// requiredLabels are those by which the members of sets that begin are looked for.
func (b *builder) requiredLabels() map[string]bool {
	labels := map[string]bool{}
	for id, spec := range b.specs {
		if b.live[id] == nil && spec.ofMembers() && spec.sel != nil {
			for _, label := range spec.sel.RequiredLabels() {
				labels[label] = true
			}
		}
	}
	return labels
}

// unused is how many sets that no rule names any more are kept up to date all the same, beside as many as are named: to begin a
// set means to look at every member, and what has just gone often comes back.
const unused = 256

func (b *builder) keepUnused(live map[string]*liveSet) {
	drop := len(b.live) > 2*len(live)+unused
	for id, l := range b.live {
		switch {
		case live[id] != nil:
		case drop:
			l.gone = true
			if l.spec.ofMembers() {
				b.wanting.remove(l)
			}
		default:
			live[id] = l
		}
	}
}

// follow takes the members that have changed out of the sets in which they were, and puts them into those in which they are.
func (b *builder) follow() {
	if len(b.live)+len(b.byLabel) == 0 {
		return // no set yet that somebody could be in
	}
	for ref, was := range b.index.changed {
		b.byLabel.follow(was, b.index.members[ref], b)
		if was != nil {
			for _, l := range was.in {
				if !l.gone {
					l.remove(was)
				}
			}
			was.in = nil
		}
		if m := b.index.members[ref]; m != nil && !b.closed(m) {
			b.join(m)
		}
	}
}

func (b *builder) join(m *member) {
	l := b.labels(m)
	b.wanting.each(l, func(s *liveSet) {
		if s.spec.selects(l) {
			s.add(m)
			m.in = append(m.in, s)
		}
	})
}

// ofMembers tells a set of what selectors find from those of services and of Nodes.
func (s *setSpec) ofMembers() bool { return s.service == (v3.Ref{}) && s.nodes == nil }

func (s *setSpec) selects(l labels) bool { return s.sel == nil || s.sel.Matches(l) }

// begin makes a set that the last plan had not.
func (b *builder) begin(spec setSpec) *liveSet {
	l := &liveSet{spec: spec, nets: map[netip.Prefix]int{}}
	if spec.ofMembers() {
		selects := b.alike(&spec)
		l.fill(b.among(spec.sel), func(m *member) bool { return !b.closed(m) && selects(m) })
		b.wanting.add(l)
	}
	return l
}

// among are the members that may be selected.
func (b *builder) among(s *selector.Selector) iter.Seq[*member] {
	if few, _ := b.candidates(s); few != nil {
		return few
	}
	return maps.Values(b.index.members)
}

// longSelector is one of so many clauses that it takes less time to tell whether a member is like one that was asked before.
const longSelector = 4

// alike is whether the spec selects a member. A long selector is asked once for all members that have the same labels, as those of a
// Deployment have.
func (b *builder) alike(spec *setSpec) func(*member) bool {
	if spec.sel == nil || spec.sel.Clauses() <= longSelector {
		return func(m *member) bool { return spec.selects(b.labels(m)) }
	}
	known := map[likeness]bool{}
	return func(m *member) bool {
		like := b.likeness(m)
		selected, ok := known[like]
		if !ok {
			selected = spec.selects(b.labels(m))
			known[like] = selected
		}
		return selected
	}
}

// likeness of members that have the same labels: a hash that nobody can make equal for others.
type likeness [sha256.Size224]byte

func (b *builder) likeness(m *member) likeness {
	l := b.labels(m) // which forgets it when it finds them
	if m.like != nil {
		return *m.like
	}
	var text []string
	l.each(func(label, value string) { text = append(text, strconv.Itoa(len(label))+":"+label+value) })
	slices.Sort(text)
	sum := sha256.New224()
	for _, t := range text {
		fmt.Fprintf(sum, "%d:%s", len(t), t)
	}
	m.like = &likeness{}
	sum.Sum(m.like[:0])
	return *m.like
}

func (b *builder) set(l *liveSet) *Set {
	if l.value != nil && l.value.Staged == l.staged && (l.spec.ofMembers() || l.by == b && l.slice == b.index.slices) {
		return l.value
	}
	l.value = l.set()
	switch l.by, l.slice = b, b.index.slices; {
	case l.spec.ofMembers():
	case l.spec.nodes != nil:
		b.nodeMembers(l.spec, l.value)
	default:
		b.serviceMembers(l)
	}
	return l.value
}

func (b *builder) serviceMembers(l *liveSet) {
	var g share
	l.excess = 0
	n := 0
	for _, s := range b.index.services {
		if s.namespace != l.spec.service.Namespace || s.name != l.spec.service.Name {
			continue
		}
		if n += len(s.addrs) * len(s.ports); l.spec.ports && n <= MaxServicePorts {
			g.ports = append(g.ports, s.addrPorts()...)
		}
		g.addrs = append(g.addrs, s.addrs...)
	}
	switch {
	case !l.spec.ports:
		l.value.Addrs = SortedOf(unique(g.addrs)...)
	case n > MaxServicePorts:
		l.excess = n
	default:
		l.value.Ports = SortedOf(unique(g.ports)...)
	}
}

// addrPorts are each port at each address.
func (s *service) addrPorts() (out []AddrPort) {
	for _, a := range s.addrs {
		for _, p := range s.ports {
			out = append(out, AddrPort{a, p.proto, p.port})
		}
	}
	return out
}

func (b *builder) nodeMembers(spec setSpec, set *Set) {
	var addrs []netip.Addr
	for _, n := range b.index.nodes {
		if spec.nodes.Matches(n.labels) {
			addrs = append(addrs, n.addrs...)
		}
	}
	set.Addrs = SortedOf(unique(addrs)...)
}

func unique[T interface {
	comparable
	Compare(T) int
}](in []T) []T {
	slices.SortFunc(in, T.Compare)
	return slices.Compact(in)
}
