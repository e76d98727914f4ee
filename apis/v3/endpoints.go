package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// EndpointPort is a port of an endpoint by name.
type EndpointPort struct {
	// The name by which rules refer to the port.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name"`

	// The protocol: TCP, UDP or SCTP.
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="self == 'TCP' || self == 'UDP' || self == 'SCTP'",message="EndpointPort protocol does not support ports: expected TCP, UDP or SCTP"
	Protocol intstr.IntOrString `json:"protocol"`

	// The port's number.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
}

// HostEndpointSpec is an interface of a node, or all of them.
// +kubebuilder:validation:XValidation:rule="has(self.node) && size(self.node) > 0",message="node must be specified"
// +kubebuilder:validation:XValidation:rule="has(self.interfaceName) && size(self.interfaceName) > 0 || has(self.expectedIPs) && size(self.expectedIPs) > 0",message="at least one of interfaceName or expectedIPs must be specified"
type HostEndpointSpec struct {
	// The node whose interface this is.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Node string `json:"node,omitempty"`

	// The interface's name, or * for every interface of the node that has no host endpoint of its own.
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="self == '' || self == '*' || self.matches('^[a-zA-Z0-9_.-]{1,15}$')",message="expected the name of one interface, or * alone for all of them"
	// +optional
	InterfaceName string `json:"interfaceName,omitempty"`

	// The node's addresses on the interface. Without interfaceName they tell which interface it is; selectors in rules
	// resolve to them.
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:items:XValidation:rule="isIP(self)",message="expected an address without prefix length"
	// +listType=set
	// +optional
	ExpectedIPs []string `json:"expectedIPs,omitempty"`

	// The profiles that decide what no policy does, in order.
	// +listType=set
	// +optional
	Profiles []string `json:"profiles,omitempty"`

	// Ports that rules may name.
	// +kubebuilder:validation:MaxItems=1024
	// +listType=atomic
	// +optional
	Ports []EndpointPort `json:"ports,omitempty"`
}

// HostEndpoint puts an interface of a node under policy (contract §1.8).
// +kubebuilder:object:root=true
// +kubebuilder:metadata:annotations="tierwall.io/schema=1"
// +kubebuilder:resource:scope=Cluster,shortName={hep,heps}
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.spec.interfaceName`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`,priority=1
// +kubebuilder:printcolumn:name="In force",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="has(self.spec)",message="spec must be specified"
type HostEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Which interface it is.
	Spec HostEndpointSpec `json:"spec,omitempty"`
	// How the host endpoint fares.
	// +optional
	Status PolicyStatus `json:"status,omitempty,omitzero"`
}

// HostEndpointList is a list of HostEndpoints.
// +kubebuilder:object:root=true
type HostEndpointList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []HostEndpoint `json:"items"`
}

// WorkloadEndpointPort is a port of a workload by name.
type WorkloadEndpointPort struct {
	// The name by which rules refer to the port.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	Name string `json:"name,omitempty"`

	// The protocol: TCP, UDP or SCTP.
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="self == 'TCP' || self == 'UDP' || self == 'SCTP'",message="EndpointPort protocol does not support ports: expected TCP, UDP or SCTP"
	Protocol intstr.IntOrString `json:"protocol"`

	// The port's number.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`

	// The port of the host that leads to it.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	// +optional
	HostPort int32 `json:"hostPort,omitempty"`

	// The address of the host on which that port is.
	// +optional
	HostIP string `json:"hostIP,omitempty"`
}

// IPNAT is an outside address of a workload.
type IPNAT struct {
	// The workload's own address.
	InternalIP string `json:"internalIP"`
	// The address by which others know it.
	ExternalIP string `json:"externalIP"`
}

