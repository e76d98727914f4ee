//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tierwall/tierwall/test/kube"
)

// proxied are two servers on each node behind three services, clients, and both nodes' uplinks, which allow what no policy denies.
var proxied = namespace("proxied") +
	pod("proxied", "one", n1, "app=one", "role=server") + pod("proxied", "two", n2, "app=two", "role=server") +
	pod("proxied", "client1", n1, "role=client") + pod("proxied", "client2", n2, "role=client") +
	nodePort("one", "Local", 30091) + nodePort("two", "Local", 30092) + // on its own node alone, which keeps the client's address
	nodePort("one", "Cluster", 30093) + nodePort("two", "Cluster", 30094) // on both nodes, which put their own in its place

func nodePort(app, policy string, port int) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %s-%s, namespace: proxied}
spec: {type: NodePort, externalTrafficPolicy: %s, ipFamilyPolicy: RequireDualStack, selector: {app: %s}, ports: [{port: 8000, targetPort: http, nodePort: %d}]}
`, app, strings.ToLower(policy), policy, app, port)
}

const uplinks = `
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n1, labels: {uplink: n1}}
spec: {node: n1, interfaceName: eth0, profiles: [projectcalico-default-allow]}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n2, labels: {uplink: n2}}
spec: {node: n2, interfaceName: eth0, profiles: [projectcalico-default-allow]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: outside, labels: {outside: "yes"}}
spec: {nets: [172.31.0.254/32, "fd00:31::fe/128"]}
---
`

// serviceWays are the ways to the services; the words of a name say what it has to do with.
func (t *test) serviceWays() map[string]flow {
	addrs := func(node int) (out []string) {
		for _, a := range t.Nodes[node-1].Addrs {
			out = append(out, a.String())
		}
		return out
	}
	vips := func(service string) []string {
		return strings.Fields(t.kubectl("-n", "proxied", "get", "service", service, "-o", "jsonpath={.spec.clusterIPs[0]} {.spec.clusterIPs[1]}"))
	}
	one, two := vips("one-cluster"), vips("two-cluster")
	n1, n2 := addrs(1), addrs(2)
	return map[string]flow{
		"a pod to a pod of its node by the bridge": {from: "proxied/client1", to: one, port: "8000"},
		"a pod to a pod of its node, routed":       {from: "proxied/client2", to: two, port: "8000"},
		"a pod on n1 to one on n2":                 {from: "proxied/client1", to: two, port: "8000"},
		"a pod on n2 to one on n1":                 {from: "proxied/client2", to: one, port: "8000"},
		"hairpin by the bridge":                    {from: "proxied/one", to: one, port: "8000"},
		"hairpin, routed":                          {from: "proxied/two", to: two, port: "8000"},
		"n1 itself to a pod on n2":                 {from: "node/n1", to: two, port: "8000"},
		"n2 itself to a pod on n1":                 {from: "node/n2", to: one, port: "8000"},
		"outside, Local, n1":                       {to: n1, port: "30091"},
		"outside, Local, n2":                       {to: n2, port: "30092"},
		"outside, Cluster, n1 to itself":           {to: n1, port: "30093"},
		"outside, Cluster, n2 to itself":           {to: n2, port: "30094"},
		"outside, Cluster, n2 to n1":               {to: n2, port: "30093"},
		"outside, Cluster, n1 to n2":               {to: n1, port: "30094"},
		"a pod to the other node's port":           {from: "proxied/client1", to: n2, port: "30094"},
	}
}

// all ways but those that begin with one of these words are answered.
func (t *test) stops(what string, ways map[string]flow, names ...string) {
	t.Helper()
	var flows []flow
	for name, f := range ways {
		f.proto, f.want = "tcp", answered
		if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(name, n) }) {
			f.want = nothing
		}
		flows = append(flows, f)
	}
	t.expect(what, flows...)
}

// servicePolicies, and what each stops, whoever translates and masquerades.
var servicePolicies = []struct {
	name, policy string
	stops        []string
}{
	{"before DNAT, by the node's port", `
spec: {selector: has(uplink), preDNAT: true, applyOnForward: true, types: [Ingress], ingress: [{action: Deny, protocol: TCP, destination: {ports: [30092, 30094]}}]}
`, []string{"outside, Local, n2", "outside, Cluster, n2 to itself", "outside, Cluster, n1 to n2", "a pod to the other node's port"}},
	{"forwarded, by the pod's port, on the way in", `
spec: {selector: uplink == 'n1', applyOnForward: true, types: [Ingress], ingress: [{action: Deny, protocol: TCP, destination: {ports: [80]}, source: {selector: outside == 'yes'}}, {action: Allow}]}
`, []string{"outside, Local, n1", "outside, Cluster, n1"}},
	{"the node's own and forwarded, on the way out", `
spec: {selector: uplink == 'n1', applyOnForward: true, types: [Egress], egress: [{action: Deny, protocol: TCP, destination: {ports: [80], selector: app == 'two'}}, {action: Allow}]}
`, []string{"a pod on n1 to one on n2", "n1 itself to a pod on n2", "outside, Cluster, n1 to n2"}},
	{"the pod's, by the client", `
spec: {selector: role == 'server', types: [Ingress], ingress: [{action: Deny, source: {selector: outside == 'yes'}}, {action: Allow}]}
`, []string{"outside, Local", "outside, Cluster, n1 to itself", "outside, Cluster, n2 to itself"}}, // the others come from a node's address
	{"the pod's, from itself", `
