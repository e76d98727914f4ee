//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// tally is connections that are tried without pause, and what became of them.
type tally struct {
	mu            sync.Mutex
	denied, wrong int
	allowed, lost int
}

// tries both ways until it is stopped: what the policy denies, and what it allows.
func (t *test) tries(denied, allowed string, to []string) (stop func() *tally) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	c := &tally{}
	for _, addr := range to {
		running.Go(func() {
			for ctx.Err() == nil {
				got := t.try(denied, "tcp", addr, "80", short)
				c.mu.Lock()
				if c.denied++; got != nothing {
					c.wrong++
				}
				c.mu.Unlock()
			}
		})
		running.Go(func() {
			for ctx.Err() == nil {
				got := t.try(allowed, "tcp", addr, "80", long)
				c.mu.Lock()
				if c.allowed++; got != answered {
					c.lost++
				}
				c.mu.Unlock()
			}
		})
	}
	return func() *tally {
		cancel()
		running.Wait()
		return c
	}
}

func (c *tally) String() string {
	return fmt.Sprintf("denied %d, through %d; allowed %d, lost %d", c.denied, c.wrong, c.allowed, c.lost)
}

func (c *tally) check(t *test, what string) {
	t.Helper()
	if t.Logf("%s: %v", what, c); c.wrong > 0 || c.lost > 0 || c.denied == 0 || c.allowed == 0 {
		t.Errorf("%s: %v", what, c)
	}
}

// held are pods that only a friend may reach.
func (t *test) held(name string) (to []string, friend, stranger string) {
	t.Helper()
	t.apply(namespace(name) + pod(name, "server", n1, "app=server") + pod(name, "routed", n2, "app=server") + pod(name, "friend", n2, "role=friend") + pod(name, "stranger", n1, "role=x"))
	pods := t.running(name)
	t.tierctlApply(fmt.Sprintf(`
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: %s}
spec:
  selector: app == 'server' && projectcalico.org/namespace == '%s'
  ingress: [{action: Allow, source: {selector: role == 'friend'}}]
`, name, name))
	t.kubectl("wait", "--for=condition=Programmed", "gnp/"+name, "--timeout=30s")
	return slices.Concat(pods["server"], pods["routed"]), name + "/friend", name + "/stranger"
}

// versions of the agents, as they report: "n1=… n2=…".
func (t *test) versions() map[string]string {
	t.Helper()
	out := map[string]string{}
	for line := range strings.Lines(t.kubectl("get", "nodereports.tierwall.io", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.agentVersion}{"\n"}{end}`)) {
		if words := strings.Fields(line); len(words) == 2 {
			out[words[0]] = words[1]
		}
	}
	return out
}

// One node's agent is upgraded and works beside an earlier one; then the other's; then both are rolled back. What is in force stays so.
func TestAgentUpgrade(t *testing.T) {
	s := begin(t)
	to, friend, stranger := s.held("upgraded")
	before := s.versions()
	stop := s.tries(stranger, friend, to)
	began := time.Now()
	inNamespace := func(args ...string) string {
		t.Helper()
		return s.kubectl(append([]string{"-n", "tierwall-system"}, args...)...)
	}
	inNamespace("patch", "daemonset", "tierwall-agent", "-p", `{"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}}`)
	inNamespace("set", "image", "daemonset/tierwall-agent", "agent=tierwall.test/tierwall:next")
	for i, node := range []string{n1, n2} {
		inNamespace("delete", "pod", "-l", "app.kubernetes.io/component=agent", "--field-selector", "spec.nodeName="+node)
		s.eventually(node+" is upgraded", func() bool { return s.versions()[node] == next })
		if other := s.versions()[n2]; i == 0 && other == next {
			t.Errorf("%s is upgraded too", n2)
		}
		s.kubectl("annotate", "gnp/upgraded", "--overwrite", "changed="+node)
		s.kubectl("patch", "gnp/upgraded", "--type=merge", "-p", fmt.Sprintf(`{"spec": {"order": %d}}`, i+1))
		s.eventually("both agents have the changed policy in force", func() bool {
			return strings.Contains(s.kubectl("get", "gnp/upgraded", "-o", fmt.Sprintf(`jsonpath={.status.conditions[?(@.observedGeneration==%s)].message}`,
				s.kubectl("get", "gnp/upgraded", "-o", "jsonpath={.metadata.generation}"))), "on 2 of 2 nodes")
		})
	}
	inNamespace("patch", "daemonset", "tierwall-agent", "-p", `{"spec": {"updateStrategy": {"type": "RollingUpdate"}}}`)
	inNamespace("rollout", "undo", "daemonset/tierwall-agent")
	inNamespace("rollout", "status", "daemonset/tierwall-agent", "--timeout=60s")
	s.eventually("both are rolled back", func() bool { now := s.versions(); return now[n1] == before[n1] && now[n2] == before[n2] })
	stop().check(s, fmt.Sprintf("upgrade of two nodes one by one, and rollback, in %v", time.Since(began).Round(time.Second)))
}

// leader is the pod that holds the Lease.
func (t *test) leader() string {
	t.Helper()
	pod, _, _ := strings.Cut(t.kubectl("-n", "tierwall-system", "get", "lease", "tierwall-controller", "-o", "jsonpath={.spec.holderIdentity}"), "_")
	return pod
}

// kill a pod's processes of tierctl as a crash does.
func (t *test) kill(namespace, pod string) {
	t.Helper()
	cmd, err := t.PodCommand(t.Context(), namespace, pod, "readlink", "/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	net := strings.TrimSpace(t.command(cmd, ""))
	killed := 0
	programs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		text, err := os.ReadFile(p)
		where, _ := os.Readlink(filepath.Join(filepath.Dir(p), "ns", "net"))
		var pid int
		if _, errPID := fmt.Sscan(filepath.Base(filepath.Dir(p)), &pid); err == nil && errPID == nil && where == net && strings.HasPrefix(string(text), "/tierctl\x00controller") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed++
		}
	}
	if killed == 0 {
		t.Fatalf("pod %s has no process of tierctl", pod)
	}
}

// The controller that leads is killed: another takes over, the status of objects and finalizers go on, and nothing that is enforced changes.
func TestLeaderIsKilled(t *testing.T) {
	s := begin(t)
	to, friend, stranger := s.held("led")
	s.kubectl("-n", "tierwall-system", "rollout", "status", "deployment/tierwall-controller", "--timeout=60s")
	stop := s.tries(stranger, friend, to)
	was := s.leader()
	began := time.Now()
	s.kill("tierwall-system", was)
	s.tierctlApply("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: new}\nspec: {order: 7}\n")
	s.kubectl("patch", "gnp/led", "--type=merge", "-p", `{"spec": {"order": 2}}`)
	s.kubectl("wait", "--for=jsonpath={.metadata.finalizers[0]}=projectcalico.org/tier-controller", "tier/new", "--timeout=60s")
	s.kubectl("wait", "--for=jsonpath={.status.conditions[?(@.type==\"Programmed\")].observedGeneration}=2", "gnp/led", "--timeout=60s")
	s.kubectl("wait", "--for=condition=Programmed", "gnp/led", "--timeout=60s")
	took := time.Since(began)
	stop().check(s, fmt.Sprintf("the leader was killed, and another (same pod: %v) has written finalizers and status after %v", s.leader() == was, took.Round(time.Second/10)))
}
