package controllers

import (
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Programmed tells whether all nodes that have reported enforce objects as these are, by what the nodes report; the error says who does not
// yet. Objects of which no node says how far it has come, as profiles, are not asked about.
func Programmed(reports []*v1alpha1.NodeReport, objs []client.Object) error {
	if len(reports) == 0 {
		return fmt.Errorf("no agent has reported")
	}
	var missing []string
	for _, n := range reports {
		r := reportOf(n)
		if r.failing != "" {
			return fmt.Errorf("node %s does not enforce all that it should: %s", r.node, r.failing)
		}
		if slices.ContainsFunc(objs, func(o client.Object) bool { return !r.has(o) }) {
			missing = append(missing, r.node)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not yet in force on %s", some(missing))
	}
	return nil
}

// has tells whether a node enforces an object as it is.
func (r *report) has(o client.Object) bool {
	conditions, _ := conditionsOf(o)
	kind := v3.RefOf(o.(v3.Object)).Kind
	return conditions == nil || r.observed[kind] != "" && !newer(o.GetResourceVersion(), r.observed[kind])
}

// CutOff are the notes of a report that say that its node is cut from its API server.
func CutOff(r *v1alpha1.NodeReport) (out []string) {
	for _, n := range r.Status.Notes {
		if strings.HasPrefix(n.Message, cutsNode) {
			out = append(out, n.Kind+"/"+n.Name+" "+n.Message)
		}
	}
	return out
}
