package policy

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/apis/selector"
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
	books         map[v3.Ref]*book      // that some guard of it names
	uses          map[v3.Ref]int        // how often each of these is named
	enforced      map[v3.Ref]int        // and how often in an enforced tier
	moved         bool                  // other policies are named than the plan has
	specs         map[string]setSpec    // of the sets that it names
	enforcedSets  map[string]bool
}

// guarded is an endpoint with its guards, and the policies that they name.
type guarded struct {
	endpoint Endpoint
	books    []*book
	enforced []v3.Ref
	staged   bool // some guard has a staged list
	notes    []string
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
	b.plan = &next
	if b.moved {
		b.policies()
	}
}

// claims gives each address of a node to one of the workloads that claim it.
func (b *builder) claims(p *Plan) {
	holders := make(map[claim]*member, 2*len(p.Endpoints))
	again := false
	for _, m := range b.index.own() {
		if m.ref.Kind == "HostEndpoint" {
			continue
		}
		for _, a := range m.addrs {
			c := claim{m.node, a}
			have := holders[c]
			if again = again || have != nil; have == nil || m.before(have) {
				holders[c] = m
			}
		}
	}
	for i := 0; again && i < len(p.Endpoints); i++ {
		e := &p.Endpoints[i]
		e.Addrs = slices.DeleteFunc(slices.Clone(e.Addrs), func(a netip.Addr) bool {
			holder := holders[claim{e.Node, a}]
			if e.Host() || holder.ref == e.Ref {
				return false
			}
			p.Notes = append(p.Notes, fmt.Sprintf("%s claims address %s, which is taken to be %s's", e.Ref, a, holder.ref))
			return true
		})
	}
}

