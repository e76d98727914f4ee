package store

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// stripped are the kinds of which much is written that policy does not ask.
var stripped = map[string]bool{"Namespace": true, "Pod": true, "ServiceAccount": true, "EndpointSlice": true, "Node": true}

// strip leaves of an object what policy.Index asks of it, and what says when a pod began. Clusters have many of these kinds, and they are
// written again all the time.
func strip(obj client.Object) client.Object {
	switch o := obj.(type) {
	case *corev1.Pod:
		return stripPod(o)
	case *corev1.Namespace:
		return &corev1.Namespace{TypeMeta: o.TypeMeta, ObjectMeta: identity(&o.ObjectMeta)}
	case *corev1.ServiceAccount:
		return &corev1.ServiceAccount{TypeMeta: o.TypeMeta, ObjectMeta: identity(&o.ObjectMeta)}
	case *corev1.Node:
		return &corev1.Node{TypeMeta: o.TypeMeta, ObjectMeta: identity(&o.ObjectMeta), Status: corev1.NodeStatus{Addresses: o.Status.Addresses}}
	case *discoveryv1.EndpointSlice:
		out := &discoveryv1.EndpointSlice{TypeMeta: o.TypeMeta, ObjectMeta: identity(&o.ObjectMeta), AddressType: o.AddressType, Ports: o.Ports}
		for _, e := range o.Endpoints {
			out.Endpoints = append(out.Endpoints, discoveryv1.Endpoint{Addresses: e.Addresses})
		}
		return out
	}
	obj.SetManagedFields(nil)
	return obj
}

// podAnnotations are those by which an endpoint is judged.
var podAnnotations = []string{"cni.projectcalico.org/podIP", "cni.projectcalico.org/podIPs", "cni.projectcalico.org/allowedSourcePrefixes",
	"vpc.amazonaws.com/pod-ips"}

func stripPod(o *corev1.Pod) *corev1.Pod {
	out := &corev1.Pod{TypeMeta: o.TypeMeta, ObjectMeta: identity(&o.ObjectMeta)}
	for _, a := range podAnnotations {
		if v, ok := o.Annotations[a]; ok {
			metav1.SetMetaDataAnnotation(&out.ObjectMeta, a, v)
		}
	}
	out.CreationTimestamp, out.DeletionTimestamp = o.CreationTimestamp, o.DeletionTimestamp
	out.Spec = corev1.PodSpec{NodeName: o.Spec.NodeName, HostNetwork: o.Spec.HostNetwork, ServiceAccountName: o.Spec.ServiceAccountName,
		InitContainers: portsOf(o.Spec.InitContainers), Containers: portsOf(o.Spec.Containers)}
	out.Status = corev1.PodStatus{Phase: o.Status.Phase, PodIP: o.Status.PodIP, PodIPs: o.Status.PodIPs}
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.PodReadyToStartContainers && c.Status == corev1.ConditionTrue {
			out.Status.Conditions = []corev1.PodCondition{{Type: c.Type, Status: c.Status, LastTransitionTime: c.LastTransitionTime}}
		}
	}
	return out
}

func portsOf(containers []corev1.Container) (out []corev1.Container) {
	for _, c := range containers {
		if len(c.Ports) > 0 {
			out = append(out, corev1.Container{Ports: c.Ports})
		}
	}
	return out
}

func identity(m *metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, Labels: m.Labels}
}
