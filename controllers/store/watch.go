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
	revision  uint64
	state     string            // of the file at revision
	told      map[v3.Ref]string // what each object's text was sealed with
	complaint string
}

// news is an event, and what the text of its object is sealed with.
type news struct {
	Event
	seal string
}

// look reads what has changed since it last looked; nothing when nothing has.
func (w *watch) look(ctx context.Context) (events []Event, err error) {
	var all []news
	anew := false
	err = w.store.view(ctx, func(tx *Tx) (err error) {
		switch {
		case string(tx.state) == w.state:
			return nil
		case w.known(tx):
			all, err = w.journal(tx)
		default:
			anew = w.state != ""
			all, err = w.everything(tx)
		}
		if err != nil {
			return err
		}
		w.revision, w.state = tx.last, string(tx.state)
		all = append(all, news{Event: Event{Type: Synced, Revision: strconv.FormatUint(tx.last, 10), Anew: anew}})
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, n := range all {
		switch n.Type {
		case Put:
			w.told[n.Ref] = n.seal
		case Deleted:
			delete(w.told, n.Ref)
		}
		events = append(events, n.Event)
	}
	return events, nil
}

// known tells whether the file came from the state that was told last, and the journal has all since. It has not when too much
// has happened, or when the file was replaced: a copy that was put back counts its revisions on from an older one, so that a
// revision alone does not say what was told.
func (w *watch) known(tx *Tx) bool {
	at, sealed := tx.journal.Cursor().Seek(bytesOf(w.revision))
	return at != nil && number(at[:8]) == w.revision && string(unsealed(sealed)[:stateSize]) == w.state
}

// journal reads what the journal has since the last look, each object once.
func (w *watch) journal(tx *Tx) (out []news, err error) {
	seen := map[v3.Ref]bool{}
	c := tx.journal.Cursor()
	for at, sealed := c.Seek(bytesOf(w.revision + 1)); at != nil; at, sealed = c.Next() {
		ref, err := refOfKey(unsealed(sealed)[stateSize:])
		if err != nil {
			return nil, err
		}
		if seen[ref] {
			continue
		}
		seen[ref] = true
		n, err := newsOf(ref, tx.objects.Get(keyOf(ref)))
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

func newsOf(ref v3.Ref, sealed []byte) (news, error) {
	if sealed == nil {
		return news{Event: Event{Type: Deleted, Ref: ref}}, nil
	}
	obj, err := decodeStored(ref, unsealed(sealed))
	if err != nil {
		return news{}, err
	}
	obj.SetManagedFields(nil) // who watches keeps it in memory, and does not ask
	return news{Event{Type: Put, Ref: ref, Object: obj}, string(sealed[:sealSize])}, nil
}

// everything tells the difference between what was told and what there is.
func (w *watch) everything(tx *Tx) (out []news, err error) {
	there := map[v3.Ref]bool{}
	c := tx.objects.Cursor()
	for k, sealed := c.First(); k != nil; k, sealed = c.Next() {
		ref, err := refOfKey(k)
		if err != nil {
			return nil, err
		}
		n, err := newsOf(ref, sealed)
		if err != nil {
			return nil, err
		}
		there[ref] = true
		if w.told[ref] != n.seal {
			out = append(out, n)
		}
	}
	for ref := range w.told {
		if !there[ref] {
			out = append(out, news{Event: Event{Type: Deleted, Ref: ref}})
		}
	}
	return out, nil
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
