package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// judge decides about objects that are said to be deleted. Whoever deletes a CRD deletes all objects of its kind first, and each is told
// as if somebody had meant it: with the CRDs of policy all policy would go. While the CRD is on its way out, or gone, what was told of
// its kind stays.
func (d *feed) judge(ctx context.Context) {
	again := time.NewTimer(0)
	<-again.C
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.doubts:
		case <-again.C:
		}
		if d.decide(ctx) != nil {
			again.Reset(time.Second)
		}
	}
}

func (d *feed) decide(ctx context.Context) error {
	d.mu.Lock()
	refs := slices.Collect(maps.Keys(d.doubted))
	d.mu.Unlock()
	if len(refs) == 0 {
		return nil
	}
	going, err := d.going(ctx) // asked after they were said to be deleted
	switch {
	case ctx.Err() != nil:
		return nil
	case apierrors.IsForbidden(err): // who may not know believes, or nothing could be deleted any more; and says so
		d.failed(fmt.Errorf("what is said to be deleted is, though perhaps its CRD is being deleted: %w", err))
	case err != nil:
		d.failed(err)
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, ref := range refs {
		if !going && d.doubted[ref] {
			delete(d.doubted, ref)
			d.forget(ref)
		}
	}
	if going {
		d.complain(d.kind.Kind+" going", fmt.Errorf("%s: its CRD is being deleted: what was told of it stays in force until the CRD is there again", d.kind.GVK.GroupKind()))
	}
	d.ring()
	return nil
}

// going tells whether a kind's CRD is being deleted, or is gone.
func (k *Kube) going(ctx context.Context, kind *Kind) (bool, error) {
	r := kind.resource()
	crd, err := k.dynamic.Resource(crdResource).Get(ctx, r.Resource+"."+r.Group, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	return err == nil && crd.GetDeletionTimestamp() != nil, err
}

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
