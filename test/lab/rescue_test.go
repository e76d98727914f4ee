package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shutHost lets nobody to n1 but by its failsafe ports, and nobody to port 81 of pod one.
const shutHost = `
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n1}
spec: {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: no-81, namespace: a}
spec:
  selector: app == 'one'
  types: [Ingress]
  ingress: [{action: Deny, protocol: TCP, destination: {ports: [81]}}, {action: Allow}]
`

func (c *cluster) host(what string, want Observation) {
	c.t.Helper()
	c.sees(what, tcp("198.51.100.9", "192.0.2.1", 80), want)
	c.sees(what, tcp("198.51.100.9", "10.0.0.1", 80), Arrived)
}

func (c *cluster) pod(what string, want Observation) {
	c.t.Helper()
	c.sees(what, tcp("198.51.100.9", "10.0.0.1", 81), want)
}

func (c *cluster) tierctlOn(node string, args ...string) string {
	c.t.Helper()
	return c.on(node, append([]string{c.tierctl.Path}, args...)...)
}

// Whoever has locked himself out of a host says so at its console, and it is open; its pods are guarded all the while. With an agent and
// without one.
func TestRescue(t *testing.T) {
	t.Parallel()
	c := newCluster(t, small)
	state := filepath.Join(t.TempDir(), "state")
	c.start(threePods+shutHost, "--state", state)
	guarded := func(what string, host Observation) {
		t.Helper()
		c.host(what, host)
		c.pod(what, Lost)
	}
	guarded("shut", Lost)
	if said := c.tierctlOn("n1", "agent", "--rescue", "--state", state); !strings.Contains(said, "the agent has done it") {
		t.Error(said)
	}
	guarded("rescued", Arrived)
	report, err := c.tierctl.Run(t.Context(), "", "get", "nodereport", "n1", "-o", "json")
	fatal(t, err)
	if !strings.Contains(string(report), "the node's host endpoints guard nothing: "+filepath.Join(state, "rescue")) {
		t.Errorf("the report does not say so:\n%s", report)
	}
	c.restart("--state", state)
	guarded("rescued, with another agent", Arrived)
	c.tierctlOn("n1", "agent", "--end-rescue", "--state", state)
	c.table("n1", `"eth0"`, true)
	guarded("shut again", Lost)

	fatal(t, c.KillAgents())
	said := c.tierctlOn("n1", "agent", "--rescue", "--state", state, "--node", "n1", "--datastore", c.tierctl.Datastore)
	if !strings.Contains(said, "no agent runs here; done without") {
		t.Error(said)
	}
	guarded("rescued without an agent", Arrived)

	fatal(t, os.Remove(filepath.Join(state, "rescue")))
	said = c.tierctlOn("n1", "agent", "--rescue", "--state", state, "--node", "n1", "--datastore", "bolt:"+filepath.Join(state, "none"))
	if !strings.Contains(said, "the table is taken out as a whole") {
		t.Error(said)
	}
	c.host("rescued, and nothing is remembered", Arrived)
	c.pod("rescued, and nothing is remembered", Arrived)
}

// A node that starts enforces what it did last, before anybody tells it anything; a table that it has stays, and a damaged memory is said.
func TestBoot(t *testing.T) {
	t.Parallel()
	c := newCluster(t, small)
	c.write(threePods+shutHost, "apply", "-f", "-")
	text, err := os.ReadFile(strings.TrimPrefix(c.tierctl.Datastore, "bolt:"))
	fatal(t, err)
	state := t.TempDir()
	snapshot := filepath.Join(state, "snapshot.db")
	fatal(t, os.WriteFile(snapshot, text, 0o600))
	c.host("before it starts", Arrived)
	c.tierctlOn("n1", "boot", "--state", state, "--node", "n1")
	c.host("started", Lost)
	c.pod("started", Lost)
	if said := c.tierctlOn("n1", "boot", "--state", state, "--node", "n1"); !strings.Contains(said, "is in the kernel already") {
		t.Error(said)
	}
	c.on("n1", "nft", "delete", "table", "inet", "tierwall")
	for i := range text {
		text[i] ^= 0xff
	}
	fatal(t, os.WriteFile(snapshot, text, 0o600))
	said := c.on("n1", "sh", "-c", c.tierctl.Path+" boot --state "+state+" --node n1 2>&1; echo status $?")
	if !strings.Contains(said, "the file is damaged") || !strings.Contains(said, "status 1") {
		t.Error(said)
	}
	c.host("with a damaged memory", Arrived)
}

const noWayOut = `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.2]}]
ports: [{name: https, port: 443, protocol: TCP}]
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n1, labels: {host: n1}}
spec: {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: hosts}
spec:
  selector: host == 'n1'
  types: [Egress]
  egress: [%s{action: Allow, protocol: UDP}]
`

// A policy that cuts a node from its API server is enforced, and says so on itself; one that leaves it that way does not.
func TestLockoutIsTold(t *testing.T) {
	t.Parallel()
	c := newCluster(t, small)
	const way = "{action: Allow, protocol: TCP, destination: {ports: [443]}}, "
	c.start(threePods + fmt.Sprintf(noWayOut, way))
	warned := func(what string, want bool) {
		t.Helper()
		const text = "cuts node n1 from its API server 192.0.2.2:443 by HostEndpoint/n1"
		out := ""
		for deadline := time.Now().Add(patience); ; {
			got, err := c.tierctl.Run(t.Context(), "", "get", "globalnetworkpolicy", "hosts", "-o", "json")
			fatal(t, err)
			programmed := strings.Contains(string(got), `"Programmed"`)
			if out = string(got); programmed && strings.Contains(out, text) == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: warned is %t:\n%s", what, !want, out)
			}
		}
	}
	warned("a way out", false)
	c.apply(fmt.Sprintf(noWayOut, ""))
	warned("no way out", true)
	c.sees("no way out", tcp("192.0.2.1", "192.0.2.2", 443), Lost)
	c.apply(fmt.Sprintf(noWayOut, way))
	warned("a way out again", false)
	c.sees("a way out again", tcp("192.0.2.1", "192.0.2.2", 443), Arrived)
}
