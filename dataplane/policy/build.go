package policy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Plan says what to enforce now: what the objects say, and nothing else. What has not changed since the last Plan is shared with
// it, so that a change costs what it touches: another node's pod the sets that it is in, an own one its guards as well; any other
// object the guards of all own endpoints, but still no set that it does not change.
func (x *Index) Plan() *Plan {
	b := x.last
	if b == nil || x.stale {
		b = x.builder()
	}
	if b.plan == nil || x.touchesNode() {
		b.endpoints()
	}
	b.sets()
	x.last, x.stale, x.changed = b, false, map[v3.Ref]*member{}
	return b.plan
}

// touchesNode tells whether one of the members that have changed is, or was, an endpoint that the plan guards.
func (x *Index) touchesNode() bool {
	own := func(m *member) bool { return m != nil && m.endpoint && (x.node == "" || m.node == x.node) }
	for ref, was := range x.changed {
		if own(was) || own(x.members[ref]) {
			return true
		}
	}
	return false
}

// builder makes Plans until something other than a member changes.
type builder struct {
	index         *Index
	hosts         []Host
	sites         *sites
	profiles      map[string]*profile
	tiers, staged []orderedTier         // as they are, and as they would be with the staged policies; nil when there are none
	stands        map[v3.Ref][]string   // the interfaces of host endpoints
	peers         map[netip.Addr]string // the interfaces of routed addresses
	bridges       []Iface               // behind which workloads are among others
	known         map[string]Settings   // of each node that was asked for
	guarded       map[*member]*guarded  // what was built of each own endpoint
	building      *guarded              // of the one that is being built
	live          map[string]*liveSet   // of the last plan
	byLabel       byLabel               // the members
	wanting       wanting               // the live sets
	plan          *Plan                 // the last one
	notes         []Note                // of its endpoints
	books         map[v3.Ref]*book      // that some guard of it names
	uses          map[v3.Ref]int        // how often each of these is named
	enforced      map[v3.Ref]int        // and how often in an enforced tier
	moved         bool                  // other policies are named than the plan has
	specs         map[string]setSpec    // of the sets that it names
	ordered       []*liveSet            // the same, by ID; nil when that has to be found anew
	enforcedSets  map[string]bool
}

// guarded is an endpoint with its guards, and the policies that they name.
type guarded struct {
	endpoint Endpoint
	books    []*book
	enforced []v3.Ref
	staged   bool // some guard has a staged list
	notes    []Note
}

func (x *Index) builder() *builder {
	endpoints := x.hostEndpoints()
	hosts := x.hostList(endpoints)
	b := &builder{
		index: x, hosts: hosts, sites: sitesOf(hosts), stands: x.standings(hosts, endpoints), peers: x.peers(), bridges: x.bridges(), profiles: x.profilesByName(),
		known: map[string]Settings{}, guarded: map[*member]*guarded{}, live: map[string]*liveSet{},
		byLabel: byLabel{}, wanting: newWanting(),
	}
	b.tiers = x.orderedTiers(slices.Collect(maps.Values(x.books)))
	if staged := x.inForce(); staged != nil {
		b.staged = x.orderedTiers(staged)
	}
	if x.last != nil {
		b.live, b.byLabel, b.wanting = x.last.live, x.last.byLabel, x.last.wanting
	}
	return b
}

// endpoints begins a new plan with the endpoints, their guards and the policies that these name.
func (b *builder) endpoints() {
	x := b.index
	if b.plan == nil || x.node == "" { // for all nodes what is built in depends on what was built before
		b.forget()
	}
	next := *b.plan
	next.rules = &edition{}
	next.Endpoints, next.staged, next.Notes = make([]Endpoint, 0, len(x.owned)), false, nil
	for _, was := range x.changed {
		if g := b.guarded[was]; g != nil {
			b.release(g)
			delete(b.guarded, was)
		}
	}
	for _, m := range x.own() {
		g := b.guarded[m]
		if g == nil {
			g = b.endpoint(m)
			b.guarded[m] = g
			b.hold(g)
		}
		next.Endpoints = append(next.Endpoints, g.endpoint)
		next.staged = next.staged || g.staged
		next.Notes = append(next.Notes, g.notes...)
	}
	b.claims(&next)
	b.stand(&next)
	next.where = placesOf(next.Endpoints, b.sites)
	b.notes = next.Notes
	b.plan = &next
	if b.moved {
		b.policies()
	}
}

