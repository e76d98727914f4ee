package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/test/kube"
)

// cluster is one API server for all tests of this package that need no other.
var cluster struct {
	sync.Once
	store *Kube
	stop  func() error
	err   error
}

func stopCluster() {
	if cluster.stop != nil {
		_ = cluster.stop() // what a test has not said, it does not say either
	}
}

func kubeStore(t testing.TB) *Kube {
	t.Helper()
	cluster.Do(func() {
		config, stop, err := kube.Serve()
		if cluster.err = err; err != nil {
			return
		}
		cluster.stop = stop
		cluster.store, cluster.err = OpenKube(config)
	})
	must(t, cluster.err)
	s := cluster.store.Following(func(k *Kind) bool { return k.Calico() })
	t.Cleanup(func() { empty(t, s) })
	return s
}

// empty deletes what a test may have left, and the built-in tiers with it.
func empty(t testing.TB, s *Kube) {
	for _, k := range s.kinds {
		objs, err := s.List(context.Background(), k.Kind, "")
		must(t, err)
		for _, o := range objs {
			must(t, s.Delete(context.Background(), withoutVersion(o)))
		}
	}
}

func withoutVersion(o client.Object) client.Object {
	o = o.DeepCopyObject().(client.Object)
	o.SetResourceVersion("")
	return o
}

// onEach runs a test on each kind of store.
func onEach(t *testing.T, test func(t *testing.T, s Store)) {
	t.Run("bolt", func(t *testing.T) { test(t, OpenBolt(filepath.Join(t.TempDir(), "store.db"))) })
	t.Run("kube", func(t *testing.T) { test(t, kubeStore(t)) })
	t.Run("snapshot", func(t *testing.T) { test(t, remembering(t, OpenBolt(filepath.Join(t.TempDir(), "store.db")))) })
}

func set(name string, nets ...string) *v3.GlobalNetworkSet {
	return &v3.GlobalNetworkSet{TypeMeta: metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "GlobalNetworkSet"},
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v3.NetworkSetSpec{Nets: nets}}
}

func setRef(name string) v3.Ref { return v3.Ref{Kind: "GlobalNetworkSet", Name: name} }

func TestStoresKeepObjects(t *testing.T) {
	onEach(t, func(t *testing.T, s Store) {
		ctx := t.Context()
		first, err := s.Put(ctx, set("a", "10.0.0.0/8"))
		must(t, err)
		if first.GetUID() == "" || first.GetResourceVersion() == "" || first.GetGeneration() != 1 || first.GetCreationTimestamp().Time.IsZero() {
			t.Errorf("what the store adds is missing: %+v", first)
		}
		same, err := s.Put(ctx, set("a", "10.0.0.0/8"))
		must(t, err)
		if same.GetResourceVersion() != first.GetResourceVersion() {
			t.Error("nothing changed, and the resourceVersion did")
		}
		labelled := set("a", "10.0.0.0/8")
		labelled.Labels = map[string]string{"x": "y"}
		changed, err := s.Put(ctx, labelled)
		must(t, err)
		if changed.GetResourceVersion() == first.GetResourceVersion() || changed.GetUID() != first.GetUID() || changed.GetGeneration() != 1 {
			t.Errorf("changed: %+v, was %+v", changed, first)
		}
		if _, err := s.Put(ctx, first); !errors.Is(err, ErrConflict) {
			t.Errorf("put with a stale resourceVersion: %v", err)
		}
		if err := s.Delete(ctx, first); !errors.Is(err, ErrConflict) {
			t.Errorf("deleted with a stale resourceVersion: %v", err)
		}
		other, err := s.Put(ctx, set("a", "10.1.0.0/16"))
		must(t, err)
		if other.GetGeneration() != 2 || other.GetLabels()["x"] != "" {
			t.Errorf("another spec without a label: %+v", other)
		}
		got, err := s.Get(ctx, setRef("a"))
		must(t, err)
		if got.(*v3.GlobalNetworkSet).Spec.Nets[0] != "10.1.0.0/16" || v3.RefOf(got.(v3.Object)) != setRef("a") {
			t.Errorf("got %+v", got)
		}
		_, err = s.Put(ctx, set("b"))
		must(t, err)
		all, err := s.List(ctx, "GlobalNetworkSet", "")
		must(t, err)
		if len(all) != 2 || all[0].GetName() != "a" || all[1].GetName() != "b" {
			t.Errorf("listed %v", all)
		}
		must(t, s.Delete(ctx, other))
		if _, err := s.Get(ctx, setRef("a")); !errors.Is(err, ErrNotFound) {
			t.Errorf("deleted, and: %v", err)
		}
		if err := s.Delete(ctx, set("a")); !errors.Is(err, ErrNotFound) {
			t.Errorf("deleted twice: %v", err)
		}
		if _, err := s.Put(ctx, set("c", "no net")); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "spec.nets[0]") {
			t.Errorf("no network: %v", err)
		}
	})
}

