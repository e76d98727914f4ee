package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/journal"
	"github.com/tierwall/tierwall/controllers/store"
)

// Phase is how far a run is.
type Phase = journal.Phase

// The phases. A run that is killed goes on in the phase that it was in.
const (
	Defining    Phase = "Defining"    // all is saved; the way is made free for our CRDs, and they are installed
	Writing     Phase = "Writing"     // objects are written
	Migrated    Phase = "Migrated"    // the store has what the plan says
	RollingBack Phase = "RollingBack" // what was written is taken back
	Returning   Phase = "Returning"   // CRDs that were taken over, and the APIService, are put back
	RolledBack  Phase = "RolledBack"
)

// Journal is a run's memory: the plan, the source's objects as they were, what is written and what stood there before.
type Journal struct{ *journal.Journal }

// OpenJournal opens the journal in a file, as journal.Open does.
func OpenJournal(path string, mode journal.Mode) (*Journal, error) {
	j, err := journal.Open(path, "migration", mode)
	if err != nil {
		return nil, err
	}
	return &Journal{j}, nil
}

// Run is the plan of the journal's run and its phase: "" when there is none.
func (j *Journal) Run() (*Plan, Phase, error) {
	p := &Plan{}
	phase, err := j.Journal.Run(p)
	return p, phase, err
}

// run is a run of a journal.
type run struct {
	*Site
	*Journal
	plan *Plan
	say  func(string)
}

// earlier is the run that has come to its end with the same source and store, if there is one.
func (s *Site) earlier(j *Journal, p *Plan) (*run, error) {
	if j == nil {
		return nil, nil
	}
	old, phase, err := j.Run()
	if err != nil || phase == "" || phase == RolledBack {
		return nil, err
	}
	if phase != Migrated {
		return nil, fmt.Errorf("%w, which is %s: it has to go on first", journal.ErrOther, phase)
	}
	if old.Store != p.Store || old.Source != p.Source && p.Source != Kubernetes { // of which there is nothing to write
		return nil, fmt.Errorf("%w: from %s to %s; name another one by --journal", journal.ErrOther, old.Source, old.Store)
	}
	if old.Source != p.Source {
		p.Notes = append(p.Notes, fmt.Sprintf("%s, from which an earlier run came, is gone: what it has written stays", old.Source))
		return nil, nil
	}
	return &run{Site: s, Journal: j, plan: old}, nil
}

// wrote is what a run has written of that name, nil when it has deleted it, and what stood there before.
func (r *run) wrote(ref v3.Ref) (wrote, before client.Object, ours bool) {
	if r == nil {
		return nil, nil, false
	}
	i := slices.IndexFunc(r.plan.Moves, func(m Move) bool { return m.Ours && m.Ref() == ref })
	if i < 0 {
		return nil, nil, false
	}
	wrote, errWrote := r.copyOf("want " + ref.String())
	before, errBefore := r.copyOf("before " + ref.String())
	return wrote, before, errWrote == nil && errBefore == nil
}

// copyOf an object in the journal, nil when there is none.
func (j *Journal) copyOf(key string) (client.Object, error) {
	text, err := j.Saved(key)
	if errors.Is(err, journal.ErrNotSaved) {
		return nil, nil
	}
	u := &unstructured.Unstructured{}
	if err == nil {
		err = u.UnmarshalJSON(text)
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %s: %w", key, err)
	}
	return store.Decode(u)
}

// Source is the run's source as it was when it was saved.
func (j *Journal) Source() (*Source, error) {
	text, err := j.Saved("source")
	if err != nil {
		return nil, fmt.Errorf("journal: the source's objects: %w", err)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("journal: the source's objects: %w", err)
	}
	p, _, err := j.Run()
	if err != nil {
		return nil, err
	}
	src := &Source{Name: p.Source}
	for _, text := range list {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(text); err != nil {
			return nil, fmt.Errorf("journal: the source's objects: %w", err)
		}
		src.Objects = append(src.Objects, Object{Was: u})
	}
	return src, nil
}

