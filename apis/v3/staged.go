package v3

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
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
// +kubebuilder:validation:XValidation:rule="!has(self.stagedAction) || self.stagedAction != 'Delete' || !(has(self.order) || has(self.ingress) && size(self.ingress) > 0 || has(self.egress) && size(self.egress) > 0 || has(self.selector) && size(self.selector) > 0 || has(self.serviceAccountSelector) && size(self.serviceAccountSelector) > 0 || has(self.performanceHints) && size(self.performanceHints) > 0)",message="Spec fields, except Tier, should all be zero-value if stagedAction is Delete"
type StagedNetworkPolicySpec struct {
	NetworkPolicySpec `json:",inline"`

	// What taking it over would do: Set creates or replaces the policy, Delete deletes it, Learn and Ignore do nothing.
	// +kubebuilder:default=Set
	// +optional
	StagedAction StagedAction `json:"stagedAction,omitempty"`
}

// StagedGlobalNetworkPolicySpec is a GlobalNetworkPolicy that is evaluated and never enforced.
// +kubebuilder:validation:XValidation:rule="!has(self.stagedAction) || self.stagedAction != 'Delete' || !(has(self.order) || has(self.ingress) && size(self.ingress) > 0 || has(self.egress) && size(self.egress) > 0 || has(self.selector) && size(self.selector) > 0 || has(self.serviceAccountSelector) && size(self.serviceAccountSelector) > 0 || has(self.performanceHints) && size(self.performanceHints) > 0 || has(self.namespaceSelector) && size(self.namespaceSelector) > 0 || has(self.doNotTrack) && self.doNotTrack || has(self.preDNAT) && self.preDNAT || has(self.applyOnForward) && self.applyOnForward)",message="Spec fields, except Tier, should all be zero-value if stagedAction is Delete"
type StagedGlobalNetworkPolicySpec struct {
	GlobalNetworkPolicySpec `json:",inline"`

	// What taking it over would do: Set creates or replaces the policy, Delete deletes it, Learn and Ignore do nothing.
	// +kubebuilder:default=Set
	// +optional
	StagedAction StagedAction `json:"stagedAction,omitempty"`
}

// StagedKubernetesNetworkPolicySpec is a Kubernetes NetworkPolicy that is evaluated and never enforced.
// +kubebuilder:validation:XValidation:rule="!has(self.stagedAction) || self.stagedAction != 'Delete' || !(has(self.ingress) && size(self.ingress) > 0 || has(self.egress) && size(self.egress) > 0 || has(self.podSelector) && (has(self.podSelector.matchLabels) && size(self.podSelector.matchLabels) > 0 || has(self.podSelector.matchExpressions) && size(self.podSelector.matchExpressions) > 0))",message="Spec fields, except Tier, should all be zero-value if stagedAction is Delete"
type StagedKubernetesNetworkPolicySpec struct {
	// What taking it over would do: Set creates or replaces the policy, Delete deletes it, Learn and Ignore do nothing.
	// +kubebuilder:default=Set
	// +optional
	StagedAction StagedAction `json:"stagedAction,omitempty"`

	// The pods that the policy governs.
	// +optional
	PodSelector metav1.LabelSelector `json:"podSelector,omitempty,omitzero"`

	// The rules for packets to the selected pods.
	// +kubebuilder:validation:MaxItems=1024
	// +listType=atomic
	// +optional
	Ingress []KubernetesIngressRule `json:"ingress,omitempty"`

	// The rules for packets from the selected pods.
	// +kubebuilder:validation:MaxItems=1024
	// +listType=atomic
	// +optional
	Egress []KubernetesEgressRule `json:"egress,omitempty"`

	// The directions that the policy governs. If not given: Ingress, and Egress when there are egress rules.
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=Ingress;Egress
	// +listType=set
	// +optional
	PolicyTypes []networkingv1.PolicyType `json:"policyTypes,omitempty"`
}

// KubernetesIngressRule is networkingv1.NetworkPolicyIngressRule.
type KubernetesIngressRule struct {
	// The rule is about these ports of the selected pods; about all of them if empty.
	// +kubebuilder:validation:MaxItems=512
	// +listType=atomic
	// +optional
	Ports []KubernetesPort `json:"ports,omitempty"`

	// The rule is about packets from these peers; from any if empty.
	// +listType=atomic
	// +optional
	From []networkingv1.NetworkPolicyPeer `json:"from,omitempty"`
}

// KubernetesEgressRule is networkingv1.NetworkPolicyEgressRule.
type KubernetesEgressRule struct {
	// The rule is about these ports of the peers; about all of them if empty.
	// +kubebuilder:validation:MaxItems=512
	// +listType=atomic
	// +optional
	Ports []KubernetesPort `json:"ports,omitempty"`

	// The rule is about packets to these peers; to any if empty.
	// +listType=atomic
	// +optional
	To []networkingv1.NetworkPolicyPeer `json:"to,omitempty"`
}

// KubernetesPort is networkingv1.NetworkPolicyPort with bounds: without them the schema would let a port through that no
// client can decode.
type KubernetesPort struct {
	// The protocol: TCP, UDP or SCTP. TCP if not given.
	// +kubebuilder:validation:Enum=TCP;UDP;SCTP
	// +optional
	Protocol *corev1.Protocol `json:"protocol,omitempty"`

	// The port's number, or the name of a port of the pod; all ports if not given.
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="type(self) == string || self >= 1 && self <= 65535",message="port numbers must be between 1 and 65535"
	// +optional
	Port *intstr.IntOrString `json:"port,omitempty"`

	// With it, the rule is about all ports from port to this one; port must be a number.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +optional
	EndPort *int32 `json:"endPort,omitempty"`
}

// NetworkPolicySpec is the policy in Kubernetes' own type, as taking it over would make it.
func (s *StagedKubernetesNetworkPolicySpec) NetworkPolicySpec() networkingv1.NetworkPolicySpec {
	out := networkingv1.NetworkPolicySpec{PodSelector: s.PodSelector, PolicyTypes: s.PolicyTypes}
	for _, r := range s.Ingress {
		out.Ingress = append(out.Ingress, networkingv1.NetworkPolicyIngressRule{Ports: kubernetesPorts(r.Ports), From: r.From})
	}
	for _, r := range s.Egress {
		out.Egress = append(out.Egress, networkingv1.NetworkPolicyEgressRule{Ports: kubernetesPorts(r.Ports), To: r.To})
	}
	return out
}

func kubernetesPorts(ports []KubernetesPort) (out []networkingv1.NetworkPolicyPort) {
	for _, p := range ports {
		out = append(out, networkingv1.NetworkPolicyPort(p))
	}
	return out
}

// StagedNetworkPolicy is a NetworkPolicy that is evaluated and never enforced (contract §1.6, §4.9).
// +kubebuilder:object:root=true
// +kubebuilder:metadata:annotations="tierwall.io/schema=1"
// +kubebuilder:resource:scope=Namespaced,shortName={scnp,snp}
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Tier",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="Order",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="Selector",type=string,JSONPath=`.spec.selector`,priority=1
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
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
// +kubebuilder:metadata:annotations="tierwall.io/schema=1"
// +kubebuilder:resource:scope=Cluster,shortName={sgnp}
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Tier",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="Order",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="Selector",type=string,JSONPath=`.spec.selector`,priority=1
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
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
// +kubebuilder:metadata:annotations="tierwall.io/schema=1"
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
