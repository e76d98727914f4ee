package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"sync"
	"time"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Snapshot is a store that remembers in a file what its Watch told, so that a node which begins without its API server knows what it
// enforced last. The file is a Bolt's: whoever reads that reads the snapshot.
//
// A Watch first tells what the file has, if anything, and ends that with a Synced that is Remembered; once the store has told all
// there is, what the file had and the store has not is told as deleted, and the Synced after it is Anew. What is told is written a moment
// later, by another goroutine: who is told does not wait for a disk. A file that is damaged is begun anew, from the store. What
// goes wrong with the file is told as ErrUnremembered, and changes nothing of what else is told.
type Snapshot struct {
	Store
	file *Bolt

	mu   sync.Mutex
	seen json.RawMessage // of the node: see Keep
}

// How long what was told waits to be written: what people decided, and what comes and goes by itself.
const (
	rememberPolicy = time.Second
	rememberRest   = 30 * time.Second
)

// ErrUnremembered says that the snapshot's file is not as it should be.
var ErrUnremembered = errors.New("what is enforced cannot be remembered")

// RememberIn makes a snapshot of a store in the file at path.
func RememberIn(path string, s Store) *Snapshot { return &Snapshot{Store: s, file: OpenBolt(path)} }

// Keep something of the node with the objects: it is written when they are, next time.
func (s *Snapshot) Keep(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = text
	return nil
}

var keptKey = []byte("kept")

// Kept gives what a Snapshot keeps of the node in the file, if anything.
func (b *Bolt) Kept(ctx context.Context, v any) error {
	return b.view(ctx, func(tx *Tx) error {
		sealed := tx.meta.Get(keptKey)
		switch {
		case sealed == nil:
			return nil
		case len(sealed) < sealSize || !bytes.Equal(sealed[:sealSize], digest(keptKey, sealed[sealSize:])):
			return fmt.Errorf("datastore %s: %w: what was kept of the node is not what was written", b.path, ErrCorrupt)
		}
		return json.Unmarshal(unsealed(sealed), v)
	})
}

// Watch implements Store.
func (s *Snapshot) Watch(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		remembered, err := s.recall(ctx)
		if err != nil && !yield(Event{}, err) {
			return
		}
		told := map[v3.Ref]bool{}
		for _, e := range remembered {
			if note(told, e); !yield(e, nil) {
				return
			}
		}
		for s.follow(ctx, told, yield) {
		}
	}
}

// useless is a file that is damaged, or of a version that is none of ours.
func useless(why error) bool { return errors.Is(why, ErrCorrupt) || errors.Is(why, ErrNewerVersion) }

// recall reads the file, and removes one that is damaged.
func (s *Snapshot) recall(ctx context.Context) (events []Event, err error) {
	w := watch{store: s.file, told: map[v3.Ref]string{}}
	events, err = w.look(ctx)
	switch {
	case err == nil:
		events[len(events)-1].Remembered = true
	case errors.Is(err, ErrNoStore):
		return nil, nil
	default:
		err = fmt.Errorf("%w: %w", ErrUnremembered, errors.Join(err, s.beginAnew(err)))
	}
	return events, err
}

