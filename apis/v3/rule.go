package v3

import "k8s.io/apimachinery/pkg/util/intstr"

// Action is what a rule does with a packet that it matches.
type Action string

// The actions (contract §4.2).
const (
	// Allow accepts the packet; no later tier or policy is asked.
	Allow Action = "Allow"
	// Deny refuses the packet.
	Deny Action = "Deny"
	// Log writes a line to the kernel log and goes on with the next rule.
	Log Action = "Log"
	// Pass leaves the tier and goes on with the next one.
	Pass Action = "Pass"
)

// Rule matches packets by all of its criteria together and says what happens to them.
// +kubebuilder:validation:XValidation:rule="!has(self.http) || self.action == 'Allow'",message="HTTP match is only supported with the Allow action"
// +kubebuilder:validation:XValidation:rule="!has(self.http) || !has(self.protocol) || self.protocol == 'TCP' || self.protocol == '6' || self.protocol == 6",message="HTTP match requires protocol TCP or none"
// +kubebuilder:validation:XValidation:rule="!has(self.icmp) || (has(self.protocol) && (self.protocol == 'ICMP' || self.protocol == 'ICMPv6' || self.protocol == 1 || self.protocol == 58 || self.protocol == '1' || self.protocol == '58'))",message="ICMP fields require protocol to be ICMP or ICMPv6"
// +kubebuilder:validation:XValidation:rule="!has(self.ipVersion) || !has(self.protocol) || (self.protocol != 'ICMP' || self.ipVersion == 4) && (self.protocol != 'ICMPv6' || self.ipVersion == 6)",message="protocol ICMP requires ipVersion 4, and ICMPv6 requires ipVersion 6"
// +kubebuilder:validation:XValidation:rule="!has(self.ipVersion) || !has(self.notProtocol) || (self.notProtocol != 'ICMP' || self.ipVersion == 4) && (self.notProtocol != 'ICMPv6' || self.ipVersion == 6)",message="notProtocol ICMP requires ipVersion 4, and ICMPv6 requires ipVersion 6"
// +kubebuilder:validation:XValidation:rule="has(self.protocol) && (self.protocol == 'TCP' || self.protocol == 'UDP' || self.protocol == 'SCTP' || self.protocol == 6 || self.protocol == 17 || self.protocol == 132 || self.protocol == '6' || self.protocol == '17' || self.protocol == '132') || !has(self.source) || !has(self.source.ports) || self.source.ports.all(p, type(p) == string && !has(self.protocol))",messageExpression="has(self.protocol) ? 'rules that specify ports must set protocol to TCP or UDP or SCTP' : 'rules with numeric port or port range must set protocol to TCP or UDP or SCTP'",fieldPath=".source.ports"
// +kubebuilder:validation:XValidation:rule="has(self.protocol) && (self.protocol == 'TCP' || self.protocol == 'UDP' || self.protocol == 'SCTP' || self.protocol == 6 || self.protocol == 17 || self.protocol == 132 || self.protocol == '6' || self.protocol == '17' || self.protocol == '132') || !has(self.source) || !has(self.source.notPorts) || self.source.notPorts.all(p, type(p) == string && !has(self.protocol))",messageExpression="has(self.protocol) ? 'rules that specify ports must set protocol to TCP or UDP or SCTP' : 'rules with numeric port or port range must set protocol to TCP or UDP or SCTP'",fieldPath=".source.notPorts"
// +kubebuilder:validation:XValidation:rule="has(self.protocol) && (self.protocol == 'TCP' || self.protocol == 'UDP' || self.protocol == 'SCTP' || self.protocol == 6 || self.protocol == 17 || self.protocol == 132 || self.protocol == '6' || self.protocol == '17' || self.protocol == '132') || !has(self.destination) || !has(self.destination.ports) || self.destination.ports.all(p, type(p) == string && !has(self.protocol))",messageExpression="has(self.protocol) ? 'rules that specify ports must set protocol to TCP or UDP or SCTP' : 'rules with numeric port or port range must set protocol to TCP or UDP or SCTP'",fieldPath=".destination.ports"
// +kubebuilder:validation:XValidation:rule="has(self.protocol) && (self.protocol == 'TCP' || self.protocol == 'UDP' || self.protocol == 'SCTP' || self.protocol == 6 || self.protocol == 17 || self.protocol == 132 || self.protocol == '6' || self.protocol == '17' || self.protocol == '132') || !has(self.destination) || !has(self.destination.notPorts) || self.destination.notPorts.all(p, type(p) == string && !has(self.protocol))",messageExpression="has(self.protocol) ? 'rules that specify ports must set protocol to TCP or UDP or SCTP' : 'rules with numeric port or port range must set protocol to TCP or UDP or SCTP'",fieldPath=".destination.notPorts"
// +kubebuilder:validation:XValidation:rule="!has(self.destination) || !has(self.destination.services) || !(has(self.destination.ports) && size(self.destination.ports) > 0 || has(self.destination.notPorts) && size(self.destination.notPorts) > 0)",message="a service brings its own ports: ports and notPorts cannot stand beside it",fieldPath=".destination.ports"
type Rule struct {
	// What happens to a packet that matches: Allow accepts it, Deny refuses it, Pass goes on with the next tier, Log writes
	// a line to the kernel log and goes on with the next rule.
	// +kubebuilder:validation:Enum=Allow;Deny;Log;Pass
	Action Action `json:"action"`

	// Matches only packets of this IP version, 4 or 6.
	// +kubebuilder:validation:Enum=4;6
	// +optional
	IPVersion *int `json:"ipVersion,omitempty"`

	// Matches only this IP protocol: TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255.
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 1 && self <= 255 : self in ['TCP', 'UDP', 'ICMP', 'ICMPv6', 'SCTP', 'UDPLite'] || self.matches('^[1-9][0-9]{0,2}$') && int(self) <= 255",message="is none of TCP, UDP, ICMP, ICMPv6, SCTP and UDPLite and no number from 1 to 255"
	Protocol *intstr.IntOrString `json:"protocol,omitempty"`

	// Matches only packets whose IP protocol is another than this one.
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 1 && self <= 255 : self in ['TCP', 'UDP', 'ICMP', 'ICMPv6', 'SCTP', 'UDPLite'] || self.matches('^[1-9][0-9]{0,2}$') && int(self) <= 255",message="is none of TCP, UDP, ICMP, ICMPv6, SCTP and UDPLite and no number from 1 to 255"
	NotProtocol *intstr.IntOrString `json:"notProtocol,omitempty"`

	// Matches only ICMP packets of this type and code; protocol must be ICMP or ICMPv6.
	// +optional
	ICMP *ICMPFields `json:"icmp,omitempty"`

	// Matches only packets that are not ICMP of this type and code.
	// +optional
	NotICMP *ICMPFields `json:"notICMP,omitempty"`

	// What the rule asks of the end that the packet comes from.
	// +optional
	Source EntityRule `json:"source,omitempty,omitzero"`

	// What the rule asks of the end that the packet goes to.
	// +optional
	Destination EntityRule `json:"destination,omitempty,omitzero"`

	// HTTP requests to match. The kernel sees no HTTP: there the rule allows every packet that its other criteria match.
	// +optional
	HTTP *HTTPMatch `json:"http,omitempty"`

	// Notes about the rule; they change nothing.
	// +optional
	Metadata *RuleMetadata `json:"metadata,omitempty"`
}

