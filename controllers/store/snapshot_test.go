package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// remembering makes a snapshot of a store, which may be gone.
func remembering(t testing.TB, s *Bolt) *Snapshot {
	return RememberIn(filepath.Join(t.TempDir(), "state", "snapshot.db"), s)
}

// once reads a watch to a Synced that is not only remembered, and ends it: what was told is in the file then.
func (s *Snapshot) once(t testing.TB) *told {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	w := &told{t: t, objects: map[v3.Ref]client.Object{}, corrupt: map[v3.Ref]error{}}
	for e, err := range s.Watch(ctx) {
		switch {
		case err != nil:
			w.errs = append(w.errs, err)
		case e.Type == Put:
			w.objects[e.Ref] = e.Object
		case e.Type == Deleted:
			delete(w.objects, e.Ref)
		case !e.Remembered:
			w.last = e
			return w
		}
	}
	t.Fatal("the watch ended")
	return nil
}

// A node that begins without its API server is told what it was told last; and then, when there is one, what has changed since.
func TestSnapshotTellsWhatItRemembers(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	for _, name := range []string{"stays", "goes", "changes"} {
		_, err := s.Put(ctx, set(name))
		must(t, err)
	}
	snap := remembering(t, s)
	snap.once(t)
	away := s.path + ".away"
	must(t, os.Rename(s.path, away))

	w := telling(t, snap)
	for w.step("what is remembered").Type != Synced {
	}
	if !w.last.Remembered || !w.has("stays") || !w.has("goes") || !w.has("changes") || len(w.errs) > 0 {
		t.Fatalf("told %v, %+v, %v", w.objects, w.last, w.errs)
	}
	if err := w.error(); !errors.Is(err, ErrNoStore) {
		t.Errorf("the store is away, and told is %v", err)
	}
	back := OpenBolt(away)
	must(t, back.Delete(ctx, set("goes")))
	_, err := back.Put(ctx, set("changes", "10.0.0.0/8"))
	must(t, err)
	_, err = back.Put(ctx, set("comes"))
	must(t, err)
	must(t, os.Rename(away, s.path))
	w.until("what there is", func() bool { return w.has("comes") })
	if w.last.Remembered || !w.last.Anew || w.has("goes") || !w.has("stays") || len(w.objects[setRef("changes")].(*v3.GlobalNetworkSet).Spec.Nets) != 1 {
		t.Errorf("told %v, %+v", w.objects, w.last)
	}
}

// What policy asks of an object is remembered as it was told, unadmitted; the status of ours is not, and what is not decided from is not either.
func TestSnapshotKeepsWhatPolicyAsks(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	_, err := s.Put(ctx, set("s"))
	must(t, err)
	snap := remembering(t, s)
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p", UID: types.UID("u"), ResourceVersion: "77"},
		Spec:   corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 80}}}}},
		Status: corev1.PodStatus{PodIP: "10.0.0.1"}}
	told := set("s")
	told.Status.Conditions = []metav1.Condition{{Type: "Accepted"}}
	told.ResourceVersion = "78"
	m := scribe{Snapshot: snap, pending: map[v3.Ref]Event{
		setRef("s"):                {Type: Put, Ref: setRef("s"), Object: told},
		v3.RefOf(pod):              {Type: Put, Ref: v3.RefOf(pod), Object: pod},
		setRef("bad"):              {Type: Put, Ref: setRef("bad"), Object: set("bad"), Corrupt: errors.New("no")},
		{Kind: "Tier", Name: "no"}: {Type: Deleted, Ref: v3.Ref{Kind: "Tier", Name: "no"}},
	}, whole: true}
	must(t, snap.Keep(map[string]string{"eth0": "10.0.0.9"}))
	must(t, m.save())
	tiers, err := snap.file.List(ctx, "Tier", "")
	must(t, err)
	if len(tiers) != 0 {
		t.Errorf("nobody told of tiers, and there are %v", tiers)
	}
	got, err := snap.file.Get(ctx, v3.RefOf(pod))
	must(t, err)
	if p := got.(*corev1.Pod); p.ResourceVersion != "77" || p.UID != "u" || p.Status.PodIP != "10.0.0.1" || p.Spec.Containers[0].Ports[0].Name != "web" {
		t.Errorf("remembered is %+v", p)
	}
	sets, err := snap.file.List(ctx, "GlobalNetworkSet", "")
	must(t, err)
	if len(sets) != 1 || sets[0].GetResourceVersion() != "78" || len(sets[0].(*v3.GlobalNetworkSet).Status.Conditions) != 0 {
		t.Errorf("remembered is %+v", sets)
	}
	var kept map[string]string
	must(t, snap.file.Kept(ctx, &kept))
	if kept["eth0"] != "10.0.0.9" {
		t.Errorf("kept is %v", kept)
	}
	head := func() (r uint64) {
		must(t, snap.file.view(ctx, func(tx *Tx) error { r = tx.revision; return nil }))
		return r
	}
	was := head()
	told.Status.Conditions[0].Reason = "New"
	m.pending = map[v3.Ref]Event{setRef("s"): {Type: Put, Ref: setRef("s"), Object: told}}
	must(t, m.save())
	if now := head(); now != was {
		t.Errorf("for a status alone it is written: %d, %d", was, now)
	}
}