func tier(name string) *v3.Tier {
	order, deny := 10.0, v3.Deny
	return &v3.Tier{TypeMeta: metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "Tier"}, ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v3.TierSpec{Order: &order, DefaultAction: &deny}}
}

func policyIn(tier, name string) *v3.GlobalNetworkPolicy {
	return &v3.GlobalNetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "GlobalNetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v3.GlobalNetworkPolicySpec{PolicySpec: v3.PolicySpec{Tier: tier, Selector: "all()"}}}
}

func TestStoresTransact(t *testing.T) {
	onEach(t, func(t *testing.T, s Store) {
		ctx := t.Context()
		_, err := s.Put(ctx, set("seed"))
		must(t, err)
		write := func(f func(Writer) error) error {
			_, err := s.Transact(ctx, f)
			return err
		}
		create := func(objs ...client.Object) error {
			return write(func(w Writer) error {
				for _, o := range objs {
					if _, err := w.Create(withoutVersion(o)); err != nil {
						return err
					}
				}
				return nil
			})
		}
		for what, c := range map[string]struct {
			err, want error
		}{
			"the second is not valid":           {create(set("a"), set("b", "no net")), ErrInvalid},
			"the second's tier does not exist":  {create(set("a"), policyIn("none", "p")), ErrInvalid},
			"the policy's tier comes after it":  {create(policyIn("late", "p"), tier("late")), ErrInvalid},
			"a dry run":                         {write(func(w Writer) error { _, err := w.Create(set("a")); return errors.Join(err, errDry) }), errDry},
			"what does not exist is to be gone": {write(func(w Writer) error { _, err := w.Create(set("a")); return errors.Join(err, w.Delete(setRef("z"))) }), ErrNotFound},
		} {
			if !errors.Is(c.err, c.want) {
				t.Errorf("%s: %v", what, c.err)
			}
		}
		if all, err := s.List(ctx, "GlobalNetworkSet", ""); err != nil || len(all) != 1 {
			t.Errorf("left of what failed: %v, %v", all, err)
		}
		must(t, create(tier("blue"), policyIn("blue", "p"))) // the tier comes in the same transaction
		if err := create(tier("blue")); !errors.Is(err, ErrExists) {
			t.Errorf("created twice: %v", err)
		}
		tierRef, policyRef := v3.Ref{Kind: "Tier", Name: "blue"}, v3.Ref{Kind: "GlobalNetworkPolicy", Name: "p"}
		if err := write(func(w Writer) error { return w.Delete(tierRef) }); !errors.Is(err, ErrForbidden) || !strings.Contains(err.Error(), policyRef.String()) {
			t.Errorf("a tier with a policy: %v", err)
		}
		if err := write(func(w Writer) error { return w.Delete(v3.Ref{Kind: "Tier", Name: "default"}) }); !errors.Is(err, ErrForbidden) && !errors.Is(err, ErrNotFound) {
			t.Errorf("a built-in tier: %v", err)
		}
		must(t, write(func(w Writer) error { return errors.Join(w.Delete(policyRef), w.Delete(tierRef)) }))
		must(t, write(func(w Writer) error { // made and gone again in one
			_, err := w.Create(set("brief"))
			return errors.Join(err, w.Delete(setRef("brief")))
		}))
		if err := write(func(w Writer) error { _, err := w.Update(policyIn("blue", "p")); return err }); !errors.Is(err, ErrNotFound) {
			t.Errorf("an update of what is not there: %v", err)
		}
	})
}

var errDry = errors.New("dry run")

