package scenario

import (
	"reflect"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// specs are the types of which every field that bears on a verdict has a case in the corpus.
var specs = []any{
	v3.TierSpec{}, v3.PolicySpec{}, v3.GlobalNetworkPolicySpec{}, v3.Rule{}, v3.EntityRule{}, v3.ICMPFields{}, v3.ServiceMatch{},
	v3.ServiceAccountMatch{}, v3.HTTPMatch{}, v3.HTTPPath{}, v3.RuleMetadata{}, v3.HostEndpointSpec{}, v3.EndpointPort{}, v3.WorkloadEndpointSpec{}, v3.ProfileSpec{},
	v3.NetworkSetSpec{}, v3.StagedNetworkPolicySpec{}, v3.StagedGlobalNetworkPolicySpec{}, v3.StagedKubernetesNetworkPolicySpec{},
	networkingv1.NetworkPolicySpec{}, networkingv1.NetworkPolicyIngressRule{}, networkingv1.NetworkPolicyEgressRule{},
	networkingv1.NetworkPolicyPort{}, networkingv1.NetworkPolicyPeer{}, networkingv1.IPBlock{},
	metav1.LabelSelector{}, metav1.LabelSelectorRequirement{},
}

// without is why a field has no case.
var without = map[string]string{
	"GlobalNetworkPolicySpec.DoNotTrack":              "the stage does not exist yet",
	"GlobalNetworkPolicySpec.PreDNAT":                 "the stage does not exist yet",
	"GlobalNetworkPolicySpec.ApplyOnForward":          "the stage does not exist yet",
	"WorkloadEndpointSpec.AllowSpoofedSourcePrefixes": "sources are not checked yet (contract §1.9)",
}

func TestEveryFieldHasACase(t *testing.T) {
	all, err := Load("../scenarios")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, s := range all {
		for _, o := range s.Objects {
			fields(reflect.ValueOf(o), seen)
		}
	}
	known := map[string]bool{}
	for _, spec := range specs {
		typ := reflect.TypeOf(spec)
		for i := range typ.NumField() {
			name := typ.Name() + "." + typ.Field(i).Name
			known[name] = true
			switch why, excused := without[name]; {
			case seen[name] == 0 && !excused:
				t.Errorf("the corpus has no %s", name)
			case seen[name] > 0 && excused:
				t.Errorf("the corpus has %s, which is to have no case: %s", name, why)
			}
		}
	}
	for name := range without {
		if !known[name] {
			t.Errorf("%s is no field of these types", name)
		}
	}
}

// fields counts the fields that are set, at any depth.
func fields(v reflect.Value, seen map[string]int) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			fields(v.Elem(), seen)
		}
	case reflect.Slice:
		for i := range v.Len() {
			fields(v.Index(i), seen)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && !v.Field(i).IsZero() {
				seen[v.Type().Name()+"."+f.Name]++
				fields(v.Field(i), seen)
			}
		}
	}
}

// Every value of the small closed sets has a case.
func TestEveryValueHasACase(t *testing.T) {
	all, err := Load("../scenarios")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, s := range all {
		seen["to host "+toHost(s.Options)]++
		for _, f := range s.Flows {
			seen["verdict "+f.Verdict.String()]++
			if len(f.By) > 0 {
				seen["by "+f.By[0]+" "+f.Verdict.String()]++
				seen["tier "+f.By[1]]++
			}
		}
		for _, o := range s.Objects {
			values(reflect.ValueOf(o), seen)
		}
	}
	for _, what := range []string{
		"verdict Allow", "verdict Deny", "by ingress Allow", "by ingress Deny", "by egress Allow", "by egress Deny",
		"tier kube-admin", "tier default", "tier kube-baseline", "tier -",
		"to host not said", "to host Accept", "to host Return", // Drop is the default
		"LabelSelectorOperator In", "LabelSelectorOperator NotIn", "LabelSelectorOperator Exists", "LabelSelectorOperator DoesNotExist",
		"Action Allow", "Action Deny", "Action Pass", "Action Log", "PolicyType Ingress", "PolicyType Egress",
		"StagedAction Set", "StagedAction Delete", "StagedAction Learn", "StagedAction Ignore",
		"Protocol TCP", "Protocol UDP", "Protocol SCTP", "AddressType IPv4", "AddressType IPv6",
	} {
		if seen[what] == 0 {
			t.Errorf("the corpus has no %s", what)
		}
	}
}

// values counts the values of the named string types, at any depth.
func values(v reflect.Value, seen map[string]int) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			values(v.Elem(), seen)
		}
	case reflect.Slice:
		for i := range v.Len() {
			values(v.Index(i), seen)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				values(v.Field(i), seen)
			}
		}
	case reflect.String:
		seen[v.Type().Name()+" "+v.String()]++
	}
}

func toHost(o policy.Options) string {
	if o.Felix.DefaultEndpointToHostAction == nil {
		return "not said"
	}
	return *o.Felix.DefaultEndpointToHostAction
}
