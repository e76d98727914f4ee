// Package v1alpha1 is Tierwall's own kind, NodeReport: what one node enforces, written by its agent and read by whoever wants to
// know how policy fares. Each node has an object of its own, so that nodes never contend for one.
// +kubebuilder:object:generate=true
// +groupName=tierwall.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "tierwall.io", Version: "v1alpha1"}

// AddToScheme registers every kind and its list.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &NodeReport{}, &NodeReportList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// ConditionEnforcing of a NodeReport is true while all that the node was told is in force there.
const ConditionEnforcing = "Enforcing"

// NodeReport is what one node enforces. Its name is the node's.
// +kubebuilder:object:root=true
// +kubebuilder:metadata:annotations="tierwall.io/schema=1"
// +kubebuilder:resource:scope=Cluster,shortName=nr
// +kubebuilder:printcolumn:name="Enforcing",type=string,JSONPath=`.status.conditions[?(@.type=="Enforcing")].status`
// +kubebuilder:printcolumn:name="Endpoints",type=integer,JSONPath=`.status.endpoints`
// +kubebuilder:printcolumn:name="Policies",type=integer,JSONPath=`.status.policies`
// +kubebuilder:printcolumn:name="Agent",type=string,JSONPath=`.status.agentVersion`,priority=1
// +kubebuilder:printcolumn:name="Reported",type=date,JSONPath=`.status.reportedAt`
type NodeReport struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What the node's agent says.
	// +optional
	Status NodeReportStatus `json:"status,omitempty,omitzero"`
}

// NodeReportStatus is what the node's agent says.
type NodeReportStatus struct {
	// When the agent wrote this.
	// +kubebuilder:validation:XValidation:rule="self > timestamp('0001-01-01T00:00:00Z')",message="reportedAt must be a time as in RFC 3339"
	// +optional
	ReportedAt metav1.Time `json:"reportedAt,omitempty,omitzero"`

	// The version of the agent.
	// +kubebuilder:validation:MaxLength=256
	// +optional
	AgentVersion string `json:"agentVersion,omitempty"`

	// Enforcing: all that the node was told is in force.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:XValidation:rule="self.lastTransitionTime > timestamp('0001-01-01T00:00:00Z')",message="lastTransitionTime must be a time as in RFC 3339"
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// How far in each kind of object the node has come: what was written up to this resourceVersion is in force.
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=kind
	// +optional
	Observed []ObservedKind `json:"observed,omitempty"`

	// How many endpoints the node guards: its workloads and its own interfaces.
	// +optional
	Endpoints int `json:"endpoints"`

	// How many policies select one of them.
	// +optional
	Policies int `json:"policies"`

	// What about single objects is not on this node as their authors may think; no more than 100.
	// +kubebuilder:validation:MaxItems=100
	// +listType=atomic
	// +optional
	Notes []Note `json:"notes,omitempty"`

	// How many more of these there are.
	// +optional
	NotesLeftOut int `json:"notesLeftOut,omitempty"`
}

// MaxNotes in one report, and MaxMessage of each in bytes.
const (
	MaxNotes   = 100
	MaxMessage = 4096
)

// ObservedKind is how far in one kind of object a node has come.
type ObservedKind struct {
	// The kind; KubernetesNetworkPolicy is NetworkPolicy of networking.k8s.io.
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind"`
	// Of the newest object of the kind that the node enforces.
	// +kubebuilder:validation:MaxLength=256
	ResourceVersion string `json:"resourceVersion"`
}

// Note says something of one object.
type Note struct {
	// The kind of the object, as in observed.
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind"`
	// The namespace of the object, if it has one.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// The name of the object.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// What is to be said.
	// +kubebuilder:validation:MaxLength=4096
	Message string `json:"message"`
}

// NodeReportList is a list of NodeReports.
// +kubebuilder:object:root=true
type NodeReportList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeReport `json:"items"`
}
