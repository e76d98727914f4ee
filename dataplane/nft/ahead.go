package nft

import (
	"slices"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// ahead parts changes into those that lay ready what is new, so that it is there and nothing leads to it yet, and those that follow.
// There are none of the first where one transaction is enough.
//
// A transaction is all or nothing, but a packet that is under way when it comes into force can meet both: the kernel chooses a
// chain's rules when the packet enters the base chain, and looks into sets and maps as they are at that moment. So such a packet
// may be led by a map's new entry to a new chain, which for it has no rules yet, and leave the base chain unjudged. And the kernel
// fills interval sets some time after the rules that read them have come into force. Both are harmless for what was there before.
func ahead(changes []ruleset.Change) (first, then []ruleset.Change) {
	chains, needed := map[string]bool{}, false
	for _, ch := range changes {
		added := ch.Op == ruleset.Add && !ch.Within
		switch {
		case added && ch.Chain != nil && ch.Chain.Hook == "":
			chains[ch.Chain.Name], needed = true, true
		case added && ch.Set != nil:
			needed = needed || ch.Set.Interval
		case added && ch.Map != nil:
		case ch.Op == ruleset.Replace && chains[ch.Chain.Name]:
		default:
			then = append(then, ch)
			continue
		}
		first = append(first, ch)
	}
	if !needed || len(then) == 0 {
		return nil, changes
	}
	return first, then
}

// undone are the changes that take back what was laid ready.
func undone(first []ruleset.Change) (out []ruleset.Change) {
	for _, ch := range slices.Backward(first) { // what is named goes behind what names it
		if ch.Op == ruleset.Add {
			ch.Op = ruleset.Delete
			out = append(out, ch)
		}
	}
	slices.SortStableFunc(out, func(a, b ruleset.Change) int { return goes(a) - goes(b) })
	return out
}

// goes is the order in which objects are deleted: maps, chains, sets.
func goes(ch ruleset.Change) int {
	switch {
	case ch.Map != nil:
		return 0
	case ch.Chain != nil:
		return 1
	}
	return 2
}
