package controllers

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/test/kube"
)

// An object that cannot be decoded is told so once: its status settles, as every other's does.
func TestStatusOfWhatCannotBeDecoded(t *testing.T) {
	config := kube.Start(t) // its own: its CRD is bent
	s, err := store.OpenKube(config)
	if err != nil {
		t.Fatal(err)
	}
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	crds := d.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if _, err := crds.Patch(ctx, "globalnetworksets.projectcalico.org", types.JSONPatchType, []byte(`[{"op": "replace",
		"path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec", "value": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	bad := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
		"metadata": map[string]any{"name": "bad"}, "spec": map[string]any{"nets": "text"}}}
	for { // the API server takes a while to serve what it has accepted
		_, err := d.Resource(v3.GroupVersion.WithResource("globalnetworksets")).Create(ctx, bad, metav1.CreateOptions{})
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), "nets") {
			t.Fatal(err)
		}
	}
	rollup := &Rollup{Store: s.Following(store.Reported), Agents: labels.Everything(), Log: slog.New(slog.DiscardHandler)}
	go func() { _ = rollup.Run(ctx) }() // it ends with ctx
	ref, mark, told := v3.Ref{Kind: "GlobalNetworkSet", Name: "bad"}, 0, 0
	var last client.Object
	for e, err := range s.Following(func(k *store.Kind) bool { return k.Kind == "GlobalNetworkSet" }).Watch(ctx) {
		switch {
		case err != nil:
			t.Fatal(err)
		case e.Type == store.Put && e.Ref == ref:
			told, last = told+1, e.Object
		case e.Type == store.Put && condition(e.Object, v3.ConditionAccepted) != "none":
			mark++ // one round after another: what does not settle is written in each
		}
		if e.Type == store.Synced && mark >= 3 {
			break
		}
		if e.Type == store.Synced && (mark == 0 || e.Revision != "") && told > 0 {
			o := bare(&v3.GlobalNetworkSet{}, "GlobalNetworkSet", "mark-"+string(rune('a'+mark)))
			if _, err := s.Put(ctx, o); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := condition(last, v3.ConditionProgrammed); got != "False Invalid nothing of it is enforced" {
		t.Errorf("nothing of it is in force, and it is said to be %s", got)
	}
	if told > 2 || mark < 3 {
		t.Errorf("written %d times while %d others were", told, mark)
	}
}
