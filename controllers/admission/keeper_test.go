package admission

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"strconv"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/tierwall/tierwall/controllers/store"
)

// TestKeeper: the leader makes the Secret, and the configurations trust what is in it; whatever of it is wiped comes back, each replica serves
// what is there now, and its connections are trusted by whoever goes by a configuration.
func TestKeeper(t *testing.T) {
	c := clusterOf(t)
	const namespace = "kept"
	c.namespace(t, namespace)
	for _, u := range manifest(t, deploy, "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration") {
		hooks, _, _ := unstructured.NestedSlice(u.Object, "webhooks")
		for _, h := range hooks { // nobody is asked here
			h.(map[string]any)["matchConditions"] = []any{map[string]any{"name": "never", "expression": "false"}}
		}
		if err := unstructured.SetNestedSlice(u.Object, hooks, "webhooks"); err != nil {
			t.Fatal(err)
		}
		c.put(t, u)
	}
	port := free(t)
	w := &Webhook{Namespace: namespace, Port: port, Get: c.store.Get, Log: slog.New(slog.DiscardHandler)}
	m, err := manager.New(c.config, manager.Options{Scheme: store.Scheme, Cache: cache.Options{ByObject: Cached(namespace)},
		Metrics: metricsserver.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: ptr.To(true)}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	if err := w.SetupWithManager(ctx, m); err != nil {
		t.Fatal(err)
	}
	if w.Ready() == nil {
		t.Error("ready without a certificate")
	}
	go func() { done <- m.Start(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	direct, err := client.New(c.config, client.Options{Scheme: store.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	key := types.NamespacedName{Namespace: namespace, Name: Name}
	secret, validating, mutating := &corev1.Secret{}, &admissionregistrationv1.ValidatingWebhookConfiguration{}, &admissionregistrationv1.MutatingWebhookConfiguration{}
	get := func(o client.Object) {
		t.Helper()
		if err := direct.Get(ctx, types.NamespacedName{Namespace: o.GetNamespace(), Name: Name}, o); err != nil {
			t.Fatal(err)
		}
	}
	inForce := func(what string) Pair {
		t.Helper()
		until(t, what, func() bool {
			if err := direct.Get(ctx, key, secret); err != nil {
				return false
			}
			get(validating)
			get(mutating)
			for _, c := range []admissionregistrationv1.WebhookClientConfig{validating.Webhooks[0].ClientConfig, mutating.Webhooks[0].ClientConfig} {
				if len(c.CABundle) == 0 || string(c.CABundle) != string(secret.Data[dataTrusted]) {
					return false
				}
			}
			return answers(port, validating.Webhooks[0].ClientConfig.CABundle, namespace)
		})
		return keysOf(secret.Data).Now
	}
	first := inForce("a certificate is made")
	if err := w.Ready(); err != nil {
		t.Error(err)
	}

	validating.Webhooks[0].ClientConfig.CABundle = nil // as who replaces it with what the chart has
	if err := direct.Update(ctx, validating); err != nil {
		t.Fatal(err)
	}
	if again := inForce("it is trusted again"); !again.equal(first) {
		t.Error("somebody wiped the trust, and the certificate changed")
	}
	if err := direct.Delete(ctx, secret); err != nil {
		t.Fatal(err)
	}
	second := inForce("it is made again")
	if second.equal(first) {
		t.Error("the certificate came back")
	}
	until(t, "a certificate of another name is replaced", func() bool {
		get(secret)
		other, err := newPair("other")
		if err != nil {
			t.Fatal(err)
		}
		secret.Data = Keys{Now: other}.data()
		err = direct.Update(ctx, secret)
		if err != nil && !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
		return err == nil
	})
	inForce("by a new one")
	_ = direct.Delete(context.Background(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: Name}}) // it is of this test
}

func free(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// answers tells whether who trusts a bundle can talk to the webhook.
func answers(port int, bundle []byte, namespace string) bool {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	conn, err := tls.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), &tls.Config{RootCAs: roots, ServerName: Host(namespace), MinVersion: tls.VersionTLS13})
	if err != nil {
		return false
	}
	return conn.Close() == nil
}
