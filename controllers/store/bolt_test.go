package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

func newStore(t testing.TB) *Bolt { return OpenBolt(filepath.Join(t.TempDir(), "dir", "store.db")) }

func namespace(name string, labels ...string) *corev1.Namespace {
	n := &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		n.Labels = map[string]string{k: v}
	}
	return n
}

func nsRef(name string) v3.Ref { return v3.Ref{Kind: "Namespace", Name: name} }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPutGetListDelete(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	first, err := s.Put(ctx, namespace("a"))
	must(t, err)
	if first.GetUID() == "" || first.GetResourceVersion() == "" || first.GetGeneration() != 1 || first.GetCreationTimestamp().Time.IsZero() {
		t.Errorf("what the store adds is missing: %+v", first)
	}
	same, err := s.Put(ctx, namespace("a"))
	must(t, err)
	if same.GetResourceVersion() != first.GetResourceVersion() {
		t.Error("nothing changed, and the resourceVersion did")
	}
	changed, err := s.Put(ctx, namespace("a", "x=y"))
	must(t, err)
	if changed.GetResourceVersion() == first.GetResourceVersion() || changed.GetUID() != first.GetUID() || changed.GetGeneration() != 1 {
		t.Errorf("changed: %+v, was %+v", changed, first)
	}
	if _, err := s.Put(ctx, first); !errors.Is(err, ErrConflict) {
		t.Errorf("a stale resourceVersion: %v", err)
	}
	if err := s.Delete(ctx, first); !errors.Is(err, ErrConflict) {
		t.Errorf("a stale resourceVersion: %v", err)
	}
	got, err := s.Get(ctx, nsRef("a"))
	must(t, err)
	if got.GetLabels()["x"] != "y" || got.GetObjectKind().GroupVersionKind().Kind != "Namespace" {
		t.Errorf("got %+v", got)
	}
	must(t, s.Delete(ctx, changed))
	if _, err := s.Get(ctx, nsRef("a")); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted, and: %v", err)
	}
	if err := s.Delete(ctx, namespace("a")); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	info, err := os.Stat(s.path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

// What Admit refuses never lands, and one refused object takes its whole transaction with it.
func TestTransactionIsAllOrNothing(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	_, err := s.Put(ctx, namespace("before"))
	must(t, err)
	bad := namespace("Not a name")
	_, err = s.Transact(ctx, func(tx Writer) error {
		if _, err := tx.Create(namespace("a")); err != nil {
			return err
		}
		if _, err := tx.Get(nsRef("a")); err != nil {
			t.Errorf("a transaction does not see its own object: %v", err)
		}
		_, err := tx.Create(bad)
		return err
	})
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "metadata.name") {
		t.Errorf("have %v", err)
	}
	all, err := s.List(ctx, "Namespace", "")
	must(t, err)
	if len(all) != 1 {
		t.Errorf("%d namespaces", len(all))
	}
}

// Against a plain map: whatever is put and deleted, the store has what the map has, and a watch that began at any time has been
// told just that.
func TestStoreAgainstAMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "store-test-")
		must(t, err)
		defer os.RemoveAll(dir)
		s, ctx := OpenBolt(filepath.Join(dir, "s.db")), t.Context()
		_, err = s.Put(ctx, namespace("seed"))
		must(t, err)
		want := map[string]string{"seed": ""}
		w := watch{store: s, told: map[v3.Ref]string{}}
		told := map[string]string{}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			_, err := s.Transact(ctx, func(tx Writer) error {
				for range rapid.IntRange(1, 3).Draw(rt, "operations") {
					name, value := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name"), rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "value")
					_, there := want[name]
					switch {
					case there && rapid.Bool().Draw(rt, "delete"):
						if err := tx.Delete(nsRef(name)); err != nil {
							return err
						}
						delete(want, name)
					case there:
						if _, err := tx.Update(namespace(name, "v="+value)); err != nil {
							return err
						}
						want[name] = value
					default:
						if _, err := tx.Create(namespace(name, "v="+value)); err != nil {
							return err
						}
						want[name] = value
					}
				}
				return nil
			})
			must(t, err)
			if rapid.Bool().Draw(rt, "look") {
				follow(t, &w, told)
				sameNames(rt, want, told)
			}
		}
		follow(t, &w, told)
		sameNames(rt, want, told)
	})
}

func follow(t testing.TB, w *watch, told map[string]string) (anew bool) {
	events, err := w.look(t.Context())
	must(t, err)
	for i, e := range events {
		switch {
		case e.Type == Synced && i != len(events)-1:
			t.Fatal("Synced is not the last")
		case e.Ref.Kind != "Namespace":
		case e.Type == Put:
			told[e.Ref.Name] = e.Object.GetLabels()["v"]
		case e.Type == Deleted:
			delete(told, e.Ref.Name)
		}
	}
	return len(events) > 0 && events[len(events)-1].Anew
}

func sameNames(t *rapid.T, want, have map[string]string) {
	if fmt.Sprint(want) != fmt.Sprint(have) {
		t.Fatalf("told %v, want %v", have, want)
	}
}

// watching pulls a watch's events one at a time, with a bound on each wait.
type watching struct {
	t    *testing.T
	next func() (Event, error, bool)
}

func watchOf(t *testing.T, s *Bolt) *watching {
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	next, end := iter.Pull2(s.Watch(ctx))
	t.Cleanup(func() { end(); stop() })
	return &watching{t, next}
}

