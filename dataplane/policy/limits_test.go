package policy_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/scenario"
)

func many[T any](n int, of func(int) T) (out []T) {
	for i := range n {
		out = append(out, of(i))
	}
	return out
}

// large is a policy of Kubernetes' with so many rules.
func large(n int, of func(int) networkingv1.NetworkPolicyIngressRule) client.Object {
	o := &networkingv1.NetworkPolicy{}
	o.Namespace, o.Name = "ns", "large"
	o.Spec.Ingress = many(n, of)
	return o
}

func aPort(i int) networkingv1.NetworkPolicyIngressRule {
	p := intstr.FromInt32(int32(1 + i))
	return networkingv1.NetworkPolicyIngressRule{Ports: []networkingv1.NetworkPolicyPort{{Port: &p}}}
}

func aPeer(clauses int) func(int) networkingv1.NetworkPolicyIngressRule {
	return func(i int) networkingv1.NetworkPolicyIngressRule {
		return networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{
			MatchExpressions: many(clauses, func(j int) metav1.LabelSelectorRequirement {
				return metav1.LabelSelectorRequirement{Key: fmt.Sprintf("l%d-%d", i, j), Operator: metav1.LabelSelectorOpExists}
			})}}}}
	}
}

// A policy that asks for more than the limits guards what it selects, lets nothing through, and says so; one that asks for as much
// is in force as written.
func TestPoliciesHaveLimits(t *testing.T) {
	// each selector asks for the orchestrator and the namespace too, and so does the subject
	const own, most = 14, policy.MaxClauses / 16
	for _, c := range []struct {
		name    string
		fits    client.Object
		exceeds client.Object
		says    string
	}{
		{"rules", large(policy.MaxRules, aPort), large(policy.MaxRules+1, aPort), "20001 rules in one direction, one for each peer and protocol, are more than 20000"},
		{"selectors", large(policy.MaxSelectors, aPeer(1)), large(policy.MaxSelectors+1, aPeer(1)), "2049 different selectors and lists of named ports are more than 2048"},
		{"clauses", large(most-1, aPeer(own)), large(most, aPeer(own)), "16386 clauses in all selectors together are more than 16384"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := policy.NewIndex("n1", policy.Options{})
			must(t, x.Set(scenario.Namespace("ns", map[string]string{})))
			must(t, x.Set(scenario.Pod("ns", "p", "n1", []string{"10.0.0.1"}, map[string]string{})))
			must(t, x.Set(c.fits))
			ref := v3.Ref{Kind: v3.KindKubernetesNetworkPolicy, Namespace: "ns", Name: "large"}
			if p := x.Plan().Policy(ref); p == nil || len(p.Ingress) < most-1 || p.Ingress[0].Action != policy.Allow {
				t.Errorf("what fits is %.200v", p)
			}
			err := x.Set(c.exceeds)
			if err == nil || !strings.Contains(err.Error(), "KubernetesNetworkPolicy/ns/large: spec: "+c.says+": it denies everything") {
				t.Errorf("the error is %v", err)
			}
			plan := x.Plan()
			if p := plan.Policy(ref); p == nil || len(p.Ingress) != 1 || p.Ingress[0].Action != policy.Deny || p.Ingress[0].Families != policy.AnyFamily {
				t.Errorf("what exceeds is %.200v", p)
			}
			if len(plan.Sets) > 0 {
				t.Errorf("there are %d sets", len(plan.Sets))
			}
		})
	}
}

