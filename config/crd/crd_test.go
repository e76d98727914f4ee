package crd

import (
	"context"
	"testing"

	apivalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestManifestsAreValid asks the API server's own code whether it would take the CRDs, CEL and its cost included.
func TestManifestsAreValid(t *testing.T) {
	all, err := Manifests()
	if err != nil || len(all) != 14 {
		t.Fatalf("%d manifests, %v", len(all), err)
	}
	for _, m := range all {
		is := schema.GroupVersionKind{Group: m.CRD.Spec.Group, Version: m.CRD.Spec.Versions[0].Name, Kind: m.CRD.Spec.Names.Kind}
		if kind, err := kindOf(m.YAML); kind != is || err != nil {
			t.Errorf("%s is taken for one of %s: %v", m.File, kind, err)
		}
		crd, err := m.Internal()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range apivalidation.ValidateCustomResourceDefinition(context.Background(), crd) {
			t.Errorf("%s: %v", m.File, e)
		}
		if _, err := m.compile(); err != nil {
			t.Errorf("%s: %v", m.File, err)
		}
	}
}
