package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

// trials are the objects on trial that one who follows a store was told of. When a trial is not confirmed in time, its object is taken as it was
// before: by each who follows the store for himself, whether or not he still reaches it.
type trials struct {
	on     map[v3.Ref]*trial
	ticker *time.Ticker // while there are any to look after
	settle bool         // put objects back in the store too
	failed string       // why that last could not be done
}

// trial is one of them.
type trial struct {
	*store.Trial
	told  store.Event
	heard time.Time
	over  bool
}

// trialsEvery is how often clocks are looked at: one may be set forward.
const trialsEvery = time.Second

// take gives what is to be followed of what was told.
func (t *trials) take(e store.Event, log *slog.Logger) store.Event {
	was := t.on[e.Ref]
	delete(t.on, e.Ref)
	defer t.tick()
	if e.Type != store.Put || e.Corrupt != nil {
		return e
	}
	on, err := store.TrialOf(e.Object)
	if err != nil {
		log.Warn("what an object says of its trial cannot be understood: it is followed as it is", "error", err)
	}
	if err != nil || on == nil {
		return e
	}
	now := &trial{Trial: on, told: e, heard: time.Now()}
	if was != nil && was.ID == on.ID {
		now.heard, now.over = was.heard, was.over
	} else {
		log.Info("changed on trial", "object", e.Ref.String(), "change", on.ID, "by", on.By, "until", on.Due(now.heard).UTC().Format(time.RFC3339))
	}
	if t.on == nil {
		t.on = map[v3.Ref]*trial{}
	}
	t.on[e.Ref] = now
	now.expire(log)
	return now.event(log)
}

// expire tells whether the trial is over just now.
func (t *trial) expire(log *slog.Logger) bool {
	if t.over || time.Now().Before(t.Due(t.heard)) {
		return false
	}
	t.over = true
	log.Warn("not confirmed in time: the object is followed as it was before", "object", t.told.Ref.String(), "change", t.ID, "by", t.By)
	return true
}

// event is what is to be followed of an object on trial.
func (t *trial) event(log *slog.Logger) store.Event {
	e, obj := t.told, t.Now(t.told.Object)
	if t.over {
		var err error
		if obj, err = t.Before(t.told.Object); err != nil {
			log.Error("what an object was before cannot be understood: it is followed as it is", "error", err)
			return e
		}
	}
	if e.Object = obj; obj == nil {
		e.Type = store.Deleted
	}
	return e
}

// looks is when to look at the clocks again.
func (t *trials) looks() <-chan time.Time {
	if t.ticker == nil {
		return nil
	}
	return t.ticker.C
}

// tick while there is a trial whose end is to come, or which is to be put back.
func (t *trials) tick() {
	need := false
	for _, on := range t.on {
		need = need || !on.over || t.settle
	}
	switch {
	case need && t.ticker == nil:
		t.ticker = time.NewTicker(trialsEvery)
	case !need && t.ticker != nil:
		t.ticker.Stop()
		t.ticker = nil
	}
}

// expired gives what is to be followed instead of what is over just now.
func (t *trials) expired(log *slog.Logger) (out []store.Event) {
	defer t.tick()
	for _, ref := range slices.SortedFunc(maps.Keys(t.on), v3.Ref.Compare) {
		if on := t.on[ref]; on.expire(log) {
			out = append(out, on.event(log))
		}
	}
	return out
}

// over tells whether any trial is.
func (t *trials) over() bool {
	for _, on := range t.on {
		if on.over {
			return true
		}
	}
	return false
}

// putBack what is over into the store, and gives what has become of it. What cannot be is tried again when the clocks are looked at.
func (t *trials) putBack(ctx context.Context, s store.Store, log *slog.Logger) []store.Settled {
	if !t.settle || !t.over() {
		return nil
	}
	done, err := store.Settle(ctx, s, slices.Collect(maps.Keys(t.on)), false, func(ref v3.Ref, now *store.Trial) bool {
		on := t.on[ref]
		return on != nil && on.over && on.ID == now.ID
	})
	if err != nil && t.failed != err.Error() && ctx.Err() == nil {
		log.Warn("objects that were not confirmed cannot be put back in the store; they are not followed all the same", "error", err)
	}
	if t.failed = ""; err != nil {
		t.failed = err.Error()
	}
	for _, d := range done {
		log.Warn("not confirmed in time: "+becameOf(d), "object", v3.RefOf(d.Object.(v3.Object)).String(), "change", d.Trial.ID, "by", d.Trial.By)
	}
	return done
}

// becameOf an object that was to be put back, for people.
func becameOf(d store.Settled) string {
	if d.Stays != "" {
		return "stays as it is: " + d.Stays
	}
	return "put back as it was before"
}

// Trials puts back in the store what was changed on trial and is not confirmed in time: for a cluster, whose nodes' agents may not write
// policy and may not reach the store. They have then ended the trial already, each for itself.
type Trials struct {
	Store store.Store
	Log   *slog.Logger
	Event Recorder // nil: nobody is told
}

// Run until ctx ends.
func (t *Trials) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	all := trials{settle: true}
	batches := coalesce(ctx, t.Store.Watch(ctx))
	quiet := slog.New(slog.DiscardHandler) // what becomes of them is said when it has
	for {
		select {
		case <-ctx.Done():
			return nil
		case b, open := <-batches:
			if !open {
				return ended(ctx, "the store")
			}
			for _, e := range b.events { // whoever rolls up says what cannot be read
				all.take(e, quiet)
			}
		case <-all.looks():
			all.expired(quiet)
		}
		for _, d := range all.putBack(ctx, t.Store, t.Log) {
			if t.Event != nil {
				t.Event(d.Object, true, "NotConfirmed", fmt.Sprintf("changed on trial by %s, and not confirmed until %s: %s", d.Trial.By,
					d.Trial.Until.Format(time.RFC3339), becameOf(d)))
			}
		}
	}
}