// beginAnew removes the file if it is of no use.
func (s *Snapshot) beginAnew(why error) error {
	if !useless(why) {
		return nil
	}
	if err := os.Remove(s.file.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// follow the store until ctx ends, and note what is told; true when it is to be followed from the beginning, for the file must be
// written whole.
func (s *Snapshot) follow(ctx context.Context, told map[v3.Ref]bool, yield func(Event, error) bool) (again bool) {
	watching, stop := context.WithCancel(ctx)
	m := scribe{Snapshot: s, bell: make(chan struct{}, 1), errs: make(chan error), pending: map[v3.Ref]Event{}}
	tales := make(chan tale)
	var running sync.WaitGroup
	running.Go(func() { m.write(watching) })
	running.Go(func() {
		defer close(tales)
		tell(watching, s.Store.Watch(watching), tales)
	})
	defer running.Wait()
	defer stop()
	for begun := false; ; {
		select {
		case err := <-m.errs:
			if !yield(Event{}, err) {
				return false
			}
			if useless(err) {
				return ctx.Err() == nil
			}
		case t, open := <-tales:
			switch {
			case !open:
				return false
			case t.err != nil:
				if !yield(Event{}, t.err) {
					return false
				}
				continue
			}
			m.take(t.events)
			if !begun {
				t.events = after(told, t.events)
			}
			begun = true
			for _, e := range t.events {
				if note(told, e); !yield(e, nil) {
					return false
				}
			}
		}
	}
}

// note what was told.
func note(told map[v3.Ref]bool, e Event) {
	switch e.Type {
	case Put:
		told[e.Ref] = true
	case Deleted:
		delete(told, e.Ref)
	}
}

// tale is what a store tells up to a Synced, or an error.
type tale struct {
	events []Event
	err    error
}

func tell(ctx context.Context, events iter.Seq2[Event, error], to chan<- tale) {
	var t tale
	for e, err := range events {
		if err != nil {
			t = tale{err: err}
		} else if t.events = append(t.events, e); e.Type != Synced {
			continue
		}
		select {
		case to <- t:
		case <-ctx.Done():
			return
		}
		t = tale{}
	}
}

// after what was told, a store tells all that there is: what it does not tell is no more.
func after(told map[v3.Ref]bool, all []Event) (out []Event) {
	if len(told) == 0 {
		return all
	}
	there := make(map[v3.Ref]bool, len(all))
	for _, e := range all {
		there[e.Ref] = e.Type == Put
	}
	for ref := range told {
		if !there[ref] {
			out = append(out, Event{Type: Deleted, Ref: ref})
		}
	}
	out = append(out, all...)
	out[len(out)-1].Anew = true
	return out
}

// scribe writes what has been told.
type scribe struct {
	*Snapshot
	bell chan struct{}
	errs chan error // of writing, once for each reason

	mu      sync.Mutex
	pending map[v3.Ref]Event
	whole   bool // the first tale is all that there is; what else the file has goes
	begun   bool
	due     time.Time
}

func (m *scribe) take(events []Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.whole, m.begun = m.whole || !m.begun, true
	for _, e := range events {
		wait := rememberRest
		switch kind := refKind(e.Ref.Kind); {
		case e.Type == Synced:
			continue
		case kind != nil && !stripped[kind.Kind]:
			wait = rememberPolicy
		}
		m.pending[e.Ref] = e
		if at := time.Now().Add(wait); m.due.IsZero() || at.Before(m.due) {
			m.due = at
		}
	}
	if m.whole && m.due.IsZero() { // there is nothing at all, and the file should say so
		m.due = time.Now()
	}
	ring(m.bell)
}

// write what is due until ctx ends, and then what is not.
func (m *scribe) write(ctx context.Context) {
	complaint := ""
	for timer := time.NewTimer(0); ; {
		select {
		case <-ctx.Done():
			_ = m.save() // nobody is there any more to be told
			return
		case <-m.bell:
		case <-timer.C:
		}
		wait, waiting := m.wait()
		switch {
		case !waiting:
			continue
		case wait > 0:
			timer.Reset(wait)
			continue
		}
		err := m.save()
		if err == nil {
			complaint = ""
			continue
		}
		timer.Reset(rememberRest)
		if err.Error() == complaint {
			continue
		}
		complaint = err.Error()
		select {
		case m.errs <- err:
		case <-ctx.Done():
		}
	}
}

func (m *scribe) wait() (wait time.Duration, waiting bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Until(m.due), !m.due.IsZero()
}

// save what is pending. After an error it is pending still, but for what was told since.
func (m *scribe) save() error {
	m.mu.Lock()
	events, whole := m.pending, m.whole
	m.pending, m.whole, m.due = map[v3.Ref]Event{}, false, time.Time{}
	m.mu.Unlock()
	if len(events) == 0 && !whole {
		return nil
	}
	// what is being written is not given up half way because the agent ends
	_, err := m.file.transact(context.Background(), func(tx *Tx) error { return m.record(tx, events, whole) })
	if err == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.Copy(events, m.pending)
	m.pending, m.whole, m.due = events, whole, time.Now().Add(rememberRest)
	return fmt.Errorf("%w: %w", ErrUnremembered, errors.Join(err, m.beginAnew(err)))
}

func (m *scribe) record(tx *Tx, events map[v3.Ref]Event, whole bool) error {
	if whole {
		if err := tx.retain(events); err != nil {
			return err
		}
	}
	for ref, e := range events {
		if e.Type == Deleted || e.Corrupt != nil || e.Ref.Kind == "NodeReport" {
			if err := tx.drop(keyOf(ref)); err != nil {
				return err
			}
		} else if err := tx.keep(e); err != nil {
			return err
		}
	}
	m.Snapshot.mu.Lock()
	defer m.Snapshot.mu.Unlock()
	if m.seen == nil {
		return nil
	}
	return tx.meta.Put(keptKey, append(digest(keptKey, m.seen), m.seen...))
}

// retain drops whatever is not among what is put.
func (tx *Tx) retain(events map[v3.Ref]Event) error {
	var gone [][]byte
	c := tx.objects.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		ref, err := refOfKey(k)
		if err != nil {
			return err
		}
		if e, ok := events[ref]; !ok || e.Type != Put {
			gone = append(gone, bytes.Clone(k))
		}
	}
	for _, k := range gone {
		if err := tx.drop(k); err != nil {
			return err
		}
	}
	return nil
}

// drop what is at a key, if anything.
func (tx *Tx) drop(key []byte) error {
	if tx.objects.Get(key) == nil {
		return nil
	}
	tx.revision = tx.last + 1
	tx.changed = append(tx.changed, key)
	return tx.remove(tx.objects, key)
}

// keep an object as it was told, unadmitted, but for the status that we write ourselves: by that no packet is judged.
func (tx *Tx) keep(e Event) error {
	text, err := json.Marshal(e.Object)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Ref, err)
	}
	if kind := refKind(e.Ref.Kind); kind != nil && kind.ownStatus() {
		if text, err = withoutStatus(text); err != nil {
			return fmt.Errorf("%s: %w", e.Ref, err)
		}
	}
	key := keyOf(e.Ref)
	if bytes.Equal(get(tx.objects, key), text) {
		return nil
	}
	tx.revision = tx.last + 1
	tx.changed = append(tx.changed, key)
	return tx.put(tx.objects, key, text)
}

func withoutStatus(text []byte) ([]byte, error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, err
	}
	delete(fields, "status")
	return json.Marshal(fields)
}

// String names the store in messages.
func (s *Snapshot) String() string { return fmt.Sprint(s.Store) }
