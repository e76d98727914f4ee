package main

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/test/scenario"
)

// attack is objects that a tenant with rights in his namespace (ns0), or a security team, may write. A request to the API server has
// 3 MB at most and an object in etcd 1.5 MB; size divides what there is of each.
type attack struct {
	name    string
	objects func(size int) []client.Object
	again   func(size int) client.Object // one of them, written again with a difference
}

// times makes so many.
func times[T any](n int, of func(i int) T) (out []T) {
	for i := range n {
		out = append(out, of(i))
	}
	return out
}

// with a policy that looks for what the other objects are.
func (a attack) with(o client.Object) attack {
	objects := a.objects
	a.objects = func(size int) []client.Object { return append(objects(size), o) }
	return a
}

// alone is an attack by one object, which is written again with one rule less.
func alone(name string, n int, of func(n int) client.Object) attack {
	return attack{name, func(size int) []client.Object { return []client.Object{of(n / size)} }, func(size int) client.Object { return of(n/size - 1) }}
}

// many is an attack by many objects, of which the first is written again as the one behind the last.
func many(name string, n int, of func(i, as int) client.Object) attack {
	return attack{name, func(size int) []client.Object { return times(n/size, func(i int) client.Object { return of(i, i) }) },
		func(size int) client.Object { return of(0, n/size) }}
}

