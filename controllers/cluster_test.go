package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/test/kube"
)

// running is a cluster with a controller: one for all tests of this package.
type running struct {
	store   *store.Kube
	dynamic dynamic.Interface
	stop    func()
}

var (
	clusterOnce sync.Once
	theCluster  *running
	errCluster  error
)

func TestMain(m *testing.M) {
	status := m.Run()
	if theCluster != nil {
		theCluster.stop()
	}
	os.Exit(status)
}

func clusterOf(t *testing.T) *running {
	t.Helper()
	clusterOnce.Do(func() { theCluster, errCluster = runCluster() })
	if errCluster != nil {
		t.Fatal(errCluster)
	}
	for _, built := range store.BuiltInTiers() { // without them there is no policy
		theCluster.until(t, v3.Ref{Kind: "Tier", Name: built.Name}, "it is there", func(o client.Object) bool { return o != nil })
	}
	return theCluster
}

func runCluster() (*running, error) {
	config, stopAPI, err := kube.Serve()
	if err != nil {
		return nil, err
	}
	s, err := store.OpenKube(config)
	if err != nil {
		return nil, err
	}
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	c := &Cluster{Config: config, Namespace: "default", Agents: labels.SelectorFromSet(labels.Set{"agent": "yes"}), Log: slog.New(slog.DiscardHandler)}
	go func() { done <- c.Run(ctx) }()
	return &running{s, d, func() {
		cancel()
		<-done
		_ = stopAPI() // nothing depends on it any more
	}}, nil
}

// until an object is as it should be; it is asked again whenever one of its kind changes.
func (r *running) until(t *testing.T, ref v3.Ref, what string, ok func(client.Object) bool) client.Object {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	var last client.Object
	for e, err := range r.store.Following(func(k *store.Kind) bool { return k.Kind == ref.Kind }).Watch(ctx) {
		switch {
		case err != nil:
			t.Fatal(err)
		case e.Type == store.Put && e.Ref == ref:
			last = e.Object
		case e.Type == store.Deleted && e.Ref == ref:
			last = nil
		case e.Type == store.Synced && ok(last):
			return last
		}
	}
	text, _ := json.MarshalIndent(last, "", " ")
	t.Fatalf("%s never came to be so: %s; it is %s", ref, what, text)
	return nil
}

func (r *running) put(t *testing.T, obj client.Object) client.Object {
	t.Helper()
	out, err := r.store.Put(t.Context(), obj)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		obj.SetResourceVersion("")
		if err := r.store.Delete(context.Background(), obj); err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Error(err)
		}
	})
	return out
}

// bare is of, as it is before it is stored.
func bare[T client.Object](o T, kind, name string) T {
	o = of(o, kind, name, "")
	o.SetGeneration(0)
	return o
}

func nodeOf(name string, agent string) *corev1.Node {
	n := bare(&corev1.Node{}, "Node", name)
	n.Labels = map[string]string{"agent": agent}
	return n
}

// reportFrom a node that has come as far with global policies as a resourceVersion.
func reportFrom(node, version string) *v1alpha1.NodeReport {
	r := bare(&v1alpha1.NodeReport{}, kindReport, node)
	r.Status = v1alpha1.NodeReportStatus{ReportedAt: metav1.Now(), Observed: []v1alpha1.ObservedKind{{Kind: "GlobalNetworkPolicy", ResourceVersion: version}},
		Conditions: []metav1.Condition{{Type: v1alpha1.ConditionEnforcing, Status: metav1.ConditionTrue, Reason: v3.ReasonProgrammed, LastTransitionTime: metav1.Now()}}}
	return r
}

func globalPolicy(name, tier, selector string) *v3.GlobalNetworkPolicy {
	p := bare(&v3.GlobalNetworkPolicy{}, "GlobalNetworkPolicy", name)
	p.Spec.Tier, p.Spec.Selector = tier, selector
	return p
}

func condition(o client.Object, kind string) string {
	if o == nil {
		return "no object"
	}
	conditions, _ := conditionsOf(o)
	c := apimeta.FindStatusCondition(*conditions, kind)
	if c == nil {
		return "none"
	}
	return fmt.Sprintf("%s %s %s", c.Status, c.Reason, c.Message)
}

func TestBuiltInTiersAreThere(t *testing.T) {
	r := clusterOf(t)
	for _, built := range store.BuiltInTiers() {
		ref := v3.Ref{Kind: "Tier", Name: built.Name}
		there := func(o client.Object) bool {
			return o != nil && o.GetDeletionTimestamp() == nil && slices.Contains(o.GetFinalizers(), TierFinalizer) && strings.HasPrefix(condition(o, v3.ConditionReady), "True")
		}
		first := r.until(t, ref, "it is there", there)
		if err := r.store.Delete(t.Context(), built); err != nil {
			t.Fatal(err)
		}
		r.until(t, ref, "it is there again", func(o client.Object) bool { return there(o) && o.GetUID() != first.GetUID() })
	}
}

