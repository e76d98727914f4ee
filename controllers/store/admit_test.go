package store

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	strictjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Objects to put a fragment into.
func np(spec string) string {
	return "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: p, namespace: ns1}\nspec: " + spec
}
func gnp(spec string) string {
	return "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\nspec: " + spec
}
func ingress(rule string) string { return np("{ingress: [{action: Allow, " + rule + "}]}") }
func egress(rule string) string  { return np("{egress: [{action: Allow, " + rule + "}]}") }
func named(kind, name, rest string) string {
	return fmt.Sprintf("apiVersion: projectcalico.org/v3\nkind: %s\nmetadata: {name: %s}\nspec: %s", kind, name, rest)
}
func npNamed(name string) string {
	return fmt.Sprintf("apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: %q, namespace: ns1}\nspec: {}", name)
}
func staged(spec string) string {
	return "apiVersion: projectcalico.org/v3\nkind: StagedNetworkPolicy\nmetadata: {name: p, namespace: ns1}\nspec: " + spec
}
func hep(spec string) string { return named("HostEndpoint", "h", "{node: n1, "+spec+"}") }

// The rows of contract §10.3, column "G+C"; field is where the first error stands.
var admission = []struct {
	object string
	field  string // "" when it is accepted
}{
	{ingress("destination: {ports: [80]}"), "spec.ingress[0].destination.ports"},
	{ingress("destination: {ports: [http]}"), ""},
	{ingress("protocol: ICMP, destination: {ports: [80]}"), "spec.ingress[0].destination.ports"},
	{ingress("protocol: 6, destination: {ports: [80]}"), ""},
	{ingress("notProtocol: TCP, destination: {notPorts: [80]}"), "spec.ingress[0].destination.notPorts"},
	{ingress(`protocol: TCP, destination: {ports: ["100:90"]}`), "spec.ingress[0].destination.ports[0]"},
	{ingress("protocol: TCP, destination: {ports: [70000]}"), "spec.ingress[0].destination.ports[0]"},
	{ingress("protocol: TCP, destination: {ports: [-1]}"), "spec.ingress[0].destination.ports[0]"},
	{ingress(`protocol: TCP, destination: {ports: ["a b"]}`), "spec.ingress[0].destination.ports[0]"},
	{ingress("protocol: 300"), "spec.ingress[0].protocol"},
	{ingress("protocol: TCP, destination: {ports: [0]}"), "spec.ingress[0].destination.ports[0]"},
	{ingress(`protocol: TCP, destination: {ports: ["0:10"]}`), "spec.ingress[0].destination.ports[0]"},
	{ingress("protocol: tcp"), "spec.ingress[0].protocol"},
	{ingress("protocol: GRE"), "spec.ingress[0].protocol"},
	{ingress("protocol: 0"), "spec.ingress[0].protocol"},
	{ingress("protocol: '47'"), ""},
	{ingress("icmp: {type: 8}"), "spec.ingress[0]"},
	{ingress("protocol: ICMP, icmp: {code: 0}"), "spec.ingress[0].icmp"},
	{ingress("protocol: ICMP, icmp: {type: 255}"), "spec.ingress[0].icmp.type"},
	{ingress("notICMP: {type: 8}"), ""},
	{ingress("protocol: ICMP, ipVersion: 6"), "spec.ingress[0]"},
	{ingress("protocol: ICMPv6, ipVersion: 4"), "spec.ingress[0]"},
	{ingress("notProtocol: ICMPv6, ipVersion: 4"), "spec.ingress[0]"},
	{ingress("ipVersion: 5"), "spec.ingress[0].ipVersion"},
	{ingress("source: {nets: [10.0.0.1]}"), "spec.ingress[0].source.nets[0]"},
	{ingress("source: {nets: [10.0.0.1/24]}"), "spec.ingress[0].source.nets[0]"},
	{ingress("source: {nets: [10.0.0.0/33]}"), "spec.ingress[0].source.nets[0]"},
	{ingress(`source: {nets: [10.0.0.0/24, "fd00::/64"]}`), "spec.ingress[0].source.nets"},
	{ingress(`source: {nets: [10.0.0.0/24]}, destination: {nets: ["fd00::/64"]}`), "spec.ingress[0].destination.nets"},
	{ingress("ipVersion: 6, source: {nets: [10.0.0.0/24]}"), "spec.ingress[0].source.nets"},
	{ingress("source: {notNets: [0.0.0.0/0]}"), "spec.ingress[0].source.notNets[0]"},
	{ingress("source: {nets: [0.0.0.0/0]}"), ""},
	{ingress("source: {nets: [10.0.0.0/8, 10.0.0.0/8]}"), ""},
	{gnp("{doNotTrack: true, preDNAT: true, applyOnForward: true}"), "spec"},
	{gnp("{preDNAT: true}"), "spec"},
	{gnp("{doNotTrack: true}"), "spec"},
	{gnp("{preDNAT: true, applyOnForward: true, egress: [{action: Deny}]}"), "spec"},
	{gnp("{preDNAT: true, applyOnForward: true, types: [Egress]}"), "spec"},
	{np("{types: [Ingress, Ingress]}"), "spec.types"},
	{np("{types: []}"), ""},
	{np("{ingress: [{action: allow}]}"), "spec.ingress[0].action"},
	{np("{ingress: [{protocol: TCP}]}"), "spec.ingress[0].action"},
	{np(`{selector: "a = 'b'"}`), "spec.selector"},
	{np(`{selector: "a == 'b'\n"}`), "spec.selector"},
	{gnp(`{namespaceSelector: "a = 'b'"}`), "spec.namespaceSelector"},
	{gnp("{selector: global()}"), "spec.selector"},
	{gnp("{namespaceSelector: global()}"), "spec.namespaceSelector"},
	{ingress("source: {selector: global()}"), "spec.ingress[0].source.selector"},
	{ingress("source: {namespaceSelector: global()}"), ""},
	{ingress("source: {namespaceSelector: global( )}"), ""},
	{ingress(`source: {namespaceSelector: "global() && a == 'b'"}`), "spec.ingress[0].source.namespaceSelector"},
	{ingress(`source: {namespaceSelector: "!global()"}`), "spec.ingress[0].source.namespaceSelector"},
	{gnp("{egress: [{action: Allow, destination: {services: {name: s}}}]}"), "spec.egress[0].destination.services"},
	{egress("protocol: TCP, destination: {services: {name: s}, ports: [80]}"), "spec.egress[0].destination"},
	{ingress("protocol: TCP, source: {services: {name: s}}, destination: {ports: [80]}"), ""},
	{egress("source: {services: {name: s}}"), "spec.egress[0].source.services"},
	{ingress("destination: {services: {name: s}}"), "spec.ingress[0].destination.services"},
	{ingress("source: {services: {name: s}, selector: all()}"), "spec.ingress[0].source"},
	{ingress("source: {services: {name: s}, nets: [10.0.0.0/8]}"), "spec.ingress[0].source"},
	{ingress("source: {services: {name: s}, serviceAccounts: {names: [a]}}"), "spec.ingress[0].source"},
	{egress("http: {methods: [GET]}"), "spec.egress[0].http"},
	{ingress("protocol: UDP, http: {methods: [GET]}"), "spec.ingress[0]"},
	{np("{ingress: [{action: Deny, http: {methods: [GET]}}]}"), "spec.ingress[0]"},
	{ingress("http: {paths: [{exact: /a, prefix: /b}]}"), "spec.ingress[0].http.paths[0]"},
	{ingress("http: {paths: [{exact: a}]}"), "spec.ingress[0].http.paths[0]"},
	{ingress("http: {methods: [GET, GET]}"), "spec.ingress[0].http.methods"},
	{np("{applyOnForward: true}"), "spec.applyOnForward"},
	{np("{namespaceSelector: all()}"), "spec.namespaceSelector"},
	{np("{ingres: []}"), "spec.ingres"},
	{np("{performanceHints: [Foo]}"), "spec.performanceHints[0]"},
	{np(`{order: "5"}`), "spec.order"},
	{np("{order: -1.5}"), ""},
	{npNamed("a.b"), ""},
	{npNamed("a.b.c"), "metadata.name"},
	{npNamed("Upper"), "metadata.name"},
	{npNamed("knp.default.a.b.c"), ""},
	{named("Tier", "a.b", "{}"), "metadata"},
	{named("Tier", "t", "{defaultAction: Allow}"), "spec.defaultAction"},
	{named("Tier", "default", "{order: 5}"), "metadata/spec"},
	{named("Tier", "kube-admin", "{order: 1000, defaultAction: Deny}"), "metadata/spec"},
	{named("GlobalNetworkSet", "s", "{nets: [10.0.0.1]}"), ""},
	{named("GlobalNetworkSet", "s", "{nets: [10.0.0.1/24]}"), ""},
	{named("GlobalNetworkSet", "s", "{nets: [example.com]}"), "spec.nets[0]"},
	{strings.Replace(named("GlobalNetworkSet", "s", "{}"), "{name: s}", "{name: s, labels: {projectcalico.org/namespace: x}}", 1), "metadata.labels"},
	{hep("expectedIPs: []"), "spec"},
	{named("HostEndpoint", "h", "{interfaceName: eth0}"), "spec"},
	{hep(`interfaceName: "*"`), ""},
	{hep(`interfaceName: "eth*"`), "spec.interfaceName"},
	{hep("interfaceName: abcdefghijklmnop"), "spec.interfaceName"},
	{hep("expectedIPs: [10.0.0.1/32]"), "spec.expectedIPs[0]"},
	{hep("interfaceName: eth0, ports: [{name: a, protocol: ICMP, port: 1}]"), "spec.ports[0].protocol"},
	{staged("{stagedAction: Delete, ingress: [{action: Allow}]}"), "spec"},
	{staged("{stagedAction: Foo}"), "spec.stagedAction"},
}

