package ruleset_test

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	policyapi "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
	"github.com/tierwall/tierwall/test/scenario"
)

// decoded is each kind that an Index takes, empty.
var decoded = []client.Object{&v3.Tier{}, &v3.NetworkPolicy{}, &v3.GlobalNetworkPolicy{}, &v3.StagedNetworkPolicy{}, &v3.StagedGlobalNetworkPolicy{},
	&v3.StagedKubernetesNetworkPolicy{}, &networkingv1.NetworkPolicy{}, &policyapi.ClusterNetworkPolicy{}, &v3.Profile{}, &corev1.Namespace{},
	&corev1.ServiceAccount{}, &corev1.Pod{}, &v3.WorkloadEndpoint{}, &v3.HostEndpoint{}, &v3.GlobalNetworkSet{}, &v3.NetworkSet{}, &corev1.Node{},
	&v3.FelixConfiguration{}, &discoveryv1.EndpointSlice{}}

// FuzzIndex tells an Index what an API server could: any object that can be decoded, whatever it says. It is planned and compiled, a
// rule that was refused allows nothing, and when the object goes nothing of it stays.
func FuzzIndex(f *testing.F) {
	scenarios, err := scenario.Load("../../test/scenarios")
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range scenarios {
		for _, o := range s.Objects {
			for kind, empty := range decoded {
				if reflect.TypeOf(o) == reflect.TypeOf(empty) {
					text, err := json.Marshal(o)
					if err != nil {
						f.Fatal(err)
					}
					f.Add(uint8(kind), text)
				}
			}
		}
	}
	around := scenario.Big(20, 4)
	f.Fuzz(func(t *testing.T, kind uint8, text []byte) {
		o := reflect.New(reflect.TypeOf(decoded[int(kind)%len(decoded)]).Elem()).Interface().(client.Object)
		if json.Unmarshal(text, o) != nil {
			return
		}
		x := indexOf("n1", policy.Options{}, around)
		compiler := ruleset.NewCompiler(ruleset.Options{})
		before := x.Plan().String()
		table, _ := compiler.Compile(x.Plan())
		without := table.String()
		refused := x.Set(o)
		plan := x.Plan()
		table, _ = compiler.Compile(plan)
		_ = table.String()
		allowsNothing(t, plan, o, refused)
		if ref, ok := refOf(x, o); ok && !has(around, o) {
			x.Delete(ref)
			if after := x.Plan().String(); after != before {
				t.Fatalf("the plan was and is without the object\n%s\n%s", before, after)
			}
			if table, _ = compiler.Compile(x.Plan()); table.String() != without {
				t.Fatal("the table is another than it was without the object")
			}
		}
	})
}

// refOf an object whose kind the Index takes from its Go type.
func refOf(_ *policy.Index, o client.Object) (v3.Ref, bool) {
	kind := reflect.TypeOf(o).Elem().Name()
	switch o.(type) {
	case *networkingv1.NetworkPolicy:
		kind = v3.KindKubernetesNetworkPolicy
	case *policyapi.ClusterNetworkPolicy:
		kind = v3.KindKubernetesClusterNetworkPolicy
	}
	return v3.Ref{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}, true
}

func has(all []client.Object, o client.Object) bool {
	for _, other := range all {
		if reflect.TypeOf(o) == reflect.TypeOf(other) && o.GetName() == other.GetName() && o.GetNamespace() == other.GetNamespace() {
			return true
		}
	}
	return false
}

var ruleAt = regexp.MustCompile(`spec\.(ingress|egress)\[(\d+)\]`)

// allowsNothing: no rule of our own kinds that the error names is an Allow in the plan. (Of Kubernetes' rules each peer is one.)
func allowsNothing(t *testing.T, plan *policy.Plan, o client.Object, refused error) {
	switch o.(type) {
	case *v3.NetworkPolicy, *v3.GlobalNetworkPolicy:
	default:
		return
	}
	if refused == nil || len(policy.Notices(refused)) > 0 {
		return
	}
	ref, _ := refOf(nil, o)
	p := plan.Policy(ref)
	if p == nil {
		return
	}
	for _, found := range ruleAt.FindAllStringSubmatch(refused.Error(), -1) {
		rules, index := p.Ingress, 0
		if found[1] == "egress" {
			rules = p.Egress
		}
		index, _ = strconv.Atoi(found[2])
		for _, r := range rules {
			if r.Index == index && r.Action == policy.Allow {
				t.Fatalf("rule %d allows, though %v", index, refused)
			}
		}
	}
}
