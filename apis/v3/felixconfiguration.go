package v3

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// ProtoPort is a port of a host that stays open whatever policy says (contract §4.5).
type ProtoPort struct {
	// The protocol: TCP or UDP, in any case; TCP if not given.
	// +kubebuilder:validation:Pattern=`^(?i)(TCP|UDP)?$`
	// +optional
	Protocol string `json:"protocol,omitempty"`

	// The port's number.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port uint16 `json:"port"`

	// The network at the far end for which the port stays open, in CIDR form; every network if not given.
	// +kubebuilder:validation:MaxLength=49
	// +kubebuilder:validation:XValidation:rule="self == '' || isCIDR(self) || isIP(self)",message="expected a network in CIDR form, such as 10.0.0.0/8 or fd00::/64"
	// +optional
	Net string `json:"net,omitempty"`
}

// Duration is a length of time as Go writes it: 90s, 1m30s, 0.5s.
// +kubebuilder:validation:Pattern=`^([0-9]+(\.[0-9]+)?(ms|s|m|h))*$`
// +kubebuilder:validation:MaxLength=64
type Duration string

// FelixConfigurationSpec is settings of the agents. What is not given is left to a wider object, and in the end to the default.
// Fields that are not known here, such as those about routes or WireGuard, are kept as they are.
// +kubebuilder:pruning:PreserveUnknownFields
type FelixConfigurationSpec struct {
	// The nodes for which this object speaks. Not for the objects default and node.<name>, whose names say it.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	NodeSelector string `json:"nodeSelector,omitempty"`

	// What happens to a packet from a workload to its own host once the workload's policies let it go: Drop, Accept, or Return
	// to what else the host filters with. Drop if not given.
	// +kubebuilder:validation:Pattern=`^(?i)(Drop|Accept|Return)?$`
	// +optional
	DefaultEndpointToHostAction *string `json:"defaultEndpointToHostAction,omitempty"`

	// What is done with a packet that policy allows: Accept it at once, or Return it to what else filters forwarded and host
	// packets. Accept if not given.
	// +kubebuilder:validation:Pattern=`^(?i)(Accept|Return)?$`
	// +optional
	NFTablesFilterAllowAction *string `json:"nftablesFilterAllowAction,omitempty"`

	// What is done with a packet that policy denies: Drop it silently, or Reject it with an answer. Drop if not given.
	// +kubebuilder:validation:Pattern=`^(?i)(Drop|Reject)?$`
	// +optional
	NFTablesFilterDenyAction *string `json:"nftablesFilterDenyAction,omitempty"`

	// The same as nftablesFilterAllowAction for what is allowed before addresses are translated.
	// +kubebuilder:validation:Pattern=`^(?i)(Accept|Return)?$`
	// +optional
	NFTablesMangleAllowAction *string `json:"nftablesMangleAllowAction,omitempty"`

	// The bits of the packet mark that may be used, at least two; 0xffff0000 if not given.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	// +optional
	NFTablesMarkMask *uint32 `json:"nftablesMarkMask,omitempty"`

	// The same as nftablesFilterAllowAction, for a host whose rules are written with iptables.
	// +kubebuilder:validation:Pattern=`^(?i)(Accept|Return)?$`
	// +optional
	IptablesFilterAllowAction *string `json:"iptablesFilterAllowAction,omitempty"`

	// The same as nftablesFilterDenyAction, for a host whose rules are written with iptables.
	// +kubebuilder:validation:Pattern=`^(?i)(Drop|Reject)?$`
	// +optional
	IptablesFilterDenyAction *string `json:"iptablesFilterDenyAction,omitempty"`

	// The same as nftablesMangleAllowAction, for a host whose rules are written with iptables.
	// +kubebuilder:validation:Pattern=`^(?i)(Accept|Return)?$`
	// +optional
	IptablesMangleAllowAction *string `json:"iptablesMangleAllowAction,omitempty"`

	// The same as nftablesMarkMask, for a host whose rules are written with iptables.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	// +optional
	IptablesMarkMask *uint32 `json:"iptablesMarkMask,omitempty"`

	// What the names of workloads' interfaces begin with: one prefix, or several with commas between. cali if not given.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	InterfacePrefix *string `json:"interfacePrefix,omitempty"`

	// The interfaces that are no host's: names, or regular expressions between slashes, with commas between. kube-ipvs0 if not
	// given.
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	InterfaceExclude *string `json:"interfaceExclude,omitempty"`

	// The ports of the host to which everyone may always connect. An empty list means none; if not given: TCP 22, 179, 2379,
	// 2380, 5473, 6443, 6666, 6667 and UDP 68.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	FailsafeInboundHostPorts *[]ProtoPort `json:"failsafeInboundHostPorts,omitempty"`

	// The ports to which the host may always connect. An empty list means none; if not given: TCP 179, 2379, 2380, 5473, 6443,
	// 6666, 6667 and UDP 53, 67.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	FailsafeOutboundHostPorts *[]ProtoPort `json:"failsafeOutboundHostPorts,omitempty"`

	// The ports of nodes that lead to Services: numbers or ranges such as "30000:32767", at most seven.
	// +kubebuilder:validation:MaxItems=7
	// +kubebuilder:validation:items:XIntOrString
	// +kubebuilder:validation:items:MaxLength=11
	// +kubebuilder:validation:items:XValidation:rule="type(self) == int ? self >= 1 && self <= 65535 : self.matches('^[0-9]{1,5}(:[0-9]{1,5})?$')",message="expected a port number or a range such as 30000:32767"
	// +listType=atomic
	// +optional
	KubeNodePortRanges *[]intstr.IntOrString `json:"kubeNodePortRanges,omitempty"`

	// Whether packets that connection tracking calls invalid go on to policy. They are dropped if not given.
	// +optional
	DisableConntrackInvalidCheck *bool `json:"disableConntrackInvalidCheck,omitempty"`

	// Whether a workload may ask, by annotation, to send from addresses that are not its own: Any lets it, Disabled does not.
	// Disabled if not given.
	// +kubebuilder:validation:Pattern=`^(?i)(Disabled|Any)?$`
	// +optional
	WorkloadSourceSpoofing *string `json:"workloadSourceSpoofing,omitempty"`

	// Whether workloads may send VXLAN packets of their own; no if not given.
	// +optional
	AllowVXLANPacketsFromWorkloads *bool `json:"allowVXLANPacketsFromWorkloads,omitempty"`

	// Whether workloads may send IP-in-IP packets of their own; no if not given.
	// +optional
	AllowIPIPPacketsFromWorkloads *bool `json:"allowIPIPPacketsFromWorkloads,omitempty"`

	// The UDP port of VXLAN packets; 4789 if not given.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +optional
	VXLANPort *uint16 `json:"vxlanPort,omitempty"`

	// Whether nodes send each other VXLAN packets.
	// +optional
	VXLANEnabled *bool `json:"vxlanEnabled,omitempty"`

	// What happens to a packet for a Service address that nothing translated, and that would go round in circles: Drop, Reject,
	// or nothing when Disabled. Drop if not given.
	// +kubebuilder:validation:Pattern=`^(?i)(Drop|Reject|Disabled)?$`
	// +optional
	ServiceLoopPrevention *string `json:"serviceLoopPrevention,omitempty"`

	// What lines in the kernel log begin with; %t stands for the tier, %k for the policy's kind, %n and %p for its name without
	// and with namespace. calico-packet if not given.
	// +kubebuilder:validation:Pattern=`^([a-zA-Z0-9%: /_-])*$`
	// +optional
	LogPrefix *string `json:"logPrefix,omitempty"`

	// How many lines the rule of one Log action may write, such as 10/second, per second, minute, hour or day; no limit if not
	// given.
	// +kubebuilder:validation:Pattern=`^[1-9]\d{0,3}/(?:second|minute|hour|day)$`
	// +optional
	LogActionRateLimit *string `json:"logActionRateLimit,omitempty"`

	// How many lines beyond logActionRateLimit may be written at once; 5 if not given.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=9999
	// +optional
	LogActionRateLimitBurst *int `json:"logActionRateLimitBurst,omitempty"`

	// Whether IPv6 packets are subject to policy too; yes if not given.
	// +optional
	IPv6Support *bool `json:"ipv6Support,omitempty"`

	// Taken and not used: there is no eBPF here.
	// +optional
	BPFEnabled *bool `json:"bpfEnabled,omitempty"`

	// Taken and not used: rules are always written with nftables.
	// +kubebuilder:validation:Enum=Auto;Enabled;Disabled
	// +optional
	NFTablesMode *string `json:"nftablesMode,omitempty"`

	// How often the kernel's rules are compared with what they should be; 180s if not given.
	// +optional
	NFTablesRefreshInterval *Duration `json:"nftablesRefreshInterval,omitempty"`

	// The same as nftablesRefreshInterval, for a host whose rules are written with iptables.
	// +optional
	IptablesRefreshInterval *Duration `json:"iptablesRefreshInterval,omitempty"`

	// Taken and not used: there is no iptables here.
	// +kubebuilder:validation:Enum=Auto;Legacy;NFT
	// +optional
	IptablesBackend *string `json:"iptablesBackend,omitempty"`

	// How often the kernel's sets are compared with what they should be; 90s if not given.
	// +optional
	IpsetsRefreshInterval *Duration `json:"ipsetsRefreshInterval,omitempty"`

	// Taken and not used: there is no iptables here, in whose chains rules would be inserted or appended.
	// +kubebuilder:validation:Pattern=`^(?i)(Insert|Append)?$`
	// +optional
	ChainInsertMode *string `json:"chainInsertMode,omitempty"`

	// Whether workloads may have outside addresses.
	// +kubebuilder:validation:Enum=Enabled;Disabled
	// +optional
	FloatingIPs *string `json:"floatingIPs,omitempty"`

	// What packets that leave the cluster keep their source address for: other pools, or the hosts' addresses too.
	// +kubebuilder:validation:Enum=IPPoolsOnly;IPPoolsAndHostIPs
	// +optional
	NATOutgoingExclusions *string `json:"natOutgoingExclusions,omitempty"`

	// Whether routes that nobody here made are removed.
	// +optional
	RemoveExternalRoutes *bool `json:"removeExternalRoutes,omitempty"`

	// Whether routes are left alone.
	// +optional
	RouteSyncDisabled *bool `json:"routeSyncDisabled,omitempty"`

	// Whether the agent answers questions about its health; no if not given.
	// +optional
	HealthEnabled *bool `json:"healthEnabled,omitempty"`

	// The address at which it answers; localhost if not given.
	// +optional
	HealthHost *string `json:"healthHost,omitempty"`

	// The port at which it answers; 9099 if not given.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	// +optional
	HealthPort *uint16 `json:"healthPort,omitempty"`

	// Whether the agent serves metrics; no if not given.
	// +optional
	PrometheusMetricsEnabled *bool `json:"prometheusMetricsEnabled,omitempty"`

	// The address at which it serves them; every address if not given.
	// +optional
	PrometheusMetricsHost *string `json:"prometheusMetricsHost,omitempty"`

	// The port at which it serves them; 9091 if not given.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	// +optional
	PrometheusMetricsPort *uint16 `json:"prometheusMetricsPort,omitempty"`

	// What certificate it asks for of those who read metrics; none, NoClientCert, if not given.
	// +optional
	PrometheusMetricsClientAuth *string `json:"prometheusMetricsClientAuth,omitempty"`

	// The folder for sockets by which sidecars learn policy; off if not given.
	// +optional
	PolicySyncPathPrefix *string `json:"policySyncPathPrefix,omitempty"`

	// The folder in which files say that an endpoint's policy is in force; /var/run/calico if not given.
	// +optional
	EndpointStatusPathPrefix *string `json:"endpointStatusPathPrefix,omitempty"`

	// How often flow logs are sent; 300s if not given.
	// +optional
	FlowLogsFlushInterval *Duration `json:"flowLogsFlushInterval,omitempty"`

	// Whether flows that last are evaluated again by changed policy.
	// +kubebuilder:validation:Enum=None;Continuous
	// +optional
	FlowLogsPolicyEvaluationMode *string `json:"flowLogsPolicyEvaluationMode,omitempty"`

	// The host and port to which flow logs are sent; nowhere if not given.
	// +optional
	FlowLogsGoldmaneServer *string `json:"flowLogsGoldmaneServer,omitempty"`

	// Whether flow logs are also told on the node itself.
	// +kubebuilder:validation:Enum=Enabled;Disabled
	// +optional
	FlowLogsLocalReporter *string `json:"flowLogsLocalReporter,omitempty"`

	// Whether established flows are handed to the kernel's flow table.
	// +kubebuilder:validation:Enum=All;Disabled
	// +optional
	NFTablesFlowTableOffload *string `json:"nftablesFlowTableOffload,omitempty"`

	// A regular expression for the interfaces of that flow table.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	NFTablesFlowTableDataIfacePattern *string `json:"nftablesFlowTableDataIfacePattern,omitempty"`

	// How long the agent may take before it counts as hung; 90s if not given.
	// +optional
	DataplaneWatchdogTimeout *Duration `json:"dataplaneWatchdogTimeout,omitempty"`

	// Unknown are the fields that are not known here, in JSON with sorted keys.
	Unknown map[string]json.RawMessage `json:"-"`
}

