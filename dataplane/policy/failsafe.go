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

// failsafeRef names the failsafe list as if it were a policy.
var failsafeRef = v3.Ref{Kind: "Failsafe", Name: "ports"}

// noTunnels stands before a workload's policies: what it wraps into a tunnel packet of its own would pass for another's
// when the host unwraps it (contract §4.7).
var noTunnels = Policy{Ref: v3.Ref{Kind: "Protection", Name: "tunnels"}, Egress: []Rule{
	{Action: Deny, Index: 0, Families: AnyFamily, Proto: ProtoUDP, Dst: Side{Ports: []PortRange{{4789, 4789}}}, Note: "a workload may not send VXLAN packets"},
	{Action: Deny, Index: 1, Families: AnyFamily, Proto: protoIPIP, Note: "a workload may not send IP-in-IP packets"},
}}

const protoIPIP = 4

// builtIn are policies that nobody wrote.
func builtIn(r v3.Ref) bool { return r == failsafeRef || r == noTunnels.Ref }

// failsafe is the policy that stands before all others at a host endpoint.
func failsafe(o Options) Policy {
	p := Policy{Ref: failsafeRef}
	for i, f := range o.FailsafeIn {
		p.Ingress = append(p.Ingress, f.rule(i, func(r *Rule) *Side { return &r.Src }))
	}
	for i, f := range o.FailsafeOut {
		p.Egress = append(p.Egress, f.rule(i, func(r *Rule) *Side { return &r.Dst }))
	}
	for i, t := range hostDiscovery {
		r := Rule{Action: Allow, Families: IPv6, Proto: ProtoICMPv6, ICMP: &ICMP{Type: t, Code: -1}, Name: "neighbour discovery"}
		r.Index = len(o.FailsafeIn) + i
		p.Ingress = append(p.Ingress, r)
		r.Index = len(o.FailsafeOut) + i
		p.Egress = append(p.Egress, r)
	}
	return p
}

func (f FailsafePort) rule(index int, far func(*Rule) *Side) Rule {
	r := Rule{Action: Allow, Index: index, Families: AnyFamily, Proto: f.Proto, Name: "failsafe"}
	r.Dst.Ports = []PortRange{{f.Port, f.Port}}
	if f.Net.IsValid() {
		far(&r).Nets = []netip.Prefix{f.Net.Masked()}
		r.Families = FamilyOf(f.Net.Addr())
	}
	return r
}
