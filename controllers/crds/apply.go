package crds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
)

// Apply makes all CRDs ours, or changes nothing, as far as can be told before, for all is tried without effect first: those that are not there are installed, ours upgraded, and another's taken over, whose spec is
// kept in an annotation for Restore. Objects that are stored in a version which goes are written again. It can be done again, also when it
// was broken off. A CRD of a later tierctl stays as it is, and objects lose nothing, unless it is forced. say is told what was done.
func (c *Cluster) Apply(ctx context.Context, force bool, say func(crd, done string)) error {
	findings, err := c.Check(ctx)
	if err != nil {
		return err
	}
	if err := refusals(findings, force); err != nil {
		return err
	}
	findings = slices.DeleteFunc(findings, func(f Finding) bool {
		later := f.State == Newer && !force
		if later {
			say(f.Name, "is of a later tierctl: left as it is")
		}
		return f.State == Current || later
	})
	for _, dry := range []bool{true, false} {
		for i := range findings {
			if err := c.apply(ctx, &findings[i], dry, say); err != nil {
				return fmt.Errorf("%s: %w", findings[i].Name, err)
			}
		}
	}
	return nil
}

// refusals are the reasons why all of them cannot be applied, in one error.
func refusals(findings []Finding, force bool) error {
	var why []error
	for i := range findings {
		f := &findings[i]
		if f.State == Newer && !force || f.Applicable(force) {
			continue
		}
		for _, r := range f.Reasons {
			why = append(why, fmt.Errorf("%s: %s", f.Name, r))
		}
		for _, l := range f.Losses {
			why = append(why, fmt.Errorf("%s: %s", f.Name, l))
		}
	}
	if len(why) == 0 {
		return nil
	}
	return fmt.Errorf("%w:\n%w", ErrRefused, errors.Join(why...))
}

// apply one CRD: with the versions in which objects are still stored, until they are no more.
func (c *Cluster) apply(ctx context.Context, f *Finding, dry bool, say func(crd, done string)) error {
	first, left, err := f.successor()
	if err != nil {
		return err
	}
	if err := c.put(ctx, first, dry); err != nil || dry {
		return err
	}
	if len(left) > 0 {
		n, err := c.rewrite(ctx, f.want.CRD, f.have == nil || version(f.have, storage(f.want.CRD)) == nil)
		if err != nil {
			return err
		}
		if err := c.forget(ctx, f.want.CRD); err != nil {
			return err
		}
		say(f.Name, fmt.Sprintf("%d objects written again as %s, none is stored as %s any more", n, storage(f.want.CRD), strings.Join(left, ", ")))
		f.have.Status.StoredVersions = []string{storage(f.want.CRD)}
		last, _, err := f.successor()
		if err != nil {
			return err
		}
		if err := c.put(ctx, last, false); err != nil {
			return err
		}
	}
	say(f.Name, map[State]string{Absent: "installed", Older: "upgraded", Newer: "downgraded", Foreign: "taken over; tierctl crds restore undoes that"}[f.State])
	return nil
}

// successor is what takes a CRD's place: ours, and the versions left in which objects are stored.
func (f *Finding) successor() (out *apiextensionsv1.CustomResourceDefinition, left []string, err error) {
	out = f.want.CRD.DeepCopy()
	out.Labels = map[string]string{ManagedLabel: manager}
	if f.have == nil {
		return out, nil, nil
	}
	if kept, ok := f.have.Annotations[ReplacedAnnotation]; ok {
		out.Annotations[ReplacedAnnotation] = kept
	} else if f.State == Foreign {
		if out.Annotations[ReplacedAnnotation], err = pack(&f.have.Spec); err != nil {
			return nil, nil, err
		}
	}
	for _, name := range f.have.Status.StoredVersions {
		if v := version(f.have, name); v != nil && version(out, name) == nil {
			old := v.DeepCopy()
			old.Storage = false
			out.Spec.Versions = append(out.Spec.Versions, *old)
			left = append(left, name)
		}
	}
	return out, left, nil
}

// put a CRD by server-side apply: what others have set beside it stays. It waits until objects of it can be written.
func (c *Cluster) put(ctx context.Context, want *apiextensionsv1.CustomResourceDefinition, dry bool) error {
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(want)
	if err != nil {
		return err
	}
	unstructured.RemoveNestedField(object, "status")
	unstructured.RemoveNestedField(object, "metadata", "creationTimestamp")
	u := &unstructured.Unstructured{Object: object}
	u.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	text, err := u.MarshalJSON()
	if err != nil {
		return err
	}
	force := true
	options := metav1.PatchOptions{FieldManager: manager, Force: &force}
	if dry {
		options.DryRun = []string{metav1.DryRunAll}
	}
	if _, err := c.dynamic.Resource(crdResource).Patch(ctx, want.Name, types.ApplyPatchType, text, options); err != nil || dry {
		return err
	}
	return c.established(ctx, want)
}

const (
	established = 30 * time.Second // is how long a CRD may take until it is served
	settled     = 5 * time.Second  // and how long until its objects are stored in another version
)

func (c *Cluster) established(ctx context.Context, want *apiextensionsv1.CustomResourceDefinition) error {
	serves := schema.GroupVersionResource{Group: want.Spec.Group, Version: storage(want), Resource: want.Spec.Names.Plural}
	var last error
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, established, true, func(ctx context.Context) (bool, error) {
		_, last = c.dynamic.Resource(serves).List(ctx, metav1.ListOptions{Limit: 1})
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("it is not served: %w", errors.Join(last, err))
	}
	return nil
}

// rewrite every object as it is, so that it is stored in the version for storage, and tell how many there are. switched says that the API
// server is known to store in that version.
func (c *Cluster) rewrite(ctx context.Context, of *apiextensionsv1.CustomResourceDefinition, switched bool) (n int, err error) {
	resource := schema.GroupVersionResource{Group: of.Spec.Group, Version: storage(of), Resource: of.Spec.Names.Plural}
	err = c.each(ctx, of, storage(of), func(u *unstructured.Unstructured) error {
		n++
		beaten := false
		put := func(ctx context.Context) (changed bool, err error) {
			now, err := c.dynamic.Resource(resource).Namespace(u.GetNamespace()).Update(ctx, u, metav1.UpdateOptions{FieldManager: manager})
			switch {
			case apierrors.IsConflict(err), apierrors.IsNotFound(err): // somebody else has written it, or taken it away
				beaten = true
				return true, nil
			case err != nil:
				return false, fmt.Errorf("writing %s/%s again, to be stored as %s: %w", u.GetKind(), u.GetName(), storage(of), err)
			}
			return now.GetResourceVersion() != u.GetResourceVersion(), nil
		}
		if switched {
			_, err := put(ctx)
			return err
		}
		// The API server takes a moment to store in another version, and says nowhere that it does; but then it writes what has not changed.
		// What it does not write by then was written before.
		err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, settled, true, put)
		switched = !beaten
		if wait.Interrupted(err) && ctx.Err() == nil {
			return nil
		}
		return err
	})
	return n, err
}

// forget the versions in which nothing is stored any more.
func (c *Cluster) forget(ctx context.Context, of *apiextensionsv1.CustomResourceDefinition) error {
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"storedVersions": []string{storage(of)}}})
	if err != nil {
		return err
	}
	_, err = c.dynamic.Resource(crdResource).Patch(ctx, of.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: manager}, "status")
	return err
}
