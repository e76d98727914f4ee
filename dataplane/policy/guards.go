package policy

import (
	"fmt"
	"reflect"
	"slices"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

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
	if note := b.nowhere(m, e.Ifaces); note != "" {
		b.building.notes = append(b.building.notes, Note{m.ref, note})
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

// nowhere says why a host endpoint guards nothing now, where it is known which interfaces its node has.
func (b *builder) nowhere(m *member, stands []string) string {
	has := func(name string) bool {
		return slices.ContainsFunc(b.index.ifaces, func(f Iface) bool { return f.Name == name })
	}
	switch {
	case m.ref.Kind != "HostEndpoint" || b.index.ifaces == nil || m.node != b.index.node:
		return ""
	case len(stands) == 0:
		return "stands on no interface: none of its node's has an address that it expects and is not another host endpoint's"
	case m.named() && !has(m.iface):
		return fmt.Sprintf("stands on interface %s, which its node does not have now", m.iface)
	}
	return ""
}

// closed tells whether nothing passes to or from a member, and no selector finds it: it asks for what its node does not allow, as
// Calico treats it (contract §1.9).
func (b *builder) closed(m *member) bool {
	return m.closed || len(m.sources) > 0 && !b.settings(m.node).AnySource
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
				b.building.notes = append(b.building.notes, Note{k.ref, fmt.Sprintf("is doNotTrack and selects %s, which stands on all interfaces: "+
					"it has no effect there in %s", m.ref, g.Direction)})
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
		for _, at := range t.subjects.among(l) {
			if k := t.books[at]; k.selects(g, l) {
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
