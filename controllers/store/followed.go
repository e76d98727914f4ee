package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// followed is an object as it is told.
type followed struct {
	metav1.ObjectMeta // its key, for who keeps it meanwhile
	ref               v3.Ref
	object            client.Object
	corrupt           error
}

// convert decodes and strips what a reflector gives. One that cannot be decoded stays, as its metadata.
func (d *feed) convert(obj any) (*followed, error) {
	switch o := obj.(type) {
	case *followed:
		return o, nil
	case cache.DeletedFinalStateUnknown:
		return d.convert(o.Obj)
	case *unstructured.Unstructured:
		typed, err := d.kind.read(o)
		if err == nil {
			typed.SetManagedFields(nil)
			return d.follow(typed, nil), nil
		}
		bare, bareErr := d.kind.withoutSpec(o)
		if bareErr != nil {
			return nil, bareErr
		}
		return d.follow(bare, err), nil
	case client.Object:
		o.GetObjectKind().SetGroupVersionKind(d.kind.GVK)
		return d.follow(strip(o), nil), nil
	}
	return nil, fmt.Errorf("%s: a %T is no object", d.kind.Kind, obj)
}

// withoutSpec keeps of an object that cannot be decoded what can be: its metadata, and its status if that is not what is wrong.
func (k *Kind) withoutSpec(u *unstructured.Unstructured) (client.Object, error) {
	var errs []error
	for _, fields := range [][]string{{"metadata", "status"}, {"metadata"}} {
		part := &unstructured.Unstructured{Object: map[string]any{}}
		for _, f := range fields {
			if v, ok := u.Object[f]; ok {
				part.Object[f] = v
			}
		}
		part.SetGroupVersionKind(k.GVK)
		obj, err := k.read(part)
		if err == nil {
			obj.SetManagedFields(nil)
			return obj, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (d *feed) follow(o client.Object, corrupt error) *followed {
	return &followed{metav1.ObjectMeta{Namespace: o.GetNamespace(), Name: o.GetName()},
		v3.Ref{Kind: d.kind.Kind, Namespace: o.GetNamespace(), Name: o.GetName()}, o, corrupt}
}

// sealOf tells two states of an object apart: by its version or, where much is written that nobody asks, by what is left of it.
func (d *feed) sealOf(o *followed) uint64 {
	var h maphash.Hash
	h.SetSeed(d.seed)
	if !stripped[o.ref.Kind] {
		h.WriteString(string(o.object.GetUID()) + " " + o.object.GetResourceVersion())
		return h.Sum64()
	}
	version := o.object.GetResourceVersion()
	o.object.SetResourceVersion("")
	text, err := json.Marshal(o.object)
	o.object.SetResourceVersion(version)
	if err != nil { // then its version says enough
		text = strconv.AppendQuote(nil, version)
	}
	_, _ = h.Write(text) // a hash takes all
	return h.Sum64()
}
