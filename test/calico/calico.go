// Package calico makes of a cluster one in which Calico is, or has been, for tests of the way off it. Names, groups, finalizers and what goes
// wrong are as in Calico (contract §7); every definition and every object is our own.
//
//	Objects ──► Calico{Way, Faults, Objects}.Install ──► a cluster with Calico, or with what it left
//	Left, LeftByOthers ──► a node with what calico-node, kube-router and Azure NPM left
//
// It has no Calico in it: nobody takes finalizers away, and no packet meets a policy.
package calico

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// Way is how Calico came into a cluster.
type Way int

// The ways. Objects are crd.projectcalico.org/v1 in all but Native.
const (
	Operator Way = 1 << iota // tigera-operator, with the aggregated API server
	Manifest                 // one file, all in kube-system
	AKS                      // what `az aks update --network-policy none` leaves: no workload
	Native                   // CRDs of projectcalico.org/v3 itself, in kube-system

	everywhere = Operator | Manifest | AKS | Native
	inSystem   = Operator | AKS // where there is calico-system
	byFile     = Manifest | Native
)

// Fault is something that is wrong.
type Fault int

// The faults. Any of them may come together.
const (
	DeadWebhook     Fault = 1 << iota // a webhook fails closed, and nobody stands behind it
	StaleAPIService                   // v3.projectcalico.org is some service's that is not there; never of Native, which serves it itself
	Orphans                           // finalizers are left whose controllers are gone
	Terminating                       // the tier going and the CRD of IPPools are deleted, and do not go: give Orphans too
	StuckNamespaces                   // Calico's namespaces are deleted, and do not go while there is StaleAPIService

	AllFaults = DeadWebhook | StaleAPIService | Orphans | Terminating | StuckNamespaces
)

// Calico is what is to be in a cluster.
type Calico struct {
	Way    Way
	Faults Fault
	// Gone are its workloads: it was removed, and this is what is left. On AKS they always are.
	Gone bool
	// Image that its workloads run, with these arguments; by default one that is nowhere.
	Image string
	Args  []string
	// Objects as people write them, of projectcalico.org/v3: they are stored as the way stores them. Others are made as they are.
	Objects []*unstructured.Unstructured
}

// gone tells whether nothing of it runs.
func (c *Calico) gone() bool { return c.Gone || c.Way == AKS }

// finalized tells whether finalizers are on its objects: of controllers that run, or that are orphaned.
func (c *Calico) finalized() bool { return !c.gone() || c.Faults&Orphans != 0 }

// Install makes everything. Where something of a name is there already it becomes what it is here, Tierwall's CRDs among it: Native takes them away. With
// faults that is once: they refuse it.
func (c *Calico) Install(ctx context.Context, config *rest.Config) error {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = 500, 1000
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	i := &installation{Calico: c, dynamic: d}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"namespaces", i.each(c.namespaces)}, {"CRDs", i.define}, {"objects", i.populate}, {"accounts", i.each(c.accounts)},
		{"workloads", i.each(c.workloads)}, {"admission", i.each(c.admission)}, {"API service", i.each(c.apiService)}, {"faults", i.fail},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// installation is one Install.
type installation struct {
	*Calico
	dynamic dynamic.Interface
}

func (i *installation) each(objects func() []*unstructured.Unstructured) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, u := range objects() {
			if err := i.put(ctx, u); err != nil {
				return err
			}
		}
		return nil
	}
}

// in is where an object is.
func (i *installation) in(u *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := u.GroupVersionKind()
	resource := resourceOf(gvk.GroupKind())
	if resource == "" {
		return nil, fmt.Errorf("kind %s has no resource here", gvk)
	}
	return i.dynamic.Resource(gvk.GroupVersion().WithResource(resource)).Namespace(u.GetNamespace()), nil
}

// put makes an object, or makes of the one that is there what it is to be; one that is going goes. A DaemonSet gets its status.
func (i *installation) put(ctx context.Context, u *unstructured.Unstructured) error {
	in, err := i.in(u)
	if err != nil {
		return err
	}
	made, err := in.Create(ctx, u, metav1.CreateOptions{})
	for apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		there, getErr := in.Get(ctx, u.GetName(), metav1.GetOptions{})
		if getErr != nil {
			return fmt.Errorf("%s %s: %w", u.GetKind(), u.GetName(), getErr)
		}
		if there.GetDeletionTimestamp() != nil {
			return nil
		}
		again := u.DeepCopy()
		again.SetResourceVersion(there.GetResourceVersion())
		again.SetUID(there.GetUID())
		made, err = in.Update(ctx, again, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", u.GetKind(), u.GetName(), err)
	}
	if status, ok := u.Object["status"]; ok && u.GetKind() == "DaemonSet" {
		made.Object["status"] = status
		if _, err := in.UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) { // there is who knows better
			return fmt.Errorf("status of %s %s: %w", u.GetKind(), u.GetName(), err)
		}
	}
	return nil
}

