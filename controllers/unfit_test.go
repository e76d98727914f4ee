package controllers

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/test/kube"
)

// lines is what somebody has logged.
type lines struct {
	mu  sync.Mutex
	all []string
	new chan struct{} // closed and renewed with each line
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(b))
	close(l.new)
	l.new = make(chan struct{})
	return len(b), nil
}

// with are the lines that have some words.
func (l *lines) with(words string) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if strings.Contains(line, words) {
			out = append(out, line)
		}
	}
	return out
}

func (l *lines) wait(t *testing.T, words string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for len(l.with(words)) == 0 {
		l.mu.Lock()
		more := l.new
		l.mu.Unlock()
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("nobody says %q", words)
		}
	}
}

// Where the CRDs are another's, and keep no status, that is said once, for each kind; the status of others is written as ever, and the
// finalizers of tiers are kept.
func TestUnfitCRDs(t *testing.T) {
	config := kube.Start(t)
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	crds := d.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	for name, patch := range map[string]string{
		"globalnetworksets.projectcalico.org": `[{"op": "remove", "path": "/spec/versions/0/subresources"}]`,
		"networksets.projectcalico.org":       `[{"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/status"}]`,
	} {
		if _, err := crds.Patch(t.Context(), name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := store.OpenKube(config)
	if err != nil {
		t.Fatal(err)
	}
	log := &lines{new: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	c := &Cluster{Config: config, Agents: labels.Nothing(), Log: slog.New(slog.NewJSONHandler(log, nil))}
	c.lookAtCRDs(ctx)
	told := map[string]int{}
	rollup := &Rollup{Store: s.Following(func(k *store.Kind) bool { return store.Reported(k) || k.Kind == "Node" }), Log: c.Log, Every: time.Millisecond, Agents: c.Agents,
		Event: func(about client.Object, _ bool, reason, message string) {
			told[v3.RefOf(about.(v3.Object)).String()+reason+message]++
		}}
	var both sync.WaitGroup
	both.Go(func() { _ = rollup.Run(ctx) })
	both.Go(func() { _ = (&Tiers{Store: s, Log: c.Log}).Run(ctx) })
	defer both.Wait()
	defer cancel()
	r := &running{store: s}
	for _, o := range []client.Object{
		bare(&v3.GlobalNetworkSet{}, "GlobalNetworkSet", "one"), bare(&v3.GlobalNetworkSet{}, "GlobalNetworkSet", "two"),
		of(&v3.NetworkSet{}, "NetworkSet", "three", "", func(n *v3.NetworkSet) { n.Namespace = "default" }),
	} {
		o.SetGeneration(0)
		if _, err := s.Put(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	for _, words := range []string{"status of GlobalNetworkSet is not kept", "status.conditions of NetworkSet is not kept"} {
		log.wait(t, words)
	}
	for crd, lacks := range map[string]string{"globalnetworksets.projectcalico.org": "status is no subresource", "networksets.projectcalico.org": "status is missing"} {
		if said := strings.Join(log.with(crd), ""); !strings.Contains(said, lacks) {
			t.Errorf("of %s is said at the start: %s", crd, said)
		}
	}
	policy := bare(&v3.GlobalNetworkPolicy{}, "GlobalNetworkPolicy", "as-ever")
	if _, err := s.Put(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	r.until(t, v3.Ref{Kind: "GlobalNetworkPolicy", Name: "as-ever"}, "it has a status", func(o client.Object) bool {
		p, ok := o.(*v3.GlobalNetworkPolicy)
		return ok && len(p.Status.Conditions) > 0
	})
	r.until(t, v3.Ref{Kind: "Tier", Name: "default"}, "it has a finalizer", func(o client.Object) bool { return o != nil && len(o.GetFinalizers()) > 0 })
	cancel()
	both.Wait()
	said := map[string]int{}
	for _, line := range log.with("is not kept") {
		var l struct{ Error string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		said[l.Error]++
	}
	for _, counts := range []map[string]int{said, told} {
		for text, n := range counts {
			if n > 1 {
				t.Errorf("%d times is said: %s", n, text)
			}
		}
	}
}
