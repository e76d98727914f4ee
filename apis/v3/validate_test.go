package v3_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// refused are objects with one fault each, where the complaint about it stands, and a piece of what it says.
var refused = []struct{ kind, object, field, reason string }{
	{"NetworkPolicy", "metadata: {name: a.b.c}", "metadata.name", "a label, or two with a dot"},
	{"NetworkPolicy", "spec: {selector: 'a = b'}", "spec.selector", "column 3"},
	{"NetworkPolicy", "spec: {serviceAccountSelector: '('}", "spec.serviceAccountSelector", "column"},
	{"NetworkPolicy", ingress("source: {nets: [10.0.0.1]}"), "spec.ingress[0].source.nets[0]", "(invalid CIDR)"},
	{"NetworkPolicy", ingress("source: {nets: [10.0.0.1/24]}"), "spec.ingress[0].source.nets[0]", "did you mean 10.0.0.0/24?"},
	{"NetworkPolicy", ingress("source: {nets: ['::ffff:10.0.0.0/104']}"), "spec.ingress[0].source.nets[0]", "must be written as IPv4"},
	{"NetworkPolicy", ingress("ipVersion: 6, source: {nets: [10.0.0.0/8]}"), "spec.ingress[0].source.nets[0]", "rule IP version doesn't match CIDR version"},
	{"NetworkPolicy", ingress("source: {nets: [10.0.0.0/8]}, destination: {notNets: ['fd00::/8']}"), "spec.ingress[0].destination.notNets[0]",
		"rule contains both IPv4 and IPv6 CIDRs"},
	{"NetworkPolicy", ingress("source: {notNets: ['::/0']}"), "spec.ingress[0].source.notNets[0]", "matches no traffic"},
	{"NetworkPolicy", ingress("source: {namespaceSelector: '!global()'}"), "spec.ingress[0].source.namespaceSelector", "must stand alone"},
	{"NetworkPolicy", ingress("source: {serviceAccounts: {names: [\"it's\"]}}"), "spec.ingress[0].source.serviceAccounts.names[0]", "not the name of a service account"},
	{"NetworkPolicy", ingress("protocol: GRE"), "spec.ingress[0].protocol", "is none of TCP, UDP"},
	{"NetworkPolicy", ingress("notProtocol: 256"), "spec.ingress[0].notProtocol", "expected 1 to 255"},
	{"NetworkPolicy", ingress("destination: {ports: [80]}"), "spec.ingress[0].destination.ports[0]", "numeric port or port range must set protocol"},
	{"NetworkPolicy", ingress("protocol: ICMP, source: {notPorts: [http]}"), "spec.ingress[0].source.notPorts[0]", "rules that specify ports must set protocol"},
	{"NetworkPolicy", ingress("protocol: TCP, source: {ports: [0]}"), "spec.ingress[0].source.ports[0]", "between 1 and 65535"},
	{"NetworkPolicy", ingress("protocol: TCP, source: {ports: ['9:1']}"), "spec.ingress[0].source.ports[0]", "minimum port number (9) is greater"},
	{"NetworkPolicy", ingress("protocol: TCP, source: {ports: ['a:1']}"), "spec.ingress[0].source.ports[0]", "expected min:max"},
	{"NetworkPolicy", ingress("protocol: TCP, source: {ports: ['a b']}"), "spec.ingress[0].source.ports[0]", "is no port: expected a number"},
	{"NetworkPolicy", ingress("metadata: {annotations: {a b: c}}"), "spec.ingress[0].metadata.annotations", "a b"},
	{"NetworkPolicy", ingress("destination: {services: {name: s}}"), "spec.ingress[0].destination.services", "not allowed in ingress rule destination"},
	{"NetworkPolicy", egress("source: {services: {name: s}}"), "spec.egress[0].source.services", "not allowed in egress rule source"},
	{"NetworkPolicy", egress("destination: {services: {}}"), "spec.egress[0].destination.services.name", "must name a service"},
	{"NetworkPolicy", egress("destination: {services: {name: s}, ports: [http]}"), "spec.egress[0].destination.ports", "a service brings its own ports"},
	{"GlobalNetworkPolicy", egress("destination: {services: {name: s}}"), "spec.egress[0].destination.services.namespace", "must specify a namespace"},
	{"GlobalNetworkPolicy", "spec: {namespaceSelector: x}", "spec.namespaceSelector", "column"},
	{"GlobalNetworkPolicy", "metadata: {name: knp.default.a}", "metadata.name", "a label, or two"},
	{"NetworkPolicy", egress("http: {methods: [GET]}"), "spec.egress[0].http", "ingress rules only"},
	{"NetworkPolicy", ingress("http: {methods: [GET, GET]}"), "spec.ingress[0].http.methods[1]", "Duplicate"},
	{"NetworkPolicy", ingress("http: {paths: [{exact: /a, prefix: /a}]}"), "spec.ingress[0].http.paths[0]", "either exact or prefix"},
	{"NetworkPolicy", ingress("http: {paths: [{}]}"), "spec.ingress[0].http.paths[0]", "must start with /"},
	{"NetworkPolicy", ingress("http: {paths: [{exact: '/a?b'}]}"), "spec.ingress[0].http.paths[0]", "no ?, no #"},
	{"StagedNetworkPolicy", "spec: {stagedAction: Delete, order: 0}", "spec", "should all be zero-value"},
	{"StagedNetworkPolicy", "spec: {selector: x}", "spec.selector", "column"},
	{"StagedGlobalNetworkPolicy", "spec: {stagedAction: Delete, preDNAT: true}", "spec", "should all be zero-value"},
	{"StagedGlobalNetworkPolicy", "spec: {namespaceSelector: x}", "spec.namespaceSelector", "column"},
	{"StagedKubernetesNetworkPolicy", "spec: {stagedAction: Delete, egress: [{}]}", "spec", "should all be zero-value"},
	{"StagedKubernetesNetworkPolicy", "spec: {podSelector: {matchExpressions: [{key: a, operator: Foo}]}}", "spec.podSelector.matchExpressions[0].operator", "not a valid selector operator"},
	{"StagedKubernetesNetworkPolicy", "spec: {ingress: [{from: [{}]}]}", "spec.ingress[0].from[0]", "needs ipBlock, podSelector or namespaceSelector"},
	{"StagedKubernetesNetworkPolicy", "spec: {egress: [{to: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}", "spec.egress[0].to[0]", "goes with neither"},
	{"StagedKubernetesNetworkPolicy", "spec: {egress: [{to: [{ipBlock: {cidr: 10.0.0.1}}]}]}", "spec.egress[0].to[0].ipBlock.cidr", "such as 10.0.0.0/8 or fd00::/64"},
	{"StagedKubernetesNetworkPolicy", "spec: {egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}", "spec.egress[0].to[0].ipBlock.except[0]", "must lie within 10.0.0.0/8"},
	{"StagedKubernetesNetworkPolicy", "spec: {egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}", "spec.egress[0].to[0].ipBlock.except[0]", "and be smaller"},
	{"StagedKubernetesNetworkPolicy", "spec: {ingress: [{from: [{namespaceSelector: {matchLabels: {a b: c}}}]}]}", "spec.ingress[0].from[0].namespaceSelector.matchLabels", "a b"},
	{"StagedKubernetesNetworkPolicy", "spec: {ingress: [{from: [{podSelector: {matchLabels: {a b: c}}}]}]}", "spec.ingress[0].from[0].podSelector.matchLabels", "a b"},
	{"StagedKubernetesNetworkPolicy", "spec: {ingress: [{ports: [{port: Http_}]}]}", "spec.ingress[0].ports[0].port", "must contain only"},
	{"StagedKubernetesNetworkPolicy", "spec: {ingress: [{ports: [{port: http, endPort: 80}]}]}", "spec.ingress[0].ports[0].endPort", "needs a numeric port"},
	{"StagedKubernetesNetworkPolicy", "spec: {ingress: [{ports: [{port: 80, endPort: 79}]}]}", "spec.ingress[0].ports[0].endPort", "must not be less than the port, 80"},
	{"GlobalNetworkSet", "spec: {nets: [10.0.0.0/8, example.com]}", "spec.nets[1]", "expected a network in CIDR form or an address"},
	{"GlobalNetworkSet", "spec: {nets: ['fe80::1%eth0']}", "spec.nets[0]", "expected a network in CIDR form or an address"},
	{"NetworkSet", "spec: {nets: ['::ffff:10.0.0.0/104']}", "spec.nets[0]", "must be written as IPv4"},
	{"NetworkSet", "metadata: {labels: {projectcalico.org/namespace: x}}", "metadata.labels", "projectcalico.org/namespace is not a valid label name"},
	{"HostEndpoint", "spec: {interfaceName: eth*}", "spec.interfaceName", "or * alone for all of them"},
	{"HostEndpoint", "spec: {expectedIPs: [10.0.0.1/32]}", "spec.expectedIPs[0]", "without prefix length"},
	{"HostEndpoint", "spec: {profiles: [a, B]}", "spec.profiles[1]", "RFC 1123"},
	{"HostEndpoint", "spec: {ports: [{name: a b, protocol: TCP, port: 1}]}", "spec.ports[0].name", "expected letters, digits"},
	{"HostEndpoint", "spec: {ports: [{name: a, protocol: ICMP, port: 1}]}", "spec.ports[0].protocol", "EndpointPort protocol does not support ports"},
	{"HostEndpoint", "spec: {ports: [{name: a, protocol: 6, port: 1}]}", "spec.ports[0].protocol", "expected TCP, UDP or SCTP"},
	{"WorkloadEndpoint", "spec: {interfaceName: '*'}", "spec.interfaceName", "expected the name of one interface"},
	{"WorkloadEndpoint", "spec: {mac: 02-00}", "spec.mac", "expected a hardware address"},
	{"WorkloadEndpoint", "spec: {ipNetworks: [10.0.0.0/24]}", "spec.ipNetworks[0]", "prefix length 32 for IPv4"},
	{"WorkloadEndpoint", "spec: {ipNetworks: [example.com]}", "spec.ipNetworks[0]", "perhaps with its full prefix length"},
	{"WorkloadEndpoint", "spec: {ipNetworks: ['::ffff:10.0.0.1']}", "spec.ipNetworks[0]", "perhaps with its full prefix length"},
	{"WorkloadEndpoint", "spec: {ipNetworks: [10.0.0.1], ipNATs: [{internalIP: 10.0.0.1, externalIP: x}]}", "spec.ipNATs[0].externalIP", "expected an address"},
	{"WorkloadEndpoint", "spec: {ipNATs: [{internalIP: x, externalIP: 192.0.2.1}]}", "spec.ipNATs[0].internalIP", "expected an address"},
	{"WorkloadEndpoint", "spec: {ipNetworks: [10.0.0.1/32], ipNATs: [{internalIP: 10.0.0.2, externalIP: 192.0.2.1}]}", "spec.ipNATs[0].internalIP", "one of the workload's own"},
	{"WorkloadEndpoint", "spec: {ipNetworks: [10.0.0.1/32], ipNATs: [{internalIP: 10.0.0.1, externalIP: 'fd00::1'}]}", "spec.ipNATs[0].externalIP", "same IP version"},
	{"WorkloadEndpoint", "spec: {ipv4Gateway: 'fd00::1'}", "spec.ipv4Gateway", "expected an IPv4 address"},
	{"WorkloadEndpoint", "spec: {ipv6Gateway: 10.0.0.1}", "spec.ipv6Gateway", "expected an IPv6 address"},
	{"WorkloadEndpoint", "spec: {allowSpoofedSourcePrefixes: [10.0.0.1/8]}", "spec.allowSpoofedSourcePrefixes[0]", "did you mean 10.0.0.0/8?"},
	{"WorkloadEndpoint", "spec: {profiles: [A]}", "spec.profiles[0]", "RFC 1123"},
	{"WorkloadEndpoint", "spec: {ports: [{name: a b, protocol: TCP, port: 1}]}", "spec.ports[0].name", "expected letters, digits"},
	{"WorkloadEndpoint", "spec: {ports: [{protocol: TCP, port: 1, hostIP: 10.0.0.0/8}]}", "spec.ports[0].hostIP", "expected an address of the host"},
	{"WorkloadEndpoint", "spec: {ports: [{protocol: ICMP, port: 1}]}", "spec.ports[0].protocol", "EndpointPort protocol does not support ports"},
	{"Profile", "spec: {labelsToApply: {a b: c}}", "spec.labelsToApply", "a b"},
	{"Profile", ingress("source: {selector: x}"), "spec.ingress[0].source.selector", "column"},
	{"Profile", egress("destination: {services: {name: s}}"), "spec.egress[0].destination.services.namespace", "must specify a namespace"},
	{"FelixConfiguration", "spec: {nodeSelector: a = b}", "spec.nodeSelector", "column 3"},
	{"FelixConfiguration", "spec: {defaultEndpointToHostAction: Reject}", "spec.defaultEndpointToHostAction", `supported values: "Drop", "Accept", "Return"`},
	{"FelixConfiguration", "spec: {nftablesFilterDenyAction: Return}", "spec.nftablesFilterDenyAction", `supported values: "Drop", "Reject"`},
	{"FelixConfiguration", "spec: {iptablesFilterDenyAction: Accept}", "spec.iptablesFilterDenyAction", `supported values: "Drop", "Reject"`},
	{"FelixConfiguration", "spec: {nftablesFilterAllowAction: Drop}", "spec.nftablesFilterAllowAction", `supported values: "Accept", "Return"`},
	{"FelixConfiguration", "spec: {iptablesFilterAllowAction: Drop}", "spec.iptablesFilterAllowAction", `supported values: "Accept", "Return"`},
	{"FelixConfiguration", "spec: {nftablesMangleAllowAction: Drop}", "spec.nftablesMangleAllowAction", `supported values: "Accept", "Return"`},
	{"FelixConfiguration", "spec: {iptablesMangleAllowAction: Drop}", "spec.iptablesMangleAllowAction", `supported values: "Accept", "Return"`},
	{"FelixConfiguration", "spec: {workloadSourceSpoofing: Enabled}", "spec.workloadSourceSpoofing", `supported values: "Disabled", "Any"`},
	{"FelixConfiguration", "spec: {serviceLoopPrevention: Accept}", "spec.serviceLoopPrevention", `supported values: "Drop", "Reject", "Disabled"`},
	{"FelixConfiguration", "spec: {nftablesMarkMask: 0x10000}", "spec.nftablesMarkMask", "needs at least two bits"},
	{"FelixConfiguration", "spec: {iptablesMarkMask: 0}", "spec.iptablesMarkMask", "needs at least two bits"},
	{"FelixConfiguration", "spec: {interfacePrefix: 'cali,'}", "spec.interfacePrefix", "what interface names begin with"},
	{"FelixConfiguration", "spec: {interfacePrefix: sixteen-letters-}", "spec.interfacePrefix", "at most 15"},
	{"FelixConfiguration", "spec: {interfaceExclude: 'kube-ipvs0,eth*'}", "spec.interfaceExclude", "expected the name of an interface"},
	{"FelixConfiguration", "spec: {interfaceExclude: '//'}", "spec.interfaceExclude", "between slashes"},
	{"FelixConfiguration", "spec: {interfaceExclude: '/(/'}", "spec.interfaceExclude", "missing closing )"},
	{"FelixConfiguration", "spec: {nftablesFlowTableDataIfacePattern: '('}", "spec.nftablesFlowTableDataIfacePattern", "missing closing )"},
	{"FelixConfiguration", "spec: {failsafeInboundHostPorts: [{port: 1}, {protocol: SCTP, port: 1}]}", "spec.failsafeInboundHostPorts[1].protocol", "is neither TCP nor UDP"},
	{"FelixConfiguration", "spec: {failsafeInboundHostPorts: [{}]}", "spec.failsafeInboundHostPorts[0].port", "between 1 and 65535"},
	{"FelixConfiguration", "spec: {failsafeInboundHostPorts: [{port: 1, net: example.com}]}", "spec.failsafeInboundHostPorts[0].net", "is no network: expected one in CIDR form"},
	{"FelixConfiguration", "spec: {failsafeOutboundHostPorts: [{port: 1, net: 'fe80::1%eth0'}]}", "spec.failsafeOutboundHostPorts[0].net", "is no network: expected one in CIDR form"},
	{"FelixConfiguration", "spec: {failsafeOutboundHostPorts: [{port: 1, net: '::ffff:10.0.0.0/104'}]}", "spec.failsafeOutboundHostPorts[0].net", "must be written as IPv4"},
	{"FelixConfiguration", "spec: {failsafeOutboundHostPorts: [{protocol: '6', port: 1}]}", "spec.failsafeOutboundHostPorts[0].protocol", "is neither TCP nor UDP"},
	{"FelixConfiguration", "spec: {kubeNodePortRanges: [30000, '9:1']}", "spec.kubeNodePortRanges[1]", "minimum port number (9) is greater"},
	{"FelixConfiguration", "spec: {kubeNodePortRanges: [http]}", "spec.kubeNodePortRanges[0]", "expected a port number or a range such as 30000:32767"},
	{"FelixConfiguration", "spec: {kubeNodePortRanges: [0]}", "spec.kubeNodePortRanges[0]", "between 1 and 65535"},
	{"FelixConfiguration", "spec: {kubeNodePortRanges: [1, 2, 3, 4, 5, 6, 7, 8]}", "spec.kubeNodePortRanges", "at most 7"},
	{"FelixConfiguration", "spec: {vxlanPort: 0}", "spec.vxlanPort", "between 1 and 65535"},
	{"FelixConfiguration", "spec: {logPrefix: 'a$b'}", "spec.logPrefix", "letters, digits, blanks"},
	{"FelixConfiguration", "spec: {logActionRateLimit: 10/fortnight}", "spec.logActionRateLimit", "is no rate: expected a number from 1 to 9999"},
	{"FelixConfiguration", "spec: {logActionRateLimitBurst: 10000}", "spec.logActionRateLimitBurst", "from 0 to 9999"},
	{"FelixConfiguration", "spec: {nftablesRefreshInterval: '90'}", "spec.nftablesRefreshInterval", "is no length of time"},
	{"FelixConfiguration", "spec: {iptablesRefreshInterval: -1s}", "spec.iptablesRefreshInterval", "is no length of time"},
	{"FelixConfiguration", "spec: {ipsetsRefreshInterval: 1d}", "spec.ipsetsRefreshInterval", "is no length of time"},
	{"FelixConfiguration", "spec: {flowLogsFlushInterval: 99999999999h}", "spec.flowLogsFlushInterval", "is no length of time"},
	{"FelixConfiguration", "spec: {dataplaneWatchdogTimeout: soon}", "spec.dataplaneWatchdogTimeout", "is no length of time"},
	{"FelixConfiguration", "spec: {vxlanport: 4789}", "spec.vxlanport", "did you mean vxlanPort?"},
	{"KubeControllersConfiguration", "metadata: {name: other}", "metadata.name", "there is but one KubeControllersConfiguration, of the name default"},
	{"KubeControllersConfiguration", one("spec: {etcdV3CompactionPeriod: soon}"), "spec.etcdV3CompactionPeriod", "is no length of time"},
	{"KubeControllersConfiguration", one("spec: {controllers: {policy: {reconcilerPeriod: 99999999h}}}"), "spec.controllers.policy.reconcilerPeriod", "is no length of time"},
	{"KubeControllersConfiguration", one("spec: {controllers: {node: {reconcilerPeriod: -1s}}}"), "spec.controllers.node.reconcilerPeriod", "is no length of time"},
	{"KubeControllersConfiguration", one("spec: {controllers: {node: {leakGracePeriod: 1d}}}"), "spec.controllers.node.leakGracePeriod", "is no length of time"},
	{"KubeControllersConfiguration", templates("{generateName: a, interfaceCIDRs: [10.0.0.1]}"), "spec.controllers.node.hostEndpoint.templates[0].interfaceCIDRs[0]", "expected a network in CIDR form"},
	{"KubeControllersConfiguration", templates("{generateName: a, interfaceCIDRs: ['::ffff:10.0.0.0/104']}"), "spec.controllers.node.hostEndpoint.templates[0].interfaceCIDRs[0]", "expected a network in CIDR form"},
	{"KubeControllersConfiguration", templates("{generateName: a}"), "spec.controllers.node.hostEndpoint.templates[0].interfaceCIDRs", "at least one of interfaceCIDRs or interfacePattern must be specified"},
	{"KubeControllersConfiguration", templates("{generateName: a, interfacePattern: '('}"), "spec.controllers.node.hostEndpoint.templates[0].interfacePattern", "missing closing )"},
	{"KubeControllersConfiguration", templates("{interfacePattern: eth}"), "spec.controllers.node.hostEndpoint.templates[0].generateName", "RFC 1123 subdomain"},
	{"KubeControllersConfiguration", templates("{generateName: a-, interfacePattern: eth}"), "spec.controllers.node.hostEndpoint.templates[0].generateName", "RFC 1123 subdomain"},
	{"KubeControllersConfiguration", templates("{generateName: a, interfacePattern: eth}, {generateName: a, interfacePattern: wlan}"), "spec.controllers.node.hostEndpoint.templates[1].generateName", "Duplicate"},
	{"KubeControllersConfiguration", templates("{generateName: a, interfacePattern: eth, nodeSelector: 'a = b'}"), "spec.controllers.node.hostEndpoint.templates[0].nodeSelector", "column 3"},
	{"KubeControllersConfiguration", templates("{generateName: a, interfacePattern: eth, labels: {a: 'b c'}}"), "spec.controllers.node.hostEndpoint.templates[0].labels", "a valid label must be"},
	{"KubeControllersConfiguration", templates("{generateName: a, interfacePattern: eth, annotations: {a b: c}}"), "spec.controllers.node.hostEndpoint.templates[0].annotations", "a b"},
}

