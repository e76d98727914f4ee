package store

import (
	"context"
	"fmt"
	"iter"
	"path/filepath"
	"strconv"
	"time"

	"github.com/fsnotify/fsnotify"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// poll is how often a watch looks whether or not it has been told to: some file systems tell nobody.
const poll = 2 * time.Second

// Watch implements Store. It follows what other processes write, and says so when the file cannot be read, once for each
// reason; what it told before then still stands. A file that is replaced by another is told as the difference.
func (b *Bolt) Watch(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		w := watch{store: b, told: map[v3.Ref]string{}}
		bell := newBell(b.path)
		defer bell.close()
		for {
			events, err := w.look(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil && err.Error() != w.complaint {
				w.complaint = err.Error()
				if !yield(Event{}, err) {
					return
				}
			}
			if err == nil {
				w.complaint = ""
			}
			for _, e := range events {
				if !yield(e, nil) {
					return
				}
			}
			if !bell.wait(ctx) {
				return
			}
		}
	}
}

// watch is what one watcher has been told.
type watch struct {
	store     *Bolt
	id        string
	revision  uint64
	told      map[v3.Ref]string // resourceVersion
	complaint string
}

// look reads what has changed since it last looked; nothing when nothing has.
func (w *watch) look(ctx context.Context) (events []Event, err error) {
	err = w.store.view(ctx, func(tx *Tx) error {
		id := string(tx.meta.Get(idKey))
		switch {
		case id == w.id && tx.last == w.revision:
			return nil
		case id == w.id && tx.last > w.revision && number(tx.meta.Get(forgottenKey)) <= w.revision:
			events, err = w.journal(tx)
		default:
			events, err = w.everything(tx)
		}
		if err != nil {
			return err
		}
		w.id, w.revision = id, tx.last
		events = append(events, Event{Type: Synced, Revision: strconv.FormatUint(tx.last, 10)})
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		switch e.Type {
		case Put:
			w.told[e.Ref] = e.Object.GetResourceVersion()
		case Deleted:
			delete(w.told, e.Ref)
		}
	}
	return events, nil
}

// journal reads what the journal has since the last look, each object once.
func (w *watch) journal(tx *Tx) (events []Event, err error) {
	seen := map[v3.Ref]bool{}
	c := tx.journal.Cursor()
	for k, key := c.Seek(bytesOf(w.revision + 1)); k != nil; k, key = c.Next() {
		ref, err := refOfKey(key)
		if err != nil {
			return nil, err
		}
		if seen[ref] {
			continue
		}
		seen[ref] = true
		e, err := eventOf(tx, ref)
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}

func eventOf(tx *Tx, ref v3.Ref) (Event, error) {
	text := tx.objects.Get(keyOf(ref))
	if text == nil {
		return Event{Type: Deleted, Ref: ref}, nil
	}
	obj, err := decodeStored(ref, text)
	return Event{Type: Put, Ref: ref, Object: obj}, err
}

// everything tells the difference between what was told and what there is.
func (w *watch) everything(tx *Tx) (events []Event, err error) {
	sameFile := string(tx.meta.Get(idKey)) == w.id
	there := map[v3.Ref]bool{}
	c := tx.objects.Cursor()
	for k, text := c.First(); k != nil; k, text = c.Next() {
		ref, err := refOfKey(k)
		if err != nil {
			return nil, err
		}
		obj, err := decodeStored(ref, text)
		if err != nil {
			return nil, err
		}
		there[ref] = true
		if rv, ok := w.told[ref]; !ok || !sameFile || rv != obj.GetResourceVersion() {
			events = append(events, Event{Type: Put, Ref: ref, Object: obj})
		}
	}
	for ref := range w.told {
		if !there[ref] {
			events = append(events, Event{Type: Deleted, Ref: ref})
		}
	}
	return events, nil
}

// bell rings when something happens in the file's directory, and now and then.
type bell struct {
	path    string
	watcher *fsnotify.Watcher // nil while there is none
	ticker  *time.Ticker
}

func newBell(path string) *bell {
	b := &bell{path: path, ticker: time.NewTicker(poll)}
	b.hang()
	return b
}

// hang listens at the directory, if there is one by now.
func (b *bell) hang() {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return
	}
	if err := w.Add(filepath.Dir(b.path)); err != nil {
		w.Close()
		return
	}
	b.watcher = w
}

// wait gives false when ctx has ended.
func (b *bell) wait(ctx context.Context) bool {
	if b.watcher == nil {
		b.hang()
	}
	var events chan fsnotify.Event
	var errs chan error
	if b.watcher != nil {
		events, errs = b.watcher.Events, b.watcher.Errors
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-b.ticker.C:
			return true
		case <-errs:
			return true
		case e := <-events:
			if filepath.Base(e.Name) == filepath.Base(b.path) && !e.Has(fsnotify.Chmod) {
				b.drain()
				return true
			}
		}
	}
}

// drain forgets what has rung already: one look sees all of it.
func (b *bell) drain() {
	for {
		select {
		case <-b.watcher.Events:
		default:
			return
		}
	}
}

func (b *bell) close() {
	b.ticker.Stop()
	if b.watcher != nil {
		b.watcher.Close()
	}
}

// String names the store in messages.
func (b *Bolt) String() string { return fmt.Sprintf("bolt:%s", b.path) }
