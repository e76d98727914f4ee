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
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/tierwall/tierwall/controllers/store/pages"
)

// What can be wrong.
var (
	ErrBusy     = errors.New("another run is at work with this journal")
	ErrOther    = errors.New("the journal is of another run")
	ErrNotSaved = errors.New("is not in the journal")
	// ErrDamaged says that the file is not as it was written, somewhere.
	ErrDamaged = errors.New("the file is damaged, or is no journal")
)

// Mode is what a journal is opened for.
type Mode int

// The modes.
const (
	Read   Mode = iota // and nothing else: what is not there is not made
	Change             // what is there
	Make               // what is not there, too
)

// Phase is how far a run is.
type Phase string

// Work is what is done in a phase, and the phase that comes when it is done.
type Work struct {
	Do   func(context.Context) error
	Then Phase
}

// Journal is a file of one run. bbolt has no checksum for what it keeps: every record is sealed by a digest of itself and its key, and all are
// looked at when the file is opened.
type Journal struct {
	db *bbolt.DB
	of string
}

var (
	runBucket, savedBucket, notedBucket = []byte("run"), []byte("saved"), []byte("gone")
	buckets                             = [][]byte{runBucket, savedBucket, notedBucket}
	ofKey, planKey, phaseKey            = []byte("of"), []byte("plan"), []byte("phase")
)

// Open the journal in a file. of is what its runs do, e.g. cleanup. Errors: ErrOther for one that does something else, ErrBusy, ErrDamaged, and, but for
// Make, fs.ErrNotExist.
func Open(path, of string, mode Mode) (*Journal, error) {
	j, err := open(path, of, mode)
	if err != nil {
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	return j, nil
}

func open(path, of string, mode Mode) (*Journal, error) {
	if err := whole(path); err != nil && !(errors.Is(err, fs.ErrNotExist) && mode == Make) {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	db, _, err := file(path, mode == Read)
	if err != nil {
		return nil, err
	}
	j := &Journal{db, of}
	was, err := j.whose()
	if err == nil && was != "" && was != of {
		err = fmt.Errorf("%w: %s", ErrOther, was)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return j, nil
}

// guarded gives what bbolt panics with as an error: it does so over a damaged page, and a fault is one in the memory that is mapped to the file.
func guarded(do func() error) (err error) {
	defer func(old bool) {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			err = fmt.Errorf("%w (%v)", ErrDamaged, p)
		}
	}(debug.SetPanicOnFault(true))
	return do()
}

// file opens a file of bbolt's.
func file(path string, readOnly bool) (db *bbolt.DB, file *os.File, err error) {
	err = guarded(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, ReadOnly: readOnly, NoFreelistSync: true, OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		}})
		return err
	})
	var ofFile *fs.PathError
	switch {
	case err == nil:
		return db, file, nil
	case errors.Is(err, bolterrors.ErrTimeout):
		err = ErrBusy
	case !errors.Is(err, ErrDamaged) && !errors.As(err, &ofFile):
		err = fmt.Errorf("%w (%v)", ErrDamaged, err)
	}
	if file != nil {
		_ = file.Close() // bbolt does not where it panics; the lock goes with it
	}
	return nil, nil, err
}

// whole tells whether a file that is there is as it was written.
func whole(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return fmt.Errorf("%w: it is empty; if it never was another, nothing was begun, and it can be removed", ErrDamaged)
	}
	db, f, err := file(path, true)
	if err != nil {
		return err
	}
	err = guarded(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			if err := pages.Check(f, tx); errors.Is(err, pages.ErrDamaged) {
				return fmt.Errorf("%w: %w", ErrDamaged, err)
			} else if err != nil {
				return err
			}
			have := 0
			err := tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
				if have++; !slices.ContainsFunc(buckets, func(of []byte) bool { return bytes.Equal(of, name) }) {
					return fmt.Errorf("%w: it has a bucket %q", ErrDamaged, name)
				}
				return b.ForEach(func(key, record []byte) error {
					_, err := unsealed(key, record)
					return err
				})
			})
			if err == nil && have != 0 && have != len(buckets) {
				err = fmt.Errorf("%w: something is missing", ErrDamaged)
			}
			return err
		})
	})
	return errors.Join(err, db.Close())
}

