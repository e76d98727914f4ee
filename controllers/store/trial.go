package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Trial is what an object that was changed on trial carries until somebody confirms the change: the object as it was, and until when it is
// to be what it is now. It stands in the object itself, so that whoever hears of the change hears in the same breath how to undo it, and
// needs nobody for that; see "Safe host changes" in cli/README.md.
type Trial struct {
	ID     string    `json:"id"`     // the same in all objects that were changed together
	By     string    `json:"by"`     // for people
	Until  time.Time `json:"until"`  // by the clock of who wrote it
	Within string    `json:"within"` // a time.Duration, by the clock of who hears of it
	// Generation is the object's before; 0 of a new one.
	Generation int64 `json:"generation,omitempty"`
	// Was is the object before, but for what of its metadata is the store's; nothing of a new one.
	Was json.RawMessage `json:"was,omitempty"`
	// Gone says that the object is to be deleted: until it is confirmed nobody enforces it, and it is there as it was.
	Gone bool `json:"gone,omitempty"`
}

// TrialAnnotation is where an object carries its Trial.
const TrialAnnotation = "tierwall.io/confirm"

// ErrOnTrial is of an object that cannot be changed: an earlier change of it is neither confirmed nor taken back.
var ErrOnTrial = errors.New("was changed on trial: say tierctl confirm first, or tierctl confirm --abort")

// NewTrial of a change that is to be confirmed within a time.
func NewTrial(by string, within time.Duration) *Trial {
	return &Trial{ID: strings.ToLower(rand.Text()[:8]), By: by, Until: time.Now().Add(within).UTC().Truncate(time.Second), Within: within.String()}
}

// TrialOf an object, or nil when it is on none.
func TrialOf(obj client.Object) (*Trial, error) {
	text, on := obj.GetAnnotations()[TrialAnnotation]
	if !on {
		return nil, nil
	}
	t := &Trial{}
	if err := json.Unmarshal([]byte(text), t); err != nil {
		return nil, fmt.Errorf("%s: annotation %s: %w", v3.RefOf(obj.(v3.Object)), TrialAnnotation, err)
	}
	if _, err := time.ParseDuration(t.Within); err != nil {
		return nil, fmt.Errorf("%s: annotation %s: within: %w", v3.RefOf(obj.(v3.Object)), TrialAnnotation, err)
	}
	return t, nil
}

// Due is when the trial ends for one who has heard of it at a time: whichever clock says so first.
func (t *Trial) Due(heard time.Time) time.Time {
	within, _ := time.ParseDuration(t.Within) // TrialOf has parsed it
	if own := heard.Add(within); own.Before(t.Until) {
		return own
	}
	return t.Until
}

// Now is an object on trial as it is to be enforced meanwhile, and once it is confirmed; nil for not at all.
func (t *Trial) Now(obj client.Object) client.Object {
	if t.Gone {
		return nil
	}
	return offTrial(obj)
}

// Before is an object on trial as it was; nil if it was not there.
func (t *Trial) Before(obj client.Object) (client.Object, error) {
	if t.Gone {
		return offTrial(obj), nil
	}
	if t.Was == nil {
		return nil, nil
	}
	ref := v3.RefOf(obj.(v3.Object))
	was := &unstructured.Unstructured{}
	err := json.Unmarshal(t.Was, &was.Object)
	kind := refKind(ref.Kind)
	if err != nil || kind == nil {
		return nil, fmt.Errorf("%s: annotation %s: was: %w", ref, TrialAnnotation, errors.Join(err, ErrCorruptObject))
	}
	labels, annotations := was.GetLabels(), was.GetAnnotations()
	u, err := toUnstructured(obj)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	was.Object["metadata"] = u.Object["metadata"]
	was.SetGroupVersionKind(kind.GVK)
	was.SetLabels(labels)
	was.SetAnnotations(annotations)
	out, errs := Admit(was, nil) // nobody else has judged what an annotation says
	if len(errs) > 0 {
		return nil, fmt.Errorf("%s: annotation %s: was: %w: %w", ref, TrialAnnotation, ErrInvalid, errs.ToAggregate())
	}
	if TierOf(out) != TierOf(obj) { // who may write into one tier may not into another
		return nil, fmt.Errorf("%s: annotation %s: was: %w: it stands in tier %q, and the object in %q", ref, TrialAnnotation, ErrForbidden, TierOf(out), TierOf(obj))
	}
	return out, nil
}

// changed tells whether somebody has changed an object since it was put on trial.
func (t *Trial) changed(obj client.Object) bool { return obj.GetGeneration() > t.Generation+1 }

// offTrial is the object without its trial.
func offTrial(obj client.Object) client.Object {
	out := obj.DeepCopyObject().(client.Object)
	annotations := maps.Clone(out.GetAnnotations())
	delete(annotations, TrialAnnotation)
	if len(annotations) == 0 {
		annotations = nil
	}
	out.SetAnnotations(annotations)
	return out
}

