package v3

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// DefaultTierOrder is the order of a tier that was given none, and of the tier default (contract §1.3).
const DefaultTierOrder = 1_000_000

// DefaultTier is the tier of policies that name none, and of Kubernetes NetworkPolicies.
const DefaultTier = "default"

// TierSpec is where a tier stands and how it ends.
type TierSpec struct {
	// Where the tier stands among tiers: lower first. 1000000 if not given.
	// +optional
	Order *float64 `json:"order,omitempty"`

	// What happens to a packet that the tier's policies govern and that none of their rules decides: Deny refuses it, Pass
	// goes on with the next tier.
	// +kubebuilder:default=Deny
	// +kubebuilder:validation:Enum=Deny;Pass
	// +optional
	DefaultAction *Action `json:"defaultAction,omitempty"`
}

// Tier is a group of policies that is asked as a whole, in order with other tiers (contract §1.3).
// +kubebuilder:object:root=true
// +kubebuilder:metadata:annotations="tierwall.io/schema=1"
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Order",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="DefaultAction",type=string,JSONPath=`.spec.defaultAction`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",message="a tier's name is a single label: lower case letters, digits and '-', at most 63 characters"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'kube-admin' ? self.spec.defaultAction == 'Pass' : true",message="kube-admin tier default action must be Pass"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'kube-baseline' ? self.spec.defaultAction == 'Pass' : true",message="kube-baseline tier default action must be Pass"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default' ? self.spec.defaultAction == 'Deny' : true",message="default tier default action must be Deny"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'kube-admin' ? has(self.spec.order) && self.spec.order == 1000.0 : true",message="kube-admin tier order must be 1000"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default' ? !has(self.spec.order) || self.spec.order == 1000000.0 : true",message="default tier order must be 1000000"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'kube-baseline' ? has(self.spec.order) && self.spec.order == 10000000.0 : true",message="kube-baseline tier order must be 10000000"
type Tier struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Where the tier stands and how it ends.
	// +kubebuilder:default={}
	Spec TierSpec `json:"spec,omitempty"`
	// How the tier fares.
	// +optional
	Status TierStatus `json:"status,omitempty,omitzero"`
}

// TierStatus says how a tier fares.
type TierStatus struct {
	// Ready: the tier takes part. While a deleted tier waits for its policies to go, Ready is false.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:XValidation:rule="self.lastTransitionTime > timestamp('0001-01-01T00:00:00Z')",message="lastTransitionTime must be a time as in RFC 3339"
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// TierList is a list of Tiers.
// +kubebuilder:object:root=true
type TierList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Tier `json:"items"`
}
