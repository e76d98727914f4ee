package controllers

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// onTrial puts a policy that selects everything on trial, by itself or instead of one that selects nothing.
func onTrial(t *testing.T, s store.Store, name string, trial *store.Trial) store.Event {
	t.Helper()
	_, err := s.Transact(t.Context(), func(tx store.Writer) error {
		w, p := store.OnTrial(tx, trial), globalPolicy(name, "default", "all()")
		_, err := tx.Get(v3.RefOf(p))
		if errors.Is(err, store.ErrNotFound) {
			_, err = w.Create(p)
		} else if err == nil {
			_, err = w.Update(p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return told(t, s, name)
}

func told(t *testing.T, s store.Store, name string) store.Event {
	t.Helper()
	ref := v3.Ref{Kind: "GlobalNetworkPolicy", Name: name}
	o, err := s.Get(t.Context(), ref)
	if errors.Is(err, store.ErrNotFound) {
		return store.Event{Type: store.Deleted, Ref: ref}
	}
	if err != nil {
		t.Fatal(err)
	}
	return store.Event{Type: store.Put, Ref: ref, Object: o}
}

// selected is what a policy that is followed selects; "none" when there is none.
func selected(e store.Event) string {
	if e.Type == store.Deleted {
		return "none"
	}
	return e.Object.(*v3.GlobalNetworkPolicy).Spec.Selector
}

// A trial ends in time by itself, for each who was told of it: with the store or without, by whichever clock says so first. What is told of
// the object meanwhile makes it no longer.
func TestTrialEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.OpenBolt(filepath.Join(t.TempDir(), "store.db"))
		if _, err := s.Put(t.Context(), globalPolicy("old", "default", "app == 'a'")); err != nil {
			t.Fatal(err)
		}
		quiet := slog.New(slog.DiscardHandler)
		begun, all := time.Now(), trials{}
		trial := store.NewTrial("me", time.Minute)
		was := onTrial(t, s, "old", trial)
		for _, e := range []store.Event{was, onTrial(t, s, "new", trial)} {
			if got := selected(all.take(e, quiet)); got != "all()" {
				t.Errorf("%s selects %s on trial", e.Ref, got)
			}
		}
		time.Sleep(30 * time.Second)
		all.take(was, quiet) // its status has changed
		var over []store.Event
		for len(over) == 0 {
			<-all.looks()
			over = all.expired(quiet)
		}
		if took := time.Since(begun).Round(time.Second); took != time.Minute {
			t.Errorf("it took %s", took)
		}
		if len(over) != 2 || selected(over[0]) != "none" || selected(over[1]) != "app == 'a'" {
			t.Errorf("then there is %v", over)
		}
		if got := selected(all.take(was, quiet)); got != "app == 'a'" {
			t.Errorf("told once more, it selects %s", got)
		}
		if all.looks() != nil {
			t.Error("there is nothing to look after any more, for who does not put back")
		}
		next := trials{settle: true}
		if got := selected(next.take(was, quiet)); got != "app == 'a'" {
			t.Errorf("for who hears of it now it selects %s", got)
		}
		if next.looks() == nil || len(next.putBack(t.Context(), s, quiet)) != 1 || selected(told(t, s, "old")) != "app == 'a'" {
			t.Error("it is not put back")
		}
		if next.take(told(t, s, "old"), quiet); next.looks() != nil {
			t.Error("it is put back, and looked after")
		}
	})
}

// By a clock that stands far behind, a trial takes no longer than it should from when it was heard of; a clock that is set forward ends it.
func TestTrialsClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.OpenBolt(filepath.Join(t.TempDir(), "store.db"))
		quiet := slog.New(slog.DiscardHandler)
		for ahead, want := range map[time.Duration]time.Duration{24 * time.Hour: time.Minute, -50 * time.Second: 10 * time.Second, -time.Hour: 0} {
			trial := store.NewTrial("me", time.Minute)
			trial.Until = trial.Until.Add(ahead)
			e, all, begun := onTrial(t, s, "p", trial), trials{}, time.Now()
			took := time.Duration(0)
			if selected(all.take(e, quiet)) == "all()" {
				time.Sleep(5 * time.Second)
				all.take(e, quiet) // its status has changed: it is not heard of anew
				for len(all.expired(quiet)) == 0 {
					<-all.looks()
				}
				took = time.Since(begun).Round(time.Second)
			}
			if took != want {
				t.Errorf("its clock is %s ahead: it took %s, want %s", ahead, took, want)
			}
			if err := s.Delete(t.Context(), globalPolicy("p", "default", "")); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// An agent that begins after a trial's end never takes the object as it was on trial; one that has a table from then does not keep it.
func TestAgentBeginsAfterATrial(t *testing.T) {
	s := store.OpenBolt(filepath.Join(t.TempDir(), "store.db"))
	trial := store.NewTrial("me", time.Minute)
	trial.Until = time.Now().Add(-time.Second)
	e := onTrial(t, s, "p", trial)
	var said bytes.Buffer
	a := Agent{Log: slog.New(slog.NewTextHandler(&said, nil)), refused: map[v3.Ref]string{}, editions: map[v3.Ref]edition{}}
	a.memory = memory{remembered: true, held: true}
	index := policy.NewIndex("n1", policy.Options{})
	h := of(&v3.HostEndpoint{}, "HostEndpoint", "h", "1")
	h.Spec.Node, h.Spec.InterfaceName = "n1", "*"
	a.take(index, []store.Event{e, {Type: store.Put, Ref: v3.RefOf(h), Object: h}})
	if plan := index.Plan(); len(plan.Endpoints) != 1 || enforced(plan) != 0 {
		t.Errorf("enforced are %d of %d", enforced(plan), len(plan.Endpoints))
	}
	if a.memory.held {
		t.Error("the table that was found is kept")
	}
	if !strings.Contains(said.String(), "not confirmed in time") {
		t.Error(said.String())
	}
}

// In a cluster the controller puts back what is not confirmed in time, and tells people; what is confirmed stays.
func TestTrialsInACluster(t *testing.T) {
	r := clusterOf(t)
	for _, name := range []string{"trial-old", "trial-kept"} {
		r.put(t, globalPolicy(name, "default", "app == 'a'"))
	}
	over, kept := store.NewTrial("me", time.Hour), store.NewTrial("me", time.Hour)
	onTrial(t, r.store, "trial-kept", kept)
	ref := v3.Ref{Kind: "GlobalNetworkPolicy", Name: "trial-kept"}
	if done, err := store.Settle(t.Context(), r.store, []v3.Ref{ref}, true, func(_ v3.Ref, t *store.Trial) bool { return t.ID == kept.ID }); err != nil || len(done) != 1 {
		t.Fatal(done, err)
	}
	over.Until = time.Now().Add(2 * time.Second)
	onTrial(t, r.store, "trial-old", over)
	onTrial(t, r.store, "trial-new", over)
	r.until(t, v3.Ref{Kind: "GlobalNetworkPolicy", Name: "trial-old"}, "put back", func(o client.Object) bool {
		on, _ := store.TrialOf(o)
		return on == nil && o.(*v3.GlobalNetworkPolicy).Spec.Selector == "app == 'a'"
	})
	r.until(t, v3.Ref{Kind: "GlobalNetworkPolicy", Name: "trial-new"}, "gone again", func(o client.Object) bool { return o == nil })
	if got := selected(told(t, r.store, "trial-kept")); got != "all()" {
		t.Errorf("the confirmed one selects %s", got)
	}
	if e := r.event(t, "trial-new", "NotConfirmed"); !strings.Contains(e.Note, "changed on trial by me, and not confirmed until") || !strings.Contains(e.Note, "put back as it was before") {
		t.Errorf("told %+v", e)
	}
}
