//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// reaches tells whether a node opens a new connection to the API server.
func (t *test) reaches(node string) bool {
	for _, n := range t.Nodes {
		if n.Name == node {
			ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
			defer stop()
			out, err := said(n.Command(ctx, t.tierctl, "get", "tier", "default", "-o", "name", "--datastore", "kubernetes:"+t.Kubeconfig))
			return err == nil && strings.Contains(out, "Tier/default")
		}
	}
	t.Fatalf("there is no node %s", node)
	return false
}

// Somebody at a node cuts it from its API server, old connections too, and so himself: he cannot put it back, and nobody can tell the node to. It
// goes back by itself, and the controller puts back what is in the store.
func TestNodeIsCutOffOnTrial(t *testing.T) {
	s := begin(t)
	s.tierctlApply(`
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {failsafeInboundHostPorts: [], failsafeOutboundHostPorts: []}
`)
	if !s.reaches(n2) {
		t.Fatal("n2 does not reach the API server before anything is done")
	}
	const cut = `
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: cut}
spec: {selector: trial == 'cut', doNotTrack: true, applyOnForward: true, types: [Egress], egress: [{action: Deny, protocol: TCP, destination: {ports: [6443]}}]}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n2-cut, labels: {trial: cut}}
spec: {node: n2, interfaceName: eth0}
`
	begun := time.Now()
	cmd := s.Nodes[1].Command(t.Context(), s.tierctl, "apply", "-f", "-", "--confirm-within", "20s", "--datastore", "kubernetes:"+s.Kubeconfig)
	cmd.Stdin = strings.NewReader(cut)
	ended := make(chan string, 1)
	go func() {
		out, err := said(cmd)
		ended <- fmt.Sprintf("%v\n%s", err, out)
	}()
	s.eventually("n2 is cut off", func() bool { return !s.reaches(n2) })
	if !s.reaches(n1) {
		t.Error("n1 is cut off too")
	}
	s.eventually("n2 goes back by itself", func() bool { return s.reaches(n2) })
	t.Logf("reached again after %.1f s", time.Since(begun).Seconds())
	if out := <-ended; !strings.Contains(out, "exit status 4") || !strings.Contains(out, "no agent has shown that it is in force") {
		t.Errorf("tierctl says %s", out)
	}
	s.eventually("nothing of it is in the store", func() bool {
		return !strings.Contains(s.tierctlRun("", "get", "hep", "-o", "name")+s.tierctlRun("", "get", "gnp", "-o", "name"), "cut")
	})
	s.eventually("both nodes report", func() bool {
		return s.kubectl("get", "nodereports.tierwall.io", "-o", "jsonpath={.items[*].status.conditions[0].status}") == "True True"
	})
}