// A tier that is deleted stays until the last policy has left it, and says what it waits for (contract §1.3).
func TestTierWaitsForItsPolicies(t *testing.T) {
	r := clusterOf(t)
	ref := v3.Ref{Kind: "Tier", Name: "busy"}
	tier := bare(&v3.Tier{}, "Tier", "busy")
	r.put(t, tier)
	p := globalPolicy("in-busy", "busy", "all()")
	r.put(t, p)
	r.until(t, ref, "it has the finalizer", func(o client.Object) bool { return o != nil && slices.Contains(o.GetFinalizers(), TierFinalizer) })
	if err := r.store.Delete(t.Context(), bare(&v3.Tier{}, "Tier", "busy")); err != nil {
		t.Fatal(err)
	}
	r.until(t, ref, "it waits", func(o client.Object) bool {
		return condition(o, v3.ConditionReady) == "False Terminating Waiting for policies to be removed: 1 GlobalNetworkPolicy"
	})
	p.ResourceVersion = ""
	if err := r.store.Delete(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	r.until(t, ref, "it is gone", func(o client.Object) bool { return o == nil })
}

// Programmed says on how many of the nodes that should have an agent; one that has not reported counts, one that is no more does not, and
// what it has reported is removed.
func TestProgrammedCountsNodes(t *testing.T) {
	r := clusterOf(t)
	r.put(t, nodeOf("n1", "yes"))
	r.put(t, nodeOf("n2", "yes"))
	r.put(t, nodeOf("windows", "no"))
	p := r.put(t, globalPolicy("counted", "", "all()"))
	ref := v3.RefOf(p.(v3.Object))
	programmed := func(want string) {
		t.Helper()
		r.until(t, ref, want, func(o client.Object) bool { return condition(o, v3.ConditionProgrammed) == want })
	}
	programmed("False Pending on 0 of 2 nodes; not yet on n1, n2")
	r.put(t, reportFrom("n1", p.GetResourceVersion()))
	programmed("False Pending on 1 of 2 nodes; not yet on n2")
	r.put(t, reportFrom("ghost", p.GetResourceVersion()))
	r.until(t, v3.Ref{Kind: kindReport, Name: "ghost"}, "the report of a node that is no more is removed", func(o client.Object) bool { return o == nil })
	r.put(t, reportFrom("n2", p.GetResourceVersion()))
	programmed("True Programmed on 2 of 2 nodes")

	changed := p.DeepCopyObject().(*v3.GlobalNetworkPolicy)
	changed.ResourceVersion, changed.Spec.Selector = "", "a == 'b'"
	p = r.put(t, changed)
	programmed("False Pending on 0 of 2 nodes; not yet on n1, n2")
	for _, n := range []string{"n1", "n2"} {
		r.put(t, reportFrom(n, p.GetResourceVersion()))
	}
	programmed("True Programmed on 2 of 2 nodes")
}

// However many nodes report, a policy's status is written a few times.
func TestStatusWritesAreBounded(t *testing.T) {
	r := clusterOf(t)
	const nodes = 200
	for i := range nodes {
		r.put(t, nodeOf(fmt.Sprintf("many-%d", i), "yes"))
	}
	p := r.put(t, globalPolicy("bounded", "", "all()"))
	ref := v3.RefOf(p.(v3.Object))
	writes := make(chan int, 1)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	go func() {
		n := 0
		for e := range r.store.Following(func(k *store.Kind) bool { return k.Kind == ref.Kind }).Watch(ctx) {
			if e.Type == store.Put && e.Ref == ref {
				n++
				if condition(e.Object, v3.ConditionProgrammed) == fmt.Sprintf("True Programmed on %d of %d nodes", nodes, nodes) {
					break
				}
			}
		}
		writes <- n
	}()
	begun := time.Now()
	for i := range nodes {
		r.put(t, reportFrom(fmt.Sprintf("many-%d", i), p.GetResourceVersion()))
	}
	n, most := <-writes, int(time.Since(begun)/statusEvery)+3
	if ctx.Err() != nil || n > most {
		t.Errorf("%d nodes, and the policy was written %d times in %s (at most %d): %v", nodes, n, time.Since(begun), most, ctx.Err())
	}
}

// What a person should see is told as an Event of the object.
func TestEventsOfObjects(t *testing.T) {
	r := clusterOf(t)
	h := globalPolicy("http-only", "", "all()")
	h.Spec.Ingress = []v3.Rule{{Action: v3.Allow, Protocol: ptr.To(intstr.FromString("TCP")), HTTP: &v3.HTTPMatch{Methods: []string{"GET"}}}}
	r.put(t, h)
	if e := r.event(t, "http-only", "WarningNotAllAsWritten"); e.Type != corev1.EventTypeWarning || !strings.Contains(e.Note, "only addresses") {
		t.Errorf("told %+v", e)
	}
}

// event waits until people are told of an object for a reason.
func (r *running) event(t *testing.T, name, reason string) (event eventsv1.Event) {
	t.Helper()
	events := r.dynamic.Resource(schema.GroupVersionResource{Group: "events.k8s.io", Version: "v1", Resource: "events"})
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	w, err := events.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		text, err := json.Marshal(e.Object)
		if err != nil {
			t.Fatal(err)
		}
		event = eventsv1.Event{}
		if err := json.Unmarshal(text, &event); err != nil {
			t.Fatal(err)
		}
		if event.Regarding.Name == name && event.Reason == reason {
			return event
		}
	}
	t.Fatalf("nobody was told of %s that it is %s", name, reason)
	return event
}
