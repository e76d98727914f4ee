//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// edge is when a way was seen to open or shut, by packets.
type edge struct {
	open bool
	at   time.Time
}

// edges of the way from a pod to an address, as they come.
func (t *test) edges(from, to string) <-chan edge {
	t.Helper()
	namespace, name, _ := strings.Cut(from, "/")
	cmd, err := t.PodCommand(t.Context(), namespace, name, t.PodProgram, "edges", to, "80")
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told := make(chan edge, 100)
	go func() {
		defer close(told)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			word, ns, _ := strings.Cut(lines.Text(), " ")
			if n, err := strconv.ParseInt(ns, 10, 64); err == nil {
				told <- edge{word == "open", time.Unix(0, n)}
			}
		}
		_ = cmd.Wait() // it ends when the test does
	}()
	return told
}

// last edge of this kind since a time: until nothing more is told for a while. A busy machine may make a way seem shut for a moment.
func (t *test) last(edges <-chan edge, open bool, since time.Time) (at time.Time) {
	t.Helper()
	var seen []edge
	for {
		select {
		case e, ok := <-edges:
			if !ok {
				t.Fatal("nobody asks any more")
			}
			seen = append(seen, e)
			if e.open == open && e.at.After(since) {
				at = e.at
			}
		case <-time.After(300 * time.Millisecond):
			if at.IsZero() {
				t.Fatalf("it never came to be open: %v; since %v it was seen to be so: %v", open, since, seen)
			}
			return at
		}
	}
}

// quantile of durations that are in order.
func quantile(all []time.Duration, q float64) float64 {
	return float64(all[min(len(all)-1, int(q*float64(len(all))))]) / float64(time.Millisecond)
}

func report(b *testing.B, what string, all []time.Duration) {
	slices.Sort(all)
	for name, q := range map[string]float64{"p50": 0.5, "p99": 0.99} {
		b.ReportMetric(quantile(all, q), fmt.Sprintf("ms-%s-%s", what, name))
	}
}

// From kubectl apply of a policy until the last packet that it denies got through on either node, and until both nodes let through what the
// next allows. What kubectl itself takes is in it, and is told apart; below zero kubectl ended last.
func BenchmarkPolicyToEnforced(b *testing.B) {
	s, ns := begin(b), fmt.Sprintf("lat%d", b.N)
	s.apply(namespace(ns) + pod(ns, "client", n1, "role=client") + pod(ns, "on-bridge", n1, "role=server") + pod(ns, "routed", n2, "role=server"))
	pods := s.running(ns)
	var ways []<-chan edge
	for _, server := range []string{"on-bridge", "routed"} {
		way := s.edges(ns+"/client", pods[server][0])
		s.last(way, true, time.Time{})
		ways = append(ways, way)
	}
	policy := func(action string) string {
		return `{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: lat}, spec: {selector: "role == 'server'", namespaceSelector: "kubernetes.io/metadata.name == '` + ns + `'", types: [Ingress], ` +
			`ingress: [{action: ` + action + `, source: {selector: role == 'client'}}]}}`
	}
	s.apply(policy("Allow"))
	s.kubectl("wait", "--for=condition=Programmed", "gnp/lat", "--timeout=30s")
	var all, rest, kubectl, told []time.Duration
	b.ResetTimer()
	for range b.N {
		for _, open := range []bool{false, true} {
			action := map[bool]string{false: "Deny", true: "Allow"}[open]
			begun := time.Now()
			s.command(s.Kubectl(s.Context(), "apply", "-f", "-"), policy(action))
			ended := time.Now()
			kubectl = append(kubectl, ended.Sub(begun))
			s.kubectl("wait", "--for=condition=Programmed", "gnp/lat", "--timeout=30s")
			told = append(told, time.Since(begun))
			last := begun
			for _, way := range ways {
				if at := s.last(way, open, begun); at.After(last) {
					last = at
				}
			}
			all = append(all, last.Sub(begun))
			rest = append(rest, last.Sub(ended))
		}
	}
	report(b, "enforced", all)
	report(b, "kubectl", kubectl)
	report(b, "after-kubectl", rest)
	report(b, "waited-for", told)
}

// From a pod's being Ready, as a watch tells it, until its node's agent says that it is programmed; and from when the API server first had
// its address. Below zero it was programmed before.
func BenchmarkPodToProgrammed(b *testing.B) {
	s, ns := begin(b), fmt.Sprintf("pods%d", b.N)
	s.apply(namespace(ns) + `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: all, namespace: ` + ns + `}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}
`)
	var mu sync.Mutex
	addressed, ready := map[string]time.Time{}, map[string]time.Time{}
	ctx, stop := context.WithCancel(s.Context())
	defer stop()
	watch := s.Kubectl(ctx, "-n", ns, "get", "pods", "--watch", "-o", `jsonpath={.metadata.name} {.status.podIP} {.status.conditions[?(@.type=='Ready')].status}{"\n"}`)
	follow(s, watch, func(line string, at time.Time) {
		words := strings.Fields(line)
		mu.Lock()
		defer mu.Unlock()
		if len(words) == 3 && addressed[words[0]].IsZero() {
			addressed[words[0]] = at
		}
		if words[len(words)-1] == "True" && ready[words[0]].IsZero() {
			ready[words[0]] = at
		}
	})
	b.ResetTimer()
	for i := range b.N {
		s.command(s.Kubectl(s.Context(), "apply", "-f", "-"), pod(ns, fmt.Sprintf("p%d", i), []string{n1, n2}[i%2], "a=b"))
		s.kubectl("-n", ns, "wait", "--for=condition=Ready", fmt.Sprintf("pod/p%d", i), "--timeout=60s")
	}
	b.StopTimer()
	ended := time.Now()
	programmed := map[string]time.Time{}
	for line := range strings.Lines(s.kubectl("-n", "tierwall-system", "logs", "-l", "app.kubernetes.io/component=agent", "--tail=-1")) {
		var l struct {
			Time         time.Time
			Msg, Because string
		}
		if json.Unmarshal([]byte(line), &l) != nil || l.Msg != "programmed" {
			continue
		}
		for _, cause := range strings.Split(l.Because, ", ") {
			name, ours := strings.CutPrefix(cause, "Pod/"+ns+"/")
			mu.Lock()
			if ours && programmed[name].IsZero() && l.Time.Before(ended) {
				programmed[name] = l.Time
			}
			mu.Unlock()
		}
	}
	var fromReady, fromAddress []time.Duration
	mu.Lock()
	defer mu.Unlock()
	for name, at := range programmed {
		if r, a := ready[name], addressed[name]; !r.IsZero() && !a.IsZero() {
			fromReady, fromAddress = append(fromReady, at.Sub(r)), append(fromAddress, at.Sub(a))
		}
	}
	if len(fromReady) < b.N*9/10 {
		b.Fatalf("of %d pods %d were programmed, as the logs say", b.N, len(fromReady))
	}
	report(b, "ready", fromReady)
	report(b, "address", fromAddress)
}

// follow the lines that a command writes, until it is ended.
func follow(t *test, cmd *exec.Cmd, line func(string, time.Time)) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			line(lines.Text(), time.Now())
		}
		_ = cmd.Wait() // it was ended
	}()
}
