package cleanup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/tierwall/tierwall/controllers/crds"
	"github.com/tierwall/tierwall/controllers/journal"
)

// Refusals: nothing was changed.
var (
	ErrRunning  = errors.New("Calico still runs")
	ErrOrphaned = errors.New("finalizers that nobody will take away")
	ErrUnknown  = errors.New("not all could be looked at")
	ErrUnsafe   = errors.New("it would not be safe")
)

// ErrNothing is of a run that has removed nothing yet.
var ErrNothing = errors.New("nothing was removed: there is nothing to put back")

// Begin writes down a run that removes what an inventory has left, or refuses.
func (c *Cluster) Begin(j *Journal, i *Inventory, o Orders) error {
	switch _, phase, err := j.Run(); {
	case err != nil:
		return err
	case phase == Saving || phase == Removing || phase == Restoring:
		return fmt.Errorf("%w, which is %s: it has to go on first", journal.ErrOther, phase)
	}
	if err := i.Safe(o); err != nil {
		return err
	}
	return j.Begin(&Plan{Begun: time.Now().UTC(), Server: c.host, Orders: o, Things: i.Left()}, Saving, nil)
}

// Safe says why what an inventory has left is not to be removed: ErrRunning, ErrUnknown, ErrUnsafe, ErrOrphaned.
func (i *Inventory) Safe(o Orders) error {
	var running, orphaned []string
	for _, t := range i.Running() {
		running = append(running, fmt.Sprintf("%s (%s)", &t, t.Running))
	}
	for _, t := range i.Left() {
		if len(t.Orphaned) > 0 {
			orphaned = append(orphaned, fmt.Sprintf("%s (%s)", &t, strings.Join(t.Orphaned, ", ")))
		}
	}
	switch {
	case len(running) > 0:
		return fmt.Errorf("%w: %s", ErrRunning, strings.Join(running, ", "))
	case len(i.Unknown) > 0:
		return fmt.Errorf("%w: %s", ErrUnknown, first(i.Unknown))
	case len(i.Refused) > 0:
		return fmt.Errorf("%w: %s", ErrUnsafe, strings.Join(i.Refused, "; "))
	case len(orphaned) > 0 && !o.ForceFinalizers:
		return fmt.Errorf("%w keep %s", ErrOrphaned, strings.Join(orphaned, ", "))
	}
	return nil
}