// accepted are sound objects that come near to one of the faults. Every kind has one.
var accepted = []struct{ kind, object string }{
	{"Tier", "spec: {order: -1.5}"},
	{"NetworkPolicy", "metadata: {name: knp.default.a.b}"},
	{"NetworkPolicy", "metadata: {name: a.b}"},
	{"NetworkPolicy", egress("destination: {services: {name: s}}")},
	{"NetworkPolicy", ingress("protocol: TCP, source: {services: {name: s}, ports: [80]}, destination: {ports: [http, 1, '2:3']}")},
	{"NetworkPolicy", ingress("source: {nets: [10.0.0.0/8, 0.0.0.0/0], notNets: [10.1.0.0/16]}, destination: {nets: [192.0.2.1/32]}")},
	{"NetworkPolicy", ingress("source: {serviceAccounts: {names: [a, b.c], selector: has(x)}, namespaceSelector: ' global( ) '}")},
	{"GlobalNetworkPolicy", "spec: {selector: has(a), namespaceSelector: all(), serviceAccountSelector: 'a == \"b\"'}"},
	{"StagedNetworkPolicy", "spec: {stagedAction: Delete, tier: t}"},
	{"StagedGlobalNetworkPolicy", "spec: {stagedAction: Delete}"},
	{"StagedKubernetesNetworkPolicy", "spec: {stagedAction: Delete}"},
	{"StagedKubernetesNetworkPolicy", "spec: {ingress: [{ports: [{port: 80, endPort: 80}, {port: http}, {protocol: UDP}], from: [{podSelector: {}, namespaceSelector: {}}]}], " +
		"egress: [{to: [{ipBlock: {cidr: 10.0.0.1/8, except: [10.1.0.0/16]}}]}]}"},
	{"GlobalNetworkSet", "spec: {nets: [10.0.0.1, 10.0.0.1/24, 'fd00::1', 'fd00::1/64']}"},
	{"NetworkSet", "metadata: {labels: {a: b}}"},
	{"HostEndpoint", "spec: {interfaceName: '*', expectedIPs: [10.0.0.1, 'fd00::1'], profiles: [a.b], ports: [{name: a_B.c-1, protocol: SCTP, port: 1}]}"},
	{"WorkloadEndpoint", "spec: {interfaceName: cali1, mac: '02:00:00:0a:0B:01', ipNetworks: [10.0.0.1/32, 'fd00::1'], ipNATs: [{internalIP: 10.0.0.1, externalIP: 192.0.2.1}], " +
		"ipv4Gateway: 10.0.0.2, ipv6Gateway: 'fd00::2', allowSpoofedSourcePrefixes: [10.0.0.0/8], profiles: [p], ports: [{protocol: TCP, port: 1, hostIP: 192.0.2.1}]}"},
	{"Profile", "spec: {labelsToApply: {a: b, pcns.projectcalico.org/name: ns1, pcsa.x: y}, ingress: [{action: Pass}]}"},
	{"FelixConfiguration", "spec: {nodeSelector: has(a), defaultEndpointToHostAction: ACCEPT, nftablesFilterDenyAction: reject, workloadSourceSpoofing: any, serviceLoopPrevention: DISABLED}"},
	{"FelixConfiguration", "spec: {nftablesMarkMask: 0xc0000000, iptablesMarkMask: 4294967295, interfacePrefix: 'cali,azv', interfaceExclude: 'kube-ipvs0,/^eth/,eth0.100'}"},
	{"FelixConfiguration", "spec: {failsafeInboundHostPorts: [], failsafeOutboundHostPorts: [{port: 65535}, {protocol: udp, port: 53, net: 10.0.0.1/8}, {protocol: Tcp, port: 1, net: 'fd00::1'}]}"},
	{"FelixConfiguration", "spec: {kubeNodePortRanges: [30000, '30001:32767', '80'], vxlanPort: 8472, logPrefix: '%t/%k: ', logActionRateLimit: 9999/day, logActionRateLimitBurst: 0}"},
	{"FelixConfiguration", "spec: {nftablesRefreshInterval: 0.5s, iptablesRefreshInterval: 1m30s, ipsetsRefreshInterval: '', flowLogsFlushInterval: 15s, dataplaneWatchdogTimeout: 90s}"},
	{"FelixConfiguration", "spec: {wireguardEnabled: true, bpfLogLevel: '', routeTableRanges: [{min: 1, max: 250}], interfacePrefix: '', logPrefix: '', defaultEndpointToHostAction: ''}"},
	{"KubeControllersConfiguration", one("spec: {controllers: {node: {reconcilerPeriod: '0', leakGracePeriod: 0s}, policy: {reconcilerPeriod: 5m0s}, namespace: {}, loadBalancer: {}}}")},
	{"KubeControllersConfiguration", templates("{generateName: a.b, interfaceCIDRs: [10.0.0.1/8, 'fd00::/64'], labels: {x/y: ''}, annotations: {x/y: a b}}, " +
		"{generateName: c, interfacePattern: 'eth0|eth1', nodeSelector: has(a)}")},
}

