package calico

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Teams are how many namespaces the objects are in: team-0 and so on.
const Teams = 10

// Objects are what is in a cluster whose people have written so many policies in so many tiers (three of them built in, and default the one for
// policies that name none): namespaces, sets, host endpoints, settings, and what only Calico's network needs. They are the same each time, of
// projectcalico.org/v3, valid, and speak of pods and nodes by labels that only they have (app a0…a9 in namespaces of team t0…t9; nodes worker-0…).
func Objects(policies, tiers int) (out []*unstructured.Unstructured) {
	for n := range Teams {
		u := named("v1", "Namespace", "", fmt.Sprintf("team-%d", n))
		u.SetLabels(map[string]string{"team": fmt.Sprintf("t%d", n), "env": []string{"prod", "dev"}[n%2]})
		out = append(out, u)
	}
	names := []string{"default"}
	out = append(out, tier("default", 1000000, "Deny"), tier("kube-admin", 1000, "Pass"), tier("kube-baseline", 10000000, "Pass"))
	for n := 3; n < tiers; n++ {
		name := fmt.Sprintf("tier-%02d", n)
		names = append(names, name)
		out = append(out, tier(name, float64(n*100), []string{"Deny", "Pass"}[n%2]))
	}
	out = append(out, sets()...)
	for n := range 4 {
		out = append(out, hostEndpoint(n))
	}
	out = append(out, settings()...)
	for n := range policies {
		out = append(out, policy(n, names[n%len(names)]))
	}
	return append(out, Network()...)
}

// of projectcalico.org/v3.
func of(kind, namespace, name string, spec object) *unstructured.Unstructured {
	u := with(named(v3Group+"/v3", kind, namespace, name), object{"spec": spec})
	u.SetCreationTimestamp(metav1.Unix(1700000000, 0))
	return u
}

func tier(name string, order float64, action string) *unstructured.Unstructured {
	return of("Tier", "", name, object{"order": order, "defaultAction": action})
}

// sets, and one that another owns.
func sets() (out []*unstructured.Unstructured) {
	for n := range Teams {
		global := of("GlobalNetworkSet", "", fmt.Sprintf("partners-%d", n), object{"nets": []any{fmt.Sprintf("203.0.113.%d/32", n), fmt.Sprintf("198.51.%d.0/24", n), fmt.Sprintf("2001:db8:%d::/48", n)}})
		global.SetLabels(map[string]string{"role": "partner", "partner": fmt.Sprintf("p%d", n)})
		out = append(out, global)
		inside := of("NetworkSet", fmt.Sprintf("team-%d", n), "legacy", object{"nets": []any{fmt.Sprintf("192.0.2.%d", n)}})
		inside.SetLabels(map[string]string{"role": "legacy"})
		inside.SetAnnotations(map[string]string{"example.com/ticket": fmt.Sprintf("N-%d", n)})
		out = append(out, inside)
	}
	owned := of("GlobalNetworkSet", "", "owned", object{"nets": []any{"192.0.2.255/32"}})
	owned.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: v3Group + "/v3", Kind: "GlobalNetworkSet", Name: "partners-0", UID: uidOf("GlobalNetworkSet/partners-0")}})
	return append(out, owned)
}

func hostEndpoint(n int) *unstructured.Unstructured {
	u := of("HostEndpoint", "", fmt.Sprintf("worker-%d-eth0", n), object{"node": fmt.Sprintf("worker-%d", n), "interfaceName": "eth0",
		"expectedIPs": []any{fmt.Sprintf("192.168.7.%d", n+1)}, "profiles": []any{"projectcalico-default-allow"},
		"ports": []any{object{"name": "ssh", "protocol": "TCP", "port": int64(22)}}})
	u.SetLabels(map[string]string{"host": "worker", "zone": fmt.Sprintf("z%d", n%2)})
	return u
}

// settings: some fields are honoured by Tierwall, some are not.
func settings() []*unstructured.Unstructured {
	safe := []any{object{"protocol": "TCP", "port": int64(22)}, object{"protocol": "UDP", "port": int64(68)}, object{"protocol": "TCP", "port": int64(6443)}, object{"protocol": "TCP", "port": int64(10250)}}
	return []*unstructured.Unstructured{
		of("FelixConfiguration", "", "default", object{"defaultEndpointToHostAction": "Accept", "logPrefix": "policy", "failsafeInboundHostPorts": safe,
			"bpfEnabled": false, "ipipEnabled": false, "reportingInterval": "0s", "natPortRange": "32768:65535", "logSeverityScreen": "Info"}),
		of("FelixConfiguration", "", "node.worker-0", object{"logSeverityScreen": "Debug", "wireguardEnabled": false}),
		of("KubeControllersConfiguration", "", "default", object{"logSeverityScreen": "Info", "healthChecks": "Enabled", "controllers": object{
			"node": object{"reconcilerPeriod": "5m", "syncLabels": "Enabled", "hostEndpoint": object{"autoCreate": "Disabled"}}, "policy": object{"reconcilerPeriod": "5m"}}}),
	}
}

