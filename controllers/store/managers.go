package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/config/crd"
)

// fieldManager is who writes without saying who he is.
const fieldManager = "tierctl"

// fieldManagers know for each kind how an API server keeps account of who manages which field. To make one compiles the kind's schema.
var fieldManagers = func() map[string]func() (*managedfields.FieldManager, error) {
	out := map[string]func() (*managedfields.FieldManager, error){}
	for i := range kinds {
		out[kinds[i].Kind] = sync.OnceValues(kinds[i].fieldManager)
	}
	return out
}()

func (k *Kind) fieldManager() (*managedfields.FieldManager, error) {
	types := managedfields.NewDeducedTypeConverter() // each list is one value
	schema, err := crd.OpenAPI(k.GVK)
	if err != nil {
		return nil, err
	}
	if schema != nil {
		if types, err = managedfields.NewTypeConverter(map[string]*spec.Schema{k.Kind: schema}, false); err != nil {
			return nil, err
		}
	}
	return managedfields.NewDefaultCRDFieldManager(types, schemaless{}, schemaless{}, schemaless{}, k.GVK, k.GVK.GroupVersion(), "", nil)
}

// schemaless converts nothing: objects have one version and are defaulted when they are admitted.
type schemaless struct{ runtime.ObjectConvertor }

// ConvertToVersion implements runtime.ObjectConvertor.
func (schemaless) ConvertToVersion(o runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	return o, nil
}

// Default implements runtime.ObjectDefaulter.
func (schemaless) Default(runtime.Object) {}

// New implements runtime.ObjectCreater.
func (schemaless) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(kind)
	return u, nil
}

// managers are those of the fields of u, which a plain write makes of old; old is nil when there was none.
func (k *Kind) managers(old, u *unstructured.Unstructured) ([]metav1.ManagedFieldsEntry, error) {
	f, err := fieldManagers[k.Kind]()
	if err != nil {
		return nil, err
	}
	if old == nil {
		old = k.nothing()
	}
	old, u = old.DeepCopy(), u.DeepCopy()
	if k.ownStatus() {
		delete(old.Object, "status")
		delete(u.Object, "status")
	}
	out, err := f.Update(old, u, fieldManager)
	if err != nil {
		return nil, err
	}
	return out.(*unstructured.Unstructured).GetManagedFields(), nil // it gives what it was given
}

// merged gives old with what a server-side apply says; old is nil when there was none.
func (k *Kind) merged(old, applied *unstructured.Unstructured, o ApplyOptions) (*unstructured.Unstructured, error) {
	f, err := fieldManagers[k.Kind]()
	if err != nil {
		return nil, err
	}
	if old == nil {
		old = k.nothing()
	}
	out, err := f.Apply(old.DeepCopy(), applied.DeepCopy(), o.Manager, o.Force)
	if !o.Force && onlyWith(err, o.Manager) {
		out, err = f.Apply(old.DeepCopy(), applied.DeepCopy(), o.Manager, true)
	}
	if err != nil {
		return nil, err
	}
	return out.(*unstructured.Unstructured), nil
}

func (k *Kind) nothing() *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(k.GVK)
	return u
}

// applicable is what of a file a server-side apply may say: name, namespace, labels, annotations and spec, as of any other write, and the
// resourceVersion that the object must have.
func (k *Kind) applicable(obj *unstructured.Unstructured) *unstructured.Unstructured {
	out := obj.DeepCopy()
	meta, _ := out.Object["metadata"].(map[string]any) // an object without metadata has no name, and was refused
	for name := range meta {
		switch name {
		case "name", "namespace", "labels", "annotations", "resourceVersion":
		default:
			delete(meta, name)
		}
	}
	if k.ownStatus() {
		delete(out.Object, "status")
	}
	return out
}

// conflicts are the fields that another manager has, as the API server tells them.
func conflicts(err error) (out []metav1.StatusCause) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return nil
	}
	for _, c := range status.Status().Details.Causes {
		if c.Type == metav1.CauseTypeFieldManagerConflict {
			out = append(out, c)
		}
	}
	return out
}

// onlyWith tells whether all of a conflict is with what the same manager wrote without a server-side apply: his are the fields either way.
func onlyWith(err error, manager string) bool {
	all := conflicts(err)
	for _, c := range all {
		if !strings.HasPrefix(c.Message, fmt.Sprintf("conflict with %q using", manager)) {
			return false
		}
	}
	return len(all) > 0
}

// owned says of each field who has it.
func owned(ref v3.Ref, err error) error {
	var errs field.ErrorList
	for _, c := range conflicts(err) {
		who := strings.TrimPrefix(c.Message, "conflict with ")
		errs = append(errs, &field.Error{Type: field.ErrorTypeForbidden, Field: strings.TrimPrefix(c.Field, "."), Detail: "managed by " + who +
			": leave it out, give it the value that it has, or take it with --force-conflicts"})
	}
	return fmt.Errorf("%s %w: %w", ref, ErrOwned, errs.ToAggregate())
}

// sameManagers tells whether two objects have the same managers of the same fields, whenever they became that.
func sameManagers(a, b client.Object) bool {
	x, errX := json.Marshal(timeless(a.GetManagedFields()))
	y, errY := json.Marshal(timeless(b.GetManagedFields()))
	return errX == nil && errY == nil && string(x) == string(y)
}

func timeless(entries []metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry {
	out := make([]metav1.ManagedFieldsEntry, len(entries))
	for i, e := range entries {
		e.Time = nil
		out[i] = e
	}
	return out
}