func TestStoresKeepStatusApart(t *testing.T) {
	onEach(t, func(t *testing.T, s Store) {
		ctx := t.Context()
		fromFile := set("a", "10.0.0.0/8")
		fromFile.Status.Conditions = []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionTrue, Reason: "Me", LastTransitionTime: metav1.Now()}}
		stored, err := s.Put(ctx, fromFile)
		must(t, err)
		if n := len(stored.(*v3.GlobalNetworkSet).Status.Conditions); n != 0 {
			t.Error("the status of a file was taken over")
		}
		said := stored.DeepCopyObject().(*v3.GlobalNetworkSet)
		said.Spec.Nets = nil
		said.Status.Conditions = []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionFalse, Reason: "Us", LastTransitionTime: metav1.Now()}}
		gone := said.DeepCopy()
		gone.Name = "gone"
		must(t, s.PutStatus(ctx, said))
		if err := s.PutStatus(ctx, gone, said); !errors.Is(err, ErrNotFound) || !errors.Is(err, ErrConflict) {
			t.Errorf("one is gone, one was changed meanwhile: %v", err)
		}
		got, err := s.Get(ctx, setRef("a"))
		must(t, err)
		now := got.(*v3.GlobalNetworkSet)
		if len(now.Status.Conditions) != 1 || now.Status.Conditions[0].Reason != "Us" || len(now.Spec.Nets) != 1 || now.Generation != 1 {
			t.Errorf("after the status was put: %+v", now)
		}
		again, err := s.Put(ctx, set("a", "10.0.0.0/8"))
		must(t, err)
		if len(again.(*v3.GlobalNetworkSet).Status.Conditions) != 1 {
			t.Error("applying it again has taken the status away")
		}
	})
}

// fragment is a part of an object as somebody writes it for a server-side apply.
func fragment(name, labels, spec string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	text := fmt.Sprintf(`{"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": %q, "labels": {%s}}, "spec": {%s}}`, name, labels, spec)
	if err := utiljson.Unmarshal([]byte(text), &u.Object); err != nil {
		panic(err)
	}
	return u
}

