package policy

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// FlowSpec is a flow as people write it: its ends are addresses, namespace/name of workloads, or names of nodes.
type FlowSpec struct {
	From     string       `json:"from"`
	To       string       `json:"to"`
	Protocol ProtocolText `json:"protocol"` // "" is TCP
	Port     uint16       `json:"port"`
	SrcPort  uint16       `json:"srcPort"`  // 0 is the first of the ports that clients take
	ICMPType *uint8       `json:"icmpType"` // nil is an echo request
	ICMPCode uint8        `json:"icmpCode"`

	// OrigTo and OrigPort are where it is sent when that is another destination than To: a service, or a NodePort. Masquerade is
	// the source that the node which translates it gives it as well.
	OrigTo     string `json:"origTo,omitempty"`
	OrigPort   uint16 `json:"origPort,omitempty"`
	Masquerade string `json:"masquerade,omitempty"`
	// Via is a node that it passes on its way, and InIface and OutIface are interfaces there, or else at the ends (see Flow).
	Via      string `json:"via,omitempty"`
	InIface  string `json:"inIface,omitempty"`
	OutIface string `json:"outIface,omitempty"`
}

// ProtocolText is a protocol's name or, as text or as a JSON number, its number.
type ProtocolText string

// UnmarshalJSON accepts "TCP", "6" and 6.
func (p *ProtocolText) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	if text == "null" {
		text = ""
	}
	*p = ProtocolText(text)
	return nil
}

// Flow makes a packet of what people wrote. Between ends that both have IPv4 and IPv6 addresses it is IPv4.
func (x *Index) Flow(l FlowSpec) (f Flow, err error) {
	from, err := x.Addrs(l.From)
	if err != nil {
		return f, fmt.Errorf("from: %w", err)
	}
	to, err := x.Addrs(l.To)
	if err != nil {
		return f, fmt.Errorf("to: %w", err)
	}
	var ok bool
	if strings.EqualFold(string(l.Protocol), "ICMPv6") || l.Protocol == "58" { // which is only between IPv6 addresses
		from, to = only6(from), only6(to)
	}
	if f.Src, f.Dst, ok = commonFamily(from, to); !ok { // one address stands for the workload that has it
		f.Src, f.Dst, ok = commonFamily(x.alike(from), x.alike(to))
	}
	if !ok {
		return f, fmt.Errorf("%s and %s have no address of the same family", l.From, l.To)
	}
	f.SrcPort, f.DstPort, f.ICMPCode = l.SrcPort, l.Port, l.ICMPCode
	f.Via, f.InIface, f.OutIface = l.Via, l.InIface, l.OutIface
	if l.Via != "" && !slices.Contains(x.Nodes(), l.Via) {
		return f, fmt.Errorf("via: no object is on node %q", l.Via)
	}
	if err := x.translations(&l, &f); err != nil {
		return f, err
	}
	if f.Proto, err = protocolNumber(string(l.Protocol), f.Src.Is6()); err != nil {
		return f, err
	}
	return f, l.defaults(&f)
}

// translations reads what a node on the way makes of the packet, and finds that node.
func (x *Index) translations(l *FlowSpec, f *Flow) (err error) {
	if l.OrigTo == "" {
		if l.OrigPort != 0 || l.Masquerade != "" {
			return errors.New("origTo: is needed for origPort and masquerade")
		}
		return nil
	}
	if f.OrigDst, err = x.same("origTo", l.OrigTo, f); err != nil {
		return err
	}
	if f.OrigDstPort = l.OrigPort; l.OrigPort == 0 {
		f.OrigDstPort = l.Port
	}
	if l.Masquerade != "" {
		if f.Masquerade, err = x.same("masquerade", l.Masquerade, f); err != nil {
			return err
		}
	}
	f.NATNode = cmp.Or(f.Via, x.nodeWith(f.Src), x.nodeWith(f.Dst))
	return nil
}

