package churn

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
	"github.com/tierwall/tierwall/test/lab"
)

// edit is one word of a source that is another.
type edit struct{ file, was, is string }

// noOwner makes the kernel seem to be one before 6.9, whose tables have no owner.
var noOwner = edit{"dataplane/nft/conn.go", "flags: owned}", "flags: 0}"}

func without(t *testing.T) string { return altered(t, []edit{noOwner}) }

// altered gives a tierctl with edits in its source.
func altered(t *testing.T, edits []edit, args ...string) string {
	t.Helper()
	dir, replace := t.TempDir(), map[string]string{}
	for _, e := range edits {
		source, err := filepath.Abs("../../../" + e.file)
		fatal(t, err)
		text, err := os.ReadFile(source)
		fatal(t, err)
		changed := strings.Replace(string(text), e.was, e.is, 1)
		if changed == string(text) {
			t.Fatalf("%s has changed: what is %q there now?", e.file, e.was)
		}
		replace[source] = filepath.Join(dir, filepath.Base(e.file))
		fatal(t, os.WriteFile(replace[source], []byte(changed), 0o600))
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	fatal(t, err)
	fatal(t, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
	return tierctl(t, append([]string{"-overlay", filepath.Join(dir, "overlay.json")}, args...)...)
}

// Where the kernel knows no owner, what others do to the table is mended at once. How long that takes is measured, and how long
// denied packets came through meanwhile.
func TestForeignHandsWithoutOwner(t *testing.T) {
	lab.Need(t, noNamespaces)
	s := newSite(t, without(t))
	if s.owned() {
		t.Fatal("the table has an owner")
	}
	kernels := map[string]*nft.Conn{}
	for i, node := range s.Nodes() {
		fatal(t, s.At(cluster.Nodes[i].Uplinks[0].Addrs[0], func() (err error) {
			kernels[node], err = nft.Open(ruleset.DefaultTable)
			return err
		}))
		defer kernels[node].Close()
	}
	for _, command := range append([]string{"flush ruleset"}, hands...) {
		var took, open []time.Duration
		for range max(1, *foreign/len(hands)) {
			node := s.Nodes()[s.rng.IntN(len(s.Nodes()))]
			s.traffic.settle(t)
			s.traffic.does(command)
			took = append(took, s.mend(kernels[node], node, command))
			s.traffic.settle(t)
			open = append(open, s.traffic.open())
			s.traffic.closed(t)
		}
		slices.Sort(took)
		slices.Sort(open)
		t.Logf("nft %-82s mended in %v (median, with nft's own time), at most %v; denied packets came through for at most %v", command,
			took[len(took)/2].Round(time.Millisecond/10), took[len(took)-1].Round(time.Millisecond/10), open[len(open)-1].Round(time.Millisecond/10))
	}
	fatal(t, s.traffic.end())
}

// mend has others do something to a node's table, and tells how long it takes until the table is as it was.
func (s *site) mend(kernel *nft.Conn, node, command string) time.Duration {
	s.t.Helper()
	want, err := kernel.Read()
	fatal(s.t, err)
	began := time.Now()
	fatal(s.t, s.Run(s.t.Context(), node, fmt.Sprintf("nft '%s'", command)))
	ctx, stop := context.WithTimeout(s.t.Context(), *patience)
	defer stop()
	for ctx.Err() == nil {
		have, err := kernel.Read()
		if err == nil && have != nil && len(ruleset.Diff(have, want)) == 0 {
			return time.Since(began)
		}
	}
	s.t.Fatalf("after %s the table of %s is not mended", command, node)
	return 0
}

// settle waits until what was under way has arrived or not, and counts anew.
func (t *traffic) settle(tb testing.TB) {
	tb.Helper()
	t.advance(tb)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.flows {
		if f.denied {
			f.before = f.arrived.Load()
		}
	}
}

// closed tells of denied packets that come through still.
func (t *traffic) closed(tb testing.TB) {
	tb.Helper()
	t.advance(tb)
	for _, f := range t.flows {
		if n := f.arrived.Load() - f.before; f.denied && n > 0 {
			tb.Errorf("%s: %d come through when the table is mended", f.name, n)
		}
	}
	t.forget()
}

// advance waits until every flow that is denied has sent some more.
func (t *traffic) advance(tb testing.TB) {
	tb.Helper()
	want := make([]uint64, len(t.flows))
	for i, f := range t.flows {
		want[i] = f.sent.Load() + uint64(4*t.burst)
	}
	for i, f := range t.flows {
		t.until(tb, f.name+" sends no more", func() bool { return !f.denied || f.sent.Load() >= want[i] })
	}
}

// until waits for something, looking every pace.
func (t *traffic) until(tb testing.TB, otherwise string, so func() bool) {
	tb.Helper()
	tick, deadline := time.NewTicker(t.pace), time.After(*patience)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatal(otherwise)
		}
	}
}

// What must not be is seen when it is: without agents and tables what is denied comes through, and what another table drops is
// lost.
func TestLeaksAndLossesAreSeen(t *testing.T) {
	lab.Need(t, noNamespaces)
	s, control := newSite(t, tierctl(t)), unguarded(t)
	s.traffic.settle(t)
	s.traffic.closed(t)
	fatal(t, s.KillAgents())
	for _, node := range s.Nodes() {
		fatal(t, s.Run(t.Context(), node, "nft delete table inet tierwall"))
	}
	for _, f := range s.traffic.flows {
		s.traffic.until(t, f.name+": nothing came through, and nothing stops it", func() bool { return !f.denied || f.arrived.Load() > 0 })
	}
	for _, node := range s.Nodes() {
		fatal(t, s.Run(t.Context(), node, "nft 'add table inet others; add chain inet others c { type filter hook forward priority 0; };"+
			" add rule inet others c udp dport 7000 limit rate 500/second drop'"))
	}
	for _, f := range s.traffic.flows {
		if !f.denied && f.manner == datagrams {
			s.traffic.until(t, f.name+": nothing was lost that was dropped", func() bool { return f.lost.Load() > 0 })
		}
	}
	fatal(t, control.end())
	complaints := s.traffic.verdict(control)
	t.Log(complaints)
	if len(complaints) != 2 || !strings.Contains(complaints[0], "came through") || !strings.Contains(complaints[1], "were lost") {
		t.Errorf("all that was said is %q", complaints)
	}
}
