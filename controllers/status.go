package controllers

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	policyapi "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

// fare is what is known of one object, as far as its status is made of it.
type fare struct {
	object  client.Object // its metadata and its status, and no spec
	since   string        // with which resourceVersion its edition was first seen, by whoever rolls up
	digest  string        // of its edition
	refused string        // what of it cannot be enforced as written
	corrupt bool          // which is all of it
	notices []string      // what of it may surprise
	node    string        // the only one that is concerned, or ""

	told []metav1.Condition // of which people were told last
}

// conditionsOf an object of a kind that has a status of conditions, and the generation that they are of, where the kind says so.
// nil of any other object.
func conditionsOf(obj client.Object) (conditions *[]metav1.Condition, observed *int64) {
	if o, ok := obj.(*policyapi.ClusterNetworkPolicy); ok {
		return &o.Status.Conditions, nil
	}
	return v3.ConditionsOf(obj)
}

// fares is how an object fares by what the nodes report: its conditions, those of others' making among them. reports
// are in the order of their nodes.
func (f *fare) fares(reports []*report) []metav1.Condition {
	ref := v3.RefOf(f.object.(v3.Object))
	have, _ := conditionsOf(f.object)
	out := slices.Clone(*have)
	set := func(c metav1.Condition) {
		c.ObservedGeneration, c.Message = f.object.GetGeneration(), cut(c.Message)
		apimeta.SetStatusCondition(&out, c)
	}
	if ref.Kind == "Tier" && f.object.GetDeletionTimestamp() != nil {
		return out // whoever waits for its policies to go says so
	}
	if ref.Kind == "Tier" {
		set(metav1.Condition{Type: v3.ConditionReady, Status: metav1.ConditionTrue, Reason: v3.ReasonReady})
		return out
	}
	accepted := metav1.Condition{Type: v3.ConditionAccepted, Status: metav1.ConditionTrue, Reason: v3.ReasonAccepted}
	if f.refused != "" {
		accepted.Status, accepted.Reason, accepted.Message = metav1.ConditionFalse, v3.ReasonInvalid, f.refused
	}
	set(accepted)
	if warnings := f.warnings(ref, reports); len(warnings) > 0 {
		set(metav1.Condition{Type: v3.ConditionWarning, Status: metav1.ConditionTrue, Reason: v3.ReasonNotAllAsWritten,
			Message: strings.Join(warnings, "; ")})
	} else {
		apimeta.RemoveStatusCondition(&out, v3.ConditionWarning)
	}
	if !strings.HasPrefix(ref.Kind, "Staged") { // which is never in force
		set(metav1.Condition{Type: v3.ConditionObserved, Status: metav1.ConditionTrue, Reason: v3.ReasonSeen, Message: observed{f.since, f.digest}.String()})
		if f.corrupt {
			set(metav1.Condition{Type: v3.ConditionProgrammed, Status: metav1.ConditionFalse, Reason: v3.ReasonInvalid, Message: "nothing of it is enforced"})
		} else {
			set(f.programmed(ref.Kind, reports))
		}
	}
	return out
}

// observed is what a condition Observed says.
type observed struct{ since, digest string }

func (o observed) String() string {
	return fmt.Sprintf("first seen with resourceVersion %s, digest %s", o.since, o.digest)
}

func observedOf(conditions []metav1.Condition) (o observed) {
	if c := apimeta.FindStatusCondition(conditions, v3.ConditionObserved); c != nil {
		_, _ = fmt.Sscanf(c.Message, "first seen with resourceVersion %s digest %s", &o.since, &o.digest) // what says nothing is of nothing
		o.since = strings.TrimSuffix(o.since, ",")
	}
	return o
}

// warnings about the object: what it says of itself, and what nodes say of it.
func (f *fare) warnings(ref v3.Ref, reports []*report) []string {
	said := map[string][]string{} // by which nodes
	for _, r := range reports {
		for _, text := range r.notes[ref] {
			said[text] = append(said[text], r.node)
		}
	}
	out := slices.Clone(f.notices)
	for _, text := range slices.Sorted(maps.Keys(said)) {
		out = append(out, fmt.Sprintf("on %s: %s", some(said[text]), text))
	}
	return out
}

// programmed tells on how many of the nodes that are concerned the object is in force, as it is now.
func (f *fare) programmed(kind string, reports []*report) metav1.Condition {
	all, missing := 0, []string(nil)
	failing := ""
	for _, r := range reports {
		if f.node != "" && r.node != f.node {
			continue
		}
		all++
		switch {
		case r.failing != "":
			missing, failing = append(missing, r.node), cmp.Or(failing, r.node+": "+r.failing)
		case r.observed[kind] == "" || newer(f.since, r.observed[kind]):
			missing = append(missing, r.node)
		}
	}
	c := metav1.Condition{Type: v3.ConditionProgrammed, Status: metav1.ConditionFalse}
	count := fmt.Sprintf("on %d of %d nodes", all-len(missing), all)
	switch {
	case all == 0 && f.node != "":
		c.Reason, c.Message = v3.ReasonNoAgent, fmt.Sprintf("no agent has reported from node %s", f.node)
	case all == 0:
		c.Reason, c.Message = v3.ReasonNoAgent, "no agent has reported"
	case len(missing) == 0:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v3.ReasonProgrammed, count
	case failing != "":
		c.Reason, c.Message = v3.ReasonFailed, count+"; "+failing
	default:
		c.Reason, c.Message = v3.ReasonPending, count+"; not yet on "+some(missing)
	}
	return c
}

// some names of a list.
func some(names []string) string {
	const most = 3
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// cut what is longer than a condition's message may be.
func cut(s string) string { return cutTo(s, 32768) }

func cutTo(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len("…")], "") + "…"
}

// report is a NodeReport, made ready to be asked.
type report struct {
	node     string
	observed map[string]string
	failing  string // why not all is in force there
	notes    map[v3.Ref][]string
}

func reportOf(r *v1alpha1.NodeReport) *report {
	out := &report{node: r.Name, observed: map[string]string{}, notes: map[v3.Ref][]string{}}
	for _, k := range r.Status.Observed {
		out.observed[k.Kind] = k.ResourceVersion
	}
	for _, n := range r.Status.Notes {
		ref := v3.Ref{Kind: n.Kind, Namespace: n.Namespace, Name: n.Name}
		out.notes[ref] = append(out.notes[ref], n.Message)
	}
	if c := apimeta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionEnforcing); c != nil && c.Status != metav1.ConditionTrue {
		out.failing = cmp.Or(c.Message, c.Reason)
	}
	return out
}
