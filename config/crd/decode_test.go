package crd_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"pgregory.net/rapid"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/config/crd"
	"github.com/tierwall/tierwall/test/verdicts"
)

// Strings that fields of these names would hold. They collide on purpose.
var likely = map[string][]string{
	"selector": {"all()", "a == 'b'", "has(a)"}, "notSelector": {"all()", "a == 'b'"}, "namespaceSelector": {"all()", "global()"},
	"serviceAccountSelector": {"all()"}, "nets": {"10.0.0.0/8", "0.0.0.0/0", "fd00::/64", "10.1.0.0/16"}, "notNets": {"10.0.0.0/8"},
	"tier": {"default", "t"}, "name": {"s", "http"}, "namespace": {"ns1"}, "names": {"a", "b"}, "methods": {"GET", "POST"},
	"exact": {"/a"}, "prefix": {"/b"}, "node": {"n1"}, "interfaceName": {"eth0", "*"}, "expectedIPs": {"10.0.0.1", "fd00::1"},
	"profiles": {"p", "q"}, "ipNetworks": {"10.0.0.1/32", "10.0.0.2"}, "internalIP": {"10.0.0.1"}, "externalIP": {"192.0.2.1"},
	"ipv4Gateway": {"10.0.0.1"}, "ipv6Gateway": {"fd00::1"}, "mac": {"02:00:00:00:00:01"}, "hostIP": {"192.0.2.1"},
	"allowSpoofedSourcePrefixes": {"10.0.0.0/8"}, "cidr": {"10.0.0.0/8"}, "except": {"10.1.0.0/16"}, "operator": {"In", "Exists"},
	"key": {"a"}, "values": {"x"}, "type": {"Accepted", "Ready"}, "status": {"True", "False"}, "reason": {"Because"}, "message": {"so it is"},
	"nodeSelector": {"has(a)", ""}, "defaultEndpointToHostAction": {"ACCEPT", "Drop", ""}, "nftablesFilterAllowAction": {"Accept"}, "nftablesFilterDenyAction": {"reject", "Drop"},
	"nftablesMangleAllowAction": {"Return"}, "iptablesFilterAllowAction": {"Accept"}, "iptablesFilterDenyAction": {"reject", "Drop"}, "iptablesMangleAllowAction": {"Return"},
	"interfacePrefix": {"cali", "azv,cali"}, "interfaceExclude": {"kube-ipvs0", "/^eth/"}, "workloadSourceSpoofing": {"any"}, "serviceLoopPrevention": {"REJECT"},
	"logPrefix": {"%t/%k: ", ""}, "logActionRateLimit": {"10/second"}, "chainInsertMode": {"insert"}, "nftablesRefreshInterval": {"0.5s", ""}, "iptablesRefreshInterval": {"1m30s"},
	"ipsetsRefreshInterval": {"90s"}, "flowLogsFlushInterval": {"15s"}, "dataplaneWatchdogTimeout": {"90s"}, "protocol": {"tcp", "UDP"}, "net": {"10.0.0.0/8", "fd00::/8"},
	"reconcilerPeriod": {"5m", "0", "0s"}, "leakGracePeriod": {"15m0s"}, "etcdV3CompactionPeriod": {"10m"}, "generateName": {"a", "b.c"}, "interfaceCIDRs": {"10.0.0.0/8", "fd00::1/64"},
	"interfacePattern": {"eth0|eth1", "^bond"},
}

// What a client's decoder may choke on, and what a schema may not have thought of.
var (
	oddStrings = []any{"", " ", "a", "TCP", "tcp", "80", "100:90", "99999999999", "10.0.0.1/24", "::ffff:10.0.0.0/104", "global()", "a = 'b'", "é", "a\nb", "Upper"}
	oddNumbers = []any{int64(0), int64(-1), int64(1), int64(6), int64(255), int64(65535), int64(70000), int64(1) << 31, int64(1) << 40, int64(math.MaxInt64),
		float64(80), 0.5, -1.5, 1e18, 1e300, -1e300}
	oddTimes = []any{"2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678Z", "2026-01-02T03:04:05+02:00", "2026-01-02t03:04:05z", "2026-01-02T03:04:05",
		"2026-01-02 03:04:05Z", "2026-01-02T23:59:60Z", "2026-01-02T03:04:05,5Z", "2026-01-02T03:04:05+0200", "2026-01-02", ""}
	others = []any{nil, true, false, []any{}, map[string]any{}, []any{nil}, map[string]any{"a": nil}}
)

