package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	goruntime "runtime"
	"strconv"
	"sync"

	"go.etcd.io/bbolt"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Tx is one transaction of a Bolt: what it reads is one state of the store with its own changes.
type Tx struct {
	raw                    *bbolt.Tx
	meta, objects, journal *bbolt.Bucket
	last, revision         uint64 // before and, once something changed, after
	state                  []byte // before
	sum                    [sealSize]byte
	changed                [][]byte // keys
}

// Get gives one object, or ErrNotFound.
func (tx *Tx) Get(ref v3.Ref) (client.Object, error) {
	text := get(tx.objects, keyOf(ref))
	if text == nil {
		return nil, fmt.Errorf("%s %w", ref, ErrNotFound)
	}
	return decodeStored(ref, text)
}

// List gives the objects of a kind in a namespace, or in all when namespace is "", sorted by namespace and name.
func (tx *Tx) List(kind, namespace string) ([]client.Object, error) {
	var refs []v3.Ref
	var texts [][]byte
	err := tx.each(kind, namespace, func(ref v3.Ref, text []byte) {
		refs, texts = append(refs, ref), append(texts, bytes.Clone(text))
	})
	if err != nil {
		return nil, err
	}
	return decodeAll(refs, texts)
}

// each tells of those objects that List gives, as they are stored.
func (tx *Tx) each(kind, namespace string, f func(ref v3.Ref, text []byte)) error {
	prefix := []byte(kind + "\x00")
	if namespace != "" {
		prefix = []byte(kind + "\x00" + namespace + "\x00")
	}
	c := tx.objects.Cursor()
	for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		ref, err := refOfKey(k)
		if err != nil {
			return err
		}
		f(ref, unsealed(v))
	}
	return nil
}