// rules of policies; each is taken in turn. %d is a number below ten.
var rules = []func(n int) object{
	func(n int) object {
		return object{"action": "Allow", "protocol": "TCP", "source": object{"selector": fmt.Sprintf("app == 'a%d'", n)}, "destination": object{"ports": []any{int64(80), int64(8000 + n), "9000:9100"}}}
	},
	func(n int) object {
		return object{"action": "Allow", "source": object{"namespaceSelector": fmt.Sprintf("team == 't%d' || env == 'prod'", n)}}
	},
	func(n int) object {
		return object{"action": "Deny", "protocol": "UDP", "source": object{"nets": []any{"10.0.0.0/8", "172.16.0.0/12"}, "notNets": []any{fmt.Sprintf("10.%d.0.0/16", n)}}}
	},
	func(n int) object {
		return object{"action": "Pass", "source": object{"selector": fmt.Sprintf("role == 'partner' && partner in {'p%d', 'p%d'}", n, (n+1)%Teams), "namespaceSelector": "global()"}}
	},
	func(int) object {
		return object{"action": "Log", "protocol": "TCP", "destination": object{"ports": []any{int64(22)}}}
	},
	func(int) object {
		return object{"action": "Allow", "protocol": "ICMP", "icmp": object{"type": int64(8)}, "ipVersion": int64(4)}
	},
	func(n int) object {
		return object{"action": "Allow", "source": object{"serviceAccounts": object{"names": []any{"default"}, "selector": fmt.Sprintf("role == 'r%d'", n)}}}
	},
	func(n int) object {
		return object{"action": "Deny", "notProtocol": "TCP", "source": object{"notSelector": fmt.Sprintf("app == 'a%d'", n), "nets": []any{fmt.Sprintf("2001:db8:%d::/48", n)}}}
	},
	func(n int) object {
		return object{"action": "Allow", "protocol": "SCTP", "destination": object{"ports": []any{int64(3868)}, "notPorts": []any{int64(5000 + n)}}}
	},
}

// policy is the one of number n: half are global, three in ten namespaced, the rest staged. Some names have the tier in front, as Calico asked
// for up to 3.31.
func policy(n int, tier string) *unstructured.Unstructured {
	team, name := fmt.Sprintf("team-%d", n/3%Teams), fmt.Sprintf("p%03d", n)
	if tier != "default" && n%7 != 0 {
		name = tier + "." + name
	}
	spec := object{"tier": tier, "selector": fmt.Sprintf("app == 'a%d'", n%10), "types": []any{"Ingress"}, "ingress": []any{rules[n%len(rules)](n % 10), rules[(n/2+1)%len(rules)](n / 3 % 10)}}
	if n%4 != 0 {
		spec["order"] = float64(n%9*10) + 0.5
	}
	if n%3 == 0 {
		spec["types"] = []any{"Ingress", "Egress"}
		spec["egress"] = []any{object{"action": "Allow", "protocol": "UDP", "destination": object{"ports": []any{int64(53)}}}, object{"action": "Allow", "destination": object{"selector": fmt.Sprintf("app == 'a%d'", n/10%10)}}}
	}
	kind, namespace := "GlobalNetworkPolicy", ""
	switch {
	case n%10 < 5:
		spec["namespaceSelector"] = fmt.Sprintf("team == 't%d'", n/3%Teams)
		if n%50 == 0 {
			delete(spec, "namespaceSelector")
			spec["selector"], spec["preDNAT"], spec["applyOnForward"], spec["types"] = "host == 'worker'", true, true, []any{"Ingress"}
			delete(spec, "egress")
		}
	case n%10 < 8:
		kind, namespace = "NetworkPolicy", team
	case n%20 == 8:
		kind, spec["stagedAction"] = "StagedGlobalNetworkPolicy", "Set"
	case n%20 == 9:
		kind, namespace, spec["stagedAction"] = "StagedNetworkPolicy", team, "Set"
	case n%20 == 18:
		kind, namespace, spec = "StagedNetworkPolicy", team, object{"tier": tier, "stagedAction": "Delete"}
	default:
		kind, namespace, name = "StagedKubernetesNetworkPolicy", team, fmt.Sprintf("p%03d", n)
		spec = object{"stagedAction": "Set", "podSelector": object{"matchLabels": object{"app": fmt.Sprintf("a%d", n%10)}}, "policyTypes": []any{"Ingress"},
			"ingress": []any{object{"from": []any{object{"podSelector": object{}}}}}}
	}
	u := of(kind, namespace, name, spec)
	u.SetLabels(map[string]string{"owner": team})
	if kind != "StagedKubernetesNetworkPolicy" {
		u.SetLabels(map[string]string{"owner": team, "projectcalico.org/tier": tier})
	}
	u.SetAnnotations(map[string]string{"example.com/ticket": fmt.Sprintf("P-%d", n)})
	return u
}