// sealed is a record of a text under its key.
func sealed(key, text []byte) []byte {
	sum := sha256.Sum256(slices.Concat(key, []byte{0}, text))
	return append(sum[:], text...)
}

// unsealed is the text of a record: ErrDamaged.
func unsealed(key, record []byte) ([]byte, error) {
	text := record[min(len(record), sha256.Size):]
	if !bytes.Equal(record, sealed(key, text)) {
		return nil, fmt.Errorf("%w: %q is not what was written", ErrDamaged, key)
	}
	return text, nil
}

func (j *Journal) get(bucket, key []byte) (text []byte, err error) {
	err = j.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		if b == nil || b.Get(key) == nil {
			return ErrNotSaved
		}
		text, err = unsealed(key, b.Get(key))
		text = bytes.Clone(text)
		return err
	})
	return text, err
}

func put(tx *bbolt.Tx, bucket, key, text []byte) error {
	return tx.Bucket(bucket).Put(key, sealed(key, text))
}

// whose runs the journal is of: "" before the first.
func (j *Journal) whose() (string, error) {
	of, err := j.get(runBucket, ofKey)
	if errors.Is(err, ErrNotSaved) {
		return "", nil
	}
	return string(of), err
}

// Close ends the use of the file.
func (j *Journal) Close() error { return j.db.Close() }

// Run reads the plan, which is as Begin was given it, and the phase: "" when no run was begun.
func (j *Journal) Run(plan any) (Phase, error) {
	phase, err := j.get(runBucket, phaseKey)
	if errors.Is(err, ErrNotSaved) {
		return "", nil
	}
	text, errPlan := j.get(runBucket, planKey)
	if err = errors.Join(err, errPlan); err == nil {
		err = json.Unmarshal(text, plan)
	}
	if err != nil {
		return "", fmt.Errorf("reading the journal: %w", err)
	}
	return Phase(phase), nil
}

// Begin a run in its first phase, with copies under their keys. What the journal had of the one before is copied into a file beside it first, whose
// name ends with the time.
func (j *Journal) Begin(plan any, phase Phase, copies map[string][]byte) error {
	text, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	if was, err := j.whose(); err != nil {
		return err
	} else if was != "" {
		old := j.db.Path() + "." + time.Now().UTC().Format("20060102T150405.000000000Z")
		if err := j.db.View(func(tx *bbolt.Tx) error { return tx.CopyFile(old, 0o600) }); err != nil {
			return fmt.Errorf("keeping the run before: %w", err)
		}
	}
	return j.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if tx.Bucket(name) != nil {
				if err := tx.DeleteBucket(name); err != nil {
					return err
				}
			}
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return errors.Join(put(tx, runBucket, ofKey, []byte(j.of)), put(tx, runBucket, planKey, text), put(tx, runBucket, phaseKey, []byte(phase)), save(tx, copies))
	})
}

// Turn to another phase. before, which may be nil, is told first, and may end the run there.
func (j *Journal) Turn(phase Phase, before func(step string) error) error {
	if before != nil {
		if err := before("turning to " + string(phase)); err != nil {
			return err
		}
	}
	return j.db.Update(func(tx *bbolt.Tx) error { return put(tx, runBucket, phaseKey, []byte(phase)) })
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
	for key, text := range copies {
		if err := put(tx, savedBucket, []byte(key), text); err != nil {
			return err
		}
	}
	return nil
}

// Saved is a copy: ErrNotSaved, ErrDamaged.
func (j *Journal) Saved(key string) ([]byte, error) { return j.get(savedBucket, []byte(key)) }

// Has tells whether there is a copy of that key.
func (j *Journal) Has(key string) bool { return j.in(savedBucket, key) }

// Note that something is done.
func (j *Journal) Note(key string) error {
	return j.db.Update(func(tx *bbolt.Tx) error { return put(tx, notedBucket, []byte(key), nil) })
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