// FelixConfiguration is settings of the agents: of all in the object default, of one node in node.<name>, and of the nodes that
// spec.nodeSelector matches in objects of other names (contract §1.11.1).
// +kubebuilder:object:root=true
// +kubebuilder:metadata:annotations="tierwall.io/schema=1"
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:validation:XValidation:rule="!(self.metadata.name == 'default' || self.metadata.name.startsWith('node.')) || !has(self.spec) || !has(self.spec.nodeSelector) || size(self.spec.nodeSelector) == 0",message="nodeSelector is not for the objects default and node.<name>, whose names say which nodes they are for",fieldPath=".spec.nodeSelector"
type FelixConfiguration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// The settings.
	Spec FelixConfigurationSpec `json:"spec,omitempty"`
	// How the configuration fares.
	// +optional
	Status PolicyStatus `json:"status,omitempty,omitzero"`
}

// FelixConfigurationList is a list of FelixConfigurations.
// +kubebuilder:object:root=true
type FelixConfigurationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []FelixConfiguration `json:"items"`
}

// felixFields is the spec without its own way to JSON.
type felixFields FelixConfigurationSpec

// felixNames are the names of the known fields in JSON.
var felixNames = func() map[string]bool {
	out := map[string]bool{}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[felixFields]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		out[name] = name != "-"
	}
	return out
}()

// MarshalJSON writes the known fields and, beside them, the unknown ones.
func (s FelixConfigurationSpec) MarshalJSON() ([]byte, error) {
	known, err := json.Marshal(felixFields(s))
	if err != nil || len(s.Unknown) == 0 {
		return known, err
	}
	all := maps.Clone(s.Unknown)
	if err := json.Unmarshal(known, &all); err != nil { // a known field stands in place of an unknown one of its name
		return nil, err
	}
	return json.Marshal(all)
}

// UnmarshalJSON keeps fields that are not known. A name in another case is another name: the schema has not seen its value.
func (s *FelixConfigurationSpec) UnmarshalJSON(text []byte) error {
	var known felixFields
	var all map[string]any
	if err := utiljson.Unmarshal(text, &known); err != nil {
		return err
	}
	if err := utiljson.Unmarshal(text, &all); err != nil {
		return err
	}
	for name, value := range all {
		if felixNames[name] {
			continue
		}
		text, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("field %q: %w", name, err)
		}
		if known.Unknown == nil {
			known.Unknown = map[string]json.RawMessage{}
		}
		known.Unknown[name] = text
	}
	*s = FelixConfigurationSpec(known)
	return nil
}
