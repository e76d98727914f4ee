// Package journal is the memory of a run that changes much and may be killed at any moment: on disk before anything is done. It holds a plan,
// which does not change while the run goes on, the phase that the run is in, copies of what it will change, and notes of what it has done. What
// these mean is for who runs.
package journal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// What can be wrong.
var (
	ErrBusy     = errors.New("another run is at work with this journal")
	ErrOther    = errors.New("the journal is of another run")
	ErrNotSaved = errors.New("is not in the journal")
	ErrDamaged  = errors.New("its copy is damaged")
	// ErrTruncated says that the file has lost its end.
	ErrTruncated = errors.New("the file is damaged")
)

// Phase is how far a run is.
type Phase string

// Work is what is done in a phase, and the phase that comes when it is done.
type Work struct {
	Do   func(context.Context) error
	Then Phase
}

// Journal is a file of one run.
type Journal struct {
	db *bbolt.DB
	of string
}

var (
	runBucket, savedBucket, notedBucket = []byte("run"), []byte("saved"), []byte("gone")
	ofKey, planKey, phaseKey            = []byte("of"), []byte("plan"), []byte("phase")
)

// Open the journal in a file, and make it if there is none. of is what its runs do, e.g. cleanup: ErrOther for one that does something else.
func Open(path, of string) (*Journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	if err := whole(path); err != nil {
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("journal %s: %w", path, ErrBusy)
	case err != nil:
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	j := &Journal{db, of}
	if was := j.whose(); was != "" && was != of {
		return nil, errors.Join(fmt.Errorf("journal %s: %w: %s", path, ErrOther, was), db.Close())
	}
	return j, nil
}

// whole tells whether a file that is there is as long as it says: opened to be written it would be read past its end. What else is wrong with it bbolt says.
func whole(path string) error {
	file, err := os.Stat(path)
	if err != nil || file.Size() == 0 {
		return nil
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return nil
	}
	err = db.View(func(tx *bbolt.Tx) error {
		if file.Size() < tx.Size() {
			return fmt.Errorf("%w: it has %d bytes of %d", ErrTruncated, file.Size(), tx.Size())
		}
		return nil
	})
	return errors.Join(err, db.Close())
}

func (j *Journal) whose() (of string) {
	_ = j.db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(runBucket); b != nil {
			of = string(b.Get(ofKey))
		}
		return nil
	})
	return of
}

// Close ends the use of the file.
func (j *Journal) Close() error { return j.db.Close() }

// Run reads the plan, which is as Begin was given it, and the phase: "" when no run was begun.
func (j *Journal) Run(plan any) (phase Phase, err error) {
	err = j.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(runBucket)
		if b == nil {
			return nil
		}
		phase = Phase(b.Get(phaseKey))
		return json.Unmarshal(b.Get(planKey), plan)
	})
	if err != nil {
		return "", fmt.Errorf("reading the journal: %w", err)
	}
	return phase, nil
}

// Begin a run in its first phase, with copies under their keys. What the journal had of the one before is copied into a file beside it first, whose
// name ends with the time.
func (j *Journal) Begin(plan any, phase Phase, copies map[string][]byte) error {
	text, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	if j.whose() != "" {
		old := j.db.Path() + "." + time.Now().UTC().Format("20060102T150405.000000000Z")
		if err := j.db.View(func(tx *bbolt.Tx) error { return tx.CopyFile(old, 0o600) }); err != nil {
			return fmt.Errorf("keeping the run before: %w", err)
		}
	}
	return j.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{runBucket, savedBucket, notedBucket} {
			if tx.Bucket(name) != nil {
				if err := tx.DeleteBucket(name); err != nil {
					return err
				}
			}
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		b := tx.Bucket(runBucket)
		return errors.Join(b.Put(ofKey, []byte(j.of)), b.Put(planKey, text), b.Put(phaseKey, []byte(phase)), save(tx, copies))
	})
}

// Turn to another phase. before, which may be nil, is told first, and may end the run there.
func (j *Journal) Turn(phase Phase, before func(step string) error) error {
	if before != nil {
		if err := before("turning to " + string(phase)); err != nil {
			return err
		}
	}
	return j.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(runBucket).Put(phaseKey, []byte(phase)) })
}

// Go does the work of a phase, and of those that come behind it, until one has none. A run that was killed goes on in the phase that it was in.
func (j *Journal) Go(ctx context.Context, phase Phase, works map[Phase]Work, before func(step string) error) error {
	for {
		w, more := works[phase]
		if !more {
			return nil
		}
		if err := w.Do(ctx); err != nil {
			return err
		}
		if err := j.Turn(w.Then, before); err != nil {
			return err
		}
		phase = w.Then
	}
}

// Save copies under their keys, in one transaction: all or none.
func (j *Journal) Save(copies map[string][]byte) error {
	return j.db.Update(func(tx *bbolt.Tx) error { return save(tx, copies) })
}

func save(tx *bbolt.Tx, copies map[string][]byte) error {
	b := tx.Bucket(savedBucket)
	for key, text := range copies {
		sum := sha256.Sum256(text)
		if err := b.Put([]byte(key), append(sum[:], text...)); err != nil {
			return err
		}
	}
	return nil
}

// Saved is a copy: ErrNotSaved, ErrDamaged.
func (j *Journal) Saved(key string) (text []byte, err error) {
	err = j.db.View(func(tx *bbolt.Tx) error {
		record := tx.Bucket(savedBucket).Get([]byte(key))
		if record == nil {
			return ErrNotSaved
		}
		sum := sha256.Sum256(record[min(len(record), sha256.Size):])
		if !bytes.HasPrefix(record, sum[:]) {
			return ErrDamaged
		}
		text = bytes.Clone(record[sha256.Size:])
		return nil
	})
	return text, err
}

// Has tells whether there is a copy of that key.
func (j *Journal) Has(key string) bool { return j.in(savedBucket, key) }

// Note that something is done.
func (j *Journal) Note(key string) error {
	return j.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(notedBucket).Put([]byte(key), []byte{}) })
}

// Noted tells whether that was noted.
func (j *Journal) Noted(key string) bool { return j.in(notedBucket, key) }

func (j *Journal) in(bucket []byte, key string) (is bool) {
	_ = j.db.View(func(tx *bbolt.Tx) error {
		is = tx.Bucket(bucket).Get([]byte(key)) != nil
		return nil
	})
	return is
}