var attacks = []attack{
	alone("knp: 10,000 rules, a port and a peer each", 10_000, func(n int) client.Object {
		return knp("hostile", times(n, func(i int) networkingv1.NetworkPolicyIngressRule {
			return rule(peers(i%100, 1, matching), ports(1+i, 1, 1))
		})...)
	}),
	alone("knp: 60,000 rules, a port each", 60_000, func(n int) client.Object {
		return knp("hostile", times(n, func(i int) networkingv1.NetworkPolicyIngressRule { return rule(nil, ports(1+i, 1, 1)) })...)
	}),
	alone("knp: 5,000 rules of the same 16 ports", 5_000, func(n int) client.Object {
		return knp("hostile", times(n, func(i int) networkingv1.NetworkPolicyIngressRule {
			return rule(peers(i%100, 1, matching), ports(1, 16, 2))
		})...)
	}),
	alone("knp: 10,000 ports × 10,000 peers", 10_000, func(n int) client.Object {
		return knp("hostile", rule(peers(0, n, matching), ports(1, n, 2)))
	}),
	alone("knp: 10,000 named ports × 1,000 peers", 10_000, func(n int) client.Object {
		return knp("hostile", rule(peers(0, n/10, matching), namedPorts(n)))
	}),
	alone("knp: 10,000 CIDRs × 1,000 exceptions", 10_000, func(n int) client.Object {
		return knp("hostile", rule(blocks(n, 10), nil))
	}),
	alone("knp: 1,000 selectors of every pod", 1_000, func(n int) client.Object { return knp("hostile", rule(peers(0, n, everywhere), nil)) }),
	alone("knp: 10,000 selectors of every pod", 10_000, func(n int) client.Object { return knp("hostile", rule(peers(0, n, everywhere), nil)) }),
	alone("knp: 2,000 selectors, a label each", 2_000, func(n int) client.Object { return knp("hostile", rule(peers(0, n, ownLabel), nil)) }),
	alone("knp: 10,000 selectors, a label each", 10_000, func(n int) client.Object { return knp("hostile", rule(peers(0, n, ownLabel), nil)) }),
	alone("knp: a selector of 10,000 clauses", 10_000, func(n int) client.Object {
		return knp("hostile", rule(peers(0, 1, func(int) networkingv1.NetworkPolicyPeer { return clauses(n) }), nil))
	}),
	alone("knp: in 50,000 values", 50_000, func(n int) client.Object {
		return knp("hostile", rule(peers(0, 1, func(int) networkingv1.NetworkPolicyPeer { return values(n) }), nil))
	}),
	many("10,000 knp that select one pod", 10_000, func(i, as int) client.Object {
		return knp(fmt.Sprintf("hostile-%d", i), rule(peers(as%100, 1, matching), ports(1+as, 1, 1)))
	}),
	many("10,000 knp of 16 ports, all on every pod", 10_000, func(i, as int) client.Object {
		return knp(fmt.Sprintf("hostile-%d", i), rule(nil, ports(1+as, 16, 2)))
	}),
	alone("np: 1,024 rules of 256 networks and 50 ports", 1_024, func(n int) client.Object { return calicoPolicy(n, wide) }),
	alone("np: 1,024 rules of 1,024 nested parentheses", 1_024, func(n int) client.Object { return calicoPolicy(n, nested) }),
	alone("np: 1,024 rules of 100 clauses", 1_024, func(n int) client.Object { return calicoPolicy(n, chained) }),
	alone("np: 1,024 rules in every way at once", 1_024, func(n int) client.Object { return calicoPolicy(n, everyWay) }),
	many("gns: 1,000,000 CIDRs in 40 sets", 40, func(i, as int) client.Object {
		return networkSet(i, as, 25_000, func(n int) string {
			return fmt.Sprintf("%d.%d.%d.%d/31", 20+n>>22, n>>14&255, n>>6&255, n<<2&255)
		})
	}),
	many("gns: 1,000,000 overlapping CIDRs in 40 sets", 40, func(i, as int) client.Object {
		return networkSet(i, as, 25_000, func(n int) string {
			return fmt.Sprintf("%d.%d.%d.0/%d", 20+n>>15&63, n>>7&255, n<<1&255, 8+n%24)
		})
	}),
	many("gns: 1,000,000 addresses in 40 sets", 40, func(i, as int) client.Object {
		return networkSet(i, as, 25_000, func(n int) string {
			return fmt.Sprintf("%d.%d.%d.%d", 20+n>>22, n>>14&255, n>>6&255, n<<2&255)
		})
	}),
	alone("pod: 10,000 named ports × 10,000 annotated addresses", 10_000, func(n int) client.Object { return portly(n, n) }).
		with(knp("named", rule(nil, namedPorts(10_000)))),
	alone("pod: 2,000 named ports × 50 annotated addresses", 2_000, func(n int) client.Object { return portly(n, 50) }).
		with(knp("named", rule(nil, namedPorts(10_000)))),
	alone("pod: 20,000 labels", 20_000, func(n int) client.Object { return labelled(n) }),
	many("10 slices of 1,000 endpoints × 100 ports", 10, func(i, as int) client.Object { return slice(i, as, 1_000, 100) }).with(ofService),
	many("100 slices of 1,000 endpoints × 100 ports", 100, func(i, as int) client.Object { return slice(i, as, 1_000, 100) }).with(ofService),
	many("10 slices of 1,000 endpoints × 10,000 ports", 10, func(i, as int) client.Object { return slice(i, as, 1_000, 10_000) }).with(ofService),
	many("1,000 gnp whose names differ at the end", 1_000, func(i, as int) client.Object {
		o := gnp(strings.Repeat("a", 240) + fmt.Sprintf("-%d", i))
		o.Spec.Ingress = []v3.Rule{{Action: v3.Deny, Source: v3.EntityRule{Nets: []string{fmt.Sprintf("192.0.2.%d/32", as%256)}}}}
		return o
	}),
}

// knp is the tenant's policy of all his pods.
func knp(name string, rules ...networkingv1.NetworkPolicyIngressRule) client.Object {
	o := &networkingv1.NetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}}
	o.Namespace, o.Name = "ns0", name
	o.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	o.Spec.Ingress = rules
	return o
}

func rule(from []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) networkingv1.NetworkPolicyIngressRule {
	return networkingv1.NetworkPolicyIngressRule{From: from, Ports: ports}
}