// claim is an address on a node.
type claim struct {
	node string
	addr netip.Addr
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
	b.moved, b.plan.Policies = false, nil
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
	if m != nil && m.endpoint && (x.node == "" || m.node == x.node) {
		x.owned[ref], x.ordered = m, nil
	} else if has(x.owned, ref) {
		delete(x.owned, ref)
		x.ordered = nil
	}
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

func (b *builder) endpoint(m *member) *guarded {
	b.building = &guarded{}
	e := Endpoint{Ref: m.ref, Node: m.node, Ifaces: b.stands[m.ref], Addrs: m.addrs}
	places := hostPlaces
	if !e.Host() {
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
	b.building.endpoint = e
	b.building.staged = slices.ContainsFunc(e.Guards, func(g Guard) bool { return g.HasStaged })
	return b.building
}

// closed tells whether nothing passes to or from a member, and no selector finds it: it asks for what its node does not allow, as
// Calico treats it (contract §1.9).
func (b *builder) closed(m *member) bool {
	return m.closed || len(m.sources) > 0 && !b.settings(m.node).AnySource
}

// stand tells behind which interfaces workloads are: alone, behind the one that the object names or those to which the addresses are
// routed; or among others, behind a bridge or an interface to which others' addresses are routed as well.
func (b *builder) stand(p *Plan) {
	first, several := map[string]v3.Ref{}, map[string]bool{}
	each := func(e *Endpoint, yield func(string)) {
		if m := b.index.members[e.Ref]; m.iface != "" {
			yield(m.iface)
		} else if e.Node == b.index.node {
			for _, a := range e.Addrs {
				if name, ok := b.peers[a]; ok {
					yield(name)
				}
			}
		}
	}
	for i := range p.Endpoints {
		if e := &p.Endpoints[i]; !e.Host() {
			each(e, func(name string) {
				if ref, ok := first[name]; ok && ref != e.Ref {
					several[name] = true
				}
				first[name] = e.Ref
			})
		}
	}
	for i := range p.Endpoints {
		if e := &p.Endpoints[i]; !e.Host() {
			e.Ifaces, e.Shared = nil, b.shared(e)
			each(e, func(name string) {
				to := &e.Ifaces
				if several[name] && e.Node == b.index.node {
					to = &e.Shared
				}
				if !slices.Contains(*to, name) {
					*to = append(*to, name)
				}
			})
		}
	}
}

// shared are the bridges behind which a workload is.
func (b *builder) shared(e *Endpoint) (out []string) {
	for i := range b.bridges {
		if f := &b.bridges[i]; e.Node == b.index.node && slices.ContainsFunc(e.Addrs, f.behind) {
			out = append(out, f.Name)
		}
	}
	return out
}

// guard fills the tiers of one place and, if another list would stand there with the staged policies, that list.
func (b *builder) guard(g *Guard, m *member, l labels) {
	if g.Stage == Untracked && m.iface == "*" { // not supported, as in Calico (contract §4.4)
		b.withoutEffect(g, m, l)
		return
	}
	g.Tiers = b.tiersOf(g, m, b.policyTiers(b.tiers, g, l))
	for _, t := range g.Tiers {
		for _, ref := range t.Policies {
			b.building.enforced = append(b.building.enforced, ref)
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

// withoutEffect notes the policies that select an endpoint at a place where they cannot be asked.
func (b *builder) withoutEffect(g *Guard, m *member, l labels) {
	for _, t := range b.tiers {
		for _, k := range t.books {
			if k.selects(g, l) {
				b.building.notes = append(b.building.notes, fmt.Sprintf("%s is doNotTrack and selects %s, which stands on all interfaces: "+
					"it has no effect there in %s", k.ref, m.ref, g.Direction))
			}
		}
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
			if k.selects(g, l) {
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
	b.building.books = append(b.building.books, k)
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
	p.Staged = b.enforced[p.Ref] == 0
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
	m.found = true
	return labels{m.labels, m.inherits}
}

// sets brings every set that a rule names up to date, and gives the plan them.
func (b *builder) sets() {
	b.follow()
	next := *b.plan
	next.Sets = make([]Set, 0, len(b.specs))
	live := make(map[string]*liveSet, len(b.specs))
	for _, id := range sortedKeys(b.specs) {
		l := b.live[id]
		if l == nil {
			l = b.begin(b.specs[id])
		}
		live[id] = l
		next.Sets = append(next.Sets, b.set(l))
	}
	b.keepUnused(live)
	b.live, b.plan = live, &next
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
		l.fill(b.among(spec.sel), func(m *member) bool { return !b.closed(m) && spec.selects(b.labels(m)) })
		b.wanting.add(l)
	}
	return l
}

// among are the members that may be selected.
func (b *builder) among(s *selector.Selector) iter.Seq[*member] {
	if few, ok := b.candidates(s); ok {
		return maps.Keys(few)
	}
	return maps.Values(b.index.members)
}

func (b *builder) set(l *liveSet) Set {
	staged := !b.enforcedSets[l.spec.id]
	switch {
	case l.spec.ofMembers():
		return l.set(staged)
	case l.by == b && l.slice == b.index.slices && l.value.Staged == staged:
		return l.value
	}
	l.by, l.slice, l.value = b, b.index.slices, l.set(staged)
	if l.spec.nodes != nil {
		b.nodeMembers(l.spec, &l.value)
	} else {
		b.serviceMembers(l.spec, &l.value)
	}
	return l.value
}

func (b *builder) serviceMembers(spec setSpec, set *Set) {
	var g share
	for _, s := range b.index.services {
		if s.namespace == spec.service.Namespace && s.name == spec.service.Name {
			g.ports, g.addrs = append(g.ports, s.ports...), append(g.addrs, s.addrs...)
		}
	}
	if spec.ports {
		set.Ports = sortedOf(unique(g.ports))
	} else {
		set.Addrs = sortedOf(unique(g.addrs))
	}
}

func (b *builder) nodeMembers(spec setSpec, set *Set) {
	var addrs []netip.Addr
	for _, n := range b.index.nodes {
		if spec.nodes.Matches(n.labels) {
			addrs = append(addrs, n.addrs...)
		}
	}
	set.Addrs = sortedOf(unique(addrs))
}

func unique[T interface {
	comparable
	Compare(T) int
}](in []T) []T {
	slices.SortFunc(in, T.Compare)
	return slices.Compact(in)
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
	i, ok := slices.BinarySearchFunc(p.Sets, id, func(s Set, id string) int { return strings.Compare(s.ID, id) })
	if !ok {
		return nil
	}
	return &p.Sets[i]
}

// Workload that has an address, or nil.
func (p *Plan) Workload(a netip.Addr) *Endpoint { return p.where.byAddr[a] }
