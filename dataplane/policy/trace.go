package policy

import (
	"fmt"
	"net/netip"
	"slices"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Flow is the first packet of a connection, as the policed hosts see it: after destination NAT, before source NAT.
type Flow struct {
	Src, Dst           netip.Addr
	Proto              uint8
	SrcPort, DstPort   uint16
	ICMPType, ICMPCode uint8
	// InIface and OutIface are the host's interfaces on which the packet comes in and goes out. Where they are "" Trace
	// takes the one that has the host's address.
	InIface, OutIface string
}

// Trace is what a Plan does to a Flow, and why.
type Trace struct {
	Verdict Action // Allow or Deny
	Egress  *Judgement
	Ingress *Judgement
	Steps   []Step
}

// Judgement is what decided at one end. It is absent where no endpoint is guarded.
type Judgement struct {
	Verdict  Action
	Endpoint v3.Ref
	Tier     string // "" for what is no tier to the user
	Policy   v3.Ref // zero when no policy's rule decided
	Rule     int    // index in the object, -1 when none
	Why      string
}

// Step is one thing that was asked on the way.
type Step struct {
	Endpoint  v3.Ref
	Direction Direction
	Tier      string
	Policy    v3.Ref
	Rule      int
	Action    Action // None: it did not apply
	Why       string
}

// Trace walks a flow through the plan: out of its source, then into its destination. It is the reference that the
// compiled table is held against, and shares no code with it.
func (p *Plan) Trace(f Flow) Trace {
	t := tracer{plan: p, flow: &f, out: Trace{Verdict: Allow}}
	src, dst := p.byAddr[f.Src], p.byAddr[f.Dst]
	srcHost, dstHost := p.Host(f.Src), p.Host(f.Dst)
	switch {
	case src != nil && src == dst:
		t.note(src.Ref, Egress, Allow, "a packet to itself never leaves the workload")
		return t.out
	case src != nil:
		t.fromWorkload(src, dstHost)
	case srcHost != nil && dst != nil && dst.Node == srcHost.Name:
		t.note(dst.Ref, Ingress, Allow, "a host may always reach its own workloads")
		return t.out
	case srcHost != nil:
		t.judgeHost(srcHost, f.Src, dstHost, f.OutIface, Egress)
	}
	switch {
	case t.out.Verdict == Deny:
	case dst != nil:
		t.judge(dst, Ingress)
	case dstHost != nil && (src == nil || src.Node != dstHost.Name):
		t.judgeHost(dstHost, f.Dst, srcHost, f.InIface, Ingress)
	}
	return t.out
}

// tracer is one Trace in the making.
type tracer struct {
	plan *Plan
	flow *Flow
	out  Trace
}

func (t *tracer) note(ref v3.Ref, d Direction, a Action, why string) {
	t.out.Steps = append(t.out.Steps, Step{Endpoint: ref, Direction: d, Rule: -1, Action: a, Why: why})
}

// fromWorkload judges a workload's egress; a packet to its own host then meets EndpointToHost (contract §4.4), and
// neighbour discovery with the host meets no policy (contract §4.6).
func (t *tracer) fromWorkload(src *Endpoint, dstHost *Host) {
	own := dstHost != nil && dstHost.Name == src.Node
	if own && t.flow.Proto == ProtoICMPv6 && t.flow.Src.Is6() && slices.Contains(NeighbourDiscovery, t.flow.ICMPType) {
		t.note(src.Ref, Egress, Allow, "IPv6 neighbour discovery with the own host is always allowed")
		return
	}
	t.judge(src, Egress)
	if !own || t.out.Verdict == Deny {
		return
	}
	why := "a workload's traffic to its own host: defaultEndpointToHostAction is " + toHostNames[t.plan.EndpointToHost]
	if t.plan.EndpointToHost == Deny {
		t.settle(&Judgement{Verdict: Deny, Endpoint: src.Ref, Rule: -1, Why: why}, Egress)
	} else {
		t.note(src.Ref, Egress, Allow, why)
	}
}

var toHostNames = map[Action]string{Allow: "Accept", Deny: "Drop", Pass: "Return"}

// judgeHost judges at the host endpoint that a host's packet meets. Between two addresses of one host it goes through
// the loopback interface.
func (t *tracer) judgeHost(host *Host, own netip.Addr, far *Host, iface string, d Direction) {
	switch {
	case far == host:
		iface = "lo"
	case iface == "":
		iface = host.Iface(own)
	}
	if e := t.plan.hostEndpoint(host.Name, iface); e != nil {
		t.judge(e, d)
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

// settle records what decided in a direction.
func (t *tracer) settle(j *Judgement, d Direction) {
	if d == Ingress {
		t.out.Ingress = j
	} else {
		t.out.Egress = j
	}
	if j.Verdict == Deny {
		t.out.Verdict = Deny
	}
	t.out.Steps = append(t.out.Steps, Step{j.Endpoint, d, j.Tier, j.Policy, j.Rule, j.Verdict, j.Why})
}

// judge walks the endpoint's normal guard. See Guard for the rules of the walk.
func (t *tracer) judge(e *Endpoint, d Direction) {
	for i := range e.Guards {
		g := &e.Guards[i]
		if g.Stage == Normal && g.Direction == d {
			if j := t.walk(e, g); j != nil {
				t.settle(j, d)
			}
		}
	}
}

func (t *tracer) walk(e *Endpoint, g *Guard) *Judgement {
	for _, tier := range g.Tiers {
		if j := t.tier(e, g.Direction, &tier); j != nil && j.Verdict != Pass {
			return j
		}
	}
	return nil
}

// tier gives nil, or a Judgement with Pass, when the walk goes on with the next tier.
func (t *tracer) tier(e *Endpoint, d Direction, tier *Tier) *Judgement {
	for _, ref := range tier.Policies {
		r := t.policy(e, d, tier, ref)
		if r == nil {
			continue
		}
		j := &Judgement{r.Action, e.Ref, tier.Name, ref, r.Index, why(ref, r)}
		if r.Action == Pass {
			t.out.Steps = append(t.out.Steps, Step{e.Ref, d, tier.Name, ref, r.Index, Pass, j.Why})
		}
		return j
	}
	if tier.Default == Pass {
		if tier.Name != "" {
			t.out.Steps = append(t.out.Steps, Step{e.Ref, d, tier.Name, v3.Ref{}, -1, Pass, "default action of tier " + tier.Name})
		}
		return nil
	}
	return &Judgement{tier.Default, e.Ref, tier.Name, v3.Ref{}, -1, whyDefault(tier)}
}

// policy is the first rule that matches and does more than log.
func (t *tracer) policy(e *Endpoint, d Direction, tier *Tier, ref v3.Ref) *Rule {
	rules := t.plan.policies[ref].Rules(d)
	for i := range rules {
		r := &rules[i]
		if !t.plan.matches(r, t.flow) {
			continue
		}
		if r.Action != Log {
			return r
		}
		t.out.Steps = append(t.out.Steps, Step{e.Ref, d, tier.Name, ref, r.Index, Log, "the rule matches: logged, and the next rule is asked"})
	}
	if !builtIn(ref) {
		t.out.Steps = append(t.out.Steps, Step{e.Ref, d, tier.Name, ref, -1, None, "no rule matches"})
	}
	return nil
}

func why(ref v3.Ref, r *Rule) string {
	switch {
	case r.Note != "":
		return r.Note
	case ref == failsafeRef && r.ICMP != nil:
		return "IPv6 neighbour discovery is always allowed at a host endpoint"
	case ref == failsafeRef:
		return fmt.Sprintf("failsafe port %d of protocol %d", r.Dst.Ports[0].Min, r.Proto)
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
		if !p.sets[id].contains(a) {
			return false
		}
	}
	for _, id := range s.NotSets {
		if p.sets[id].contains(a) {
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
		if _, ok := slices.BinarySearchFunc(p.sets[id].Ports, AddrPort{a, proto, port}, AddrPort.Compare); ok {
			return true
		}
	}
	return false
}

func (s *Set) contains(a netip.Addr) bool {
	_, ok := slices.BinarySearchFunc(s.Addrs, a, netip.Addr.Compare)
	return ok || containsAddr(s.Nets, a)
}

// containsAddr looks in sorted networks that do not overlap: only the last one that begins at or before a can hold it.
func containsAddr(nets []netip.Prefix, a netip.Addr) bool {
	i, ok := slices.BinarySearchFunc(nets, a, func(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) })
	return ok || i > 0 && nets[i-1].Contains(a)
}