func peers(from, n int, of func(i int) networkingv1.NetworkPolicyPeer) []networkingv1.NetworkPolicyPeer {
	return times(n, func(i int) networkingv1.NetworkPolicyPeer { return of(from + i) })
}

func ports(from, n, step int) []networkingv1.NetworkPolicyPort {
	return times(n, func(i int) networkingv1.NetworkPolicyPort {
		p := intstr.FromInt32(int32(1 + (from+i*step)%65535))
		return networkingv1.NetworkPolicyPort{Port: &p}
	})
}

func namedPorts(n int) []networkingv1.NetworkPolicyPort {
	return times(n, func(i int) networkingv1.NetworkPolicyPort {
		p := intstr.FromString(fmt.Sprintf("p%d", i))
		return networkingv1.NetworkPolicyPort{Port: &p}
	})
}

func blocks(n, except int) []networkingv1.NetworkPolicyPeer {
	return peers(0, n/10, func(i int) networkingv1.NetworkPolicyPeer {
		b := &networkingv1.IPBlock{CIDR: "10.0.0.0/8"}
		for e := range except {
			b.Except = append(b.Except, fmt.Sprintf("10.%d.%d.%d/32", i>>8, i&255, e<<1))
		}
		return networkingv1.NetworkPolicyPeer{IPBlock: b}
	})
}

func matching(i int) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprintf("a%d", i)}}}
}

func expressed(e ...metav1.LabelSelectorRequirement) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{}, PodSelector: &metav1.LabelSelector{MatchExpressions: e}}
}

// everywhere selects, all but for nobody, every pod of the cluster.
func everywhere(i int) networkingv1.NetworkPolicyPeer {
	return expressed(metav1.LabelSelectorRequirement{Key: "x", Operator: metav1.LabelSelectorOpNotIn, Values: []string{fmt.Sprint(i)}})
}

func ownLabel(i int) networkingv1.NetworkPolicyPeer {
	return expressed(metav1.LabelSelectorRequirement{Key: fmt.Sprintf("l%d", i), Operator: metav1.LabelSelectorOpIn, Values: []string{"x"}})
}

func clauses(n int) networkingv1.NetworkPolicyPeer {
	return expressed(times(n, func(i int) metav1.LabelSelectorRequirement {
		return metav1.LabelSelectorRequirement{Key: fmt.Sprintf("l%d", i), Operator: metav1.LabelSelectorOpDoesNotExist}
	})...)
}

func values(n int) networkingv1.NetworkPolicyPeer {
	return expressed(metav1.LabelSelectorRequirement{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: times(n, func(i int) string { return fmt.Sprintf("a%d", i) })})
}

func calicoPolicy(n int, of func(i int) v3.Rule) client.Object {
	o := &v3.NetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "NetworkPolicy"}}
	o.Namespace, o.Name = "ns0", "hostile"
	o.Spec.Ingress = times(n, of)
	v3.Default(o)
	return o
}

func gnp(name string) *v3.GlobalNetworkPolicy {
	o := &v3.GlobalNetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "GlobalNetworkPolicy"}}
	o.Name, o.Spec.Selector, o.Spec.Types = name, "group == 'g3'", []v3.PolicyType{v3.PolicyTypeIngress}
	return o
}

// ofService lets the tenant's pods reach his service.
var ofService = func() client.Object {
	o := &v3.NetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "NetworkPolicy"}}
	o.Namespace, o.Name = "ns0", "of-service"
	o.Spec.Egress = []v3.Rule{{Action: v3.Allow, Destination: v3.EntityRule{Services: &v3.ServiceMatch{Name: "hostile"}}}}
	v3.Default(o)
	return o
}()

func wide(i int) v3.Rule {
	tcp := intstr.FromString("TCP")
	r := v3.Rule{Action: v3.Allow, Protocol: &tcp}
	for j := range 256 {
		if len(r.Source.Nets) < 60 { // an object of 1.5 MB has no room for more in each rule
			r.Source.Nets = append(r.Source.Nets, fmt.Sprintf("%d.%d.%d.0/25", 20+i>>8, i&255, j))
		}
	}
	for j := range 50 {
		r.Destination.Ports = append(r.Destination.Ports, intstr.FromInt32(int32(1+i+2*j)))
	}
	return r
}

