package policy

import (
	"net/netip"
	"slices"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Plan says what to enforce now. It is built whole each time, from what the objects say and nothing else.
func (x *Index) Plan() *Plan {
	endpoints := x.hostEndpoints()
	hosts := x.hostList(endpoints)
	b := builder{
		index: x, stands: x.standings(hosts, endpoints), profiles: x.profilesByName(), tiers: x.orderedTiers(),
		plan:  &Plan{Node: x.node, Hosts: hosts, EndpointToHost: x.options.EndpointToHost},
		books: map[v3.Ref]*book{}, specs: map[string]setSpec{},
	}
	for _, ref := range sortedRefs(x.members) {
		if m := x.members[ref]; m.endpoint && (x.node == "" || m.node == x.node) {
			b.endpoint(m)
		}
	}
	for _, ref := range sortedRefs(b.books) {
		b.policy(b.books[ref])
	}
	b.sets()
	b.plan.link()
	return b.plan
}

// builder is one Plan in the making.
type builder struct {
	index    *Index
	plan     *Plan
	profiles map[string]*profile
	tiers    []orderedTier
	stands   map[v3.Ref][]string // the interfaces of host endpoints
	books    map[v3.Ref]*book    // that some guard names
	specs    map[string]setSpec
}

// orderedTier is a tier and all its policies in order.
type orderedTier struct {
	tier
	books []*book
}

func (x *Index) orderedTiers() []orderedTier {
	byTier := map[string][]*book{}
	for _, b := range x.books {
		byTier[b.tier] = append(byTier[b.tier], b)
	}
	var out []orderedTier
	for name, t := range x.tiersByName() {
		if books := byTier[name]; len(books) > 0 {
			slices.SortFunc(books, (*book).compare)
			out = append(out, orderedTier{t, books})
		}
	}
	slices.SortFunc(out, func(a, b orderedTier) int { return a.compare(b.tier) })
	return out
}

func (b *builder) endpoint(m *member) {
	e := Endpoint{Ref: m.ref, Node: m.node, Ifaces: b.stands[m.ref], Addrs: m.addrs}
	if !e.Host() && m.iface != "" {
		e.Ifaces = []string{m.iface}
	}
	labels := b.labels(m)
	for _, d := range []Direction{Ingress, Egress} {
		g := Guard{Stage: Normal, Direction: d}
		if !m.closed {
			g.Tiers = b.tiersOf(m, labels, d)
		}
		e.Guards = append(e.Guards, Guard{Stage: g.Stage, Direction: d, Tiers: append(g.Tiers, Tier{Default: Deny})})
	}
	b.plan.Endpoints = append(b.plan.Endpoints, e)
}

// tiersOf a member: what is built in, its policies, its profiles.
func (b *builder) tiersOf(m *member, l labels, d Direction) (out []Tier) {
	alone := func(k *book) Tier { return Tier{Policies: []v3.Ref{b.use(k)}, Default: Pass} }
	switch {
	case m.ref.Kind == "HostEndpoint":
		out = append(out, alone(&book{policy: failsafe(b.index.options)}))
	case d == Egress:
		out = append(out, alone(&book{policy: noTunnels}))
	}
	out = append(out, b.policyTiers(l, d)...)
	for _, name := range m.profiles {
		out = append(out, alone(&b.profile(name).book))
	}
	return out
}

// policyTiers leaves out a tier of which no policy selects the endpoint in that direction (contract §4.2).
func (b *builder) policyTiers(l labels, d Direction) (out []Tier) {
	for _, t := range b.tiers {
		var refs []v3.Ref
		for _, k := range t.books {
			if k.guards(d) && k.subject != nil && k.subject.Matches(l) {
				refs = append(refs, b.use(k))
			}
		}
		if len(refs) > 0 {
			out = append(out, Tier{Name: t.name, Policies: refs, Default: t.action})
		}
	}
	return out
}

func (b *builder) use(k *book) v3.Ref {
	b.books[k.policy.Ref] = k
	return k.policy.Ref
}

func (b *builder) profile(name string) *profile {
	if p, ok := b.profiles[name]; ok {
		return p
	}
	p := missingProfile(name)
	b.profiles[name] = p
	return p
}

// policy adds a policy and notes the sets that it names.
func (b *builder) policy(k *book) {
	b.plan.Policies = append(b.plan.Policies, k.policy)
	for id, s := range k.sets {
		b.specs[id] = s
	}
}

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

func (b *builder) labels(m *member) labels {
	l := labels{own: m.labels}
	for _, name := range m.profiles {
		if p, ok := b.profiles[name]; ok && len(p.labels) > 0 {
			l.inherited = append(l.inherited, p.labels)
		}
	}
	return l
}

// sets fills every set that a rule names.
func (b *builder) sets() {
	all := make([]labels, 0, len(b.index.members))
	members := make([]*member, 0, len(b.index.members))
	for _, m := range b.index.members {
		if m.closed {
			continue
		}
		members, all = append(members, m), append(all, b.labels(m))
	}
	for _, id := range sortedKeys(b.specs) {
		spec := b.specs[id]
		set := Set{ID: id, About: spec.about, OfPorts: spec.ports || spec.port != ""}
		switch {
		case spec.service != (v3.Ref{}):
			b.serviceMembers(spec, &set)
		case spec.nodes != nil:
			b.nodeMembers(spec, &set)
		default:
			for i, m := range members {
				if spec.sel == nil || spec.sel.Matches(all[i]) {
					spec.take(m, &set)
				}
			}
		}
		b.plan.Sets = append(b.plan.Sets, set.normal())
	}
}

func (s *setSpec) take(m *member, set *Set) {
	if !set.OfPorts {
		set.Addrs, set.Nets = append(set.Addrs, m.addrs...), append(set.Nets, m.nets...)
		return
	}
	for _, p := range m.ports {
		if p.name != s.port || s.proto != 0 && p.proto != s.proto {
			continue
		}
		for _, a := range m.addrs {
			set.Ports = append(set.Ports, AddrPort{a, p.proto, p.port})
		}
	}
}

func (b *builder) serviceMembers(spec setSpec, set *Set) {
	for _, s := range b.index.services {
		if s.namespace != spec.service.Namespace || s.name != spec.service.Name {
			continue
		}
		if spec.ports {
			set.Ports = append(set.Ports, s.ports...)
		} else {
			set.Addrs = append(set.Addrs, s.addrs...)
		}
	}
}

func (b *builder) nodeMembers(spec setSpec, set *Set) {
	for _, n := range b.index.nodes {
		if spec.nodes.Matches(n.labels) {
			set.Addrs = append(set.Addrs, n.addrs...)
		}
	}
}

// normal sorts and merges, so that equal members are equal sets.
func (s Set) normal() Set {
	slices.SortFunc(s.Addrs, netip.Addr.Compare)
	s.Addrs = slices.Compact(s.Addrs)
	slices.SortFunc(s.Ports, AddrPort.Compare)
	s.Ports = slices.Compact(s.Ports)
	if len(s.Nets) > 0 {
		s.Nets = mergeNets(s.Nets)
	}
	return s
}

// Compare orders by address, protocol and port.
func (p AddrPort) Compare(o AddrPort) int {
	if c := p.Addr.Compare(o.Addr); c != 0 {
		return c
	}
	return (int(p.Proto)-int(o.Proto))<<16 + int(p.Port) - int(o.Port)
}

func (x *Index) hostList(endpoints map[string][]*member) []Host {
	by := map[string][]netip.Addr{}
	for _, h := range x.hosts {
		by[h.Name] = append(by[h.Name], h.Addrs...)
	}
	var out []Host
	for _, name := range sortedKeys(by) {
		addrs := by[name]
		slices.SortFunc(addrs, netip.Addr.Compare)
		addrs = slices.Compact(addrs)
		out = append(out, Host{Name: name, Addrs: addrs, Ifaces: x.interfaces(name, endpoints[name], addrs)})
	}
	return out
}

func sortedRefs[V any](m map[v3.Ref]V) []v3.Ref {
	refs := make([]v3.Ref, 0, len(m))
	for r := range m {
		refs = append(refs, r)
	}
	slices.SortFunc(refs, v3.Ref.Compare)
	return refs
}

// link makes the look-ups that Trace needs. An address that several endpoints claim is the first one's, by Ref.
func (p *Plan) link() {
	p.byAddr, p.hosts = map[netip.Addr]*Endpoint{}, map[netip.Addr]*Host{}
	p.policies, p.sets = map[v3.Ref]*Policy{}, map[string]*Set{}
	for i := range p.Endpoints {
		e := &p.Endpoints[i]
		for _, a := range e.Addrs {
			if p.byAddr[a] == nil && !e.Host() {
				p.byAddr[a] = e
			}
		}
	}
	for i := range p.Hosts {
		for _, a := range p.Hosts[i].Addrs {
			if p.hosts[a] == nil {
				p.hosts[a] = &p.Hosts[i]
			}
		}
	}
	for i := range p.Policies {
		p.policies[p.Policies[i].Ref] = &p.Policies[i]
	}
	for i := range p.Sets {
		p.sets[p.Sets[i].ID] = &p.Sets[i]
	}
}

// Policy that a guard names.
func (p *Plan) Policy(ref v3.Ref) *Policy { return p.policies[ref] }

// Set that a rule names.
func (p *Plan) Set(id string) *Set { return p.sets[id] }

// Workload that has an address, or nil.
func (p *Plan) Workload(a netip.Addr) *Endpoint { return p.byAddr[a] }
