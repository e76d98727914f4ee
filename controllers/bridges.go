package controllers

import (
	"fmt"
	"net/netip"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// filterBridges sees to it that packets between a node's workloads meet the table also when they only go from one port of a
// bridge to another. Where no workload hangs on a bridge nothing is asked of the host.
func filterBridges(plan *policy.Plan, node string, bridges map[string]bool) error {
	bridge, workload, err := bridged(plan, node, bridges)
	if err != nil || bridge == "" {
		return err
	}
	if err := nft.BridgeFiltering(); err != nil {
		return fmt.Errorf("workloads on bridge %s, as %s is, are not guarded from each other: %w; "+
			"let the agent write it, or set it to 1 yourself", bridge, workload, err)
	}
	return nil
}

// bridged finds a workload that the node reaches through a bridge: the bridge's network holds its address, or a route does.
func bridged(plan *policy.Plan, node string, bridges map[string]bool) (bridge, workload string, err error) {
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