func nested(i int) v3.Rule {
	own := fmt.Sprintf("has(a%d)", i)
	return v3.Rule{Action: v3.Allow, Source: v3.EntityRule{Selector: strings.Repeat("(", 500) + own + strings.Repeat(")", 500)}}
}

func chained(i int) v3.Rule {
	return v3.Rule{Action: v3.Allow, Source: v3.EntityRule{NamespaceSelector: "all()", Selector: fmt.Sprintf("!has(l%d)", i) + strings.Repeat("&&!has(l)", 100)}}
}

// everyWay has as many alternatives as a rule can: both families, ports that are not some, named ports at both ends, addresses and networks.
func everyWay(i int) v3.Rule {
	name := func(n int) []intstr.IntOrString {
		return []intstr.IntOrString{intstr.FromString(fmt.Sprintf("p%d", n)), intstr.FromInt32(int32(n))}
	}
	tcp := intstr.FromString("TCP")
	return v3.Rule{Action: v3.Log, Protocol: &tcp,
		Source:      v3.EntityRule{NamespaceSelector: "all()", Selector: fmt.Sprintf("has(a%d)", i), Ports: name(1 + i)},
		Destination: v3.EntityRule{NamespaceSelector: "all()", Selector: fmt.Sprintf("has(b%d)", i), Ports: name(2 + i)}}
}

// networkSet i with so many networks, of those by number from n times as on; the first one is with the policy that looks for them.
func networkSet(i, as, n int, net func(int) string) client.Object {
	o := &v3.GlobalNetworkSet{TypeMeta: metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "GlobalNetworkSet"}}
	o.Name, o.Labels = fmt.Sprintf("hostile-%d", i), map[string]string{"app": "a3"} // which the victim's policies look for
	o.Spec.Nets = times(n, func(j int) string { return net(as*n + j) })
	return o
}

func portly(n, addrs int) client.Object {
	o := scenario.Pod("ns0", "hostile", "n7", []string{"10.250.0.1"}, map[string]string{"app": "a3"})
	o.Status.PodIP, o.Status.PodIPs = "", nil
	o.Annotations = map[string]string{"cni.projectcalico.org/podIPs": strings.Join(times(addrs, func(i int) string { return fmt.Sprintf("10.%d.%d.%d", 100+i>>16, i>>8&255, i&255) }), ",")}
	o.Spec.Containers[0].Ports = times(n, func(i int) corev1.ContainerPort {
		return corev1.ContainerPort{Name: fmt.Sprintf("p%d", i), ContainerPort: int32(1 + i)}
	})
	return o
}

func labelled(n int) client.Object {
	o := scenario.Pod("ns0", "hostile", "n0", []string{"10.250.0.1"}, map[string]string{"app": "a3"})
	for i := range n {
		o.Labels[fmt.Sprintf("l%d", i)] = strings.Repeat("x", 50)
	}
	return o
}

func slice(i, as, endpoints, ports int) client.Object {
	o := &discoveryv1.EndpointSlice{TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}, AddressType: discoveryv1.AddressTypeIPv4}
	o.Namespace, o.Name, o.Labels = "ns0", fmt.Sprintf("hostile-%d", i), map[string]string{discoveryv1.LabelServiceName: "hostile"}
	o.Endpoints = times(endpoints, func(j int) discoveryv1.Endpoint {
		n := as*endpoints + j
		return discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 100+n>>16, n>>8&255, n&255)}}
	})
	o.Ports = times(ports, func(j int) discoveryv1.EndpointPort {
		p, name := int32(1+j), fmt.Sprintf("p%d", j)
		return discoveryv1.EndpointPort{Name: &name, Port: &p}
	})
	return o
}
