package store

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func cnp(spec string) string {
	return "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\nspec: {" + spec + "}"
}

const (
	cnpHead = "tier: Admin, priority: 10, subject: {namespaces: {}}, "
	toAll   = "to: [{namespaces: {}}]"
)

func cnpEgress(rule string) string { return cnp(cnpHead + "egress: [{action: Deny, " + rule + "}]") }
func cnpPort(port string) string {
	return cnpEgress(toAll + ", protocols: [" + port + "]")
}

func knp(spec string) string {
	return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: ns}\nspec: {podSelector: {}, " + spec + "}"
}

func slice(addressType, address string) string {
	return fmt.Sprintf("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: ns}\naddressType: %s\nendpoints: [{addresses: [%q]}]", addressType, address)
}

// What an API server would refuse, and policy would misunderstand.
func TestKubernetesAdmission(t *testing.T) {
	const at, port = "spec.egress[0]", "spec.egress[0].protocols[0]"
	for _, row := range []struct{ object, field string }{
		{cnp(cnpHead), ""},
		{cnpEgress(toAll), ""},
		{cnp("tier: Middle, priority: 1, subject: {namespaces: {}}"), "spec.tier"},
		{cnp("tier: Admin, subject: {namespaces: {}}"), "spec.priority"},
		{cnp("tier: Admin, priority: 1001, subject: {namespaces: {}}"), "spec.priority"},
		{cnp("tier: Admin, priority: -1, subject: {namespaces: {}}"), "spec.priority"},
		{cnp("tier: Admin, priority: 0"), "spec.subject"},
		{cnp("tier: Admin, priority: 0, subject: {namespaces: {}, pods: {podSelector: {}}}"), "spec.subject"},
		{cnp("tier: Admin, priority: 0, subject: {pods: {namespaceSelector: {}}}"), "spec.subject.pods.podSelector"},
		{cnp("tier: Admin, priority: 0, subject: {pods: {podSelector: {}}}"), ""},
		{cnp("tier: Admin, priority: 0, subject: {namespaces: {matchExpressions: [{key: a, operator: Is}]}}"), "spec.subject.namespaces.matchExpressions[0].operator"},
		{cnp("tier: Admin, priority: 0, subject: {pods: {podSelector: {matchLabels: {a b: c}}}}"), "spec.subject.pods.podSelector.matchLabels"},
		{cnp(cnpHead + "egress: [{action: Allow, " + toAll + "}]"), at + ".action"},
		{cnp(cnpHead + "egress: [{" + toAll + "}]"), at + ".action"},
		{cnp(cnpHead + "egress: [{action: Deny}]"), at + ".to"},
		{cnp(cnpHead + "ingress: [{action: Deny, from: []}]"), "spec.ingress[0].from"},
		{cnp(cnpHead + "ingress: [{action: Deny, from: [{}]}]"), "spec.ingress[0].from[0]"},
		{cnp(cnpHead + "ingress: [{action: Deny, from: [{pods: {}}]}]"), "spec.ingress[0].from[0].pods.podSelector"},
		{cnp(cnpHead + "ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]"), "spec.ingress[0].from[0].networks"},
		{cnp(cnpHead + "ingress: [" + strings.Repeat("{action: Deny, from: [{namespaces: {}}]},", 26) + "]"), "spec.ingress"},
		{cnpEgress("name: " + strings.Repeat("x", 101) + ", " + toAll), at + ".name"},
		{cnpEgress("to: [{networks: [10.0.0.0/8, 'fd00::/8']}]"), ""},
		{cnpEgress("to: [{networks: [10.0.0.0/33]}]"), at + ".to[0].networks[0]"},
		{cnpEgress("to: [{networks: [10.0.0.1]}]"), at + ".to[0].networks[0]"},
		{cnpEgress("to: [{networks: []}]"), at + ".to[0]"},
		{cnpEgress("to: [{networks: [10.0.0.0/8], namespaces: {}}]"), at + ".to[0]"},
		{cnpEgress("to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: http}]"), at + ".protocols"},
		{cnpPort("{tcp: {destinationPort: {number: 80}}}"), ""},
		{cnpPort("{destinationNamedPort: http}"), ""},
		{cnpPort("{sctp: {destinationPort: {range: {start: 1, end: 65535}}}}"), ""},
		{cnpPort(""), at + ".protocols"},
		{cnpPort("{}"), port},
		{cnpPort("{tcp: {}}"), port + ".tcp.destinationPort"},
		{cnpPort("{tcp: {destinationPort: {number: 80}}, udp: {destinationPort: {number: 80}}}"), port},
		{cnpPort("{udp: {destinationPort: {number: 0}}}"), port + ".udp.destinationPort"},
		{cnpPort("{udp: {destinationPort: {number: 65536}}}"), port + ".udp.destinationPort.number"},
		{cnpPort("{udp: {destinationPort: {range: {start: 5, end: 5}}}}"), port + ".udp.destinationPort.range"},
		{cnpPort("{udp: {destinationPort: {range: {end: 5}}}}"), port + ".udp.destinationPort.range"},
		{cnp(cnpHead + "ingres: []"), "spec.ingres"},

		{knp("policyTypes: [Ingress]"), ""},
		{knp("policyTypes: [Sideways]"), "spec.policyTypes[0]"},
		{knp("ingress: [{from: [{}]}]"), "spec.ingress[0].from[0]"},
		{knp("ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]"), "spec.ingress[0].from[0]"},
		{knp("ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]"), ""},
		{knp("ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]"), "spec.ingress[0].from[0].ipBlock.except[0]"},
		{knp("ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]"), "spec.ingress[0].from[0].ipBlock.cidr"},
		{knp("egress: [{ports: [{protocol: ICMP}]}]"), "spec.egress[0].ports[0].protocol"},
		{knp("egress: [{ports: [{port: 0}]}]"), "spec.egress[0].ports[0].port"},
		{knp("egress: [{ports: [{port: a_b}]}]"), "spec.egress[0].ports[0].port"},
		{knp("egress: [{ports: [{port: http, endPort: 90}]}]"), "spec.egress[0].ports[0].endPort"},
		{knp("egress: [{ports: [{port: 80, endPort: 79}]}]"), "spec.egress[0].ports[0].endPort"},
		{knp("egress: [{ports: [{port: 80, endPort: 90}]}]"), ""},
		{strings.Replace(knp(""), "podSelector: {}", "podSelector: {matchExpressions: [{key: a, operator: In}]}", 1), "spec.podSelector.matchExpressions[0].values"},

		{slice("IPv4", "10.0.0.1"), ""},
		{slice("IPv6", "fd00::1"), ""},
		{slice("FQDN", "example.com"), ""},
		{slice("IPv4", "fd00::1"), "endpoints[0].addresses[0]"},
		{slice("IPv6", "nonsense"), "endpoints[0].addresses[0]"},
		{slice("IPv5", "10.0.0.1"), "addressType"},
		{"apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: ns}\nstatus: {podIP: nonsense}", "status.podIP"},
		{"apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: ns}\nstatus: {podIPs: [{ip: 10.0.0.256}]}", "status.podIPs[0].ip"},
		{"apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: InternalIP, address: x}]}", "status.addresses[0].address"},
		{"apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: Hostname, address: x}]}", ""},
	} {
		d := readOne(t, row.object)
		switch {
		case row.field == "" && len(d.Errors) > 0:
			t.Errorf("refused:\n%s\n%+v", row.object, d.Errors)
		case row.field != "" && !slices.ContainsFunc(d.Errors, func(e DocError) bool { return strings.HasPrefix(e.Field, row.field) }):
			t.Errorf("%s\nwant an error at %s, have %+v", row.object, row.field, d.Errors)
		case row.field == "":
			decodesAgain(t, d)
		}
	}
}
