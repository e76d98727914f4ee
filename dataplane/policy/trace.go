package policy

import (
	"fmt"
	"net/netip"
	"slices"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Flow is the first packet of a connection.
type Flow struct {
	Src, Dst           netip.Addr // Dst is where it arrives, after destination NAT
	Proto              uint8
	SrcPort, DstPort   uint16
	ICMPType, ICMPCode uint8

	// OrigDst and OrigDstPort are where it was sent, when a node on its way translates that: a service's address, or a NodePort.
	OrigDst     netip.Addr
	OrigDstPort uint16
	// NATNode is the node that does so: Via, or else the first on the way. Masquerade is the source that it has from there on.
	NATNode    string
	Masquerade netip.Addr

	// Via is a node that the packet passes on its way to its destination's.
	Via string
	// InIface is the interface by which the packet comes in, at Via or else at its destination's node, and OutIface the one by which
	// it goes out, at Via or else at its source's node. Where they are "" Trace takes the one that has the host's address, or the
	// host's first one.
	InIface, OutIface string
}

// Trace is what a Plan does to a Flow, and why.
type Trace struct {
	Outcome
	// Staged is what would be done if the staged policies were in force; nil when no such policy concerns this plan.
	Staged *Outcome
}

// Outcome is a verdict and the way to it.
type Outcome struct {
	Verdict Action // Allow or Deny
	Egress  *Judgement
	Ingress *Judgement
	Steps   []Step
}

// Judgement is what decided at one end, or what denied on the way. It is absent where no endpoint is guarded.
type Judgement struct {
	Verdict  Action
	Endpoint v3.Ref
	Stage    Stage
	Tier     string // "" for what is no tier to the user
	Policy   v3.Ref // zero when no policy's rule decided
	Rule     int    // index in the object, -1 when none
	Why      string
}

// Step is one thing that was asked on the way.
type Step struct {
	Endpoint  v3.Ref
	Stage     Stage
	Direction Direction
	Tier      string
	Policy    v3.Ref
	Rule      int
	Action    Action // None: it did not apply
	Why       string
}

// Trace walks a flow through the plan, node by node. It is the reference that the compiled table is held against, and shares no
// code with it.
func (p *Plan) Trace(f Flow) Trace {
	out := Trace{Outcome: p.trace(f, false)}
	if p.staged {
		staged := p.trace(f, true)
		out.Staged = &staged
	}
	return out
}

func (p *Plan) trace(f Flow, staged bool) Outcome {
	t := tracer{plan: p, staged: staged, out: Outcome{Verdict: Allow}}
	if e := p.where.byAddr[f.Src]; e != nil && f.Src == f.Dst && !f.OrigDst.IsValid() && f.Via == "" {
		t.note(e.Ref, Egress, Allow, "a packet to itself never leaves the workload")
		return t.out
	}
	for _, h := range p.journey(f) {
		t.node, t.skip = &h, false
		if h.made {
			t.leave()
		} else {
			t.enter()
		}
	}
	return t.out
}

// tracer is one Outcome in the making.
type tracer struct {
	plan   *Plan
	staged bool
	node   *hop
	flow   *Flow // as it is now
	skip   bool  // an untracked or pre-DNAT policy has allowed the packet: later policy of host endpoints is not asked
	out    Outcome
}

func (t *tracer) note(ref v3.Ref, d Direction, a Action, why string) {
	t.out.Steps = append(t.out.Steps, Step{Endpoint: ref, Direction: d, Rule: -1, Action: a, Why: why})
}

// enter is what a node does to a packet that comes in by an interface.
func (t *tracer) enter() {
	h := t.node
	t.flow = &h.before
	if h.from != nil && slices.Contains(h.from.Ifaces, h.in) {
		t.source(h.from)
	} else {
		t.host(Untracked, Ingress, h.in)
	}
	t.host(PreDNAT, Ingress, h.in)
	t.flow = &h.after
	if h.taken {
		t.take()
	} else {
		t.forward()
	}
}

// source refuses what a workload sends from an address that is not its own, where its interface is known (contract §4.7). IPv6's
// link-local and unspecified addresses, and IPv4's broadcasts of a host that has no address yet, go nowhere but to the host.
func (t *tracer) source(e *Endpoint) {
	src := t.flow.Src
	local := src.Is6() && (src.IsLinkLocalUnicast() || src.IsUnspecified()) ||
		src == netip.IPv4Unspecified() && t.flow.Dst == broadcast
	if t.out.Verdict == Deny || slices.Contains(e.Addrs, src) || containsAddr(e.Sources, src) || local {
		return
	}
	t.settle(&Judgement{Verdict: Deny, Endpoint: e.Ref, Rule: -1, Why: "a workload may send only from its own addresses"}, Egress)
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// take is what a node does to a packet for itself. One of its own workloads' never meets host endpoints (contract §4.4).
func (t *tracer) take() {
	switch h := t.node; {
	case h.from != nil:
		if t.fromWorkload(h.from); !h.from.behind(h.in) { // only its address says so: that must open no way round host policy
			t.host(Normal, Ingress, h.in)
		}
	case h.strangeIn && !t.discovery():
		t.refuseUnknown(Egress, h.in)
	default:
		t.host(Normal, Ingress, h.in)
	}
}

// discovery tells whether the packet is one of IPv6 neighbour discovery between a workload and its host.
func (t *tracer) discovery() bool {
	return t.flow.Proto == ProtoICMPv6 && t.flow.Src.Is6() && slices.Contains(NeighbourDiscovery, t.flow.ICMPType)
}

// behind tells whether an interface is one that the workload is behind; "" is the one that it uses, whose name nobody knows.
func (e *Endpoint) behind(iface string) bool {
	return iface == "" || slices.Contains(e.Ifaces, iface) || slices.Contains(e.Shared, iface)
}

// forward is what a node does to a packet that passes.
func (t *tracer) forward() {
	h := t.node
	t.host(Forward, Ingress, h.in)
	switch {
	case t.discovery() && t.plan.bridge(h.node, h.in): // the workloads of a bridge are neighbours
	case h.from != nil:
		t.judge(h.from, Normal, Egress)
	case h.strangeIn:
		t.refuseUnknown(Egress, h.in)
	}
	switch {
	case t.discovery() && t.plan.bridge(h.node, h.out):
	case h.to != nil:
		t.judge(h.to, Normal, Ingress)
	case h.strangeOut:
		t.refuseUnknown(Ingress, h.out)
	}
	t.skip = false // what was allowed on the way in says nothing of the way out
	t.host(Forward, Egress, h.out)
}

// leave is what a node does to a packet of its own.
func (t *tracer) leave() {
	h := t.node
	t.flow = &h.before
	t.host(Untracked, Egress, h.first)
	t.flow = &h.after
	switch {
	case t.out.Verdict == Deny:
	case h.to != nil:
		t.note(h.to.Ref, Ingress, Allow, "a host may always reach its own workloads")
	case h.strangeOut:
		t.note(v3.Ref{}, Egress, Allow, "a host may always reach its own workloads, and interface "+h.out+" is one's by its name")
	default:
		t.host(Normal, Egress, h.out)
	}
}

func (t *tracer) refuseUnknown(d Direction, iface string) {
	if t.out.Verdict != Deny {
		t.settle(&Judgement{Verdict: Deny, Rule: -1, Why: "interface " + iface + " is for workloads, and this is none that is known"}, d)
	}
}

// fromWorkload judges a workload's egress to its own host; it then meets EndpointToHost (contract §4.4), and neighbour discovery
// meets no policy (contract §4.6).
func (t *tracer) fromWorkload(src *Endpoint) {
	if t.out.Verdict == Deny {
		return
	}
	if t.discovery() {
		t.note(src.Ref, Egress, Allow, "IPv6 neighbour discovery with the own host is always allowed")
		return
	}
	t.judge(src, Normal, Egress)
	if t.out.Verdict == Deny {
		return
	}
	action := t.plan.Settings[t.node.node].EndpointToHost
	why := "a workload's traffic to its own host: defaultEndpointToHostAction is " + toHostNames[action]
	if action == Deny {
		t.settle(&Judgement{Verdict: Deny, Endpoint: src.Ref, Rule: -1, Why: why}, Egress)
	} else {
		t.note(src.Ref, Egress, Allow, why)
	}
}

var toHostNames = map[Action]string{Allow: "Accept", Deny: "Drop", Pass: "Return"}

// host judges at the host endpoint on an interface.
func (t *tracer) host(s Stage, d Direction, iface string) {
	e := t.plan.hostEndpoint(t.node.node, iface)
	switch {
	case e == nil || e.guard(s, d) == nil || t.out.Verdict == Deny:
	case t.skip && s != PreDNAT:
		t.note(e.Ref, d, Allow, "untracked or pre-DNAT policy has allowed it: later policy of host endpoints is not asked")
	case !t.skip:
		t.judge(e, s, d)
	}
}

// hostEndpoint is the one on an interface, else the one for all that have none.
func (p *Plan) hostEndpoint(host, iface string) (all *Endpoint) {
	for i := range p.Endpoints {
		e := &p.Endpoints[i]
		switch {
		case !e.Host() || e.Node != host:
		case slices.Contains(e.Ifaces, iface):
			return e
		case slices.Contains(e.Ifaces, "*"):
			all = e
		}
	}
	return all
}

// settle records what decided in a direction: at a workload or a host itself, or a denial wherever it was.
func (t *tracer) settle(j *Judgement, d Direction) {
	switch {
	case j.Stage != Normal && j.Verdict != Deny:
	case d == Ingress:
		t.out.Ingress = j
	default:
		t.out.Egress = j
	}
	if j.Verdict == Deny {
		t.out.Verdict = Deny
	}
	t.out.Steps = append(t.out.Steps, Step{j.Endpoint, j.Stage, d, j.Tier, j.Policy, j.Rule, j.Verdict, j.Why})
}

// judge walks the endpoint's guard. See Guard for the rules of the walk.
func (t *tracer) judge(e *Endpoint, s Stage, d Direction) {
	if t.out.Verdict == Deny {
		return
	}
	g := e.guard(s, d)
	if g == nil {
		return
	}
	j := t.walk(e, g)
	if j == nil {
		return
	}
	t.settle(j, d)
	if (s == Untracked || s == PreDNAT) && j.Verdict == Allow && !builtIn(j.Policy) {
		t.skip = true
	}
	if s == Untracked && j.Verdict == Allow {
		t.note(e.Ref, d, Allow, "without connection tracking: answers need rules of their own")
	}
}

func (e *Endpoint) guard(s Stage, d Direction) *Guard {
	for i := range e.Guards {
		if g := &e.Guards[i]; g.Stage == s && g.Direction == d {
			return g
		}
	}
	return nil
}

func (t *tracer) walk(e *Endpoint, g *Guard) *Judgement {
	tiers := g.Tiers
	if t.staged && g.HasStaged {
		tiers = g.Staged
	}
	for _, tier := range tiers {
		if j := t.tier(e, g, &tier); j != nil && j.Verdict != Pass {
			return j
		}
	}
	return nil
}

// tier gives nil, or a Judgement with Pass, when the walk goes on with the next tier.
func (t *tracer) tier(e *Endpoint, g *Guard, tier *Tier) *Judgement {
	for _, ref := range tier.Policies {
		r := t.policy(e, g, tier, ref)
		if r == nil {
			continue
		}
		j := &Judgement{r.Action, e.Ref, g.Stage, tier.Name, ref, r.Index, why(ref, r)}
		if r.Action == Pass {
			t.step(e, g, tier, ref, r.Index, Pass, j.Why)
		}
		return j
	}
	if tier.Default == Pass {
		if tier.Name != "" {
			t.step(e, g, tier, v3.Ref{}, -1, Pass, "default action of tier "+tier.Name)
		}
		return nil
	}
	return &Judgement{tier.Default, e.Ref, g.Stage, tier.Name, v3.Ref{}, -1, whyDefault(tier)}
}

func (t *tracer) step(e *Endpoint, g *Guard, tier *Tier, ref v3.Ref, rule int, a Action, why string) {
	t.out.Steps = append(t.out.Steps, Step{e.Ref, g.Stage, g.Direction, tier.Name, ref, rule, a, why})
}

// policy is the first rule that matches and does more than log.
func (t *tracer) policy(e *Endpoint, g *Guard, tier *Tier, ref v3.Ref) *Rule {
	rules := t.plan.Policy(ref).Rules(g.Direction)
	for i := range rules {
		r := &rules[i]
		if !t.plan.matches(r, t.flow) {
			continue
		}
		if r.Action != Log {
			return r
		}
		t.step(e, g, tier, ref, r.Index, Log, "the rule matches: logged, and the next rule is asked")
	}
	if !builtIn(ref) {
		t.step(e, g, tier, ref, -1, None, "no rule matches")
	}
	return nil
}

func why(ref v3.Ref, r *Rule) string {
	switch {
	case r.Note != "":
		return r.Note
	case ref.Kind == failsafeRef.Kind && r.ICMP != nil:
		return "IPv6 neighbour discovery is always allowed at a host endpoint"
	case ref.Kind == failsafeRef.Kind && len(r.Dst.Ports) > 0:
		return fmt.Sprintf("failsafe port %d of %s", r.Dst.Ports[0].Min, ProtoName(r.Proto))
	case ref.Kind == failsafeRef.Kind:
		return fmt.Sprintf("an answer from failsafe port %d of %s", r.Src.Ports[0].Min, ProtoName(r.Proto))
	case ref.Kind == "Profile":
		return "no policy decided; profile " + ref.Name
	case r.Name != "":
		return fmt.Sprintf("rule %d (%s) matches", r.Index, r.Name)
	}
	return fmt.Sprintf("rule %d matches", r.Index)
}

func whyDefault(tier *Tier) string {
	if len(tier.Policies) == 0 {
		return "no policy and no profile decided"
	}
	return fmt.Sprintf("default action of tier %s, because %s selects the endpoint", tier.Name, tier.Policies[0])
}

// matches asks every criterion of the rule (contract §3.3).
func (p *Plan) matches(r *Rule, f *Flow) bool {
	return r.Families&FamilyOf(f.Src) != 0 &&
		(r.Proto == 0 || r.Proto == f.Proto) &&
		(r.NotProto == 0 || r.NotProto != f.Proto) &&
		(r.ICMP == nil || r.ICMP.matches(f)) &&
		(r.NotICMP == nil || !r.NotICMP.matches(f)) &&
		p.side(&r.Src, f, f.Src, f.SrcPort) &&
		p.side(&r.Dst, f, f.Dst, f.DstPort)
}

func (c *ICMP) matches(f *Flow) bool {
	proto := uint8(ProtoICMP)
	if f.Src.Is6() {
		proto = ProtoICMPv6
	}
	return f.Proto == proto && c.Type == f.ICMPType && (c.Code < 0 || c.Code == int16(f.ICMPCode))
}

func (p *Plan) side(s *Side, f *Flow, a netip.Addr, port uint16) bool {
	if len(s.Nets) > 0 && !containsAddr(s.Nets, a) || containsAddr(s.NotNets, a) {
		return false
	}
	for _, id := range s.Sets {
		if !p.Set(id).contains(a) {
			return false
		}
	}
	for _, id := range s.NotSets {
		if p.Set(id).contains(a) {
			return false
		}
	}
	if len(s.Ports)+len(s.PortSets) > 0 && !p.hasPort(s.Ports, s.PortSets, f.Proto, a, port) {
		return false
	}
	return !p.hasPort(s.NotPorts, s.NotPortSets, f.Proto, a, port)
}

func (p *Plan) hasPort(ranges []PortRange, sets []string, proto uint8, a netip.Addr, port uint16) bool {
	if !HasPorts(proto) {
		return false
	}
	for _, r := range ranges {
		if r.Min <= port && port <= r.Max {
			return true
		}
	}
	for _, id := range sets {
		if p.Set(id).Ports.Has(AddrPort{a, proto, port}) {
			return true
		}
	}
	return false
}

func (s *Set) contains(a netip.Addr) bool {
	return s.Addrs.Has(a) || containsAddr(s.Nets, a)
}

// containsAddr looks in sorted networks that do not overlap: only the last one that begins at or before a can hold it.
func containsAddr(nets []netip.Prefix, a netip.Addr) bool {
	i, ok := slices.BinarySearchFunc(nets, a, func(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) })
	return ok || i > 0 && nets[i-1].Contains(a)
}
