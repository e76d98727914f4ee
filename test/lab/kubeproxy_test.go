package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// What kube-proxy programs for two services, one of a pod of node n1 and one of a pod of n2, each with a node port: destination
// NAT, and masquerade of what comes by a node port or goes back to where it came from.
const kubeProxyNFT = `
table ip kube-proxy {
	chain services {
		ip daddr 10.96.0.10 tcp dport 80 goto near
		ip daddr 10.96.0.11 tcp dport 80 goto far
		fib daddr type local tcp dport 30080 goto near-node-port
		fib daddr type local tcp dport 30081 goto far-node-port
	}
	chain near-node-port { jump mark-for-masquerade; goto near; }
	chain far-node-port { jump mark-for-masquerade; goto far; }
	chain near { ip saddr 10.0.0.1 jump mark-for-masquerade; meta l4proto tcp dnat to 10.0.0.1:8080; }
	chain far { ip saddr 10.0.1.1 jump mark-for-masquerade; meta l4proto tcp dnat to 10.0.1.1:8080; }
	chain mark-for-masquerade { meta mark set mark or 0x4000; }
	chain masquerading {
		mark and 0x4000 == 0 return
		meta mark set mark xor 0x4000
		masquerade fully-random
	}
	chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
	chain nat-output { type nat hook output priority -100; jump services; }
	chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
}
`

const kubeProxyIPTables = `*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SVC-NEAR - [0:0]
:KUBE-SVC-FAR - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-NEAR
-A KUBE-SERVICES -d 10.96.0.11/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-FAR
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30080:30081 -j KUBE-MARK-MASQ
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j KUBE-SVC-NEAR
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30081 -j KUBE-SVC-FAR
-A KUBE-SVC-NEAR -s 10.0.0.1/32 -j KUBE-MARK-MASQ
-A KUBE-SVC-NEAR -p tcp -m tcp -j DNAT --to-destination 10.0.0.1:8080
-A KUBE-SVC-FAR -s 10.0.1.1/32 -j KUBE-MARK-MASQ
-A KUBE-SVC-FAR -p tcp -m tcp -j DNAT --to-destination 10.0.1.1:8080
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
`

// needProgram leaves a test out where a program is not installed, but not where tests must all be run.
func needProgram(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("left out, for there is no %s here: install it", name)
	}
}

// serviceFlow is a connection to a service: where it is sent, and where node n1 sends it on.
type serviceFlow struct {
	name, from, to string
	port           uint16
	pod            string // with port 8080
	via            bool   // node n1 is neither end's
	source         string // that the pod sees
	out            string // the interface of n1, where it is not the first
}

var serviceFlows = []serviceFlow{
	{name: "node port, this node's pod", from: "198.51.100.9", to: "192.0.2.1", port: 30080, pod: "10.0.0.1",
		via: true, source: "192.0.2.1"},
	{name: "node port, another node's pod", from: "198.51.100.9", to: "192.0.2.1", port: 30081, pod: "10.0.1.1",
		via: true, source: "192.0.2.1"},
	{name: "pod to another node's pod", from: "10.0.0.2", to: "10.96.0.11", port: 80, pod: "10.0.1.1", source: "10.0.0.2"},
	{name: "pod to this node's pod", from: "10.0.0.2", to: "10.96.0.10", port: 80, pod: "10.0.0.1", source: "10.0.0.2"},
	{name: "host to another node's pod", from: "192.0.2.1", to: "10.96.0.11", port: 80, pod: "10.0.1.1", source: "192.0.2.1"},
	{name: "host to this node's pod", from: "192.0.2.1", to: "10.96.0.10", port: 80, pod: "10.0.0.1", source: "192.0.2.1"},
	{name: "hairpin", from: "10.0.0.1", to: "10.96.0.10", port: 80, pod: "10.0.0.1", source: "192.0.2.1"},
	{name: "pod to node port", from: "10.0.0.2", to: "192.0.2.1", port: 30081, pod: "10.0.1.1", source: "192.0.2.1"},
	{name: "host to node port", from: "192.0.2.1", to: "192.0.2.1", port: 30081, pod: "10.0.1.1", source: "192.0.2.1"},
	{name: "no service", from: "198.51.100.9", to: "10.0.1.1", port: 8080, pod: "10.0.1.1", source: "198.51.100.9"},
}

