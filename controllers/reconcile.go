package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	runtimelog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// hostEndpointReconciler keeps the automatic host endpoints of each node. It has no memory but the cache that it reads from.
//
//	KubeControllersConfiguration ─┐
//	Node ─────────────────────────┴─► autoHostEndpoints ─► what should be ─┐
//	HostEndpoints of the node that have the label ─────────► what is ──────┴─► create, update, delete
type hostEndpointReconciler struct {
	Client client.Client
	Event  Recorder // nil: only the log is told
}

// ofNode is the index of automatic host endpoints by their node.
const ofNode = "automatic host endpoints of a node"

// SetupWithManager has the reconciler run when m does, on the leader alone.
func (r *hostEndpointReconciler) SetupWithManager(ctx context.Context, m manager.Manager) error {
	if err := m.GetFieldIndexer().IndexField(ctx, &v3.HostEndpoint{}, ofNode, func(o client.Object) []string {
		if h, ok := o.(*v3.HostEndpoint); ok && automatic(h) {
			return []string{h.Spec.Node}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("host endpoints by node: %w", err)
	}
	several := true // there may be several managers in one process, each with this controller
	return builder.ControllerManagedBy(m).Named("hostendpoints").WithOptions(controller.Options{SkipNameValidation: &several}).
		For(&corev1.Node{}, builder.WithPredicates(predicate.Funcs{UpdateFunc: nodeChanged})).
		Watches(&v3.HostEndpoint{}, handler.EnqueueRequestsFromMapFunc(nodeOfHostEndpoint),
			builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, predicate.LabelChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		Watches(&v3.KubeControllersConfiguration{}, handler.EnqueueRequestsFromMapFunc(r.everyNode),
			builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Complete(r)
}

// nodeChanged tells whether anything changed that host endpoints are made of. A node says every few seconds that it is alive.
func nodeChanged(e event.UpdateEvent) bool {
	before, is := e.ObjectOld.(*corev1.Node)
	after, is2 := e.ObjectNew.(*corev1.Node)
	if !is || !is2 {
		return true
	}
	return !maps.Equal(before.Labels, after.Labels) || !slices.Equal(before.Status.Addresses, after.Status.Addresses) ||
		slices.ContainsFunc(append([]string{annotationIfaces}, autoAnnotations...), func(key string) bool {
			was, had := before.Annotations[key]
			now, has := after.Annotations[key]
			return was != now || had != has
		})
}

// nodeOfHostEndpoint is asked of those that users made too: one that is in the way may go.
func nodeOfHostEndpoint(_ context.Context, o client.Object) []reconcile.Request {
	h, ok := o.(*v3.HostEndpoint)
	if !ok {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: h.Spec.Node}}}
}

func (r *hostEndpointReconciler) everyNode(ctx context.Context, _ client.Object) (out []reconcile.Request) {
	var nodes corev1.NodeList
	if err := r.Client.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		runtimelog.FromContext(ctx).Error(err, "the nodes cannot be listed: changed settings wait until something else changes")
	}
	for i := range nodes.Items {
		out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Name: nodes.Items[i].Name}})
	}
	return out
}

// automatic tells whether a host endpoint is ours to change.
func automatic(h *v3.HostEndpoint) bool { return h.Labels[labelCreatedBy] == autoCreator }

