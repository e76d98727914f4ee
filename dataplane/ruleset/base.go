package ruleset

import (
	"github.com/tierwall/tierwall/dataplane/policy"
)

// baseChains are where packets come in. They do not change while endpoints and policies come and go, but for the host
// endpoint that stands on all interfaces.
func (c *compiler) baseChains() {
	c.neighbourDiscovery()
	toHost := Verdict{Kind: Accept} // Allow and Pass: our table has no more to say of it (contract §4.4)
	if c.plan.EndpointToHost == policy.Deny {
		toHost = Verdict{Kind: Drop}
	}
	c.chains["workload-to-host"] = &Chain{Name: "workload-to-host", Rules: []Rule{
		discoveryRule(),
		{ID: "defaultEndpointToHostAction", Counter: true, Verdict: toHost},
	}}
	for _, b := range []Chain{
		{Name: "from-workload", Hook: "forward", Priority: priorityFrom, Rules: lookups("from-workload", KeyIIFName, saddrs)},
		{Name: "to-workload", Hook: "forward", Priority: priorityTo, Rules: lookups("to-workload", KeyOIFName, daddrs)},
		{Name: "from-workload-to-host", Hook: "input", Priority: priorityFrom,
			Rules: append([]Rule{discoveryRule()}, lookups("from-workload", KeyIIFName, saddrs)...)},
		{Name: "to-host", Hook: "input", Priority: priorityTo, Rules: c.host(policy.Ingress, KeyIIFName, saddrs, Verdict{Goto, "workload-to-host"})},
		{Name: "from-host", Hook: "output", Priority: priorityTo, Rules: c.host(policy.Egress, KeyOIFName, daddrs, Verdict{Kind: Accept})},
	} {
		b.Rules = append([]Rule{established}, b.Rules...)
		c.chains[b.Name] = &b
	}
}

// established lets the packets of an accepted connection by (contract §4.6).
var established = Rule{Matches: []Match{{Key: KeyCTState, Elem: Elem{Num: CTEstablished | CTRelated}}}, Verdict: Verdict{Kind: Accept}}

func saddrs(f *family) Key { return f.saddr }
func daddrs(f *family) Key { return f.daddr }

// lookups lead a packet to the guard of its workload.
func lookups(name string, iface Key, addr func(*family) Key) []Rule {
	out := []Rule{{VMap: &VMap{iface, name + "-iface"}}}
	for i := range families {
		out = append(out, Rule{VMap: &VMap{addr(&families[i]), name + families[i].digit}})
	}
	return out
}

// host is a base chain of the host: first what goes between it and its own workloads, then its host endpoints.
func (c *compiler) host(d policy.Direction, iface Key, workload func(*family) Key, toWorkload Verdict) []Rule {
	out := []Rule{{Matches: []Match{{Key: iface, Set: "workload-iface"}}, Verdict: toWorkload}}
	for i := range families {
		f := &families[i]
		out = append(out, Rule{Matches: []Match{{Key: workload(f), Set: "workload" + f.digit}}, Verdict: toWorkload})
	}
	out = append(out, Rule{VMap: &VMap{iface, mapNames[d]["host"] + "-iface"}})
	if c.any[d] != "" {
		out = append(out, Rule{Verdict: Verdict{Goto, c.any[d]}})
	}
	return out
}

// neighbourDiscovery is the ICMPv6 types that a workload and its host exchange whatever policy says (contract §4.6).
func (c *compiler) neighbourDiscovery() {
	s := c.set("neighbour-discovery", TypeICMPv6, false)
	for _, t := range policy.NeighbourDiscovery {
		s.Elems = append(s.Elems, Elem{Num: uint32(t)})
	}
}

func discoveryRule() Rule {
	return Rule{Verdict: Verdict{Kind: Accept}, Matches: []Match{
		{Key: KeyNFProto, Elem: Elem{Num: 10}},
		{Key: KeyL4Proto, Elem: Elem{Num: policy.ProtoICMPv6}},
		{Key: KeyICMPv6Type, Set: "neighbour-discovery"},
	}}
}
