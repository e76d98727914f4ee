// Package verdicts has objects and what is to be said of them: one table for everybody who judges objects, be it the schema, Validate, a store,
// the webhook or an API server.
package verdicts

import (
	"fmt"
	"strings"
)

// Row is one row of contract §10.3, column "G+C".
type Row struct {
	Says  string // what the row is about, in the contract's words
	Cases []Fragment
}

// Fragment is an object, or a rule to put into one, and where the first complaint about it stands ("" when it is accepted). The
// place of a fault within a rule is relative to the rule.
type Fragment struct {
	Where Place
	Text  string
	Field string
}

// Place is where a fragment is put: an object stands for itself, and a rule stands in every kind that has rules, in the
// directions that make no difference to it.
type Place int

// The places.
const (
	object Place = iota
	anyRule
	ingressRule
	egressRule
)

const (
	accepted = ""
	itself   = "." // the rule as a whole
)

// Contract is the table of contract §10.3.
var Contract = []Row{
	{"numeric port without protocol; named port", []Fragment{
		{anyRule, "destination: {ports: [80]}", "destination.ports"},
		{anyRule, "source: {notPorts: ['1:2']}", "source.notPorts[0]"},
		{anyRule, "destination: {ports: [http]}", accepted},
	}},
	{"same with ports:[http]", []Fragment{{anyRule, "protocol: UDP, destination: {ports: [http]}", accepted}}},
	{"protocol ICMP + ports", []Fragment{
		{anyRule, "protocol: ICMP, destination: {ports: [80]}", "destination.ports"},
		{anyRule, "protocol: UDPLite, destination: {ports: [http]}", "destination.ports"},
		{anyRule, "protocol: 47, source: {ports: [80]}", "source.ports"},
	}},
	{"protocol 6 + ports [80]", []Fragment{
		{anyRule, "protocol: 6, destination: {ports: [80]}", accepted},
		{anyRule, "protocol: '17', destination: {ports: [80]}", accepted},
		{anyRule, "protocol: SCTP, destination: {ports: ['80']}", accepted},
	}},
	{"notProtocol TCP + notPorts [80]", []Fragment{{anyRule, "notProtocol: TCP, destination: {notPorts: [80]}", "destination.notPorts"}}},
	{"ports 100:90, 70000, -1, name with blank; protocol 300", []Fragment{
		{anyRule, "protocol: TCP, destination: {ports: ['100:90']}", "destination.ports[0]"},
		{anyRule, "protocol: TCP, destination: {ports: [80, 70000]}", "destination.ports[1]"},
		{anyRule, "protocol: TCP, destination: {ports: ['70000']}", "destination.ports[0]"},
		{anyRule, "protocol: TCP, destination: {ports: [-1]}", "destination.ports[0]"},
		{anyRule, "protocol: TCP, destination: {ports: ['a b']}", "destination.ports[0]"},
		{anyRule, "protocol: 300", "protocol"},
		{anyRule, "notProtocol: '300'", "notProtocol"},
	}},
	{"ports 0 / 0:10", []Fragment{
		{anyRule, "protocol: TCP, destination: {ports: [0]}", "destination.ports[0]"},
		{anyRule, "protocol: TCP, destination: {ports: ['0:10']}", "destination.ports[0]"},
	}},
	{"protocol tcp / GRE / 0", []Fragment{
		{anyRule, "protocol: tcp", "protocol"},
		{anyRule, "protocol: GRE", "protocol"},
		{anyRule, "protocol: 0", "protocol"},
		{anyRule, "notProtocol: tcp", "notProtocol"},
	}},
	{"protocol '47'", []Fragment{{anyRule, "protocol: '47'", accepted}, {anyRule, "protocol: 47", accepted}}},
	{"icmp type 8 without protocol", []Fragment{
		{anyRule, "icmp: {type: 8}", itself},
		{anyRule, "protocol: TCP, icmp: {type: 8}", itself},
		{anyRule, "protocol: ICMP, icmp: {type: 8}", accepted},
		{anyRule, "protocol: 58, icmp: {type: 128}", accepted},
	}},
	{"icmp code 0 only", []Fragment{{anyRule, "protocol: ICMP, icmp: {code: 0}", "icmp"}, {anyRule, "notICMP: {code: 0}", "notICMP"}}},
	{"icmp type 255", []Fragment{
		{anyRule, "protocol: ICMP, icmp: {type: 255}", "icmp.type"},
		{anyRule, "protocol: ICMP, icmp: {type: 254, code: 255}", accepted},
	}},
	{"notICMP type 8 without protocol", []Fragment{{anyRule, "notICMP: {type: 8}", accepted}}},
	{"ICMP with ipVersion 6, ICMPv6 with 4, not ICMPv6 with 4", []Fragment{
		{anyRule, "protocol: ICMP, ipVersion: 6", itself},
		{anyRule, "protocol: ICMPv6, ipVersion: 4", itself},
		{anyRule, "notProtocol: ICMPv6, ipVersion: 4", itself},
		{anyRule, "protocol: ICMPv6, ipVersion: 6", accepted},
	}},
	{"ipVersion 5", []Fragment{{anyRule, "ipVersion: 5", "ipVersion"}}},
	{"nets 10.0.0.1 / 10.0.0.1/24", []Fragment{
		{anyRule, "source: {nets: [10.0.0.1]}", "source.nets[0]"},
		{anyRule, "destination: {notNets: [10.0.0.1/24]}", "destination.notNets[0]"},
	}},
	{"nets 10.0.0.0/33", []Fragment{{anyRule, "source: {nets: [10.0.0.0/33]}", "source.nets[0]"}}},
	{"nets of both families", []Fragment{
		{anyRule, "source: {nets: [10.0.0.0/24, 'fd00::/64']}", "source.nets[1]"},
		{anyRule, "source: {nets: [10.0.0.0/24]}, destination: {nets: ['fd00::/64']}", "destination.nets[0]"},
		{anyRule, "source: {nets: [10.0.0.0/24], notNets: ['fd00::/64']}", "source.notNets[0]"},
	}},
	{"ipVersion 6 + v4 net", []Fragment{{anyRule, "ipVersion: 6, source: {nets: [10.0.0.0/24]}", "source.nets[0]"}}},
	{"notNets 0.0.0.0/0", []Fragment{
		{anyRule, "source: {notNets: [0.0.0.0/0]}", "source.notNets[0]"},
		{anyRule, "destination: {notNets: ['::/0']}", "destination.notNets[0]"},
	}},
	{"nets 0.0.0.0/0", []Fragment{{anyRule, "source: {nets: [0.0.0.0/0]}", accepted}}},
	{"duplicate net", []Fragment{{anyRule, "source: {nets: [10.0.0.0/8, 10.0.0.0/8]}", accepted}}},
	{"doNotTrack + preDNAT", []Fragment{{object, gnp("{doNotTrack: true, preDNAT: true, applyOnForward: true}"), "spec"}}},
	{"preDNAT or doNotTrack without applyOnForward", []Fragment{
		{object, gnp("{preDNAT: true}"), "spec"},
		{object, gnp("{doNotTrack: true, applyOnForward: false}"), "spec"},
		{object, gnp("{doNotTrack: true, applyOnForward: true}"), accepted},
	}},
	{"preDNAT + egress rule, or types Egress", []Fragment{
		{object, gnp("{preDNAT: true, applyOnForward: true, egress: [{action: Deny}]}"), "spec"},
		{object, gnp("{preDNAT: true, applyOnForward: true, types: [Egress]}"), "spec"},
		{object, gnp("{preDNAT: true, applyOnForward: true, types: [Ingress]}"), accepted},
	}},
	{"types Ingress, Ingress", []Fragment{{object, np("{types: [Ingress, Ingress]}"), "spec.types[1]"}}},
	{"types []", []Fragment{{object, np("{types: []}"), accepted}}},
	{"action allow / missing", []Fragment{
		{object, np("{ingress: [{action: allow}]}"), "spec.ingress[0].action"},
		{object, np("{ingress: [{protocol: TCP}]}"), "spec.ingress[0].action"},
	}},
	{"selector a = 'b'; with trailing newline", []Fragment{
		{object, np(`{selector: "a = 'b'"}`), "spec.selector"},
		{object, np(`{selector: "a == 'b'\n"}`), "spec.selector"},
		{object, np(`{serviceAccountSelector: "a = 'b'"}`), "spec.serviceAccountSelector"},
		{anyRule, `source: {selector: "a = 'b'"}`, "source.selector"},
		{anyRule, `destination: {notSelector: "a == 'b'\n"}`, "destination.notSelector"},
		{anyRule, `destination: {namespaceSelector: "a"}`, "destination.namespaceSelector"},
		{anyRule, `source: {serviceAccounts: {selector: "a"}}`, "source.serviceAccounts.selector"},
	}},
	{"namespaceSelector a = 'b'", []Fragment{{object, gnp(`{namespaceSelector: "a = 'b'"}`), "spec.namespaceSelector"}}},
	{"selector / namespaceSelector global()", []Fragment{
		{object, gnp("{selector: global()}"), "spec"},
		{object, gnp("{namespaceSelector: global()}"), "spec"},
		{object, np("{serviceAccountSelector: global( )}"), "spec"},
	}},
	{"rule selector global()", []Fragment{
		{anyRule, "source: {selector: global()}", "source"},
		{anyRule, "destination: {notSelector: global()}", "destination"},
		{anyRule, "destination: {serviceAccounts: {selector: global()}}", "destination"},
	}},
	{"rule namespaceSelector global() / global( )", []Fragment{
		{anyRule, "source: {namespaceSelector: global()}", accepted},
		{anyRule, "source: {namespaceSelector: global( )}", accepted},
	}},
	{"rule namespaceSelector global() && a == 'b' / !global()", []Fragment{
		{anyRule, `source: {namespaceSelector: "global() && a == 'b'"}`, "source.namespaceSelector"},
		{anyRule, `source: {namespaceSelector: "!global()"}`, "source.namespaceSelector"},
	}},
	{"egress destination services, GNP without namespace", []Fragment{
		{object, gnp("{egress: [{action: Allow, destination: {services: {name: s}}}]}"), "spec.egress[0].destination.services.namespace"},
		{object, np("{egress: [{action: Allow, destination: {services: {name: s}}}]}"), accepted},
		{egressRule, "destination: {services: {name: s, namespace: ns1}}", accepted},
	}},
	{"egress services + ports", []Fragment{
		{egressRule, "protocol: TCP, destination: {services: {name: s, namespace: ns1}, ports: [80]}", "destination"},
		{egressRule, "protocol: TCP, destination: {services: {name: s, namespace: ns1}, notPorts: [80]}", "destination"},
	}},
	{"ingress source services + destination ports", []Fragment{
		{ingressRule, "protocol: TCP, source: {services: {name: s, namespace: ns1}}, destination: {ports: [80]}", accepted}}},
	{"services in egress source / ingress destination", []Fragment{
		{egressRule, "source: {services: {name: s, namespace: ns1}}", "source.services"},
		{ingressRule, "destination: {services: {name: s, namespace: ns1}}", "destination.services"},
	}},
	{"services + selector / nets / serviceAccounts", []Fragment{
		{ingressRule, "source: {services: {name: s, namespace: ns1}, selector: all()}", "source"},
		{ingressRule, "source: {services: {name: s, namespace: ns1}, notSelector: all()}", "source"},
		{ingressRule, "source: {services: {name: s, namespace: ns1}, namespaceSelector: all()}", "source"},
		{ingressRule, "source: {services: {name: s, namespace: ns1}, nets: [10.0.0.0/8]}", "source"},
		{egressRule, "destination: {services: {name: s, namespace: ns1}, notNets: [10.0.0.0/8]}", "destination"},
		{egressRule, "destination: {services: {name: s, namespace: ns1}, serviceAccounts: {names: [a]}}", "destination"},
	}},
	{"http on egress", []Fragment{{egressRule, "http: {methods: [GET]}", "http"}}},
	{"http with UDP / on Deny", []Fragment{
		{ingressRule, "protocol: UDP, http: {methods: [GET]}", itself},
		{object, np("{ingress: [{action: Deny, http: {methods: [GET]}}]}"), "spec.ingress[0]"},
		{ingressRule, "protocol: TCP, http: {methods: [GET]}", accepted},
		{ingressRule, "protocol: 6, http: {methods: [GET]}", accepted},
		{ingressRule, "http: {methods: [GET, POST], paths: [{exact: /a}, {prefix: /b}]}", accepted},
	}},
	{"http path both exact & prefix; a without slash; duplicate methods", []Fragment{
		{ingressRule, "http: {paths: [{exact: /a, prefix: /b}]}", "http.paths[0]"},
		{ingressRule, "http: {paths: [{exact: a}]}", "http.paths[0]"},
		{ingressRule, "http: {paths: [{}]}", "http.paths[0]"},
		{ingressRule, "http: {paths: [{prefix: '/a?b'}]}", "http.paths[0]"},
		{ingressRule, "http: {paths: [{prefix: '/a#b'}]}", "http.paths[0]"},
		{ingressRule, "http: {methods: [GET, GET]}", "http.methods[1]"},
	}},
	{"NP with applyOnForward or namespaceSelector; unknown field ingres", []Fragment{
		{object, np("{applyOnForward: true}"), "spec.applyOnForward"},
		{object, np("{doNotTrack: true}"), "spec.doNotTrack"},
		{object, np("{preDNAT: true}"), "spec.preDNAT"},
		{object, np("{namespaceSelector: all()}"), "spec.namespaceSelector"},
		{object, np("{ingres: []}"), "spec.ingres"},
		{object, "kind: Tier\nmetadata: {name: t, nam: t}", "metadata.nam"},
		{object, "kind: Tier\nmetadata: {name: t}\nspek: {}", "spek"},
	}},
	{"performanceHints Foo", []Fragment{
		{object, np("{performanceHints: [Foo]}"), "spec.performanceHints[0]"},
		{object, np("{performanceHints: [AssumeNeededOnEveryNode]}"), accepted},
	}},
	{"order '5'", []Fragment{{object, np(`{order: "5"}`), "spec.order"}}},
	{"order -1.5", []Fragment{{object, np("{order: -1.5}"), accepted}}},
	{"NP name a.b; a.b.c, Upper", []Fragment{
		{object, Named("NetworkPolicy", "a.b", "{}"), accepted},
		{object, Named("NetworkPolicy", "a.b.c", "{}"), "metadata.name"},
		{object, Named("NetworkPolicy", "Upper", "{}"), "metadata.name"},
		{object, Named("StagedNetworkPolicy", "a.b.c", "{}"), "metadata.name"},
		{object, Named("GlobalNetworkPolicy", "a.b", "{}"), accepted},
		{object, Named("GlobalNetworkPolicy", "a.b.c", "{}"), "metadata.name"},
		{object, Named("StagedGlobalNetworkPolicy", "a.b.c", "{}"), "metadata.name"},
	}},
	{"NP name knp.default.a.b.c", []Fragment{
		{object, Named("NetworkPolicy", "knp.default.a.b.c", "{}"), accepted},
		{object, Named("StagedNetworkPolicy", "ossg.default.a.b.c", "{}"), accepted},
		{object, Named("GlobalNetworkPolicy", "knp.default.a", "{}"), "metadata.name"},
	}},
	{"Tier a.b", []Fragment{
		{object, Named("Tier", "a.b", "{}"), "metadata/spec"},
		{object, Named("Tier", strings.Repeat("a", 64), "{}"), "metadata/spec"},
		{object, Named("Tier", strings.Repeat("a", 63), "{}"), accepted},
	}},
	{"Tier defaultAction Allow", []Fragment{{object, Named("Tier", "t", "{defaultAction: Allow}"), "spec.defaultAction"}}},
	{"Tier default with order 5; kube-admin with Deny", []Fragment{
		{object, Named("Tier", "default", "{order: 5}"), "metadata/spec"},
		{object, Named("Tier", "default", "{order: 1000000, defaultAction: Pass}"), "metadata/spec"},
		{object, Named("Tier", "default", "{order: 1000000}"), accepted},
		{object, Named("Tier", "kube-admin", "{order: 1000, defaultAction: Deny}"), "metadata/spec"},
		{object, Named("Tier", "kube-admin", "{order: 1, defaultAction: Pass}"), "metadata/spec"},
		{object, Named("Tier", "kube-admin", "{order: 1000, defaultAction: Pass}"), accepted},
		{object, Named("Tier", "kube-baseline", "{order: 10000000, defaultAction: Deny}"), "metadata/spec"},
		{object, Named("Tier", "kube-baseline", "{order: 1, defaultAction: Pass}"), "metadata/spec"},
		{object, Named("Tier", "kube-baseline", "{order: 10000000, defaultAction: Pass}"), accepted},
	}},
	{"GNS nets 10.0.0.1, 10.0.0.1/24", []Fragment{
		{object, Named("GlobalNetworkSet", "s", "{nets: [10.0.0.1, 'fd00::1']}"), accepted},
		{object, Named("GlobalNetworkSet", "s", "{nets: [10.0.0.1/24]}"), accepted},
		{object, Named("NetworkSet", "s", "{nets: [10.0.0.1/24]}"), accepted},
	}},
	{"GNS nets example.com", []Fragment{
		{object, Named("GlobalNetworkSet", "s", "{nets: [10.0.0.1, example.com]}"), "spec.nets[1]"},
		{object, Named("NetworkSet", "s", "{nets: [example.com]}"), "spec.nets[0]"},
	}},
	{"GNS label projectcalico.org/namespace", []Fragment{
		{object, "kind: GlobalNetworkSet\nmetadata: {name: s, labels: {projectcalico.org/namespace: x}}", "metadata.labels"},
		{object, "kind: NetworkSet\nmetadata: {name: s, namespace: ns1, labels: {projectcalico.org/namespace: x}}", "metadata.labels"},
	}},
	{"HEP without interfaceName and expectedIPs; without node", []Fragment{
		{object, hep("expectedIPs: []"), "spec"},
		{object, Named("HostEndpoint", "h", "{interfaceName: eth0}"), "spec"},
		{object, Named("HostEndpoint", "h", "{node: '', interfaceName: eth0}"), "spec"},
		{object, "kind: HostEndpoint\nmetadata: {name: h}", "metadata/spec"},
	}},
	{"HEP interfaceName *; eth*", []Fragment{
		{object, hep(`interfaceName: "*"`), accepted},
		{object, hep(`interfaceName: "eth*"`), "spec.interfaceName"},
	}},
	{"HEP interfaceName 16 chars", []Fragment{
		{object, hep("interfaceName: abcdefghijklmnop"), "spec.interfaceName"},
		{object, hep("interfaceName: abcdefghijklmno"), accepted},
	}},
	{"HEP expectedIPs 10.0.0.1/32", []Fragment{
		{object, hep("expectedIPs: [10.0.0.1/32]"), "spec.expectedIPs[0]"},
		{object, hep("expectedIPs: [10.0.0.1, 'fd00::1']"), accepted},
	}},
	{"HEP port protocol ICMP", []Fragment{
		{object, hep("interfaceName: eth0, ports: [{name: a, protocol: ICMP, port: 1}]"), "spec.ports[0].protocol"},
		{object, hep("interfaceName: eth0, ports: [{name: a, protocol: 300, port: 1}]"), "spec.ports[0].protocol"},
		{object, hep("interfaceName: eth0, ports: [{name: a, protocol: SCTP, port: 1}]"), accepted},
	}},
	{"SNP stagedAction Delete + rules", []Fragment{
		{object, Named("StagedNetworkPolicy", "p", "{stagedAction: Delete, ingress: [{action: Allow}]}"), "spec"},
		{object, Named("StagedNetworkPolicy", "p", "{stagedAction: Delete, tier: t, order: 0}"), "spec"},
		{object, Named("StagedNetworkPolicy", "p", "{stagedAction: Delete, tier: t}"), accepted},
		{object, Named("StagedGlobalNetworkPolicy", "p", "{stagedAction: Delete, selector: all()}"), "spec"},
		{object, Named("StagedGlobalNetworkPolicy", "p", "{stagedAction: Delete, types: [Ingress]}"), accepted},
		{object, Named("StagedKubernetesNetworkPolicy", "p", "{stagedAction: Delete, podSelector: {matchLabels: {a: b}}}"), "spec"},
		{object, Named("StagedKubernetesNetworkPolicy", "p", "{stagedAction: Delete}"), accepted},
	}},
	{"SNP stagedAction Foo", []Fragment{
		{object, Named("StagedNetworkPolicy", "p", "{stagedAction: Foo}"), "spec.stagedAction"},
		{object, Named("StagedNetworkPolicy", "p", "{stagedAction: Learn}"), accepted},
		{object, Named("StagedGlobalNetworkPolicy", "p", "{stagedAction: Foo}"), "spec.stagedAction"},
	}},
	{"FelixConfiguration default with nodeSelector", []Fragment{
		{object, felix("default", "{nodeSelector: all()}"), "spec.nodeSelector"},
		{object, felix("node.n1", "{nodeSelector: all()}"), "spec.nodeSelector"},
		{object, felix("default", "{nodeSelector: ''}"), accepted},
		{object, felix("pool", "{nodeSelector: all()}"), accepted},
		{object, felix("node", "{nodeSelector: has(a)}"), accepted},
		{object, "kind: FelixConfiguration\nmetadata: {name: default}", accepted},
	}},
	{"FelixConfiguration logActionRateLimit 10/fortnight", []Fragment{
		{object, felix("default", "{logActionRateLimit: 10/fortnight}"), "spec.logActionRateLimit"},
		{object, felix("default", "{logActionRateLimit: 0/second}"), "spec.logActionRateLimit"},
		{object, felix("default", "{logActionRateLimit: 10000/second}"), "spec.logActionRateLimit"},
		{object, felix("default", "{logActionRateLimit: 9999/hour}"), accepted},
	}},
}

