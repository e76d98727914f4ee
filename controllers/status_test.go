package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	policyapi "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// of makes a kind's object, with its generation and resourceVersion.
func of[T client.Object](o T, kind, name, version string, change ...func(T)) T {
	for _, k := range store.Kinds() {
		if k.Kind == kind {
			o.GetObjectKind().SetGroupVersionKind(k.GVK)
		}
	}
	o.SetName(name)
	o.SetGeneration(1)
	o.SetResourceVersion(version)
	for _, f := range change {
		f(o)
	}
	return o
}

func global(name, version string, change ...func(*v3.GlobalNetworkPolicy)) *v3.GlobalNetworkPolicy {
	return of(&v3.GlobalNetworkPolicy{}, "GlobalNetworkPolicy", name, version, change...)
}

// reported is a node's report: how far it has come with global policies, why not all is in force, and notes about policies by name.
func reported(node, version, failed string, notes ...string) *v1alpha1.NodeReport {
	r := of(&v1alpha1.NodeReport{}, kindReport, node, "1")
	r.Status.Observed = []v1alpha1.ObservedKind{{Kind: "GlobalNetworkPolicy", ResourceVersion: version}, {Kind: "HostEndpoint", ResourceVersion: version}}
	is := metav1.ConditionTrue
	if failed != "" {
		is = metav1.ConditionFalse
	}
	r.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionEnforcing, Status: is, Reason: "Said", Message: failed,
		LastTransitionTime: metav1.Unix(1e9, 0)}}
	for _, n := range notes {
		name, text, _ := strings.Cut(n, " ")
		r.Status.Notes = append(r.Status.Notes, v1alpha1.Note{Kind: "GlobalNetworkPolicy", Name: name, Message: text})
	}
	return r
}

