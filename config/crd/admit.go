package crd

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apimeta "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	runtimeschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// compiled is a CRD made ready to judge objects. To compile one costs tens of milliseconds, so each is compiled when first
// needed.
type compiled struct {
	namespaced bool
	structural *schema.Structural
	schema     validation.SchemaValidator
	cel        *cel.Validator
}

// byKind has a function for each kind, which parses and compiles on its first call.
var byKind = sync.OnceValues(func() (map[runtimeschema.GroupVersionKind]func() (*compiled, error), error) {
	out := map[runtimeschema.GroupVersionKind]func() (*compiled, error){}
	err := eachFile(func(name string, text []byte) error {
		kind, err := kindOf(text)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		out[kind] = sync.OnceValues(func() (*compiled, error) {
			m, err := parse(name, text)
			if err != nil {
				return nil, err
			}
			return m.compile()
		})
		return nil
	})
	return out, err
})

func (m *Manifest) compile() (*compiled, error) {
	crd, err := m.Internal()
	if err != nil {
		return nil, err
	}
	props := crd.Spec.Validation // conversion moves the one version's schema here
	if props == nil {
		props = crd.Spec.Versions[0].Schema
	}
	s, err := schema.NewStructural(props.OpenAPIV3Schema)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.File, err)
	}
	v, _, err := validation.NewSchemaValidator(props.OpenAPIV3Schema)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.File, err)
	}
	return &compiled{
		namespaced: m.CRD.Spec.Scope == "Namespaced", structural: s, schema: v,
		cel: cel.NewValidator(s, true, celconfig.PerCallLimit),
	}, nil
}

// Admit does to u what the API server would do on create, or on update when old is not nil: fields that the schema does not
// know are removed and their paths returned (a strict caller makes them errors), defaults filled in, and the result validated.
// Numbers in u must be int64 or float64 as k8s.io/apimachinery/pkg/util/json decodes them. It is safe for concurrent use.
//
// An error without a field of its own is about the object as a whole and has the field "metadata/spec".
func Admit(u, old *unstructured.Unstructured) (unknown []string, errs field.ErrorList) {
	kinds, err := byKind()
	if err != nil {
		return nil, field.ErrorList{field.InternalError(nil, err)}
	}
	compile, ok := kinds[u.GroupVersionKind()]
	if !ok {
		return nil, field.ErrorList{field.NotFound(field.NewPath("kind"), u.GroupVersionKind().String())}
	}
	c, err := compile()
	if err != nil {
		return nil, field.ErrorList{field.InternalError(nil, err)}
	}
	return c.admit(u, old)
}

// OpenAPI is the schema of a kind as an API server publishes it: which lists are sets or maps, and what is one value as a whole. nil for a kind
// without a CRD here. Of metadata it says nothing.
func OpenAPI(kind runtimeschema.GroupVersionKind) (*spec.Schema, error) {
	kinds, err := byKind()
	if err != nil || kinds[kind] == nil {
		return nil, err
	}
	c, err := kinds[kind]()
	if err != nil {
		return nil, err
	}
	out := c.structural.ToKubeOpenAPI()
	out.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{"group": kind.Group, "version": kind.Version, "kind": kind.Kind}})
	meta := out.Properties["metadata"]
	meta.AddExtension("x-kubernetes-preserve-unknown-fields", true)
	out.SetProperty("metadata", meta)
	return out, nil
}

// Admitter gives what Admit does to a new object, by a manifest that need not be one of ours; it must have one version.
func (m *Manifest) Admitter() (func(*unstructured.Unstructured) (unknown []string, err error), error) {
	c, err := m.compile()
	if err != nil {
		return nil, err
	}
	return func(u *unstructured.Unstructured) ([]string, error) {
		unknown, errs := c.admit(u, nil)
		return unknown, errs.ToAggregate()
	}, nil
}

func (c *compiled) admit(u, old *unstructured.Unstructured) (unknown []string, errs field.ErrorList) {
	unknown, err := c.prune(u)
	if err != nil {
		return nil, field.ErrorList{field.Invalid(field.NewPath("metadata"), field.OmitValueType{}, err.Error())}
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, c.structural)
	defaulting.Default(u.Object, c.structural)
	return unknown, named(c.validate(u, old))
}

// prune removes what the schema does not know. Of metadata the schema says nothing: its schema is the Go type.
func (c *compiled) prune(u *unstructured.Unstructured) (unknown []string, err error) {
	meta, found, unknown, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true})
	if err != nil {
		return nil, fmt.Errorf("reading metadata: %w", err)
	}
	unknown = append(unknown, pruning.PruneWithOptions(u.Object, c.structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})...)
	slices.Sort(unknown)
	if found {
		err = objectmeta.SetObjectMeta(u.Object, meta)
	}
	return unknown, err
}

func (c *compiled) validate(u, old *unstructured.Unstructured) field.ErrorList {
	var options []validation.ValidationOption
	var celOptions []cel.Option
	var before map[string]any
	errs := apimeta.ValidateObjectMetaAccessor(u, c.namespaced, apimeta.NameIsDNSSubdomain, field.NewPath("metadata"))
	if old == nil {
		errs = append(errs, validation.ValidateCustomResource(nil, u.Object, c.schema)...)
	} else {
		before = old.Object
		correlated := common.NewCorrelatedObject(u.Object, before, &model.Structural{Structural: c.structural})
		options = append(options, validation.WithRatcheting(correlated))
		celOptions = append(celOptions, cel.WithRatcheting(correlated))
		errs = append(errs, validation.ValidateCustomResourceUpdate(nil, u.Object, before, c.schema, options...)...)
	}
	if before == nil || len(listtype.ValidateListSetsAndMaps(nil, c.structural, before)) == 0 {
		errs = append(errs, listtype.ValidateListSetsAndMaps(nil, c.structural, u.Object)...)
	}
	if blocks(errs) || c.cel == nil {
		return errs
	}
	var oldSelf any
	if before != nil {
		oldSelf = before
	}
	more, _ := c.cel.Validate(context.Background(), nil, c.structural, u.Object, oldSelf, celconfig.RuntimeCELCostBudget, celOptions...)
	return append(errs, more...)
}

// blocking are the errors after which CEL rules are not asked: their expressions would not find what they were typed for.
var blocking = []field.ErrorType{field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong,
	field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid}

func blocks(errs field.ErrorList) bool {
	return slices.ContainsFunc(errs, func(e *field.Error) bool { return slices.Contains(blocking, e.Type) })
}

// named gives the errors about the whole object a name to print.
func named(errs field.ErrorList) field.ErrorList {
	for _, e := range errs {
		if e.Field == "" || e.Field == "<nil>" {
			e.Field = "metadata/spec"
		}
	}
	return errs
}
