//go:build e2e

package e2e

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const snapshot = "bolt:/var/lib/tierwall/snapshot.db"

// remembers waits until a node's snapshot has a pod.
func (t *test) remembers(node int, pods ...string) {
	t.Helper()
	t.eventually("the snapshot has "+strings.Join(pods, ", "), func() bool {
		out, err := said(t.Nodes[node].Command(t.Context(), t.tierctl, "get", "pods", "-A", "--datastore", snapshot))
		return err == nil && !slices.ContainsFunc(pods, func(p string) bool { return !strings.Contains(out, p) })
	})
}

// counted tries a flow all the while, until the function that it gives is called. That tells how often, and how often it was not as it should
// be.
func (t *test) counted(f flow) (end func() (tries, wrong int64)) {
	ctx, stop := context.WithCancel(t.Context())
	var tries, wrong atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			for _, to := range f.to {
				got := t.try(f.from, f.proto, to, f.port, f.patience())
				if ctx.Err() != nil {
					return
				}
				if tries.Add(1); got != f.want {
					wrong.Add(1)
					t.Logf("%s from %s to %s: %s, want: %s", time.Now().Format("05.000"), f.from, to, got, f.want)
				}
			}
		}
	}()
	return func() (int64, int64) { stop(); <-done; return tries.Load(), wrong.Load() }
}

// The API server and etcd are gone. What is in force stays; an agent that is killed meanwhile leaves it so, and the next one does; a node whose
// table has gone, as when it starts, has again what it enforced last. Back they are, and changes come through.
func TestAPIServerAway(t *testing.T) {
	s := begin(t)
	s.apply(namespace("away") + pod("away", "server", n1, "app=server") + pod("away", "routed", n2, "app=server") + pod("away", "friend", n2, "role=friend") + pod("away", "stranger", n1, "role=x"))
	pods := s.running("away")
	to := slices.Concat(pods["server"], pods["routed"])
	const policy = `
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: away}
spec:
  selector: app == 'server' && projectcalico.org/namespace == 'away'
  ingress: [{action: Allow, source: {selector: role == 'friend'}}]
`
	s.tierctlApply(policy)
	flows := []flow{opens("away/friend", to...), shuts("away/stranger", to...)}
	s.expect("programmed", flows...)
	s.remembers(0, "server", "friend", "stranger")
	s.remembers(1, "server", "friend", "stranger")
	denied, allowed := s.counted(shuts("away/stranger", pods["server"][0])), s.counted(opens("away/friend", pods["server"][0]))
	begun := time.Now()
	if err := s.StopControlPlane(); err != nil {
		t.Fatal(err)
	}
	back := false
	defer func() {
		if !back {
			if err := s.ContinueControlPlane(context.Background()); err != nil {
				t.Error(err)
			}
		}
	}()
	s.now("nobody to ask", flows...)
	keeps := func() int {
		out, _ := said(s.Nodes[0].Command(t.Context(), "sh", "-c", "cat /var/log/pods/tierwall-system_tierwall-agent-*/agent/*.log"))
		return strings.Count(out, "the kernel keeps the table that it has until the store has said")
	}
	before := keeps()
	if err := s.Nodes[0].KillContainers(t.Context(), "agent"); err != nil {
		t.Fatal(err)
	}
	s.now("the agent is killed", flows...)
	s.eventually("another agent on n1, which is not ready but keeps the table", func() bool { return keeps() > before })
	s.now("another agent", flows...)
	tries, wrong := denied()
	t.Logf("away, agent killed: %d denied connections tried, %d got through", tries, wrong)
	if wrong > 0 {
		t.Error("denied connections got through")
	}
	tries, wrong = allowed()
	t.Logf("away, agent killed: %d allowed connections tried, %d lost", tries, wrong)
	if wrong > 0 {
		t.Error("allowed connections were lost")
	}

	s.command(s.Nodes[0].Command(t.Context(), "nft", "flush", "table", "inet", "tierwall"), "")
	s.expect("flushed by another, while nobody knows better: what the node remembers", flows...)

	// as when a node starts: no table, and nobody to ask
	removed := time.Time{}
	s.eventually("the table of n1 is gone", func() bool {
		_ = s.Nodes[0].KillContainers(t.Context(), "agent")
		_, err := said(s.Nodes[0].Command(t.Context(), "nft", "delete", "table", "inet", "tierwall"))
		removed = time.Now()
		return err == nil
	})
	s.expect("what the node remembers", flows...)
	t.Logf("a node without a table and without an API server enforces after %.1f s, most of it the kubelet's", time.Since(removed).Seconds())

	if err := s.ContinueControlPlane(t.Context()); err != nil {
		t.Fatal(err)
	}
	back = true
	t.Logf("away for %.0f s", time.Since(begun).Seconds())
	again := time.Now()
	s.eventually("a change is taken", func() bool {
		cmd := s.Command(t.Context(), s.tierctl, "apply", "-f", "-", "--datastore", "kubernetes:"+s.Kubeconfig)
		cmd.Stdin = strings.NewReader(strings.ReplaceAll(policy, "role == 'friend'", "role == 'x'"))
		_, err := said(cmd)
		return err == nil
	})
	taken := time.Now()
	s.eventually("the change comes to both nodes: an agent may have asked a moment before the server was back", func() bool {
		return !slices.ContainsFunc(to, func(at string) bool { return s.try("away/stranger", "tcp", at, "80", short) != answered })
	})
	s.expect("a change after it is back", opens("away/stranger", to...), shuts("away/friend", to...))
	t.Logf("a change was taken %.1f s after the API server was back, and in force on both nodes within %.1f s more", taken.Sub(again).Seconds(), time.Since(taken).Seconds())
	s.kubectl("-n", "tierwall-system", "rollout", "status", "daemonset/tierwall-agent", "--timeout=90s")
}
