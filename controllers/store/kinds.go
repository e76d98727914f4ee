package store

import (
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	policyapi "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Kind is one kind of object that a store holds.
type Kind struct {
	Kind       string // as a Ref names it
	GVK        schema.GroupVersionKind
	Singular   string
	Plural     string
	Aliases    []string // other names that users type: calicoctl's (contract §6.6) and kubectl's
	Namespaced bool
}

// Kinds are all that a store holds. A name that Calico and Kubernetes both use is Calico's, as it is for calicoctl.
func Kinds() []Kind { return kinds }

var kinds = []Kind{
	calico("Tier", "tiers", false),
	calico("NetworkPolicy", "networkpolicies", true, "np", "pol", "pols", "policy", "policies", "cnp", "caliconetworkpolicy"),
	calico("GlobalNetworkPolicy", "globalnetworkpolicies", false, "gnp", "gnps", "cgnp"),
	calico("StagedNetworkPolicy", "stagednetworkpolicies", true, "snp", "snps", "spol", "spols", "stagedpolicy", "stagedpolicies", "scnp"),
	calico("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies", false, "sgnp", "sgnps"),
	calico("StagedKubernetesNetworkPolicy", "stagedkubernetesnetworkpolicies", true, "sknp", "sknps", "skpol", "skpols"),
	calico("GlobalNetworkSet", "globalnetworksets", false, "gns", "gnetset", "gnetsets"),
	calico("NetworkSet", "networksets", true, "netset", "netsets"),
	calico("HostEndpoint", "hostendpoints", false, "hep", "heps"),
	calico("WorkloadEndpoint", "workloadendpoints", true, "wep", "weps"),
	calico("Profile", "profiles", false, "pro", "pros"),
	calico("FelixConfiguration", "felixconfigurations", false, "felixconfig", "felixconfigs"),
	calico(kindControllers, "kubecontrollersconfigurations", false, "kcc", "kccs", "kcconfig", "kcconfigs",
		"kubecontrollersconfig", "kubecontrollersconfigs"),
	{"NodeReport", v1alpha1.GroupVersion.WithKind("NodeReport"), "nodereport", "nodereports", []string{"nr", "nodereports.tierwall.io", "nodereport.tierwall.io"}, false},
	kubernetes(v3.KindKubernetesNetworkPolicy, networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy"), "kubernetesnetworkpolicies", true,
		"knp", "netpol", "netpols", "networkpolicies.networking.k8s.io", "networkpolicy.networking.k8s.io"),
	kubernetes(v3.KindKubernetesClusterNetworkPolicy, policyapi.SchemeGroupVersion.WithKind("ClusterNetworkPolicy"), "kubernetesclusternetworkpolicies", false,
		"kcnp", "clusternetworkpolicy", "clusternetworkpolicies", "clusternetworkpolicies.policy.networking.k8s.io"),
	kubernetes("Namespace", corev1.SchemeGroupVersion.WithKind("Namespace"), "namespaces", false, "ns"),
	kubernetes("Pod", corev1.SchemeGroupVersion.WithKind("Pod"), "pods", true, "po"),
	kubernetes("ServiceAccount", corev1.SchemeGroupVersion.WithKind("ServiceAccount"), "serviceaccounts", true, "sa"),
	kubernetes("Service", corev1.SchemeGroupVersion.WithKind("Service"), "services", true, "svc"),
	kubernetes("EndpointSlice", discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), "endpointslices", true),
	kubernetes("Node", corev1.SchemeGroupVersion.WithKind("Node"), "nodes", false, "no"),
}

// kindControllers says what one process does for a whole cluster. No agent asks for it, and its status is none of conditions.
const kindControllers = "KubeControllersConfiguration"

func calico(kind, plural string, namespaced bool, aliases ...string) Kind {
	k := Kind{kind, v3.GroupVersion.WithKind(kind), strings.ToLower(kind), plural, aliases, namespaced}
	k.Aliases = append(k.Aliases, plural+"."+v3.GroupVersion.Group, k.Singular+"."+v3.GroupVersion.Group)
	return k
}