// first of what there is to say: where an API server does not answer that is much, and the same.
func first(said []string) string {
	const most = 3
	if len(said) <= most {
		return strings.Join(said, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(said[:most], "; "), len(said)-most)
}

// run is a run that goes on.
type run struct {
	*Cluster
	*Journal
	plan *Plan
	say  func(string)
}

// Continue does what is still to do of the journal's run. What it has done is said, an object at a time. It may be killed at any moment, and
// be called again.
func (c *Cluster) Continue(ctx context.Context, j *Journal, say func(string)) error {
	p, phase, err := j.Run()
	if err != nil {
		return err
	}
	if phase != "" && p.Server != c.host {
		return fmt.Errorf("%w: on the cluster at %s, not %s", journal.ErrOther, p.Server, c.host)
	}
	r := &run{c, j, p, say}
	return j.Go(ctx, phase, map[Phase]journal.Work{
		Saving:    {Do: r.saveAll, Then: Removing},
		Removing:  {Do: r.removeAll, Then: Removed},
		Restoring: {Do: r.restoreAll, Then: Restored},
	}, c.step)
}

// Restore turns a run round: what it has removed is made again.
func (c *Cluster) Restore(ctx context.Context, j *Journal, say func(string)) error {
	switch _, phase, err := j.Run(); {
	case err != nil:
		return err
	case phase == "" || phase == Saving:
		return ErrNothing
	case phase == Restored:
		return nil
	}
	if err := j.Turn(Restoring, c.step); err != nil {
		return err
	}
	return c.Continue(ctx, j, say)
}

// saveAll copies every object into the journal, and reads each copy again.
func (r *run) saveAll(ctx context.Context) error {
	for i := range r.plan.Things {
		t := &r.plan.Things[i]
		if r.Has(t.key()) {
			continue
		}
		u, err := r.get(ctx, t)
		if err != nil {
			return err
		}
		if u == nil { // it went meanwhile
			continue
		}
		if err := r.step("saving " + t.String()); err != nil {
			return err
		}
		if err := r.save(t, u); err != nil {
			return fmt.Errorf("saving %s: %w", t, err)
		}
	}
	for i := range r.plan.Things {
		if _, err := r.Saved(&r.plan.Things[i]); err != nil && !errors.Is(err, journal.ErrNotSaved) {
			return err
		}
	}
	return nil
}

// removeAll stage by stage: one has gone before the next begins.
func (r *run) removeAll(ctx context.Context) error {
	for rest := r.plan.Things; len(rest) > 0; {
		n := slices.IndexFunc(rest, func(t Thing) bool { return t.Stage != rest[0].Stage || rank(t.Kind) != rank(rest[0].Kind) })
		if n < 0 {
			n = len(rest)
		}
		if err := r.removeThese(ctx, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func (r *run) removeThese(ctx context.Context, these []Thing) error {
	for i := range these {
		if err := r.remove(ctx, &these[i]); err != nil {
			return err
		}
	}
	for i := range these {
		if err := r.gone(ctx, &these[i]); err != nil {
			return err
		}
	}
	return nil
}

// remove asks for an object to go, its way.
func (r *run) remove(ctx context.Context, t *Thing) error {
	u, err := r.get(ctx, t)
	if err != nil || r.Gone(t) || u != nil && local(u) {
		return err
	}
	if err := r.planned(t, u); err != nil {
		return err
	}
	if t.Way == TakenOut { // whether or not somebody has deleted it
		if err := r.takeOut(ctx, t, u); err != nil {
			return err
		}
	}
	switch {
	case u == nil:
		return nil
	case t.Way == HandedBack:
		return r.handBack(ctx, t)
	case t.Way == Released:
		return r.release(ctx, t)
	}
	if u.GetDeletionTimestamp() == nil {
		if stays, err := r.occupied(ctx, t, u); err != nil || stays {
			return err
		}
		if err := r.delete(ctx, t, u.GetUID()); err != nil {
			return err
		}
	}
	return r.release(ctx, t)
}

// settled is how long an API server may go on asking an admission policy that is gone.
const settled = 10 * time.Second

func (r *run) delete(ctx context.Context, t *Thing, uid types.UID) error {
	if err := r.step("deleting " + t.String()); err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	var denied error
	done, err := r.until(ctx, min(settled, r.patience), func() (bool, error) {
		err := r.in(t).Delete(ctx, t.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: &background})
		if apierrors.IsForbidden(err) {
			denied = err
			return false, nil
		}
		return true, err
	})
	if err == nil && !done {
		err = denied
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting %s: %w", t, err)
	}
	return nil
}

// release takes away an object's orphaned finalizers: never those of others.
func (r *run) release(ctx context.Context, t *Thing) error {
	if len(t.Orphaned) == 0 {
		return nil
	}
	u, err := r.get(ctx, t)
	if err != nil || u == nil {
		return err
	}
	kept := slices.DeleteFunc(u.GetFinalizers(), func(f string) bool { return slices.Contains(t.Orphaned, f) })
	patch := fmt.Sprintf(`{"metadata":{"resourceVersion":%q,"finalizers":%s}}`, u.GetResourceVersion(), list(kept))
	if err := r.step("taking away finalizers of " + t.String()); err != nil {
		return err
	}
	if _, err := r.in(t).Patch(ctx, t.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("taking away the finalizers %v of %s: %w", t.Orphaned, t, err)
	}
	return nil
}

// local tells of an APIService that the API server has made for CRDs that are there, as soon as the one of the same name had gone.
func local(u *unstructured.Unstructured) bool {
	return u.GetKind() == "APIService" && isAggregated(u) == ""
}

// planned tells of an object that is there whether it is the one that was saved. What somebody has written in it since is saved again.
func (r *run) planned(t *Thing, u *unstructured.Unstructured) error {
	if u == nil {
		return nil
	}
	saved, err := r.Saved(t)
	if errors.Is(err, journal.ErrNotSaved) || err == nil && saved.GetUID() != u.GetUID() {
		return fmt.Errorf("%s was made anew meanwhile: it is not what was planned", t)
	}
	if err == nil && t.Stage == Objects && u.GetDeletionTimestamp() == nil && saved.GetResourceVersion() != u.GetResourceVersion() {
		return r.save(t, u)
	}
	return err
}

// occupied looks whether something would go with an object unseen, for it was made meanwhile and is in no plan. A namespace then stays; of a CRD it
// is an error.
func (r *run) occupied(ctx context.Context, t *Thing, u *unstructured.Unstructured) (stays bool, err error) {
	s := r.search()
	switch {
	case t.Way == IfEmpty:
		others, err := s.others(ctx, t.Name, r.plan.Things)
		if others = append(others, s.found.Unknown...); err != nil || len(others) == 0 {
			return false, err
		}
		r.say(fmt.Sprintf("%s stays: in it there is %s", t, someOf(others)))
		return true, r.Note(t.key())
	case t.Stage == Definitions:
		s.defines(u, t)
	}
	for _, d := range s.definitions {
		if d.kind == "NodeReport" { // of nodes that are away
			continue
		}
		if err := s.objectsOf(ctx, d); err != nil {
			return false, err
		}
	}
	if made := s.found.Things; len(made) > 0 {
		return false, fmt.Errorf("%s was made meanwhile, and would go with %s: delete it, and the run can go on", &made[0], t)
	}
	return false, nil
}

// handBack a CRD, with all others that were taken over.
func (r *run) handBack(ctx context.Context, t *Thing) error {
	if err := r.step("putting back " + t.String()); err != nil {
		return err
	}
	c, err := crds.Open(r.config)
	if err != nil {
		return err
	}
	return c.Restore(ctx, false, func(string, string) {})
}

func list(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = fmt.Sprintf("%q", w)
	}
	return "[" + strings.Join(quoted, ",") + "]"
}

// gone waits until an object is, for as long as is allowed: a finalizer that is not orphaned is its controller's to take away.
func (r *run) gone(ctx context.Context, t *Thing) error {
	if r.Gone(t) {
		return nil
	}
	why := ""
	done, err := r.until(ctx, r.patience, func() (_ bool, err error) {
		why, err = r.keeps(ctx, t)
		return why == "", err
	})
	switch {
	case err != nil:
		return err
	case !done:
		return fmt.Errorf("%s does not go: %s; what was done stays done, and the run can go on", t, why)
	}
	if err := r.step("noting that " + t.String() + " is gone"); err != nil {
		return err
	}
	if err := r.Note(t.key()); err != nil {
		return fmt.Errorf("noting that %s is gone: %w", t, err)
	}
	r.say(t.String() + " " + cmp.Or(map[Way]string{HandedBack: "put back as it was", Released: "stays, without its finalizers"}[t.Way], "deleted"))
	return nil
}

// keeps is what keeps an object from having gone its way; "" for nothing.
func (r *run) keeps(ctx context.Context, t *Thing) (string, error) {
	u, err := r.get(ctx, t)
	switch {
	case err != nil:
		return "", err
	case u != nil && local(u):
		return "", nil
	case u != nil && t.Way == HandedBack && u.GetAnnotations()[crds.ReplacedAnnotation] == "":
		return "", nil
	case u != nil && t.Way == Released && !slices.ContainsFunc(u.GetFinalizers(), func(f string) bool { return slices.Contains(t.Orphaned, f) }):
		return "", nil
	case u != nil:
		finalizers := u.GetFinalizers()
		if own, _, err := unstructured.NestedStringSlice(u.Object, "spec", "finalizers"); t.Kind == "Namespace" && err == nil {
			finalizers = append(finalizers, own...)
		}
		return fmt.Sprintf("it waits for its finalizers %v%s", finalizers, waitingFor(u)), nil
	case t.Stage != Nodes && t.Stage != Programs:
		return "", nil
	}
	saved, err := r.Saved(t)
	if err != nil {
		return "", err
	}
	pods, err := r.podsOf(ctx, saved)
	if err != nil {
		return "", err
	}
	for i := range pods {
		if node := text(&pods[i], "spec", "nodeName"); !r.Noted(without(node)) {
			return fmt.Sprintf("pod %s still runs on node %s", pods[i].GetName(), node), nil
		}
	}
	return "", nil
}

// until something is done, or for as long as is allowed. It is asked again and again, ever less often.
func (r *run) until(ctx context.Context, patience time.Duration, do func() (done bool, err error)) (bool, error) {
	deadline := time.Now().Add(patience)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if done, err := do(); done || err != nil {
			return done, err
		}
		if time.Now().After(deadline) {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// waitingFor is what a namespace's or a CRD's conditions say of it.
func waitingFor(u *unstructured.Unstructured) (out string) {
	for _, c := range slice(u.Object, "status", "conditions") {
		if c["status"] == "True" && c["message"] != nil && c["message"] != "" {
			out += fmt.Sprintf("; %v", c["message"])
		}
	}
	return out
}

// restoreAll makes what was saved again, definitions first; what is there is left as it is.
func (r *run) restoreAll(ctx context.Context) error {
	for i := len(r.plan.Things) - 1; i >= 0; i-- {
		t := &r.plan.Things[i]
		u, err := r.Saved(t)
		if errors.Is(err, journal.ErrNotSaved) {
			continue
		} else if err != nil {
			return err
		}
		if err := r.restore(ctx, t, u); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) restore(ctx context.Context, t *Thing, u *unstructured.Unstructured) error {
	if t.Way == Released { // whoever needs them gives it finalizers again
		return nil
	}
	was := u.GetUID()
	asWritten(u)
	done, err := r.until(ctx, r.patience, func() (bool, error) {
		there, err := r.get(ctx, t)
		switch {
		case err != nil || there != nil && there.GetDeletionTimestamp() != nil:
			return false, err
		case there != nil && (t.Way == TakenOut || t.Way == HandedBack) && there.GetUID() == was:
			return r.change(ctx, t, there, u)
		case there != nil:
			return true, nil
		}
		if err := r.step("making " + t.String() + " again"); err != nil {
			return false, err
		}
		_, err = r.in(t).Create(ctx, u, metav1.CreateOptions{FieldManager: "tierctl"})
		switch {
		case err == nil:
			r.say(t.String() + " restored")
			return true, nil
		case apierrors.IsNotFound(err), apierrors.IsAlreadyExists(err): // its CRD is not served yet, or somebody was faster
			return false, nil
		}
		return false, fmt.Errorf("making %s again: %w", t, err)
	})
	if err == nil && !done {
		err = fmt.Errorf("making %s again: what was there does not go, or its definition is not served", t)
	}
	return err
}

// asWritten takes from an object what only its life in a cluster has given it.
func asWritten(u *unstructured.Unstructured) {
	for _, field := range []string{"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"} {
		unstructured.RemoveNestedField(u.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(u.Object, "status")
	// Calico's are made anew, too, and have other uids: what names an owner that is not there is collected as garbage
	owners := slices.DeleteFunc(u.GetOwnerReferences(), func(o metav1.OwnerReference) bool {
		return Calicos(o.APIVersion)
	})
	if u.SetOwnerReferences(owners); len(owners) == 0 {
		unstructured.RemoveNestedField(u.Object, "metadata", "ownerReferences")
	}
	if u.GetKind() == "Service" && text(u, "spec", "clusterIP") != "None" { // another may have its address by now
		unstructured.RemoveNestedField(u.Object, "spec", "clusterIP")
		unstructured.RemoveNestedField(u.Object, "spec", "clusterIPs")
	}
}

// change back what the run has changed and not deleted.
func (r *run) change(ctx context.Context, t *Thing, there, to *unstructured.Unstructured) (done bool, err error) {
	if equality.Semantic.DeepEqual(there.Object["spec"], to.Object["spec"]) && equality.Semantic.DeepEqual(there.GetAnnotations(), to.GetAnnotations()) {
		return true, nil
	}
	there.Object["spec"] = to.Object["spec"]
	there.SetAnnotations(to.GetAnnotations())
	there.SetLabels(to.GetLabels())
	_, err = r.in(t).Update(ctx, there, metav1.UpdateOptions{FieldManager: "tierctl"})
	switch {
	case apierrors.IsConflict(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("changing %s back: %w", t, err)
	}
	r.say(t.String() + " restored")
	return true, nil
}

// in is where a thing is.
func (c *Cluster) in(t *Thing) dynamic.ResourceInterface {
	gv, _ := schema.ParseGroupVersion(t.APIVersion) // it came from the API server
	return c.dynamic.Resource(gv.WithResource(t.Resource)).Namespace(t.Namespace)
}

// get a thing as it is now: nil when it is not there, or nothing of its kind can be.
func (c *Cluster) get(ctx context.Context, t *Thing) (*unstructured.Unstructured, error) {
	if err := c.step("reading " + t.String()); err != nil {
		return nil, err
	}
	u, err := c.in(t).Get(ctx, t.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", t, err)
	}
	return u, nil
}

// step comes before each thing done. Tests end the run there.
func (c *Cluster) step(what string) error {
	if c.fault == nil {
		return nil
	}
	return c.fault(what)
}
