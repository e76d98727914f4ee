package ruleset

import (
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
)

// typeWords, keyWords, verdictWords and hookNames are nft's own words.
var (
	typeWords = [...]string{TypeIPv4: "ipv4_addr", TypeIPv6: "ipv6_addr", TypePort: "inet_service",
		TypeIPv4Port: "ipv4_addr . inet_proto . inet_service", TypeIPv6Port: "ipv6_addr . inet_proto . inet_service",
		TypeIface: "ifname", TypeICMP: "icmp_type", TypeICMPv6: "icmpv6_type",
		TypeIfaceIPv4: "ifname . ipv4_addr", TypeIfaceIPv6: "ifname . ipv6_addr",
		TypeProtoPort: "inet_proto . inet_service"}
	keyWords = [...]string{KeyIIFName: "iifname", KeyOIFName: "oifname", KeyNFProto: "meta nfproto", KeyL4Proto: "meta l4proto",
		KeyIPSAddr: "ip saddr", KeyIPDAddr: "ip daddr", KeyIP6SAddr: "ip6 saddr", KeyIP6DAddr: "ip6 daddr",
		KeySPort: "th sport", KeyDPort: "th dport",
		KeyIPSAddrPort: "ip saddr . meta l4proto . th sport", KeyIPDAddrPort: "ip daddr . meta l4proto . th dport",
		KeyIP6SAddrPort: "ip6 saddr . meta l4proto . th sport", KeyIP6DAddrPort: "ip6 daddr . meta l4proto . th dport",
		KeyICMPType: "icmp type", KeyICMPCode: "icmp code", KeyICMPv6Type: "icmpv6 type", KeyICMPv6Code: "icmpv6 code",
		KeyCTState: "ct state", KeyMark: "meta mark", KeyCTMark: "ct mark", KeyCTStatus: "ct status", KeySAddrType: "fib saddr type",
		KeyIIFNameIPSAddr: "iifname . ip saddr", KeyIIFNameIP6SAddr: "iifname . ip6 saddr",
		KeyProtoDPort: "meta l4proto . th dport"}
	verdictWords = [...]string{Continue: "", Accept: "accept", Drop: "drop", Reject: "reject", Return: "return", Jump: "jump", Goto: "goto"}
	protoWords   = map[uint32]string{1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp", 136: "udplite"}
	nfWords      = map[uint32]string{2: "ipv4", 10: "ipv6"}
	unitWords    = map[Unit]string{Second: "second", Minute: "minute", Hour: "hour", Day: "day"}
	typeOfAddr   = map[uint32]string{AddrLocal: "local"}
	statusWords  = map[uint32]string{CTStatusDNAT: "dnat"}
	ctWords      = map[uint32]string{CTInvalid: "invalid", CTEstablished: "established", CTRelated: "related", CTNew: "new", CTUntracked: "untracked"}
)

// AllKeys and AllTypes count the keys and types, for those who must handle every one.
const (
	AllKeys  = len(keyWords)
	AllTypes = len(typeWords)
)

func (k Key) String() string  { return keyWords[k] }
func (t Type) String() string { return typeWords[t] }

func (v Verdict) String() string {
	if v.Chain != "" {
		return verdictWords[v.Kind] + " " + v.Chain
	}
	return verdictWords[v.Kind]
}

// String is the table as `nft -f` reads it.
func (t *Table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", t.Name)
	for i := range t.Sets {
		t.Sets[i].print(&b)
	}
	for i := range t.Maps {
		t.Maps[i].print(&b)
	}
	for i := range t.Chains {
		t.Chains[i].print(&b)
	}
	b.WriteString("}\n")
	return b.String()
}

func (s *Set) print(b *strings.Builder) {
	fmt.Fprintf(b, "\tset %s {\n\t\ttype %s\n", s.Name, s.Type)
	if s.Interval {
		b.WriteString("\t\tflags interval\n")
	}
	elements(b, s.Elems.Slice(), func(e Elem) string { return e.text(s.Type) })
	b.WriteString("\t}\n")
}

func (m *Map) print(b *strings.Builder) {
	fmt.Fprintf(b, "\tmap %s {\n\t\ttype %s : verdict\n", m.Name, m.Type)
	elements(b, m.Entries, func(e Entry) string { return e.Key.text(m.Type) + " : " + e.Verdict.String() })
	b.WriteString("\t}\n")
}

func elements[E any](b *strings.Builder, all []E, text func(E) string) {
	for i, e := range all {
		if i == 0 {
			b.WriteString("\t\telements = { ")
		} else {
			b.WriteString(",\n\t\t\t     ")
		}
		b.WriteString(text(e))
	}
	if len(all) > 0 {
		b.WriteString(" }\n")
	}
}

func (c *Chain) print(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if c.Hook != "" {
		fmt.Fprintf(b, "\t\ttype filter hook %s priority %d; policy accept;\n", c.Hook, c.Priority)
	}
	for i := range c.Rules {
		b.WriteString("\t\t" + c.Rules[i].String() + "\n")
	}
	b.WriteString("\t}\n")
}

// String is the rule as nft reads it.
func (r *Rule) String() string {
	var words []string
	for i := range r.Matches {
		words = append(words, r.Matches[i].String())
	}
	if r.Counter {
		words = append(words, "counter")
	}
	if l := r.Limit; l != nil {
		words = append(words, fmt.Sprintf("limit rate %d/%s burst %d packets", l.Rate, unitWords[l.Unit], l.Burst))
	}
	if r.Log != nil {
		words = append(words, "log prefix "+strconv.Quote(r.Log.Prefix)+" level info")
	}
	if r.Mark != nil {
		words = append(words, r.Mark.String())
	}
	if r.NoTrack {
		words = append(words, "notrack")
	}
	if r.VMap != nil {
		words = append(words, r.VMap.Key.String()+" vmap @"+r.VMap.Map)
	}
	if r.Verdict.Kind != Continue {
		words = append(words, r.Verdict.String())
	}
	if r.ID != "" {
		words = append(words, "comment "+strconv.Quote(string(r.ID)))
	}
	return strings.Join(words, " ")
}

// String is the statement as nft reads it.
func (m *SetMark) String() string {
	if m.Clear != 0 {
		return fmt.Sprintf("meta mark set meta mark & 0x%08x", ^m.Clear)
	}
	return fmt.Sprintf("meta mark set meta mark | 0x%08x", m.Set)
}

// String is the match as nft reads it.
func (m *Match) String() string {
	word := m.Key.String()
	if m.Key == KeyMark || m.Key == KeyCTMark {
		op := "=="
		if m.Not {
			op = "!="
		}
		return fmt.Sprintf("%s & 0x%08x %s 0x%08x", word, m.Elem.Mask, op, m.Elem.Num)
	}
	switch {
	case m.Not && (m.Key == KeyCTState || m.Key == KeyCTStatus): // none of the bits; != would compare all of them
		word += " !"
	case m.Not:
		word += " !="
	}
	if m.Set != "" {
		return word + " @" + m.Set
	}
	return word + " " + m.value()
}

func (m *Match) value() string {
	e := m.Elem
	switch m.Key {
	case KeyIIFName, KeyOIFName:
		return e.text(TypeIface)
	case KeyIPSAddr, KeyIPDAddr, KeyIP6SAddr, KeyIP6DAddr:
		return e.text(TypeIPv4)
	case KeySPort, KeyDPort:
		return e.text(TypePort)
	case KeyNFProto:
		return numberOr(nfWords, e.Num)
	case KeyL4Proto:
		return numberOr(protoWords, e.Num)
	case KeyCTState:
		return bitText(ctWords, e.Num)
	case KeyCTStatus:
		return bitText(statusWords, e.Num)
	case KeySAddrType:
		return numberOr(typeOfAddr, e.Num)
	}
	return strconv.Itoa(int(e.Num))
}

func numberOr(words map[uint32]string, n uint32) string {
	if w, ok := words[n]; ok {
		return w
	}
	return strconv.Itoa(int(n))
}

func bitText(of map[uint32]string, n uint32) string {
	var words []string
	for bit := uint32(1); bit <= n; bit <<= 1 {
		if n&bit != 0 {
			words = append(words, numberOr(of, bit))
		}
	}
	return strings.Join(words, ",")
}

func (e Elem) text(t Type) string {
	switch t {
	case TypeIface:
		return strconv.Quote(e.Iface)
	case TypePort:
		return rangeText(int(e.Port), int(e.PortTo))
	case TypeIPv4Port, TypeIPv6Port:
		return fmt.Sprintf("%s . %s . %s", e.From, numberOr(protoWords, uint32(e.Proto)), rangeText(int(e.Port), int(e.PortTo)))
	case TypeProtoPort:
		return numberOr(protoWords, uint32(e.Proto)) + " . " + rangeText(int(e.Port), int(e.PortTo))
	case TypeIfaceIPv4, TypeIfaceIPv6:
		return strconv.Quote(e.Iface) + " . " + e.From.String()
	case TypeICMP, TypeICMPv6:
		return strconv.Itoa(int(e.Num))
	}
	if e.From == e.To {
		return e.From.String()
	}
	if p, ok := prefixOf(e.From, e.To); ok {
		return p.String()
	}
	return e.From.String() + "-" + e.To.String()
}

func rangeText(from, to int) string {
	if from == to {
		return strconv.Itoa(from)
	}
	return fmt.Sprintf("%d-%d", from, to)
}

// prefixOf is the network that is exactly the range, if there is one.
func prefixOf(from, to netip.Addr) (netip.Prefix, bool) {
	a, b := from.AsSlice(), to.AsSlice()
	n := 0
	for n < len(a) && a[n] == b[n] {
		n++
	}
	length := n * 8
	if n < len(a) {
		length += bits.LeadingZeros8(a[n] ^ b[n])
	}
	p := netip.PrefixFrom(from, length)
	return p, p.Masked().Addr() == from && lastAddr(p) == to
}
