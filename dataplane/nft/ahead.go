package nft

import (
	"slices"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// ahead is what have becomes before it becomes want: what is new is there and nothing leads to it yet. It is nil where one
// transaction is enough.
//
// A transaction is all or nothing, but a packet that is under way when it comes into force can meet both: the kernel chooses a
// chain's rules when the packet enters the base chain, and looks into sets and maps as they are at that moment. So such a packet
// may be led by a map's new entry to a new chain, which for it has no rules yet, and leave the base chain unjudged. And the kernel
// fills interval sets some time after the rules that read them have come into force. Both are harmless for what was there before.
func ahead(have, want *ruleset.Table) *ruleset.Table {
	if have == nil {
		return nil // nobody is filtered yet, or by something that cannot stay
	}
	is, needed := kinds(have), false
	isNew := func(name string) bool { _, ok := is[name]; return !ok }
	out := &ruleset.Table{Name: have.Name, Sets: slices.Clone(have.Sets), Maps: slices.Clone(have.Maps), Chains: slices.Clone(have.Chains)}
	for _, s := range want.Sets {
		if isNew("set " + s.Name) {
			out.Sets, needed = append(out.Sets, s), needed || s.Interval
		}
	}
	for _, m := range want.Maps {
		if isNew("set " + m.Name) {
			out.Maps = append(out.Maps, m)
		}
	}
	for _, c := range want.Chains {
		if c.Hook == "" && isNew("chain "+c.Name) {
			out.Chains, needed = append(out.Chains, c), true
		}
	}
	if !needed {
		return nil
	}
	return out
}
