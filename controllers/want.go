package controllers

import (
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// Want is the table that the agent would make of the objects here and now, with all that it goes by: the node's interfaces, what the table
// remembers, and whether there is a rescue file. It changes nothing.
func (a *Agent) Want(ctx context.Context, objs []client.Object) (*ruleset.Table, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	interfaces, err := nft.Interfaces(ctx)
	if err != nil {
		return nil, err
	}
	index := policy.NewIndex(a.Node, a.Policy)
	bridges := a.setInterfaces(index, <-interfaces)
	if a.Rescue != "" {
		a.rescue = rescue{path: a.Rescue}
		a.rescue.look(index)
	}
	for _, o := range objs {
		_ = index.Set(o) // what cannot be understood fails closed, and who reads the objects' status is told
	}
	plan := index.Plan()
	if err := a.bridged.look(plan, a.Node, bridges); err != nil {
		return nil, err
	}
	if err := a.remember(plan); err != nil {
		return nil, err
	}
	return ruleset.Compile(plan, a.Ruleset), nil
}
