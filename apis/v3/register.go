package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "projectcalico.org", Version: "v3"}

// AddToScheme registers every kind and its list.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&Tier{}, &TierList{},
		&NetworkPolicy{}, &NetworkPolicyList{},
		&GlobalNetworkPolicy{}, &GlobalNetworkPolicyList{},
		&StagedNetworkPolicy{}, &StagedNetworkPolicyList{},
		&StagedGlobalNetworkPolicy{}, &StagedGlobalNetworkPolicyList{},
		&StagedKubernetesNetworkPolicy{}, &StagedKubernetesNetworkPolicyList{},
		&GlobalNetworkSet{}, &GlobalNetworkSetList{},
		&NetworkSet{}, &NetworkSetList{},
		&HostEndpoint{}, &HostEndpointList{},
		&WorkloadEndpoint{}, &WorkloadEndpointList{},
		&Profile{}, &ProfileList{},
		&FelixConfiguration{}, &FelixConfigurationList{},
		&KubeControllersConfiguration{}, &KubeControllersConfigurationList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
