package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	toolsevents "k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	runtimelog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/tierwall/tierwall/controllers/admission"
	"github.com/tierwall/tierwall/controllers/crds"
	"github.com/tierwall/tierwall/controllers/store"
)

// Cluster is what one process does for all nodes of a cluster: the built-in tiers, the finalizer of tiers, automatic host endpoints, the
// status of objects, the reports of nodes that are no more, and admission. Of several processes one leads; the others wait, and answer what is
// asked of admission as it does.
type Cluster struct {
	Config    *rest.Config
	Namespace string          // of the Lease that the leader holds; "" where there is but one process
	Webhook   int             // the port that the API server asks admission at; 0 for none, and where there is no Namespace
	Listen    string          // where /healthz, /readyz and /metrics are served; "" for nowhere
	Agents    labels.Selector // the nodes that should have an agent
	Log       *slog.Logger
}

// Lease is the name of the one that the leader holds.
const Lease = "tierwall-controller"

// statusEvery bounds how often one object's status is written: however many nodes report in between, it is once.
const statusEvery = time.Second

// Run until ctx ends, or until another leads.
func (c *Cluster) Run(ctx context.Context) error {
	log := logr.FromSlogHandler(c.Log.Handler())
	runtimelog.SetLogger(log)
	s, err := store.OpenKube(c.Config)
	if err != nil {
		return err
	}
	var synced atomic.Bool
	door := &admission.Webhook{Namespace: c.Namespace, Port: c.Webhook, Get: s.Get, Log: c.Log}
	m, err := manager.New(c.Config, c.options(log, func() error {
		if !synced.Load() {
			return errors.New("the cluster has not said everything yet")
		}
		if c.admits() {
			return door.Ready()
		}
		return nil
	}))
	if err != nil {
		return fmt.Errorf("cluster %s: %w", c.Config.Host, err)
	}
	c.lookAtCRDs(ctx)
	measured := NewMetrics(metrics.Registry)
	rollup := &Rollup{
		Store: s.Following(func(k *store.Kind) bool { return store.Reported(k) || k.Kind == "Node" }),
		Log:   c.Log, Every: statusEvery, Agents: c.Agents, Metrics: measured, Event: recorder(m.GetEventRecorder("tierwall-controller")),
	}
	tiers := &Tiers{Store: s, Log: c.Log}
	trials := &Trials{Store: s.Following(store.Reported), Log: c.Log, Event: rollup.Event}
	hosts := &hostEndpointReconciler{Client: m.GetClient(), Event: rollup.Event}
	if err := hosts.SetupWithManager(ctx, m); err != nil {
		return fmt.Errorf("automatic host endpoints: %w", err)
	}
	if c.admits() {
		if err := door.SetupWithManager(ctx, m); err != nil {
			return fmt.Errorf("admission: %w", err)
		}
	}
	for _, r := range []manager.Runnable{
		manager.RunnableFunc(rollup.Run), manager.RunnableFunc(tiers.Run), manager.RunnableFunc(trials.Run),
		everywhere(func(ctx context.Context) error { synced.Store(m.GetCache().WaitForCacheSync(ctx)); return nil }),
	} {
		if err := m.Add(r); err != nil {
			return err
		}
	}
	return m.Start(ctx)
}

// admits tells whether the process serves a webhook, for which it needs a namespace to keep its certificate in.
func (c *Cluster) admits() bool { return c.Webhook != 0 && c.Namespace != "" }

// lookAtCRDs and say what those lack that are not ours: what the API server takes away from objects nobody else can tell.
func (c *Cluster) lookAtCRDs(ctx context.Context) {
	cluster, err := crds.Open(c.Config)
	var findings []crds.Finding
	if err == nil {
		findings, err = cluster.Look(ctx)
	}
	if err != nil {
		c.Log.Warn("whether the cluster's CRDs are fit for use is not known", "error", err)
	}
	for i := range findings {
		if f := &findings[i]; f.State != crds.Absent && !f.Fit() {
			c.Log.Warn("a CRD is not fit for use; tierctl crds check says what to do", "crd", f.Name, "lacks", f.Lacks, "reasons", f.Reasons)
		}
	}
}

// everywhere is what runs whether or not the process leads.
type everywhere func(context.Context) error

// Start implements manager.Runnable.
func (f everywhere) Start(ctx context.Context) error { return f(ctx) }

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (everywhere) NeedLeaderElection() bool { return false }

func (c *Cluster) options(log logr.Logger, ready func() error) manager.Options {
	address := c.Listen
	if address == "" {
		address = "0"
	}
	cached := map[client.Object]cache.ByObject{&corev1.Node{}: {Transform: slimNode}}
	if c.admits() {
		maps.Copy(cached, admission.Cached(c.Namespace))
	}
	return manager.Options{
		Scheme: store.Scheme, Logger: log,
		LeaderElection: c.Namespace != "", LeaderElectionID: Lease, LeaderElectionNamespace: c.Namespace, LeaderElectionReleaseOnCancel: true,
		Metrics: metricsserver.Options{BindAddress: address, ExtraHandlers: map[string]http.Handler{
			"/healthz": answer(func() error { return nil }), "/readyz": answer(ready)}},
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject:         cached,
		},
	}
}

// slimNode leaves of a Node what host endpoints are made of.
func slimNode(obj any) (any, error) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, Labels: n.Labels, Annotations: n.Annotations,
		DeletionTimestamp: n.DeletionTimestamp}, Status: corev1.NodeStatus{Addresses: n.Status.Addresses}}, nil
}

// recorder tells by Events.
func recorder(events toolsevents.EventRecorder) Recorder {
	return func(about client.Object, warning bool, reason, message string) {
		kind := corev1.EventTypeNormal
		if warning {
			kind = corev1.EventTypeWarning
		}
		const most = 1024 // bytes of an Event's note
		if len(message) > most {
			message = strings.ToValidUTF8(message[:most-3], "") + "..."
		}
		events.Eventf(about, nil, kind, reason, "Status", "%s", message)
	}
}
