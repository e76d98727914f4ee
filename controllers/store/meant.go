package store

import (
	"reflect"
	"strconv"
	"strings"

	"github.com/xrash/smetrics"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// nearest is the candidate that is a slip of the pen or two from what was typed, or "".
func nearest(typed string, candidates []string) (best string) {
	most := min(3, 1+len(typed)/4)
	for _, c := range candidates {
		if d := smetrics.WagnerFischer(strings.ToLower(typed), strings.ToLower(c), 1, 1, 1); d <= most {
			best, most = c, d-1
		}
	}
	return best
}

// meant tells which field may have been meant by one that there is not; "" when none comes to mind, or the error is another. k may be nil.
func (k *Kind) meant(e *field.Error) string {
	if e.Detail != unknownField || k == nil {
		return ""
	}
	obj, err := k.empty()
	if err != nil {
		return ""
	}
	path := steps(e.Field)
	if len(path) == 0 {
		return ""
	}
	last := len(path) - 1
	t := reflect.TypeOf(obj)
	for _, step := range path[:last] {
		t = below(t, step)
	}
	if n := nearest(path[last], fieldsOf(t)); n != "" {
		return ", did you mean " + n + "?"
	}
	if t == reflect.TypeOf(obj).Elem() || last == 0 { // a field of spec that stands beside it
		if n := nearest(path[last], fieldsOf(below(reflect.TypeOf(obj), "spec"))); n != "" {
			return ", did you mean spec." + n + "?"
		}
	}
	return ""
}

// below is the type of a field, of an element or of a value; nil when there is none.
func below(t reflect.Type, step string) reflect.Type {
	t = pointed(t)
	switch {
	case t == nil:
		return nil
	case t.Kind() == reflect.Slice, t.Kind() == reflect.Map:
		if _, err := strconv.Atoi(step); err != nil && t.Kind() == reflect.Slice {
			return nil
		}
		return t.Elem()
	case t.Kind() != reflect.Struct:
		return nil
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, inline := jsonName(f)
		if inline {
			if found := below(f.Type, step); found != nil {
				return found
			}
		} else if name == step {
			return f.Type
		}
	}
	return nil
}

// fieldsOf a type, by the names that JSON has for them.
func fieldsOf(t reflect.Type) (out []string) {
	if t = pointed(t); t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if name, inline := jsonName(f); inline {
			out = append(out, fieldsOf(f.Type)...)
		} else if name != "" && name != "-" {
			out = append(out, name)
		}
	}
	return out
}

func jsonName(f reflect.StructField) (name string, inline bool) {
	name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name, name == "" && (f.Anonymous || strings.Contains(options, "inline"))
}

func pointed(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}