// Reconcile makes the automatic host endpoints of the node that is named what they should be. New ones come before old ones go, so that a
// node whose templates change is guarded all the while; and none goes while something is not understood, because it might be wanted.
func (r *hostEndpointReconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	config, again, err := r.settings(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	node, want, unsure, err := r.wanted(ctx, request.Name, config)
	if err != nil {
		return reconcile.Result{}, err
	}
	if node == nil {
		again = 0
	}
	if unsure != nil {
		r.tell(ctx, node, "HostEndpointsInDoubt", "some host endpoints are not made, and none is deleted: "+unsure.Error())
	}
	var errs []error
	for _, h := range want {
		errs = append(errs, r.put(ctx, h, config))
	}
	if unsure == nil {
		errs = append(errs, r.deleteOthers(ctx, request.Name, want))
	}
	return reconcile.Result{RequeueAfter: again}, errors.Join(errs...)
}

// settings are what host endpoints there should be, and after what time everything is looked at again.
func (r *hostEndpointReconciler) settings(ctx context.Context) (*v3.AutoHostEndpointConfig, time.Duration, error) {
	var c v3.KubeControllersConfiguration
	if err := r.Client.Get(ctx, client.ObjectKey{Name: v3.DefaultConfiguration}, &c); apierrors.IsNotFound(err) {
		return nil, 0, nil
	} else if err != nil {
		return nil, 0, fmt.Errorf("reading KubeControllersConfiguration/%s: %w", v3.DefaultConfiguration, err)
	}
	n := c.Spec.Controllers.Node
	if n == nil || n.HostEndpoint == nil || n.HostEndpoint.AutoCreate != v3.ControllerEnabled {
		return nil, 0, nil
	}
	again := autoPeriod
	if n.ReconcilerPeriod != nil {
		if d, err := n.ReconcilerPeriod.Parse(); err == nil {
			again = d.Duration
		}
	}
	return n.HostEndpoint, again, nil
}

// wanted are the host endpoints that a node should have. unsure is of what could not be understood of it. A node that is no more is nil.
func (r *hostEndpointReconciler) wanted(ctx context.Context, name string, config *v3.AutoHostEndpointConfig) (node *corev1.Node, want []*v3.HostEndpoint, unsure, err error) {
	node = &corev1.Node{}
	if err := r.Client.Get(ctx, client.ObjectKey{Name: name}, node); apierrors.IsNotFound(err) {
		return nil, nil, nil, nil
	} else if err != nil {
		return nil, nil, nil, fmt.Errorf("reading Node/%s: %w", name, err)
	}
	if config == nil {
		return node, nil, nil, nil
	}
	ifaces, bad := nodeInterfaces(node)
	want, unsure = autoHostEndpoints(node, config, ifaces)
	return node, want, errors.Join(bad, unsure), nil
}

// put makes one host endpoint what it should be. One that is not ours is left alone.
func (r *hostEndpointReconciler) put(ctx context.Context, want *v3.HostEndpoint, config *v3.AutoHostEndpointConfig) error {
	var have v3.HostEndpoint
	err := r.Client.Get(ctx, client.ObjectKeyFromObject(want), &have)
	switch {
	case apierrors.IsNotFound(err):
		if err := r.Client.Create(ctx, want); err != nil {
			return fmt.Errorf("creating HostEndpoint/%s: %w", want.Name, err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("reading HostEndpoint/%s: %w", want.Name, err)
	case !automatic(&have):
		r.tell(ctx, &have, "NotAutomatic", fmt.Sprintf("node %s should have an automatic host endpoint of this name, and this one is not: it has no label %s=%s",
			want.Spec.Node, labelCreatedBy, autoCreator))
		return nil
	case asWanted(&have, want):
		return nil
	}
	if taken, err := r.wantedBy(ctx, &have, want.Spec.Node, config); taken || err != nil {
		return err
	}
	have.Labels, have.Annotations, have.Spec = want.Labels, want.Annotations, want.Spec
	if err := r.Client.Update(ctx, &have); err != nil { // also when it has gone: then it is to be created, at the next try
		return fmt.Errorf("updating HostEndpoint/%s: %w", want.Name, err)
	}
	return nil
}

// wantedBy tells whether another node wants the host endpoint of that name, and has it: node a with template b, and node a-b, would take it
// from each other for ever.
func (r *hostEndpointReconciler) wantedBy(ctx context.Context, have *v3.HostEndpoint, node string, config *v3.AutoHostEndpointConfig) (bool, error) {
	if have.Spec.Node == node {
		return false, nil
	}
	other, want, _, err := r.wanted(ctx, have.Spec.Node, config)
	if err != nil || !slices.ContainsFunc(want, func(h *v3.HostEndpoint) bool { return h.Name == have.Name }) {
		return false, err
	}
	r.tell(ctx, have, "NameTaken", fmt.Sprintf("nodes %s and %s should both have an automatic host endpoint of this name: only the first has", other.Name, node))
	return true, nil
}

// asWanted compares what is ours. Addresses are a set: Calico writes them in another order, and it may run too.
func asWanted(have, want *v3.HostEndpoint) bool {
	h, w := &have.Spec, &want.Spec
	return maps.Equal(have.Labels, want.Labels) && maps.Equal(have.Annotations, want.Annotations) &&
		h.Node == w.Node && h.InterfaceName == w.InterfaceName && slices.Equal(h.Profiles, w.Profiles) && len(h.Ports) == 0 &&
		slices.Equal(slices.Sorted(slices.Values(h.ExpectedIPs)), slices.Sorted(slices.Values(w.ExpectedIPs)))
}

// deleteOthers deletes the automatic host endpoints of a node that it should not have.
func (r *hostEndpointReconciler) deleteOthers(ctx context.Context, node string, want []*v3.HostEndpoint) error {
	var have v3.HostEndpointList
	if err := r.Client.List(ctx, &have, client.MatchingFields{ofNode: node}); err != nil {
		return fmt.Errorf("listing host endpoints of node %s: %w", node, err)
	}
	var errs []error
	for i := range have.Items {
		h := &have.Items[i]
		if slices.ContainsFunc(want, func(w *v3.HostEndpoint) bool { return w.Name == h.Name }) {
			continue
		}
		// as it was seen: somebody may have made it his own since
		as := client.Preconditions{UID: &h.UID, ResourceVersion: &h.ResourceVersion}
		if err := client.IgnoreNotFound(r.Client.Delete(ctx, h, as)); err != nil {
			errs = append(errs, fmt.Errorf("deleting HostEndpoint/%s: %w", h.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (r *hostEndpointReconciler) tell(ctx context.Context, about client.Object, reason, message string) {
	runtimelog.FromContext(ctx).Info(message, "reason", reason, "about", about.GetName())
	if r.Event != nil {
		r.Event(about, true, reason, message)
	}
}
