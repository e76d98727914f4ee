package controllers

import "github.com/tierwall/tierwall/dataplane/nft"

// lookAround says once who else filters packets on this node: it explains verdicts that nobody finds in our policies.
func (a *Agent) lookAround() {
	found, err := nft.Enforcers()
	if err != nil {
		a.Log.Warn("whether other programs filter packets on this node could not be found out", "error", err)
		return
	}
	for _, e := range found {
		if e.Policy {
			a.Log.Warn("another program enforces policy on this node: a packet passes only where both let it, so end it and remove its rules", "found", e.String())
		} else {
			a.Log.Info("another program filters packets on this node: a packet passes only where both let it", "found", e.String())
		}
	}
}
