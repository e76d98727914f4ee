package cleanup

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tierwall/tierwall/controllers/journal"
)

// Phase is how far a run is.
type Phase = journal.Phase

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

// Journal is a run's memory: what is planned, a copy of each object, and what is gone.
type Journal struct{ *journal.Journal }

// OpenJournal opens the journal in a file, as journal.Open does. of is the command whose runs it is of: cleanup, or uninstall.
func OpenJournal(path, of string, mode journal.Mode) (*Journal, error) {
	j, err := journal.Open(path, of, mode)
	if err != nil {
		return nil, err
	}
	return &Journal{j}, nil
}

// Run is the run that the journal is of: none when phase is "".
func (j *Journal) Run() (p *Plan, phase Phase, err error) {
	p = &Plan{}
	phase, err = j.Journal.Run(p)
	return p, phase, err
}

// key of a thing: what it is and what it is called.
func (t *Thing) key() string { return t.APIVersion + " " + t.String() }

// save a copy of an object.
func (j *Journal) save(t *Thing, u *unstructured.Unstructured) error {
	text, err := u.MarshalJSON()
	if err != nil {
		return err
	}
	return j.Save(map[string][]byte{t.key(): text})
}

// Saved is the copy of an object.
func (j *Journal) Saved(t *Thing) (*unstructured.Unstructured, error) {
	text, err := j.Journal.Saved(t.key())
	u := &unstructured.Unstructured{}
	if err == nil {
		err = u.UnmarshalJSON(text)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t, err)
	}
	return u, nil
}

// Gone tells whether the run has seen that a thing is gone, or otherwise done with.
func (j *Journal) Gone(t *Thing) bool { return j.Noted(t.key()) }