const uplinks = `
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: first, labels: {uplink: first}}
spec: {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1], profiles: [projectcalico-default-allow]}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: second, labels: {uplink: second}}
spec: {node: n1, interfaceName: eth1, expectedIPs: [192.0.2.129], profiles: [projectcalico-default-allow]}
---
`

// denying is a policy that denies what a rule matches, and allows or leaves the rest.
func denying(spec, direction, match string, allow bool) string {
	rest := ""
	if allow {
		rest = ", {action: Allow}"
	}
	return fmt.Sprintf("apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: denying}\n"+
		"spec: {%s, types: [%s], %s: [{action: Deny, protocol: TCP, %s}%s]}\n", spec, direction, strings.ToLower(direction), match, rest)
}

const (
	preDNAT   = "selector: uplink == 'first', preDNAT: true, applyOnForward: true"
	onForward = "selector: uplink == 'first', applyOnForward: true"
)

// servicePolicies say which flows each policy stops, and that it stops no other.
var servicePolicies = []struct {
	name, policy string
	stops        []string
}{
	{"before DNAT the node port is seen",
		denying(preDNAT, "Ingress", "destination: {ports: [30081]}", false),
		[]string{"node port, another node's pod"}},
	{"before DNAT the pod's port is not",
		denying(preDNAT, "Ingress", "destination: {ports: [8080]}", false), nil},
	{"forwarded, on the way in",
		denying(onForward, "Ingress", "destination: {ports: [8080]}", true),
		[]string{"node port, this node's pod", "node port, another node's pod"}},
	{"forwarded, the node port is not seen",
		denying(onForward, "Ingress", "destination: {ports: ['30080:30081']}", true), nil},
	{"forwarded and the host's own, on the way out",
		denying(onForward, "Egress", "destination: {nets: [10.0.1.1/32], ports: [8080]}", true),
		[]string{"node port, another node's pod", "pod to another node's pod", "host to another node's pod",
			"pod to node port", "host to node port"}},
	{"the host's own, to the pod",
		denying("selector: uplink == 'first'", "Egress", "destination: {nets: [10.0.1.1/32], ports: [8080]}", true),
		[]string{"host to another node's pod", "host to node port"}},
	{"the host's own, to its own pods",
		denying("selector: uplink == 'first'", "Egress", "destination: {nets: [10.0.0.0/24]}", true), nil},
	{"the host's own, to the service's address",
		denying("selector: uplink == 'first'", "Egress", "destination: {nets: [10.96.0.0/16]}", true), nil},
	{"the host's own, to itself",
		denying("selector: uplink == 'first'", "Egress", "destination: {nets: [192.0.2.1/32]}", true), nil},
	{"the host's own, by another interface",
		denying("selector: uplink == 'second'", "Egress", "destination: {ports: [8080]}", true), nil},
	{"the pod's ingress, by whom it is masqueraded",
		denying("selector: app == 'three'", "Ingress", "source: {nets: [192.0.2.1/32]}", true),
		[]string{"node port, another node's pod", "host to another node's pod", "pod to node port", "host to node port"}},
	{"the pod's ingress, by the client",
		denying("selector: app == 'three'", "Ingress", "source: {nets: [198.51.100.9/32]}", true), []string{"no service"}},
	{"the pod's ingress where it is translated, by the client",
		denying("selector: app == 'one'", "Ingress", "source: {nets: [198.51.100.9/32]}", true),
		[]string{"node port, this node's pod"}},
	{"the pod's ingress where it is translated, by whom it is masqueraded",
		denying("selector: app == 'one'", "Ingress", "source: {nets: [192.0.2.1/32]}", true), nil},
	{"the pod's ingress from itself",
		denying("selector: app == 'one'", "Ingress", "source: {selector: app == 'one'}", true), []string{"hairpin"}},
	{"the pod's egress, to the pod",
		denying("selector: app == 'two'", "Egress", "destination: {selector: app == 'three', ports: [8080]}", true),
		[]string{"pod to another node's pod", "pod to node port"}},
	{"the pod's egress, to the service's address",
		denying("selector: app == 'two'", "Egress", "destination: {nets: [10.96.0.0/16, 192.0.2.1/32]}", true), nil},
}