func one(rest string) string { return "metadata: {name: default}\n" + rest }

func templates(all string) string {
	return one("spec: {controllers: {node: {hostEndpoint: {templates: [" + all + "]}}}}")
}

func ingress(rule string) string { return "spec: {ingress: [{action: Allow, " + rule + "}]}" }
func egress(rule string) string  { return "spec: {egress: [{action: Allow, " + rule + "}]}" }

// sound reads an object, gives it a name, and defaults it.
func sound(t *testing.T, kind, text string) v3.Object {
	t.Helper()
	obj := read(t, kind, text)
	if obj.GetName() == "" {
		obj.SetName("p")
	}
	v3.Default(obj)
	return obj
}

// TestValidate: one fault, one complaint, where it belongs.
func TestValidate(t *testing.T) {
	for _, c := range refused {
		errs := v3.Validate(sound(t, c.kind, c.object))
		if len(errs) != 1 || errs[0].Field != c.field || !strings.Contains(errs[0].Error(), c.reason) {
			t.Errorf("%s %s: want %s: %s\nhave %v", c.kind, c.object, c.field, c.reason, errs)
		}
	}
	seen := map[string]bool{}
	for _, c := range accepted {
		seen[c.kind] = true
		if errs := v3.Validate(sound(t, c.kind, c.object)); len(errs) > 0 {
			t.Errorf("%s %s: %v", c.kind, c.object, errs)
		}
	}
	if have := slices.Sorted(maps.Keys(seen)); !slices.Equal(have, kinds()) {
		t.Errorf("cases of %v, kinds are %v", have, kinds())
	}
}

