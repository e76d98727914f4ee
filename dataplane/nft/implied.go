package nft

import (
	"reflect"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// What a field implies about the packet the kernel must be asked for first. The family that an address implies is asked for in
// silence, as nft does:
//
//	ip saddr 10.0.0.1                                meta nfproto 2, payload 4 @12 of network header, cmp
//	meta nfproto ipv4 iifname "a" ip saddr 10.0.0.1  the same question is not asked twice
//
// The protocol that an ICMP field implies is a match of its own, which explicit adds where it is missing.

// addrFamily of a field: that of its address, or 0.
func addrFamily(k ruleset.Key) uint32 {
	for _, p := range concats[k] {
		if f := fields[p.key].family; f != 0 {
			return f
		}
	}
	return fields[k].family
}

// familyOf the packets that matches let through, or 0 for either.
func familyOf(matches []ruleset.Match) (family uint32) {
	for _, m := range matches {
		if f := addrFamily(m.Key); f != 0 {
			family = f
		}
		if m.Key == ruleset.KeyNFProto && !m.Not {
			family = m.Elem.Num
		}
	}
	return family
}

// withoutImplied leaves out the question for the family at the end of what stands before a field that implies it.
func withoutImplied(before []ruleset.Match, k ruleset.Key) []ruleset.Match {
	n := len(before) - 1
	implied := ruleset.Match{Key: ruleset.KeyNFProto, Elem: ruleset.Elem{Num: addrFamily(k)}}
	if n < 0 || before[n] != implied || familyOf(before[:n]) == implied.Elem.Num {
		return before
	}
	if n == 0 {
		return nil
	}
	return withoutImplied(before[:n], k)
}

// icmpProtocols are the protocols that fields imply.
var icmpProtocols = map[ruleset.Key]uint32{
	ruleset.KeyICMPType: unix.IPPROTO_ICMP, ruleset.KeyICMPCode: unix.IPPROTO_ICMP,
	ruleset.KeyICMPv6Type: unix.IPPROTO_ICMPV6, ruleset.KeyICMPv6Code: unix.IPPROTO_ICMPV6,
}

// protocolOf is the protocol that was last asked for, or 0.
func protocolOf(matches []ruleset.Match) (proto uint32) {
	for _, m := range matches {
		if m.Key == ruleset.KeyL4Proto && !m.Not {
			proto = m.Elem.Num
		}
	}
	return proto
}

// said gives changes to a table as they are between what explicit gives: a chain that only says otherwise what it said is not changed.
func said(changes []ruleset.Change, have *ruleset.Table) []ruleset.Change {
	out := make([]ruleset.Change, 0, len(changes))
	for _, ch := range changes {
		if c := ch.Chain; c != nil && ch.Within {
			ch.Chain = &ruleset.Chain{Name: c.Name, Hook: c.Hook, Priority: c.Priority, Rules: spelledRules(c.Rules)}
			if reflect.DeepEqual(ch.Chain.Rules, spelledRules(rulesOf(have, c.Name))) {
				continue
			}
		}
		out = append(out, ch)
	}
	return out
}

// explicit gives the table in the one of several equal ways to say it in which it is read back.
func explicit(t *ruleset.Table) *ruleset.Table {
	out := *t
	out.Chains = make([]*ruleset.Chain, len(t.Chains))
	for i, c := range t.Chains {
		out.Chains[i] = &ruleset.Chain{Name: c.Name, Hook: c.Hook, Priority: c.Priority, Rules: spelledRules(c.Rules)}
	}
	return &out
}

func spelledRules(rules []ruleset.Rule) []ruleset.Rule {
	out := slices.Clone(rules)
	for i := range out {
		out[i].Matches = spelledOut(&out[i])
	}
	return out
}

func spelledOut(r *ruleset.Rule) []ruleset.Match {
	out := slices.Grow([]ruleset.Match(nil), len(r.Matches)) // nil when there are none
	for _, m := range r.Matches {
		out = append(lead(out, m.Key), m)
	}
	if r.VMap != nil && !acts(r) { // what stands before a statement stays as it is
		out = withoutImplied(out, r.VMap.Key)
	}
	return out
}

// acts tells whether the rule does something between its matches and its verdict.
func acts(r *ruleset.Rule) bool {
	return r.Counter || r.Limit != nil || r.Log != nil || r.Mark != nil || r.NoTrack
}

// lead gives what must stand before a field that is compared.
func lead(before []ruleset.Match, k ruleset.Key) []ruleset.Match {
	before = withoutImplied(before, k)
	if proto := icmpProtocols[k]; proto != protocolOf(before) && proto != 0 {
		before = append(before, ruleset.Match{Key: ruleset.KeyL4Proto, Elem: ruleset.Elem{Num: proto}})
	}
	return before
}
