package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	policyapi "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// object is what a text says.
func object(t *testing.T, text string) client.Object {
	t.Helper()
	d := readOne(t, text)
	if d.Object == nil {
		t.Fatalf("%s\n%+v", text, d.Errors)
	}
	return d.Object
}

// The built-in tiers are in every store, and tiers are not taken from under their policies (contract §1.3).
func TestTiers(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	_, err := s.Put(ctx, namespace("a"))
	must(t, err)
	tiers, err := s.List(ctx, "Tier", "")
	must(t, err)
	var have []string
	for _, o := range tiers {
		spec := o.(*v3.Tier).Spec
		have = append(have, fmt.Sprintf("%s %g %s", o.GetName(), *spec.Order, *spec.DefaultAction))
	}
	if diff := cmp.Diff([]string{"default 1e+06 Deny", "kube-admin 1000 Pass", "kube-baseline 1e+07 Pass"}, have); diff != "" {
		t.Error(diff)
	}
	for _, o := range tiers {
		if err := s.Delete(ctx, o); !errors.Is(err, ErrForbidden) {
			t.Errorf("%s was deleted: %v", o.GetName(), err)
		}
	}
	inTier := object(t, named("GlobalNetworkPolicy", "sec.p", "{tier: sec, selector: all()}"))
	if _, err := s.Put(ctx, inTier); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "spec.tier") {
		t.Errorf("a policy in a tier that does not exist: %v", err)
	}
	tier := object(t, named("Tier", "sec", "{order: 5}"))
	_, err = s.Transact(ctx, func(tx Writer) error { // the tier may come in the same transaction
		if _, err := tx.Create(tier); err != nil {
			return err
		}
		_, err := tx.Create(inTier)
		return err
	})
	must(t, err)
	if err := s.Delete(ctx, tier); !errors.Is(err, ErrForbidden) || !strings.Contains(err.Error(), "GlobalNetworkPolicy/sec.p") {
		t.Errorf("a tier with a policy in it was deleted: %v", err)
	}
	_, err = s.Transact(ctx, func(tx Writer) error {
		if err := tx.Delete(v3.RefOf(inTier.(v3.Object))); err != nil {
			return err
		}
		return tx.Delete(v3.RefOf(tier.(v3.Object)))
	})
	must(t, err)
}