// A damaged file is said, and begun anew: at the start, and while it is written to. What is told of the store does not depend on it.
func TestSnapshotIsDamaged(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	_, err := s.Put(ctx, set("a"))
	must(t, err)
	snap := remembering(t, s)
	damage := func() {
		t.Helper()
		text, err := os.ReadFile(snap.file.path)
		must(t, err)
		for i := range text {
			text[i] ^= 0xff
		}
		must(t, os.WriteFile(snap.file.path, text, 0o600))
	}
	remembers := func(names ...string) {
		t.Helper()
		sets, err := snap.file.List(ctx, "GlobalNetworkSet", "")
		must(t, err)
		var got []string
		for _, s := range sets {
			got = append(got, s.GetName())
		}
		if !slices.Equal(got, names) {
			t.Errorf("remembered is %v, want %v", got, names)
		}
	}
	snap.once(t)
	remembers("a")
	damage()
	w := snap.once(t)
	if len(w.errs) != 1 || !errors.Is(w.errs[0], ErrUnremembered) || !errors.Is(w.errs[0], ErrCorrupt) || !w.has("a") {
		t.Errorf("told %v, %v", w.objects, w.errs)
	}
	remembers("a")

	live := telling(t, snap)
	live.until("what there is", func() bool { return live.last.Type == Synced && !live.last.Remembered })
	damage()
	must(t, s.Delete(ctx, set("a")))
	_, err = s.Put(ctx, set("b"))
	must(t, err)
	if err := live.error(); !errors.Is(err, ErrUnremembered) {
		t.Errorf("told %v", err)
	}
	live.until("what there is, anew", func() bool { return live.last.Anew })
	if live.has("a") || !live.has("b") {
		t.Errorf("told %v", live.objects)
	}
	live.end()
	remembers("b")
}

// Where nothing can be written that is said once, and all is told as ever.
func TestSnapshotCannotBeWritten(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	_, err := s.Put(ctx, set("a"))
	must(t, err)
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	w := telling(t, RememberIn(filepath.Join(file, "snapshot.db"), s))
	if err := w.error(); !errors.Is(err, ErrUnremembered) || !strings.Contains(err.Error(), file) {
		t.Errorf("told %v", err)
	}
	_, err = s.Put(ctx, set("b"))
	must(t, err)
	w.until("the other", func() bool { return w.has("a") && w.has("b") })
}

// Whatever happens in between, and however often the node begins anew: what is remembered is what there was when it ended.
func TestSnapshotRemembersTheLast(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ctx := t.Context()
		s := newStore(t)
		_, err := s.Put(ctx, set("seed"))
		must(t, err)
		snap := remembering(t, s)
		for range rapid.IntRange(1, 3).Draw(rt, "lives") {
			for range rapid.IntRange(0, 5).Draw(rt, "steps") {
				name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name")
				if rapid.Bool().Draw(rt, "delete") {
					if err := s.Delete(ctx, set(name)); err != nil && !errors.Is(err, ErrNotFound) {
						rt.Fatal(err)
					}
				} else if _, err := s.Put(ctx, set(name, fmt.Sprintf("10.%d.0.0/16", rapid.IntRange(0, 3).Draw(rt, "net")))); err != nil {
					rt.Fatal(err)
				}
			}
			snap.once(t)
			want, err := s.List(ctx, "GlobalNetworkSet", "")
			must(t, err)
			got, err := snap.file.List(ctx, "GlobalNetworkSet", "")
			must(t, err)
			if !slices.Equal(versions(want), versions(got)) {
				rt.Fatalf("remembered is %v, there is %v", versions(got), versions(want))
			}
		}
	})
}

// What it costs to remember one change of a cluster of ten thousand pods, to remember all of it, and to recall it.
func BenchmarkSnapshot(b *testing.B) {
	const pods = 10000
	all := map[v3.Ref]Event{}
	for i := range pods {
		p := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("ns-%d", i%100), Name: fmt.Sprintf("pod-%d", i),
			UID: types.UID(fmt.Sprintf("00000000-0000-0000-0000-%012d", i)), ResourceVersion: "1", Labels: map[string]string{"app": fmt.Sprint(i % 200), "pod-template-hash": "0123456789"}},
			Spec: corev1.PodSpec{NodeName: fmt.Sprintf("n%d", i%200), ServiceAccountName: "default"}, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.0.%d.%d", i/250, i%250),
				PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.0.%d.%d", i/250, i%250)}, {IP: fmt.Sprintf("fd00::%d:%d", i/250, i%250)}}}}
		all[v3.RefOf(p)] = Event{Type: Put, Ref: v3.RefOf(p), Object: p}
	}
	snap := remembering(b, newStore(b))
	m := scribe{Snapshot: snap}
	whole := func() {
		m.pending, m.whole = maps.Clone(all), true
		must(b, m.save())
	}
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			must(b, os.RemoveAll(filepath.Dir(snap.file.path)))
			whole()
		}
		info, err := os.Stat(snap.file.path)
		must(b, err)
		b.ReportMetric(float64(info.Size())/(1<<20), "MiB")
	})
	b.Run("one", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			for ref, e := range all {
				p := e.Object.DeepCopyObject().(*corev1.Pod)
				p.Labels["v"] = fmt.Sprint(i)
				m.pending = map[v3.Ref]Event{ref: {Type: Put, Ref: ref, Object: p}}
				break
			}
			must(b, m.save())
		}
	})
	b.Run("recall", func(b *testing.B) {
		for b.Loop() {
			if events, err := snap.recall(b.Context()); err != nil || len(events) != pods+1 {
				b.Fatal(len(events), err)
			}
		}
	})
}
