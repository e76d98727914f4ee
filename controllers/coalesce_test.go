package controllers

import (
	"context"
	"errors"
	"iter"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

func put(name string) store.Event {
	return store.Event{Type: store.Put, Ref: v3.Ref{Kind: "Tier", Name: name}}
}

func synced(revision int) store.Event {
	return store.Event{Type: store.Synced, Revision: strconv.Itoa(revision)}
}

var errStore = errors.New("the store is away")

// said is a watch that says steps, one after the other: an event, an error, or a pause.
func said(steps ...any) iter.Seq2[store.Event, error] {
	return func(yield func(store.Event, error) bool) {
		for _, s := range steps {
			more := true
			switch s := s.(type) {
			case store.Event:
				more = yield(s, nil)
			case error:
				more = yield(store.Event{}, s)
			case time.Duration:
				time.Sleep(s) // of the bubble's clock
			}
			if !more {
				return
			}
		}
	}
}

// A batch ends where the store has told all there is, never before; what comes while nobody takes a batch joins it; what an
// error cut short is told again and does not count.
func TestCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		batches := coalesce(ctx, said(put("a"), time.Second, put("b"), synced(1), 10*time.Second,
			put("c"), synced(2), put("d"), errStore, put("d"), put("e"), synced(3), put("f"), synced(4)))
		first := <-batches
		if len(first.events) != 2 || first.revision != "1" || first.err != nil {
			t.Fatalf("%+v", first)
		}
		time.Sleep(time.Minute)
		if b := <-batches; len(b.events) != 1 || b.revision != "2" {
			t.Fatalf("%+v", b)
		}
		if b := <-batches; !errors.Is(b.err, errStore) {
			t.Fatalf("%+v", b)
		}
		synctest.Wait()
		if b := <-batches; len(b.events) != 3 || b.revision != "4" {
			t.Fatalf("%+v", b)
		}
		if b, open := <-batches; open {
			t.Fatalf("%+v", b)
		}
	})
}

// Whoever ends the context gets no more batches, and nothing is left running.
func TestCoalesceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		batches := coalesce(ctx, func(yield func(store.Event, error) bool) {
			for i := 1; yield(put("a"), nil) && yield(synced(i), nil); i++ {
				if ctx.Err() != nil {
					return
				}
			}
		})
		<-batches
		stop()
		for range batches {
		}
	})
}

func TestRetryWaitsLongerEachTime(t *testing.T) {
	r := retry{first: 100 * time.Millisecond, most: time.Second}
	if r.due() != nil {
		t.Error("due before anything failed")
	}
	for _, want := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
		if got := r.later(); got != want*time.Millisecond {
			t.Errorf("waits %s, want %s", got, want*time.Millisecond)
		}
	}
	r.stop()
	if r.due() != nil || r.later() != 100*time.Millisecond {
		t.Error("after a success it begins anew")
	}
}
