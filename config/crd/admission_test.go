package crd_test

import (
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	strictjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/config/crd"
	"github.com/tierwall/tierwall/test/verdicts"
)

// row is one row of contract §10.3, column "G+C", with every object that it is about.
type row struct {
	says  string
	cases []fragment
}

// fragment is an object, and where the first complaint about it stands ("" when it is accepted).
type fragment struct{ text, field string }

const accepted = ""

var contract = func() (out []row) {
	for _, r := range verdicts.Contract {
		own := row{says: r.Says}
		for _, f := range r.Cases {
			for _, o := range f.Expand() {
				own.cases = append(own.cases, fragment{o.Text, o.Field})
			}
		}
		out = append(out, own)
	}
	return out
}()

var named = verdicts.Named

func np(spec string) string  { return named("NetworkPolicy", "p", spec) }
func gnp(spec string) string { return named("GlobalNetworkPolicy", "p", spec) }
func hep(spec string) string { return named("HostEndpoint", "h", "{node: n1, "+spec+"}") }

// parse reads an object as a client would; the group and version go without saying.
func parse(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	return parseWhole(t, "apiVersion: projectcalico.org/v3\n"+text)
}

func parseWhole(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	u, err := read([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return u
}

// read makes of YAML what crd.Admit asks for: numbers are int64 or float64, and a key twice is an error.
func read(text []byte) (*unstructured.Unstructured, error) {
	json, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{}
	return u, utiljson.Unmarshal(json, &u.Object)
}

var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v3.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	return s
}()

// decode makes the typed object of an untyped one; an unknown field, a value twice and a wrong type are errors.
func decode(u *unstructured.Unstructured) (v3.Object, error) {
	text, err := u.MarshalJSON()
	if err != nil {
		return nil, err
	}
	obj, err := scheme.New(u.GroupVersionKind())
	if err != nil {
		return nil, err
	}
	strict, err := strictjson.UnmarshalStrict(text, obj)
	if err == nil && len(strict) > 0 {
		err = strict[0]
	}
	return obj.(v3.Object), err
}

// judge does to an object all that a strict caller asks of one that is new: an unknown field is an error.
func judge(u *unstructured.Unstructured) (v3.Object, field.ErrorList) {
	unknown, errs := crd.Admit(u, nil)
	for _, path := range unknown {
		errs = append(errs, field.Forbidden(field.NewPath(path), "unknown field"))
	}
	if len(errs) > 0 {
		return nil, errs
	}
	obj, err := decode(u)
	if err != nil {
		return nil, field.ErrorList{field.InternalError(field.NewPath("decode"), err)}
	}
	v3.Default(obj)
	return obj, v3.Validate(obj)
}

// TestContract holds every row of the contract's table, in every kind that the row could be about.
func TestContract(t *testing.T) {
	const rows = 63 // of contract §10.3
	says, objects := map[string]bool{}, 0
	for _, r := range contract {
		says[r.says] = true
		for _, o := range r.cases {
			objects++
			_, errs := judge(parse(t, o.text))
			check(t, r.says, o, errs)
		}
	}
	if len(says) != rows {
		t.Errorf("%d rows, the contract has %d", len(says), rows)
	}
	t.Logf("%d rows, %d objects", len(says), objects)
}

// beyond are the rows of which the CRDs alone, which are all that kubectl meets in a cluster without our webhook, let something
// through, and why neither schema nor CEL says it. Validate does.
var beyond = map[string]string{
	"numeric port without protocol; named port":              stringPorts,
	"ports 100:90, 70000, -1, name with blank; protocol 300": stringPorts,
	"ports 0 / 0:10":                                                    stringPorts,
	"nets 10.0.0.1 / 10.0.0.1/24":                                       "to mask a network costs more than CEL may spend on so many",
	"nets of both families":                                             "to compare networks costs more than CEL may spend on so many",
	"ipVersion 6 + v4 net":                                              "to compare networks costs more than CEL may spend on so many",
	"selector a = 'b'; with trailing newline":                           grammar,
	"namespaceSelector a = 'b'":                                         grammar,
	"rule namespaceSelector global() && a == 'b' / !global()":           grammar,
	"egress destination services, GNP without namespace":                "a rule does not know of what kind its policy is",
	"http path both exact & prefix; a without slash; duplicate methods": "to search paths costs more than CEL may spend on so many",
	"NP name a.b; a.b.c, Upper":                                         names,
	"NP name knp.default.a.b.c":                                         names,
	"GNS nets example.com":                                              "a set may have any number of networks, and CEL only counts what has a maximum",
	"GNS label projectcalico.org/namespace":                             "CEL sees no labels",
}

const (
	stringPorts = "to take a range apart costs more than CEL may spend on so many"
	grammar     = "the grammar of selectors is no regular expression"
	names       = "CEL could only complain about the object as a whole, and the name does no harm"
)

func TestBeyondTheSchema(t *testing.T) {
	for _, r := range contract {
		var through string
		for _, o := range r.cases {
			if unknown, errs := crd.Admit(parse(t, o.text), nil); o.field != accepted && len(unknown)+len(errs) == 0 {
				through = o.text
			}
		}
		switch why, listed := beyond[r.says]; {
		case through != "" && !listed:
			t.Errorf("%q: the CRD lets through\n%s", r.says, through)
		case through == "" && listed:
			t.Errorf("%q: the CRD says it all, although %s", r.says, why)
		}
	}
}

func check(t *testing.T, says string, o fragment, errs field.ErrorList) {
	t.Helper()
	switch {
	case o.field == accepted && len(errs) > 0:
		t.Errorf("%s: refused:\n%s\n%v", says, o.text, errs)
	case o.field != accepted && len(errs) == 0:
		t.Errorf("%s: accepted:\n%s", says, o.text)
	case o.field != accepted && errs[0].Field != o.field && !strings.HasPrefix(errs[0].Field, o.field+"."):
		t.Errorf("%s: the error is at %s, not at %s:\n%s\n%v", says, errs[0].Field, o.field, o.text, errs)
	}
}

// Fragments about a rule reach every kind that has rules.
func TestRuleKindsAreAll(t *testing.T) {
	rules := reflect.TypeFor[[]v3.Rule]()
	var have int
	for _, kind := range kinds() {
		spec, ok := reflect.TypeOf(kind.empty).Elem().FieldByName("Spec")
		if !ok {
			continue
		}
		if f, ok := spec.Type.FieldByName("Ingress"); ok && f.Type == rules {
			have++
		}
	}
	if have != len(verdicts.RuleKinds) {
		t.Errorf("%d kinds have rules, and %v are tested", have, verdicts.RuleKinds)
	}
}
