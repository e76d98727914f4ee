package v3

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// PolicyType is a direction that a policy governs.
// +kubebuilder:validation:Enum=Ingress;Egress
type PolicyType string

// The policy types.
const (
	PolicyTypeIngress PolicyType = "Ingress"
	PolicyTypeEgress  PolicyType = "Egress"
)

// PolicyPerformanceHint is advice about enforcing a policy; it never changes a verdict.
// +kubebuilder:validation:Enum=AssumeNeededOnEveryNode
type PolicyPerformanceHint string

// PolicyStatus says how an object fares.
type PolicyStatus struct {
	// Accepted: every part of the object is understood. Programmed: it is in force on the nodes that need it.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:XValidation:rule="self.lastTransitionTime > timestamp('0001-01-01T00:00:00Z')",message="lastTransitionTime must be a time as in RFC 3339"
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// The generation of the object that the conditions speak of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// PolicySpec is what namespaced and global policies have in common.
// +kubebuilder:validation:XValidation:rule="!(has(self.selector) && self.selector.contains('global(')) && !(has(self.serviceAccountSelector) && self.serviceAccountSelector.contains('global('))",message="global() can only be used in an EntityRule namespaceSelector"
type PolicySpec struct {
	// The tier in which the policy stands.
	// +kubebuilder:default=default
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$')",message="a tier's name is a single label: lower case letters, digits and '-', at most 63 characters"
	// +optional
	Tier string `json:"tier,omitempty"`

	// Where in its tier the policy stands: lower first. Without an order it stands last. Kubernetes NetworkPolicies have
	// order 1000 in tier default.
	// +optional
	Order *float64 `json:"order,omitempty"`

	// The rules for packets to the selected endpoints, in the order in which they are asked.
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:XValidation:rule="!has(self.destination) || !has(self.destination.services)",message="not allowed in ingress rule destination",fieldPath=".destination.services"
	// +listType=atomic
	// +optional
	Ingress []Rule `json:"ingress,omitempty"`

	// The rules for packets from the selected endpoints, in the order in which they are asked.
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:XValidation:rule="!has(self.http)",message="HTTP match is for ingress rules only",fieldPath=".http"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.source) || !has(self.source.services)",message="not allowed in egress rule source",fieldPath=".source.services"
	// +listType=atomic
	// +optional
	Egress []Rule `json:"egress,omitempty"`

	// The endpoints that the policy governs, by their labels; all that it could govern if empty.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Selector string `json:"selector,omitempty"`

	// The directions that the policy governs. A packet in a governed direction that no rule decides meets the tier's default
	// action. If not given: Egress when there are egress rules, Ingress when there are ingress rules or none at all.
	//
	// An empty list is the same as none, so there is no least number of items.
	// +kubebuilder:validation:MaxItems=2
	// +listType=set
	// +optional
	Types []PolicyType `json:"types,omitempty"`

	// The policy governs only workloads that run under a service account whose labels this selector matches.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	ServiceAccountSelector string `json:"serviceAccountSelector,omitempty"`

	// Advice about enforcing the policy; it never changes a verdict.
	// +listType=set
	// +optional
	PerformanceHints []PolicyPerformanceHint `json:"performanceHints,omitempty"`
}

// NetworkPolicySpec is a policy for the workloads of one namespace.
type NetworkPolicySpec struct {
	PolicySpec `json:",inline"`
}

// GlobalNetworkPolicySpec is a policy for workloads of any namespace and for hosts.
// +kubebuilder:validation:XValidation:rule="!(has(self.namespaceSelector) && self.namespaceSelector.contains('global('))",message="global() can only be used in an EntityRule namespaceSelector"
// +kubebuilder:validation:XValidation:rule="!(has(self.preDNAT) && self.preDNAT && has(self.doNotTrack) && self.doNotTrack)",message="preDNAT and doNotTrack cannot both be true"
// +kubebuilder:validation:XValidation:rule="!(has(self.preDNAT) && self.preDNAT && has(self.egress) && size(self.egress) > 0)",message="preDNAT policy cannot have any egress rules"
// +kubebuilder:validation:XValidation:rule="!(has(self.preDNAT) && self.preDNAT && has(self.types) && self.types.exists(t, t == 'Egress'))",message="preDNAT policy cannot have 'Egress' type"
// +kubebuilder:validation:XValidation:rule="!((has(self.preDNAT) && self.preDNAT || has(self.doNotTrack) && self.doNotTrack) && !(has(self.applyOnForward) && self.applyOnForward))",message="applyOnForward must be true if either preDNAT or doNotTrack is true"
type GlobalNetworkPolicySpec struct {
	PolicySpec `json:",inline"`

	// The policy governs only workloads of namespaces whose labels this selector matches. all() means workloads of any
	// namespace, and no hosts.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	NamespaceSelector string `json:"namespaceSelector,omitempty"`

	// The policy judges packets at host endpoints before connection tracking, each packet for itself.
	// +optional
	DoNotTrack bool `json:"doNotTrack,omitempty"`

	// The policy judges packets at host endpoints before their destination is translated.
	// +optional
	PreDNAT bool `json:"preDNAT,omitempty"`

	// The policy also judges packets that a host only forwards.
	// +optional
	ApplyOnForward bool `json:"applyOnForward,omitempty"`
}

// NetworkPolicy governs the workloads of its namespace (contract §1.4).
// +kubebuilder:object:root=true
// +kubebuilder:metadata:annotations="tierwall.io/schema=1"
// +kubebuilder:resource:scope=Namespaced,shortName={cnp,caliconetworkpolicy}
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Tier",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="Order",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Selector",type=string,JSONPath=`.spec.selector`,priority=1
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`,priority=1
// +kubebuilder:printcolumn:name="In force",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:selectablefield:JSONPath=`.spec.tier`
type NetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What the policy governs, and its rules.
	Spec NetworkPolicySpec `json:"spec,omitempty"`
	// How the policy fares.
	// +optional
	Status PolicyStatus `json:"status,omitempty,omitzero"`
}

// NetworkPolicyList is a list of NetworkPolicies.
// +kubebuilder:object:root=true
type NetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NetworkPolicy `json:"items"`
}

// GlobalNetworkPolicy governs workloads of all namespaces and host endpoints (contract §1.5).
// +kubebuilder:object:root=true
// +kubebuilder:metadata:annotations="tierwall.io/schema=1"
// +kubebuilder:resource:scope=Cluster,shortName={gnp,cgnp}
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Tier",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="Order",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Selector",type=string,JSONPath=`.spec.selector`,priority=1
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`,priority=1
// +kubebuilder:printcolumn:name="In force",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:selectablefield:JSONPath=`.spec.tier`
type GlobalNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What the policy governs, and its rules.
	Spec GlobalNetworkPolicySpec `json:"spec,omitempty"`
	// How the policy fares.
	// +optional
	Status PolicyStatus `json:"status,omitempty,omitzero"`
}

// GlobalNetworkPolicyList is a list of GlobalNetworkPolicies.
// +kubebuilder:object:root=true
type GlobalNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GlobalNetworkPolicy `json:"items"`
}
