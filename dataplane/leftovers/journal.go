package leftovers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Phase of a run.
type Phase string

// The phases. What is not at an end goes on when the same is asked for again, or the other way when that is.
//
//	(none) ─► Removing ─► Removed
//	              ▲│          │
//	              │▼          ▼
//	           Restoring ◄────┘ ─► Restored
const (
	Removing  Phase = "Removing"
	Removed   Phase = "Removed"
	Restoring Phase = "Restoring"
	Restored  Phase = "Restored"
)

// Run is what the journal has of the last removal.
type Run struct {
	Of      []string  `json:"of"`
	KeepCNI bool      `json:"keepCNI"`
	Begun   time.Time `json:"begun"`
	Phase   Phase     `json:"phase"`
	Backups []string  `json:"backups"` // folders, the first first. One that went on has more than one
}

// Unfinished tells whether a run was ended before its end.
func (r *Run) Unfinished() bool { return r != nil && (r.Phase == Removing || r.Phase == Restoring) }

// Errors of a journal.
var (
	ErrBusy  = errors.New("another removal is at work on this machine")
	ErrOther = errors.New("another removal is not at its end")
	ErrNone  = errors.New("nothing was removed here: there is nothing to put back")
)

const journalFile = "journal.json"

// ReadRun reads what the journal in a folder of the machine has; nil if nothing was begun.
func ReadRun(o Options, folder string) (*Run, error) {
	path := filepath.Join("/", o.Root, folder, journalFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := new(Run)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// Journal is a file that is written before anything is removed. It needs to hold no more than whose leftovers go and where their backups are: each
// step finds anew what there is for it to do.
type Journal struct {
	options Options
	folder  *os.File // is locked
	run     *Run
}

// OpenJournal in a folder of the machine, which is made. Nobody else's can be open there.
func OpenJournal(o Options, folder string) (*Journal, error) {
	if len(o.Of) == 0 {
		o.Of = []string{calico}
	}
	path := filepath.Join("/", o.Root, folder)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s is locked", ErrBusy, path), f.Close())
	}
	j := &Journal{options: o, folder: f}
	if j.run, err = ReadRun(o, folder); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return j, nil
}

// Close lets others open it.
func (j *Journal) Close() error { return j.folder.Close() }

// Run that the journal has; nil if nothing was begun.
func (j *Journal) Run() *Run { return j.run }

// write the run to disk, or leave what is there.
func (j *Journal) write(r *Run) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(j.folder.Name(), journalFile)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	j.run = r
	return j.folder.Sync()
}

// Remove is a removal: a backup to a new folder, the steps, and a look whether all is gone. Ended anywhere, it is begun anew from its first step.
func (j *Journal) Remove(backup string) []Step {
	return slices.Concat([]Step{{"backup", func(ctx context.Context) error { return j.begin(ctx, backup) }}}, Steps(j.options), []Step{{"a last look", j.end}})
}

// begin has whatever there is saved before the journal says that it goes.
func (j *Journal) begin(ctx context.Context, backup string) error {
	r := &Run{Of: j.options.Of, KeepCNI: j.options.KeepCNI, Begun: time.Now().UTC().Truncate(time.Second), Phase: Removing}
	if j.run.Unfinished() {
		if !slices.Equal(j.run.Of, r.Of) || j.run.KeepCNI != r.KeepCNI {
			return fmt.Errorf("%w: that of %s, begun %s: let it end, or put it back", ErrOther, strings.Join(j.run.Of, " and "), j.run.Begun.Format(time.RFC3339))
		}
		r.Begun, r.Backups = j.run.Begun, j.run.Backups
	}
	l, err := Find(ctx, j.options)
	if err != nil {
		return err
	}
	if why := l.Refused(j.options); len(why) > 0 {
		return fmt.Errorf("%w: %s", ErrRunning, strings.Join(why, "; "))
	}
	if len(l.Items) > 0 {
		if err := Backup(ctx, j.options, l, backup); err != nil {
			return err
		}
		r.Backups = append(slices.Clone(r.Backups), backup)
	}
	if len(r.Backups) == 0 {
		return nil
	}
	return j.write(r)
}

func (j *Journal) end(ctx context.Context) error {
	l, err := Find(ctx, j.options)
	if err != nil {
		return err
	}
	if n := slices.IndexFunc(l.Items, func(i Item) bool { return i.Kind != Set }); n >= 0 { // a set that others use has been told of, and keeps no run from its end
		i := l.Items[n]
		return fmt.Errorf("%s (%s) is still there, or there again; it is one of %d", i.Name, i.Kind, len(l.Items))
	}
	return j.to(Removed)
}

// to another phase.
func (j *Journal) to(p Phase) error {
	if j.run == nil || j.run.Phase == p {
		return nil
	}
	r := *j.run
	r.Phase = p
	return j.write(&r)
}

// Restore puts back what the last run has removed: what went last first. What cannot be put back is told at the end, when all else is.
func (j *Journal) Restore() ([]Step, error) {
	if j.run == nil {
		return nil, ErrNone
	}
	steps := []Step{{"journal", func(context.Context) error { return j.to(Restoring) }}}
	for _, dir := range slices.Backward(j.run.Backups) {
		steps = append(steps, Step{"backup " + dir, func(ctx context.Context) error { return j.restore(ctx, dir) }})
	}
	return append(steps, Step{"a last look", j.restored}), nil
}

// restore runs the script of a backup. What it says of what it could not put back is asked of the machine afterwards.
func (j *Journal) restore(ctx context.Context, dir string) error {
	if path := filepath.Join(j.options.path(dir), RestoreScript); !exists(path) {
		return fmt.Errorf("%s is gone: there is nothing to put back from", path)
	}
	shell, err := j.options.program("sh")
	if err != nil {
		return err
	}
	root := "/"
	if shell.root != j.options.Root {
		root, dir = j.options.path("/"), j.options.path(dir)
	}
	if _, err = shell.run(ctx, "", filepath.Join(dir, RestoreScript), root); err != nil {
		return fmt.Errorf("%w put back: %w", ErrNotAll, err)
	}
	return nil
}

// restored compares what there is with what the backups have.
func (j *Journal) restored(ctx context.Context) error {
	now, err := Find(ctx, j.options)
	if err != nil {
		return err
	}
	var missing []string
	for _, dir := range j.run.Backups {
		text, err := os.ReadFile(filepath.Join(j.options.path(dir), itemsFile))
		if err != nil {
			return err
		}
		var items []Item
		if err := json.Unmarshal(text, &items); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(dir, itemsFile), err)
		}
		for _, i := range items {
			if !slices.ContainsFunc(slices.Concat(now.Items, now.Kept), func(n Item) bool { return n.Kind == i.Kind && n.In == i.In && n.Name == i.Name }) {
				missing = append(missing, fmt.Sprintf("%s %s", i.Kind, i.Name))
			}
		}
	}
	if err := j.to(Restored); err != nil || len(missing) == 0 {
		return err
	}
	return fmt.Errorf("%w put back: %s", ErrNotAll, strings.Join(missing, ", "))
}
