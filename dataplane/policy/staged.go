package policy

import (
	"slices"

	networkingv1 "k8s.io/api/networking/v1"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Staged policies are never enforced (contract §4.9). What they would do is a second list of tiers beside the enforced one: a
// staged policy stands there in place of the policy of its kind and name, if there is one, and a deletion takes that away
// (contract §11 #10).

func (x *Index) setStaged(ref v3.Ref, action v3.StagedAction, s spec) (err error) {
	switch action {
	case v3.StagedActionDelete:
		x.staged[ref] = deletion(ref)
	case v3.StagedActionSet, "":
		x.staged[ref], err = bookOf(ref, s)
	}
	return err
}

func (x *Index) setStagedKubernetes(ref v3.Ref, o *v3.StagedKubernetesNetworkPolicy) (err error) {
	switch o.Spec.StagedAction {
	case v3.StagedActionDelete:
		x.staged[ref] = deletion(ref)
	case v3.StagedActionSet, "":
		k := networkingv1.NetworkPolicy{Spec: o.Spec.NetworkPolicySpec()}
		k.Namespace, k.Name = o.Namespace, o.Name
		x.staged[ref], err = kubernetesBook(ref, &k)
	}
	return err
}

func deletion(ref v3.Ref) *book { return &book{ref: ref, policy: Policy{Ref: ref}, drops: true} }

// inForce is the books as they would be if the staged ones were in force; nil when none is staged.
func (x *Index) inForce() []*book {
	if len(x.staged) == 0 {
		return nil
	}
	replaced := map[v3.Ref]bool{}
	var out []*book
	for ref, b := range x.staged {
		replaced[v3.Ref{Kind: enforcedKind(ref.Kind), Namespace: ref.Namespace, Name: ref.Name}] = true
		if !b.drops {
			out = append(out, b)
		}
	}
	for ref, b := range x.books {
		if !replaced[ref] {
			out = append(out, b)
		}
	}
	return slices.Clip(out)
}
