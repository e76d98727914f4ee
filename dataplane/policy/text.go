package policy

import (
	"fmt"
	"net/netip"
	"strings"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// String is the whole plan for people: endpoints with their tiers and policies in order, the policies' rules, and the
// members of the sets.
func (p *Plan) String() string {
	var b strings.Builder
	for i := range p.Endpoints {
		b.WriteString(p.Endpoints[i].String())
	}
	for i := range p.Policies {
		b.WriteString(p.Policies[i].String())
	}
	for i := range p.Sets {
		b.WriteString(p.Sets[i].String())
	}
	return b.String()
}

// String is what guards the endpoint, in order.
func (e *Endpoint) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %s", e.Ref, e.Node)
	if len(e.Ifaces) > 0 {
		fmt.Fprintf(&b, " interface %s", strings.Join(e.Ifaces, ","))
	}
	if len(e.Shared) > 0 {
		fmt.Fprintf(&b, " behind %s", strings.Join(e.Shared, ","))
	}
	for _, a := range e.Addrs {
		fmt.Fprintf(&b, " %s", a)
	}
	if len(e.Sources) > 0 {
		fmt.Fprintf(&b, " and from %s", strings.Join(texts(e.Sources), ","))
	}
	b.WriteByte('\n')
	for _, g := range e.Guards {
		if len(g.Tiers) > 0 {
			fmt.Fprintf(&b, "  %s %s\n", g.Stage, g.Direction)
		}
		for _, t := range g.Tiers {
			b.WriteString(t.text())
		}
		if g.HasStaged {
			fmt.Fprintf(&b, "  %s %s with what is staged\n", g.Stage, g.Direction)
		}
		for _, t := range g.Staged {
			b.WriteString(t.text())
		}
	}
	return b.String()
}

func (t *Tier) text() string {
	var b strings.Builder
	indent := "    "
	if t.Name != "" {
		fmt.Fprintf(&b, "    tier %s\n", t.Name)
		indent += "  "
	}
	for _, ref := range t.Policies {
		fmt.Fprintf(&b, "%s%s\n", indent, ref)
	}
	switch {
	case len(t.Policies) == 0:
		fmt.Fprintf(&b, "    at the end: %s\n", t.Default)
	case t.Name != "":
		fmt.Fprintf(&b, "      default: %s\n", t.Default)
	}
	return b.String()
}

// String is the policy's rules in both directions.
func (p *Policy) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", p.Ref)
	for _, d := range []Direction{Ingress, Egress} {
		for _, r := range p.Rules(d) {
			fmt.Fprintf(&b, "  %s %s\n", d, r.String())
		}
	}
	return b.String()
}

// String is one rule on one line: its index, its action, and every criterion.
func (r *Rule) String() string {
	words := []string{fmt.Sprintf("%d %s", r.Index, r.Action)}
	add := func(show bool, format string, args ...any) {
		if show {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	add(r.Families != AnyFamily, "%s", familyNames[r.Families])
	add(r.Proto != 0, "protocol %s", ProtoName(r.Proto))
	add(r.NotProto != 0, "not protocol %s", ProtoName(r.NotProto))
	add(r.ICMP != nil, "icmp %s", r.ICMP)
	add(r.NotICMP != nil, "not icmp %s", r.NotICMP)
	words = append(words, r.Src.words("from")...)
	words = append(words, r.Dst.words("to")...)
	add(r.Note != "", "(%s)", r.Note)
	return strings.Join(words, " ")
}

var familyNames = [...]string{0: "no packet", IPv4: "ipv4", IPv6: "ipv6", AnyFamily: "any family"}

var protoNames = map[uint8]string{ProtoICMP: "ICMP", ProtoTCP: "TCP", ProtoUDP: "UDP", ProtoICMPv6: "ICMPv6",
	ProtoSCTP: "SCTP", ProtoUDPLite: "UDPLite"}

// ProtoName is Calico's name of an IP protocol, or its number.
func ProtoName(proto uint8) string {
	if n, ok := protoNames[proto]; ok {
		return n
	}
	return fmt.Sprint(proto)
}

// String is the type, and the code if it matters.
func (c *ICMP) String() string {
	switch {
	case c == nil:
		return ""
	case c.Code < 0:
		return fmt.Sprintf("type %d", c.Type)
	}
	return fmt.Sprintf("type %d code %d", c.Type, c.Code)
}

// String is "80" or "80-90".
func (r PortRange) String() string {
	if r.Min == r.Max {
		return fmt.Sprint(r.Min)
	}
	return fmt.Sprintf("%d-%d", r.Min, r.Max)
}

func (s *Side) words(end string) []string {
	var out []string
	add := func(what string, items ...string) {
		if len(items) > 0 {
			out = append(out, end+" "+what+" "+strings.Join(items, ","))
		}
	}
	add("nets", texts(s.Nets)...)
	add("not nets", texts(s.NotNets)...)
	for _, id := range s.Sets {
		add("set", id)
	}
	for _, id := range s.NotSets {
		add("not set", id)
	}
	add("ports", append(texts(s.Ports), s.PortSets...)...)
	add("not ports", append(texts(s.NotPorts), s.NotPortSets...)...)
	return out
}

func texts[T fmt.Stringer](items []T) []string {
	out := make([]string, len(items))
	for i, x := range items {
		out[i] = x.String()
	}
	return out
}

// String is the set's name, what it stands for, and its members.
func (s *Set) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "set %s: %s\n", s.ID, s.About)
	for _, m := range s.Members() {
		fmt.Fprintf(&b, "  %s\n", m)
	}
	return b.String()
}

// Members are the set's addresses, networks, and ports as text, each sorted.
func (s *Set) Members() []string {
	out := append(texts(s.Addrs.Slice()), texts(s.Nets)...)
	for p := range s.Ports.All() {
		out = append(out, fmt.Sprintf("%s %s", netip.AddrPortFrom(p.Addr, p.Port), ProtoName(p.Proto)))
	}
	return out
}

// Addrs of whatever a person names as the end of a flow: an address, a workload as namespace/name, or a node by its
// name. A pod in its host's network has its host's addresses.
func (x *Index) Addrs(end string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(end); err == nil {
		if a.Zone() != "" || a.Is4In6() {
			return nil, fmt.Errorf("%q is not a plain IPv4 or IPv6 address", end)
		}
		return []netip.Addr{a}, nil
	}
	namespace, name, namespaced := strings.Cut(end, "/")
	if !namespaced {
		return x.hostAddrs(end)
	}
	for _, kind := range []string{"Pod", "WorkloadEndpoint"} {
		ref := v3.Ref{Kind: kind, Namespace: namespace, Name: name}
		if m, ok := x.members[ref]; ok && len(m.addrs) > 0 {
			return m.addrs, nil
		}
		if h, ok := x.hosts[ref]; ok && len(h.Addrs) > 0 {
			return h.Addrs, nil
		}
	}
	return nil, fmt.Errorf("no pod or workload endpoint %s with an address is known", end)
}

func (x *Index) hostAddrs(name string) ([]netip.Addr, error) {
	for _, h := range x.hostList(nil) {
		if h.Name == name && len(h.Addrs) > 0 {
			return h.Addrs, nil
		}
	}
	return nil, fmt.Errorf("%q is neither an address, nor namespace/name of a workload, nor a node with an address", name)
}