func TestWhatAStoreRefuses(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	for name, row := range map[string]struct {
		object client.Object
		want   error
	}{
		"a kind that it does not hold": {&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "y"}}, ErrInvalid},
		"an object without its kind":       {&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, ErrInvalid},
		"the built-in profile":             {object(t, named("Profile", "projectcalico-default-allow", "{}")), ErrForbidden},
		"a Kubernetes policy's other name": {object(t, npNamed("knp.default.p")), ErrForbidden},
	} {
		if _, err := s.Put(ctx, row.object); !errors.Is(err, row.want) || errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a file says of a store's own fields is not taken over (contract §6.5); that a Kubernetes object is being deleted is.
func TestFieldsThatAreTheStores(t *testing.T) {
	s, ctx, now := newStore(t), t.Context(), metav1.Unix(1e9, 0)
	n := namespace("a", "k=v")
	n.Annotations = map[string]string{"why": "because"}
	n.UID, n.Generation, n.CreationTimestamp, n.DeletionTimestamp = "theirs", 7, metav1.Unix(1, 0), &now
	n.Finalizers, n.OwnerReferences = []string{"a/b"}, []metav1.OwnerReference{{APIVersion: "v1", Kind: "X", Name: "x", UID: "u"}}
	n.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m", Operation: "Update"}}
	for range 2 { // created, and updated
		o, err := s.Put(ctx, n)
		must(t, err)
		if o.GetUID() == "theirs" || o.GetUID() == "" || o.GetCreationTimestamp().Unix() == 1 {
			t.Errorf("the uid is %q, the time %v", o.GetUID(), o.GetCreationTimestamp())
		}
		want := metav1.ObjectMeta{Name: "a", DeletionTimestamp: &now, Labels: n.Labels, Annotations: n.Annotations, Generation: 1,
			UID: o.GetUID(), CreationTimestamp: o.GetCreationTimestamp(), ResourceVersion: o.GetResourceVersion(), ManagedFields: o.GetManagedFields()}
		if len(want.ManagedFields) != 1 || want.ManagedFields[0].Manager != "tierctl" {
			t.Errorf("who manages what: %v", want.ManagedFields)
		}
		if diff := cmp.Diff(want, o.(*corev1.Namespace).ObjectMeta); diff != "" {
			t.Error(diff)
		}
		n.Labels["k"] = "other"
	}
}

func TestGenerationCountsChangesOfSpec(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	for _, row := range []struct {
		text string
		want int64
	}{
		{named("GlobalNetworkPolicy", "p", "{order: 1}"), 1},
		{named("GlobalNetworkPolicy", "p", "{order: 2}"), 2},
		{strings.Replace(named("GlobalNetworkPolicy", "p", "{order: 2}"), "{name: p}", "{name: p, labels: {a: b}}", 1), 2},
		{named("GlobalNetworkPolicy", "p", "{order: 2.0}"), 2},
		{named("GlobalNetworkPolicy", "p", "{order: 1}"), 3},
	} {
		o, err := s.Put(ctx, object(t, row.text))
		must(t, err)
		if o.GetGeneration() != row.want {
			t.Errorf("%s: generation %d, want %d", row.text, o.GetGeneration(), row.want)
		}
	}
}

// Writers that read, change and write with the resourceVersion they read lose nothing to each other.
func TestWritersAtOnce(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	_, err := s.Put(ctx, namespace("a", "v=0"))
	must(t, err)
	const writers, times = 4, 5
	done := make(chan error, writers)
	for range writers {
		go func() { done <- count(ctx, OpenBolt(s.path), times) }()
	}
	for range writers {
		must(t, <-done)
	}
	o, err := s.Get(ctx, nsRef("a"))
	must(t, err)
	if got := o.GetLabels()["v"]; got != strconv.Itoa(writers*times) {
		t.Errorf("%s of %d changes are there", got, writers*times)
	}
}

// count adds one to a label, so many times, and tries again on a conflict.
func count(ctx context.Context, s *Bolt, times int) error {
	for done := 0; done < times; {
		o, err := s.Get(ctx, nsRef("a"))
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(o.GetLabels()["v"])
		if err != nil {
			return err
		}
		o.SetLabels(map[string]string{"v": strconv.Itoa(n + 1)})
		switch _, err := s.Put(ctx, o); {
		case err == nil:
			done++
		case !errors.Is(err, ErrConflict):
			return err
		}
	}
	return nil
}

// The names that users of calicoctl and kubectl type (contract §6.6).
func TestLookup(t *testing.T) {
	for kind, names := range map[string]string{
		"Tier":                          "tier tiers Tier",
		"NetworkPolicy":                 "networkpolicy networkpolicies policy policies np pol pols networkpolicies.projectcalico.org",
		"GlobalNetworkPolicy":           "globalnetworkpolicy globalnetworkpolicies gnp gnps GlobalNetworkPolicy",
		"StagedNetworkPolicy":           "stagednetworkpolicy stagedpolicy snp spol",
		"StagedGlobalNetworkPolicy":     "stagedglobalnetworkpolicy sgnp",
		"StagedKubernetesNetworkPolicy": "stagedkubernetesnetworkpolicy sknp skpol",
		"GlobalNetworkSet":              "globalnetworkset gnetset gnetsets",
		"NetworkSet":                    "networkset netset netsets",
		"HostEndpoint":                  "hostendpoint hep heps",
		"WorkloadEndpoint":              "workloadendpoint wep weps",
		"Profile":                       "profile pro pros",
		"FelixConfiguration":            "felixconfiguration felixconfigurations felixconfig felixconfigs felixconfigurations.projectcalico.org",
		"KubeControllersConfiguration":  "kubecontrollersconfiguration kubecontrollersconfigurations kcconfig kcconfigs kcc kubecontrollersconfig kubecontrollersconfigs",
		"Node":                          "node nodes no",
		"Namespace":                     "namespace ns", "Pod": "pods po", "ServiceAccount": "sa", "Service": "svc", "EndpointSlice": "endpointslices",
		"KubernetesNetworkPolicy":        "netpol knp networkpolicies.networking.k8s.io KubernetesNetworkPolicy",
		"KubernetesClusterNetworkPolicy": "clusternetworkpolicies clusternetworkpolicies.policy.networking.k8s.io",
	} {
		for name := range strings.FieldsSeq(names) {
			if k, err := Lookup(name); err != nil || k.Kind != kind {
				t.Errorf("%s is %q, want %s (%v)", name, k.Kind, kind, err)
			}
		}
	}
}

// A status is written for itself: nothing else of the object changes with it, nor does it with anything else, and an object that would
// be refused today can be told so.
func TestPutStatus(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	made, err := s.Put(ctx, object(t, named("GlobalNetworkPolicy", "p", "{order: 1}")))
	must(t, err)
	told := made.DeepCopyObject().(*v3.GlobalNetworkPolicy)
	told.Spec = v3.GlobalNetworkPolicySpec{}
	told.Labels = nil
	told.Status.Conditions = []metav1.Condition{{Type: v3.ConditionAccepted, Status: metav1.ConditionTrue, Reason: v3.ReasonAccepted, LastTransitionTime: metav1.Unix(1e9, 0)}}
	must(t, s.PutStatus(ctx, told))
	got, err := s.Get(ctx, v3.RefOf(told))
	must(t, err)
	want := made.DeepCopyObject().(*v3.GlobalNetworkPolicy)
	want.Status, want.ResourceVersion = told.Status, got.GetResourceVersion()
	if diff := cmp.Diff(want, got); diff != "" || got.GetResourceVersion() == made.GetResourceVersion() {
		t.Errorf("resourceVersion %s, was %s (-want +have):\n%s", got.GetResourceVersion(), made.GetResourceVersion(), diff)
	}
	changed, err := s.Put(ctx, object(t, named("GlobalNetworkPolicy", "p", "{order: 2}")))
	must(t, err)
	if diff := cmp.Diff(told.Status, changed.(*v3.GlobalNetworkPolicy).Status); diff != "" {
		t.Error(diff)
	}

	gone := told.DeepCopy()
	gone.Name, gone.ResourceVersion = "gone", ""
	other, err := s.Put(ctx, object(t, named("GlobalNetworkPolicy", "q", "{}")))
	must(t, err)
	other.(*v3.GlobalNetworkPolicy).Status = told.Status
	err = s.PutStatus(ctx, told, gone, other)
	if !errors.Is(err, ErrConflict) || !errors.Is(err, ErrNotFound) {
		t.Errorf("one stale, one gone: %v", err)
	}
	if got, err := s.Get(ctx, v3.RefOf(other.(v3.Object))); err != nil || len(got.(*v3.GlobalNetworkPolicy).Status.Conditions) != 1 {
		t.Errorf("what could be written was not: %v, %v", got, err)
	}

	_, err = s.transact(ctx, func(tx *Tx) error { // as an older version may have admitted it
		bad := changed.DeepCopyObject().(*v3.GlobalNetworkPolicy)
		bad.Spec.Selector = "=="
		_, err := tx.write(v3.RefOf(bad), bad)
		return err
	})
	must(t, err)
	told.ResourceVersion = ""
	must(t, s.PutStatus(ctx, told))
}

// Who must not make a store where there is none does not.
func TestExisting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir", "store.db")
	s := OpenBolt(path).Existing()
	if _, err := s.Put(t.Context(), namespace("a")); !errors.Is(err, ErrNoStore) {
		t.Errorf("no store: %v", err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
	_, err := OpenBolt(path).Put(t.Context(), namespace("a"))
	must(t, err)
	_, err = s.Put(t.Context(), namespace("b"))
	must(t, err)
	must(t, os.Remove(path))
	if err := s.PutStatus(t.Context(), object(t, named("GlobalNetworkPolicy", "p", "{}"))); !errors.Is(err, ErrNoStore) {
		t.Errorf("the store has gone: %v", err)
	}
}

// The status of a ClusterNetworkPolicy is ours as well: a file neither brings one nor takes it away.
func TestStatusOfAClusterNetworkPolicy(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	text := `{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: p},
		spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]},
		status: {conditions: [{type: Mine, status: "True", reason: R, message: m, lastTransitionTime: "2026-01-01T00:00:00Z"}]}}`
	made, err := s.Put(ctx, object(t, text))
	must(t, err)
	o := made.(*policyapi.ClusterNetworkPolicy)
	if len(o.Status.Conditions) > 0 {
		t.Errorf("taken over: %v", o.Status.Conditions)
	}
	o.Status.Conditions = []metav1.Condition{{Type: v3.ConditionAccepted, Status: metav1.ConditionTrue, Reason: v3.ReasonAccepted, LastTransitionTime: metav1.Unix(1e9, 0)}}
	must(t, s.PutStatus(ctx, o))
	told, err := s.Get(ctx, v3.RefOf(o))
	must(t, err)
	again, err := s.Put(ctx, object(t, text))
	must(t, err)
	if again.GetResourceVersion() != told.GetResourceVersion() || len(again.(*policyapi.ClusterNetworkPolicy).Status.Conditions) != 1 {
		t.Errorf("the same file changed it: %+v, was %+v", again, told)
	}
}
