package store

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// nets of all sets, and what of them is on trial.
func nets(t *testing.T, s Store) string {
	t.Helper()
	objs, err := s.List(t.Context(), "GlobalNetworkSet", "")
	must(t, err)
	var out []string
	for _, o := range objs {
		g := o.(*v3.GlobalNetworkSet)
		text := fmt.Sprintf("%s%v%v", g.Name, g.Labels, g.Spec.Nets)
		if on, err := TrialOf(o); err != nil {
			t.Fatal(err)
		} else if on != nil {
			text += "?"
		} else if len(g.Annotations) > 0 {
			text += fmt.Sprint(g.Annotations)
		}
		out = append(out, text)
	}
	return strings.ReplaceAll(strings.Join(out, " "), "map[]", "")
}

// try does all that a change can: a is changed, b deleted, c is as it was, and d is new.
func try(t *testing.T, s Store, trial *Trial) map[v3.Ref]client.Object {
	t.Helper()
	var w *Trier
	_, err := s.Transact(t.Context(), func(tx Writer) error {
		w = OnTrial(tx, trial)
		a, c := set("a", "10.9.0.0/16"), set("c", "10.3.0.0/16")
		a.Annotations, c.Labels = map[string]string{"why": "new"}, map[string]string{"x": "y"}
		_, err1 := w.Update(a)
		err2 := w.Delete(setRef("b"))
		_, err3 := w.Update(c)
		_, err4 := w.Create(set("d", "10.4.0.0/16"))
		return errors.Join(err1, err2, err3, err4)
	})
	must(t, err)
	return w.Changed
}

func begin4(t *testing.T, s Store) {
	t.Helper()
	for i, name := range []string{"a", "b", "c"} {
		o := set(name, fmt.Sprintf("10.%d.0.0/16", i+1))
		o.Labels = map[string]string{"x": "y"}
		_, err := s.Put(t.Context(), o)
		must(t, err)
	}
}

const (
	before = "amap[x:y][10.1.0.0/16] bmap[x:y][10.2.0.0/16] cmap[x:y][10.3.0.0/16]"
	meant  = "a[10.9.0.0/16]? bmap[x:y][10.2.0.0/16]? cmap[x:y][10.3.0.0/16] d[10.4.0.0/16]?"
	after4 = "a[10.9.0.0/16]map[why:new] cmap[x:y][10.3.0.0/16] d[10.4.0.0/16]"
)

func all(v3.Ref, *Trial) bool { return true }

// What is changed on trial is kept, or put back as it was; what a change leaves as it is, is on none. Meanwhile nobody else changes it.
func TestTrials(t *testing.T) {
	onEach(t, func(t *testing.T, s Store) {
		for keep, want := range map[bool]string{true: after4, false: before} {
			begin4(t, s)
			trial := NewTrial("me", time.Minute)
			changed := try(t, s, trial)
			if got := nets(t, s); got != meant {
				t.Fatalf("on trial: %s\nwant:     %s", got, meant)
			}
			there, err := OnTrialIn(t.Context(), s)
			must(t, err)
			if len(there) != 3 || len(changed) != 3 {
				t.Errorf("on trial are %d, changed %d", len(there), len(changed))
			}
			for what, f := range map[string]func(Writer) error{
				"update": func(w Writer) error { _, err := w.Update(set("a", "1.0.0.0/8")); return err },
				"delete": func(w Writer) error { return w.Delete(setRef("b")) },
				"create": func(w Writer) error { _, err := w.Create(set("b")); return err },
			} {
				for _, again := range []*Trial{nil, NewTrial("you", time.Minute)} {
					_, err := s.Transact(t.Context(), func(tx Writer) error { return f(OnTrial(tx, again)) })
					if !errors.Is(err, ErrOnTrial) || !strings.Contains(err.Error(), "change "+trial.ID+", by me, until") {
						t.Errorf("%s while it is on trial: %v", what, err)
					}
				}
			}
			refs := slices.Collect(maps.Keys(changed))
			none, err := Settle(t.Context(), s, refs, keep, func(v3.Ref, *Trial) bool { return false })
			must(t, err)
			done, err := Settle(t.Context(), s, refs, keep, func(_ v3.Ref, is *Trial) bool { return is.ID == trial.ID })
			must(t, err)
			if len(none) != 0 || len(done) != 3 {
				t.Errorf("ended: %d, then %d", len(none), len(done))
			}
			if got := nets(t, s); got != want {
				t.Errorf("keep %v: %s\nwant:       %s", keep, got, want)
			}
			again, err := Settle(t.Context(), s, refs, !keep, all)
			must(t, err)
			if len(again) != 0 || nets(t, s) != want {
				t.Error("it ended twice")
			}
			for _, name := range []string{"a", "b", "c", "d"} {
				if err := s.Delete(t.Context(), set(name)); err != nil && !errors.Is(err, ErrNotFound) {
					t.Fatal(err)
				}
			}
		}
	})
}

