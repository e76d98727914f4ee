package admission

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

const tiered = "kind: GlobalNetworkPolicy\nmetadata: {name: changed}\nspec: "

// changes are what becomes of an object that is stored. The old ones that nobody would accept today are from before anybody judged.
var changes = []struct {
	says, old, new string
	want           verdict
	bad            bool // the old one: a store of a host has none
}{
	{"nothing wrong", tiered + "{order: 1}", tiered + "{order: 2}", nil, false},
	{"a selector that becomes wrong", tiered + "{order: 1}", tiered + "{selector: a}", verdict{`spec.selector: Invalid value: "a": column 2: expected an operator`}, false},
	{"into a tier that is not there", tiered + "{order: 1}", tiered + "{tier: ghost}", verdict{`spec.tier: Invalid value: "ghost": tier "ghost" does not exist: create it first, or in the same files; tierctl get tier lists those there are`}, false},
	{"wrong as before", tiered + "{selector: 'a ='}", tiered + "{selector: 'a =', order: 2}", nil, true},
	{"wrong otherwise", tiered + "{selector: 'a ='}", tiered + "{selector: 'b ='}", verdict{`spec.selector: Invalid value: "b =": column 3: expected an operator`}, true},
	{"in a tier that has gone", tiered + "{tier: ghost}", tiered + "{tier: ghost, order: 2}", nil, true},
	{"out of one that has gone", tiered + "{tier: ghost}", tiered + "{tier: default}", nil, true},
	{"a finalizer, wrong as ever", tiered + "{selector: 'a =', namespaceSelector: ')'}",
		"kind: GlobalNetworkPolicy\nmetadata: {name: changed, finalizers: [a/b]}\nspec: {selector: 'a =', namespaceSelector: ')'}", nil, true},
	{"a label, wrong as ever", tiered + "{selector: 'a ='}", "kind: GlobalNetworkPolicy\nmetadata: {name: changed, labels: {a: b}}\nspec: {selector: 'a ='}", nil, true},
}

// TestChanges: of a change the API server, the webhook alone and bbolt say the same.
func TestChanges(t *testing.T) {
	c := clusterOf(t)
	handler := mux(c)
	stored := map[int]*unstructured.Unstructured{}
	for i, row := range changes { // before anybody judges
		old := read(t, row.old)
		old.SetName("changed-" + string(rune('a'+i)))
		stored[i] = c.put(t, old)
	}
	c.install(t, deploy, policyKind, policyBound)
	c.serve(t, "ValidatingWebhookConfiguration")
	c.judging(t)
	bolt := store.OpenBolt(filepath.Join(t.TempDir(), "store.db"))
	for i, row := range changes {
		now := read(t, row.new)
		now.SetName(stored[i].GetName())
		now.SetResourceVersion(stored[i].GetResourceVersion())
		out, err := c.of(t, now).Update(t.Context(), now, metav1.UpdateOptions{FieldValidation: metav1.FieldValidationStrict})
		if diff := cmp.Diff(short(row.want), short(heard(err)), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: (-want +API server)\n%s", row.says, diff)
		}
		if diff := cmp.Diff(heard(err), byWebhook(t, handler, now, stored[i]), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: (-API server +webhook)\n%s", row.says, diff)
		}
		if err == nil && len(out.GetFinalizers()) > 0 { // and away it goes
			patch := []byte(`{"metadata": {"finalizers": null}}`)
			if _, err := c.of(t, now).Patch(t.Context(), now.GetName(), types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
				t.Errorf("%s: %v", row.says, err)
			}
		}
		if row.bad {
			continue
		}
		now.SetResourceVersion("")
		if _, err := bolt.Put(t.Context(), named(read(t, row.old), now.GetName())); err != nil {
			t.Fatal(err)
		}
		_, onHost := bolt.Put(t.Context(), now)
		if diff := cmp.Diff(heard(err), told(onHost), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: (-API server +bbolt)\n%s", row.says, diff)
		}
	}
}

func named(u *unstructured.Unstructured, name string) *unstructured.Unstructured {
	u.SetName(name)
	return u
}

// short leaves of a complaint what the parser of selectors may word as it likes.
func short(v verdict) (out verdict) {
	for _, said := range v {
		said, _, _ = strings.Cut(said, ": column")
		out = append(out, said)
	}
	return out
}

