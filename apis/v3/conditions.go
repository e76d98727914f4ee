package v3

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// The conditions that an object's status may have. Each speaks of the generation that its observedGeneration names.
const (
	// ConditionAccepted is true while every part of the object is understood. While it is false what is not understood fails closed:
	// an Allow matches nothing, a Deny denies everything at its place, and the message says which part and why.
	ConditionAccepted = "Accepted"
	// ConditionProgrammed is true while all nodes that are concerned have the object in force, as it is now.
	ConditionProgrammed = "Programmed"
	// ConditionWarning is there, and true, while something of the object may not do what its author thinks.
	ConditionWarning = "Warning"
	// ConditionObserved is always true. Its message names the resourceVersion with which the object as it is now, but for its status, was
	// first seen, and a digest of what is meant by that: who has come as far with objects of the kind has seen it.
	ConditionObserved = "Observed"
	// ConditionReady of a Tier is true while it takes part (contract §1.3).
	ConditionReady = "Ready"
)

// The reasons of these conditions.
const (
	ReasonAccepted        = "Accepted"        // of Accepted: nothing is wrong
	ReasonInvalid         = "Invalid"         // of Accepted: the message says what is wrong; of Programmed: nothing of it can be enforced
	ReasonProgrammed      = "Programmed"      // of Programmed: on all nodes
	ReasonPending         = "Pending"         // of Programmed: not yet on all nodes
	ReasonFailed          = "Failed"          // of Programmed: a node cannot enforce it
	ReasonNoAgent         = "NoAgent"         // of Programmed: no node has reported
	ReasonNotAllAsWritten = "NotAllAsWritten" // of Warning: the message says what is not
	ReasonSeen            = "Seen"            // of Observed
	ReasonReady           = "Ready"           // of Ready
	ReasonTerminating     = "Terminating"     // of Ready: the tier is deleted as soon as no policy is in it
)

// ConditionsOf an object of a kind of this package that has a status, and the generation that they are of, where the kind says so; nil
// of any other object.
func ConditionsOf(obj metav1.Object) (conditions *[]metav1.Condition, observed *int64) {
	var s *PolicyStatus
	switch o := obj.(type) {
	case *Tier:
		return &o.Status.Conditions, nil
	case *NetworkPolicy:
		s = &o.Status
	case *GlobalNetworkPolicy:
		s = &o.Status
	case *StagedNetworkPolicy:
		s = &o.Status
	case *StagedGlobalNetworkPolicy:
		s = &o.Status
	case *StagedKubernetesNetworkPolicy:
		s = &o.Status
	case *GlobalNetworkSet:
		s = &o.Status
	case *NetworkSet:
		s = &o.Status
	case *HostEndpoint:
		s = &o.Status
	case *FelixConfiguration:
		s = &o.Status
	default:
		return nil, nil
	}
	return &s.Conditions, &s.ObservedGeneration
}
