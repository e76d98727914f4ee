package v3_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	if err := v3.AddToScheme(s); err != nil {
		panic(err)
	}
	return s
}()

// kinds are all kinds of this package, without their lists.
func kinds() (out []string) {
	for kind := range scheme.KnownTypes(v3.GroupVersion) {
		if scheme.Recognizes(v3.GroupVersion.WithKind(kind + "List")) {
			out = append(out, kind)
		}
	}
	slices.Sort(out)
	return out
}

// read makes a typed object, with no schema between.
func read(t *testing.T, kind, text string) v3.Object {
	t.Helper()
	obj, err := scheme.New(v3.GroupVersion.WithKind(kind))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict([]byte(text), obj); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	obj.GetObjectKind().SetGroupVersionKind(v3.GroupVersion.WithKind(kind))
	return obj.(v3.Object)
}

// TestDefault: given becomes want; nothing else changes, and a second time changes nothing.
func TestDefault(t *testing.T) {
	const label = "metadata: {labels: {projectcalico.org/tier: default}}\n"
	rules := []struct{ given, types string }{
		{"", "[Ingress]"},
		{"ingress: [{action: Deny}]", "[Ingress]"},
		{"egress: [{action: Deny}]", "[Egress]"},
		{"ingress: [{action: Deny}], egress: [{action: Deny}]", "[Ingress, Egress]"},
		{"ingress: [], egress: []", "[Ingress]"},
		{"ingress: [{action: Deny}], types: []", "[Ingress]"},
	}
	cases := []struct{ kind, given, want string }{
		{"Tier", "spec: {}", "spec: {order: 1000000, defaultAction: Deny}"},
		{"Tier", "spec: {order: 0, defaultAction: Pass}", "spec: {order: 0, defaultAction: Pass}"},
		{"NetworkPolicy", "spec: {types: [Egress], ingress: [{action: Deny}]}", label + "spec: {tier: default, types: [Egress], ingress: [{action: Deny}]}"},
		{"NetworkPolicy", "metadata: {labels: {a: b, projectcalico.org/tier: other}}\nspec: {tier: t}",
			"metadata: {labels: {a: b, projectcalico.org/tier: t}}\nspec: {tier: t, types: [Ingress]}"},
		{"StagedNetworkPolicy", "spec: {stagedAction: Delete, types: [Ingress]}", label + "spec: {tier: default, stagedAction: Delete}"},
		{"StagedGlobalNetworkPolicy", "spec: {stagedAction: Delete, types: [Ingress]}", label + "spec: {tier: default, stagedAction: Delete}"},
		{"StagedNetworkPolicy", "spec: {stagedAction: Ignore}", label + "spec: {tier: default, stagedAction: Ignore, types: [Ingress]}"},
		{"StagedKubernetesNetworkPolicy", "spec: {}", "spec: {stagedAction: Set, policyTypes: [Ingress]}"},
		{"StagedKubernetesNetworkPolicy", "spec: {ingress: [{}]}", "spec: {stagedAction: Set, ingress: [{}], policyTypes: [Ingress]}"},
		{"StagedKubernetesNetworkPolicy", "spec: {egress: [{}]}", "spec: {stagedAction: Set, egress: [{}], policyTypes: [Ingress, Egress]}"},
		{"StagedKubernetesNetworkPolicy", "spec: {egress: [{}], policyTypes: [Egress]}", "spec: {stagedAction: Set, egress: [{}], policyTypes: [Egress]}"},
		{"StagedKubernetesNetworkPolicy", "spec: {stagedAction: Delete, policyTypes: [Egress]}", "spec: {stagedAction: Delete}"},
		{"GlobalNetworkSet", "spec: {}", "spec: {}"},
		{"NetworkSet", "spec: {}", "spec: {}"},
		{"HostEndpoint", "spec: {node: n}", "spec: {node: n}"},
		{"WorkloadEndpoint", "spec: {node: n}", "spec: {node: n}"},
		{"Profile", "spec: {egress: [{action: Allow}]}", "spec: {egress: [{action: Allow}]}"},
		{"FelixConfiguration", "spec: {}", "spec: {}"},
		{"KubeControllersConfiguration", "spec: {controllers: {node: {hostEndpoint: {}}}}", "spec: {controllers: {node: {hostEndpoint: {}}}}"},
		{"FelixConfiguration", "spec: {defaultEndpointToHostAction: ACCEPT, workloadSourceSpoofing: any, serviceLoopPrevention: '', logPrefix: '', nftablesFilterDenyAction: Nonsense}",
			"spec: {defaultEndpointToHostAction: Accept, workloadSourceSpoofing: Any, nftablesFilterDenyAction: Nonsense}"},
		{"FelixConfiguration", "spec: {failsafeInboundHostPorts: [], kubeNodePortRanges: [], logActionRateLimitBurst: 0, wireguardEnabled: true}",
			"spec: {failsafeInboundHostPorts: [], kubeNodePortRanges: [], logActionRateLimitBurst: 0, wireguardEnabled: true}"},
	}
	for _, kind := range []string{"NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy"} {
		staged := ""
		if strings.HasPrefix(kind, "Staged") {
			staged = "stagedAction: Set, "
		}
		for _, r := range rules {
			given, _, _ := strings.Cut(r.given, ", types")
			cases = append(cases, struct{ kind, given, want string }{kind, "spec: {" + r.given + "}",
				label + "spec: {tier: default, " + staged + "types: " + r.types + ", " + given + "}"})
		}
	}
	seen := map[string]bool{}
	for _, c := range cases {
		seen[c.kind] = true
		obj, want := read(t, c.kind, c.given), read(t, c.kind, c.want)
		v3.Default(obj)
		if diff := cmp.Diff(want, obj); diff != "" {
			t.Errorf("%s %s (-want +have):\n%s", c.kind, c.given, diff)
		}
		v3.Default(obj)
		if diff := cmp.Diff(want, obj); diff != "" {
			t.Errorf("%s %s, a second time (-want +have):\n%s", c.kind, c.given, diff)
		}
	}
	if have := slices.Sorted(maps.Keys(seen)); !slices.Equal(have, kinds()) {
		t.Errorf("cases of %v, kinds are %v", have, kinds())
	}
}

// A copy shares nothing with its original that Default could change.
func TestDefaultOfACopy(t *testing.T) {
	p := read(t, "NetworkPolicy", "metadata: {labels: {a: b}}\nspec: {types: []}").(*v3.NetworkPolicy)
	v3.Default(p.DeepCopy())
	if len(p.Labels) != 1 || p.Spec.Tier != "" || len(p.Spec.Types) > 0 {
		t.Errorf("%+v", p)
	}
}

// TestStagedKubernetesSpec: a staged Kubernetes policy says what the policy that it stages would say.
func TestStagedKubernetesSpec(t *testing.T) {
	const spec = `
podSelector: {matchLabels: {a: b}}
policyTypes: [Ingress, Egress]
ingress: [{ports: [{protocol: TCP, port: 80, endPort: 90}, {port: http}], from: [{podSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}, {}]
egress: [{ports: [{protocol: SCTP}], to: [{namespaceSelector: {matchLabels: {c: d}}}]}]
`
	staged := &v3.StagedKubernetesNetworkPolicySpec{}
	if err := yaml.UnmarshalStrict([]byte(spec), staged); err != nil {
		t.Fatal(err)
	}
	have := staged.NetworkPolicySpec()
	want := &networkingv1.NetworkPolicySpec{}
	if err := yaml.UnmarshalStrict([]byte(spec), want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*want, have); diff != "" {
		t.Error(diff)
	}
}
