package main

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/lab"
)

const twoPods = `
apiVersion: v1
kind: Namespace
metadata: {name: ns}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: ns, labels: {app: a}}
spec: {nodeName: n1, containers: [{name: c, image: example}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: ns, labels: {app: b}}
spec: {nodeName: n2, containers: [{name: c, image: example}]}
status: {podIP: 10.0.1.1}
`

const closed = `
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: closed, namespace: ns}
spec: {selector: app == 'b', types: [Ingress]}
`

// What an agent has programmed stays and filters when the agent is killed and when its store is gone; the next agent takes it
// over, and does what happened meanwhile.
func TestTableOutlivesAgentAndStore(t *testing.T) {
	needNamespaces(t)
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.1.1")
	l, err := lab.Build(lab.Cluster{
		Nodes: []lab.Node{
			{Name: "n1", Uplinks: []lab.Uplink{{Iface: "eth0", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}},
			{Name: "n2", Uplinks: []lab.Uplink{{Iface: "eth0", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.2")}}}},
		},
		Workloads: []lab.Workload{{Name: "ns/a", Node: "n1", Addrs: []netip.Addr{a}}, {Name: "ns/b", Node: "n2", Addrs: []netip.Addr{b}}},
	})
	fatal(t, err)
	defer l.Close()
	file := filepath.Join(t.TempDir(), "store.db")
	tierctl := lab.Tierctl{Path: buildTierctl(t), Datastore: "bolt:" + file}
	write := func(stdin string, args ...string) string {
		t.Helper()
		revision, err := tierctl.Write(t.Context(), stdin, args...)
		fatal(t, err)
		return revision
	}
	port := uint16(50000)
	reaches := func(what string, want lab.Observation) {
		t.Helper()
		port++ // a connection of its own
		seen, err := l.Send(t.Context(), []policy.Flow{{Src: a, Dst: b, Proto: policy.ProtoTCP, SrcPort: port, DstPort: 80}}, time.Second)
		fatal(t, err)
		if seen[0] != want {
			t.Errorf("%s: seen %d, want %d", what, seen[0], want)
		}
	}
	run := func(revision string) {
		t.Helper()
		fatal(t, l.StartAgents(tierctl))
		fatal(t, l.WaitFor(t.Context(), revision))
	}

	run(write(twoPods+"---"+closed, "apply", "-f", "-"))
	reaches("a policy", lab.Lost)
	status := func(want string) {
		t.Helper()
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		var conditions []metav1.Condition
		for e, err := range store.OpenBolt(file).Watch(ctx) {
			fatal(t, err)
			if o, ok := e.Object.(*v3.NetworkPolicy); ok {
				conditions = o.Status.Conditions
			}
			if c := apimeta.FindStatusCondition(conditions, v3.ConditionProgrammed); c != nil && c.Message == want {
				return
			}
		}
		t.Errorf("the status never says %q: %v", want, conditions)
	}
	status("on 2 of 2 nodes")
	fatal(t, l.KillAgents())
	reaches("killed agents", lab.Lost)
	revision := write("", "delete", "networkpolicy", "closed", "-n", "ns")
	reaches("a change while nobody looks", lab.Lost)
	run(revision)
	reaches("the next agents", lab.Arrived)

	fatal(t, l.WaitFor(t.Context(), write(closed, "apply", "-f", "-")))
	reaches("the policy again", lab.Lost)
	status("on 2 of 2 nodes")
	fatal(t, os.Remove(file))
	reaches("the store gone", lab.Lost)
	fatal(t, os.WriteFile(file, []byte("nonsense"), 0o600))
	reaches("the store damaged", lab.Lost)
	fatal(t, l.KillAgents())
	fatal(t, l.StartAgents(tierctl))
	reaches("agents that start without a store", lab.Lost)
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
