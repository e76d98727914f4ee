package policy

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Plan says what to enforce now. It is built whole each time, from what the objects say and nothing else.
func (x *Index) Plan() *Plan {
	endpoints := x.hostEndpoints()
	hosts := x.hostList(endpoints)
	b := builder{
		index: x, stands: x.standings(hosts, endpoints), peers: x.peers(), profiles: x.profilesByName(),
		plan:  &Plan{Node: x.node, Hosts: hosts, Settings: map[string]Settings{}},
		books: map[v3.Ref]*book{}, specs: map[string]setSpec{}, enforced: map[v3.Ref]bool{}, enforcedSets: map[string]bool{}, known: map[string]Settings{},
	}
	b.tiers = x.orderedTiers(slices.Collect(maps.Values(x.books)))
	if staged := x.inForce(); staged != nil {
		b.staged = x.orderedTiers(staged)
	}
	for _, h := range hosts {
		if x.node == "" || h.Name == x.node {
			b.settings(h.Name)
		}
	}
	if x.node != "" {
		b.settings(x.node) // though no object is on it
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
	index         *Index
	plan          *Plan
	profiles      map[string]*profile
	tiers, staged []orderedTier         // as they are, and as they would be with the staged policies; nil when there are none
	stands        map[v3.Ref][]string   // the interfaces of host endpoints
	peers         map[netip.Addr]string // the interfaces of routed addresses
	books         map[v3.Ref]*book      // that some guard names
	enforced      map[v3.Ref]bool       // those that an enforced tier names
	specs         map[string]setSpec
	enforcedSets  map[string]bool
	known         map[string]Settings // of other nodes too, for what their workloads may ask
}

// orderedTier is a tier and all its policies in order.
type orderedTier struct {
	tier
	books []*book
}

func (x *Index) orderedTiers(books []*book) []orderedTier {
	byTier := map[string][]*book{}
	for _, b := range books {
		byTier[b.tier] = append(byTier[b.tier], b)
	}
	tiers := x.tiersByName()
	var out []orderedTier
	for name, books := range byTier {
		t, ok := tiers[name]
		if !ok { // nobody made it: it denies at its end
			t = tier{name: name, action: Deny}
		}
		slices.SortFunc(books, (*book).compare)
		out = append(out, orderedTier{t, books})
	}
	slices.SortFunc(out, func(a, b orderedTier) int { return a.compare(b.tier) })
	return out
}

// settings of a node, found once.
func (b *builder) settings(node string) *Settings {
	s, ok := b.known[node]
	if !ok {
		s = b.index.settings(node)
		b.known[node] = s
		if b.index.node == "" || b.index.node == node {
			b.plan.Settings[node] = s
		}
	}
	return &s
}

// places are the stages and directions at which each kind of endpoint is guarded (contract §4.3).
var (
	workloadPlaces = []Guard{{Stage: Normal, Direction: Ingress}, {Stage: Normal, Direction: Egress}}
	hostPlaces     = []Guard{{Stage: Untracked, Direction: Ingress}, {Stage: Untracked, Direction: Egress}, {Stage: PreDNAT, Direction: Ingress},
		{Stage: Forward, Direction: Ingress}, {Stage: Forward, Direction: Egress},
		{Stage: Normal, Direction: Ingress}, {Stage: Normal, Direction: Egress}}
)

func (b *builder) endpoint(m *member) {
	e := Endpoint{Ref: m.ref, Node: m.node, Ifaces: b.stands[m.ref], Addrs: m.addrs}
	places := hostPlaces
	if !e.Host() {
		e.Ifaces, e.Shared = b.ifaces(m)
		places = workloadPlaces
	}
	if !b.closed(m) {
		e.Sources = m.sources
	}
	l := b.labels(m)
	for _, g := range places {
		if b.closed(m) {
			g.Tiers = []Tier{{Default: Deny}}
		} else {
			b.guard(&g, m, l)
		}
		if len(g.Tiers) > 0 || g.HasStaged {
			e.Guards = append(e.Guards, g)
		}
	}
	b.plan.Endpoints = append(b.plan.Endpoints, e)
}

// closed tells whether nothing passes to or from a member, and no selector finds it: it asks for what its node does not allow, as
// Calico treats it (contract §1.9).
func (b *builder) closed(m *member) bool {
	return m.closed || len(m.sources) > 0 && !b.settings(m.node).AnySource
}

// ifaces behind which a workload is: alone, behind the one that its object names or those to which its addresses are routed; and
// among others.
func (b *builder) ifaces(m *member) (alone, shared []string) {
	if m.iface != "" {
		alone = []string{m.iface}
	}
	if m.node != b.index.node {
		return alone, nil
	}
	for _, a := range m.addrs {
		if name, ok := b.peers[a]; ok && m.iface == "" && !slices.Contains(alone, name) {
			alone = append(alone, name)
		}
		for _, name := range b.index.shared(a) {
			if !slices.Contains(shared, name) {
				shared = append(shared, name)
			}
		}
	}
	return alone, shared
}

// guard fills the tiers of one place and, if another list would stand there with the staged policies, that list.
func (b *builder) guard(g *Guard, m *member, l labels) {
	if g.Stage == Untracked && m.iface == "*" { // not supported, as in Calico (contract §4.4)
		return
	}
	g.Tiers = b.tiersOf(g, m, b.policyTiers(b.tiers, g, l))
	for _, t := range g.Tiers {
		for _, ref := range t.Policies {
			b.enforced[ref] = true
		}
	}
	if b.staged == nil {
		return
	}
	staged := b.tiersOf(g, m, b.policyTiers(b.staged, g, l))
	if !slices.EqualFunc(g.Tiers, staged, Tier.equal) {
		g.Staged, g.HasStaged = staged, true
	}
}

func (t Tier) equal(o Tier) bool {
	return t.Name == o.Name && t.Default == o.Default && slices.Equal(t.Policies, o.Policies)
}

// tiersOf puts around the tiers of policies what else stands at the place (contract §4.3, §4.5): what is built in before them; the
// profiles and the final denial behind them. Before connections are known, and for forwarded packets, nothing stands where no
// policy does.
func (b *builder) tiersOf(g *Guard, m *member, policies []Tier) (out []Tier) {
	if g.Stage != Normal && len(policies) == 0 {
		return nil
	}
	alone := func(k *book) Tier { return Tier{Policies: []v3.Ref{b.use(k)}, Default: Pass} }
	settings := b.settings(m.node)
	switch {
	case g.Stage == Forward:
	case m.ref.Kind == "HostEndpoint":
		out = append(out, alone(b.builtIn(m.node, settings.failsafe(g.Stage))))
	case g.Direction == Egress:
		out = append(out, alone(b.builtIn(m.node, settings.noTunnels())))
	}
	out = append(out, policies...)
	if g.Stage != Normal {
		return out
	}
	for _, name := range m.profiles {
		out = append(out, alone(&b.profile(name).book))
	}
	return append(out, Tier{Default: Deny})
}

// builtIn is a policy that nobody wrote. It is the same on all nodes but where settings make it another.
func (b *builder) builtIn(node string, p Policy) *book {
	if have, ok := b.books[p.Ref]; ok && !reflect.DeepEqual(have.policy, p) {
		p.Ref.Name += "-" + node
	}
	return &book{policy: p}
}

// policyTiers leaves out a tier of which no policy selects the endpoint in that direction (contract §4.2). Untracked and pre-DNAT
// policies only ever decide by their rules.
func (b *builder) policyTiers(tiers []orderedTier, g *Guard, l labels) (out []Tier) {
	for _, t := range tiers {
		var refs []v3.Ref
		for _, k := range t.books {
			if k.stands(g.Stage) && k.guards(g.Direction) && k.subject != nil && k.subject.Matches(l) {
				refs = append(refs, b.use(k))
			}
		}
		if len(refs) == 0 {
			continue
		}
		action := t.action
		if g.Stage == Untracked || g.Stage == PreDNAT {
			action = Pass
		}
		out = append(out, Tier{Name: t.name, Policies: refs, Default: action})
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
	p := k.policy
	p.Staged = !b.enforced[p.Ref]
	b.plan.Policies = append(b.plan.Policies, p)
	for id, s := range k.sets {
		b.specs[id] = s
		b.enforcedSets[id] = b.enforcedSets[id] || !p.Staged
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
		if b.closed(m) {
			continue
		}
		members, all = append(members, m), append(all, b.labels(m))
	}
	for _, id := range sortedKeys(b.specs) {
		spec := b.specs[id]
		set := Set{ID: id, About: spec.about, OfPorts: spec.ports || spec.port != "", Staged: !b.enforcedSets[id]}
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
	for _, f := range x.ifaces { // what the node itself says it has, loopback and bridges as well
		by[x.node] = append(by[x.node], f.Addrs...)
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
	p.byAddr, p.hosts, p.byName = map[netip.Addr]*Endpoint{}, map[netip.Addr]*Host{}, map[string]*Host{}
	p.policies, p.sets = map[v3.Ref]*Policy{}, map[string]*Set{}
	for i := range p.Endpoints {
		e := &p.Endpoints[i]
		for _, a := range e.Addrs {
			if p.byAddr[a] == nil && !e.Host() {
				p.byAddr[a] = e
			}
		}
		p.staged = p.staged || slices.ContainsFunc(e.Guards, func(g Guard) bool { return g.HasStaged })
	}
	for i := range p.Hosts {
		p.byName[p.Hosts[i].Name] = &p.Hosts[i]
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