// ICMPFields are a type of ICMP or ICMPv6 messages and perhaps a code.
// +kubebuilder:validation:XValidation:rule="!has(self.code) || has(self.type)",message="ICMP code specified without an ICMP type"
type ICMPFields struct {
	// The message type, 0 to 254; 8 is an IPv4 echo request, 128 an IPv6 one.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=254
	// +optional
	Type *int `json:"type,omitempty"`

	// The message code, 0 to 255; it needs a type.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	// +optional
	Code *int `json:"code,omitempty"`
}

// EntityRule is what a rule asks of one end of a packet. All criteria that are given must hold.
// +kubebuilder:validation:XValidation:rule="!has(self.services) || !(has(self.nets) && size(self.nets) > 0 || has(self.notNets) && size(self.notNets) > 0)",message="services may not be combined with nets or notNets"
// +kubebuilder:validation:XValidation:rule="!has(self.services) || !(has(self.selector) && size(self.selector) > 0 || has(self.notSelector) && size(self.notSelector) > 0 || has(self.namespaceSelector) && size(self.namespaceSelector) > 0)",message="services may not be combined with selector, notSelector or namespaceSelector"
// +kubebuilder:validation:XValidation:rule="!has(self.services) || !has(self.serviceAccounts)",message="services may not be combined with serviceAccounts"
// +kubebuilder:validation:XValidation:rule="!(has(self.selector) && self.selector.contains('global(')) && !(has(self.notSelector) && self.notSelector.contains('global(')) && !(has(self.serviceAccounts) && has(self.serviceAccounts.selector) && self.serviceAccounts.selector.contains('global('))",message="global() can only be used in an EntityRule namespaceSelector"
type EntityRule struct {
	// The address is in one of these networks, in CIDR form without host bits. IPv4 and IPv6 may not be mixed in one rule.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=49
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self)",message="expected a network in CIDR form, such as 10.0.0.0/8 or fd00::/64 (invalid CIDR)"
	// +optional
	Nets []string `json:"nets,omitempty"`

	// The address is in none of these networks.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=49
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self)",message="expected a network in CIDR form, such as 10.0.0.0/8 or fd00::/64 (invalid CIDR)"
	// +kubebuilder:validation:items:XValidation:rule="!self.endsWith('/0')",message="catch-all CIDR in negation creates logical contradiction (matches no traffic)"
	// +optional
	NotNets []string `json:"notNets,omitempty"`

	// The end is a workload, host endpoint or network set whose labels this selector matches.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Selector string `json:"selector,omitempty"`

	// The end is none whose labels this selector matches.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	NotSelector string `json:"notSelector,omitempty"`

	// The end is in a namespace whose labels this selector matches; global() means what is in no namespace: host endpoints
	// and GlobalNetworkSets. Without it, a selector in a NetworkPolicy looks in the policy's own namespace only.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	NamespaceSelector string `json:"namespaceSelector,omitempty"`

	// The end is an endpoint of this Service. Only in the destination of egress rules, where it implies the Service's ports,
	// and in the source of ingress rules.
	// +optional
	Services *ServiceMatch `json:"services,omitempty"`

	// The port is one of these: a number, a range such as "8000:8999", or the name of a port of the endpoint.
	// +kubebuilder:validation:MaxItems=50
	// +kubebuilder:validation:items:XIntOrString
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:XValidation:rule="type(self) == string || self >= 1 && self <= 65535",message="port numbers must be between 1 and 65535"
	// +listType=atomic
	// +optional
	Ports []intstr.IntOrString `json:"ports,omitempty"`

	// The port is none of these.
	// +kubebuilder:validation:MaxItems=50
	// +kubebuilder:validation:items:XIntOrString
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:XValidation:rule="type(self) == string || self >= 1 && self <= 65535",message="port numbers must be between 1 and 65535"
	// +listType=atomic
	// +optional
	NotPorts []intstr.IntOrString `json:"notPorts,omitempty"`

	// The end is a workload that runs under one of these service accounts.
	// +optional
	ServiceAccounts *ServiceAccountMatch `json:"serviceAccounts,omitempty"`
}