// Server-side apply: whose a field is, who may change it, and what goes when nobody says it any more.
func TestStoresApplyFields(t *testing.T) {
	onEach(t, func(t *testing.T, s Store) {
		ctx := t.Context()
		apply := func(manager string, force bool, u *unstructured.Unstructured) (out *v3.GlobalNetworkPolicy, err error) {
			_, err = s.Transact(ctx, func(w Writer) error {
				o, err := w.Apply(u, ApplyOptions{Manager: manager, Force: force})
				if err == nil {
					out = o.(*v3.GlobalNetworkPolicy)
				}
				return err
			})
			return out, err
		}
		is := func(what string, p *v3.GlobalNetworkPolicy, err error, order float64, selector, labels string) {
			t.Helper()
			must(t, err)
			delete(p.Labels, "projectcalico.org/tier")
			if p.Spec.Order == nil && order != 0 || p.Spec.Order != nil && *p.Spec.Order != order || p.Spec.Selector != selector || fmt.Sprint(p.Labels) != labels {
				t.Errorf("%s: %+v %v", what, p.Spec, p.Labels)
			}
		}
		first, err := apply("ann", false, fragment("p", `"a": "1"`, `"order": 1, "selector": "all()"`))
		is("created", first, err, 1, "all()", "map[a:1]")
		if first.UID == "" || first.Generation != 1 {
			t.Errorf("what the store adds is missing: %+v", first.ObjectMeta)
		}
		again, err := apply("ann", false, fragment("p", `"a": "1"`, `"order": 1, "selector": "all()"`))
		must(t, err)
		if again.ResourceVersion != first.ResourceVersion {
			t.Error("nothing changed, and the resourceVersion did")
		}
		other, err := apply("bob", false, fragment("p", `"b": "2"`, `"order": 1`))
		is("what others say stays", other, err, 1, "all()", "map[a:1 b:2]")
		_, err = apply("bob", false, fragment("p", `"b": "2"`, `"order": 1, "selector": "!all()"`))
		if !errors.Is(err, ErrOwned) || errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), `spec.selector: Forbidden: managed by "ann"`) {
			t.Errorf("another's field: %v", err)
		}
		_, err = apply("ann", false, fragment("p", `"a": "1"`, `"order": 2, "selector": "all()"`))
		if !errors.Is(err, ErrOwned) || !strings.Contains(err.Error(), `spec.order: Forbidden: managed by "bob"`) {
			t.Errorf("a field of both: %v", err)
		}
		less, err := apply("ann", false, fragment("p", "", `"selector": "all()"`))
		is("what one of two does not say any more stays", less, err, 1, "all()", "map[b:2]")
		less, err = apply("bob", false, fragment("p", "", `"selector": "all()"`))
		is("what nobody says any more goes", less, err, 0, "all()", "map[]")
		forced, err := apply("eve", true, fragment("p", "", `"selector": "!all()"`))
		is("by force", forced, err, 0, "!all()", "map[]")
		if forced.Generation != 3 {
			t.Errorf("generation %d, not 3: created, without order, another selector", forced.Generation)
		}
		// a plain write owns what it changes
		plain := forced.DeepCopy()
		plain.Spec.Selector = "app == 'x'"
		_, err = s.Put(ctx, plain)
		must(t, err)
		_, err = apply("eve", false, fragment("p", "", `"selector": "!all()"`))
		if !errors.Is(err, ErrOwned) || !strings.Contains(err.Error(), `managed by "tierctl" using`) {
			t.Errorf("what a plain write changed: %v", err)
		}
		mine, err := apply("tierctl", false, fragment("p", "", `"selector": "!all()"`))
		is("the plain writer's own", mine, err, 0, "!all()", "map[]")
		_, err = apply("ann", false, fragment("q", "", `"selector": "nonsense("`))
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("not a selector: %v", err)
		}
		_, err = apply("ann", false, fragment("q", "", `"tier": "none"`))
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("no such tier: %v", err)
		}
		stale := fragment("p", "", `"selector": "!all()"`)
		stale.SetResourceVersion(first.ResourceVersion)
		if _, err = apply("ann", true, stale); !errors.Is(err, ErrConflict) {
			t.Errorf("a stale resourceVersion: %v", err)
		}
		if _, err := s.Get(ctx, v3.Ref{Kind: "GlobalNetworkPolicy", Name: "q"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("refused, and: %v", err)
		}
		_, err = s.Transact(ctx, func(w Writer) error { // all or nothing
			_, err := w.Apply(fragment("r", "", `"selector": "all()"`), ApplyOptions{Manager: "ann"})
			return errors.Join(err, errDry)
		})
		if _, errGet := s.Get(ctx, v3.Ref{Kind: "GlobalNetworkPolicy", Name: "r"}); !errors.Is(err, errDry) || !errors.Is(errGet, ErrNotFound) {
			t.Errorf("a dry run: %v, %v", err, errGet)
		}
	})
}

// told follows a watch into a map, as an agent does.
type told struct {
	t       testing.TB
	next    func() (Event, error, bool)
	end     func()
	late    *time.Timer
	objects map[v3.Ref]client.Object
	corrupt map[v3.Ref]error
	puts    int
	errs    []error
	last    Event // Synced
}

func telling(t testing.TB, s Store) *told {
	ctx, stop := context.WithCancel(t.Context())
	next, end := iter.Pull2(s.Watch(ctx))
	t.Cleanup(func() { stop(); end() })
	return &told{t: t, next: next, end: func() { stop(); end() }, late: time.AfterFunc(time.Minute, stop),
		objects: map[v3.Ref]client.Object{}, corrupt: map[v3.Ref]error{}}
}

// until reads on until what was told is as it should be, for a minute at most.
func (w *told) until(what string, ok func() bool) {
	w.t.Helper()
	w.late.Reset(time.Minute)
	for !ok() {
		for w.step(what).Type != Synced {
		}
	}
}

func (w *told) step(what string) Event {
	w.t.Helper()
	e, err, more := w.next()
	switch {
	case !more:
		w.t.Fatalf("the watch ended before %s; errors: %v; told: %v", what, w.errs, slices.SortedFunc(maps.Keys(w.objects), v3.Ref.Compare))
	case err != nil:
		w.errs = append(w.errs, err)
		return Event{Type: Deleted}
	case e.Type == Put:
		w.puts++
		w.objects[e.Ref], w.corrupt[e.Ref] = e.Object, e.Corrupt
	case e.Type == Deleted:
		delete(w.objects, e.Ref)
	case e.Type == Synced:
		w.last = e
	}
	return e
}