// Begin writes a plan down with copies of all that it is about, and reads them again; or it refuses. Nothing else is changed.
func (s *Site) Begin(ctx context.Context, j *Journal, src *Source, p *Plan) error {
	if err := p.refused(); err != nil {
		return err
	}
	copies, err := copies(src, p)
	if err != nil {
		return err
	}
	for _, t := range p.InTheWay {
		u, err := s.thing(&t).Get(ctx, t.Name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("saving %s: %w", &t, err)
		}
		if copies[t.String()], err = u.MarshalJSON(); err != nil {
			return err
		}
	}
	for _, t := range p.Removed {
		if copies[t.String()], err = j.Saved(t.String()); err != nil {
			return fmt.Errorf("journal: %s: %w", &t, err)
		}
	}
	p.Begun = time.Now().UTC()
	if err := j.Begin(p, Defining, copies); err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	for key := range copies {
		if _, err := j.Saved(key); err != nil {
			return fmt.Errorf("reading the journal again: %s: %w", key, err)
		}
	}
	return nil
}

// copies of the source's objects, of what is written and of what stood there before.
func copies(src *Source, p *Plan) (map[string][]byte, error) {
	all := []any{}
	for i := range src.Objects {
		all = append(all, src.Objects[i].Was.Object)
	}
	text, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{"source": text}
	for i := range p.Moves {
		m := &p.Moves[i]
		for key, o := range map[string]client.Object{"want ": m.want, "before ": m.before, "now ": m.now} {
			if o == nil {
				continue
			}
			if out[key+m.Ref().String()], err = json.Marshal(o); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// Continue does what is still to do of the journal's run. What it has done is said, a line a thing. It may be killed at any moment, and be
// called again.
func (s *Site) Continue(ctx context.Context, j *Journal, say func(string)) error {
	p, phase, err := j.Run()
	if err != nil {
		return err
	}
	if phase != "" && p.Store != s.storeName() {
		return fmt.Errorf("%w: into %s, not %s", journal.ErrOther, p.Store, s.storeName())
	}
	r := &run{s, j, p, say}
	return j.Go(ctx, phase, map[Phase]journal.Work{
		Defining:    {Do: r.define, Then: Writing},
		Writing:     {Do: r.write, Then: Migrated},
		RollingBack: {Do: r.takeBack, Then: Returning},
		Returning:   {Do: r.giveBack, Then: RolledBack},
	}, s.step)
}

// Rollback turns a run round: the store gets back what it had before. Where the source has gone its policies would then be nowhere, and nobody would
// enforce them: that is refused, unless they are to be abandoned.
func (s *Site) Rollback(ctx context.Context, j *Journal, abandon bool, say func(string)) error {
	p, phase, err := j.Run()
	switch {
	case err != nil:
		return err
	case phase == "":
		return errNoRun
	case phase == RolledBack:
		return nil
	}
	if !abandon {
		if err := s.Standing(ctx, j); err != nil {
			return err
		}
	}
	back := RollingBack
	if phase == Defining || phase == Returning { // no object was written, or none is any more
		back = Returning
	} else if err := (&run{s, j, p, say}).taken(ctx, true); err != nil { // who may not turn it round leaves it as it is
		return err
	}
	if err := j.Turn(back, s.step); err != nil {
		return err
	}
	return s.Continue(ctx, j, say)
}

// Standing refuses to roll a run back where nobody would enforce then what it has written: its source in the cluster is gone, or some of it, or Calico's agents are.
func (s *Site) Standing(ctx context.Context, j *Journal) error {
	p, phase, err := j.Run()
	if err != nil || s.dynamic == nil || phase != Writing && phase != Migrated || !slices.ContainsFunc(p.Moves, func(m Move) bool { return m.Ours }) {
		return err
	}
	switch p.Source {
	case Stored:
		err = s.stored(ctx, j)
	case Native: // which its API server has, and serves again at the end
	default: // a file, which is where it was
		return nil
	}
	if err != nil {
		return err
	}
	agents, err := s.cleanup.Agents(ctx)
	if err == nil && len(agents) == 0 {
		err = standsNot("no agent of Calico's runs, so that nobody would enforce its policies")
	}
	return err
}

func standsNot(why string, args ...any) error {
	return fmt.Errorf("%w back: %s; --abandon takes them away all the same", ErrRefused, fmt.Sprintf(why, args...))
}

// stored tells whether the cluster has still what came from where Calico stores it.
func (s *Site) stored(ctx context.Context, j *Journal) error {
	left, err := s.serves(Stored)
	if err != nil {
		return err
	}
	if len(left) == 0 {
		return standsNot("%s is gone, so that its policies would be nowhere: tierctl cleanup restore puts it back", Stored)
	}
	saved, err := j.Source()
	if err != nil {
		return err
	}
	now, err := s.Read(ctx, Stored)
	if err != nil {
		return err
	}
	for _, d := range saved.Differences(now) {
		if strings.HasSuffix(d, " deleted") {
			return standsNot("of %s there is no %s any more, nor perhaps others, so that it would be nowhere: tierctl cleanup restore puts back what cleanup has removed", Stored, strings.TrimSuffix(d, " deleted"))
		}
	}
	return nil
}

var errNoRun = errors.New("nothing was migrated with this journal")

// define makes the way free for our CRDs, and installs them.
func (r *run) define(ctx context.Context) error {
	if r.dynamic == nil {
		return nil
	}
	for i := range r.plan.InTheWay {
		if err := r.remove(ctx, &r.plan.InTheWay[i]); err != nil {
			return err
		}
	}
	if err := r.step("applying CRDs"); err != nil {
		return err
	}
	return r.crds.Apply(ctx, false, func(crd, done string) { r.say("CustomResourceDefinition/" + crd + " " + done) })
}

// await tries again until it is done, for as long as is allowed.
func (s *Site) await(ctx context.Context, vain string, try func() (bool, error)) error {
	deadline := time.Now().Add(s.patience)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		done, err := try()
		if done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New(vain)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// write what the plan says, all of it first on trial. What was written before a kill is there already.
func (r *run) write(ctx context.Context) error {
	if err := r.ours(ctx); err != nil {
		return err
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	return r.onceServed(ctx, func() error {
		return r.transact(ctx, false, func(tx store.Writer, trial bool, say func(string)) error {
			doing := map[bool]string{true: "trying ", false: "writing "}[trial]
			for i := range r.plan.Moves {
				m := &r.plan.Moves[i]
				if m.Does == Unchanged {
					continue
				}
				line, err := r.put(tx, m, doing, "now ", "want ")
				if err != nil {
					return err
				}
				if line != "" {
					say(line)
				}
			}
			return nil
		})
	})
}

// errTried ends a transaction before anything is written.
var errTried = errors.New("tried")

// transact does something to objects, of which it says a line each. An API server is asked on trial first, and then writes one after another: each is said
// at once, for some of thousands is done when it stops. tried ends it after the trial.
func (r *run) transact(ctx context.Context, tried bool, do func(tx store.Writer, trial bool, say func(string)) error) error {
	trial := !r.writesOnce
	var lines []string
	_, err := r.Store.Transact(ctx, func(tx store.Writer) error {
		lines = nil
		say := func(line string) { lines = append(lines, line) }
		if !trial && !r.writesOnce {
			say = r.say
		}
		if err := do(tx, trial, say); err != nil {
			return err
		}
		if tried {
			return errTried
		}
		if trial && len(lines) >= many {
			r.say(fmt.Sprintf("%d objects were tried; now they are written", len(lines)))
		}
		trial = false
		return nil
	})
	switch {
	case errors.Is(err, errTried):
		return nil
	case err == nil && r.writesOnce:
		for _, l := range lines {
			r.say(l)
		}
	}
	return err
}

// many objects are worth a word before they are done.
const many = 100

// onceServed does something as soon as CRDs that were installed just now are served, and what was in the way is forgotten.
func (s *Site) onceServed(ctx context.Context, do func() error) (err error) {
	vain := "the cluster does not serve our CRDs"
	wait := s.await(ctx, vain, func() (bool, error) {
		if err = do(); errors.Is(err, store.ErrNoKind) || apierrors.IsServiceUnavailable(err) || err != nil && strings.Contains(err.Error(), "failed calling webhook") {
			return false, nil
		}
		return true, nil
	})
	return errors.Join(wait, err)
}

// errChanged is of an object that is neither as it was nor as it is to be.
var errChanged = errors.New("has been changed meanwhile")

// put one object from one state into another, both as the journal has them, and say what was done: nothing where that is so already.
func (r *run) put(tx store.Writer, m *Move, doing, from, to string) (string, error) {
	ref := m.Ref()
	was, errWas := r.copyOf(from + ref.String())
	want, errWant := r.copyOf(to + ref.String())
	now, err := tx.Get(ref)
	if errors.Is(err, store.ErrNotFound) {
		now, err = nil, nil
	}
	if err := errors.Join(errWas, errWant, err); err != nil {
		return "", err
	}
	if same(now, want) {
		return "", nil
	}
	if !same(now, was) {
		return "", fmt.Errorf("%s %w", ref, errChanged)
	}
	if err := r.step(doing + ref.String()); err != nil {
		return "", err
	}
	if want == nil {
		return ref.String() + " deleted", tx.Delete(ref)
	}
	want.SetUID("")
	want.SetCreationTimestamp(metav1.Time{})
	want.SetResourceVersion("")
	if now == nil {
		_, err = tx.Create(want)
		return ref.String() + " created", err
	}
	want.SetResourceVersion(now.GetResourceVersion())
	_, err = tx.Update(want)
	return ref.String() + " replaced", err
}

// takeBack what was written, last first. What somebody has changed since stays.
func (r *run) takeBack(ctx context.Context) error { return r.taken(ctx, false) }

func (r *run) taken(ctx context.Context, tried bool) error {
	if err := r.ours(ctx); err != nil {
		return err
	}
	return r.transact(ctx, tried, func(tx store.Writer, trial bool, say func(string)) error {
		doing := map[bool]string{true: "trying to take back ", false: "taking back "}[trial]
		for i := range slices.Backward(r.plan.Moves) {
			m := &r.plan.Moves[i]
			if !m.Ours {
				continue
			}
			line, err := r.put(tx, m, doing, "want ", "before ")
			switch {
			case errors.Is(err, store.ErrNoKind): // nor was it written
			case errors.Is(err, store.ErrForbidden) && m.Kind == "Tier" && builtIn(m.Name):
				say(fmt.Sprintf("stays: %s, which is built in", m.Ref()))
			case errors.Is(err, errChanged), errors.Is(err, store.ErrForbidden) && m.Kind == "Tier":
				say(fmt.Sprintf("stays: %v", err))
			case err != nil:
				return err
			case line != "":
				say(line)
			}
		}
		return nil
	})
}

// giveBack the CRDs that were taken over, and then who served before. CRDs that were not there before stay: objects of others may be in them by now.
func (r *run) giveBack(ctx context.Context) error {
	if r.dynamic == nil {
		return nil
	}
	if err := r.step("restoring CRDs"); err != nil {
		return err
	}
	if err := r.crds.Restore(ctx, false, func(crd, done string) { r.say("CustomResourceDefinition/" + crd + " " + done) }); err != nil {
		return err
	}
	for _, t := range slices.Concat(r.plan.InTheWay, r.plan.Removed) {
		if err := r.restore(ctx, &t); err != nil {
			return err
		}
	}
	return nil
}
