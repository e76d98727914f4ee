package calico

import (
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tierwall/tierwall/apis/convert"
	"github.com/tierwall/tierwall/controllers/store"
)

// All that Tierwall carries is valid, and as many policies and tiers are there as were asked for; what it does not carry is of no kind of its.
func TestObjects(t *testing.T) {
	counts := map[string]int{}
	for _, u := range Objects(500, 50) {
		counts[u.GetKind()]++
		if slices.ContainsFunc(Network(), func(n *unstructured.Unstructured) bool { return n.GetKind() == u.GetKind() }) {
			continue
		}
		if _, errs := store.Admit(u.DeepCopy(), nil); len(errs) > 0 {
			t.Errorf("%s %s: %v", u.GetKind(), u.GetName(), errs.ToAggregate())
		}
	}
	policies := 0
	for _, kind := range append(tiered, "StagedKubernetesNetworkPolicy") {
		policies += counts[kind]
		if counts[kind] == 0 {
			t.Errorf("there is no %s", kind)
		}
	}
	if policies != 500 || counts["Tier"] != 50 {
		t.Errorf("%d policies in %d tiers", policies, counts["Tier"])
	}
	if !reflect.DeepEqual(Objects(20, 5), Objects(20, 5)) {
		t.Error("they are not the same each time")
	}
}

// What is bad is refused by who judges it.
func TestBad(t *testing.T) {
	for why, u := range Bad() {
		if _, errs := store.Admit(u.DeepCopy(), nil); len(errs) == 0 {
			t.Errorf("%s %s is taken: %s", u.GetKind(), u.GetName(), why)
		}
	}
}

// What is stored reads as it was written.
func TestStored(t *testing.T) {
	renamed := 0
	for _, u := range Objects(100, 10) {
		if u.GetAPIVersion() == "v1" {
			continue
		}
		s := Stored(u)
		if s.GetName() != u.GetName() {
			renamed++
		}
		if len(s.GetLabels()) > 1 || len(s.GetAnnotations()) != 1 {
			t.Errorf("%s %s is stored with labels %v and annotations %v", u.GetKind(), u.GetName(), s.GetLabels(), s.GetAnnotations())
		}
		if lost := convert.FromStored(s.Object); len(lost) > 0 {
			t.Errorf("%s %s: lost is %v", u.GetKind(), u.GetName(), lost)
		}
		want := u.DeepCopy()
		want.SetCreationTimestamp(s.GetCreationTimestamp())
		want.SetOwnerReferences(s.GetOwnerReferences())
		if diff := cmp.Diff(want.Object, s.Object); diff != "" {
			t.Error(diff)
		}
	}
	if renamed == 0 {
		t.Error("no policy of tier default has another name")
	}
}

func TestReverseUID(t *testing.T) {
	const there, here = "11223344-5566-4788-99aa-bbccddeeff01", "8844cc22-aa66-4711-9955-dd33bb77ff80"
	if got := ReverseUID(there); got != here {
		t.Errorf("%s has become %s", there, got)
	}
	if got := ReverseUID(here); got != there {
		t.Errorf("%s has become %s", here, got)
	}
}
