package controllers

import (
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

// An agent is ready when all it was told was in force once, and while it is; that its store cannot be read is no reason not to be.
func TestHealth(t *testing.T) {
	h := &Health{}
	r := prometheus.NewRegistry()
	NewMetrics(r).attempt(time.Now(), nil)
	server := httptest.NewServer(h.Handler(r))
	defer server.Close()
	ask := func(path string) (int, string) {
		t.Helper()
		resp, err := server.Client().Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	for _, c := range []struct {
		path, says string
		status     int
		before     func(*Health)
	}{
		{"/healthz", "ok", 200, func(*Health) {}},
		{"/readyz", "has not said everything", 503, func(*Health) {}},
		{"/readyz", "nothing is enforced yet", 503, func(h *Health) { h.synced = true }},
		{"/readyz", "the kernel says no", 503, func(h *Health) { h.failed = errors.New("the kernel says no") }},
		{"/readyz", "ok", 200, func(h *Health) { h.failed, h.applied = nil, true }},
		{"/readyz", "the kernel says no", 503, func(h *Health) { h.failed = errors.New("the kernel says no") }},
		{"/healthz", "ok", 200, func(h *Health) { h.busy = time.Now() }},
		{"/healthz", "at one batch", 503, func(h *Health) { h.busy = time.Now().Add(-2 * stuck) }},
		{"/metrics", "tierwall_enforcing 1", 200, func(*Health) {}},
		{"/metrics", `tierwall_programmed_total{result="ok"} 1`, 200, func(*Health) {}},
	} {
		h.set(c.before)
		if status, text := ask(c.path); status != c.status || !strings.Contains(text, c.says) {
			t.Errorf("%s: %d %s, want %d %s", c.path, status, text, c.status, c.says)
		}
	}
}

func TestCauses(t *testing.T) {
	var c causes
	if got := c.said(); got != "tried again" {
		t.Errorf("nothing came: %q", got)
	}
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		c.object(v3.Ref{Kind: "Tier", Name: name})
	}
	if got, want := c.said(), "Tier/a, Tier/b, Tier/c, Tier/d, Tier/e and 2 more"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A pod of the node is timed once, from when it had its network; not one of another node's, none on its host's network, and none that ran
// before the agent did.
func TestStarts(t *testing.T) {
	since := time.Now().Add(-10 * time.Second)
	pod := func(name string, change func(*corev1.Pod)) store.Event {
		p := of(&corev1.Pod{}, "Pod", name, "1")
		p.Spec.NodeName = "n1"
		p.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(since)}}
		if change != nil {
			change(p)
		}
		return store.Event{Type: store.Put, Ref: v3.Ref{Kind: "Pod", Name: name}, Object: p}
	}
	for what, c := range map[string]struct {
		change func(*corev1.Pod)
		first  bool
		want   int
	}{
		"a pod of the node":          {nil, false, 1},
		"one that ran before":        {nil, true, 0},
		"another node's":             {func(p *corev1.Pod) { p.Spec.NodeName = "n2" }, false, 0},
		"on its host's network":      {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, false, 0},
		"without an address":         {func(p *corev1.Pod) { p.Status.PodIPs = nil }, false, 0},
		"whose network is not there": {func(p *corev1.Pod) { p.Status.Conditions = nil }, false, 0},
	} {
		var s starts
		e := pod("p", c.change)
		s.note(e, "n1")
		s.note(e, "n1")
		got := s.done(c.first)
		if len(got) != c.want || c.want == 1 && (got[0] < 10*time.Second || got[0] > time.Minute) {
			t.Errorf("%s: %v", what, got)
		}
		if s.note(e, "n1"); len(s.done(false)) != 0 {
			t.Errorf("%s: timed twice", what)
		}
		s.note(store.Event{Type: store.Deleted, Ref: e.Ref}, "n1")
		if s.note(pod("p", nil), "n1"); len(s.done(false)) != 1 {
			t.Errorf("%s: the next of its name is not timed", what)
		}
	}
}