// put an object on trial. old is what it was, or nil.
func (t *Trial) put(obj, old client.Object) (client.Object, error) {
	on := *t
	if old != nil {
		on.Generation = old.GetGeneration()
	}
	if old != nil && !on.Gone {
		u, err := toUnstructured(old)
		if err != nil {
			return nil, err
		}
		labels, annotations := u.GetLabels(), u.GetAnnotations()
		delete(u.Object, "metadata")
		delete(u.Object, "status")
		u.SetLabels(labels)
		u.SetAnnotations(annotations)
		if on.Was, err = json.Marshal(u.Object); err != nil {
			return nil, err
		}
		if _, err := on.Before(old); err != nil {
			return nil, fmt.Errorf("it could not be put back as it is now: %w", err)
		}
	}
	text, err := json.Marshal(on)
	if err != nil {
		return nil, err
	}
	out := obj.DeepCopyObject().(client.Object)
	annotations := maps.Clone(out.GetAnnotations())
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[TrialAnnotation] = string(text)
	out.SetAnnotations(annotations)
	return out, nil
}

// Trier is a Writer that puts on trial what it changes, and lets nobody change what is on trial already. Without a Trial it does just that.
type Trier struct {
	under Writer
	trial *Trial
	// Changed are the objects that it has put on trial, as they are stored.
	Changed map[v3.Ref]client.Object
	gone    map[v3.Ref]bool
}

// OnTrial makes a Trier of a Writer.
func OnTrial(under Writer, t *Trial) *Trier {
	return &Trier{under: under, trial: t, Changed: map[v3.Ref]client.Object{}, gone: map[v3.Ref]bool{}}
}

// Get implements Writer.
func (w *Trier) Get(ref v3.Ref) (client.Object, error) {
	if w.gone[ref] {
		return nil, fmt.Errorf("%s %w", ref, ErrNotFound)
	}
	return w.under.Get(ref)
}

// List implements Writer.
func (w *Trier) List(kind, namespace string) ([]client.Object, error) {
	objs, err := w.under.List(kind, namespace)
	return slices.DeleteFunc(objs, func(o client.Object) bool { return w.gone[v3.RefOf(o.(v3.Object))] }), err
}

// Create implements Writer.
func (w *Trier) Create(obj client.Object) (client.Object, error) {
	ref := v3.RefOf(obj.(v3.Object))
	old, err := w.under.Get(ref)
	if err == nil { // it may be there just because its deletion, or itself, is on trial
		if err := w.free(ref, old); err != nil {
			return nil, err
		}
	}
	obj = offTrial(obj)
	if w.trial == nil {
		return w.under.Create(obj)
	}
	return w.write(ref, obj, nil, *w.trial, w.under.Create)
}

// Update implements Writer.
func (w *Trier) Update(obj client.Object) (client.Object, error) {
	ref := v3.RefOf(obj.(v3.Object))
	old, err := w.under.Get(ref)
	if err == nil {
		err = w.free(ref, old)
	}
	obj = offTrial(obj)
	switch {
	case w.trial == nil && !errors.Is(err, ErrOnTrial):
		return w.under.Update(obj) // which says itself what is wrong
	case err != nil:
		return nil, err
	case unchanged(obj, old):
		return w.under.Update(obj)
	case cmp.Or(TierOf(old), "default") != cmp.Or(TierOf(obj), "default"):
		return nil, otherTier(ref)
	}
	return w.write(ref, obj, old, *w.trial, w.under.Update)
}

// Apply implements Writer. What it would leave as it is, is on trial as well.
func (w *Trier) Apply(obj *unstructured.Unstructured, o ApplyOptions) (client.Object, error) {
	ref, _, err := refOfUntyped(obj)
	if err != nil {
		return nil, err
	}
	old, err := w.under.Get(ref)
	if err == nil {
		err = w.free(ref, old)
	} else if errors.Is(err, ErrNotFound) {
		old, err = nil, nil
	}
	obj = offTrial(obj).(*unstructured.Unstructured)
	switch tier, _, _ := unstructured.NestedString(obj.Object, "spec", "tier"); {
	case w.trial == nil && !errors.Is(err, ErrOnTrial):
		return w.under.Apply(obj, o)
	case err != nil:
		return nil, err
	case old != nil && tier != "" && tier != TierOf(old):
		return nil, otherTier(ref)
	}
	return w.write(ref, obj, old, *w.trial, func(on client.Object) (client.Object, error) {
		return w.under.Apply(on.(*unstructured.Unstructured), o)
	})
}

// Delete implements Writer.
func (w *Trier) Delete(ref v3.Ref) error {
	old, err := w.Get(ref)
	if err == nil {
		err = w.free(ref, old)
	}
	switch {
	case w.trial == nil && !errors.Is(err, ErrOnTrial):
		return w.under.Delete(ref)
	case err != nil:
		return err
	}
	if err := deletable(w, ref); err != nil {
		return err
	}
	gone := *w.trial
	gone.Gone = true
	if _, err := w.write(ref, old, old, gone, w.under.Update); err != nil {
		return err
	}
	w.gone[ref] = true
	return nil
}

