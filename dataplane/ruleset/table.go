// Package ruleset expresses: it turns a policy.Plan into a Table, the nftables objects that enforce it, as plain values
// that print as text, compare and differ. It knows neither netlink nor the machine: equal plans give equal bytes.
package ruleset

import (
	"net/netip"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// Table is one nftables table of family inet. Everything in it is sorted by name; a chain's rules are in order. It is
// read-only: tables share what they have in common.
type Table struct {
	Name   string
	Sets   []*Set
	Maps   []*Map
	Chains []*Chain
}

// Set is a named set. Its elements do not overlap. A table of the next plan shares most of them with this one.
type Set struct {
	Name     string
	Type     Type
	Interval bool // elements may be ranges
	Elems    Elems
}

// Elems are elements in order.
type Elems = policy.Sorted[Elem]

// ElemsOf elements that are in order; the list is theirs from now on.
func ElemsOf(e ...Elem) Elems { return policy.SortedOf(e...) }

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
	TypeIPv4      Type = iota // ipv4_addr
	TypeIPv6                  // ipv6_addr
	TypePort                  // inet_service
	TypeIPv4Port              // ipv4_addr . inet_proto . inet_service
	TypeIPv6Port              // ipv6_addr . inet_proto . inet_service
	TypeIface                 // ifname
	TypeICMP                  // icmp_type
	TypeICMPv6                // icmpv6_type
	TypeIfaceIPv4             // ifname . ipv4_addr
	TypeIfaceIPv6             // ifname . ipv6_addr
	TypeProtoPort             // inet_proto . inet_service
)

// Elem is one element of a set, one key of a map, or the value that a Match compares with. Only the fields that its type
// has are set; the rest stay zero, so that elements compare with ==.
//
//	addresses         From, To (the same for one address)
//	ports             Port, PortTo (the same for one port)
//	address.proto.port  From, To, Proto, Port, PortTo
//	interface         Iface; in a Match, not in a set, "cali*" is every name that begins so
//	iface.address     Iface, From, To
//	proto.port        Proto, Port, PortTo
//	a number          Num (protocol, ICMP type or code, ct state or status bits, mark under Mask, address type)
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

// Rule is matches, all of which must hold, then what it does in the order of the fields: a counter, perhaps a limit over which it
// goes no further, a log message, a change of the packet's mark, an exemption from connection tracking, and at last a verdict, or
// the verdict that a map has for the packet.
type Rule struct {
	ID      RuleID // carried as the rule's comment, at most 128 bytes
	Matches []Match
	Counter bool
	Limit   *Limit
	Log     *LogStmt
	Mark    *SetMark
	NoTrack bool // only in hooks before connection tracking, priority -300
	VMap    *VMap
	Verdict Verdict
}

// RuleID says which rule of which policy this is, e.g. "gnp/name ingress 3"; "" for rules of our own making.
type RuleID string

// LogStmt is nft's log statement to the kernel log.
type LogStmt struct{ Prefix string }

// Limit is so many packets in each unit of time, and Burst more at once: `limit rate 10/second burst 5 packets`.
type Limit struct {
	Rate  uint64
	Unit  Unit
	Burst uint32
}

// Unit of time of a Limit, as its number of seconds.
type Unit uint32

// The units.
const (
	Second Unit = 1
	Minute Unit = 60
	Hour   Unit = 3600
	Day    Unit = 86400
)

// SetMark sets or clears bits of the packet's mark and leaves the others; one of the two is 0:
// `meta mark set meta mark | 0x00010000`, `meta mark set meta mark & 0xfffeffff`.
type SetMark struct{ Set, Clear uint32 }

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
	KeyIIFName         Key = iota // iifname
	KeyOIFName                    // oifname
	KeyNFProto                    // meta nfproto: Num 2 is ipv4, 10 is ipv6
	KeyL4Proto                    // meta l4proto
	KeyIPSAddr                    // ip saddr
	KeyIPDAddr                    // ip daddr
	KeyIP6SAddr                   // ip6 saddr
	KeyIP6DAddr                   // ip6 daddr
	KeySPort                      // th sport
	KeyDPort                      // th dport
	KeyIPSAddrPort                // ip saddr . meta l4proto . th sport, sets only
	KeyIPDAddrPort                // ip daddr . meta l4proto . th dport, sets only
	KeyIP6SAddrPort               // ip6 saddr . meta l4proto . th sport, sets only
	KeyIP6DAddrPort               // ip6 daddr . meta l4proto . th dport, sets only
	KeyICMPType                   // icmp type
	KeyICMPCode                   // icmp code
	KeyICMPv6Type                 // icmpv6 type
	KeyICMPv6Code                 // icmpv6 code
	KeyCTState                    // ct state: Num is bits
	KeyMark                       // meta mark & Mask == Num
	KeyCTMark                     // ct mark & Mask == Num
	KeyCTStatus                   // ct status: Num is bits, one of them is set
	KeySAddrType                  // fib saddr type: Num is a kernel's RTN_ number
	KeyIIFNameIPSAddr             // iifname . ip saddr, sets only
	KeyIIFNameIP6SAddr            // iifname . ip6 saddr, sets only
	KeyProtoDPort                 // meta l4proto . th dport, sets only
)

// The bits of ct status, and the types of addresses, that our tables ask for.
const (
	CTStatusDNAT = 0x20 // the destination of the connection is translated
	AddrLocal    = 2    // an address of the host's own
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
