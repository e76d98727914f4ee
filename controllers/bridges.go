package controllers

import (
	"fmt"
	"net/netip"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// bridged is a workload that a node reaches through a bridge, or none, as found for a plan. It is looked for again when the plan has
// other endpoints, or the node other interfaces: a plan then has other rules.
type bridged struct {
	plan             *policy.Plan
	bridge, workload string
}

// look for one.
func (b *bridged) look(plan *policy.Plan, node string, bridges map[string]bool) error {
	if b.plan != nil && plan.SameRules(b.plan) {
		return nil
	}
	bridge, workload, err := findBridged(plan, node, bridges)
	if err != nil {
		b.plan = nil
		return err
	}
	*b = bridged{plan, bridge, workload}
	return nil
}

// filter sees to it that packets between a node's workloads meet the table also when they only go from one port of a bridge to
// another, each time anew: others may have switched that off. Where no workload hangs on a bridge nothing is asked of the host.
func (b *bridged) filter(procSysNet string) error {
	if b.bridge == "" {
		return nil
	}
	if err := nft.BridgeFiltering(procSysNet); err != nil {
		return fmt.Errorf("workloads on bridge %s, as %s is, are not guarded from each other: %w; "+
			"let the agent write it, or set it to 1 yourself", b.bridge, b.workload, err)
	}
	return nil
}

// findBridged finds a workload that the node reaches through a bridge: the bridge's network holds its address, or a route does.
func findBridged(plan *policy.Plan, node string, bridges map[string]bool) (bridge, workload string, err error) {
	if len(bridges) == 0 {
		return "", "", nil
	}
	for i := range plan.Endpoints {
		e := &plan.Endpoints[i]
		if e.Host() || e.Node != node {
			continue
		}
		for _, a := range e.Addrs {
			iface, err := nft.RouteTo(a, netip.Addr{})
			if err != nil || bridges[iface] {
				return iface, e.Ref.String(), err
			}
		}
	}
	return "", "", nil
}
