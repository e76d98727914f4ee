package scenario

import (
	"fmt"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Big is a cluster for measuring: pods in twenty namespaces on nodes that have a hundred each, and policies, half of them of
// Kubernetes and half global. It is the same each time.
func Big(pods, policies int) (out []client.Object) {
	nodes := max(pods/100, 10)
	for n := range 20 {
		out = append(out, Namespace(fmt.Sprintf("ns%d", n), map[string]string{"team": fmt.Sprintf("t%d", n%5)}))
	}
	for i := range pods {
		addrs := []string{fmt.Sprintf("10.%d.%d.%d", i/65536, i/256%256, i%256), fmt.Sprintf("fd00::%x:%x", i/65535, i%65535+1)}
		out = append(out, Pod(fmt.Sprintf("ns%d", i%20), fmt.Sprintf("p%d", i), fmt.Sprintf("n%d", i*nodes/pods), addrs,
			map[string]string{"app": fmt.Sprintf("a%d", i%10), "tier": fmt.Sprintf("x%d", i%3)}))
	}
	for i := range policies / 2 {
		out = append(out, bigKubernetes(i), bigGlobal(i))
	}
	return out
}

func bigKubernetes(i int) client.Object {
	o := &networkingv1.NetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}}
	o.Namespace, o.Name = fmt.Sprintf("ns%d", i%20), fmt.Sprintf("k%d", i)
	port := intstr.FromInt32(int32(80 + i%5))
	o.Spec.PodSelector.MatchLabels = map[string]string{"app": fmt.Sprintf("a%d", i%10)}
	o.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
		From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": fmt.Sprintf("x%d", i%3)}}}},
		Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
	}}
	return o
}

func bigGlobal(i int) client.Object {
	o := &v3.GlobalNetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "GlobalNetworkPolicy"}}
	o.Name = fmt.Sprintf("g%d", i)
	order, tcp := float64(i*20), intstr.FromString("TCP")
	o.Spec.Order, o.Spec.Selector = &order, fmt.Sprintf("app == 'a%d'", i%10)
	o.Spec.Ingress = []v3.Rule{
		{Action: v3.Allow, Protocol: &tcp, Source: v3.EntityRule{Selector: fmt.Sprintf("tier == 'x%d'", i%3)},
			Destination: v3.EntityRule{Ports: []intstr.IntOrString{intstr.FromInt32(int32(80 + i%7)), intstr.FromString("1000:2000")}}},
		{Action: v3.Deny, Source: v3.EntityRule{Nets: []string{fmt.Sprintf("203.0.113.%d/32", i%256)}}},
	}
	o.Spec.Egress = []v3.Rule{{Action: v3.Allow, Destination: v3.EntityRule{NamespaceSelector: fmt.Sprintf("team == 't%d'", i%5)}}}
	v3.Default(o)
	return o
}
