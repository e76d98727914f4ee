package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Kube is a Store in a cluster: its API server.
//
// What Watch tells is kept nowhere here. Each kind has a reflector of its own that streams its objects, strips each of what policy
// does not ask, and hands it on; of what was told only a seal is remembered. An informer's cache would hold all of it a second time:
// policy.Index is that cache.
type Kube struct {
	config  *rest.Config
	dynamic dynamic.Interface
	kinds   []Kind // that Watch follows
	heeding
}

// OpenKube names a cluster; nothing is asked of it yet.
func OpenKube(config *rest.Config) (*Kube, error) {
	config = rest.CopyConfig(config)
	if config.QPS == 0 {
		config.QPS, config.Burst = 100, 200
	}
	if config.UserAgent == "" {
		config.UserAgent = "tierctl"
	}
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", config.Host, err)
	}
	k := &Kube{config: config, dynamic: d}
	return k.Following(Decisive), nil
}

// Following is the same store for one who watches only some of the kinds.
func (k *Kube) Following(which func(*Kind) bool) *Kube {
	out := *k
	out.kinds = nil
	for _, kind := range kinds {
		if !kind.standalone() && which(&kind) {
			out.kinds = append(out.kinds, kind)
		}
	}
	return &out
}

// Decisive are the kinds that policy is decided from: what an agent follows.
func Decisive(k *Kind) bool {
	return k.GVK.Group != v1alpha1.GroupVersion.Group && k.Kind != "Service" && k.Kind != kindControllers
}

// Reported are the kinds whose status is ours, and the reports it is made of.
func Reported(k *Kind) bool {
	return k.ownStatus() && k.Kind != kindControllers || k.Kind == "NodeReport"
}

// String names the store in messages.
func (k *Kube) String() string { return "kubernetes:" + k.config.Host }

// resource is what the API server calls the kind.
func (k *Kind) resource() schema.GroupVersionResource {
	return k.GVK.GroupVersion().WithResource(strings.TrimPrefix(k.Plural, "kubernetes"))
}

// standalone kinds are derived from others in a cluster, which has no objects of them.
func (k *Kind) standalone() bool { return k.Kind == "WorkloadEndpoint" || k.Kind == "Profile" }

// foreign kinds may be missing in a cluster: their CRD is another project's.
func (k *Kind) foreign() bool { return k.Kind == v3.KindKubernetesClusterNetworkPolicy }

func (k *Kube) client(kind *Kind, namespace string) dynamic.ResourceInterface {
	if !kind.Namespaced {
		return k.dynamic.Resource(kind.resource())
	}
	return k.dynamic.Resource(kind.resource()).Namespace(namespace)
}

// kindFor finds the kind of a Ref; ErrInvalid for one that clusters do not have.
func kindFor(ref v3.Ref) (*Kind, error) {
	kind, err := storable(ref)
	if err != nil {
		return nil, err
	}
	if kind.standalone() {
		return nil, fmt.Errorf("%s: %w: a cluster has no objects of this kind: it derives them from others", ref, ErrInvalid)
	}
	return kind, nil
}

// Get implements Store.
func (k *Kube) Get(ctx context.Context, ref v3.Ref) (client.Object, error) {
	u, kind, err := k.get(ctx, ref)
	if err != nil {
		return nil, err
	}
	obj, err := kind.read(u)
	if err != nil {
		return nil, fmt.Errorf("%s %w: %v", ref, ErrCorruptObject, err)
	}
	return obj, nil
}

func (k *Kube) get(ctx context.Context, ref v3.Ref) (*unstructured.Unstructured, *Kind, error) {
	kind, err := kindFor(ref)
	if err != nil {
		return nil, nil, err
	}
	u, err := k.client(kind, ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, nil, said(ref, err)
	}
	return u, kind, nil
}

