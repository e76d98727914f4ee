package controllers

import (
	"context"
	"iter"
	"time"

	"github.com/tierwall/tierwall/controllers/store"
)

// coalesce gathers a watch's events into batches that end where the store says that it has told all there is, so that
// what was written in one transaction is programmed in one. Batches that come while the last is being programmed
// become one.
func coalesce(ctx context.Context, events iter.Seq2[store.Event, error]) <-chan batch {
	raw, out := make(chan batch), make(chan batch)
	go func() {
		defer close(raw)
		gather(ctx, events, raw)
	}()
	go func() {
		defer close(out)
		merge(ctx, raw, out)
	}()
	return out
}

func gather(ctx context.Context, events iter.Seq2[store.Event, error], raw chan<- batch) {
	var b batch
	for e, err := range events {
		switch {
		case err != nil:
			// what came before the error is not complete and will be told again
			if b = (batch{err: err}); !send(ctx, raw, b) {
				return
			}
			b = batch{}
		case e.Type == store.Synced:
			b.revision, b.anew, b.remembered, b.told = e.Revision, e.Anew, e.Remembered, time.Now()
			if !send(ctx, raw, b) {
				return
			}
			b = batch{}
		default:
			b.events = append(b.events, e)
		}
	}
}

func send(ctx context.Context, to chan<- batch, b batch) bool {
	select {
	case to <- b:
		return true
	case <-ctx.Done():
		return false
	}
}

// merge hands on one batch at a time, and adds to it what comes while nobody takes it.
func merge(ctx context.Context, raw <-chan batch, out chan<- batch) {
	var waiting *batch
	for {
		to := out
		var next batch
		if waiting == nil {
			to = nil
		} else {
			next = *waiting
		}
		select {
		case <-ctx.Done():
			return
		case to <- next:
			waiting = nil
		case b, open := <-raw:
			switch {
			case !open:
				if waiting != nil {
					send(ctx, out, *waiting)
				}
				return
			case waiting == nil || b.err != nil || waiting.err != nil:
				if waiting != nil && !send(ctx, out, *waiting) {
					return
				}
				waiting = &b
			default:
				waiting.events = append(waiting.events, b.events...)
				waiting.revision, waiting.anew, waiting.remembered = b.revision, waiting.anew || b.anew, b.remembered
			}
		}
	}
}
