package crds

import (
	"fmt"
	"maps"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

type props = apiextensionsv1.JSONSchemaProps

// lacks are what one version of a kind does not have and another does: fields, which an API server takes away from objects when it
// does not know them, and the status that is written by itself. Columns, short names and CEL do not matter to those who read objects.
func lacks(have, want *apiextensionsv1.CustomResourceDefinitionVersion) (out []string) {
	if status(want) && !status(have) {
		out = append(out, "status is no subresource: nobody is told how objects fare")
	}
	if !have.Served {
		out = append(out, have.Name+" is not served")
	}
	if have.Schema == nil || have.Schema.OpenAPIV3Schema == nil {
		return append(out, "it has no schema")
	}
	return append(out, missing(have.Schema.OpenAPIV3Schema, want.Schema.OpenAPIV3Schema, "")...)
}

func status(v *apiextensionsv1.CustomResourceDefinitionVersion) bool {
	return v.Subresources != nil && v.Subresources.Status != nil
}

// missing are the fields of a schema that another has not, or has with another type; of a field that is missing not its parts.
func missing(have, want *props, path string) (out []string) {
	if have.XPreserveUnknownFields != nil && *have.XPreserveUnknownFields && len(have.Properties) == 0 {
		return nil // it keeps everything
	}
	if have.Type != want.Type || have.XIntOrString != want.XIntOrString {
		return []string{fmt.Sprintf("%s is %s, not %s", path, typeOf(have), typeOf(want))}
	}
	for _, name := range slices.Sorted(maps.Keys(want.Properties)) {
		w, field := want.Properties[name], join(path, name)
		switch h, ok := have.Properties[name]; {
		case ok:
			out = append(out, missing(&h, &w, field)...)
		case have.AdditionalProperties != nil && have.AdditionalProperties.Schema != nil:
			out = append(out, missing(have.AdditionalProperties.Schema, &w, field)...)
		case have.XPreserveUnknownFields == nil || !*have.XPreserveUnknownFields:
			out = append(out, field+" is missing")
		}
	}
	if h, w := items(have), items(want); h != nil && w != nil {
		out = append(out, missing(h, w, path+"[]")...)
	}
	if h, w := values(have), values(want); h != nil && w != nil {
		out = append(out, missing(h, w, path+".*")...)
	}
	return out
}

func items(p *props) *props {
	if p.Items == nil {
		return nil
	}
	return p.Items.Schema
}

func values(p *props) *props {
	if p.AdditionalProperties == nil {
		return nil
	}
	return p.AdditionalProperties.Schema
}

func typeOf(p *props) string {
	switch {
	case p.XIntOrString:
		return "an integer or a string"
	case p.Type == "":
		return "of any type"
	}
	return "of type " + p.Type
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