func (w *Trier) write(ref v3.Ref, obj, old client.Object, t Trial, how func(client.Object) (client.Object, error)) (client.Object, error) {
	if !triable(refKind(ref.Kind)) {
		return nil, fmt.Errorf("%s: %w: a %s cannot be changed on trial: only ClusterNetworkPolicy and what agents follow of projectcalico.org can", ref, ErrInvalid, ref.Kind)
	}
	on, err := t.put(obj, old)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	now, err := how(on)
	if err == nil {
		w.Changed[ref] = now
	}
	return now, err
}

// otherTier is refused for Before would not believe it.
func otherTier(ref v3.Ref) error {
	return fmt.Errorf("%s: %w: a policy cannot change its tier on trial", ref, ErrInvalid)
}

// free tells whether an object is on no other trial.
func (w *Trier) free(ref v3.Ref, obj client.Object) error {
	t, err := TrialOf(obj)
	if err != nil || t == nil || w.trial != nil && t.ID == w.trial.ID { // an annotation that says nothing holds nobody
		return nil
	}
	return fmt.Errorf("%s %w (change %s, by %s, until %s)", ref, ErrOnTrial, t.ID, t.By, t.Until.Format(time.RFC3339))
}

// triable are the kinds that say what is allowed, and to whom.
func triable(k *Kind) bool { return k != nil && k.ownStatus() && k.Kind != kindControllers }

// unchanged tells whether an update would change nothing that users write.
func unchanged(obj, old client.Object) bool {
	u, err := toUnstructured(obj)
	if err != nil {
		return false
	}
	before, err := toUnstructured(old)
	if err != nil {
		return false
	}
	admitted, errs := Admit(u, before)
	if len(errs) > 0 {
		return false
	}
	if u, err = toUnstructured(admitted); err != nil {
		return false
	}
	return reflect.DeepEqual(written(u), written(before))
}

// written is what users write of an object.
func written(u *unstructured.Unstructured) []any {
	return []any{u.GetLabels(), u.GetAnnotations(), u.Object["spec"]}
}

// OnTrialIn are the objects of a store that are on trial, and those alone.
func OnTrialIn(ctx context.Context, s Store) (out []client.Object, err error) {
	for i := range kinds {
		if !triable(&kinds[i]) {
			continue
		}
		objs, err := s.List(ctx, kinds[i].Kind, "")
		if _, cluster := s.(*Kube); errors.Is(err, ErrNoKind) || cluster && kinds[i].standalone() {
			continue
		}
		if err != nil && !errors.Is(err, ErrCorruptObject) {
			return nil, err
		}
		for _, o := range objs {
			if _, on := o.GetAnnotations()[TrialAnnotation]; on {
				out = append(out, o)
			}
		}
	}
	return out, nil
}

// Settled is what has become of an object on trial.
type Settled struct {
	Object client.Object // as it was on trial
	Trial  *Trial
	Stays  string // why it is as it is all the same, when it was to be put back
}

// Settle ends trials of objects, in one transaction: each object stays as it is now or, if it is not kept, becomes what it was before, unless
// somebody has changed it since. which says of each trial whether it is to be ended.
func Settle(ctx context.Context, s Store, refs []v3.Ref, keep bool, which func(v3.Ref, *Trial) bool) (done []Settled, err error) {
	_, err = s.Transact(ctx, func(tx Writer) error {
		done = nil
		var gone []Settled
		for _, ref := range tiersFirst(refs) {
			obj, err := tx.Get(ref)
			if errors.Is(err, ErrNotFound) {
				continue
			} else if err != nil {
				return err
			}
			t, err := TrialOf(obj)
			if err != nil || t == nil || !which(ref, t) {
				continue
			}
			end := Settled{Object: obj, Trial: t}
			to, err := end.to(keep)
			if err != nil {
				return err
			}
			if to == nil {
				gone = append(gone, end)
				continue
			}
			to.SetResourceVersion(obj.GetResourceVersion())
			if _, err := tx.Update(to); err != nil {
				return err
			}
			done = append(done, end)
		}
		slices.Reverse(gone)
		for _, end := range gone {
			ref := v3.RefOf(end.Object.(v3.Object))
			err := tx.Delete(ref)
			if errors.Is(err, ErrForbidden) { // a tier, into which somebody has put a policy since
				end.Stays = err.Error()
				_, err = tx.Update(offTrial(end.Object))
			}
			if err != nil {
				return err
			}
			done = append(done, end)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return done, nil
}

// to is what an object becomes when its trial ends; nil if it goes.
func (e *Settled) to(keep bool) (client.Object, error) {
	changed := e.Trial.changed(e.Object)
	switch {
	case changed && !keep, changed && e.Trial.Gone:
		e.Stays = "somebody has changed it since"
		return offTrial(e.Object), nil
	case keep:
		return e.Trial.Now(e.Object), nil
	}
	return e.Trial.Before(e.Object)
}

func tiersFirst(refs []v3.Ref) []v3.Ref {
	out := slices.Clone(refs)
	slices.SortStableFunc(out, func(a, b v3.Ref) int {
		switch {
		case (a.Kind == "Tier") == (b.Kind == "Tier"):
			return a.Compare(b)
		case a.Kind == "Tier":
			return -1
		}
		return 1
	})
	return out
}
