package v3

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierwall/tierwall/apis/selector"
)

// ControllerMode says whether something is done.
// +kubebuilder:validation:Enum=Enabled;Disabled
type ControllerMode string

// The modes.
const (
	ControllerEnabled  ControllerMode = "Enabled"
	ControllerDisabled ControllerMode = "Disabled"
)

// Period is a length of time as Go writes it, such as 5m or 1m30s; 0 is none.
// +kubebuilder:validation:Pattern=`^(0|([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))*)$`
// +kubebuilder:validation:MaxLength=64
type Period string

// Parse reads a length of time; no text is none at all.
func (p Period) Parse() (metav1.Duration, error) { return Duration(p).Parse() }

// Template says what host endpoints a node gets besides that of all its interfaces.
// +kubebuilder:validation:XValidation:rule="has(self.interfaceCIDRs) && size(self.interfaceCIDRs) > 0 || has(self.interfacePattern) && size(self.interfacePattern) > 0",message="at least one of interfaceCIDRs or interfacePattern must be specified"
type Template struct {
	// What stands in the names of the host endpoints behind the name of their node.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	GenerateName string `json:"generateName"`

	// The networks of the addresses that are meant, in CIDR form. Without interfacePattern there is one host endpoint for those of
	// the node's addresses that are in them, and none where there are no such addresses.
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=49
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self)",message="expected a network in CIDR form, such as 10.0.0.0/8 or fd00::/64"
	// +listType=set
	// +optional
	InterfaceCIDRs []string `json:"interfaceCIDRs,omitempty"`

	// A regular expression for names of interfaces: each interface of a node in whose name it is found gets a host endpoint.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	InterfacePattern string `json:"interfacePattern,omitempty"`

	// Labels of the host endpoints, before those of the node.
	// +optional
	Labels map[string]string `json:"labels,omitempty"`

	// Annotations of the host endpoints.
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`

	// The nodes that are meant, by their labels; all nodes if not given.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	NodeSelector string `json:"nodeSelector,omitempty"`
}

// Selects tells whether the template is for a node with these labels.
func (t *Template) Selects(labels map[string]string) (bool, error) {
	s, err := selector.Parse(t.NodeSelector)
	if err != nil {
		return false, fmt.Errorf("nodeSelector %q: %w", t.NodeSelector, err)
	}
	return s.Matches(selector.Map(labels)), nil
}

// AutoHostEndpointConfig says what host endpoints nodes get by themselves.
type AutoHostEndpointConfig struct {
	// Whether nodes get host endpoints. Disabled if not given: those that nodes got before are deleted.
	// +optional
	AutoCreate ControllerMode `json:"autoCreate,omitempty"`

	// Whether each node gets one for all its interfaces; Enabled if not given.
	// +optional
	CreateDefaultHostEndpoint ControllerMode `json:"createDefaultHostEndpoint,omitempty"`

	// What others nodes get.
	// +kubebuilder:validation:MaxItems=256
	// +listType=map
	// +listMapKey=generateName
	// +optional
	Templates []Template `json:"templates,omitempty"`
}

// NodeControllerConfig is settings of what is done for nodes.
type NodeControllerConfig struct {
	// How often everything is compared with what it should be, besides whenever something changes; 5m if not given, and never if 0.
	// +optional
	ReconcilerPeriod *Period `json:"reconcilerPeriod,omitempty"`

	// Kept, and does nothing: the labels of nodes are always those of their Node objects.
	// +optional
	SyncLabels ControllerMode `json:"syncLabels,omitempty"`

	// What host endpoints nodes get by themselves.
	// +optional
	HostEndpoint *AutoHostEndpointConfig `json:"hostEndpoint,omitempty"`

	// Kept, and does nothing: addresses are not given out here.
	// +optional
	LeakGracePeriod *Period `json:"leakGracePeriod,omitempty"`
}

// PeriodicControllerConfig is settings of a controller that copies objects of Kubernetes to etcd.
type PeriodicControllerConfig struct {
	// Kept, and does nothing: there is no etcd to copy to.
	// +optional
	ReconcilerPeriod *Period `json:"reconcilerPeriod,omitempty"`
}

// LoadBalancerControllerConfig is settings of the controller that gives addresses to Services.
type LoadBalancerControllerConfig struct {
	// Kept, and does nothing: addresses are not given out here.
	// +kubebuilder:validation:Enum=AllServices;RequestedServicesOnly
	// +optional
	AssignIPs string `json:"assignIPs,omitempty"`
}

// MigrationControllerConfig is settings of the controllers that carry objects over from older versions.
type MigrationControllerConfig struct {
	// Kept, and does nothing: policies have but one name here.
	// +optional
	PolicyNameMigrator ControllerMode `json:"policyNameMigrator,omitempty"`
}

// PolicyMigrationControllerConfig is MigrationControllerConfig as some versions of Calico write it.
type PolicyMigrationControllerConfig struct {
	// Kept, and does nothing: policies have but one name here.
	// +optional
	Enabled ControllerMode `json:"enabled,omitempty"`
}

// ControllersConfig is settings of each controller.
type ControllersConfig struct {
	// What is done for nodes.
	// +optional
	Node *NodeControllerConfig `json:"node,omitempty"`

	// Kept, and does nothing: Kubernetes network policies are enforced as they are.
	// +optional
	Policy *PeriodicControllerConfig `json:"policy,omitempty"`

	// Kept, and does nothing: pods are known from Kubernetes.
	// +optional
	WorkloadEndpoint *PeriodicControllerConfig `json:"workloadEndpoint,omitempty"`

	// Kept, and does nothing: service accounts are known from Kubernetes.
	// +optional
	ServiceAccount *PeriodicControllerConfig `json:"serviceAccount,omitempty"`

	// Kept, and does nothing: namespaces are known from Kubernetes.
	// +optional
	Namespace *PeriodicControllerConfig `json:"namespace,omitempty"`

	// Kept, and does nothing: Services get no addresses here.
	// +optional
	LoadBalancer *LoadBalancerControllerConfig `json:"loadBalancer,omitempty"`

	// Kept, and does nothing: there are no older versions of objects here.
	// +optional
	Migration *MigrationControllerConfig `json:"migration,omitempty"`

	// The same as migration, as some versions of Calico write it.
	// +optional
	PolicyMigration *PolicyMigrationControllerConfig `json:"policyMigration,omitempty"`
}

// KubeControllersConfigurationSpec is settings of what is done once for a cluster. Of them controllers.node.hostEndpoint and
// controllers.node.reconcilerPeriod are used.
type KubeControllersConfigurationSpec struct {
	// Kept, and does nothing: how much the controller logs is said by its flags.
	// +kubebuilder:validation:Enum=None;Debug;Info;Warning;Error;Fatal;Panic
	// +optional
	LogSeverityScreen string `json:"logSeverityScreen,omitempty"`

	// Kept, and does nothing: where the controller answers for its health is said by its flags.
	// +optional
	HealthChecks ControllerMode `json:"healthChecks,omitempty"`

	// Kept, and does nothing: there is no etcd of our own.
	// +optional
	EtcdV3CompactionPeriod *Period `json:"etcdV3CompactionPeriod,omitempty"`

	// Kept, and does nothing: where the controller serves metrics is said by its flags.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	// +optional
	PrometheusMetricsPort *int32 `json:"prometheusMetricsPort,omitempty"`

	// The settings of each controller.
	// +optional
	Controllers ControllersConfig `json:"controllers,omitempty,omitzero"`

	// Kept, and does nothing: the controller serves no profiles.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	// +optional
	DebugProfilePort *int32 `json:"debugProfilePort,omitempty"`
}

// KubeControllersConfigurationStatus is what Calico's controllers, where they run too, say that they make of the settings.
type KubeControllersConfigurationStatus struct {
	// The settings as those controllers have them, with those of their environment.
	// +optional
	RunningConfig *KubeControllersConfigurationSpec `json:"runningConfig,omitempty"`

	// The variables of their environment that had an effect.
	// +optional
	EnvironmentVars map[string]string `json:"environmentVars,omitempty"`
}

// DefaultConfiguration is the name of the one KubeControllersConfiguration that there is.
const DefaultConfiguration = "default"

// KubeControllersConfiguration is settings of what is done once for a cluster. There is but one, of the name default (contract
// §1.11.2).
// +kubebuilder:object:root=true
// +kubebuilder:metadata:annotations="tierwall.io/schema=1"
// +kubebuilder:resource:scope=Cluster,shortName={kcc,kccs}
// +kubebuilder:subresource:status
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default'",message="there is but one KubeControllersConfiguration, of the name default"
type KubeControllersConfiguration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// The settings.
	Spec KubeControllersConfigurationSpec `json:"spec,omitempty"`
	// What other controllers make of them.
	// +optional
	Status KubeControllersConfigurationStatus `json:"status,omitempty,omitzero"`
}

// KubeControllersConfigurationList is a list of KubeControllersConfigurations.
// +kubebuilder:object:root=true
type KubeControllersConfigurationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []KubeControllersConfiguration `json:"items"`
}

// Unused are the fields of the spec that are set and change nothing here, in the order of their names.
func (s *KubeControllersConfigurationSpec) Unused() []string {
	out := unused(s, map[string]bool{"controllers": true})
	for _, name := range unused(s.Controllers, map[string]bool{"node": true}) {
		out = append(out, "controllers."+name)
	}
	if s.Controllers.Node != nil {
		for _, name := range unused(s.Controllers.Node, map[string]bool{"hostEndpoint": true, "reconcilerPeriod": true}) {
			out = append(out, "controllers.node."+name)
		}
	}
	slices.Sort(out)
	return out
}