// until reads to the next Synced, and gives what was told: +name, -name, or !error.
func (w *watching) until() (out []string) {
	w.t.Helper()
	for {
		e, err, ok := w.next()
		switch {
		case !ok:
			w.t.Fatalf("the watch ended after %v", out)
		case err != nil:
			return append(out, "!"+err.Error())
		case e.Type == Synced:
			slices.Sort(out)
			return out
		case e.Ref.Kind == "Tier":
		case e.Type == Put:
			out = append(out, "+"+e.Ref.Name)
		default:
			out = append(out, "-"+e.Ref.Name)
		}
	}
}

func TestWatchFollowsOtherProcesses(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	w := watchOf(t, s)
	if got := w.until(); len(got) != 1 || !strings.Contains(got[0], "no such store") {
		t.Fatalf("a store that is not there: %v", got)
	}
	expect := func(want ...string) {
		t.Helper()
		if got := w.until(); !slices.Equal(got, want) {
			t.Fatalf("told %v, want %v", got, want)
		}
	}
	other := OpenBolt(s.path) // opens the file for each operation, as another process does
	_, err := other.Put(ctx, namespace("a"))
	must(t, err)
	expect("+a")
	_, err = other.Transact(ctx, func(tx Writer) error {
		for _, n := range []string{"b", "c"} {
			if _, err := tx.Create(namespace(n)); err != nil {
				return err
			}
		}
		return tx.Delete(nsRef("a"))
	})
	must(t, err)
	expect("+b", "+c", "-a")

	// another file in its place is told as the difference
	must(t, os.Remove(s.path))
	if got := w.until(); len(got) != 1 || !strings.Contains(got[0], "no such store") {
		t.Fatalf("the file has gone: %v", got)
	}
	_, err = OpenBolt(s.path+".new").Put(ctx, namespace("c", "x=y"))
	must(t, err)
	must(t, os.Rename(s.path+".new", s.path))
	expect("+c", "-b")

	// a damaged file is said once, and does not end the watch
	good, err := os.ReadFile(s.path)
	must(t, err)
	must(t, os.WriteFile(s.path, []byte("nonsense"), 0o600))
	if got := w.until(); len(got) != 1 || !strings.Contains(got[0], ErrCorrupt.Error()) {
		t.Fatalf("a damaged file: %v", got)
	}
	must(t, os.WriteFile(s.path, good, 0o600))
	_, err = other.Put(ctx, namespace("d"))
	must(t, err)
	for got := w.until(); !slices.Contains(got, "+d"); got = w.until() {
	}
}

// A watch that has fallen behind what the journal remembers is told the difference.
func TestWatchBehindTheJournal(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	_, err := s.Put(ctx, namespace("a"))
	must(t, err)
	w, told := watch{store: s, told: map[v3.Ref]string{}}, map[string]string{}
	follow(t, &w, told)
	_, err = s.Transact(ctx, func(tx Writer) error {
		if err := tx.Delete(nsRef("a")); err != nil {
			return err
		}
		for i := range maxJournal + 10 {
			if _, err := tx.Create(namespace(fmt.Sprintf("n%d", i))); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, err)
	_, err = s.Transact(ctx, func(tx Writer) error {
		for i := range maxJournal {
			if err := tx.Delete(nsRef(fmt.Sprintf("n%d", i))); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, err)
	follow(t, &w, told)
	if _, there := told["a"]; there || len(told) != 10 {
		t.Errorf("told of %d", len(told))
	}
	must(t, s.view(ctx, func(tx *Tx) error {
		if n := tx.journal.Stats().KeyN; n > maxJournal {
			t.Errorf("the journal has %d entries", n)
		}
		return nil
	}))
}

// writeForever puts pairs of namespaces with one value, each pair in one transaction. Between two it lets the file go, for
// bbolt tries only now and then to get it.
func writeForever(path string) {
	go func() { // it ends with the test that began it, however that ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	s := OpenBolt(path)
	for i := 0; ; i++ {
		<-time.After(5 * time.Millisecond)
		_, err := s.Transact(context.Background(), func(tx Writer) error {
			for _, n := range []string{"left", "right"} {
				obj := client.Object(namespace(n, fmt.Sprintf("v=%d", i)))
				if _, err := tx.Get(nsRef(n)); errors.Is(err, ErrNotFound) {
					_, err = tx.Create(obj)
					if err != nil {
						return err
					}
				} else if _, err := tx.Update(obj); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// A writer that is killed at any moment leaves whole transactions.
func TestKilledWriter(t *testing.T) {
	s := newStore(t)
	_, err := s.Put(t.Context(), namespace("seed"))
	must(t, err)
	for i := range 15 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "STORE_TEST_WRITER="+s.path)
		_, err := cmd.StdinPipe()
		must(t, err)
		must(t, cmd.Start())
		ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
		n := 0
		for e, err := range s.Watch(ctx) { // it has written now
			must(t, err)
			if e.Type == Synced {
				if n++; n > 1+i%3 {
					break
				}
			}
		}
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
		stop()
		must(t, s.view(t.Context(), func(tx *Tx) error {
			left, err := tx.Get(nsRef("left"))
			must(t, err)
			right, err := tx.Get(nsRef("right"))
			must(t, err)
			if left.GetLabels()["v"] != right.GetLabels()["v"] || left.GetResourceVersion() != right.GetResourceVersion() {
				t.Errorf("half a transaction: %v and %v", left.GetLabels(), right.GetLabels())
			}
			return nil
		}))
	}
}