func TestAdmission(t *testing.T) {
	for _, row := range admission {
		d := readOne(t, row.object)
		switch {
		case row.field == "" && len(d.Errors) > 0:
			t.Errorf("refused:\n%s\n%+v", row.object, d.Errors)
		case row.field != "" && len(d.Errors) == 0:
			t.Errorf("accepted:\n%s", row.object)
		case row.field != "" && !strings.HasPrefix(d.Errors[0].Field, row.field) && !strings.HasPrefix(row.field, d.Errors[0].Field):
			t.Errorf("%s\nfield %q, want %q: %s", row.object, d.Errors[0].Field, row.field, d.Errors[0].Message)
		case row.field != "" && (d.Errors[0].Line < 1 || d.Errors[0].Column < 1 || d.Errors[0].Message == ""):
			t.Errorf("%s\nno place or no reason: %+v", row.object, d.Errors[0])
		}
		if len(d.Errors) == 0 {
			decodesAgain(t, d)
		}
	}
	t.Logf("%d rows", len(admission))
}

func readOne(t *testing.T, text string) Document {
	t.Helper()
	docs := Read([]string{"-"}, ReadOptions{Stdin: strings.NewReader(text)})
	if len(docs) != 1 {
		t.Fatalf("%d documents of\n%s", len(docs), text)
	}
	return docs[0]
}

