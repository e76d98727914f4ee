package convert_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"

	"github.com/tierwall/tierwall/apis/convert"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/test/scenario"
)

// What Calico keeps of an object gives the object again, of all kinds.
func TestStoredAndBack(t *testing.T) {
	keys := rapid.SampledFrom([]string{"team", "projectcalico.org/tier", "operator.tigera.io/x", "example.com/y"})
	values := rapid.MapOfN(keys, rapid.SampledFrom([]string{"", "a", "b"}), 0, 3)
	uid := rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)
	seen := map[string]bool{}
	rapid.Check(t, func(t *rapid.T) {
		for _, o := range scenario.Cluster(t) {
			if kind := o.GetObjectKind().GroupVersionKind(); kind.Group != v3.GroupVersion.Group || kind.Kind == "Profile" || kind.Kind == "WorkloadEndpoint" {
				continue
			}
			v3.Default(o)
			content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
			if err != nil {
				t.Fatal(err)
			}
			u := &unstructured.Unstructured{Object: content}
			unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
			delete(u.Object, "status")
			if l := values.Draw(t, "labels"); len(l) > 0 {
				u.SetLabels(l)
			}
			if a := values.Draw(t, "annotations"); len(a) > 0 {
				u.SetAnnotations(a)
			}
			if rapid.Bool().Draw(t, "uid") {
				unstructured.SetNestedField(u.Object, uid.Draw(t, "own"), "metadata", "uid")
				unstructured.SetNestedSlice(u.Object, []any{
					map[string]any{"apiVersion": v3.GroupVersion.String(), "kind": "Tier", "name": "t", "uid": uid.Draw(t, "owner")},
					map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": uid.Draw(t, "owner")},
				}, "metadata", "ownerReferences")
			}
			stored := u.DeepCopy()
			if lost := convert.ToStored(stored.Object); len(lost) > 0 {
				t.Fatalf("%s: %v", u.GetName(), lost)
			}
			back := stored.DeepCopy()
			if lost := convert.FromStored(back.Object); len(lost) > 0 {
				t.Fatalf("%s: %v", u.GetName(), lost)
			}
			if d := cmp.Diff(u.Object, back.Object); d != "" {
				t.Fatalf("as Calico keeps it: %v\n%s", stored.Object, d)
			}
			seen[u.GetKind()] = true
		}
	})
	for _, kind := range []string{"Tier", "NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy", "StagedKubernetesNetworkPolicy",
		"NetworkSet", "GlobalNetworkSet", "HostEndpoint", "FelixConfiguration"} {
		if !seen[kind] {
			t.Errorf("no %s was tried", kind)
		}
	}
}

// Calico's own tests have this pair.
func TestStoredUID(t *testing.T) {
	const v3s, stored = "82d3f87b-eae7-4283-a7dc-5053cf31eeec", "41cb1fde-57e7-42c1-a73b-0acaf38c7737"
	for _, pair := range [][2]string{{v3s, stored}, {stored, v3s}} {
		if got, err := convert.StoredUID(pair[0]); err != nil || got != pair[1] {
			t.Errorf("%s: %s %v", pair[0], got, err)
		}
	}
	if _, err := convert.StoredUID("u"); err == nil {
		t.Error("u is a uid")
	}
}

func TestFromStored(t *testing.T) {
	meta := func(name, text string) map[string]any {
		return map[string]any{"name": name, "annotations": map[string]any{"projectcalico.org/metadata": text}}
	}
	for name, c := range map[string]struct {
		kind       string
		meta, spec map[string]any
		want       map[string]any
	}{
		"of tier default":            {"GlobalNetworkPolicy", map[string]any{"name": "default.web"}, nil, map[string]any{"name": "web"}},
		"its prefix goes once":       {"GlobalNetworkPolicy", map[string]any{"name": "default.default.web"}, nil, map[string]any{"name": "default.web"}},
		"of another tier":            {"NetworkPolicy", map[string]any{"name": "security.web"}, map[string]any{"tier": "security"}, map[string]any{"name": "security.web"}},
		"named as if of default":     {"NetworkPolicy", map[string]any{"name": "default.web"}, map[string]any{"tier": "security"}, map[string]any{"name": "default.web"}},
		"without tiers":              {"NetworkSet", map[string]any{"name": "default.web"}, nil, map[string]any{"name": "default.web"}},
		"the annotation's name":      {"GlobalNetworkPolicy", meta("default.web", `{"name":"web"}`), nil, map[string]any{"name": "web"}},
		"which has the prefix":       {"GlobalNetworkPolicy", meta("default.web", `{"name":"default.web"}`), nil, map[string]any{"name": "default.web"}},
		"an annotation without name": {"GlobalNetworkPolicy", meta("default.web", `{"creationTimestamp":null}`), nil, map[string]any{"name": "web"}},
		"an annotation that is null": {"GlobalNetworkPolicy", meta("default.web", `null`), nil, map[string]any{"name": "web"}},
		"labels of both": {"HostEndpoint", map[string]any{"name": "h", "labels": map[string]any{"a": "1", "b": "1"},
			"annotations": map[string]any{"c": "1", "projectcalico.org/metadata": `{"labels":{"b":"2"},"annotations":{"d":"2"}}`}}, nil,
			map[string]any{"name": "h", "labels": map[string]any{"a": "1", "b": "2"}, "annotations": map[string]any{"c": "1", "d": "2"}}},
		"an owner from before uids were told apart": {"Tier", meta("t", `{"ownerReferences":[{"apiVersion":"projectcalico.org/v3","uid":"41cb1fde-57e7-42c1-a73b-0acaf38c7737"}]}`), nil,
			map[string]any{"name": "t", "ownerReferences": []any{map[string]any{"apiVersion": "projectcalico.org/v3", "uid": "82d3f87b-eae7-4283-a7dc-5053cf31eeec"}}}},
	} {
		o := map[string]any{"apiVersion": convert.StoredVersion, "kind": c.kind, "metadata": c.meta, "spec": c.spec}
		if lost := convert.FromStored(o); len(lost) > 0 {
			t.Errorf("%s: %v", name, lost)
		}
		if d := cmp.Diff(c.want, o["metadata"]); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	if lost := convert.FromStored(map[string]any{"kind": "Tier", "metadata": meta("t", "{")}); len(lost) != 1 {
		t.Errorf("of an annotation that is cut: %v", lost)
	}
}