// An object may have many faults; all of them are said.
func TestValidateSaysAll(t *testing.T) {
	errs := v3.Validate(sound(t, "GlobalNetworkPolicy", `
metadata: {name: a.b.c}
spec:
  selector: x
  namespaceSelector: y
  ingress: [{action: Allow, protocol: GRE, source: {nets: [a, b]}}]
  egress: [{action: Allow, destination: {ports: [80, 90]}}]
`))
	if len(errs) != 8 {
		t.Errorf("%d complaints, want 8: %v", len(errs), errs)
	}
}

// TestEveryReasonHasACase reads the reasons out of this package's own text: each must be what some case above is told.
func TestEveryReasonHasACase(t *testing.T) {
	var said []string
	for _, c := range refused {
		for _, e := range v3.Validate(sound(t, c.kind, c.object)) {
			said = append(said, e.Error())
		}
	}
	var count int
	for _, file := range []string{"validate.go", "validate_rule.go", "validate_endpoint.go", "validate_kubernetes.go", "validate_felix.go", "validate_kubecontrollers.go", "parse.go"} {
		for at, reason := range reasons(t, file) {
			count++
			if !slices.ContainsFunc(said, reason.MatchString) {
				t.Errorf("%s: no case is told %q", at, reason)
			}
		}
	}
	if count < 40 {
		t.Errorf("only %d reasons found", count)
	}
	t.Logf("%d reasons, %d cases", count, len(refused))
}

// verb is what formatting replaces.
var verb = regexp.MustCompile(`%[a-z]`)

// reasons are the sentences within the functions of a file, by their place.
func reasons(t *testing.T, file string) map[string]*regexp.Regexp {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*regexp.Regexp{}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		ast.Inspect(fn, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err == nil && strings.Count(text, " ") >= 2 {
				at := set.Position(lit.Pos())
				pattern := verb.ReplaceAllString(regexp.QuoteMeta(text), ".*")
				out[fmt.Sprintf("%s:%d", file, at.Line)+" "+text] = regexp.MustCompile(pattern)
			}
			return true
		})
	}
	return out
}
