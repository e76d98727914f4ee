// Package admission is what a cluster asks before an object is written: a webhook that judges as every store does and fills in what a schema
// cannot, the certificate that it is served with, and the trust of the API server in that. It knows no rule of its own: what an object must
// be says package store.
//
// Nobody is less safe while it is away: agents default and judge what they read, and what they cannot understand fails closed.
//
//	leader: Keeper ──► Secret tierwall-webhook ──► Serving, of every replica ──► the API server's connection
//	           └─────► caBundle of the webhook configurations ──────────────────► trusts it
package admission

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	reviews "sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Name of the Service, the Secret and the webhook configurations.
const Name = "tierwall-webhook"

// The paths that the webhook configurations ask.
const (
	PathValidate = "/validate"
	PathDefault  = "/default"
)

// Webhook is admission as every replica of the controller serves it.
type Webhook struct {
	Namespace string // of the Service and the Secret
	Port      int
	Get       func(context.Context, v3.Ref) (client.Object, error) // asks the cluster for a tier
	Log       *slog.Logger

	serving Serving
}

// SetupWithManager has every replica serve, and the leader keep the certificate. What the manager reads for it is Cached.
func (w *Webhook) SetupWithManager(ctx context.Context, m manager.Manager) error {
	if err := w.serving.follow(ctx, m.GetCache(), w.Log); err != nil {
		return fmt.Errorf("following Secret %s/%s: %w", w.Namespace, Name, err)
	}
	keeper := &Keeper{Client: m.GetClient(), Namespace: w.Namespace, Log: w.Log}
	if err := keeper.SetupWithManager(m); err != nil {
		return fmt.Errorf("keeping the webhook's certificate: %w", err)
	}
	server := webhook.NewServer(webhook.Options{Port: w.Port, TLSOpts: []func(*tls.Config){func(c *tls.Config) {
		c.MinVersion = tls.VersionTLS13
		c.GetCertificate = w.serving.certificate
	}}})
	for path, handler := range Handlers(w.Get) {
		server.Register(path, handler)
	}
	return m.Add(server)
}

// Ready is an error until there is a certificate to serve with.
func (w *Webhook) Ready() error {
	_, err := w.serving.certificate(nil)
	return err
}

// atOnce is how many reviews are answered at a time. Whoever reaches the pod may ask, and one review may have 7 MiB, the most that
// controller-runtime reads.
const atOnce = 8

// Handlers answer reviews, by path.
func Handlers(get func(context.Context, v3.Ref) (client.Object, error)) map[string]http.Handler {
	places := make(chan struct{}, atOnce)
	return map[string]http.Handler{
		PathValidate: bounded(places, &reviews.Webhook{Handler: &Validator{Get: get}}),
		PathDefault:  bounded(places, &reviews.Webhook{Handler: &Defaulter{}}),
	}
}

// bounded lets a request wait for its place, and go when who has asked has gone.
func bounded(places chan struct{}, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
			h.ServeHTTP(w, r)
		case <-r.Context().Done():
			http.Error(w, "too many at once", http.StatusServiceUnavailable)
		}
	})
}