// What somebody has changed since, past us, stays; so does a tier that somebody has put a policy in.
func TestTrialsOfWhatOthersChange(t *testing.T) {
	onEach(t, func(t *testing.T, s Store) {
		begin4(t, s)
		for _, b := range BuiltInTiers() {
			_, err := s.Put(t.Context(), b)
			must(t, err)
		}
		changed := try(t, s, NewTrial("me", time.Minute))
		_, err := s.Transact(t.Context(), func(tx Writer) error {
			w := OnTrial(tx, NewTrial("me", time.Minute))
			_, err := w.Create(&v3.Tier{TypeMeta: metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "Tier"}, ObjectMeta: metav1.ObjectMeta{Name: "sec"}})
			return err
		})
		must(t, err)
		a, err := s.Get(t.Context(), setRef("a"))
		must(t, err)
		a.(*v3.GlobalNetworkSet).Spec.Nets = []string{"10.8.0.0/16"} // as kubectl does, which keeps annotations
		_, err = s.Put(t.Context(), a)
		must(t, err)
		_, err = s.Put(t.Context(), policyIn("sec", "sec.p"))
		must(t, err)
		tier := v3.Ref{Kind: "Tier", Name: "sec"}
		done, err := Settle(t.Context(), s, append(slices.Collect(maps.Keys(changed)), tier), false, all)
		must(t, err)
		stays := map[v3.Ref]string{}
		for _, d := range done {
			stays[v3.RefOf(d.Object.(v3.Object))] = d.Stays
		}
		if len(done) != 4 || stays[setRef("a")] != "somebody has changed it since" || !strings.Contains(stays[tier], "the tier is not empty") || stays[setRef("b")]+stays[setRef("d")] != "" {
			t.Errorf("%v", stays)
		}
		if got, want := nets(t, s), "a[10.8.0.0/16]map[why:new] bmap[x:y][10.2.0.0/16] cmap[x:y][10.3.0.0/16]"; got != want {
			t.Errorf("%s\nwant: %s", got, want)
		}
		o, err := s.Get(t.Context(), tier)
		must(t, err)
		if on, _ := TrialOf(o); on != nil {
			t.Error("the tier is on trial still")
		}
	})
}