// error reads on until there is one, for a minute at most.
func (w *told) error() error {
	w.t.Helper()
	w.late.Reset(time.Minute)
	for n := len(w.errs); len(w.errs) == n; {
		w.step("an error")
	}
	return w.errs[len(w.errs)-1]
}

func (w *told) has(name string) bool { return w.objects[setRef(name)] != nil }

func TestStoresTell(t *testing.T) {
	onEach(t, func(t *testing.T, s Store) {
		ctx := t.Context()
		_, err := s.Put(ctx, set("before", "10.0.0.0/8"))
		must(t, err)
		w := telling(t, s)
		for w.step("the first Synced").Type != Synced {
		}
		if !w.has("before") {
			t.Fatal("Synced, and not all was told")
		}
		if w.last.Anew {
			t.Error("the first is not anew")
		}
		put, err := s.Put(ctx, set("after"))
		must(t, err)
		must(t, s.Delete(ctx, set("before")))
		w.until("one more and one less", func() bool { return w.has("after") && !w.has("before") })
		if n := len(w.objects[setRef("after")].GetManagedFields()); n != 0 {
			t.Errorf("who follows a store is told %d managers, and would keep them", n)
		}
		if !older("1", w.last.Revision) || older(w.last.Revision, put.GetResourceVersion()) {
			t.Errorf("revision %q, which is before %q", w.last.Revision, put.GetResourceVersion())
		}
		_, err = s.Put(ctx, set("after", "10.2.0.0/16"))
		must(t, err)
		w.until("the change", func() bool { return len(w.objects[setRef("after")].(*v3.GlobalNetworkSet).Spec.Nets) == 1 })
		other := telling(t, s)
		for other.step("the first Synced").Type != Synced {
		}
		if !other.has("after") || other.has("before") {
			t.Errorf("a watch that began later was told %v", other.objects)
		}
	})
}

// Against a plain map: whatever is written, what a watch was told in the end is what there is.
func TestStoresTellWhatThereIs(t *testing.T) {
	onEach(t, func(t *testing.T, s Store) {
		_, err := s.Put(t.Context(), set("seed"))
		must(t, err)
		w := telling(t, s)
		marks := 0
		rapid.Check(t, func(rt *rapid.T) {
			if marks > 20 { // a request each: this is for the shape of histories, not for their number
				return
			}
			ctx := t.Context()
			for range rapid.IntRange(1, 6).Draw(rt, "steps") {
				name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name")
				if rapid.IntRange(0, 2).Draw(rt, "delete") == 0 {
					if err := s.Delete(ctx, set(name)); err != nil && !errors.Is(err, ErrNotFound) {
						rt.Fatal(err)
					}
				} else if _, err := s.Put(ctx, set(name, fmt.Sprintf("10.%d.0.0/16", rapid.IntRange(0, 3).Draw(rt, "net")))); err != nil {
					rt.Fatal(err)
				}
			}
			marks++
			mark, err := s.Put(ctx, set(fmt.Sprintf("mark-%d", marks)))
			must(t, err)
			list, err := s.List(ctx, "GlobalNetworkSet", "")
			must(t, err)
			w.until("the mark and all before it", func() bool { return w.has(mark.GetName()) && slices.Equal(versions(list), versions(w.sets())) })
		})
	})
}

func (w *told) sets() (out []client.Object) {
	for _, ref := range slices.SortedFunc(maps.Keys(w.objects), v3.Ref.Compare) {
		if ref.Kind == "GlobalNetworkSet" {
			out = append(out, w.objects[ref])
		}
	}
	return out
}

func versions(objs []client.Object) (out []string) {
	for _, o := range objs {
		out = append(out, o.GetName()+" "+o.GetResourceVersion())
	}
	return out
}

// TestMain makes the test binary a writer that is killed in the middle, or one on a disk that is too small, when the environment says so, and
// ends the API server.
func TestMain(m *testing.M) {
	if path := os.Getenv("STORE_TEST_WRITER"); path != "" {
		writeForever(path)
	}
	if dir := os.Getenv("STORE_TEST_DISK"); dir != "" {
		if err := onFullDisk(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	status := m.Run()
	stopCluster()
	os.Exit(status)
}