// What an object's conditions say, a line each: type, status, reason, message.
func TestConditions(t *testing.T) {
	http := func(p *v3.GlobalNetworkPolicy) {
		tcp := intstr.FromString("TCP")
		p.Spec.Ingress = []v3.Rule{{Action: v3.Allow, Protocol: &tcp, HTTP: &v3.HTTPMatch{Methods: []string{"GET"}}}}
	}
	for _, c := range []struct {
		says    string
		object  client.Object
		reports []*v1alpha1.NodeReport
		want    string
	}{
		{"nobody has reported", global("p", "7"), nil, `
			Accepted True Accepted
			Programmed False NoAgent no agent has reported`},
		{"all nodes have come as far", global("p", "7"), []*v1alpha1.NodeReport{reported("a", "7", ""), reported("b", "12", "")}, `
			Accepted True Accepted
			Programmed True Programmed on 2 of 2 nodes`},
		{"one node has not", global("p", "7"), []*v1alpha1.NodeReport{reported("a", "7", ""), reported("b", "6", "")}, `
			Accepted True Accepted
			Programmed False Pending on 1 of 2 nodes; not yet on b`},
		{"revisions are numbers", global("p", "10"), []*v1alpha1.NodeReport{reported("a", "9", "")}, `
			Accepted True Accepted
			Programmed False Pending on 0 of 1 nodes; not yet on a`},
		{"many nodes have not", global("p", "7"), []*v1alpha1.NodeReport{reported("a", "6", ""), reported("b", "6", ""), reported("c", "", ""),
			reported("d", "1", ""), reported("e", "1", "")}, `
			Accepted True Accepted
			Programmed False Pending on 0 of 5 nodes; not yet on a, b, c and 2 more`},
		{"a node that cannot enforce all counts for nothing", global("p", "7"), []*v1alpha1.NodeReport{reported("a", "7", ""), reported("b", "7", "no bridge")}, `
			Accepted True Accepted
			Programmed False Failed on 1 of 2 nodes; b: no bridge`},
		{"http", global("p", "7", http), []*v1alpha1.NodeReport{reported("a", "7", "")}, `
			Accepted True Accepted
			Warning True NotAllAsWritten spec.ingress[0].http: only addresses, protocol and ports are enforced: every request on them is allowed
			Programmed True Programmed on 1 of 1 nodes`},
		{"what cannot be understood", global("p", "7", func(p *v3.GlobalNetworkPolicy) { p.Spec.Selector = "==" }), nil, `
			Accepted False Invalid GlobalNetworkPolicy/p: spec.selector: *
			Programmed False NoAgent no agent has reported`},
		{"what nodes note", global("p", "7"), []*v1alpha1.NodeReport{reported("a", "7", "", "p is odd", "q is even"), reported("b", "7", "", "p is odd")}, `
			Accepted True Accepted
			Warning True NotAllAsWritten on a, b: is odd
			Programmed True Programmed on 2 of 2 nodes`},
		{"what was noted and is no more", global("p", "7", func(p *v3.GlobalNetworkPolicy) {
			p.Status.Conditions = []metav1.Condition{{Type: v3.ConditionWarning, Status: metav1.ConditionTrue}}
		}), nil, `
			Accepted True Accepted
			Programmed False NoAgent no agent has reported`},
		{"a host endpoint concerns its node", of(&v3.HostEndpoint{}, "HostEndpoint", "h", "7", func(h *v3.HostEndpoint) { h.Spec.Node = "b" }),
			[]*v1alpha1.NodeReport{reported("a", "1", ""), reported("b", "7", "")}, `
			Accepted True Accepted
			Programmed True Programmed on 1 of 1 nodes`},
		{"a host endpoint of a node without an agent", of(&v3.HostEndpoint{}, "HostEndpoint", "h", "7", func(h *v3.HostEndpoint) { h.Spec.Node = "c" }),
			[]*v1alpha1.NodeReport{reported("a", "7", "")}, `
			Accepted True Accepted
			Programmed False NoAgent no agent has reported from node c`},
		{"a staged policy is never in force", of(&v3.StagedGlobalNetworkPolicy{}, "StagedGlobalNetworkPolicy", "p", "7"),
			[]*v1alpha1.NodeReport{reported("a", "7", "")}, `
			Accepted True Accepted`},
		{"a tier", of(&v3.Tier{}, "Tier", "t", "7"), nil, `
			Ready True Ready`},
		{"a ClusterNetworkPolicy", of(&policyapi.ClusterNetworkPolicy{}, v3.KindKubernetesClusterNetworkPolicy, "p", "7"), nil, `
			Accepted *
			Programmed False NoAgent no agent has reported`},
	} {
		t.Run(c.says, func(t *testing.T) {
			r := Rollup{fares: map[v3.Ref]*fare{}, reports: map[string]*report{}}
			for _, n := range c.reports {
				r.take(store.Event{Type: store.Put, Ref: v3.Ref{Kind: kindReport, Name: n.Name}, Object: n})
			}
			ref := v3.RefOf(c.object.(v3.Object))
			r.take(store.Event{Type: store.Put, Ref: ref, Object: c.object})
			var got []string
			for _, cond := range r.fares[ref].fares(r.known()) {
				if cond.ObservedGeneration != 1 {
					t.Errorf("%s is of generation %d", cond.Type, cond.ObservedGeneration)
				}
				if cond.Type == v3.ConditionObserved {
					if o := observedOf([]metav1.Condition{cond}); o.since != "7" && o.since != "10" || o.digest != editionOfObject(c.object).digest() {
						t.Errorf("%q is read as %+v", cond.Message, o)
					}
					continue
				}
				got = append(got, strings.TrimSpace(fmt.Sprintln(cond.Type, cond.Status, cond.Reason, cond.Message)))
			}
			want := strings.Split(strings.TrimSpace(strings.ReplaceAll(c.want, "\t", "")), "\n")
			slices.Sort(got)
			slices.Sort(want)
			if !slices.EqualFunc(got, want, func(g, w string) bool {
				begin, any := strings.CutSuffix(w, "*")
				return g == w || any && strings.HasPrefix(g, begin)
			}) {
				t.Errorf("have\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// Every kind that a store holds and that somebody enforces has a status, but those whose API has none.
func TestEveryKindHasAStatus(t *testing.T) {
	none := []string{"WorkloadEndpoint", "Profile", kindReport, v3.KindKubernetesNetworkPolicy, "Namespace", "Pod", "ServiceAccount", "Service",
		"EndpointSlice", "Node", "KubeControllersConfiguration"}
	for _, k := range store.Kinds() {
		o, err := store.Scheme.New(k.GVK)
		if err != nil {
			t.Fatal(err)
		}
		if conditions, _ := conditionsOf(o.(client.Object)); (conditions == nil) != slices.Contains(none, k.Kind) {
			t.Errorf("%s: a status of conditions: %v", k.Kind, conditions != nil)
		}
	}
}

// Several roll-ups of one store write what one would, and then nothing more: they do not answer each other for ever, nor what an agent
// reports about their writing.
func TestRollupSettles(t *testing.T) {
	s := store.OpenBolt(filepath.Join(t.TempDir(), "store.db"))
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	put := func(o client.Object) client.Object {
		t.Helper()
		o.SetResourceVersion("")
		now, err := s.Put(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return now
	}
	put(global("p", ""))
	for range 3 {
		running.Go(func() { _ = (&Rollup{Store: s, Log: slog.New(slog.DiscardHandler)}).Run(ctx) })
	}
	programmed := func(name string) string {
		o, err := s.Get(t.Context(), v3.Ref{Kind: "GlobalNetworkPolicy", Name: name})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range o.(*v3.GlobalNetworkPolicy).Status.Conditions {
			if c.Type == v3.ConditionProgrammed && c.ObservedGeneration == o.GetGeneration() {
				return c.Message
			}
		}
		return ""
	}
	until(t, s, "nobody has reported", func() bool { return programmed("p") == "no agent has reported" })
	last := put(global("q", ""))
	put(reported("a", last.GetResourceVersion(), ""))
	put(reported("b", "0", ""))
	for _, p := range []string{"p", "q"} {
		until(t, s, "one node has come as far", func() bool { return programmed(p) == "on 1 of 2 nodes; not yet on b" })
	}
	changed := put(global("p", "", func(p *v3.GlobalNetworkPolicy) { p.Spec.Selector = "a == 'b'" }))
	until(t, s, "the change is new to both", func() bool { return programmed("p") == "on 0 of 2 nodes; not yet on a, b" })
	put(reported("a", changed.GetResourceVersion(), "")) // who writes a status later does not make it newer
	put(reported("b", changed.GetResourceVersion(), ""))
	for _, p := range []string{"p", "q"} {
		until(t, s, "all nodes have come as far", func() bool { return programmed(p) == "on 2 of 2 nodes" })
	}

	// Who begins to roll up later sees a later resourceVersion, and means the same by it; though a node reports no more.
	running.Go(func() { _ = (&Rollup{Store: s, Log: slog.New(slog.DiscardHandler)}).Run(ctx) })
	put(reported("c", changed.GetResourceVersion(), ""))
	running.Go(func() { _ = (&Rollup{Store: s, Log: slog.New(slog.DiscardHandler)}).Run(ctx) })
	for _, p := range []string{"p", "q"} {
		until(t, s, "all nodes have come as far", func() bool { return programmed(p) == "on 3 of 3 nodes" })
	}
	relabelled := put(global("q", "", func(p *v3.GlobalNetworkPolicy) { p.Labels = map[string]string{"a": "b"} }))
	until(t, s, "a label is new to all", func() bool { return programmed("q") == "on 0 of 3 nodes; not yet on a, b, c" })
	for _, n := range []string{"a", "b", "c"} {
		put(reported(n, relabelled.GetResourceVersion(), ""))
	}
	until(t, s, "all nodes have the label", func() bool { return programmed("q") == "on 3 of 3 nodes" })

	// Transactions of our own show the revision: had they written meanwhile, it would be further.
	const many = 100
	for i := range many {
		put(of(&corev1.Namespace{}, "Namespace", fmt.Sprintf("ns%03d", i), ""))
	}
	all, err := s.List(t.Context(), "Namespace", "")
	if err != nil || len(all) != many {
		t.Fatalf("%d namespaces, %v", len(all), err)
	}
	if gap := revisionGap(t, all[0].GetResourceVersion(), all[many-1].GetResourceVersion()); gap != many-1 {
		t.Errorf("they have written %d times meanwhile", gap-many+1)
	}
}

func revisionGap(t *testing.T, a, b string) (gap int) {
	t.Helper()
	var from, to int
	if _, err := fmt.Sscan(a, &from); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(b, &to); err != nil {
		t.Fatal(err)
	}
	return to - from
}

// until follows the store till something holds.
func until(t *testing.T, s store.Store, what string, holds func() bool) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	for e, err := range s.Watch(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == store.Synced && holds() {
			return
		}
	}
	t.Fatalf("it never came that %s", what)
}

// An agent acts on all but a status: on another generation, object, label or annotation, and on everything of a store that is another
// than before, for there the same generation may be of another spec.
func TestWhatIsNews(t *testing.T) {
	a := Agent{Log: slog.New(slog.DiscardHandler), refused: map[v3.Ref]string{}, editions: map[v3.Ref]edition{}}
	index := policy.NewIndex("n1", policy.Options{})
	take := func(o client.Object) bool {
		return a.take(index, []store.Event{{Type: store.Put, Ref: v3.RefOf(o.(v3.Object)), Object: o}})
	}
	for _, c := range []struct {
		says string
		o    client.Object
		news bool
	}{
		{"a policy", global("p", "1"), true},
		{"its status, of which nobody reports", global("p", "2", func(p *v3.GlobalNetworkPolicy) { p.Status.ObservedGeneration = 1 }), false},
		{"a label", global("p", "3", func(p *v3.GlobalNetworkPolicy) { p.Labels = map[string]string{"a": "b"} }), true},
		{"no label any more", global("p", "4"), true},
		{"an annotation", global("p", "5", func(p *v3.GlobalNetworkPolicy) { p.Annotations = map[string]string{"a": "b"} }), true},
		{"another generation", global("p", "6", func(p *v3.GlobalNetworkPolicy) { p.Generation = 2 }), true},
		{"another object of the name", global("p", "7", func(p *v3.GlobalNetworkPolicy) { p.Generation, p.UID = 2, "other" }), true},
		{"a ClusterNetworkPolicy", of(&policyapi.ClusterNetworkPolicy{}, v3.KindKubernetesClusterNetworkPolicy, "c", "7"), true},
		{"its status", of(&policyapi.ClusterNetworkPolicy{}, v3.KindKubernetesClusterNetworkPolicy, "c", "8"), false},
		{"a report", reported("n2", "7", ""), false},
		{"a pod, whose generation says nothing", of(&corev1.Pod{}, "Pod", "p", "8"), true},
		{"its status", of(&corev1.Pod{}, "Pod", "p", "9"), true},
	} {
		if take(c.o) != c.news {
			t.Errorf("%s: news: %v", c.says, !c.news)
		}
	}
	if got := a.progress.told["GlobalNetworkPolicy"]; got != "7" {
		t.Errorf("it has come to %s", got)
	}
	if a.progress.anew("3"); a.progress.told["GlobalNetworkPolicy"] != "3" || a.progress.told["Pod"] != "" {
		t.Errorf("in the other store it has come to %v", a.progress.told)
	}
}

// A status is no news; but one that says that its object was first seen with a version that the node has not reported waits for a report. And whoever rolls up
// goes by the first version of an object that he has seen, whatever else is written of it.
func TestReportIsAwaited(t *testing.T) {
	a := Agent{Log: slog.New(slog.DiscardHandler), refused: map[v3.Ref]string{}, editions: map[v3.Ref]edition{}, ReportEvery: time.Second, reported: &reported("n1", "1", "").Status}
	index := policy.NewIndex("n1", policy.Options{})
	seen := func(version, since, digest string) bool {
		p := global("p", version, func(p *v3.GlobalNetworkPolicy) {
			if since != "" {
				p.Status.Conditions = []metav1.Condition{{Type: v3.ConditionObserved, Message: observed{since, digest}.String()}}
			}
		})
		a.take(index, []store.Event{{Type: store.Put, Ref: v3.RefOf(p), Object: p}})
		return a.awaited()
	}
	digest := editionOfObject(global("p", "")).digest()
	if seen("1", "", "") || seen("2", "1", digest) || seen("3", "3", "another's") {
		t.Error("a report is awaited that nobody waits for")
	}
	if !seen("4", "3", digest) {
		t.Error("no report is awaited")
	}
	if a.reported = &reported("n1", "3", "").Status; a.awaited() {
		t.Error("what was awaited is reported, and awaited still")
	}

	r := Rollup{fares: map[v3.Ref]*fare{}}
	for _, version := range []string{"5", "6"} {
		p := global("p", version)
		r.object(v3.RefOf(p), p, nil)
		if f := r.fares[v3.RefOf(p)]; f.since != "5" {
			t.Errorf("with version %s it was first seen with %s", version, f.since)
		}
	}
}

// What could not be reported is tried again, until it can be.
func TestReportIsTriedAgain(t *testing.T) {
	s := store.OpenBolt(filepath.Join(t.TempDir(), "store.db"))
	a := Agent{Store: s.Existing(), Node: "n1", Reports: true, Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry()), reporting: retry{first: time.Hour, most: time.Hour}}
	plan := policy.NewIndex("n1", policy.Options{}).Plan()
	if a.report(t.Context(), plan, nil, 0); a.reporting.due() == nil {
		t.Error("there is no store, and it is not tried again")
	}
	if _, err := s.Put(t.Context(), of(&corev1.Namespace{}, "Namespace", "ns", "")); err != nil {
		t.Fatal(err)
	}
	if a.report(t.Context(), plan, nil, 0); a.reporting.due() != nil {
		t.Error("it is reported, and tried again")
	}
	if _, err := s.Get(t.Context(), v3.Ref{Kind: kindReport, Name: "n1"}); err != nil {
		t.Error(err)
	}
}

// An API server that takes a report and never answers does not keep the agent from its work.
func TestReportIsNotWaitedFor(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	k, err := store.OpenKube(&rest.Config{Host: "http://" + silent.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	a := Agent{Store: k, Node: "n1", Reports: true, Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry()), reporting: retry{first: time.Hour, most: time.Hour}}
	if a.report(t.Context(), policy.NewIndex("n1", policy.Options{}).Plan(), nil, 0); a.reporting.due() == nil || !strings.Contains(a.unreported, context.DeadlineExceeded.Error()) {
		t.Errorf("it is not tried again: %q", a.unreported)
	}
}

// One round of the roll-up over 1,000 policies and 5,000 nodes, of which none has anything new to write.
func BenchmarkRound(b *testing.B) {
	r := Rollup{Metrics: NewMetrics(prometheus.NewRegistry()), fares: map[v3.Ref]*fare{}, reports: map[string]*report{}, nodes: map[string]bool{}}
	for i := range 5000 {
		r.reports[fmt.Sprint(i)] = &report{node: fmt.Sprint(i), observed: map[string]string{"GlobalNetworkPolicy": "2000"}}
	}
	for i := range 1000 {
		p := of(&v3.GlobalNetworkPolicy{}, "GlobalNetworkPolicy", fmt.Sprint(i), fmt.Sprint(1000+i))
		r.object(v3.RefOf(p), p, nil)
		f := r.fares[v3.RefOf(p)]
		conditions, generation := conditionsOf(f.object)
		*conditions, *generation = f.fares(r.known()), 1
	}
	b.ResetTimer()
	for range b.N {
		if err := r.write(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
