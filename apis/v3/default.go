package v3

import (
	"cmp"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LabelTier is kept on tiered policies, so that they can be listed by tier (contract §1.14).
const LabelTier = "projectcalico.org/tier"

// Default fills in what the schema's defaults cannot say: types from rules, the order of a tier, the tier's label,
// the case of words.
func Default(obj metav1.Object) {
	switch o := obj.(type) {
	case *Tier:
		if o.Spec.Order == nil {
			order := float64(DefaultTierOrder)
			o.Spec.Order = &order
		}
		if o.Spec.DefaultAction == nil {
			action := Deny
			o.Spec.DefaultAction = &action
		}
	case *NetworkPolicy:
		defaultPolicy(o, &o.Spec.PolicySpec, "")
	case *GlobalNetworkPolicy:
		defaultPolicy(o, &o.Spec.PolicySpec, "")
	case *StagedNetworkPolicy:
		o.Spec.StagedAction = cmp.Or(o.Spec.StagedAction, StagedActionSet)
		defaultPolicy(o, &o.Spec.PolicySpec, o.Spec.StagedAction)
	case *StagedGlobalNetworkPolicy:
		o.Spec.StagedAction = cmp.Or(o.Spec.StagedAction, StagedActionSet)
		defaultPolicy(o, &o.Spec.PolicySpec, o.Spec.StagedAction)
	case *StagedKubernetesNetworkPolicy:
		o.Spec.StagedAction = cmp.Or(o.Spec.StagedAction, StagedActionSet)
		defaultKubernetes(&o.Spec)
	case *FelixConfiguration:
		o.Spec.normal()
	}
}

func defaultPolicy(obj metav1.Object, s *PolicySpec, staged StagedAction) {
	s.Tier = cmp.Or(s.Tier, DefaultTier)
	labels := obj.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[LabelTier] = s.Tier
	obj.SetLabels(labels)
	switch {
	case staged == StagedActionDelete:
		s.Types = nil
	case len(s.Types) > 0:
	default:
		s.Types = inferTypes(len(s.Ingress) > 0, len(s.Egress) > 0)
	}
}

// inferTypes is contract §1.4: a policy without rules governs ingress.
func inferTypes(ingress, egress bool) []PolicyType {
	switch {
	case ingress && egress:
		return []PolicyType{PolicyTypeIngress, PolicyTypeEgress}
	case egress:
		return []PolicyType{PolicyTypeEgress}
	}
	return []PolicyType{PolicyTypeIngress}
}

func defaultKubernetes(s *StagedKubernetesNetworkPolicySpec) {
	switch {
	case s.StagedAction == StagedActionDelete:
		s.PolicyTypes = nil
	case len(s.PolicyTypes) > 0:
	case len(s.Egress) > 0:
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	default:
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	}
}
