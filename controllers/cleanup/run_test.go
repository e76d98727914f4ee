package cleanup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tierwall/tierwall/controllers/journal"
	"github.com/tierwall/tierwall/test/kube"
)

var errKilled = errors.New("killed")

// killer ends a run before each step once.
type killer struct{ met map[string]bool }

func (k *killer) before(step string) error {
	if k.met[step] {
		return nil
	}
	k.met[step] = true
	return errKilled
}

// finishNamespaces does what a cluster's controllers would.
func (s *site) finishNamespaces() {
	ctx, stop := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	s.t.Cleanup(func() { stop(); <-done })
	in := s.dynamic.Resource(at("v1", "namespaces"))
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			list, err := in.List(ctx, metav1.ListOptions{})
			if err != nil {
				continue
			}
			for i := range list.Items {
				if u := &list.Items[i]; u.GetDeletionTimestamp() != nil {
					_ = unstructured.SetNestedSlice(u.Object, nil, "spec", "finalizers")
					_, _ = in.Update(ctx, u, metav1.UpdateOptions{}, "finalize") // it may have gone
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
}

// until the run comes to its end, however often it is killed on the way.
func (s *site) until(path, of string, one func(*Journal) error) (kills int) {
	s.t.Helper()
	for {
		j, err := OpenJournal(path, of)
		fatal(s.t, err)
		err = one(j)
		fatal(s.t, j.Close())
		if !errors.Is(err, errKilled) {
			fatal(s.t, err)
			return kills
		}
		kills++
	}
}

// A run that is killed before every step comes to the same end; so does the way back.
func TestKilledAtEveryStep(t *testing.T) {
	c, err := Open(kube.Start(t))
	fatal(t, err)
	s := &site{c, t}
	s.finishNamespaces()
	text, err := os.ReadFile("testdata/calico.yaml")
	fatal(t, err)
	s.make(definitions + "---" + strings.NewReplacer("desiredNumberScheduled: 2, numberReady: 1", "desiredNumberScheduled: 0, numberReady: 0", ", example.com/mine", "").Replace(string(text)))
	before := s.find(Options{})
	path := filepath.Join(t.TempDir(), "cleanup.db")
	j, err := OpenJournal(path, "cleanup")
	fatal(t, err)
	if err := c.Begin(j, before, Orders{}); !errors.Is(err, ErrOrphaned) || !strings.Contains(err.Error(), "Installation/default (tigera.io/operator-cleanup)") {
		t.Errorf("with orphaned finalizers: %v", err)
	}
	if named := s.find(Options{Named: []string{"ClusterRole/calico-readers"}}); len(named.Left()) != len(before.Left())+1 {
		t.Errorf("named: %d, not named: %d", len(named.Left()), len(before.Left()))
	}
	running := &Inventory{Things: append([]Thing{{Kind: "DaemonSet", Name: "calico-node", Running: "1 of 1 ready"}}, before.Things...)}
	if err := c.Begin(j, running, Orders{ForceFinalizers: true}); !errors.Is(err, ErrRunning) {
		t.Errorf("while Calico runs: %v", err)
	}
	fatal(t, c.Begin(j, before, Orders{ForceFinalizers: true}))
	if _, err := OpenJournal(path, "cleanup"); !errors.Is(err, journal.ErrBusy) {
		t.Errorf("two at once: %v", err)
	}
	fatal(t, j.Close())

	k := &killer{map[string]bool{}}
	c.fault = k.before
	var said []string
	say := func(text string) { said = append(said, text) }
	kills := s.until(path, "cleanup", func(j *Journal) error { return c.Continue(t.Context(), j, say) })
	c.fault = nil
	after := s.find(Options{})
	if left := after.Left(); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
	if len(said) != len(before.Left()) {
		t.Errorf("%d objects, said %d times:\n%s", len(before.Left()), len(said), strings.Join(said, "\n"))
	}
	t.Logf("%d objects removed, killed %d times", len(before.Left()), kills)
	for _, name := range []string{"reads-calico", "calico-readers"} {
		if _, err := c.dynamic.Resource(at("rbac.authorization.k8s.io/v1", "clusterroles")).Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			t.Errorf("what is not Calico's: %v", err)
		}
	}

	*k = killer{map[string]bool{}}
	c.fault = k.before
	kills = s.until(path, "cleanup", func(j *Journal) error { return c.Restore(t.Context(), j, say) })
	c.fault = nil
	t.Logf("restored, killed %d times", kills)
	plain := func(i *Inventory) string { // what was being deleted is made again, and nobody deletes it
		return strings.ReplaceAll(i.shown(), " [terminating]", "")
	}
	if diff := cmp.Diff(plain(before), plain(s.find(Options{}))); diff != "" {
		t.Error(diff)
	}
}

// What a controller that still runs has to take away is waited for, and not taken away; what was made anew is not what was planned.
func TestRunStops(t *testing.T) {
	c, err := Open(kube.Start(t))
	fatal(t, err)
	s := &site{c, t}
	c.patience = 300 * time.Millisecond
	s.make(definitions + `---
apiVersion: crd.projectcalico.org/v1
kind: Tier
metadata: {name: others, finalizers: [example.com/mine]}
`)
	path := filepath.Join(t.TempDir(), "cleanup.db")
	j, err := OpenJournal(path, "cleanup")
	fatal(t, err)
	defer j.Close()
	fatal(t, c.Begin(j, s.find(Options{}), Orders{ForceFinalizers: true}))
	tiers := c.dynamic.Resource(at("crd.projectcalico.org/v1", "tiers"))
	if err := c.Continue(t.Context(), j, func(string) {}); err == nil || !strings.Contains(err.Error(), "example.com/mine") {
		t.Errorf("another's finalizer: %v", err)
	}
	u, err := tiers.Get(t.Context(), "others", metav1.GetOptions{})
	fatal(t, err)
	if fmt.Sprint(u.GetFinalizers()) != "[example.com/mine]" {
		t.Errorf("another's finalizer has become %v", u.GetFinalizers())
	}
	if err := c.Begin(j, s.find(Options{}), Orders{}); !errors.Is(err, journal.ErrOther) {
		t.Errorf("a run that has not ended was forgotten: %v", err)
	}
	u.SetFinalizers(nil)
	_, err = tiers.Update(t.Context(), u, metav1.UpdateOptions{})
	fatal(t, err)
	s.make("apiVersion: crd.projectcalico.org/v1\nkind: Tier\nmetadata: {name: others}\n")
	if err := c.Continue(t.Context(), j, func(string) {}); err == nil || !strings.Contains(err.Error(), "made anew") {
		t.Errorf("made anew: %v", err)
	}
	fatal(t, tiers.Delete(t.Context(), "others", metav1.DeleteOptions{}))
	c.patience = time.Minute
	fatal(t, c.Continue(t.Context(), j, func(string) {}))
	if left := s.find(Options{}).Left(); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}