// What is applied by the server goes on trial as well, in one write.
func TestTrialsOfServerSideApply(t *testing.T) {
	onEach(t, func(t *testing.T, s Store) {
		begin4(t, s)
		trial := NewTrial("me", time.Minute)
		var w *Trier
		_, err := s.Transact(t.Context(), func(tx Writer) error {
			w = OnTrial(tx, trial)
			for _, o := range []*v3.GlobalNetworkSet{set("a", "10.9.0.0/16"), set("d", "10.4.0.0/16")} {
				u, err := toUnstructured(o)
				must(t, err)
				if _, err := w.Apply(u, ApplyOptions{Manager: "me", Force: true}); err != nil {
					return err
				}
			}
			return nil
		})
		must(t, err)
		if got, want := nets(t, s), "amap[x:y][10.9.0.0/16]? bmap[x:y][10.2.0.0/16] cmap[x:y][10.3.0.0/16] d[10.4.0.0/16]?"; got != want {
			t.Fatalf("on trial: %s\nwant:     %s", got, want)
		}
		_, err = s.Transact(t.Context(), func(tx Writer) error {
			u, err := toUnstructured(set("a"))
			must(t, err)
			_, err = OnTrial(tx, nil).Apply(u, ApplyOptions{Manager: "you", Force: true})
			return err
		})
		if !errors.Is(err, ErrOnTrial) {
			t.Errorf("applied once more: %v", err)
		}
		_, err = Settle(t.Context(), s, slices.Collect(maps.Keys(w.Changed)), false, all)
		must(t, err)
		if got := nets(t, s); got != before {
			t.Errorf("put back: %s\nwant:     %s", got, before)
		}
	})
}

// What cannot be put back is not tried, and who offers an old trial with an object begins none.
func TestTrialsAreRefused(t *testing.T) {
	s := OpenBolt(t.TempDir() + "/store.db")
	do := func(trial *Trial, f func(Writer) error) error {
		_, err := s.Transact(t.Context(), func(tx Writer) error { return f(OnTrial(tx, trial)) })
		return err
	}
	must(t, do(nil, func(w Writer) error {
		o := policyIn("default", "p")
		o.SetAnnotations(map[string]string{TrialAnnotation: `{"id":"old","until":"2020-01-01T00:00:00Z","within":"1m0s"}`})
		_, err := w.Create(o)
		return err
	}))
	if there, err := OnTrialIn(t.Context(), s); err != nil || len(there) != 0 {
		t.Errorf("%v is on trial, %v", there, err)
	}
	if err := do(NewTrial("me", time.Minute), func(w Writer) error { _, err := w.Update(policyIn("kube-admin", "p")); return err }); !errors.Is(err, ErrInvalid) {
		t.Errorf("another tier: %v", err)
	}
	if err := do(NewTrial("me", time.Minute), func(w Writer) error {
		_, err := w.Create(namespace("n"))
		return err
	}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a namespace: %v", err)
	}
	if err := do(NewTrial("me", time.Minute), func(w Writer) error { return w.Delete(v3.Ref{Kind: "Tier", Name: "default"}) }); !errors.Is(err, ErrForbidden) {
		t.Errorf("the default tier: %v", err)
	}
}

// Whichever clock says so first ends a trial; and what an annotation claims that an object was before is judged as all that is written, and not believed of another tier.
func TestTrialOf(t *testing.T) {
	on := &Trial{Until: time.Unix(1000, 0), Within: "1m0s"}
	if due := on.Due(time.Unix(900, 0)); due.Unix() != 960 {
		t.Errorf("by the own clock: %v", due)
	}
	if due := on.Due(time.Unix(990, 0)); due.Unix() != 1000 {
		t.Errorf("by the other's: %v", due)
	}
	o := set("a")
	for _, text := range []string{"nonsense", "{}", `{"within":"soon"}`} {
		o.Annotations = map[string]string{TrialAnnotation: text}
		if on, err := TrialOf(o); err == nil {
			t.Errorf("%s: %v", text, on)
		}
	}
	p := policyIn("default", "p")
	for spec, ok := range map[string]bool{`"tier":"default"`: true, `"tier":"sec"`: false, `"tier":"default","selector":"all("`: false, `"tier":"default","more":1`: false} {
		was, err := (&Trial{Was: []byte(`{"spec":{` + spec + `}}`)}).Before(p)
		if (err == nil) != ok {
			t.Errorf("before with %s: %v, %v", spec, was, err)
		}
	}
}
