package controllers

import (
	"slices"
	"strings"

	"github.com/tierwall/tierwall/dataplane/nft"
)

// memory is what an agent that follows a store.Snapshot has of it until the store itself has said what there is.
type memory struct {
	remembered bool // the index has what the node remembers, and nothing newer
	held       bool // and the kernel has a table, which stays until then
}

// recall says whether what was told is remembered, and gives whether that was so before.
func (m *memory) recall(a *Agent, remembered bool) (was bool) {
	was = m.remembered
	*m = memory{remembered: remembered, held: remembered}
	if remembered && !m.holds(a) {
		a.Log.Warn("what this node enforced last is in force until the store has said what there is now")
	} else if remembered {
		a.Log.Info("the kernel keeps the table that it has until the store has said what there is now")
	}
	return was
}

// holds tells whether the kernel's table is to stay as it is: after a restart the kernel has none, and what is remembered is enforced; the
// table that another agent has left is at least as new.
func (m *memory) holds(a *Agent) bool {
	if !m.held {
		return false
	}
	has, err := a.Kernel.Has()
	m.held = (has || err != nil) && !a.rescue.on
	return m.held
}

// Kept is what a node remembers of itself.
type Kept struct {
	Node       string
	Interfaces []nft.Interface
}

// keeping is a store that keeps something of the node beside its objects.
type keeping interface{ Keep(any) error }

// expected are the interfaces that there are and, for those that are not there yet or have no address yet, what they were before.
func expected(there, before []nft.Interface) []nft.Interface {
	out := slices.Clone(there)
	for _, f := range before {
		i := slices.IndexFunc(out, func(o nft.Interface) bool { return o.Name == f.Name })
		switch {
		case i < 0:
			out = append(out, f)
		case len(out[i].Addrs) == 0:
			out[i] = f
		}
	}
	slices.SortFunc(out, func(a, b nft.Interface) int { return strings.Compare(a.Name, b.Name) })
	return out
}