// List implements Store. Objects that cannot be decoded are left out, and are the error.
func (k *Kube) List(ctx context.Context, kindName, namespace string) (out []client.Object, err error) {
	kind, err := kindFor(v3.Ref{Kind: kindName})
	if err != nil {
		return nil, err
	}
	list, err := k.client(kind, namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, said(v3.Ref{Kind: kindName}, err)
	}
	var bad []error
	for i := range list.Items {
		obj, err := kind.read(&list.Items[i])
		if err != nil {
			bad = append(bad, fmt.Errorf("%s: %w: %v", v3.Ref{Kind: kindName, Namespace: list.Items[i].GetNamespace(), Name: list.Items[i].GetName()}, ErrCorruptObject, err))
			continue
		}
		out = append(out, obj)
	}
	slices.SortFunc(out, func(a, b client.Object) int { return v3.RefOf(a.(v3.Object)).Compare(v3.RefOf(b.(v3.Object))) })
	return out, errors.Join(bad...)
}

// Decode makes the Go type of an object that an API server has, as leniently as can be, and defaults it.
func Decode(u *unstructured.Unstructured) (client.Object, error) {
	kind, err := kindOf(u.GetAPIVersion(), u.GetKind())
	if err != nil {
		return nil, err
	}
	return kind.read(u)
}

// read decodes an object as leniently as can be: what the API server has, it has.
func (k *Kind) read(u *unstructured.Unstructured) (client.Object, error) {
	text, err := u.MarshalJSON()
	if err != nil {
		return nil, err
	}
	obj, err := k.empty()
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, obj); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(k.GVK)
	v3.Default(obj)
	return obj, nil
}

// Put implements Store.
func (k *Kube) Put(ctx context.Context, obj client.Object) (client.Object, error) {
	w := &kubeWriter{Kube: k, ctx: ctx}
	ref := v3.RefOf(obj.(v3.Object))
	if _, _, err := k.get(ctx, ref); errors.Is(err, ErrNotFound) && obj.GetResourceVersion() == "" {
		return w.Create(obj)
	}
	return w.Update(obj)
}

