package v3

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Ref names one object. Kind is the object's kind, except where two API groups use one kind name:
// networking.k8s.io NetworkPolicy is KubernetesNetworkPolicy and policy.networking.k8s.io
// ClusterNetworkPolicy is KubernetesClusterNetworkPolicy, Calico's own names for them (contract §4.8).
// Namespace is empty for cluster-scoped kinds.
// +kubebuilder:object:generate=false
type Ref struct{ Kind, Namespace, Name string }

// The kinds that Tierwall names differently from their API group.
const (
	KindKubernetesNetworkPolicy        = "KubernetesNetworkPolicy"
	KindKubernetesClusterNetworkPolicy = "KubernetesClusterNetworkPolicy"
)

// Object is what every API object is: metadata and a type.
// +kubebuilder:object:generate=false
type Object interface {
	metav1.Object
	runtime.Object
}

// KindOf gives the kind by which a Ref names objects of gvk.
func KindOf(gvk schema.GroupVersionKind) string {
	switch gvk.GroupKind() {
	case schema.GroupKind{Group: "networking.k8s.io", Kind: "NetworkPolicy"}:
		return KindKubernetesNetworkPolicy
	case schema.GroupKind{Group: "policy.networking.k8s.io", Kind: "ClusterNetworkPolicy"}:
		return KindKubernetesClusterNetworkPolicy
	}
	return gvk.Kind
}

// RefOf names obj, which must carry its apiVersion and kind.
func RefOf(obj Object) Ref {
	return Ref{Kind: KindOf(obj.GetObjectKind().GroupVersionKind()), Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

// String is Kind/namespace/name, or Kind/name for a cluster-scoped object.
func (r Ref) String() string {
	switch {
	case r.Namespace != "":
		return r.Kind + "/" + r.Namespace + "/" + r.Name
	case r.Name != "":
		return r.Kind + "/" + r.Name
	}
	return r.Kind // all of it
}

// Compare orders references by kind, namespace and name.
func (r Ref) Compare(o Ref) int {
	if c := strings.Compare(r.Kind, o.Kind); c != 0 {
		return c
	}
	if c := strings.Compare(r.Namespace, o.Namespace); c != 0 {
		return c
	}
	return strings.Compare(r.Name, o.Name)
}