// TestDeletions: a built-in tier stays, for the same reason everywhere. Another that has policies bbolt refuses to delete; in a cluster it goes
// as soon as they have gone, which the controller sees to (contract §1.3).
func TestDeletions(t *testing.T) {
	c := clusterOf(t)
	c.install(t, deploy, policyKind, policyBound)
	bolt := store.OpenBolt(filepath.Join(t.TempDir(), "store.db"))
	if _, err := bolt.Put(t.Context(), read(t, "kind: Tier\nmetadata: {name: busy}")); err != nil {
		t.Fatal(err)
	}
	for _, tier := range store.BuiltInTiers() {
		u := c.put(t, builtIn(t, tier))
		c.unprotect(t, u)
		var refused string
		until(t, "the deletion is refused", func() bool {
			err := c.of(t, u).Delete(t.Context(), u.GetName(), metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
			if err != nil {
				refused = err.Error()
			}
			return err != nil
		})
		onHost := bolt.Delete(t.Context(), tier)
		want := "The built-in tier '" + tier.Name + "' cannot be deleted"
		if onHost == nil || !strings.HasSuffix(onHost.Error(), want) || !strings.HasSuffix(refused, want) {
			t.Errorf("bbolt says %v\nthe API server %s", onHost, refused)
		}
		all := metav1.ListOptions{FieldSelector: "metadata.name=" + tier.Name}
		if err := c.of(t, u).DeleteCollection(t.Context(), metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}, all); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("as one of many: %v", err)
		}
	}
	busy := c.put(t, read(t, "kind: Tier\nmetadata: {name: busy}"))
	policy := read(t, "kind: GlobalNetworkPolicy\nmetadata: {name: in-busy}\nspec: {tier: busy}")
	c.put(t, policy)
	if _, err := bolt.Put(t.Context(), policy.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	inCluster := c.of(t, busy).Delete(t.Context(), "busy", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
	onHost := bolt.Delete(t.Context(), read(t, "kind: Tier\nmetadata: {name: busy}"))
	if inCluster != nil || onHost == nil || !strings.Contains(onHost.Error(), "GlobalNetworkPolicy/in-busy") {
		t.Errorf("a tier with a policy: in a cluster %v, in bbolt %v", inCluster, onHost)
	}
}

func builtIn(t *testing.T, tier *v3.Tier) *unstructured.Unstructured {
	t.Helper()
	u, err := runtime.DefaultUnstructuredConverter.ToUnstructured(tier)
	if err != nil {
		t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: u}
}

// unprotect takes the policies away before the object goes: cleanups are done last first.
func (c *cluster) unprotect(t *testing.T, u *unstructured.Unstructured) {
	t.Helper()
	t.Cleanup(func() {
		for _, p := range manifest(t, deploy, policyBound) {
			_ = c.of(t, p).Delete(context.Background(), p.GetName(), metav1.DeleteOptions{})
		}
	})
}

// A tier that is being deleted takes no policy any more; while nothing is in earnest, one that is not there is only warned of.
func TestTiersOfPolicies(t *testing.T) {
	c := clusterOf(t)
	handler := mux(c)
	going := read(t, "kind: Tier\nmetadata: {name: going, finalizers: [a/b]}")
	c.put(t, going)
	if err := c.of(t, going).Delete(t.Context(), "going", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = c.of(t, going).Patch(context.Background(), "going", types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`), metav1.PatchOptions{})
	})
	want := verdict{`spec.tier: Invalid value: "going": tier "going" is being deleted`}
	if diff := cmp.Diff(want, byWebhook(t, handler, read(t, tiered+"{tier: going}"), nil)); diff != "" {
		t.Error(diff)
	}
	if v := byWebhook(t, handler, read(t, tiered+"{tier: going, order: 2}"), read(t, tiered+"{tier: going}")); len(v) > 0 {
		t.Errorf("a policy that is in it: %v", v)
	}
	dry, r := true, request(read(t, tiered+"{tier: ghost}"), nil)
	r.DryRun = &dry
	if a := asked(t, handler, PathValidate, r); !a.Allowed || !slices.Equal(a.Warnings, []string{`spec.tier: tier "ghost" does not exist yet`}) {
		t.Errorf("not in earnest: %+v", a)
	}
}