// forget begins with nothing built.
func (b *builder) forget() {
	x := b.index
	b.plan = &Plan{Node: x.node, Hosts: b.hosts, Settings: map[string]Settings{}}
	b.books, b.uses, b.enforced, b.moved = map[v3.Ref]*book{}, map[v3.Ref]int{}, map[v3.Ref]int{}, true
	b.guarded = map[*member]*guarded{}
	for _, h := range b.hosts {
		if x.node == "" || h.Name == x.node {
			b.plan.Settings[h.Name] = *b.settings(h.Name)
		}
	}
	for _, m := range x.own() {
		if !has(b.plan.Settings, m.node) {
			b.plan.Settings[m.node] = *b.settings(m.node)
		}
	}
	if x.node != "" {
		b.plan.Settings[x.node] = *b.settings(x.node) // though no object is on it
	}
}

// hold and release count who names a policy; only when somebody begins to, or nobody does any more, are there other policies.
func (b *builder) hold(g *guarded) {
	for _, k := range g.books {
		b.uses[k.policy.Ref]++
		b.moved = b.moved || b.uses[k.policy.Ref] == 1
	}
	for _, ref := range g.enforced {
		b.enforced[ref]++
		b.moved = b.moved || b.enforced[ref] == 1
	}
}

func (b *builder) release(g *guarded) {
	for _, k := range g.books {
		b.uses[k.policy.Ref]--
		b.moved = b.moved || b.uses[k.policy.Ref] == 0
	}
	for _, ref := range g.enforced {
		b.enforced[ref]--
		b.moved = b.moved || b.enforced[ref] == 0
	}
}

// policies are those that guards name, and the sets that these name.
func (b *builder) policies() {
	b.moved, b.plan.Policies, b.ordered = false, nil, nil
	b.specs, b.enforcedSets = map[string]setSpec{}, map[string]bool{}
	for ref, n := range b.uses {
		if n == 0 {
			delete(b.uses, ref)
			delete(b.books, ref)
		}
	}
	for _, ref := range sortedRefs(b.books) {
		b.policy(b.books[ref])
	}
}

// own are the endpoints that the plan guards, by Ref.
func (x *Index) own() []*member {
	if x.ordered == nil {
		x.ordered = make([]*member, 0, len(x.owned))
		for _, m := range x.owned {
			x.ordered = append(x.ordered, m)
		}
		slices.SortFunc(x.ordered, func(a, b *member) int { return a.ref.Compare(b.ref) })
	}
	return x.ordered
}

// keep follows which members the plan guards.
func (x *Index) keep(ref v3.Ref) {
	m := x.members[ref]
	if m != nil && m.endpoint && (x.node == "" || m.node == x.node) && !(x.released && ref.Kind == "HostEndpoint") {
		x.owned[ref], x.ordered = m, nil
	} else if has(x.owned, ref) {
		delete(x.owned, ref)
		x.ordered = nil
	}
}

// ReleaseHosts makes host endpoints guard nothing, or guard again: for who has locked himself out of a node. Workloads stay guarded, and
// as peers of policies host endpoints are what they are.
func (x *Index) ReleaseHosts(release bool) {
	x.released, x.stale = release, true
	for ref := range x.members {
		if ref.Kind == "HostEndpoint" {
			x.keep(ref)
		}
	}
}

// orderedTier is a tier and all its policies in order.
type orderedTier struct {
	tier
	books    []*book
	subjects subjects // of these
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
		out = append(out, orderedTier{t, books, subjectsOf(books)})
	}
	slices.SortFunc(out, func(a, b orderedTier) int { return a.compare(b.tier) })
	return out
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

// Policy that a guard names, or nil.
func (p *Plan) Policy(ref v3.Ref) *Policy {
	i, ok := slices.BinarySearchFunc(p.Policies, ref, func(p Policy, ref v3.Ref) int { return p.Ref.Compare(ref) })
	if !ok {
		return nil
	}
	return &p.Policies[i]
}

// Set that a rule names, or nil.
func (p *Plan) Set(id string) *Set {
	i, ok := slices.BinarySearchFunc(p.Sets, id, func(s *Set, id string) int { return strings.Compare(s.ID, id) })
	if !ok {
		return nil
	}
	return p.Sets[i]
}

// Workload that has an address, or nil.
func (p *Plan) Workload(a netip.Addr) *Endpoint { return p.where.byAddr[a] }