// WorkloadEndpointSpec is a workload's connection to its host.
type WorkloadEndpointSpec struct {
	// What made the workload, such as k8s, libvirt or lxc.
	// +optional
	Orchestrator string `json:"orchestrator,omitempty"`
	// The workload's name for it.
	// +optional
	Workload string `json:"workload,omitempty"`
	// The node on which the workload runs.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`
	// The workload's container.
	// +optional
	ContainerID string `json:"containerID,omitempty"`
	// The workload's pod.
	// +optional
	Pod string `json:"pod,omitempty"`
	// The name of the endpoint within the workload.
	// +optional
	Endpoint string `json:"endpoint,omitempty"`
	// The service account under which the workload runs.
	// +optional
	ServiceAccountName string `json:"serviceAccountName,omitempty"`
	// The workload's addresses, each alone or with the prefix length of one address.
	// +listType=set
	// +optional
	IPNetworks []string `json:"ipNetworks,omitempty"`
	// Outside addresses of the workload.
	// +listType=atomic
	// +optional
	IPNATs []IPNAT `json:"ipNATs,omitempty"`
	// The workload's IPv4 router.
	// +optional
	IPv4Gateway string `json:"ipv4Gateway,omitempty"`
	// The workload's IPv6 router.
	// +optional
	IPv6Gateway string `json:"ipv6Gateway,omitempty"`
	// The profiles that decide what no policy does, in order.
	// +listType=set
	// +optional
	Profiles []string `json:"profiles,omitempty"`
	// The host's interface that leads to the workload.
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-zA-Z0-9_.-]{0,15}$')",message="expected the name of one interface"
	// +optional
	InterfaceName string `json:"interfaceName,omitempty"`
	// The hardware address of the workload's interface.
	// +optional
	MAC string `json:"mac,omitempty"`
	// Ports that rules may name.
	// +kubebuilder:validation:MaxItems=1024
	// +listType=atomic
	// +optional
	Ports []WorkloadEndpointPort `json:"ports,omitempty"`
	// Networks besides its own addresses from which the workload may send.
	// +listType=set
	// +optional
	AllowSpoofedSourcePrefixes []string `json:"allowSpoofedSourcePrefixes,omitempty"`
}

// WorkloadEndpoint is a workload that policy governs, on a host without a cluster. In a cluster it is derived from a Pod
// (contract §1.9).
// +kubebuilder:object:root=true
// +kubebuilder:metadata:annotations="tierwall.io/schema=1"
// +kubebuilder:resource:scope=Namespaced,shortName={wep,weps}
// +kubebuilder:printcolumn:name="Workload",type=string,JSONPath=`.spec.workload`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.spec.interfaceName`
type WorkloadEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// The workload's connection to its host.
	Spec WorkloadEndpointSpec `json:"spec"`
}

// WorkloadEndpointList is a list of WorkloadEndpoints.
// +kubebuilder:object:root=true
type WorkloadEndpointList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []WorkloadEndpoint `json:"items"`
}

// ProfileSpec is rules that decide what no policy does, and labels.
type ProfileSpec struct {
	// The rules for packets to endpoints of the profile. Pass goes on with the next profile.
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:XValidation:rule="!has(self.destination) || !has(self.destination.services)",message="not allowed in ingress rule destination",fieldPath=".destination.services"
	// +listType=atomic
	// +optional
	Ingress []Rule `json:"ingress,omitempty"`
	// The rules for packets from endpoints of the profile.
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:XValidation:rule="!has(self.http)",message="HTTP match is for ingress rules only",fieldPath=".http"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.source) || !has(self.source.services)",message="not allowed in egress rule source",fieldPath=".source.services"
	// +listType=atomic
	// +optional
	Egress []Rule `json:"egress,omitempty"`
	// Labels that endpoints of the profile inherit.
	// +optional
	LabelsToApply map[string]string `json:"labelsToApply,omitempty"`
}

// Profile is rules and labels that endpoints share, on a host without a cluster. In a cluster it is derived from Namespaces
// and ServiceAccounts (contract §1.10).
// +kubebuilder:object:root=true
// +kubebuilder:metadata:annotations="tierwall.io/schema=1"
// +kubebuilder:resource:scope=Cluster,shortName={pro}
type Profile struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// The rules and labels.
	Spec ProfileSpec `json:"spec,omitempty"`
}

// ProfileList is a list of Profiles.
// +kubebuilder:object:root=true
type ProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Profile `json:"items"`
}