func kubernetes(kind string, gvk schema.GroupVersionKind, plural string, namespaced bool, aliases ...string) Kind {
	return Kind{kind, gvk, strings.ToLower(kind), plural, aliases, namespaced}
}

// Calico tells whether the kind is one of projectcalico.org.
func (k *Kind) Calico() bool { return k.GVK.Group == v3.GroupVersion.Group }

// ownStatus tells whether the status of the kind's objects is written by us alone; that of others is what somebody says of them.
func (k *Kind) ownStatus() bool { return k.Calico() || k.Kind == v3.KindKubernetesClusterNetworkPolicy }

// Stripped tells whether Watch in a cluster tells only of such an object what policy asks of it.
func (k *Kind) Stripped() bool { return stripped[k.Kind] }

// HasCRD tells whether a CRD of ours says what an object of the kind may be.
func (k *Kind) HasCRD() bool { return k.Calico() || k.GVK.Group == v1alpha1.GroupVersion.Group }

// Lookup finds a kind by any name that users type, in any case.
func Lookup(name string) (Kind, error) {
	low := strings.ToLower(name)
	for _, k := range kinds {
		if low == k.Singular || low == k.Plural || slices.Contains(k.Aliases, low) {
			return k, nil
		}
	}
	if err := foreign(name); err != nil {
		return Kind{}, fmt.Errorf("resource type '%s' is not supported: %w", name, err)
	}
	var known, all []string
	for _, k := range kinds {
		known, all = append(known, k.Singular), append(append(all, k.Singular, k.Plural), k.Aliases...)
	}
	if n := nearest(low, all); n != "" {
		return Kind{}, fmt.Errorf("resource type '%s' is not supported: unknown kind %q: did you mean %s?", name, name, n)
	}
	return Kind{}, fmt.Errorf("resource type '%s' is not supported: unknown kind %q: expected one of %s", name, name, strings.Join(known, ", "))
}

// kindOf finds the kind of an object as its file says, and what is wrong when there is none.
func kindOf(apiVersion, kind string) (*Kind, error) {
	var versions, names []string
	for i := range kinds {
		k := &kinds[i]
		if k.GVK.Kind == kind {
			if k.GVK.GroupVersion().String() == apiVersion {
				return k, nil
			}
			versions = append(versions, k.GVK.GroupVersion().String())
		}
		names = append(names, k.GVK.Kind)
	}
	if err := foreignNode(apiVersion, kind); err != nil {
		return nil, err
	}
	if len(versions) > 0 {
		return nil, fmt.Errorf("unknown apiVersion %q of kind %s: unknown resource type (%s) and/or version (%s): expected %s", apiVersion, kind, kind, apiVersion,
			strings.Join(versions, " or "))
	}
	if err := foreign(kind); err != nil {
		return nil, err
	}
	unknown := fmt.Sprintf("unknown kind %q: unknown resource type (%s) and/or version (%s)", kind, kind, apiVersion)
	if n := nearest(kind, names); n != "" {
		return nil, fmt.Errorf("%s: did you mean %s?", unknown, n)
	}
	slices.Sort(names)
	return nil, fmt.Errorf("%s: expected one of %s", unknown, strings.Join(slices.Compact(names), ", "))
}

// refKind is the Kind that a Ref names, or nil.
func refKind(kind string) *Kind {
	for i := range kinds {
		if kinds[i].Kind == kind {
			return &kinds[i]
		}
	}
	return nil
}

// Scheme knows the Go types of all kinds, and of what calls a cluster's admission.
var Scheme = newScheme()

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v3.AddToScheme, v1alpha1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme,
		discoveryv1.AddToScheme, policyapi.Install, admissionregistrationv1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err) // two Go types for one kind: the program itself is wrong
		}
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s
}

// empty makes an object of the kind, with its apiVersion and kind.
func (k *Kind) empty() (client.Object, error) {
	o, err := Scheme.New(k.GVK)
	if err != nil {
		return nil, err
	}
	obj, ok := o.(client.Object)
	if !ok {
		return nil, fmt.Errorf("%s is no object", k.GVK)
	}
	obj.GetObjectKind().SetGroupVersionKind(k.GVK)
	return obj, nil
}
