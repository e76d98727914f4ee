package controllers

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tierwall/tierwall/controllers/store"
)

// keeper follows a store and keeps something as the store says: it takes in each event and, whenever the store has told all there is, keeps
// what is to be kept. What cannot be is tried again.
type keeper struct {
	store store.Store
	log   *slog.Logger
	what  string        // is not kept, in the log
	every time.Duration // that one round waits for the next at least
	once  bool          // end after the first round, with its error
	quiet bool          // somebody else says that the store cannot be read
	take  func(store.Event)
	keep  func(context.Context) error
}

// run until ctx ends.
func (k *keeper) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	batches, synced := coalesce(ctx, k.store.Watch(ctx)), false
	again, pace := retry{first: time.Second, most: time.Minute}, retry{}
	var last time.Time
	said := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case b, open := <-batches:
			if !open {
				return ended(ctx, "the store")
			}
			if b.err != nil {
				if k.once && !errors.Is(b.err, store.ErrUnfollowed) {
					return b.err
				}
				k.unread(b.err)
				continue
			}
			synced = true
			for _, e := range b.events {
				k.take(e)
			}
		case <-again.due():
		case <-pace.due():
		}
		if !synced {
			continue
		}
		if next := last.Add(k.every); time.Now().Before(next) {
			pace.by(next)
			continue
		}
		last = time.Now()
		pace.stop()
		err := k.keep(ctx)
		if k.once {
			return err
		}
		if err == nil {
			again.stop()
			said = ""
			continue
		}
		again.later()
		if said != err.Error() && ctx.Err() == nil {
			said = err.Error()
			k.log.Warn(k.what, "error", err)
		}
	}
}

func (k *keeper) unread(err error) {
	switch {
	case k.quiet:
	case errors.Is(err, store.ErrUnfollowed):
		k.log.Warn(err.Error())
	default:
		k.log.Error("the store cannot be read; what was written stays as it is", "error", err)
	}
}