// odd draws a copy: what it draws becomes part of an object that Admit changes.
func odd() *rapid.Generator[any] {
	return rapid.Map(rapid.SampledFrom(slices.Concat(oddStrings, oddNumbers, oddTimes, others)), runtime.DeepCopyJSONValue)
}

// value draws what a schema describes, most of the time.
func value(t *rapid.T, name string, s *apiextensionsv1.JSONSchemaProps) any {
	if rapid.IntRange(0, 99).Draw(t, "odd") == 0 {
		return odd().Draw(t, name)
	}
	switch {
	case s.XIntOrString:
		return rapid.SampledFrom(append([]any{"TCP", "UDP", int64(6), int64(80), "http", "80:90", "ICMP", "4294967296", "TCP", "SCTP"}, oddNumbers...)).Draw(t, name)
	case len(s.Enum) > 0:
		return enum(rapid.SampledFrom(s.Enum).Draw(t, name))
	case s.Type == "object":
		return properties(t, name, s)
	case s.Type == "array":
		list := []any{}
		for range rapid.IntRange(0, 2).Draw(t, "length") {
			list = append(list, value(t, name, s.Items.Schema))
		}
		return list
	case s.Type == "boolean":
		return rapid.Bool().Draw(t, name)
	case s.Type == "integer", s.Type == "number":
		return rapid.SampledFrom(append([]any{int64(4), int64(1), int64(100)}, oddNumbers...)).Draw(t, name)
	case s.Format == "date-time":
		return rapid.SampledFrom(oddTimes).Draw(t, name)
	}
	if texts := likely[name]; len(texts) > 0 && rapid.IntRange(0, 19).Draw(t, "likely") > 0 {
		return rapid.SampledFrom(texts).Draw(t, name)
	}
	return rapid.SampledFrom(oddStrings).Draw(t, name)
}

func enum(j apiextensionsv1.JSON) (out any) {
	if err := utiljson.Unmarshal(j.Raw, &out); err != nil {
		panic(err)
	}
	return out
}

func properties(t *rapid.T, name string, s *apiextensionsv1.JSONSchemaProps) map[string]any {
	out := map[string]any{}
	if s.AdditionalProperties != nil {
		for range rapid.IntRange(0, 2).Draw(t, "length") {
			key := rapid.SampledFrom([]string{"a", "b", "example.com/c"}).Draw(t, "key")
			out[key] = value(t, "key", s.AdditionalProperties.Schema)
		}
		return out
	}
	for _, field := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[field]
		often := 2 // of 9
		if len(s.Properties) > many {
			often = 1
		}
		if slices.Contains(s.Required, field) || name == "" || field == "node" || field == "interfaceName" { // what CEL asks of a host endpoint
			often = 8
		}
		if rapid.IntRange(0, 8).Draw(t, "has "+field) <= often-1 {
			out[field] = value(t, field, &p)
		}
	}
	if s.XPreserveUnknownFields != nil && *s.XPreserveUnknownFields {
		out[rapid.SampledFrom([]string{"unknown", "LOGPREFIX", "Spec", ""}).Draw(t, "unknown")] = odd().Draw(t, "unknown value")
	}
	return out
}

// many is a number of fields of which, were they as frequent as others, one would nearly always be refused.
const many = 30

// anObject draws an object of a CRD's kind.
func anObject(t *rapid.T, m *crd.Manifest) *unstructured.Unstructured {
	kind := m.CRD.Spec.Names.Kind
	s := root(*m).DeepCopy()
	for _, implied := range []string{"apiVersion", "kind", "metadata"} {
		delete(s.Properties, implied)
	}
	u := &unstructured.Unstructured{Object: properties(t, "", s)}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: m.CRD.Spec.Group, Version: m.CRD.Spec.Versions[0].Name, Kind: kind})
	u.SetName(rapid.SampledFrom([]string{"p", "p.q", "default", "kube-admin"}).Draw(t, "name"))
	if verdicts.Namespaced[kind] {
		u.SetNamespace("ns1")
	}
	if rapid.IntRange(0, 9).Draw(t, "odd metadata") == 0 {
		field := rapid.SampledFrom([]string{"labels", "annotations", "creationTimestamp", "generation", "finalizers", "ownerReferences", "nonsense"}).Draw(t, "metadata")
		_ = unstructured.SetNestedField(u.Object, odd().Draw(t, field), "metadata", field)
	}
	return u
}

