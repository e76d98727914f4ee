package controllers

import (
	"errors"
	"time"

	"github.com/tierwall/tierwall/dataplane/nft"
)

// How long an agent waits at most until it tries again to program the table, and one that another keeps from it: nobody says when that
// other ends.
const (
	slowest  = 10 * time.Second
	takeover = time.Second
)

// retry later what failed. Of two agents on a node one has the table; the second says so once, reports nothing, and waits.
func (a *Agent) retry(again *retry, failed error, revision string) {
	second := errors.Is(failed, nft.ErrOwned)
	again.most = slowest
	if second {
		again.most = takeover
	}
	wait := again.later().String()
	switch {
	case !second:
		a.Log.Error("not all is enforced", "revision", revision, "error", failed, "retry_in", wait)
	case !a.second:
		a.Log.Error("another agent runs on this node and has its table: this one enforces nothing, and takes over when that one ends; "+
			"take one of them away", "node", a.Node, "error", failed)
	}
	a.second = second
}

// first says, once, that the node's table is this agent's now.
func (a *Agent) first() {
	if a.second {
		a.Log.Warn("the other agent has ended: this one has taken over", "node", a.Node)
	}
	a.second = false
}