// ServiceMatch names a Kubernetes Service.
type ServiceMatch struct {
	// The Service's name.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Name string `json:"name,omitempty"`

	// The Service's namespace; in a NetworkPolicy the policy's own if not given.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Namespace string `json:"namespace,omitempty"`
}

// ServiceAccountMatch chooses service accounts by name, by label, or by both together.
type ServiceAccountMatch struct {
	// The service account has one of these names.
	// +listType=atomic
	// +optional
	Names []string `json:"names,omitempty"`

	// The service account's labels are matched by this selector.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Selector string `json:"selector,omitempty"`
}

// HTTPMatch is what a rule asks of an HTTP request.
type HTTPMatch struct {
	// The request's method is one of these.
	// +kubebuilder:validation:MaxItems=20
	// +listType=set
	// +optional
	Methods []string `json:"methods,omitempty"`

	// The request's path is one of these.
	// +kubebuilder:validation:MaxItems=20
	// +listType=atomic
	// +optional
	Paths []HTTPPath `json:"paths,omitempty"`
}

// HTTPPath is a whole path or the beginning of one; exactly one of the two.
// +kubebuilder:validation:XValidation:rule="!(has(self.exact) && size(self.exact) > 0 && has(self.prefix) && size(self.prefix) > 0)",message="give either exact or prefix, not both"
// +kubebuilder:validation:XValidation:rule="has(self.exact) && self.exact.startsWith('/') || has(self.prefix) && self.prefix.startsWith('/')",message="a path must start with /"
type HTTPPath struct {
	// The whole path.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Exact string `json:"exact,omitempty"`

	// The beginning of the path.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Prefix string `json:"prefix,omitempty"`
}

// RuleMetadata is notes about a rule.
type RuleMetadata struct {
	// Free notes by key; "name" is shown as the rule's name.
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}
