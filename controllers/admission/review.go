package admission

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	reviews "sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

// Validator says of an object what every store would: store.Admit, then store.Allowed.
type Validator struct {
	Get func(context.Context, v3.Ref) (client.Object, error) // asks the cluster for a tier
}

// mostFaults are told of one object: an author does not read more, and an answer stays small whatever was asked.
const mostFaults = 50

// Handle implements controller-runtime's admission.Handler.
func (v *Validator) Handle(ctx context.Context, req reviews.Request) reviews.Response {
	u, old, err := objects(req)
	if err != nil {
		return reviews.Errored(http.StatusBadRequest, err)
	}
	if old != nil && judgedAlike(u, old) { // whoever takes a finalizer away need not mend the rest
		return reviews.Allowed("")
	}
	obj, errs := store.Admit(u, old)
	if len(errs) > 0 {
		return refused(req, errs[:min(len(errs), mostFaults)])
	}
	var before client.Object
	if old != nil {
		if before, err = store.Decode(old); err != nil {
			before = nil // that it was in the tier is not known
		}
	}
	var warnings []string
	errs, err = store.Allowed(obj, before, func(ref v3.Ref) (client.Object, error) {
		tier, err := v.Get(ctx, ref)
		if errors.Is(err, store.ErrNotFound) && req.DryRun != nil && *req.DryRun { // what is written before it in earnest is not there
			warnings = append(warnings, fmt.Sprintf("spec.tier: tier %q does not exist yet", ref.Name))
			return &v3.Tier{}, nil
		}
		return tier, err
	})
	if err != nil { // agents can do with a policy whose tier is not there
		warnings = append(warnings, fmt.Sprintf("spec.tier: whether there is such a tier could not be asked: %v", err))
	}
	if len(errs) > 0 {
		return refused(req, errs)
	}
	return reviews.Allowed("").WithWarnings(warnings...)
}

// objects of a review, without their status, which is not the author's. old is nil when there is none.
func objects(req reviews.Request) (u, old *unstructured.Unstructured, err error) {
	if u, err = object(req.Object.Raw); err != nil {
		return nil, nil, fmt.Errorf("reading the object: %w", err)
	}
	if len(req.OldObject.Raw) == 0 || bytes.Equal(req.OldObject.Raw, []byte("null")) {
		return u, nil, nil
	}
	if old, err = object(req.OldObject.Raw); err != nil {
		return nil, nil, fmt.Errorf("reading the old object: %w", err)
	}
	return u, old, nil
}

func object(text []byte) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(text, &u.Object); err != nil {
		return nil, err
	}
	if _, ok := u.Object["metadata"].(map[string]any); !ok {
		return nil, errors.New("it has no metadata")
	}
	delete(u.Object, "status")
	return u, nil
}

// judgedAlike tells whether nothing has changed of what is judged.
func judgedAlike(u, old *unstructured.Unstructured) bool {
	return equality.Semantic.DeepEqual(u.Object["spec"], old.Object["spec"]) && equality.Semantic.DeepEqual(u.GetLabels(), old.GetLabels())
}

// refused says what the API server would, had its schema refused the object.
func refused(req reviews.Request, errs field.ErrorList) reviews.Response {
	status := apierrors.NewInvalid(schema.GroupKind{Group: req.Kind.Group, Kind: req.Kind.Kind}, req.Name, errs).Status()
	return reviews.Response{AdmissionResponse: admissionv1.AdmissionResponse{Allowed: false, Result: &status}}
}

// Defaulter fills in what v3.Default does of policies and the schema cannot: their types, and the tier's label (contract §1.14). An object that
// is refused anyway stays as it is, so that what is wrong with it is said of what its author wrote.
type Defaulter struct{}

// defaulted are the fields that a Defaulter sets.
var defaulted = [][]string{{"metadata", "labels", v3.LabelTier}, {"spec", "tier"}, {"spec", "types"}, {"spec", "policyTypes"}}

// operation is one of a JSON patch.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// pointer writes a key as JSON pointers do.
var pointer = strings.NewReplacer("~", "~0", "/", "~1")

// Handle implements controller-runtime's admission.Handler.
func (*Defaulter) Handle(_ context.Context, req reviews.Request) reviews.Response {
	u, old, err := objects(req)
	if err != nil {
		return reviews.Errored(http.StatusBadRequest, err)
	}
	obj, errs := store.Admit(u.DeepCopy(), old)
	if len(errs) > 0 {
		return reviews.Allowed("")
	}
	want, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return reviews.Errored(http.StatusInternalServerError, err)
	}
	var patch []operation
	for _, path := range defaulted {
		patch = append(patch, set(u.Object, want, path)...)
	}
	if len(patch) == 0 {
		return reviews.Allowed("")
	}
	text, err := json.Marshal(patch)
	if err != nil {
		return reviews.Errored(http.StatusInternalServerError, err)
	}
	kind := admissionv1.PatchTypeJSONPatch
	return reviews.Response{AdmissionResponse: admissionv1.AdmissionResponse{Allowed: true, Patch: text, PatchType: &kind}}
}

// set gives have the value that want has at path, with what is missing above it, and says how. What want has not stays.
func set(have, want map[string]any, path []string) []operation {
	value, found, err := unstructured.NestedFieldNoCopy(want, path...)
	if now, _, _ := unstructured.NestedFieldNoCopy(have, path...); err != nil || !found || equality.Semantic.DeepEqual(value, now) {
		return nil
	}
	at := ""
	for ; len(path) > 1; path = path[1:] {
		inner, ok := have[path[0]].(map[string]any)
		if !ok {
			break
		}
		at += "/" + pointer.Replace(path[0])
		have = inner
	}
	for _, missing := range slices.Backward(path[1:]) {
		value = map[string]any{missing: value}
	}
	have[path[0]] = value
	return []operation{{"add", at + "/" + pointer.Replace(path[0]), value}}
}