// same is an address of what a person names, in the flow's family.
func (x *Index) same(field, end string, f *Flow) (netip.Addr, error) {
	addrs, err := x.Addrs(end)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s: %w", field, err)
	}
	for _, a := range addrs {
		if a.Is4() == f.Src.Is4() {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s: %s has no address of the family of %s", field, end, f.Src)
}

// nodeWith is the node on which an address is, or "".
func (x *Index) nodeWith(a netip.Addr) string {
	for _, ref := range sortedRefs(x.members) {
		if m := x.members[ref]; m.endpoint && ref.Kind != "HostEndpoint" && slices.Contains(m.addrs, a) {
			return m.node
		}
	}
	for _, h := range x.hostList(nil) {
		if slices.Contains(h.Addrs, a) {
			return h.Name
		}
	}
	return ""
}

func only6(addrs []netip.Addr) (out []netip.Addr) {
	for _, a := range addrs {
		if a.Is6() {
			out = append(out, a)
		}
	}
	return out
}

// commonFamily takes the first address of each end in a family that both have; addresses are sorted, IPv4 first.
func commonFamily(from, to []netip.Addr) (src, dst netip.Addr, ok bool) {
	for _, s := range from {
		for _, d := range to {
			if s.Is4() == d.Is4() {
				return s, d, true
			}
		}
	}
	return src, dst, false
}

// alike adds to an address the others of the workload that has it.
func (x *Index) alike(addrs []netip.Addr) []netip.Addr {
	for _, ref := range sortedRefs(x.members) {
		m := x.members[ref]
		if m.endpoint && ref.Kind != "HostEndpoint" && len(addrs) == 1 && slices.Contains(m.addrs, addrs[0]) {
			return append(slices.Clone(addrs), m.addrs...)
		}
	}
	return addrs
}

const ephemeralPort = 49152 // RFC 6335 §6: the first port that clients take

// defaults fills what a packet must have: a port to go to, a port to come from, the type of an echo request.
func (l *FlowSpec) defaults(f *Flow) error {
	icmp := f.Proto == ProtoICMP || f.Proto == ProtoICMPv6
	switch {
	case HasPorts(f.Proto) && f.DstPort == 0:
		return fmt.Errorf("port: %s needs a destination port from 1 to 65535", ProtoName(f.Proto))
	case !HasPorts(f.Proto) && (f.DstPort != 0 || f.SrcPort != 0):
		return fmt.Errorf("port: protocol %s has no ports", ProtoName(f.Proto))
	case !icmp && (l.ICMPType != nil || l.ICMPCode != 0):
		return fmt.Errorf("icmpType: protocol %s is not ICMP", ProtoName(f.Proto))
	case HasPorts(f.Proto) && f.SrcPort == 0:
		f.SrcPort = ephemeralPort
	case icmp && l.ICMPType != nil:
		f.ICMPType = *l.ICMPType
	case f.Proto == ProtoICMP:
		f.ICMPType = 8
	case f.Proto == ProtoICMPv6:
		f.ICMPType = 128
	}
	return nil
}

// protocolNumber reads a name in any case, or a number; none at all is TCP. ICMP between IPv6 addresses is ICMPv6.
func protocolNumber(text string, v6 bool) (uint8, error) {
	if text == "" {
		return ProtoTCP, nil
	}
	if strings.EqualFold(text, "ICMP") && v6 {
		return ProtoICMPv6, nil
	}
	for n := range 256 {
		if strings.EqualFold(ProtoName(uint8(n)), text) && n > 0 {
			return uint8(n), nil
		}
	}
	if n, err := strconv.Atoi(text); err == nil && n > 0 && n < 256 {
		return uint8(n), nil
	}
	return 0, fmt.Errorf("protocol: %q is none of TCP, UDP, SCTP, UDPLite, ICMP and ICMPv6, and no number from 1 to 255", text)
}

// ProtocolNumber reads a protocol as people write it: its name in any case, or its number.
func ProtocolNumber(text string) (uint8, error) { return protocolNumber(text, false) }