// Policy next to kube-proxy, in both of the ways in which that programs the kernel: what is judged before destination NAT and
// what behind it, what sees the client and what the masquerade. trace says the same of each connection.
func TestServices(t *testing.T) {
	t.Run("nftables", func(t *testing.T) {
		t.Parallel()
		services(t, func(c *cluster, node string) { c.nft(t, node, kubeProxyNFT) })
	})
	t.Run("iptables", func(t *testing.T) {
		t.Parallel()
		needProgram(t, "iptables-restore")
		services(t, func(c *cluster, node string) {
			c.on(node, "sh", "-c", "iptables-restore --noflush <<'END'\n"+kubeProxyIPTables+"END\n")
		})
	})
}

func services(t *testing.T, kubeProxy func(c *cluster, node string)) {
	c := newCluster(t, small)
	for _, node := range c.Nodes() {
		kubeProxy(c, node)
	}
	c.server("10.0.0.1")
	c.server("10.0.1.1")
	c.start(threePods + uplinks)
	for _, f := range serviceFlows {
		if have := c.trace(f); have != "Allow" {
			t.Errorf("%s: trace says %s, want Allow", f.name, have)
		}
	}
	c.compare(serviceFlows, nil)
	for _, p := range servicePolicies {
		t.Run(p.name, func(t *testing.T) {
			c := c.with(t)
			c.apply(p.policy)
			c.compare(serviceFlows, p.stops)
		})
	}
	t.Run("the interface by which it really goes", func(t *testing.T) {
		c := c.with(t)
		c.on("n1", "ip", "route", "replace", "10.0.1.1/32", "via", fabricLinks.near4.String(), "dev", "eth1", "onlink")
		flows := slices.Clone(serviceFlows)
		for i := range flows {
			if flows[i].pod == "10.0.1.1" && flows[i].name != "no service" {
				flows[i].out = "eth1"
			}
		}
		flows = slices.DeleteFunc(flows, func(f serviceFlow) bool { return f.out == "" })
		for i := range flows {
			if flows[i].source == "192.0.2.1" && !strings.HasPrefix(flows[i].name, "host to another") {
				flows[i].source = "192.0.2.129" // masqueraded there
			}
		}
		c.apply(denying("selector: uplink == 'first', applyOnForward: true", "Egress", "destination: {ports: [8080]}", true))
		c.compare(flows, nil)
		var all []string
		for _, f := range flows {
			all = append(all, f.name)
		}
		c.apply(denying("selector: uplink == 'second', applyOnForward: true", "Egress", "destination: {ports: [8080]}", true))
		c.compare(flows, all)
	})
}

// with is the same for a part of the test.
func (c *cluster) with(t *testing.T) *cluster {
	part := *c
	part.t = t
	return &part
}

// compare tells which flows the kernel or trace judges otherwise.
func (c *cluster) compare(flows []serviceFlow, stops []string) {
	c.t.Helper()
	traced := c.traceAll(flows)
	var all sync.WaitGroup
	for i, f := range flows {
		want := "Allow"
		if slices.Contains(stops, f.name) {
			want = "Deny"
		}
		if traced[i] != want {
			c.t.Errorf("%s: trace says %s, want %s", f.name, traced[i], want)
		}
		all.Go(func() {
			if have := c.connects(f, want == "Allow"); have != want {
				c.t.Errorf("%s: the kernel says %s, want %s", f.name, have, want)
			}
		})
	}
	all.Wait()
}

