package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	admissionregistrationclient "k8s.io/client-go/kubernetes/typed/admissionregistration/v1"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/rest"

	"github.com/tierwall/tierwall/controllers"
	"github.com/tierwall/tierwall/controllers/admission"
	"github.com/tierwall/tierwall/controllers/crds"
)

// components are what a cluster has once of ours: the controller, admission, the CRDs.
type components struct {
	config *rest.Config
	groups
}

// groups of an API server that are asked. client-go's whole clientset would make the program a fifth larger.
type groups struct {
	admission    admissionregistrationclient.AdmissionregistrationV1Interface
	apps         appsclient.AppsV1Interface
	coordination coordinationclient.CoordinationV1Interface
	core         coreclient.CoreV1Interface
	slices       discoveryclient.DiscoveryV1Interface
	server       discovery.ServerVersionInterface
}

func groupsOf(config *rest.Config) (g groups, err error) {
	var errs [6]error
	g.admission, errs[0] = admissionregistrationclient.NewForConfig(config)
	g.apps, errs[1] = appsclient.NewForConfig(config)
	g.coordination, errs[2] = coordinationclient.NewForConfig(config)
	g.core, errs[3] = coreclient.NewForConfig(config)
	g.slices, errs[4] = discoveryclient.NewForConfig(config)
	g.server, errs[5] = discovery.NewDiscoveryClientForConfig(config)
	return g, errors.Join(errs[:]...)
}

func openComponents(c *cli.Context) (*components, error) {
	config, err := clusterOf(c)
	if err != nil {
		return nil, err
	}
	g, err := groupsOf(config)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", config.Host, err)
	}
	return &components{config, g}, nil
}

// look at each. What may not be looked at is said, and counts for nothing.
func (k *components) look(ctx context.Context) []componentStatus {
	return []componentStatus{k.controller(ctx), k.webhook(ctx), k.crds(ctx)}
}

func (k *components) unseen(name string, err error) componentStatus {
	return componentStatus{Name: name, Says: "cannot be looked at: " + err.Error(), Wrong: !apierrors.IsForbidden(err)}
}

// controller is whoever holds the Lease, wherever that is.
func (k *components) controller(ctx context.Context) componentStatus {
	const name = "Controller"
	ctx, stop := within(ctx)
	defer stop()
	list, err := k.coordination.Leases("").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + controllers.Lease})
	switch {
	case err != nil:
		return k.unseen(name, err)
	case len(list.Items) == 0:
		return componentStatus{name, "none leads: no status is written, built-in tiers and automatic host endpoints are not kept", true}
	}
	return leads(name, &list.Items[0])
}

func leads(name string, l *coordinationv1.Lease) componentStatus {
	holder := ""
	if l.Spec.HolderIdentity != nil {
		holder, _, _ = strings.Cut(*l.Spec.HolderIdentity, "_")
	}
	s := componentStatus{Name: name, Says: fmt.Sprintf("%s/%s leads", l.Namespace, holder)}
	switch {
	case holder == "" || l.Spec.RenewTime == nil || l.Spec.LeaseDurationSeconds == nil:
		s.Says, s.Wrong = "none leads just now: Lease "+l.Namespace+"/"+l.Name+" has no holder", true
	case time.Since(l.Spec.RenewTime.Time) > 2*time.Duration(*l.Spec.LeaseDurationSeconds)*time.Second:
		s.Says, s.Wrong = fmt.Sprintf("%s/%s led, and has not been heard of for %s", l.Namespace, holder, age(&metav1.Time{Time: l.Spec.RenewTime.Time})), true
	case l.Spec.AcquireTime != nil:
		s.Says += " since " + age(&metav1.Time{Time: l.Spec.AcquireTime.Time})
	}
	return s
}

// webhook is admission: the API server must know it, trust it, and find it.
func (k *components) webhook(ctx context.Context) componentStatus {
	const name = "Admission"
	ctx, stop := within(ctx)
	defer stop()
	hooks, err := k.groups.admission.ValidatingWebhookConfigurations().Get(ctx, admission.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return componentStatus{Name: name, Says: "is not installed: what a schema cannot say is judged by agents alone"}
	case err != nil:
		return k.unseen(name, err)
	}
	for _, h := range hooks.Webhooks {
		service := h.ClientConfig.Service
		switch {
		case len(h.ClientConfig.CABundle) == 0:
			return componentStatus{name, "the API server does not trust it yet: " + h.Name + " has no caBundle, which the controller writes", true}
		case service == nil:
			continue
		}
		n, err := k.answering(ctx, service.Namespace, service.Name)
		if err != nil {
			return k.unseen(name, err)
		}
		if n == 0 {
			return componentStatus{name, fmt.Sprintf("nobody answers for service %s/%s: objects are written unjudged", service.Namespace, service.Name), true}
		}
		return componentStatus{Name: name, Says: fmt.Sprintf("service %s/%s, %d ready", service.Namespace, service.Name, n)}
	}
	return componentStatus{Name: name, Says: "is served from outside the cluster"}
}

// answering counts the endpoints of a service that are ready.
func (k *components) answering(ctx context.Context, namespace, service string) (n int, err error) {
	slices, err := k.slices.EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	if err != nil {
		return 0, err
	}
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				n++
			}
		}
	}
	return n, nil
}

// crds in one line; crds check has the rest.
func (k *components) crds(ctx context.Context) componentStatus {
	const name = "CRDs"
	ctx, stop := within(ctx)
	defer stop()
	cluster, err := crds.Open(k.config)
	if err != nil {
		return k.unseen(name, err)
	}
	findings, err := cluster.Look(ctx)
	if err != nil {
		return k.unseen(name, err)
	}
	fit, first := 0, ""
	for i := range findings {
		if findings[i].Fit() {
			fit++
		} else if first == "" {
			first = fmt.Sprintf("; %s is %s: see tierctl crds check", findings[i].Name, strings.ToLower(string(findings[i].State)))
		}
	}
	return componentStatus{name, fmt.Sprintf("%d of %d are fit for use%s", fit, len(findings), first), fit < len(findings)}
}

// agents are the pods that the agents' DaemonSet has made, in whichever namespace.
func (k *components) agents(ctx context.Context) ([]corev1.Pod, error) { return k.pods(ctx, "agent") }

func (k *components) pods(ctx context.Context, component string) ([]corev1.Pod, error) {
	ctx, stop := within(ctx)
	defer stop()
	list, err := k.core.Pods("").List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=tierwall,app.kubernetes.io/component=" + component})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}