// Network is what only Calico's own network needs, and no policy engine carries.
func Network() []*unstructured.Unstructured {
	return []*unstructured.Unstructured{
		of("IPPool", "", "default-ipv4-ippool", object{"cidr": "10.1.0.0/16", "blockSize": int64(26), "ipipMode": "Always", "natOutgoing": true, "nodeSelector": "all()"}),
		of("IPPool", "", "default-ipv6-ippool", object{"cidr": "fd00:1::/48", "blockSize": int64(122), "vxlanMode": "Never", "nodeSelector": "all()"}),
		of("IPReservation", "", "gateways", object{"reservedCIDRs": []any{"10.1.0.0/30"}}),
		of("IPAMConfiguration", "", "default", object{"strictAffinity": false, "autoAllocateBlocks": true}),
		of("IPAMBlock", "", "10-1-0-0-26", object{"cidr": "10.1.0.0/26", "affinity": "host:worker-0"}),
		of("IPAMHandle", "", "k8s-pod-network.1", object{"handleID": "k8s-pod-network.1", "block": object{"10.1.0.0/26": int64(1)}}),
		of("BlockAffinity", "", "worker-0-10-1-0-0-26", object{"node": "worker-0", "cidr": "10.1.0.0/26", "state": "confirmed"}),
		of("BGPConfiguration", "", "default", object{"asNumber": int64(64512), "nodeToNodeMeshEnabled": true}),
		of("BGPPeer", "", "rack", object{"peerIP": "192.0.2.1", "asNumber": int64(64513)}),
		of("BGPFilter", "", "exports", object{"exportV4": []any{object{"action": "Accept", "matchOperator": "In", "cidr": "10.1.0.0/16"}}}),
		of("ClusterInformation", "", "default", object{"clusterGUID": "0123456789abcdef", "calicoVersion": "v3.31.0", "clusterType": "typha,kdd,k8s,operator", "datastoreReady": true}),
		of("CalicoNodeStatus", "", "worker-0", object{"node": "worker-0", "classes": []any{"BGP"}, "updatePeriodSeconds": int64(10)}),
	}
}

// Bad are objects that got past a schema, and what Calico makes of them: it does as if they were not there, widens them, or cannot read
// anything of their kind any more (contract §1.12).
func Bad() map[string]*unstructured.Unstructured {
	gnp := func(name string, spec object) *unstructured.Unstructured {
		spec["tier"], spec["types"] = "default", []any{"Ingress"}
		return of("GlobalNetworkPolicy", "", name, spec)
	}
	allow := func(more object) []any {
		more["action"] = "Allow"
		return []any{more}
	}
	return map[string]*unstructured.Unstructured{
		"ignored: the selector does not parse":              gnp("bad-selector", object{"selector": "app ==", "ingress": allow(object{})}),
		"ignored: ports without a protocol":                 gnp("bad-ports", object{"selector": "app == 'a0'", "ingress": allow(object{"destination": object{"ports": []any{int64(80)}}})}),
		"widened: namespaceSelector is dropped":             gnp("bad-namespaces", object{"selector": "app == 'a0'", "namespaceSelector": "env = 'prod'", "ingress": allow(object{})}),
		"widened: the nets are dropped":                     gnp("bad-nets", object{"selector": "app == 'a0'", "ingress": allow(object{"source": object{"nets": []any{"10.0.0.0/33"}}})}),
		"poison: a range of ports goes backwards":           gnp("poison-ports", object{"selector": "app == 'a0'", "ingress": allow(object{"protocol": "TCP", "destination": object{"ports": []any{"100:90"}}})}),
		"poison: protocol 300 of a port":                    of("HostEndpoint", "", "poison-port", object{"node": "worker-9", "interfaceName": "eth0", "ports": []any{object{"name": "x", "protocol": int64(300), "port": int64(1)}}}),
		"poison: a range of node ports that goes backwards": of("FelixConfiguration", "", "node.poison", object{"kubeNodePortRanges": []any{"9:1"}}),
		"ignored: what is no network":                       of("GlobalNetworkSet", "", "bad-set", object{"nets": []any{"example.com"}}),
	}
}
