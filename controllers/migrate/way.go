package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/cleanup"
)

// thing is where a thing is.
func (s *Site) thing(t *cleanup.Thing) dynamic.ResourceInterface {
	return s.dynamic.Resource(at(t.APIVersion, t.Resource))
}

// remove what is in the way. An APIService that leads nowhere is the API server's own.
func (r *run) remove(ctx context.Context, t *cleanup.Thing) error {
	return r.await(ctx, t.String()+" does not go: somebody makes it again", func() (bool, error) {
		u, err := r.thing(t).Get(ctx, t.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && u.GetKind() == "APIService" && !leads(u) {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("%s: %w", t, err)
		}
		if err := r.step("deleting " + t.String()); err != nil {
			return false, err
		}
		uid := u.GetUID()
		err = r.thing(t).Delete(ctx, t.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return false, fmt.Errorf("deleting %s: %w", t, err)
		}
		r.say(t.String() + " deleted")
		return false, nil
	})
}

// restore what was in the way. An APIService leads again where it led.
func (r *run) restore(ctx context.Context, t *cleanup.Thing) error {
	text, err := r.Saved(t.String())
	if err != nil {
		return fmt.Errorf("journal: %s: %w", t, err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(text); err != nil {
		return fmt.Errorf("journal: %s: %w", t, err)
	}
	u.Object["metadata"] = map[string]any{"name": u.GetName(), "labels": u.Object["metadata"].(map[string]any)["labels"], "annotations": u.Object["metadata"].(map[string]any)["annotations"]}
	delete(u.Object, "status")
	return r.await(ctx, t.String()+" does not stay as it was: somebody changes it", func() (bool, error) {
		now, err := r.thing(t).Get(ctx, t.Name, metav1.GetOptions{})
		if err == nil && (now.GetKind() != "APIService" || leads(now)) {
			return true, nil
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return false, fmt.Errorf("%s: %w", t, err)
		}
		if err := r.step("restoring " + t.String()); err != nil {
			return false, err
		}
		if err == nil { // the API server's own, for our CRDs
			u.SetResourceVersion(now.GetResourceVersion())
			_, err = r.thing(t).Update(ctx, u, metav1.UpdateOptions{FieldManager: "tierctl"})
		} else {
			u.SetResourceVersion("")
			_, err = r.thing(t).Create(ctx, u, metav1.CreateOptions{FieldManager: "tierctl"})
		}
		switch {
		case err == nil:
			r.say(t.String() + " restored")
		case !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err):
			return false, fmt.Errorf("restoring %s: %w", t, err)
		}
		return false, nil
	})
}

// leads tells whether an APIService leads to a server.
func leads(u *unstructured.Unstructured) bool {
	service, found, err := unstructured.NestedMap(u.Object, "spec", "service")
	return err == nil && found && service != nil
}

// ours refuses to touch objects while another server has them: they would be Calico's own.
func (r *run) ours(ctx context.Context) error {
	if r.dynamic == nil {
		return nil
	}
	var of Source
	if err := r.aggregated(ctx, &of); err != nil || of.service == "" {
		return err
	}
	return fmt.Errorf("APIService %s leads to %s again: what that serves is Calico's, and stays as it is; kubectl delete apiservice %[1]s, and see that nobody makes it anew", of.found, of.service)
}

// settle looks, before anything is written, at what an APIService hid when the plan was made: what stood there comes back at rollback. What says
// something else is written over only if that was asked for.
func (r *run) settle(ctx context.Context) error {
	if !slices.ContainsFunc(r.plan.InTheWay, func(t cleanup.Thing) bool { return t.Kind == "APIService" }) || r.Noted("settled") {
		return nil
	}
	var there objects
	err := r.onceServed(ctx, func() (err error) {
		there, err = r.there(ctx)
		return err
	})
	if err != nil {
		return err
	}
	copies := map[string][]byte{}
	var others []string
	for i := range r.plan.Moves {
		m := &r.plan.Moves[i]
		ref := m.Ref()
		now := there[ref]
		want, err := r.copyOf("want " + ref.String())
		if err != nil {
			return err
		}
		if now == nil {
			continue
		}
		if !same(now, want) && !m.Again && !r.plan.Replace && !atFirst(now) {
			others = append(others, ref.String())
		}
		text, err := json.Marshal(now)
		if err != nil {
			return err
		}
		if copies["now "+ref.String()] = text; !m.Again {
			copies["before "+ref.String()] = text
		}
	}
	if err := r.Save(copies); err != nil {
		return err
	}
	if len(others) > 0 {
		return fmt.Errorf("behind APIService %s there was already, and says something else: %s; tierctl migrate rollback, and apply with --replace writes over it",
			v3.GroupVersion.Version+"."+v3.GroupVersion.Group, strings.Join(others, ", "))
	}
	return r.Note("settled")
}
