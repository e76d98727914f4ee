package cleanup

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Phase is how far a run is.
type Phase string

// The phases. A run that is killed goes on in the phase that it was in.
const (
	Saving    Phase = "Saving"    // nothing is removed yet
	Removing  Phase = "Removing"  // all is saved, and has been read again
	Removed   Phase = "Removed"   // nothing of the plan is left
	Restoring Phase = "Restoring" // what was saved is made again
	Restored  Phase = "Restored"
)

// Plan is what a run was told to do. It does not change while the run goes on: what comes later is another run's.
type Plan struct {
	Begun  time.Time `json:"begun"`
	Server string    `json:"server"` // where the API server is: a journal is one cluster's
	Orders Orders    `json:"orders"`
	Things []Thing   `json:"things"`
}

// Orders are what a run may do besides deleting.
type Orders struct {
	// ForceFinalizers takes away finalizers whose controllers are gone.
	ForceFinalizers bool `json:"forceFinalizers,omitempty"`
}

// Journal is a run's memory, on disk before anything is done: what is planned, a copy of each object, and what is gone.
type Journal struct{ db *bbolt.DB }

var (
	runBucket, savedBucket, goneBucket = []byte("run"), []byte("saved"), []byte("gone")
	planKey, phaseKey                  = []byte("plan"), []byte("phase")
)

// ErrBusy says that another run has the journal open.
var ErrBusy = errors.New("another run is at work with this journal")

// OpenJournal opens the journal in a file, and makes it if there is none.
func OpenJournal(path string) (*Journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("journal %s: %w", path, ErrBusy)
	case err != nil:
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	return &Journal{db}, nil
}

// Close ends the use of the file.
func (j *Journal) Close() error { return j.db.Close() }

// Run is the run that the journal is of: none when phase is "".
func (j *Journal) Run() (p *Plan, phase Phase, err error) {
	err = j.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(runBucket)
		if b == nil {
			return nil
		}
		p, phase = &Plan{}, Phase(b.Get(phaseKey))
		return json.Unmarshal(b.Get(planKey), p)
	})
	if err != nil {
		return nil, "", fmt.Errorf("reading the journal: %w", err)
	}
	return p, phase, nil
}

// begin writes a plan down. A run that has come to its end makes room for the next.
func (j *Journal) begin(p *Plan) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return j.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{runBucket, savedBucket, goneBucket} {
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
		return errors.Join(b.Put(planKey, text), b.Put(phaseKey, []byte(Saving)))
	})
}

func (j *Journal) turn(to Phase) error {
	return j.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(runBucket).Put(phaseKey, []byte(to)) })
}

// key of a thing: what it is and what it is called.
func (t *Thing) key() []byte { return []byte(t.APIVersion + " " + t.String()) }

// save a copy of an object, with a digest before it.
func (j *Journal) save(t *Thing, u *unstructured.Unstructured) error {
	text, err := u.MarshalJSON()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	return j.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(savedBucket).Put(t.key(), append(sum[:], text...)) })
}

// ErrNotSaved says that there is no copy of an object: it had gone before.
var ErrNotSaved = errors.New("is not in the journal")

// Saved is the copy of an object.
func (j *Journal) Saved(t *Thing) (u *unstructured.Unstructured, err error) {
	err = j.db.View(func(tx *bbolt.Tx) error {
		record := tx.Bucket(savedBucket).Get(t.key())
		if record == nil {
			return ErrNotSaved
		}
		sum := sha256.Sum256(record[min(len(record), sha256.Size):])
		if !bytes.HasPrefix(record, sum[:]) {
			return errors.New("its copy is damaged")
		}
		u = &unstructured.Unstructured{}
		return u.UnmarshalJSON(record[sha256.Size:])
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t, err)
	}
	return u, nil
}

// Gone tells whether the run has seen that a thing is gone.
func (j *Journal) Gone(t *Thing) bool { return j.has(goneBucket, t) }

func (j *Journal) note(bucket []byte, t *Thing) error {
	return j.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put(t.key(), []byte{}) })
}

func (j *Journal) has(bucket []byte, t *Thing) (has bool) {
	_ = j.db.View(func(tx *bbolt.Tx) error {
		has = tx.Bucket(bucket).Get(t.key()) != nil
		return nil
	})
	return has
}
