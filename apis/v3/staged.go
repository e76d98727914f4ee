package v3

import (
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// StagedAction is what would become of the policy if the staged one were taken over.
// +kubebuilder:validation:Enum=Set;Delete;Learn;Ignore
type StagedAction string

// The staged actions (contract §1.6).
const (
	// StagedActionSet would create or replace the policy.
	StagedActionSet StagedAction = "Set"
	// StagedActionDelete would delete it.
	StagedActionDelete StagedAction = "Delete"
)

// StagedNetworkPolicySpec is a NetworkPolicy that is evaluated and never enforced.
type StagedNetworkPolicySpec struct {
	NetworkPolicySpec `json:",inline"`

	// What taking it over would do: Set creates or replaces the policy, Delete deletes it, Learn and Ignore do nothing.
	// +kubebuilder:default=Set
	// +optional
	StagedAction StagedAction `json:"stagedAction,omitempty"`
}

// StagedGlobalNetworkPolicySpec is a GlobalNetworkPolicy that is evaluated and never enforced.
type StagedGlobalNetworkPolicySpec struct {
	GlobalNetworkPolicySpec `json:",inline"`

	// What taking it over would do: Set creates or replaces the policy, Delete deletes it, Learn and Ignore do nothing.
	// +kubebuilder:default=Set
	// +optional
	StagedAction StagedAction `json:"stagedAction,omitempty"`
}

// StagedKubernetesNetworkPolicySpec is a Kubernetes NetworkPolicy that is evaluated and never enforced.
type StagedKubernetesNetworkPolicySpec struct {
	// What taking it over would do: Set creates or replaces the policy, Delete deletes it, Learn and Ignore do nothing.
	// +kubebuilder:default=Set
	// +optional
	StagedAction StagedAction `json:"stagedAction,omitempty"`

	// The pods that the policy governs.
	// +optional
	PodSelector metav1.LabelSelector `json:"podSelector,omitempty,omitzero"`

	// The rules for packets to the selected pods.
	// +listType=atomic
	// +optional
	Ingress []networkingv1.NetworkPolicyIngressRule `json:"ingress,omitempty"`

	// The rules for packets from the selected pods.
	// +listType=atomic
	// +optional
	Egress []networkingv1.NetworkPolicyEgressRule `json:"egress,omitempty"`

	// The directions that the policy governs. If not given: Ingress, and Egress when there are egress rules.
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=Ingress;Egress
	// +listType=set
	// +optional
	PolicyTypes []networkingv1.PolicyType `json:"policyTypes,omitempty"`
}

// StagedNetworkPolicy is a NetworkPolicy that is evaluated and never enforced (contract §1.6, §4.9).
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,shortName={scnp,snp}
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Tier",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="Order",type=number,JSONPath=`.spec.order`
// +kubebuilder:selectablefield:JSONPath=`.spec.tier`
type StagedNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What the policy would govern, and its rules.
	Spec StagedNetworkPolicySpec `json:"spec,omitempty"`
	// How the policy fares.
	// +optional
	Status PolicyStatus `json:"status,omitempty,omitzero"`
}

// StagedNetworkPolicyList is a list of StagedNetworkPolicies.
// +kubebuilder:object:root=true
type StagedNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []StagedNetworkPolicy `json:"items"`
}

// StagedGlobalNetworkPolicy is a GlobalNetworkPolicy that is evaluated and never enforced (contract §1.6, §4.9).
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName={sgnp}
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Tier",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="Order",type=number,JSONPath=`.spec.order`
// +kubebuilder:selectablefield:JSONPath=`.spec.tier`
type StagedGlobalNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What the policy would govern, and its rules.
	Spec StagedGlobalNetworkPolicySpec `json:"spec,omitempty"`
	// How the policy fares.
	// +optional
	Status PolicyStatus `json:"status,omitempty,omitzero"`
}

// StagedGlobalNetworkPolicyList is a list of StagedGlobalNetworkPolicies.
// +kubebuilder:object:root=true
type StagedGlobalNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []StagedGlobalNetworkPolicy `json:"items"`
}

// StagedKubernetesNetworkPolicy is a Kubernetes NetworkPolicy that is evaluated and never enforced (contract §1.6, §4.9).
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,shortName={sknp}
// +kubebuilder:subresource:status
type StagedKubernetesNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What the policy would govern, and its rules.
	Spec StagedKubernetesNetworkPolicySpec `json:"spec,omitempty"`
	// How the policy fares.
	// +optional
	Status PolicyStatus `json:"status,omitempty,omitzero"`
}

// StagedKubernetesNetworkPolicyList is a list of StagedKubernetesNetworkPolicies.
// +kubebuilder:object:root=true
type StagedKubernetesNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []StagedKubernetesNetworkPolicy `json:"items"`
}