// define makes the CRDs, and waits until all are served.
func (i *installation) define(ctx context.Context) error {
	all := i.definitions()
	for _, u := range all {
		if err := i.put(ctx, u); err != nil {
			return err
		}
	}
	for _, u := range all {
		in, err := i.in(u)
		if err != nil {
			return err
		}
		err = wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			there, err := in.Get(ctx, u.GetName(), metav1.GetOptions{})
			return err == nil && holds(there, "Established"), err
		})
		if err != nil {
			return fmt.Errorf("CRD %s is not served: %w", u.GetName(), err)
		}
	}
	return nil
}

// holds tells whether a condition is true.
func holds(u *unstructured.Unstructured, condition string) bool {
	all, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	return slices.ContainsFunc(all, func(v any) bool {
		c, _ := v.(map[string]any)
		return c["type"] == condition && c["status"] == "True"
	})
}

// populate makes the objects: people's, and the operator's.
func (i *installation) populate(ctx context.Context) error {
	var spaces, rest []*unstructured.Unstructured
	for _, u := range i.Objects {
		u = i.stored(u)
		if u.GetKind() == "Namespace" {
			spaces = append(spaces, u)
		} else {
			rest = append(rest, u)
		}
	}
	if err := i.together(ctx, spaces); err != nil {
		return err
	}
	return i.together(ctx, append(rest, i.installations()...))
}

// together makes objects, some at a time. A CRD is established a moment before its objects can be made.
func (i *installation) together(ctx context.Context, all []*unstructured.Unstructured) error {
	var working sync.WaitGroup
	next, failed := make(chan *unstructured.Unstructured), make(chan error, len(all))
	for range 8 {
		working.Go(func() {
			for u := range next {
				err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
					err := i.put(ctx, u)
					return !apierrors.IsNotFound(err), err0(err)
				})
				if err != nil {
					failed <- err
				}
			}
		})
	}
	for _, u := range all {
		next <- u
	}
	close(next)
	working.Wait()
	close(failed)
	var errs []error
	for err := range failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// err0 is no error where trying again may help.
func err0(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// going are what is deleted, and does not go, with the fault Terminating.
const (
	goingTier       = "going"
	goingDefinition = "ippools"
)

// fail brings about what needs everything to be there first.
func (i *installation) fail(ctx context.Context) error {
	background := metav1.DeletePropagationBackground
	remove := func(apiVersion, kind, name string) error {
		u := named(apiVersion, kind, "", name)
		in, err := i.in(u)
		if err == nil {
			err = in.Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &background})
		}
		if err != nil {
			return fmt.Errorf("deleting %s %s: %w", kind, name, err)
		}
		return nil
	}
	var errs []error
	if i.Faults&Terminating != 0 {
		tier := i.stored(tier(goingTier, 900000, "Pass"))
		errs = append(errs, i.put(ctx, tier), remove(tier.GetAPIVersion(), "Tier", goingTier), remove(extensions, "CustomResourceDefinition", goingDefinition+"."+i.group()))
	}
	if i.Faults&StuckNamespaces != 0 {
		for _, u := range i.namespaces() {
			errs = append(errs, remove("v1", "Namespace", u.GetName()))
		}
	}
	return errors.Join(errs...)
}

// Stop does what the end of Calico's controllers does: its workloads are removed, and nobody takes finalizers away any more.
func (c *Calico) Stop(ctx context.Context, config *rest.Config) error {
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	return c.stop(ctx, d, func(*unstructured.Unstructured) bool { return true })
}

func (c *Calico) stop(ctx context.Context, d dynamic.Interface, these func(*unstructured.Unstructured) bool) error {
	i := &installation{Calico: c, dynamic: d}
	background := metav1.DeletePropagationBackground
	for _, u := range c.workloads() {
		in, err := i.in(u)
		if err == nil && these(u) {
			err = in.Delete(ctx, u.GetName(), metav1.DeleteOptions{PropagationPolicy: &background})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting %s %s: %w", u.GetKind(), u.GetName(), err)
		}
	}
	return nil
}

// Operate does what tigera-operator does, until ctx ends, while its deployment is there: where somebody deletes the Installation, Calico's own
// workloads go, and then the finalizers that keep it.
func (c *Calico) Operate(ctx context.Context, config *rest.Config) error {
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	operator := d.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace("tigera-operator")
	installations := d.Resource(schema.GroupVersionResource{Group: operators, Version: "v1", Resource: "installations"})
	return wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		if _, err := operator.Get(ctx, "tigera-operator", metav1.GetOptions{}); err != nil {
			return apierrors.IsNotFound(err), err0(err)
		}
		u, err := installations.Get(ctx, "default", metav1.GetOptions{})
		if err != nil || u.GetDeletionTimestamp() == nil {
			return false, err0(err)
		}
		if err := c.stop(ctx, d, func(u *unstructured.Unstructured) bool { return u.GetNamespace() != "tigera-operator" }); err != nil {
			return false, err
		}
		u.SetFinalizers(nil)
		_, err = installations.Update(ctx, u, metav1.UpdateOptions{})
		return false, err0(err)
	})
}
