package controllers

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
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
type Rollup struct {
	Store store.Store
	Log   *slog.Logger
	Once  bool // return when every status was written once

	fares   map[v3.Ref]*fare
	reports map[string]*report
	said    string // the last complaint
}

// Run writes statuses until ctx ends. An error is only of Once; otherwise what could not be written is tried again.
func (r *Rollup) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	r.fares, r.reports = map[v3.Ref]*fare{}, map[string]*report{}
	batches, synced := coalesce(ctx, r.Store.Watch(ctx)), false
	again := retry{first: time.Second, most: time.Minute}
	for {
		select {
		case <-ctx.Done():
			return nil
		case b, open := <-batches:
			switch {
			case !open:
				return ended(ctx, "the store")
			case b.err != nil && r.Once:
				return b.err
			case b.err != nil:
				continue // which the agent has said
			}
			synced = true
			for _, e := range b.events {
				r.take(e)
			}
		case <-again.due():
		}
		if !synced {
			continue
		}
		err := r.write(ctx)
		if r.Once {
			return err
		}
		if err == nil {
			again.stop()
			r.said = ""
			continue
		}
		again.later()
		if r.said != err.Error() && ctx.Err() == nil {
			r.said = err.Error()
			r.Log.Warn("the status of objects cannot be written", "error", err)
		}
	}
}

func (r *Rollup) take(e store.Event) {
	switch {
	case e.Ref.Kind == kindReport && e.Type == store.Deleted:
		delete(r.reports, e.Ref.Name)
	case e.Ref.Kind == kindReport:
		if o, ok := e.Object.(*v1alpha1.NodeReport); ok {
			r.reports[o.Name] = reportOf(o)
		}
	case e.Type == store.Deleted:
		delete(r.fares, e.Ref)
	default:
		r.object(e.Ref, e.Object)
	}
}

// object notes how an object fares by itself.
func (r *Rollup) object(ref v3.Ref, obj client.Object) {
	bare := withoutSpec(obj)
	if bare == nil {
		return
	}
	f := &fare{object: bare, since: obj.GetResourceVersion(), digest: editionOfObject(obj).digest()}
	conditions, _ := conditionsOf(obj)
	if o := observedOf(*conditions); o.digest == f.digest {
		f.since = o.since // whoever writes a status makes another resourceVersion of the same
	}
	if h, ok := obj.(*v3.HostEndpoint); ok {
		f.node = h.Spec.Node
	}
	if err := policy.NewIndex("", policy.Options{}).Set(obj); policy.OnlyNotices(err) {
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
	for _, f := range r.fares {
		conditions, generation := conditionsOf(f.object)
		want := f.fares(r.reports)
		if equality.Semantic.DeepEqual(want, *conditions) && (generation == nil || *generation == f.object.GetGeneration()) {
			continue
		}
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
