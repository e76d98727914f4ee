package store

import (
	"errors"
	"slices"
	"strings"

	apimeta "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	strictjson "sigs.k8s.io/json"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/config/crd"
)

// Admit is the only door: what a file or a caller offers becomes an object that can be stored, or is refused with every
// reason. v3 kinds go through their CRD and then v3.Default and v3.Validate; Kubernetes kinds are decoded strictly and asked
// for what policy depends on. An unknown field is an error. old is the stored object on an update, else nil: what was wrong with it already
// may stay, as for the API server, for else nobody could change anything else of it. Numbers in u must be int64 or float64. u is changed.
func Admit(u, old *unstructured.Unstructured) (client.Object, field.ErrorList) {
	kind, err := kindOf(u.GetAPIVersion(), u.GetKind())
	if err != nil {
		return nil, field.ErrorList{kindError(u, err)}
	}
	errs := kind.namespace(u)
	var unknown []string
	if kind.HasCRD() {
		var more field.ErrorList
		unknown, more = crd.Admit(u, old)
		errs = append(errs, withoutNamespace(more)...)
	} else {
		errs = append(errs, withoutNamespace(apimeta.ValidateObjectMetaAccessor(u, kind.Namespaced, kind.nameRule(), field.NewPath("metadata")))...)
	}
	misplaced := unknownFields(unknown)
	if len(errs) > 0 { // of what the schema refuses, the Go types would only say the same again
		return nil, append(misplaced, errs...)
	}
	obj, strict := kind.decode(u)
	if errs = append(misplaced, strict...); obj == nil {
		return nil, errs
	}
	if kind.HasCRD() {
		v3.Default(obj)
		errs = append(errs, unlike(v3.Validate(obj), kind.faults(old))...)
	} else {
		errs = append(errs, validateKubernetes(obj, u)...)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return obj, nil
}

// faults are what Validate says of an object that is stored already.
func (k *Kind) faults(old *unstructured.Unstructured) field.ErrorList {
	if old == nil {
		return nil
	}
	obj, err := k.read(old)
	if err != nil {
		return nil
	}
	return v3.Validate(obj)
}

// unlike leaves out the errors that say of the same value what old ones said.
func unlike(errs, old field.ErrorList) (out field.ErrorList) {
	for _, e := range errs {
		if !slices.ContainsFunc(old, func(o *field.Error) bool { return o.Error() == e.Error() }) {
			out = append(out, e)
		}
	}
	return out
}

func kindError(u *unstructured.Unstructured, err error) *field.Error {
	switch {
	case u.GetKind() == "":
		return field.Required(field.NewPath("kind"), "an object needs a kind, e.g. GlobalNetworkPolicy")
	case u.GetAPIVersion() == "":
		return field.Required(field.NewPath("apiVersion"), "an object needs an apiVersion, e.g. "+v3.GroupVersion.String())
	case strings.HasPrefix(err.Error(), "unknown apiVersion"):
		return &field.Error{Type: field.ErrorTypeNotSupported, Field: "apiVersion", Detail: err.Error()}
	}
	return &field.Error{Type: field.ErrorTypeNotSupported, Field: "kind", Detail: err.Error()}
}

// namespace must be there where the kind has one; elsewhere it is taken away, as the API server does.
func (k *Kind) namespace(u *unstructured.Unstructured) field.ErrorList {
	switch {
	case k.Namespaced && u.GetNamespace() == "":
		return field.ErrorList{field.Required(field.NewPath("metadata", "namespace"), k.GVK.Kind+" is namespaced")}
	case !k.Namespaced:
		u.SetNamespace("")
	}
	return nil
}

// withoutNamespace leaves out what Kind.namespace has said in its own words.
func withoutNamespace(errs field.ErrorList) (out field.ErrorList) {
	for _, e := range errs {
		if e.Field != "metadata.namespace" || e.Type == field.ErrorTypeInvalid {
			out = append(out, e)
		}
	}
	return out
}

func unknownFields(paths []string) (errs field.ErrorList) {
	for _, p := range paths {
		errs = append(errs, &field.Error{Type: field.ErrorTypeForbidden, Field: p, BadValue: "", Detail: unknownField})
	}
	return errs
}

const unknownField = "unknown field"

func (k *Kind) nameRule() apimeta.ValidateNameFunc {
	switch k.Kind {
	case "Namespace":
		return apimeta.NameIsDNSLabel
	case "Service":
		return apimeta.NameIsDNS1035Label
	}
	return apimeta.NameIsDNSSubdomain
}

// decode makes the Go type of what u says. nil when it cannot.
func (k *Kind) decode(u *unstructured.Unstructured) (client.Object, field.ErrorList) {
	text, err := u.MarshalJSON()
	if err != nil {
		return nil, field.ErrorList{field.InternalError(nil, err)}
	}
	obj, err := k.empty()
	if err != nil {
		return nil, field.ErrorList{field.InternalError(nil, err)}
	}
	strict, err := strictjson.UnmarshalStrict(text, obj)
	if err != nil {
		return nil, field.ErrorList{decodeError(err)}
	}
	obj.GetObjectKind().SetGroupVersionKind(k.GVK)
	var errs field.ErrorList
	for _, e := range strict {
		errs = append(errs, strictError(e))
	}
	return obj, errs
}

// decodeError takes the field out of what the decoder says: "json: cannot unmarshal string into Go struct field T.a.b of type int".
func decodeError(err error) *field.Error {
	text := strings.TrimPrefix(err.Error(), "json: ")
	at := "metadata/spec"
	if _, rest, ok := strings.Cut(text, " Go struct field "); ok {
		path, typ, _ := strings.Cut(rest, " of type ")
		if _, path, ok = strings.Cut(path, "."); ok {
			at, text = path, "expected "+typ
		}
	}
	return &field.Error{Type: field.ErrorTypeInvalid, Field: at, BadValue: field.OmitValueType{}, Detail: text}
}

// strictError takes the field out of `unknown field "spec.foo"` and `duplicate field "spec.foo"`.
func strictError(err error) *field.Error {
	var named interface{ FieldPath() string }
	text := err.Error()
	if errors.As(err, &named) {
		what, _, _ := strings.Cut(text, ` "`)
		return &field.Error{Type: field.ErrorTypeForbidden, Field: named.FieldPath(), Detail: what}
	}
	if what, rest, ok := strings.Cut(text, ` "`); ok {
		return &field.Error{Type: field.ErrorTypeForbidden, Field: strings.TrimSuffix(rest, `"`), Detail: what}
	}
	return &field.Error{Type: field.ErrorTypeForbidden, Field: "metadata/spec", Detail: text}
}

// toUnstructured is the untyped form of an object.
func toUnstructured(obj client.Object) (*unstructured.Unstructured, error) {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil, err
	}
	return &unstructured.Unstructured{Object: m}, nil
}