// server takes connections at port 8080 of a pod, and says whence they came.
func (c *cluster) server(pod string) {
	c.t.Helper()
	var l net.Listener
	fatal(c.t, c.owner[netip.MustParseAddr(pod)].do(func() (err error) { l, err = net.Listen("tcp", pod+":8080"); return err }))
	c.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			k, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprint(k, netip.MustParseAddrPort(k.RemoteAddr().String()).Addr()) // the client misses it otherwise
			_ = k.Close()
		}
	}()
}

// connects tells the kernel's verdict on a connection that is expected to be let through, or not to be.
func (c *cluster) connects(f serviceFlow, expected bool) string {
	wait := soon
	if expected {
		wait = patience
	}
	var source []byte
	err := c.owner[netip.MustParseAddr(f.from)].do(func() error {
		d := net.Dialer{Timeout: wait, LocalAddr: &net.TCPAddr{IP: net.ParseIP(f.from)}}
		k, err := d.Dial("tcp", net.JoinHostPort(f.to, fmt.Sprint(f.port)))
		if err != nil {
			return err
		}
		defer k.Close()
		_ = k.SetDeadline(time.Now().Add(patience))
		source, err = io.ReadAll(k)
		return err
	})
	switch {
	case os.IsTimeout(err):
		return "Deny"
	case err != nil:
		return err.Error()
	case string(source) != f.source:
		return fmt.Sprintf("that it comes from %s, and not from %s", source, f.source)
	}
	return "Allow"
}

// spec is the connection as trace is asked of it.
func (f *serviceFlow) spec() policy.FlowSpec {
	s := policy.FlowSpec{From: f.from, To: f.pod, Port: 8080, OutIface: f.out}
	if f.to != f.pod {
		s.OrigTo, s.OrigPort = f.to, f.port
		if f.source != f.from {
			s.Masquerade = f.source
		}
	}
	if f.via {
		s.Via = "n1"
	}
	return s
}

// trace asks tierctl of one connection.
func (c *cluster) trace(f serviceFlow) string {
	c.t.Helper()
	s := f.spec()
	args := []string{"trace", "--from", s.From, "--to", s.To, "--port", fmt.Sprint(s.Port), "-o", "json"}
	flags := [][2]string{{"--orig-to", s.OrigTo}, {"--masquerade", s.Masquerade}, {"--via", s.Via}, {"--out-interface", s.OutIface}}
	for _, flag := range flags {
		if flag[1] != "" {
			args = append(args, flag[:]...)
		}
	}
	if s.OrigPort != 0 {
		args = append(args, "--orig-port", fmt.Sprint(s.OrigPort))
	}
	out, err := c.tierctl.Run(c.t.Context(), "", args...)
	fatal(c.t, err)
	return verdicts(c.t, out)[0]
}

// traceAll asks it of many at once.
func (c *cluster) traceAll(flows []serviceFlow) []string {
	c.t.Helper()
	var in strings.Builder
	for _, f := range flows {
		line, err := json.Marshal(f.spec())
		fatal(c.t, err)
		in.Write(append(line, '\n'))
	}
	out, err := c.tierctl.Run(c.t.Context(), in.String(), "trace", "--flows", "-", "-o", "json")
	fatal(c.t, err)
	return verdicts(c.t, out)
}

func verdicts(t *testing.T, out []byte) (all []string) {
	t.Helper()
	for line := range bytes.Lines(out) {
		var v struct{ Verdict string }
		fatal(t, json.Unmarshal(line, &v))
		all = append(all, v.Verdict)
	}
	return all
}
