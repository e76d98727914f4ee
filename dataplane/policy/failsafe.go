package policy

import (
	"net/netip"
	"slices"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// The ports of a host that stay open whatever policy says, so that nobody locks himself out (contract §1.11.1, §4.5).
var (
	defaultFailsafeIn = []FailsafePort{
		{Proto: ProtoTCP, Port: 22}, {Proto: ProtoUDP, Port: 68}, {Proto: ProtoTCP, Port: 179},
		{Proto: ProtoTCP, Port: 2379}, {Proto: ProtoTCP, Port: 2380}, {Proto: ProtoTCP, Port: 5473},
		{Proto: ProtoTCP, Port: 6443}, {Proto: ProtoTCP, Port: 6666}, {Proto: ProtoTCP, Port: 6667},
	}
	defaultFailsafeOut = []FailsafePort{
		{Proto: ProtoUDP, Port: 53}, {Proto: ProtoUDP, Port: 67}, {Proto: ProtoTCP, Port: 179},
		{Proto: ProtoTCP, Port: 2379}, {Proto: ProtoTCP, Port: 2380}, {Proto: ProtoTCP, Port: 5473},
		{Proto: ProtoTCP, Port: 6443}, {Proto: ProtoTCP, Port: 6666}, {Proto: ProtoTCP, Port: 6667},
	}
)

// NeighbourDiscovery are the ICMPv6 types without which a link carries no IPv6 at all: multicast listener query,
// report and done, router solicitation, neighbour solicitation and advertisement (contract §4.6). They are accepted
// from a workload to its host.
var NeighbourDiscovery = []uint8{130, 131, 132, 133, 135, 136}

// hostDiscovery is accepted both ways at a host endpoint: the same and router advertisement, which a workload must not
// send but from which a host may have its own address.
var hostDiscovery = append(slices.Clone(NeighbourDiscovery), 134)

// The built-in policies. They stand before the policies of users, as if they were policies themselves.
var (
	failsafeRef  = v3.Ref{Kind: "Failsafe", Name: "ports"}
	untrackedRef = v3.Ref{Kind: "Failsafe", Name: "untracked"}
	tunnelsRef   = v3.Ref{Kind: "Protection", Name: "tunnels"}
)

// builtIn are policies that nobody wrote.
func builtIn(r v3.Ref) bool { return r.Kind == failsafeRef.Kind || r.Kind == tunnelsRef.Kind }

const protoIPIP = 4

// noTunnels stands before a workload's policies: what it wraps into a tunnel packet of its own would pass for another's
// when the host unwraps it (contract §4.7).
func (s *Settings) noTunnels() Policy {
	p := Policy{Ref: tunnelsRef, Stage: Normal}
	if !s.allowVXLAN {
		p.Egress = append(p.Egress, Rule{Action: Deny, Index: 0, Families: AnyFamily, Proto: ProtoUDP,
			Dst: Side{Ports: []PortRange{{s.vxlanPort, s.vxlanPort}}}, Note: "a workload may not send VXLAN packets"})
	}
	if !s.allowIPIP {
		p.Egress = append(p.Egress, Rule{Action: Deny, Index: 1, Families: AnyFamily, Proto: protoIPIP,
			Note: "a workload may not send IP-in-IP packets"})
	}
	return p
}

// failsafe is the policy that stands before all others at a host endpoint. Untracked packets have no connection by which their
// answers would be known, so there the answers are ports of their own (contract §4.5).
func (s *Settings) failsafe(stage Stage) Policy {
	p := Policy{Ref: failsafeRef, Stage: Normal}
	for i, f := range s.failsafeIn {
		p.Ingress = append(p.Ingress, f.rule(i, false, Ingress))
	}
	for i, f := range s.failsafeOut {
		p.Egress = append(p.Egress, f.rule(i, false, Egress))
	}
	in, out := len(s.failsafeIn), len(s.failsafeOut)
	if stage == Untracked {
		p.Ref = untrackedRef
		for i, f := range s.failsafeOut {
			p.Ingress = append(p.Ingress, f.rule(in+i, true, Ingress))
		}
		for i, f := range s.failsafeIn {
			p.Egress = append(p.Egress, f.rule(out+i, true, Egress))
		}
	}
	for _, t := range hostDiscovery {
		r := Rule{Action: Allow, Families: IPv6, Proto: ProtoICMPv6, ICMP: &ICMP{Type: t, Code: -1}, Name: "neighbour discovery"}
		r.Index = len(p.Ingress)
		p.Ingress = append(p.Ingress, r)
		r.Index = len(p.Egress)
		p.Egress = append(p.Egress, r)
	}
	return p
}

// rule of the port, or of the answers that come from it. Its net is the far end.
func (f FailsafePort) rule(index int, answer bool, d Direction) Rule {
	r := Rule{Action: Allow, Index: index, Families: AnyFamily, Proto: f.Proto, Name: "failsafe"}
	near := &r.Dst
	if answer {
		near = &r.Src
	}
	near.Ports = []PortRange{{f.Port, f.Port}}
	if f.Net.IsValid() {
		far := &r.Src
		if d == Egress {
			far = &r.Dst
		}
		far.Nets = []netip.Prefix{f.Net.Masked()}
		r.Families = FamilyOf(f.Net.Addr())
	}
	return r
}