// What ports and addresses make together has limits.
func TestEndpointsHaveLimits(t *testing.T) {
	ported := func(addrs, ports int) client.Object {
		o := scenario.Pod("ns", "p", "n1", many(addrs, func(i int) string { return fmt.Sprintf("10.0.%d.%d", i>>8, i&255) }), map[string]string{})
		o.Spec.Containers[0].Ports = many(ports, func(i int) corev1.ContainerPort {
			return corev1.ContainerPort{Name: fmt.Sprintf("p%d", i), ContainerPort: int32(i + 1)}
		})
		return o
	}
	slice := func(name string, addrs, ports int) client.Object {
		o := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
		o.Namespace, o.Name, o.Labels = "ns", name, map[string]string{discoveryv1.LabelServiceName: "s"}
		o.Endpoints = many(addrs, func(i int) discoveryv1.Endpoint {
			return discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.0.%d.%d", i>>8, i&255)}}
		})
		o.Ports = many(ports, func(i int) discoveryv1.EndpointPort { p := int32(i + 1); return discoveryv1.EndpointPort{Port: &p} })
		return o
	}
	for name, c := range map[string]struct {
		object client.Object
		says   string // "": it is in force
	}{
		"as many addresses":              {ported(policy.MaxAddrs, 1), ""},
		"too many addresses":             {ported(policy.MaxAddrs+1, 1), "Pod/ns/p: addresses: 65 are more than 64: the endpoint is cut off"},
		"as many ports":                  {ported(2, policy.MaxPorts/2), ""},
		"too many ports":                 {ported(2, policy.MaxPorts/2+1), "Pod/ns/p: ports: 50001 named ports at each of 2 addresses are more than 100000 together"},
		"as many ports of a slice":       {slice("s-1", 1000, policy.MaxPorts/1000), ""},
		"too many ports of a slice":      {slice("s-1", 1000, policy.MaxPorts/1000+1), "EndpointSlice/ns/s-1: ports: 101 ports at each of 1000 addresses are more than 100000"},
		"addresses that nobody can read": {scenario.Pod("ns", "p", "n1", many(1000, func(i int) string { return fmt.Sprint("x", i) }), map[string]string{}), "and 980 more"},
	} {
		err := policy.NewIndex("n1", policy.Options{}).Set(c.object)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: want %q, got %.500v", name, c.says, err)
		}
	}
}

// A service of which each slice is in bounds can still have too much: no rule for its ports matches them then, which is said.
func TestServicesHaveLimits(t *testing.T) {
	x := policy.NewIndex("n1", policy.Options{})
	must(t, x.Set(scenario.Namespace("ns", map[string]string{})))
	must(t, x.Set(scenario.Pod("ns", "p", "n1", []string{"10.0.0.1"}, map[string]string{})))
	np := &v3.NetworkPolicy{}
	np.Namespace, np.Name = "ns", "to-service"
	np.Spec.Egress = []v3.Rule{{Action: v3.Allow, Destination: v3.EntityRule{Services: &v3.ServiceMatch{Name: "s"}}}}
	must(t, x.Set(np))
	set := func(i int) {
		o := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
		o.Namespace, o.Name, o.Labels = "ns", fmt.Sprint("s-", i), map[string]string{discoveryv1.LabelServiceName: "s"}
		o.Endpoints = many(1000, func(j int) discoveryv1.Endpoint {
			return discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.%d.%d.%d", i, j>>8, j&255)}}
		})
		o.Ports = many(100, func(j int) discoveryv1.EndpointPort { p := int32(j + 1); return discoveryv1.EndpointPort{Port: &p} })
		must(t, x.Set(o))
	}
	for i := range policy.MaxServicePorts / policy.MaxPorts {
		set(i)
	}
	if p := x.Plan(); p.Sets[0].Ports.Len() != policy.MaxServicePorts || len(p.Notes) > 0 {
		t.Errorf("what fits is %d ports, %v", p.Sets[0].Ports.Len(), p.Notes)
	}
	set(100)
	p := x.Plan()
	if p.Sets[0].Ports.Len() > 0 || len(p.Notes) != 1 || !strings.Contains(p.Notes[0].String(), "Service/ns/s has 1100000 ports") {
		t.Errorf("what exceeds is %d ports, %v", p.Sets[0].Ports.Len(), p.Notes)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
