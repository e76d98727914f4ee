package scenario

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyapi "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// specs are the types of which every field that bears on a verdict has a case in the corpus.
var specs = []any{
	v3.TierSpec{}, v3.PolicySpec{}, v3.GlobalNetworkPolicySpec{}, v3.Rule{}, v3.EntityRule{}, v3.ICMPFields{}, v3.ServiceMatch{},
	v3.ServiceAccountMatch{}, v3.HTTPMatch{}, v3.HTTPPath{}, v3.RuleMetadata{}, v3.NetworkSetSpec{},
	v3.HostEndpointSpec{}, v3.EndpointPort{}, v3.WorkloadEndpointSpec{}, v3.ProfileSpec{}, v3.ProtoPort{},
	v3.StagedNetworkPolicySpec{}, v3.StagedGlobalNetworkPolicySpec{}, v3.StagedKubernetesNetworkPolicySpec{},
	networkingv1.NetworkPolicySpec{}, networkingv1.NetworkPolicyIngressRule{}, networkingv1.NetworkPolicyEgressRule{},
	networkingv1.NetworkPolicyPort{}, networkingv1.NetworkPolicyPeer{}, networkingv1.IPBlock{},
	metav1.LabelSelector{}, metav1.LabelSelectorRequirement{},
	policyapi.ClusterNetworkPolicySpec{}, policyapi.ClusterNetworkPolicySubject{}, policyapi.NamespacedPod{},
	policyapi.ClusterNetworkPolicyIngressRule{}, policyapi.ClusterNetworkPolicyEgressRule{},
	policyapi.ClusterNetworkPolicyIngressPeer{}, policyapi.ClusterNetworkPolicyEgressPeer{},
	policyapi.ClusterNetworkPolicyProtocol{}, policyapi.ClusterNetworkPolicyProtocolTCP{},
	policyapi.ClusterNetworkPolicyProtocolUDP{}, policyapi.ClusterNetworkPolicyProtocolSCTP{},
	policyapi.Port{}, policyapi.PortRange{},
}

func TestEveryFieldHasACase(t *testing.T) {
	seen := fieldsOfCorpus(t)
	for _, spec := range specs {
		typ := reflect.TypeOf(spec)
		for i := range typ.NumField() {
			if name := typ.Name() + "." + typ.Field(i).Name; seen[name] == 0 {
				t.Errorf("the corpus has no %s", name)
			}
		}
	}
}

func fieldsOfCorpus(t *testing.T) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for _, s := range corpus(t) {
		for _, o := range s.Objects {
			fields(reflect.ValueOf(o), seen)
		}
	}
	return seen
}

// Every setting that dataplane/policy reads has a case; the other fields of a FelixConfiguration bear on no verdict.
func TestEverySettingHasACase(t *testing.T) {
	seen, read := fieldsOfCorpus(t), settingsRead(t)
	if len(read) < 15 {
		t.Fatalf("dataplane/policy reads only %v", read)
	}
	for _, name := range read {
		if seen["FelixConfigurationSpec."+name] == 0 {
			t.Errorf("the corpus has no FelixConfigurationSpec.%s", name)
		}
	}
}

// settingsRead are the fields of FelixConfigurationSpec that settings.go names.
func settingsRead(t *testing.T) (names []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../dataplane/policy/settings.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	spec := reflect.TypeFor[v3.FelixConfigurationSpec]()
	for node := range ast.Preorder(file) {
		sel, ok := node.(*ast.SelectorExpr)
		if !ok || slices.Contains(names, sel.Sel.Name) {
			continue
		}
		if _, ok := spec.FieldByName(sel.Sel.Name); ok {
			names = append(names, sel.Sel.Name)
		}
	}
	return names
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
	seen := map[string]int{}
	for _, s := range corpus(t) {
		said(&s.Options.Felix, seen)
		for _, f := range s.Flows {
			expectations(&f, seen)
		}
		for _, o := range s.Objects {
			values(reflect.ValueOf(o), seen)
			if c, ok := o.(*v3.FelixConfiguration); ok {
				said(&c.Spec, seen)
			}
		}
	}
	for _, what := range []string{
		"verdict Allow", "verdict Deny", "by ingress Allow", "by ingress Deny", "by egress Allow", "by egress Deny",
		"staged Allow of Deny", "staged Deny of Allow", "staged Allow of Allow", "staged Deny of Deny",
		"tier kube-admin", "tier default", "tier kube-baseline", "tier -",
		"DefaultEndpointToHostAction not said", "DefaultEndpointToHostAction Drop",
		"DefaultEndpointToHostAction Accept", "DefaultEndpointToHostAction Return",
		"NFTablesFilterDenyAction Drop", "NFTablesFilterDenyAction Reject", "IptablesFilterDenyAction Reject",
		"WorkloadSourceSpoofing Any", "WorkloadSourceSpoofing Disabled",
		"FailsafeInboundHostPorts none", "FailsafeInboundHostPorts some",
		"FailsafeOutboundHostPorts none", "FailsafeOutboundHostPorts some",
		"AllowVXLANPacketsFromWorkloads true", "AllowIPIPPacketsFromWorkloads true", "DisableConntrackInvalidCheck true",
		"LabelSelectorOperator In", "LabelSelectorOperator NotIn",
		"LabelSelectorOperator Exists", "LabelSelectorOperator DoesNotExist",
		"Action Allow", "Action Deny", "Action Pass", "Action Log", "PolicyType Ingress", "PolicyType Egress",
		"StagedAction Set", "StagedAction Delete", "StagedAction Learn", "StagedAction Ignore",
		"Tier Admin", "Tier Baseline",
		"ClusterNetworkPolicyRuleAction Accept", "ClusterNetworkPolicyRuleAction Deny", "ClusterNetworkPolicyRuleAction Pass",
		"Protocol TCP", "Protocol UDP", "Protocol SCTP", "AddressType IPv4", "AddressType IPv6",
	} {
		if seen[what] == 0 {
			t.Errorf("the corpus has no %s", what)
		}
	}
}

func expectations(f *Flow, seen map[string]int) {
	seen["verdict "+f.Verdict.String()]++
	seen["staged "+f.Staged.String()+" of "+f.Verdict.String()]++
	if len(f.By) > 0 {
		seen["by "+f.By[0]+" "+f.Verdict.String()]++
		seen["tier "+f.By[1]]++
	}
}

// said counts what a FelixConfiguration says in its fields that have few values.
func said(s *v3.FelixConfigurationSpec, seen map[string]int) {
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		name, field := v.Type().Field(i).Name, reflect.Indirect(v.Field(i))
		switch {
		case v.Field(i).Kind() != reflect.Pointer:
		case v.Field(i).IsNil():
			seen[name+" not said"]++
		case field.Kind() == reflect.Slice && field.Len() == 0:
			seen[name+" none"]++
		case field.Kind() == reflect.Slice:
			seen[name+" some"]++
		default:
			seen[fmt.Sprintf("%s %v", name, field)]++
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