// TestAcceptedDecodes: what the CRD alone accepts, without Validate, every client can decode (contract §1.12 item 5: one object
// that cannot be decoded breaks all watches of its kind). What is decoded is encoded as it was.
func TestAcceptedDecodes(t *testing.T) {
	for kind, m := range manifests(t) {
		t.Run(kind, func(t *testing.T) {
			var drawn, admitted, valid int
			rapid.Check(t, func(t *rapid.T) {
				u := anObject(t, &m)
				drawn++
				if _, errs := crd.Admit(u, nil); len(errs) > 0 {
					return
				}
				admitted++
				obj, err := decode(u)
				if err != nil {
					t.Fatalf("admitted, and cannot be decoded: %v\n%s", err, encode(t, u.Object))
				}
				sameAgain(t, obj, u)
				v3.Default(obj)
				if len(v3.Validate(obj)) == 0 {
					valid++
					sound(t, obj)
				}
			})
			if admitted == 0 || valid == 0 {
				t.Errorf("of %d objects %d were admitted and %d valid: the property says nothing", drawn, admitted, valid)
			}
			t.Logf("%d objects, %d admitted, %d valid", drawn, admitted, valid)
		})
	}
}

type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func encode(t fataler, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func untyped(t fataler, obj any) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(encode(t, obj), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

// same is the equality of API objects: an empty list is none, and a time has no fractions once it was encoded.
var same = func() conversion.Equalities {
	e := equality.Semantic.Copy()
	if err := e.AddFunc(func(a, b metav1.Time) bool { return a.Truncate(time.Second).Equal(b.Truncate(time.Second)) }); err != nil {
		panic(err)
	}
	return e
}()

// sameAgain: decode∘encode is the identity, and encode∘decode loses nothing but zeros.
func sameAgain(t fataler, obj v3.Object, from *unstructured.Unstructured) {
	t.Helper()
	u := untyped(t, obj)
	again, err := decode(u)
	if err != nil {
		t.Fatalf("what was encoded cannot be decoded: %v\n%s", err, encode(t, obj))
	}
	if !same.DeepEqual(again, obj) {
		t.Fatalf("decoded again: %s\nwas %s", encode(t, again), encode(t, obj))
	}
	if at := lost("", from.Object, u.Object); at != "" {
		t.Fatalf("%s is lost of %s\nin %s", at, encode(t, from.Object), encode(t, obj))
	}
}

// lost finds what was not zero and is not the same any more.
func lost(at string, was, is any) string {
	if zero(was) {
		return ""
	}
	switch was := was.(type) {
	case map[string]any:
		is, _ := is.(map[string]any)
		for _, k := range slices.Sorted(maps.Keys(was)) {
			if l := lost(at+"."+k, was[k], is[k]); l != "" {
				return l
			}
		}
		return ""
	case []any:
		is, _ := is.([]any)
		if len(is) != len(was) {
			return at
		}
		for i := range was {
			if l := lost(fmt.Sprintf("%s[%d]", at, i), was[i], is[i]); l != "" {
				return l
			}
		}
		return ""
	}
	if reflect.DeepEqual(was, is) || sameNumber(was, is) || sameSecond(was, is) {
		return ""
	}
	return at
}

func zero(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case map[string]any:
		for _, x := range v {
			if !zero(x) {
				return false
			}
		}
		return true
	case []any:
		return len(v) == 0
	}
	return reflect.ValueOf(v).IsZero()
}

// sameNumber compares as JSON does, which knows one kind of number.
func sameNumber(a, b any) bool {
	x, okX := number(a)
	y, okY := number(b)
	return okX && okY && x == y
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// sameSecond compares as Kubernetes' own time type does.
func sameSecond(a, b any) bool {
	x, errX := time.Parse(time.RFC3339, fmt.Sprint(a))
	y, errY := time.Parse(time.RFC3339, fmt.Sprint(b))
	return errX == nil && errY == nil && x.Truncate(time.Second).Equal(y)
}

// sound: what is valid and defaulted is accepted as it stands, and stays as it is.
func sound(t fataler, obj v3.Object) {
	t.Helper()
	u := untyped(t, obj)
	again, errs := judge(u)
	if len(errs) > 0 {
		t.Fatalf("accepted and, once encoded, refused: %v\n%s", errs, encode(t, obj))
	}
	if !same.DeepEqual(again, obj) {
		t.Fatalf("judged again: %s\nwas %s", encode(t, again), encode(t, obj))
	}
}
