// Package ruleset expresses: it turns a policy.Plan into a Table, the nftables objects that enforce it, as plain values
// that print as text, compare and differ. It knows neither netlink nor the machine: equal plans give equal bytes.
package ruleset

import "net/netip"

// Table is one nftables table of family inet. Everything in it is sorted by name; a chain's rules are in order.
type Table struct {
	Name   string
	Sets   []Set
	Maps   []Map
	Chains []Chain
}

// Set is a named set. Elems are sorted and do not overlap.
type Set struct {
	Name     string
	Type     Type
	Interval bool // elements may be ranges
	Elems    []Elem
}

// Map is a verdict map.
type Map struct {
	Name    string
	Type    Type
	Entries []Entry
}

// Entry of a verdict map.
type Entry struct {
	Key     Elem
	Verdict Verdict
}

// Type of a set's elements or a map's keys.
type Type uint8

// The types, each with nft's name.
const (
	TypeIPv4     Type = iota // ipv4_addr
	TypeIPv6                 // ipv6_addr
	TypePort                 // inet_service
	TypeIPv4Port             // ipv4_addr . inet_proto . inet_service
	TypeIPv6Port             // ipv6_addr . inet_proto . inet_service
	TypeIface                // ifname
	TypeICMP                 // icmp_type
	TypeICMPv6               // icmpv6_type
)

// Elem is one element of a set, one key of a map, or the value that a Match compares with. Only the fields that its type
// has are set; the rest stay zero, so that elements compare with ==.
//
//	addresses         From, To (the same for one address)
//	ports             Port, PortTo (the same for one port)
//	address.proto.port  From, To, Proto, Port, PortTo
//	interface         Iface
//	a number          Num (protocol, ICMP type or code, ct state bits, mark under Mask)
type Elem struct {
	From, To     netip.Addr
	Proto        uint8
	Port, PortTo uint16
	Iface        string
	Num, Mask    uint32
}

// Chain is a base chain when Hook is not "".
type Chain struct {
	Name     string
	Hook     string // "", prerouting, input, forward, output, postrouting
	Priority int
	Rules    []Rule
}

// Rule is matches, all of which must hold, then a counter, perhaps a log message, and what to do: a verdict, or the
// verdict that a map has for the packet.
type Rule struct {
	ID      RuleID // carried as the rule's comment, at most 128 bytes
	Matches []Match
	Counter bool
	Log     *LogStmt
	VMap    *VMap
	Verdict Verdict
}

// RuleID says which rule of which policy this is, e.g. "gnp/name ingress 3"; "" for rules of our own making.
type RuleID string

// LogStmt is nft's log statement to the kernel log.
type LogStmt struct{ Prefix string }

// VMap looks a packet's field up in a verdict map: `ip daddr vmap @to-workload4`. No entry: the next rule.
type VMap struct {
	Key Key
	Map string
}

// Match compares a packet's field with a value (Elem; a range where From != To or Port != PortTo) or a set.
type Match struct {
	Key  Key
	Not  bool   // != instead of ==
	Set  string // when not "", the named set
	Elem Elem   // otherwise the value
}

// Key is a packet's field.
type Key uint8

// The fields, each with nft's words. An address of one family implies a packet of that family, an ICMP field one of
// that protocol. For ct state a match means that one of the bits is set.
const (
	KeyIIFName      Key = iota // iifname
	KeyOIFName                 // oifname
	KeyNFProto                 // meta nfproto: Num 2 is ipv4, 10 is ipv6
	KeyL4Proto                 // meta l4proto
	KeyIPSAddr                 // ip saddr
	KeyIPDAddr                 // ip daddr
	KeyIP6SAddr                // ip6 saddr
	KeyIP6DAddr                // ip6 daddr
	KeySPort                   // th sport
	KeyDPort                   // th dport
	KeyIPSAddrPort             // ip saddr . meta l4proto . th sport, sets only
	KeyIPDAddrPort             // ip daddr . meta l4proto . th dport, sets only
	KeyIP6SAddrPort            // ip6 saddr . meta l4proto . th sport, sets only
	KeyIP6DAddrPort            // ip6 daddr . meta l4proto . th dport, sets only
	KeyICMPType                // icmp type
	KeyICMPCode                // icmp code
	KeyICMPv6Type              // icmpv6 type
	KeyICMPv6Code              // icmpv6 code
	KeyCTState                 // ct state: Num is bits
	KeyMark                    // meta mark & Mask == Num
)

// The bits of ct state.
const (
	CTInvalid     = 1
	CTEstablished = 2
	CTRelated     = 4
	CTNew         = 8
	CTUntracked   = 64
)

// Verdict ends a rule. Chain is for jump and goto.
type Verdict struct {
	Kind  VerdictKind
	Chain string
}

// VerdictKind is nft's verdict statement.
type VerdictKind uint8

// The verdicts. Continue is no statement at all: go on with the next rule.
const (
	Continue VerdictKind = iota
	Accept
	Drop
	Reject
	Return
	Jump
	Goto
)