// Namespaced are the kinds whose objects are in a namespace.
var Namespaced = map[string]bool{"NetworkPolicy": true, "StagedNetworkPolicy": true, "StagedKubernetesNetworkPolicy": true, "NetworkSet": true, "WorkloadEndpoint": true}

// Named is an object of a name, without its apiVersion.
func Named(kind, name, spec string) string {
	meta := fmt.Sprintf("name: %q", name)
	if Namespaced[kind] {
		meta += ", namespace: ns1"
	}
	return fmt.Sprintf("kind: %s\nmetadata: {%s}\nspec: %s", kind, meta, spec)
}

func np(spec string) string  { return Named("NetworkPolicy", "p", spec) }
func gnp(spec string) string { return Named("GlobalNetworkPolicy", "p", spec) }
func hep(spec string) string { return Named("HostEndpoint", "h", "{node: n1, "+spec+"}") }

// RuleKinds are the kinds that have rules.
var RuleKinds = []string{"NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy", "Profile"}

// Expand gives the objects that a fragment stands for, each with where the first complaint must stand.
func (f Fragment) Expand() (out []Fragment) {
	if f.Where == object {
		return []Fragment{f}
	}
	for _, direction := range []string{"ingress", "egress"} {
		if f.Where == ingressRule && direction == "egress" || f.Where == egressRule && direction == "ingress" {
			continue
		}
		at := "spec." + direction + "[1]"
		switch f.Field {
		case accepted:
			at = accepted
		case itself:
		default:
			at += "." + f.Field
		}
		for _, kind := range RuleKinds {
			out = append(out, Fragment{object, Named(kind, "p", fmt.Sprintf("{%s: [{action: Log}, {action: Allow, %s}]}", direction, f.Text)), at})
		}
	}
	return out
}

func felix(name, spec string) string { return Named("FelixConfiguration", name, spec) }