// decodeAll on all processors, for it is what a long list costs most. The texts are no memory of the file's: what a truncated file does to
// those that read it is caught in one goroutine only.
func decodeAll(refs []v3.Ref, texts [][]byte) ([]client.Object, error) {
	out, errs := make([]client.Object, len(refs)), make([]error, goruntime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for p := range errs {
		wg.Go(func() {
			for i := p; i < len(refs) && errs[p] == nil; i += len(errs) {
				out[i], errs[p] = decodeStored(refs[i], texts[i])
			}
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

func decodeStored(ref v3.Ref, text []byte) (client.Object, error) {
	k := refKind(ref.Kind)
	if k == nil {
		return nil, fmt.Errorf("%s: %w: this version has no such kind", ref, ErrCorrupt)
	}
	obj, err := k.empty()
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, obj); err != nil {
		return nil, fmt.Errorf("%s: %w: %v", ref, ErrCorrupt, err)
	}
	return obj, nil
}

// Create adds an object, and gives it as it is stored.
func (tx *Tx) Create(obj client.Object) (client.Object, error) {
	ref := v3.RefOf(obj.(v3.Object))
	kind, err := storable(ref)
	switch {
	case err != nil:
		return nil, err
	case tx.objects.Get(keyOf(ref)) != nil:
		return nil, fmt.Errorf("%s %w", ref, ErrExists)
	case obj.GetResourceVersion() != "":
		return nil, fmt.Errorf("%s: %w: metadata.resourceVersion must be empty when an object is created", ref, ErrInvalid)
	}
	u, err := toUnstructured(obj)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	keepServerFields(u, nil, kind)
	begins(u)
	return tx.store(ref, u, nil, kind.managers)
}

// Update replaces an object's labels, annotations and spec, and gives it as it is stored. Nothing is written when nothing
// changes.
func (tx *Tx) Update(obj client.Object) (client.Object, error) {
	ref := v3.RefOf(obj.(v3.Object))
	kind, err := storable(ref)
	if err != nil {
		return nil, err
	}
	old, u, err := tx.both(ref, obj)
	if err != nil {
		return nil, err
	}
	keepServerFields(u, old, kind)
	return tx.store(ref, u, old, kind.managers)
}

// Apply makes of an object's fields what obj says of them, and leaves the others.
func (tx *Tx) Apply(obj *unstructured.Unstructured, o ApplyOptions) (client.Object, error) {
	ref, kind, err := refOfUntyped(obj)
	if err != nil {
		return nil, err
	}
	old, err := tx.stored(ref, obj.GetResourceVersion())
	if errors.Is(err, ErrNotFound) && obj.GetResourceVersion() == "" {
		old, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	u, err := kind.merged(old, kind.applicable(obj), o)
	switch {
	case len(conflicts(err)) > 0:
		return nil, owned(ref, err)
	case err != nil:
		return nil, fmt.Errorf("%s %w: %w", ref, ErrInvalid, err)
	}
	if old == nil {
		begins(u)
	}
	return tx.store(ref, u, old, func(_, u *unstructured.Unstructured) ([]metav1.ManagedFieldsEntry, error) {
		return u.GetManagedFields(), nil
	})
}

// begins gives a new object what a store gives it.
func begins(u *unstructured.Unstructured) {
	u.SetUID(uuid.NewUUID())
	u.SetCreationTimestamp(metav1.Now().Rfc3339Copy())
	u.SetGeneration(1)
}

// UpdateStatus replaces an object's status and nothing else, and gives the object as it is stored. What else there is was admitted
// once and is not judged again: just an object that would be refused today must be told so.
func (tx *Tx) UpdateStatus(obj client.Object) (client.Object, error) {
	ref := v3.RefOf(obj.(v3.Object))
	if _, err := storable(ref); err != nil {
		return nil, err
	}
	old, u, err := tx.both(ref, obj)
	if err != nil {
		return nil, err
	}
	if status := u.Object["status"]; status != nil {
		old.Object["status"] = status
	} else {
		delete(old.Object, "status")
	}
	text, err := json.Marshal(old.Object)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	now, err := decodeStored(ref, text)
	if err != nil {
		return nil, err
	}
	return tx.write(ref, now)
}

// both are an object as it is stored and as it is offered.
func (tx *Tx) both(ref v3.Ref, obj client.Object) (old, u *unstructured.Unstructured, err error) {
	if old, err = tx.stored(ref, obj.GetResourceVersion()); err != nil {
		return nil, nil, err
	}
	if u, err = toUnstructured(obj); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", ref, err)
	}
	return old, u, nil
}

// stored is an object as it is stored, which must be of that resourceVersion unless that is "".
func (tx *Tx) stored(ref v3.Ref, resourceVersion string) (*unstructured.Unstructured, error) {
	text := get(tx.objects, keyOf(ref))
	if text == nil {
		return nil, fmt.Errorf("%s %w", ref, ErrNotFound)
	}
	old := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(text, &old.Object); err != nil {
		return nil, fmt.Errorf("%s: %w: %v", ref, ErrCorrupt, err)
	}
	if resourceVersion != "" && resourceVersion != old.GetResourceVersion() {
		return nil, fmt.Errorf("%s %w", ref, ErrConflict)
	}
	return old, nil
}

// refOfUntyped names an object that has no Go type yet.
func refOfUntyped(u *unstructured.Unstructured) (v3.Ref, *Kind, error) {
	kind, err := kindOf(u.GetAPIVersion(), u.GetKind())
	if err != nil {
		return v3.Ref{}, nil, err
	}
	return v3.Ref{Kind: kind.Kind, Namespace: u.GetNamespace(), Name: u.GetName()}, kind, nil
}

// storable gives the kind that ref names.
func storable(ref v3.Ref) (*Kind, error) {
	if k := refKind(ref.Kind); k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("%s: %w: a store holds no objects of kind %q; every object must carry its apiVersion and kind", ref, ErrInvalid, ref.Kind)
}

// keepServerFields takes over from old, or leaves out when there is none, what is not the user's to say: all metadata but name,
// namespace, labels and annotations (contract §6.5), and the status of kinds whose status is ours. Of Kubernetes' other kinds the store
// only keeps what is true elsewhere: their status, and that they are being deleted, are told to it.
func keepServerFields(u, old *unstructured.Unstructured, kind *Kind) {
	meta := map[string]any{"name": u.GetName()}
	if u.GetNamespace() != "" {
		meta["namespace"] = u.GetNamespace()
	}
	var status any
	if old != nil {
		meta, status = old.Object["metadata"].(map[string]any), old.Object["status"]
	}
	labels, annotations, deleted := u.GetLabels(), u.GetAnnotations(), u.GetDeletionTimestamp()
	u.Object["metadata"] = runtime.DeepCopyJSON(meta)
	u.SetLabels(labels)
	u.SetAnnotations(annotations)
	if !kind.Calico() {
		u.SetDeletionTimestamp(deleted)
	}
	switch {
	case kind.ownStatus() && status == nil:
		delete(u.Object, "status")
	case kind.ownStatus():
		u.Object["status"] = status
	}
}

// store admits u and writes it, unless it is what is there. managers tell who has which of its fields then.
func (tx *Tx) store(ref v3.Ref, u, old *unstructured.Unstructured,
	managers func(old, u *unstructured.Unstructured) ([]metav1.ManagedFieldsEntry, error)) (client.Object, error) {
	obj, errs := Admit(u.DeepCopy(), old)
	if len(errs) > 0 {
		return nil, fmt.Errorf("%s %w: %w", ref, ErrInvalid, errs.ToAggregate())
	}
	if err := allowed(tx, ref, obj, old != nil); err != nil {
		return nil, err
	}
	u, err := toUnstructured(obj)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	var was client.Object
	differs := true
	if old != nil {
		if was, err = tx.Get(ref); err != nil {
			return nil, err
		}
		// both from Go types: what was read from JSON has other types of numbers
		before, err := toUnstructured(was)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
		if !reflect.DeepEqual(u.Object["spec"], before.Object["spec"]) {
			obj.SetGeneration(old.GetGeneration() + 1)
		}
		differs = !reflect.DeepEqual(withoutManagers(u), withoutManagers(before))
	}
	if differs || !sameManagers(obj, was) {
		entries, err := managers(old, u)
		if err != nil {
			return nil, fmt.Errorf("%s: who manages its fields: %w", ref, err)
		}
		obj.SetManagedFields(entries)
	}
	if !differs && sameManagers(obj, was) {
		return was, nil
	}
	return tx.write(ref, obj)
}

func withoutManagers(u *unstructured.Unstructured) map[string]any {
	out := runtime.DeepCopyJSON(u.Object)
	delete(out["metadata"].(map[string]any), "managedFields") // every object has metadata
	return out
}

func (tx *Tx) write(ref v3.Ref, obj client.Object) (client.Object, error) {
	tx.revision = tx.last + 1
	obj.SetResourceVersion(strconv.FormatUint(tx.revision, 10))
	text, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	tx.changed = append(tx.changed, keyOf(ref))
	return obj, tx.put(tx.objects, keyOf(ref), text)
}

// Delete removes an object, or gives ErrNotFound.
func (tx *Tx) Delete(ref v3.Ref) error {
	if tx.objects.Get(keyOf(ref)) == nil {
		return fmt.Errorf("%s %w", ref, ErrNotFound)
	}
	if err := deletable(tx, ref); err != nil {
		return err
	}
	tx.revision = tx.last + 1
	tx.changed = append(tx.changed, keyOf(ref))
	return tx.remove(tx.objects, keyOf(ref))
}
