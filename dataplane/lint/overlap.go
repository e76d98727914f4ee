package lint

import (
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// covers tells whether one rule matches every packet that another matches, whoever the members of sets are. It may say no where the
// answer is yes, and never the other way round.
func covers(a, b *policy.Rule) bool {
	return a.Families&b.Families == b.Families &&
		(a.Proto == 0 || a.Proto == b.Proto) &&
		(a.NotProto == 0 || a.NotProto == b.NotProto || b.Proto != 0 && b.Proto != a.NotProto) &&
		(a.ICMP == nil || b.ICMP != nil && a.ICMP.Type == b.ICMP.Type && (a.ICMP.Code < 0 || a.ICMP.Code == b.ICMP.Code)) &&
		(a.NotICMP == nil || b.NotICMP != nil && *a.NotICMP == *b.NotICMP) &&
		coversSide(&a.Src, &b.Src, b.Families) && coversSide(&a.Dst, &b.Dst, b.Families)
}

func coversSide(a, b *policy.Side, f policy.Families) bool {
	nets := b.Nets
	if len(nets) == 0 {
		nets = everywhere(f)
	}
	within := func(n netip.Prefix, all []netip.Prefix) bool {
		return slices.ContainsFunc(all, func(o netip.Prefix) bool { return o.Bits() <= n.Bits() && o.Contains(n.Addr()) })
	}
	for _, n := range nets {
		if len(a.Nets) > 0 && !within(n, a.Nets) {
			return false
		}
	}
	for _, n := range a.NotNets {
		if !within(n, b.NotNets) && slices.ContainsFunc(nets, n.Overlaps) {
			return false
		}
	}
	if !subset(a.Sets, b.Sets) || !subset(a.NotSets, b.NotSets) || !subset(a.NotPortSets, b.NotPortSets) {
		return false
	}
	for _, r := range a.NotPorts {
		inside := slices.ContainsFunc(b.NotPorts, func(o policy.PortRange) bool { return o.Min <= r.Min && r.Max <= o.Max })
		apart := len(b.Ports) > 0 && len(b.PortSets) == 0 && !slices.ContainsFunc(b.Ports, func(o policy.PortRange) bool { return meet(o, r) })
		if !inside && !apart {
			return false
		}
	}
	if len(a.Ports)+len(a.PortSets) == 0 {
		return true
	}
	if len(b.Ports)+len(b.PortSets) == 0 || !subset(b.PortSets, a.PortSets) {
		return false
	}
	return !slices.ContainsFunc(b.Ports, func(r policy.PortRange) bool {
		return !slices.ContainsFunc(a.Ports, func(o policy.PortRange) bool { return o.Min <= r.Min && r.Max <= o.Max })
	})
}

func everywhere(f policy.Families) (out []netip.Prefix) {
	if f&policy.IPv4 != 0 {
		out = append(out, netip.MustParsePrefix("0.0.0.0/0"))
	}
	if f&policy.IPv6 != 0 {
		out = append(out, netip.MustParsePrefix("::/0"))
	}
	return out
}

func subset(small, big []string) bool {
	return !slices.ContainsFunc(small, func(s string) bool { return !slices.Contains(big, s) })
}

func meet(a, b policy.PortRange) bool { return a.Min <= b.Max && b.Min <= a.Max }

// overlap tells whether there is a packet that both rules match, with the members that sets have now.
func (w *world) overlap(a, b *policy.Rule) bool {
	f := a.Families & b.Families
	protos := (a.Proto == 0 || b.Proto == 0 || a.Proto == b.Proto) && (a.NotProto == 0 || a.NotProto != b.Proto) && (b.NotProto == 0 || b.NotProto != a.Proto)
	if f == 0 || !protos || !icmpMeet(a, b) {
		return false
	}
	return w.sidesMeet(&a.Src, &b.Src, f) && w.sidesMeet(&a.Dst, &b.Dst, f)
}

func icmpMeet(a, b *policy.Rule) bool {
	apart := a.ICMP != nil && b.ICMP != nil && (a.ICMP.Type != b.ICMP.Type || a.ICMP.Code >= 0 && b.ICMP.Code >= 0 && a.ICMP.Code != b.ICMP.Code)
	out := func(x, y *policy.Rule) bool {
		return x.ICMP != nil && y.NotICMP != nil && x.ICMP.Type == y.NotICMP.Type && (y.NotICMP.Code < 0 || x.ICMP.Code == y.NotICMP.Code)
	}
	return !apart && !out(a, b) && !out(b, a)
}

func (w *world) sidesMeet(a, b *policy.Side, f policy.Families) bool {
	var both netipx.IPSetBuilder
	both.AddSet(w.addrs(a, f))
	both.Intersect(w.addrs(b, f))
	set, err := both.IPSet()
	if err != nil || len(set.Ranges()) == 0 {
		return false
	}
	if len(a.PortSets)+len(b.PortSets) > 0 {
		return w.namedMeet(a, b, set) || w.namedMeet(b, a, set) || rangesMeet(a, b)
	}
	return rangesMeet(a, b)
}

// rangesMeet tells whether a port is left that both allow by number.
func rangesMeet(a, b *policy.Side) bool {
	left := func(s *policy.Side) []policy.PortRange {
		if len(s.Ports)+len(s.PortSets) == 0 {
			return []policy.PortRange{{Min: 0, Max: 65535}}
		}
		return s.Ports
	}
	for _, x := range left(a) {
		for _, y := range left(b) {
			for port := int(max(x.Min, y.Min)); port <= int(min(x.Max, y.Max)); {
				skip := -1
				for _, n := range slices.Concat(a.NotPorts, b.NotPorts) {
					if int(n.Min) <= port && port <= int(n.Max) {
						skip = int(n.Max) + 1
					}
				}
				if skip < 0 {
					return true
				}
				port = skip
			}
		}
	}
	return false
}

// namedMeet tells whether a named port of a side is one that the other side asks for too.
func (w *world) namedMeet(a, b *policy.Side, in *netipx.IPSet) bool {
	for _, id := range a.PortSets {
		for p := range w.plan.Set(id).Ports.All() {
			one := policy.Side{Ports: []policy.PortRange{{Min: p.Port, Max: p.Port}}}
			named := slices.ContainsFunc(b.PortSets, func(id string) bool { return w.plan.Set(id).Ports.Has(p) })
			if in.Contains(p.Addr) && (named || rangesMeet(&one, b)) {
				return true
			}
		}
	}
	return false
}

// addrs are the addresses of a side.
func (w *world) addrs(s *policy.Side, f policy.Families) *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, n := range everywhere(f) {
		b.AddPrefix(n)
	}
	if len(s.Nets) > 0 {
		b.Intersect(ipSet(s.Nets, nil))
	}
	for _, id := range s.Sets {
		b.Intersect(ipSet(w.plan.Set(id).Nets, w.plan.Set(id).Addrs.Slice()))
	}
	b.RemoveSet(ipSet(s.NotNets, nil))
	for _, id := range s.NotSets {
		b.RemoveSet(ipSet(w.plan.Set(id).Nets, w.plan.Set(id).Addrs.Slice()))
	}
	out, _ := b.IPSet() // prefixes of a plan are valid
	return out
}

func ipSet(nets []netip.Prefix, addrs []netip.Addr) *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, n := range nets {
		b.AddPrefix(n)
	}
	for _, a := range addrs {
		b.Add(a)
	}
	out, _ := b.IPSet()
	return out
}