// decodesAgain: what is admitted can be decoded strictly by any client, is not changed by being admitted once more, and says
// the same when it is written and read.
func decodesAgain(t *testing.T, d Document) {
	t.Helper()
	text, err := json.Marshal(d.Object)
	if err != nil {
		t.Fatal(err)
	}
	again := reflect.New(reflect.TypeOf(d.Object).Elem()).Interface()
	if strict, err := strictjson.UnmarshalStrict(text, again); err != nil || len(strict) > 0 {
		t.Errorf("%s\n%v %v", text, err, strict)
	}
	if !equality.Semantic.DeepEqual(again, d.Object) {
		t.Errorf("written and read: %+v\nwas %+v", again, d.Object)
	}
	u, err := toUnstructured(d.Object)
	if err != nil {
		t.Fatal(err)
	}
	obj, errs := Admit(u, nil)
	if len(errs) > 0 || !equality.Semantic.DeepEqual(obj, d.Object) {
		t.Errorf("admitted again: %v\n%+v\nwas %+v", errs, obj, d.Object)
	}
}

// Every kind has its Go type, names that are its own, and can be looked up by each of them in any case.
func TestKinds(t *testing.T) {
	owner := map[string]string{}
	for _, k := range Kinds() {
		for _, name := range append([]string{k.Singular, k.Plural, k.Kind}, k.Aliases...) {
			name = strings.ToLower(name)
			if o, taken := owner[name]; taken && o != k.Kind {
				t.Errorf("%s is %s and %s", name, o, k.Kind)
			}
			owner[name] = k.Kind
			found, err := Lookup(strings.ToUpper(name))
			if err != nil || found.Kind != k.Kind {
				t.Errorf("%s: %s, %v", name, found.Kind, err)
			}
		}
		obj, err := k.empty()
		if err != nil {
			t.Error(err)
			continue
		}
		if got := v3.RefOf(obj.(v3.Object)).Kind; got != k.Kind {
			t.Errorf("%s makes %s", k.Kind, got)
		}
	}
	if _, err := Lookup("nonsense"); err == nil || !strings.Contains(err.Error(), "globalnetworkpolicy") {
		t.Errorf("unknown kind: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	for _, row := range admission {
		f.Add(row.object)
	}
	f.Add("{\"kind\": \"List\", \"items\": [1, null]}")
	f.Add("--- [a\n--- &x [*x]\n---\n\xff")
	f.Fuzz(func(t *testing.T, text string) {
		for _, d := range Read([]string{"-"}, ReadOptions{Stdin: strings.NewReader(text)}) {
			if (d.Object == nil) != (len(d.Errors) > 0) {
				t.Fatalf("neither an object nor an error, or both: %+v", d)
			}
			if d.Object != nil {
				decodesAgain(t, d)
			}
		}
	})
}

// What was wrong with an object already may stay while something else of it changes; nothing becomes wrong anew.
func TestAdmitRatchets(t *testing.T) {
	for _, row := range []struct {
		old, new, field string
	}{
		{gnp("{selector: 'a ='}"), gnp("{selector: 'a =', order: 1}"), ""},
		{gnp("{selector: 'a ='}"), gnp("{selector: 'b ='}"), "spec.selector"},
		{gnp("{selector: 'a ='}"), gnp("{selector: 'a =', namespaceSelector: 'a ='}"), "spec.namespaceSelector"},
		{gnp("{selector: 'a ='}"), gnp("{selector: a == 'b'}"), ""},
		{gnp("{ingress: [{action: Allow, protocol: TCP, source: {ports: ['9:1']}}]}"), gnp("{ingress: [{action: Deny, protocol: TCP, source: {ports: ['9:1']}}]}"), ""},
		{gnp("{ingress: [{action: Allow, protocol: TCP, source: {ports: ['9:1']}}]}"), gnp("{ingress: [{action: Allow, protocol: TCP, source: {ports: ['9:2']}}]}"), "spec.ingress[0].source.ports[0]"},
		{gnp("{tier: Bad}"), gnp("{tier: Bad, order: 1}"), ""}, // of the schema
	} {
		_, errs := Admit(untyped(t, row.new), untyped(t, row.old))
		if row.field == "" && len(errs) > 0 || row.field != "" && (len(errs) != 1 || errs[0].Field != row.field) {
			t.Errorf("%s\nto\n%s: %v, want %q", row.old, row.new, errs, row.field)
		}
	}
}

func untyped(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	json, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(json, &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}
