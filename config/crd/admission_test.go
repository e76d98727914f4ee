package crd_test

import (
	"fmt"
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
)

// row is one row of contract §10.3, column "G+C".
type row struct {
	says  string // what the row is about, in the contract's words
	cases []fragment
}

// fragment is an object, or a rule to put into one, and where the first complaint about it stands ("" when it is accepted). The
// place of a fault within a rule is relative to the rule.
type fragment struct {
	where place
	text  string
	field string
}

// place is where a fragment is put: an object stands for itself, and a rule stands in every kind that has rules, in the
// directions that make no difference to it.
type place int

const (
	object place = iota
	anyRule
	ingressRule
	egressRule
)

const (
	accepted = ""
	itself   = "." // the rule as a whole
)

var contract = []row{
	{"numeric port without protocol; named port", []fragment{
		{anyRule, "destination: {ports: [80]}", "destination.ports"},
		{anyRule, "source: {notPorts: ['1:2']}", "source.notPorts[0]"},
		{anyRule, "destination: {ports: [http]}", accepted},
	}},
	{"same with ports:[http]", []fragment{{anyRule, "protocol: UDP, destination: {ports: [http]}", accepted}}},
	{"protocol ICMP + ports", []fragment{
		{anyRule, "protocol: ICMP, destination: {ports: [80]}", "destination.ports"},
		{anyRule, "protocol: UDPLite, destination: {ports: [http]}", "destination.ports"},
		{anyRule, "protocol: 47, source: {ports: [80]}", "source.ports"},
	}},
	{"protocol 6 + ports [80]", []fragment{
		{anyRule, "protocol: 6, destination: {ports: [80]}", accepted},
		{anyRule, "protocol: '17', destination: {ports: [80]}", accepted},
		{anyRule, "protocol: SCTP, destination: {ports: ['80']}", accepted},
	}},
	{"notProtocol TCP + notPorts [80]", []fragment{{anyRule, "notProtocol: TCP, destination: {notPorts: [80]}", "destination.notPorts"}}},
	{"ports 100:90, 70000, -1, name with blank; protocol 300", []fragment{
		{anyRule, "protocol: TCP, destination: {ports: ['100:90']}", "destination.ports[0]"},
		{anyRule, "protocol: TCP, destination: {ports: [80, 70000]}", "destination.ports[1]"},
		{anyRule, "protocol: TCP, destination: {ports: ['70000']}", "destination.ports[0]"},
		{anyRule, "protocol: TCP, destination: {ports: [-1]}", "destination.ports[0]"},
		{anyRule, "protocol: TCP, destination: {ports: ['a b']}", "destination.ports[0]"},
		{anyRule, "protocol: 300", "protocol"},
		{anyRule, "notProtocol: '300'", "notProtocol"},
	}},
	{"ports 0 / 0:10", []fragment{
		{anyRule, "protocol: TCP, destination: {ports: [0]}", "destination.ports[0]"},
		{anyRule, "protocol: TCP, destination: {ports: ['0:10']}", "destination.ports[0]"},
	}},
	{"protocol tcp / GRE / 0", []fragment{
		{anyRule, "protocol: tcp", "protocol"},
		{anyRule, "protocol: GRE", "protocol"},
		{anyRule, "protocol: 0", "protocol"},
		{anyRule, "notProtocol: tcp", "notProtocol"},
	}},
	{"protocol '47'", []fragment{{anyRule, "protocol: '47'", accepted}, {anyRule, "protocol: 47", accepted}}},
	{"icmp type 8 without protocol", []fragment{
		{anyRule, "icmp: {type: 8}", itself},
		{anyRule, "protocol: TCP, icmp: {type: 8}", itself},
		{anyRule, "protocol: ICMP, icmp: {type: 8}", accepted},
		{anyRule, "protocol: 58, icmp: {type: 128}", accepted},
	}},
	{"icmp code 0 only", []fragment{{anyRule, "protocol: ICMP, icmp: {code: 0}", "icmp"}, {anyRule, "notICMP: {code: 0}", "notICMP"}}},
	{"icmp type 255", []fragment{
		{anyRule, "protocol: ICMP, icmp: {type: 255}", "icmp.type"},
		{anyRule, "protocol: ICMP, icmp: {type: 254, code: 255}", accepted},
	}},
	{"notICMP type 8 without protocol", []fragment{{anyRule, "notICMP: {type: 8}", accepted}}},
	{"ICMP with ipVersion 6, ICMPv6 with 4, not ICMPv6 with 4", []fragment{
		{anyRule, "protocol: ICMP, ipVersion: 6", itself},
		{anyRule, "protocol: ICMPv6, ipVersion: 4", itself},
		{anyRule, "notProtocol: ICMPv6, ipVersion: 4", itself},
		{anyRule, "protocol: ICMPv6, ipVersion: 6", accepted},
	}},
	{"ipVersion 5", []fragment{{anyRule, "ipVersion: 5", "ipVersion"}}},
	{"nets 10.0.0.1 / 10.0.0.1/24", []fragment{
		{anyRule, "source: {nets: [10.0.0.1]}", "source.nets[0]"},
		{anyRule, "destination: {notNets: [10.0.0.1/24]}", "destination.notNets[0]"},
	}},
	{"nets 10.0.0.0/33", []fragment{{anyRule, "source: {nets: [10.0.0.0/33]}", "source.nets[0]"}}},
	{"nets of both families", []fragment{
		{anyRule, "source: {nets: [10.0.0.0/24, 'fd00::/64']}", "source.nets[1]"},
		{anyRule, "source: {nets: [10.0.0.0/24]}, destination: {nets: ['fd00::/64']}", "destination.nets[0]"},
		{anyRule, "source: {nets: [10.0.0.0/24], notNets: ['fd00::/64']}", "source.notNets[0]"},
	}},
	{"ipVersion 6 + v4 net", []fragment{{anyRule, "ipVersion: 6, source: {nets: [10.0.0.0/24]}", "source.nets[0]"}}},
	{"notNets 0.0.0.0/0", []fragment{
		{anyRule, "source: {notNets: [0.0.0.0/0]}", "source.notNets[0]"},
		{anyRule, "destination: {notNets: ['::/0']}", "destination.notNets[0]"},
	}},
	{"nets 0.0.0.0/0", []fragment{{anyRule, "source: {nets: [0.0.0.0/0]}", accepted}}},
	{"duplicate net", []fragment{{anyRule, "source: {nets: [10.0.0.0/8, 10.0.0.0/8]}", accepted}}},
	{"doNotTrack + preDNAT", []fragment{{object, gnp("{doNotTrack: true, preDNAT: true, applyOnForward: true}"), "spec"}}},
	{"preDNAT or doNotTrack without applyOnForward", []fragment{
		{object, gnp("{preDNAT: true}"), "spec"},
		{object, gnp("{doNotTrack: true, applyOnForward: false}"), "spec"},
		{object, gnp("{doNotTrack: true, applyOnForward: true}"), accepted},
	}},
	{"preDNAT + egress rule, or types Egress", []fragment{
		{object, gnp("{preDNAT: true, applyOnForward: true, egress: [{action: Deny}]}"), "spec"},
		{object, gnp("{preDNAT: true, applyOnForward: true, types: [Egress]}"), "spec"},
		{object, gnp("{preDNAT: true, applyOnForward: true, types: [Ingress]}"), accepted},
	}},
	{"types Ingress, Ingress", []fragment{{object, np("{types: [Ingress, Ingress]}"), "spec.types[1]"}}},
	{"types []", []fragment{{object, np("{types: []}"), accepted}}},
	{"action allow / missing", []fragment{
		{object, np("{ingress: [{action: allow}]}"), "spec.ingress[0].action"},
		{object, np("{ingress: [{protocol: TCP}]}"), "spec.ingress[0].action"},
	}},
	{"selector a = 'b'; with trailing newline", []fragment{
		{object, np(`{selector: "a = 'b'"}`), "spec.selector"},
		{object, np(`{selector: "a == 'b'\n"}`), "spec.selector"},
		{object, np(`{serviceAccountSelector: "a = 'b'"}`), "spec.serviceAccountSelector"},
		{anyRule, `source: {selector: "a = 'b'"}`, "source.selector"},
		{anyRule, `destination: {notSelector: "a == 'b'\n"}`, "destination.notSelector"},
		{anyRule, `destination: {namespaceSelector: "a"}`, "destination.namespaceSelector"},
		{anyRule, `source: {serviceAccounts: {selector: "a"}}`, "source.serviceAccounts.selector"},
	}},
	{"namespaceSelector a = 'b'", []fragment{{object, gnp(`{namespaceSelector: "a = 'b'"}`), "spec.namespaceSelector"}}},
	{"selector / namespaceSelector global()", []fragment{
		{object, gnp("{selector: global()}"), "spec"},
		{object, gnp("{namespaceSelector: global()}"), "spec"},
		{object, np("{serviceAccountSelector: global( )}"), "spec"},
	}},
	{"rule selector global()", []fragment{
		{anyRule, "source: {selector: global()}", "source"},
		{anyRule, "destination: {notSelector: global()}", "destination"},
		{anyRule, "destination: {serviceAccounts: {selector: global()}}", "destination"},
	}},
	{"rule namespaceSelector global() / global( )", []fragment{
		{anyRule, "source: {namespaceSelector: global()}", accepted},
		{anyRule, "source: {namespaceSelector: global( )}", accepted},
	}},
	{"rule namespaceSelector global() && a == 'b' / !global()", []fragment{
		{anyRule, `source: {namespaceSelector: "global() && a == 'b'"}`, "source.namespaceSelector"},
		{anyRule, `source: {namespaceSelector: "!global()"}`, "source.namespaceSelector"},
	}},
	{"egress destination services, GNP without namespace", []fragment{
		{object, gnp("{egress: [{action: Allow, destination: {services: {name: s}}}]}"), "spec.egress[0].destination.services.namespace"},
		{object, np("{egress: [{action: Allow, destination: {services: {name: s}}}]}"), accepted},
		{egressRule, "destination: {services: {name: s, namespace: ns1}}", accepted},
	}},
	{"egress services + ports", []fragment{
		{egressRule, "protocol: TCP, destination: {services: {name: s, namespace: ns1}, ports: [80]}", "destination"},
		{egressRule, "protocol: TCP, destination: {services: {name: s, namespace: ns1}, notPorts: [80]}", "destination"},
	}},
	{"ingress source services + destination ports", []fragment{
		{ingressRule, "protocol: TCP, source: {services: {name: s, namespace: ns1}}, destination: {ports: [80]}", accepted}}},
	{"services in egress source / ingress destination", []fragment{
		{egressRule, "source: {services: {name: s, namespace: ns1}}", "source.services"},
		{ingressRule, "destination: {services: {name: s, namespace: ns1}}", "destination.services"},
	}},
	{"services + selector / nets / serviceAccounts", []fragment{
		{ingressRule, "source: {services: {name: s, namespace: ns1}, selector: all()}", "source"},
		{ingressRule, "source: {services: {name: s, namespace: ns1}, notSelector: all()}", "source"},
		{ingressRule, "source: {services: {name: s, namespace: ns1}, namespaceSelector: all()}", "source"},
		{ingressRule, "source: {services: {name: s, namespace: ns1}, nets: [10.0.0.0/8]}", "source"},
		{egressRule, "destination: {services: {name: s, namespace: ns1}, notNets: [10.0.0.0/8]}", "destination"},
		{egressRule, "destination: {services: {name: s, namespace: ns1}, serviceAccounts: {names: [a]}}", "destination"},
	}},
	{"http on egress", []fragment{{egressRule, "http: {methods: [GET]}", "http"}}},
	{"http with UDP / on Deny", []fragment{
		{ingressRule, "protocol: UDP, http: {methods: [GET]}", itself},
		{object, np("{ingress: [{action: Deny, http: {methods: [GET]}}]}"), "spec.ingress[0]"},
		{ingressRule, "protocol: TCP, http: {methods: [GET]}", accepted},
		{ingressRule, "protocol: 6, http: {methods: [GET]}", accepted},
		{ingressRule, "http: {methods: [GET, POST], paths: [{exact: /a}, {prefix: /b}]}", accepted},
	}},
	{"http path both exact & prefix; a without slash; duplicate methods", []fragment{
		{ingressRule, "http: {paths: [{exact: /a, prefix: /b}]}", "http.paths[0]"},
		{ingressRule, "http: {paths: [{exact: a}]}", "http.paths[0]"},
		{ingressRule, "http: {paths: [{}]}", "http.paths[0]"},
		{ingressRule, "http: {paths: [{prefix: '/a?b'}]}", "http.paths[0]"},
		{ingressRule, "http: {paths: [{prefix: '/a#b'}]}", "http.paths[0]"},
		{ingressRule, "http: {methods: [GET, GET]}", "http.methods[1]"},
	}},
	{"NP with applyOnForward or namespaceSelector; unknown field ingres", []fragment{
		{object, np("{applyOnForward: true}"), "spec.applyOnForward"},
		{object, np("{doNotTrack: true}"), "spec.doNotTrack"},
		{object, np("{preDNAT: true}"), "spec.preDNAT"},
		{object, np("{namespaceSelector: all()}"), "spec.namespaceSelector"},
		{object, np("{ingres: []}"), "spec.ingres"},
		{object, "kind: Tier\nmetadata: {name: t, nam: t}", "metadata.nam"},
		{object, "kind: Tier\nmetadata: {name: t}\nspek: {}", "spek"},
	}},
	{"performanceHints Foo", []fragment{
		{object, np("{performanceHints: [Foo]}"), "spec.performanceHints[0]"},
		{object, np("{performanceHints: [AssumeNeededOnEveryNode]}"), accepted},
	}},
	{"order '5'", []fragment{{object, np(`{order: "5"}`), "spec.order"}}},
	{"order -1.5", []fragment{{object, np("{order: -1.5}"), accepted}}},
	{"NP name a.b; a.b.c, Upper", []fragment{
		{object, named("NetworkPolicy", "a.b", "{}"), accepted},
		{object, named("NetworkPolicy", "a.b.c", "{}"), "metadata.name"},
		{object, named("NetworkPolicy", "Upper", "{}"), "metadata.name"},
		{object, named("StagedNetworkPolicy", "a.b.c", "{}"), "metadata.name"},
		{object, named("GlobalNetworkPolicy", "a.b", "{}"), accepted},
		{object, named("GlobalNetworkPolicy", "a.b.c", "{}"), "metadata.name"},
		{object, named("StagedGlobalNetworkPolicy", "a.b.c", "{}"), "metadata.name"},
	}},
	{"NP name knp.default.a.b.c", []fragment{
		{object, named("NetworkPolicy", "knp.default.a.b.c", "{}"), accepted},
		{object, named("StagedNetworkPolicy", "ossg.default.a.b.c", "{}"), accepted},
		{object, named("GlobalNetworkPolicy", "knp.default.a", "{}"), "metadata.name"},
	}},
	{"Tier a.b", []fragment{
		{object, named("Tier", "a.b", "{}"), "metadata/spec"},
		{object, named("Tier", strings.Repeat("a", 64), "{}"), "metadata/spec"},
		{object, named("Tier", strings.Repeat("a", 63), "{}"), accepted},
	}},
	{"Tier defaultAction Allow", []fragment{{object, named("Tier", "t", "{defaultAction: Allow}"), "spec.defaultAction"}}},
	{"Tier default with order 5; kube-admin with Deny", []fragment{
		{object, named("Tier", "default", "{order: 5}"), "metadata/spec"},
		{object, named("Tier", "default", "{order: 1000000, defaultAction: Pass}"), "metadata/spec"},
		{object, named("Tier", "default", "{order: 1000000}"), accepted},
		{object, named("Tier", "kube-admin", "{order: 1000, defaultAction: Deny}"), "metadata/spec"},
		{object, named("Tier", "kube-admin", "{order: 1, defaultAction: Pass}"), "metadata/spec"},
		{object, named("Tier", "kube-admin", "{order: 1000, defaultAction: Pass}"), accepted},
		{object, named("Tier", "kube-baseline", "{order: 10000000, defaultAction: Deny}"), "metadata/spec"},
		{object, named("Tier", "kube-baseline", "{order: 1, defaultAction: Pass}"), "metadata/spec"},
		{object, named("Tier", "kube-baseline", "{order: 10000000, defaultAction: Pass}"), accepted},
	}},
	{"GNS nets 10.0.0.1, 10.0.0.1/24", []fragment{
		{object, named("GlobalNetworkSet", "s", "{nets: [10.0.0.1, 'fd00::1']}"), accepted},
		{object, named("GlobalNetworkSet", "s", "{nets: [10.0.0.1/24]}"), accepted},
		{object, named("NetworkSet", "s", "{nets: [10.0.0.1/24]}"), accepted},
	}},
	{"GNS nets example.com", []fragment{
		{object, named("GlobalNetworkSet", "s", "{nets: [10.0.0.1, example.com]}"), "spec.nets[1]"},
		{object, named("NetworkSet", "s", "{nets: [example.com]}"), "spec.nets[0]"},
	}},
	{"GNS label projectcalico.org/namespace", []fragment{
		{object, "kind: GlobalNetworkSet\nmetadata: {name: s, labels: {projectcalico.org/namespace: x}}", "metadata.labels"},
		{object, "kind: NetworkSet\nmetadata: {name: s, namespace: ns1, labels: {projectcalico.org/namespace: x}}", "metadata.labels"},
	}},
	{"HEP without interfaceName and expectedIPs; without node", []fragment{
		{object, hep("expectedIPs: []"), "spec"},
		{object, named("HostEndpoint", "h", "{interfaceName: eth0}"), "spec"},
		{object, named("HostEndpoint", "h", "{node: '', interfaceName: eth0}"), "spec"},
		{object, "kind: HostEndpoint\nmetadata: {name: h}", "metadata/spec"},
	}},
	{"HEP interfaceName *; eth*", []fragment{
		{object, hep(`interfaceName: "*"`), accepted},
		{object, hep(`interfaceName: "eth*"`), "spec.interfaceName"},
	}},
	{"HEP interfaceName 16 chars", []fragment{
		{object, hep("interfaceName: abcdefghijklmnop"), "spec.interfaceName"},
		{object, hep("interfaceName: abcdefghijklmno"), accepted},
	}},
	{"HEP expectedIPs 10.0.0.1/32", []fragment{
		{object, hep("expectedIPs: [10.0.0.1/32]"), "spec.expectedIPs[0]"},
		{object, hep("expectedIPs: [10.0.0.1, 'fd00::1']"), accepted},
	}},
	{"HEP port protocol ICMP", []fragment{
		{object, hep("interfaceName: eth0, ports: [{name: a, protocol: ICMP, port: 1}]"), "spec.ports[0].protocol"},
		{object, hep("interfaceName: eth0, ports: [{name: a, protocol: 300, port: 1}]"), "spec.ports[0].protocol"},
		{object, hep("interfaceName: eth0, ports: [{name: a, protocol: SCTP, port: 1}]"), accepted},
	}},
	{"SNP stagedAction Delete + rules", []fragment{
		{object, named("StagedNetworkPolicy", "p", "{stagedAction: Delete, ingress: [{action: Allow}]}"), "spec"},
		{object, named("StagedNetworkPolicy", "p", "{stagedAction: Delete, tier: t, order: 0}"), "spec"},
		{object, named("StagedNetworkPolicy", "p", "{stagedAction: Delete, tier: t}"), accepted},
		{object, named("StagedGlobalNetworkPolicy", "p", "{stagedAction: Delete, selector: all()}"), "spec"},
		{object, named("StagedGlobalNetworkPolicy", "p", "{stagedAction: Delete, types: [Ingress]}"), accepted},
		{object, named("StagedKubernetesNetworkPolicy", "p", "{stagedAction: Delete, podSelector: {matchLabels: {a: b}}}"), "spec"},
		{object, named("StagedKubernetesNetworkPolicy", "p", "{stagedAction: Delete}"), accepted},
	}},
	{"SNP stagedAction Foo", []fragment{
		{object, named("StagedNetworkPolicy", "p", "{stagedAction: Foo}"), "spec.stagedAction"},
		{object, named("StagedNetworkPolicy", "p", "{stagedAction: Learn}"), accepted},
		{object, named("StagedGlobalNetworkPolicy", "p", "{stagedAction: Foo}"), "spec.stagedAction"},
	}},
	{"FelixConfiguration default with nodeSelector", []fragment{
		{object, felix("default", "{nodeSelector: all()}"), "spec.nodeSelector"},
		{object, felix("node.n1", "{nodeSelector: all()}"), "spec.nodeSelector"},
		{object, felix("default", "{nodeSelector: ''}"), accepted},
		{object, felix("pool", "{nodeSelector: all()}"), accepted},
		{object, felix("node", "{nodeSelector: has(a)}"), accepted},
		{object, "kind: FelixConfiguration\nmetadata: {name: default}", accepted},
	}},
	{"FelixConfiguration logActionRateLimit 10/fortnight", []fragment{
		{object, felix("default", "{logActionRateLimit: 10/fortnight}"), "spec.logActionRateLimit"},
		{object, felix("default", "{logActionRateLimit: 0/second}"), "spec.logActionRateLimit"},
		{object, felix("default", "{logActionRateLimit: 10000/second}"), "spec.logActionRateLimit"},
		{object, felix("default", "{logActionRateLimit: 9999/hour}"), accepted},
	}},
}

