package controllers

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Fault is why an object is not as it should be, in the words of its conditions.
type Fault struct {
	Condition string `json:"condition,omitempty"` // "" while no condition speaks of the object as it is now
	Reason    string `json:"reason,omitempty"`
	Message   string `json:"message"`
}

// String is one line.
func (f Fault) String() string {
	switch {
	case f.Condition == "":
		return f.Message
	case f.Condition == v3.ConditionWarning:
		return "warning: " + f.Message
	case f.Message == "":
		return f.Condition + "=False (" + f.Reason + ")"
	}
	return f.Condition + "=False (" + f.Reason + "): " + f.Message
}

// FaultOf an object, by its conditions of its generation of now: what is wrong with it, or nil, and what else its author should know, or nil. An
// object of a kind without conditions has none of them.
func FaultOf(obj client.Object) (wrong, warning *Fault) {
	conditions, _ := conditionsOf(obj)
	if conditions == nil {
		return nil, nil
	}
	heard := false
	for _, c := range *conditions {
		if c.ObservedGeneration != obj.GetGeneration() {
			continue
		}
		heard = true
		f := &Fault{c.Type, c.Reason, c.Message}
		switch {
		case c.Type == v3.ConditionWarning && c.Status == metav1.ConditionTrue:
			warning = f
		case c.Status != metav1.ConditionFalse || wrong != nil && wrong.Condition == v3.ConditionAccepted:
		case c.Type == v3.ConditionAccepted || c.Type == v3.ConditionProgrammed || c.Type == v3.ConditionReady:
			wrong = f
		}
	}
	if _, tier := obj.(*v3.Tier); !heard && !tier { // a tier takes part unless somebody says otherwise
		wrong = &Fault{Message: "nobody has said anything of it since it was written"}
	}
	return wrong, warning
}

// Behind tells whether a node, by what it has reported, does not yet have an object in force as it is now: the report is older, and its agent
// slow, stuck or gone. Of an object that is never in force, or that is another node's, no node is behind.
func Behind(r *v1alpha1.NodeReport, obj client.Object) bool {
	conditions, _ := conditionsOf(obj)
	kind := v3.RefOf(obj.(v3.Object)).Kind
	if conditions == nil || kind == "Tier" || strings.HasPrefix(kind, "Staged") {
		return false
	}
	if h, ok := obj.(*v3.HostEndpoint); ok && h.Spec.Node != r.Name {
		return false
	}
	since := obj.GetResourceVersion()
	if o := observedOf(*conditions); o.digest == editionOfObject(obj).digest() {
		since = o.since
	}
	for _, k := range r.Status.Observed {
		if k.Kind == kind {
			return newer(since, k.ResourceVersion)
		}
	}
	return true
}
