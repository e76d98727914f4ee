package scenario

import (
	"slices"

	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// ruleFaults make of a rule one that admission refuses and that may be in a store all the same.
var ruleFaults = map[string]func(r *v3.Rule){
	"action":             func(r *v3.Rule) { r.Action = "Permit" },
	"ipVersion":          func(r *v3.Rule) { five := 5; r.IPVersion = &five },
	"protocol":           func(r *v3.Rule) { p := intstr.FromString("tcpp"); r.Protocol = &p },
	"notProtocol":        func(r *v3.Rule) { p := intstr.FromInt32(300); r.NotProtocol = &p },
	"icmp code alone":    func(r *v3.Rule) { code := 0; r.ICMP = &v3.ICMPFields{Code: &code} },
	"nets":               func(r *v3.Rule) { r.Source.Nets = append(r.Source.Nets, "10.0.0.0/33") },
	"notNets":            func(r *v3.Rule) { r.Destination.NotNets = append(r.Destination.NotNets, "nonsense") },
	"selector":           func(r *v3.Rule) { r.Source.Selector = "app = 'a'" },
	"notSelector":        func(r *v3.Rule) { r.Destination.NotSelector = "app ==" },
	"namespaceSelector":  func(r *v3.Rule) { r.Source.NamespaceSelector = "global() && has(app)" },
	"service accounts":   func(r *v3.Rule) { r.Source.ServiceAccounts = &v3.ServiceAccountMatch{Selector: "all ()"} },
	"ports reversed":     func(r *v3.Rule) { r.Destination.Ports = []intstr.IntOrString{intstr.FromString("100:90")} },
	"port zero":          func(r *v3.Rule) { r.Destination.NotPorts = []intstr.IntOrString{intstr.FromInt32(0)} },
	"port and no TCP":    func(r *v3.Rule) { r.Protocol, r.Source.Ports = nil, []intstr.IntOrString{intstr.FromInt32(80)} },
	"service of no name": func(r *v3.Rule) { r.Source.Services = &v3.ServiceMatch{Namespace: "ns1"} },
}

// policyFaults do it to whom a policy governs.
var policyFaults = map[string]func(s *v3.PolicySpec){
	"selector":               func(s *v3.PolicySpec) { s.Selector = "app = 'a'" },
	"global":                 func(s *v3.PolicySpec) { s.Selector = "global()" },
	"serviceAccountSelector": func(s *v3.PolicySpec) { s.ServiceAccountSelector = "!" },
}

// Broken is a cluster in which one policy is not understood, and what that cluster has to mean: an Allow or a Log rule that
// is not understood matches nothing, any other denies everything at its place, and a policy of which it is not understood
// whom it governs governs nobody (design §5). Without a policy that has rules it gives nil.
func Broken(t *rapid.T) (fault string, broken, means []client.Object) {
	d := draw{t}
	objs := Cluster(t)
	var at []int
	for i, o := range objs {
		if s := specOf(o); s != nil && len(s.Ingress)+len(s.Egress) > 0 {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return "", nil, nil
	}
	i := pick(d, at)
	bad, good := objs[i].DeepCopyObject().(client.Object), objs[i].DeepCopyObject().(client.Object)
	broken, means = slices.Clone(objs), slices.Clone(objs)
	broken[i], means[i] = bad, good
	if d.upTo(4, "whole policy") == 0 {
		fault = pick(d, sorted(policyFaults))
		policyFaults[fault](specOf(bad))
		return fault, broken, slices.Delete(means, i, i+1)
	}
	fault = pick(d, sorted(ruleFaults))
	breakRule(d, fault, specOf(bad), specOf(good))
	return fault, broken, means
}

func breakRule(d draw, fault string, bad, good *v3.PolicySpec) {
	in := len(bad.Egress) == 0 || len(bad.Ingress) > 0 && d.flip("ingress")
	badRules, goodRules := bad.Egress, &good.Egress
	if in {
		badRules, goodRules = bad.Ingress, &good.Ingress
	}
	i := d.upTo(len(badRules)-1, "rule")
	ruleFaults[fault](&badRules[i])
	if a := badRules[i].Action; a == v3.Allow || a == v3.Log {
		*goodRules = slices.Delete(*goodRules, i, i+1)
		return
	}
	(*goodRules)[i] = v3.Rule{Action: v3.Deny}
}

// specOf an enforced policy; nil of all else.
func specOf(o client.Object) *v3.PolicySpec {
	switch o := o.(type) {
	case *v3.NetworkPolicy:
		return &o.Spec.PolicySpec
	case *v3.GlobalNetworkPolicy:
		return &o.Spec.PolicySpec
	}
	return nil
}

func sorted[V any](m map[string]V) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
