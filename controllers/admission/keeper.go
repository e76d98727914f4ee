package admission

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// Cached is what a manager's cache is to hold for admission: of each kind one object.
func Cached(namespace string) map[client.Object]cache.ByObject {
	one := fields.OneTermEqualSelector("metadata.name", Name)
	return map[client.Object]cache.ByObject{
		&corev1.Secret{}: {Namespaces: map[string]cache.Config{namespace: {FieldSelector: one}}},
		&admissionregistrationv1.ValidatingWebhookConfiguration{}: {Field: one},
		&admissionregistrationv1.MutatingWebhookConfiguration{}:   {Field: one},
	}
}

// Keeper keeps the Secret with the webhook's certificate, and the trust of the webhook configurations in it.
type Keeper struct {
	Client    client.Client
	Namespace string
	Log       *slog.Logger
}

// looks is how often the clock is compared with the certificates: it may jump, and nobody is told.
const looks = time.Minute

// SetupWithManager has it run by the leader.
func (k *Keeper) SetupWithManager(m manager.Manager) error {
	all := []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: k.Namespace, Name: Name}}}
	any := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return all })
	first := source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		queue.Add(all[0]) // there may be nothing yet
		return nil
	})
	return builder.ControllerManagedBy(m).Named("admission").
		Watches(&corev1.Secret{}, any).
		Watches(&admissionregistrationv1.ValidatingWebhookConfiguration{}, any).
		Watches(&admissionregistrationv1.MutatingWebhookConfiguration{}, any).
		WatchesRawSource(first).
		Complete(k)
}

// Reconcile implements controller-runtime's reconcile.Reconciler.
func (k *Keeper) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	err := k.keep(ctx)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) { // what has changed meanwhile is told
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	return reconcile.Result{RequeueAfter: looks}, err
}

// keep the Secret, and the trust in what it says by then: of two that write at once one is beaten, and nobody trusts what it has made.
func (k *Keeper) keep(ctx context.Context) error {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: k.Namespace, Name: Name}}
	err := k.Client.Get(ctx, client.ObjectKeyFromObject(secret), secret)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return err
	}
	have := keysOf(secret.Data)
	want, err := have.at(time.Now(), Host(k.Namespace))
	if err != nil {
		return err
	}
	if !have.equal(want) {
		if err := k.write(ctx, secret, missing, want); err != nil {
			return err
		}
	}
	return k.trust(ctx, want.Trusted)
}

func (k *Keeper) write(ctx context.Context, secret *corev1.Secret, missing bool, keys Keys) error {
	write := func() error { return k.Client.Update(ctx, secret) }
	if missing {
		write = func() error { return k.Client.Create(ctx, secret) }
	}
	secret.Data = keys.data()
	if err := write(); err != nil {
		return fmt.Errorf("Secret %s/%s: %w", k.Namespace, Name, err)
	}
	k.Log.Info("the webhook's certificate", "served", summary(keys.Now), "next", summary(keys.Next))
	return nil
}

// trust has each webhook of the configurations that there are trust these CAs.
func (k *Keeper) trust(ctx context.Context, bundle []byte) error {
	validating, mutating := &admissionregistrationv1.ValidatingWebhookConfiguration{}, &admissionregistrationv1.MutatingWebhookConfiguration{}
	return errors.Join(
		k.update(ctx, validating, func() (changed bool) {
			for i := range validating.Webhooks {
				changed = replace(&validating.Webhooks[i].ClientConfig, bundle) || changed
			}
			return changed
		}),
		k.update(ctx, mutating, func() (changed bool) {
			for i := range mutating.Webhooks {
				changed = replace(&mutating.Webhooks[i].ClientConfig, bundle) || changed
			}
			return changed
		}))
}

func replace(c *admissionregistrationv1.WebhookClientConfig, bundle []byte) bool {
	if bytes.Equal(c.CABundle, bundle) {
		return false
	}
	c.CABundle = bundle
	return true
}

func (k *Keeper) update(ctx context.Context, obj client.Object, change func() bool) error {
	err := k.Client.Get(ctx, types.NamespacedName{Name: Name}, obj)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil && change() {
		err = k.Client.Update(ctx, obj)
	}
	if err != nil {
		return fmt.Errorf("%T %s: %w", obj, Name, err)
	}
	return nil
}

// Host is the name that the API server knows the webhook by.
func Host(namespace string) string { return Name + "." + namespace + ".svc" }

// summary is for the log: until when a pair can be served.
func summary(p Pair) string {
	pair, err := tls.X509KeyPair(p.Certificate, p.Key)
	if err != nil || pair.Leaf == nil {
		return "none"
	}
	return "until " + pair.Leaf.NotAfter.Format(time.RFC3339)
}

// Serving is the certificate that one replica serves, as the Secret says.
type Serving struct {
	current atomic.Pointer[tls.Certificate]
}

func (s *Serving) follow(ctx context.Context, c cache.Cache, log *slog.Logger) error {
	informer, err := c.GetInformer(ctx, &corev1.Secret{})
	if err != nil {
		return err
	}
	take := func(obj any) {
		if secret, ok := obj.(*corev1.Secret); ok {
			if err := s.take(keysOf(secret.Data)); err != nil {
				log.Warn("the webhook's certificate cannot be served; what was served is", "error", err)
			}
		}
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{AddFunc: take, UpdateFunc: func(_, obj any) { take(obj) }})
	return err
}

func (s *Serving) take(k Keys) error {
	if len(k.Now.Certificate) == 0 {
		return nil // the leader has not made one yet
	}
	pair, err := tls.X509KeyPair(k.Now.Certificate, k.Now.Key)
	if err != nil {
		return err
	}
	s.current.Store(&pair)
	return nil
}

func (s *Serving) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := s.current.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("the webhook has no certificate yet")
}
