package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// Rollup keeps the status of each object as the nodes' reports say. It has no memory but the store: several may run on one, and write the
// same.
//
//	objects ──► what of each cannot be enforced as written ──► Accepted, Warning ─┐
//	NodeReports ──► how far each node has come, and what it notes ─► Programmed ──┴─► status, where it is not so already
//
// In a cluster the nodes are known: one that should have an agent and has not reported counts as one that enforces nothing, and what a
// node that is no more has reported is removed.
type Rollup struct {
	Store store.Store
	Log   *slog.Logger
	Once  bool // return when every status was written once
	// Every is how long one round of writes waits for the next: however many nodes report meanwhile, an object is written once.
	Every time.Duration
	// Agents selects the nodes that should have one; nil where there are no Node objects.
	Agents  labels.Selector
	Event   Recorder // nil: nobody is told
	Metrics *Metrics

	fares   map[v3.Ref]*fare
	reports map[string]*report
	nodes   map[string]bool // that there are, and whether they should have an agent
}

// Recorder tells people of something that has become of an object: an Event in a cluster.
type Recorder func(about client.Object, warning bool, reason, message string)

// Run writes statuses until ctx ends. An error is only of Once; otherwise what could not be written is tried again.
func (r *Rollup) Run(ctx context.Context) error {
	r.fares, r.reports, r.nodes = map[v3.Ref]*fare{}, map[string]*report{}, map[string]bool{}
	if r.Metrics == nil {
		r.Metrics = NewMetrics(prometheus.NewRegistry())
	}
	alone := r.Agents == nil // beside an agent, which says what cannot be read
	k := keeper{store: r.Store, log: r.Log, what: "the status of objects cannot be written", every: r.Every, once: r.Once, quiet: alone, take: r.take,
		keep: func(ctx context.Context) error { return errors.Join(r.write(ctx), r.sweep(ctx)) }}
	return k.run(ctx)
}

func (r *Rollup) take(e store.Event) {
	switch {
	case e.Ref.Kind == "Node" && e.Type == store.Deleted:
		delete(r.nodes, e.Ref.Name)
	case e.Ref.Kind == "Node":
		r.nodes[e.Ref.Name] = r.Agents != nil && r.Agents.Matches(labels.Set(e.Object.GetLabels()))
	case e.Ref.Kind == kindReport && e.Type == store.Deleted:
		delete(r.reports, e.Ref.Name)
	case e.Ref.Kind == kindReport:
		if o, ok := e.Object.(*v1alpha1.NodeReport); ok {
			r.reports[o.Name] = reportOf(o)
		}
	case e.Type == store.Deleted:
		delete(r.fares, e.Ref)
	default:
		r.object(e.Ref, e.Object, e.Corrupt)
	}
}

// known are the reports that count, in the order of their nodes: those of nodes that there are. A node that should have an agent and has not
// reported has nothing in force.
func (r *Rollup) known() (out []*report) {
	if r.Agents == nil {
		out = slices.Collect(maps.Values(r.reports))
	}
	for name, agent := range r.nodes {
		if said := r.reports[name]; said != nil && r.Agents != nil {
			out = append(out, said)
		} else if agent && said == nil {
			out = append(out, &report{node: name})
		}
	}
	slices.SortFunc(out, func(a, b *report) int { return strings.Compare(a.node, b.node) })
	return out
}

// sweep removes what nodes have reported that are no more. The store is asked once more: it may tell of a node later than of its report.
func (r *Rollup) sweep(ctx context.Context) error {
	if r.Agents == nil {
		return nil
	}
	var errs []error
	for name := range r.reports {
		if _, there := r.nodes[name]; there {
			continue
		}
		if _, err := r.Store.Get(ctx, v3.Ref{Kind: "Node", Name: name}); !errors.Is(err, store.ErrNotFound) {
			continue
		}
		gone := &v1alpha1.NodeReport{}
		gone.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kindReport))
		gone.Name = name
		if err := r.Store.Delete(ctx, gone); err != nil && !errors.Is(err, store.ErrNotFound) {
			errs = append(errs, err)
			continue
		}
		r.Log.Info("the report of a node that is no more is removed", "node", name)
	}
	return errors.Join(errs...)
}