spec: {selector: app == 'two', types: [Ingress], ingress: [{action: Deny, source: {selector: app == 'two'}}, {action: Allow}]}
`, []string{"hairpin, routed"}},
}

// Policy beside kube-proxy in either mode, where pods are on a bridge and where they are routed; its mode is changed, and it is started
// anew, while everything runs. Neither changes a rule of the other's.
func TestKubeProxyModes(t *testing.T) {
	s := begin(t)
	s.apply(proxied)
	pods := s.running("proxied")
	s.tierctlApply(uplinks)
	ways := s.serviceWays()
	s.inModes(kube.ProxyModes[0], kube.ProxyModes[1])
	t.Run("nftables on a bridge, iptables routed", func(t *testing.T) { begin(t).beside(ways) })

	s.tierctlApply(strings.Replace(servicePolicy, "proxied", "closed", 1) + `
spec: {selector: app == 'two', types: [Ingress], ingress: [{action: Deny, source: {selector: role == 'client'}}, {action: Allow}]}
`)
	closed := []flow{shuts("proxied/client1", pods["two"]...), shuts("proxied/client2", pods["two"]...)}
	s.expect("closed", closed...)
	ours := s.ours()
	bridged, routed := s.counted(closed[0]), s.counted(closed[1])
	s.restartKubeProxy(kube.ProxyModes[1], kube.ProxyModes[0])
	s.inModes(kube.ProxyModes[1], kube.ProxyModes[0])
	theirs := s.others()
	s.restartKubeProxy(kube.ProxyModes[1], kube.ProxyModes[0])
	s.inModes(kube.ProxyModes[1], kube.ProxyModes[0])
	if now := s.others(); now != theirs {
		t.Errorf("kube-proxy, started anew, writes other rules beside ours:\n%s", difference(theirs, now))
	}
	for _, end := range []func() (tries, wrong int64){bridged, routed} {
		if tries, wrong := end(); tries == 0 || wrong > 0 {
			t.Errorf("while kube-proxy changed, %d of %d packets that the policy denies passed", wrong, tries)
		}
	}
	if now := s.ours(); now != ours {
		t.Errorf("our table has changed with kube-proxy:\n%s", difference(ours, now))
	}
	s.tierctlRun("", "delete", "gnp", "closed")
	t.Run("iptables on a bridge, nftables routed", func(t *testing.T) { begin(t).beside(ways) })
	s.restartKubeProxy(kube.ProxyModes[0], kube.ProxyModes[1])
	s.inModes(kube.ProxyModes[0], kube.ProxyModes[1])
}

const servicePolicy = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: proxied}"

// beside kube-proxy, each policy stops what it should, and no rule of the others' changes.
func (t *test) beside(ways map[string]flow) {
	t.Helper()
	t.stops("no policy", ways)
	theirs := t.others()
	for _, p := range servicePolicies {
		t.tierctlRun(servicePolicy+p.policy, "apply", "-f", "-")
		t.stops(p.name, ways, p.stops...)
	}
	if now := t.others(); now != theirs {
		t.Errorf("rules of others have changed with our policies:\n%s", difference(theirs, now))
	}
	t.tierctlRun("", "delete", "gnp", "proxied")
}

// restartKubeProxy on each node, in a mode.
func (t *test) restartKubeProxy(modes ...string) {
	t.Helper()
	for i, n := range t.Nodes {
		if err := n.RestartKubeProxy(t.Context(), modes[i]); err != nil {
			t.Fatal(err)
		}
	}
}

// inModes waits until the kernels have what kube-proxy writes in these modes, and no more what it writes in the other.
func (t *test) inModes(modes ...string) {
	t.Helper()
	for i, n := range t.Nodes {
		t.eventually("kube-proxy of "+n.Name+" is in mode "+modes[i], func() bool {
			nft := strings.Contains(t.command(n.Command(t.Context(), "nft", "list", "tables"), ""), "table ip kube-proxy")
			iptables := strings.Contains(t.command(n.Command(t.Context(), "iptables-save", "-t", "nat"), ""), "-A KUBE-SVC-")
			return nft == (modes[i] == "nftables") && iptables == (modes[i] == "iptables")
		})
	}
}

// ours are the tables on all nodes.
func (t *test) ours() (out string) {
	t.Helper()
	for _, n := range t.Nodes {
		out += t.command(n.Command(t.Context(), "nft", "-s", "list", "table", "inet", "tierwall"), "")
	}
	return out
}

var counters = regexp.MustCompile(`\[\d+:\d+\]|counter packets \d+ bytes \d+|(?m)^#.*`)

// others are all rules on the nodes that are not ours, without counters, and in no order: kube-proxy's chains have none.
func (t *test) others() string {
	t.Helper()
	var out strings.Builder
	for _, n := range t.Nodes {
		for _, command := range []string{"iptables-save", "ip6tables-save"} {
			fmt.Fprintf(&out, "%s on %s\n%s", command, n.Name, t.command(n.Command(t.Context(), command), ""))
		}
		for line := range strings.Lines(t.command(n.Command(t.Context(), "nft", "list", "tables"), "")) {
			if line = strings.TrimSpace(line); line != "table inet tierwall" {
				words := append([]string{"-s", "list"}, strings.Fields(line)...)
				out.WriteString(t.command(n.Command(t.Context(), "nft", words...), ""))
			}
		}
	}
	lines := strings.Split(counters.ReplaceAllString(out.String(), ""), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// difference are the lines that only one text has.
func difference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	var out strings.Builder
	for _, l := range x {
		if !slices.Contains(y, l) {
			fmt.Fprintln(&out, "-", l)
		}
	}
	for _, l := range y {
		if !slices.Contains(x, l) {
			fmt.Fprintln(&out, "+", l)
		}
	}
	return out.String()
}
