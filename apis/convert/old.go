package convert

import (
	"fmt"
	"strings"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// OldVersion is that of calicoctl up to 2.6. Its kinds begin with a small letter, as Kubernetes' never do.
const OldVersion = "v1"

// oldKinds are those of calicoctl's v1 that have a successor here.
var oldKinds = map[string]string{"policy": "GlobalNetworkPolicy", "hostEndpoint": "HostEndpoint"}

// Old tells whether an object is one of calicoctl's v1.
func Old(apiVersion, kind string) bool {
	return apiVersion == OldVersion && kind != "" && strings.ToLower(kind[:1]) == kind[:1]
}

// FromOld gives the object of projectcalico.org/v3 for a policy or a hostEndpoint of calicoctl's v1. Its tags are gone: what was selected by one
// is lost until they have a label of that name. What is given is the source's own, and changed.
func FromOld(o map[string]any) []Loss {
	var lost losses
	kind, _ := o["kind"].(string)
	to, ok := oldKinds[kind]
	if !ok {
		lost.add("kind", "%s of calicoctl's v1 has no successor that could be made of it alone: only policy and hostEndpoint do", kind)
		return lost
	}
	o["apiVersion"], o["kind"] = v3.GroupVersion.String(), to
	m := fields(o, "metadata")
	spec := fields(o, "spec")
	name, _ := m["name"].(string)
	if to == "HostEndpoint" {
		node, _ := m["node"].(string)
		if node != "" {
			spec["node"] = node
			delete(m, "node")
			m["name"] = node + "-" + name // names were each node's own
		}
		ports, _ := spec["ports"].([]any)
		for _, port := range ports {
			if p, ok := port.(map[string]any); ok {
				protocolToday(p, "protocol")
			}
		}
	} else {
		oldPolicy(spec)
	}
	if dns := strings.ToLower(strings.NewReplacer("_", "-", "/", "-").Replace(fmt.Sprint(m["name"]))); dns != m["name"] {
		m["name"] = dns
	}
	for _, d := range []string{"ingress", "egress"} {
		rules, _ := spec[d].([]any)
		for i := range rules {
			if r, ok := rules[i].(map[string]any); ok {
				lost.oldRule(fmt.Sprintf("spec.%s[%d]", d, i), r)
			}
		}
	}
	return lost
}

// oldPolicy says what v1 left unsaid: that a policy before the connection is known is for what is forwarded too, and that one without types is
// for the directions of its rules, which to Calico's v3 would be for both.
func oldPolicy(spec map[string]any) {
	untracked, _ := spec["doNotTrack"].(bool)
	preDNAT, _ := spec["preDNAT"].(bool)
	if untracked || preDNAT {
		spec["applyOnForward"] = true
	}
	types, _ := spec["types"].([]any)
	for i, t := range types {
		if today, ok := oldTypes[t]; ok {
			types[i] = today
		}
	}
	if len(types) > 0 {
		return
	}
	ingress, _ := spec["ingress"].([]any)
	egress, _ := spec["egress"].([]any)
	switch {
	case len(egress) == 0:
		types = []any{"Ingress"}
	case len(ingress) == 0:
		types = []any{"Egress"}
	default:
		types = []any{"Ingress", "Egress"}
	}
	spec["types"] = types
}

var oldTypes = map[any]string{"ingress": "Ingress", "egress": "Egress"}

func fields(o map[string]any, name string) map[string]any {
	m, ok := o[name].(map[string]any)
	if !ok {
		m = map[string]any{}
		o[name] = m
	}
	return m
}

var oldActions = map[string]string{"allow": "Allow", "deny": "Deny", "log": "Log", "pass": "Pass", "next-tier": "Pass"}

var oldProtocols = map[string]string{"tcp": "TCP", "udp": "UDP", "icmp": "ICMP", "icmpv6": "ICMPv6", "sctp": "SCTP", "udplite": "UDPLite"}

func (l *losses) oldRule(at string, r map[string]any) {
	action, _ := r["action"].(string)
	if a, ok := oldActions[action]; ok {
		r["action"] = a
	}
	rename(r, "!protocol", "notProtocol")
	rename(r, "!icmp", "notICMP")
	for _, field := range []string{"protocol", "notProtocol"} {
		protocolToday(r, field)
	}
	for _, end := range []string{"source", "destination"} {
		e, ok := r[end].(map[string]any)
		if !ok {
			continue
		}
		for old, now := range map[string]string{"!selector": "notSelector", "!ports": "notPorts", "!nets": "notNets", "!net": "notNet"} {
			rename(e, old, now)
		}
		for _, field := range []string{"tag", "!tag", "notTag"} {
			tag, ok := e[field]
			if !ok {
				continue
			}
			l.add(at+"."+end+"."+field, "there are no tags any more: give the endpoints of tag %v a label of that name", tag)
			delete(e, field)
			to := map[bool]string{true: "selector", false: "notSelector"}[field == "tag"]
			if have, _ := e[to].(string); have != "" {
				e[to] = fmt.Sprintf("(%s) %s has(%v)", have, map[bool]string{true: "&&", false: "||"}[field == "tag"], tag)
			} else {
				e[to] = fmt.Sprintf("has(%v)", tag)
			}
		}
		for one, many := range map[string]string{"net": "nets", "notNet": "notNets"} {
			if v, ok := e[one]; ok {
				have, _ := e[many].([]any)
				e[many] = append(have, v)
				delete(e, one)
			}
		}
	}
}

func protocolToday(m map[string]any, field string) {
	if name, ok := m[field].(string); ok {
		if p, ok := oldProtocols[strings.ToLower(name)]; ok {
			m[field] = p
		}
	}
}

func rename(m map[string]any, from, to string) {
	if v, ok := m[from]; ok {
		m[to] = v
		delete(m, from)
	}
}