// object notes how an object fares by itself.
func (r *Rollup) object(ref v3.Ref, obj client.Object, corrupt error) {
	bare := withoutSpec(obj)
	if bare == nil {
		return
	}
	f := &fare{object: bare, since: obj.GetResourceVersion(), digest: editionOfObject(obj).digest()}
	conditions, _ := conditionsOf(obj)
	if o := observedOf(*conditions); o.digest == f.digest {
		f.since = o.since // whoever writes a status makes another resourceVersion of the same
	} else if was := r.fares[ref]; was != nil && was.digest == f.digest {
		f.since = was.since // and so does who writes a finalizer
	}
	if h, ok := obj.(*v3.HostEndpoint); ok {
		f.node = h.Spec.Node
	}
	if corrupt != nil {
		f.corrupt, f.refused = true, fmt.Sprintf("%v, and nothing of it is enforced: %v", store.ErrCorruptObject, corrupt)
	} else if err := policy.NewIndex("", policy.Options{}).Set(obj); policy.OnlyNotices(err) {
		for _, n := range policy.Notices(err) {
			f.notices = append(f.notices, n.Error())
		}
	} else {
		f.refused = err.Error()
	}
	r.fares[ref] = f
}

// withoutSpec is what a status can be written onto; nil for a kind that has none.
func withoutSpec(obj client.Object) client.Object {
	have, observed := conditionsOf(obj)
	if have == nil {
		return nil
	}
	made, err := store.Scheme.New(obj.GetObjectKind().GroupVersionKind())
	bare, ok := made.(client.Object)
	if err != nil || !ok {
		return nil
	}
	bare.GetObjectKind().SetGroupVersionKind(obj.GetObjectKind().GroupVersionKind())
	bare.SetNamespace(obj.GetNamespace())
	bare.SetName(obj.GetName())
	bare.SetUID(obj.GetUID())
	bare.SetGeneration(obj.GetGeneration())
	bare.SetDeletionTimestamp(obj.GetDeletionTimestamp())
	bare.SetResourceVersion(obj.GetResourceVersion())
	conditions, generation := conditionsOf(bare)
	*conditions = *have
	if observed != nil {
		*generation = *observed
	}
	return bare
}

// write every status that is not as it should be. Who was beaten to it is told what there is now, and looks again.
func (r *Rollup) write(ctx context.Context) error {
	var changed []client.Object
	reports := r.known()
	r.count(reports)
	for ref, f := range r.fares {
		conditions, generation := conditionsOf(f.object)
		want := f.fares(reports)
		if equality.Semantic.DeepEqual(want, *conditions) && (generation == nil || *generation == f.object.GetGeneration()) {
			continue
		}
		r.Metrics.statusWrites.WithLabelValues(ref.Kind).Inc()
		if f.told == nil { // what could not be written is not told again
			f.told = *conditions
		}
		r.tell(f.object, f.told, want)
		f.told = want
		o := f.object.DeepCopyObject().(client.Object)
		conditions, generation = conditionsOf(o)
		*conditions = want
		if generation != nil {
			*generation = o.GetGeneration()
		}
		changed = append(changed, o)
	}
	if len(changed) == 0 {
		return nil
	}
	return withoutBeaten(r.Store.PutStatus(ctx, changed...))
}

func (r *Rollup) count(reports []*report) {
	enforcing, refused := 0, 0
	for _, said := range reports {
		if said.failing == "" && len(said.observed) > 0 {
			enforcing++
		}
	}
	for _, f := range r.fares {
		if f.refused != "" {
			refused++
		}
	}
	r.Metrics.nodes.WithLabelValues("true").Set(float64(enforcing))
	r.Metrics.nodes.WithLabelValues("false").Set(float64(len(reports) - enforcing))
	r.Metrics.notAccepted.Set(float64(refused))
}

// tell people of what has become of an object that they should see.
func (r *Rollup) tell(about client.Object, was, now []metav1.Condition) {
	if r.Event == nil {
		return
	}
	for i := range now {
		c := &now[i]
		before := apimeta.FindStatusCondition(was, c.Type)
		bad := c.Type == v3.ConditionAccepted && c.Status == metav1.ConditionFalse || c.Type == v3.ConditionWarning ||
			c.Type == v3.ConditionProgrammed && c.Reason == v3.ReasonFailed
		same := before != nil && before.Status == c.Status && before.Reason == c.Reason && (before.Message == c.Message || c.Type == v3.ConditionProgrammed)
		switch {
		case bad && !same:
			r.Event(about, true, c.Type+c.Reason, c.Message)
		case c.Type == v3.ConditionProgrammed && c.Status == metav1.ConditionTrue && !same:
			r.Event(about, false, c.Reason, c.Message)
		}
	}
}

// withoutBeaten leaves out of joined errors those that a later event mends.
func withoutBeaten(err error) error {
	var rest []error
	for _, e := range parts(err) {
		if !errors.Is(e, store.ErrConflict) && !errors.Is(e, store.ErrNotFound) {
			rest = append(rest, e)
		}
	}
	return errors.Join(rest...)
}

func parts(err error) (out []error) {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		if err == nil {
			return nil
		}
		return []error{err}
	}
	for _, e := range joined.Unwrap() {
		out = append(out, parts(e)...)
	}
	return out
}