// PutStatus implements Store: one request for each. Of a kind whose status is not kept only one is tried.
func (k *Kube) PutStatus(ctx context.Context, objs ...client.Object) error {
	var refused []error
	lost := map[string]error{}
	for _, o := range objs {
		kind := v3.RefOf(o.(v3.Object)).Kind
		if lost[kind] != nil {
			continue
		}
		switch err := k.putStatus(ctx, o); {
		case errors.Is(err, ErrNoStatus):
			lost[kind] = err
		case err != nil:
			refused = append(refused, err)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(lost)) { // so that the same is said in the same words
		refused = append(refused, lost[kind])
	}
	return errors.Join(refused...)
}

// statusPatience is how long an API server may take to answer one.
const statusPatience = 10 * time.Second

func (k *Kube) putStatus(ctx context.Context, obj client.Object) error {
	ref := v3.RefOf(obj.(v3.Object))
	kind, err := kindFor(ref)
	if err != nil {
		return err
	}
	u, err := toUnstructured(obj)
	if err != nil {
		return fmt.Errorf("%s: %w", ref, err)
	}
	// with the resourceVersion, whoever was beaten to it is refused
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": obj.GetResourceVersion()}, "status": u.Object["status"]})
	if err != nil {
		return fmt.Errorf("%s: %w", ref, err)
	}
	ctx, done := context.WithTimeout(ctx, statusPatience) // the other statuses do not wait for one that is not answered
	defer done()
	now, err := k.client(kind, ref.Namespace).Patch(ctx, ref.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		if _, errGet := k.client(kind, ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{}); errGet == nil {
			return fmt.Errorf("status of %s %w", ref.Kind, ErrNoStatus) // it is no subresource
		}
	}
	if err != nil {
		return said(ref, err)
	}
	sent, _, _ := unstructured.NestedMap(u.Object, "status") // it is one
	kept, _, _ := unstructured.NestedMap(now.Object, "status")
	for _, name := range slices.Sorted(maps.Keys(sent)) {
		if _, ok := kept[name]; !ok {
			return fmt.Errorf("status.%s of %s %w", name, ref.Kind, ErrNoStatus)
		}
	}
	return nil
}

// SetFinalizers of an object that is as it was told; ErrConflict when it has changed.
func (k *Kube) SetFinalizers(ctx context.Context, obj client.Object, finalizers []string) error {
	ref := v3.RefOf(obj.(v3.Object))
	kind, err := kindFor(ref)
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": obj.GetResourceVersion(), "finalizers": finalizers}})
	if err != nil {
		return fmt.Errorf("%s: %w", ref, err)
	}
	if _, err := k.client(kind, ref.Namespace).Patch(ctx, ref.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return said(ref, err)
	}
	return nil
}

// Delete implements Store.
func (k *Kube) Delete(ctx context.Context, obj client.Object) error {
	ref := v3.RefOf(obj.(v3.Object))
	kind, err := kindFor(ref)
	if err != nil {
		return err
	}
	options := metav1.DeleteOptions{}
	if rv := obj.GetResourceVersion(); rv != "" {
		options.Preconditions = &metav1.Preconditions{ResourceVersion: &rv}
	}
	if err := k.client(kind, ref.Namespace).Delete(ctx, ref.Name, options); err != nil {
		return said(ref, err)
	}
	return nil
}

// said puts what the API server says of an object in our words, where we have some.
func said(ref v3.Ref, err error) error {
	switch {
	case apierrors.IsNotFound(err) && missing(err) == ref.Name && ref.Name != "" && (ref.Kind == "Namespace" || !missesNamespace(err)):
		return fmt.Errorf("%s %w", ref, ErrNotFound)
	case apierrors.IsNotFound(err) && missing(err) == "": // the path itself
		return fmt.Errorf("%s: %w", ref, ErrNoKind)
	case apierrors.IsAlreadyExists(err):
		return fmt.Errorf("%s %w", ref, ErrExists)
	case len(conflicts(err)) > 0:
		return owned(ref, err)
	case apierrors.IsConflict(err):
		return fmt.Errorf("%s %w", ref, ErrConflict)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return fmt.Errorf("%s %w: %w", ref, ErrInvalid, err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%s %w: %w", ref, ErrForbidden, err)
	}
	return fmt.Errorf("%s: %w", ref, err)
}

// missing is the name of what the API server did not find.
func missing(err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return ""
	}
	return status.Status().Details.Name
}

// missesNamespace tells whether it is an object's namespace that is missing.
func missesNamespace(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && status.Status().Details != nil && status.Status().Details.Kind == "namespaces"
}

// Transact implements Store as far as an API server can: everything is first done without effect, and nothing is written unless all of it
// can be. What stands in a namespace or a tier that comes with it is judged by Admit alone until that is there. So the API server, as somebody
// else in between, may still stop it half way; the error then says so.
func (k *Kube) Transact(ctx context.Context, f func(Writer) error) (revision string, err error) {
	trial := &kubeWriter{Kube: k, ctx: ctx, trial: true, tried: map[v3.Ref]client.Object{}, made: map[v3.Ref]bool{}}
	if err := k.heed(k, trial); err != nil {
		return "", err
	}
	if err := f(trial); err != nil {
		return "", err
	}
	w := &kubeWriter{Kube: k, ctx: ctx}
	if err := f(w); err != nil && w.written > 0 {
		return w.revision, fmt.Errorf("%d objects %w, the others are not: %w", w.written, ErrPartly, err)
	} else if err != nil {
		return "", err
	}
	return w.revision, nil
}

// kubeWriter writes object by object, or only tries whether it could.
type kubeWriter struct {
	*Kube
	ctx      context.Context
	trial    bool
	tried    map[v3.Ref]client.Object // nil for what would be deleted
	made     map[v3.Ref]bool          // by this trial: the API server does not know of it
	written  int
	revision string
}

// Get implements Writer.
func (w *kubeWriter) Get(ref v3.Ref) (client.Object, error) {
	if obj, ok := w.tried[ref]; ok {
		if obj == nil {
			return nil, fmt.Errorf("%s %w", ref, ErrNotFound)
		}
		return obj, nil
	}
	return w.Kube.Get(w.ctx, ref)
}

// List implements Writer.
func (w *kubeWriter) List(kind, namespace string) (out []client.Object, err error) {
	objs, err := w.Kube.List(w.ctx, kind, namespace)
	for _, o := range objs {
		if _, ok := w.tried[v3.RefOf(o.(v3.Object))]; !ok {
			out = append(out, o)
		}
	}
	for ref, o := range w.tried {
		if o != nil && ref.Kind == kind && (namespace == "" || namespace == ref.Namespace) {
			out = append(out, o)
		}
	}
	return out, err
}

// Create implements Writer.
func (w *kubeWriter) Create(obj client.Object) (client.Object, error) {
	ref := v3.RefOf(obj.(v3.Object))
	kind, err := kindFor(ref)
	if err != nil {
		return nil, err
	}
	if w.tried[ref] != nil {
		return nil, fmt.Errorf("%s %w", ref, ErrExists)
	}
	if obj.GetResourceVersion() != "" {
		return nil, fmt.Errorf("%s: %w: metadata.resourceVersion must be empty when an object is created", ref, ErrInvalid)
	}
	u, err := w.admit(ref, kind, obj, nil)
	if err != nil {
		return nil, err
	}
	if w.trial {
		w.made[ref] = true
	}
	if w.early(ref, u) {
		return w.done(ref, kind, u, nil, nil)
	}
	now, err := w.client(kind, ref.Namespace).Create(w.ctx, u, metav1.CreateOptions{DryRun: w.dryRun(), FieldManager: fieldManager})
	return w.done(ref, kind, u, now, err)
}

// Update implements Writer. What the API server keeps of an object beside labels, annotations and spec stays.
func (w *kubeWriter) Update(obj client.Object) (client.Object, error) {
	ref := v3.RefOf(obj.(v3.Object))
	old, kind, err := w.Kube.get(w.ctx, ref)
	if errors.Is(err, ErrNotFound) && w.tried[ref] != nil { // created before in this trial: nothing to compare with
		return w.tried[ref], nil
	}
	if err != nil {
		return nil, err
	}
	if rv := obj.GetResourceVersion(); rv != "" && rv != old.GetResourceVersion() {
		return nil, fmt.Errorf("%s %w", ref, ErrConflict)
	}
	u, err := w.admit(ref, kind, obj, old)
	if err != nil {
		return nil, err
	}
	if same(u, old) {
		return kind.read(old)
	}
	if w.early(ref, u) {
		return w.done(ref, kind, u, nil, nil)
	}
	now, err := w.client(kind, ref.Namespace).Update(w.ctx, u, metav1.UpdateOptions{DryRun: w.dryRun(), FieldManager: fieldManager})
	return w.done(ref, kind, u, now, err)
}

// Apply implements Writer. The API server merges; what comes of it is judged as every store does.
func (w *kubeWriter) Apply(obj *unstructured.Unstructured, o ApplyOptions) (client.Object, error) {
	ref, kind, err := refOfUntyped(obj)
	if err != nil {
		return nil, err
	}
	if _, err := kindFor(ref); err != nil {
		return nil, err
	}
	old, _, err := w.Kube.get(w.ctx, ref)
	if errors.Is(err, ErrNotFound) {
		old, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	if rv := obj.GetResourceVersion(); rv != "" && (old == nil || rv != old.GetResourceVersion()) {
		return nil, fmt.Errorf("%s %w", ref, ErrConflict)
	}
	obj = kind.applicable(obj)
	if w.trial && old == nil {
		w.made[ref] = true
		if w.early(ref, obj) {
			if err := w.judge(ref, obj, nil); err != nil {
				return nil, err
			}
			return w.done(ref, kind, obj, nil, nil)
		}
	}
	now, err := w.patch(ref, kind, obj, o)
	if !o.Force && onlyWith(err, o.Manager) {
		o.Force = true
		now, err = w.patch(ref, kind, obj, o)
	}
	if err == nil && w.trial {
		if err := w.judge(ref, now, old); err != nil {
			return nil, err
		}
	}
	if err == nil && old != nil && now.GetResourceVersion() == old.GetResourceVersion() && !w.trial {
		return kind.read(now) // nothing was written
	}
	return w.done(ref, kind, obj, now, err)
}

func (w *kubeWriter) patch(ref v3.Ref, kind *Kind, obj *unstructured.Unstructured, o ApplyOptions) (*unstructured.Unstructured, error) {
	return w.client(kind, ref.Namespace).Apply(w.ctx, ref.Name, obj, metav1.ApplyOptions{FieldManager: o.Manager, Force: o.Force, DryRun: w.dryRun()})
}

// judge tells what is wrong with what the API server would store.
func (w *kubeWriter) judge(ref v3.Ref, now, old *unstructured.Unstructured) error {
	now = now.DeepCopy()
	now.SetManagedFields(nil)
	admitted, errs := Admit(now, old)
	if len(errs) > 0 {
		return fmt.Errorf("%s %w: %w", ref, ErrInvalid, errs.ToAggregate())
	}
	return allowed(w, ref, admitted, old != nil)
}

// admit judges an object as every store does, and gives it as it is to be sent.
func (w *kubeWriter) admit(ref v3.Ref, kind *Kind, obj client.Object, old *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	u, err := toUnstructured(obj)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	if old != nil {
		meta := maps.Clone(old.Object["metadata"].(map[string]any))
		labels, annotations := u.GetLabels(), u.GetAnnotations()
		u.Object["metadata"] = meta
		u.SetLabels(labels)
		u.SetAnnotations(annotations)
	}
	if kind.ownStatus() || !kind.HasCRD() {
		delete(u.Object, "status")
		if old != nil && old.Object["status"] != nil {
			u.Object["status"] = old.Object["status"]
		}
	}
	trial := u.DeepCopy()
	trial.SetManagedFields(nil)
	admitted, errs := Admit(trial, old)
	if len(errs) > 0 {
		return nil, fmt.Errorf("%s %w: %w", ref, ErrInvalid, errs.ToAggregate())
	}
	if err := allowed(w, ref, admitted, old != nil); err != nil {
		return nil, err
	}
	whole, err := toUnstructured(admitted)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	whole.SetManagedFields(u.GetManagedFields())
	return whole, nil
}

// same tells whether an update would change anything that users write.
func same(a, b *unstructured.Unstructured) bool {
	x, errX := json.Marshal([]any{a.GetLabels(), a.GetAnnotations(), a.Object["spec"], a.Object["status"]})
	y, errY := json.Marshal([]any{b.GetLabels(), b.GetAnnotations(), b.Object["spec"], b.Object["status"]})
	return errX == nil && errY == nil && string(x) == string(y)
}

// Delete implements Writer.
func (w *kubeWriter) Delete(ref v3.Ref) error {
	kind, err := kindFor(ref)
	if err != nil {
		return err
	}
	if _, err := w.Get(ref); err != nil && !errors.Is(err, ErrCorruptObject) {
		return err
	}
	if err := deletable(w, ref); err != nil {
		return err
	}
	if w.tried[ref] == nil { // what only this trial has made the API server does not know
		if err := w.client(kind, ref.Namespace).Delete(w.ctx, ref.Name, metav1.DeleteOptions{DryRun: w.dryRun()}); err != nil {
			return said(ref, err)
		}
	}
	if w.trial {
		w.tried[ref] = nil
	} else {
		w.written++
	}
	return nil
}

// early tells whether the API server cannot be asked on trial, for the namespace or the tier of an object comes with the same call.
func (w *kubeWriter) early(ref v3.Ref, u *unstructured.Unstructured) bool {
	tier, _, _ := unstructured.NestedString(u.Object, "spec", "tier")
	return w.made[v3.Ref{Kind: "Namespace", Name: ref.Namespace}] || slices.Contains(TieredKinds, ref.Kind) && w.made[v3.Ref{Kind: "Tier", Name: tier}]
}

func (w *kubeWriter) dryRun() []string {
	if w.trial {
		return []string{metav1.DryRunAll}
	}
	return nil
}

// done notes what was written, or tried.
func (w *kubeWriter) done(ref v3.Ref, kind *Kind, sent, now *unstructured.Unstructured, err error) (client.Object, error) {
	if err != nil {
		return nil, said(ref, err)
	}
	if now == nil {
		now = sent
	}
	obj, err := kind.read(now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	if w.trial {
		w.tried[ref] = obj
	} else {
		w.written++
		w.revision = now.GetResourceVersion()
	}
	return obj, nil
}