// namespaced are the kinds whose objects are in a namespace.
var namespaced = map[string]bool{"NetworkPolicy": true, "StagedNetworkPolicy": true, "StagedKubernetesNetworkPolicy": true, "NetworkSet": true, "WorkloadEndpoint": true}

func named(kind, name, spec string) string {
	meta := fmt.Sprintf("name: %q", name)
	if namespaced[kind] {
		meta += ", namespace: ns1"
	}
	return fmt.Sprintf("kind: %s\nmetadata: {%s}\nspec: %s", kind, meta, spec)
}
func np(spec string) string  { return named("NetworkPolicy", "p", spec) }
func gnp(spec string) string { return named("GlobalNetworkPolicy", "p", spec) }
func hep(spec string) string { return named("HostEndpoint", "h", "{node: n1, "+spec+"}") }

// ruleKinds are the kinds that have rules.
var ruleKinds = []string{"NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy", "Profile"}

// expand gives the objects that a fragment stands for, each with where the first complaint must stand.
func (f fragment) expand() (out []fragment) {
	if f.where == object {
		return []fragment{f}
	}
	for _, direction := range []string{"ingress", "egress"} {
		if f.where == ingressRule && direction == "egress" || f.where == egressRule && direction == "ingress" {
			continue
		}
		at := "spec." + direction + "[1]"
		switch f.field {
		case accepted:
			at = accepted
		case itself:
		default:
			at += "." + f.field
		}
		for _, kind := range ruleKinds {
			out = append(out, fragment{object, named(kind, "p", fmt.Sprintf("{%s: [{action: Log}, {action: Allow, %s}]}", direction, f.text)), at})
		}
	}
	return out
}

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
		for _, f := range r.cases {
			for _, o := range f.expand() {
				objects++
				_, errs := judge(parse(t, o.text))
				check(t, r.says, o, errs)
			}
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
		for _, f := range r.cases {
			for _, o := range f.expand() {
				if unknown, errs := crd.Admit(parse(t, o.text), nil); o.field != accepted && len(unknown)+len(errs) == 0 {
					through = o.text
				}
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
	if have != len(ruleKinds) {
		t.Errorf("%d kinds have rules, and %v are tested", have, ruleKinds)
	}
}
