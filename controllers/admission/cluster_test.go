package admission

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/test/kube"
)

// cluster is an API server: one for all tests of this package, without admission until a test installs it.
type cluster struct {
	config *rest.Config
	store  *store.Kube
	dynamic.Interface
	mapper apimeta.RESTMapper
	stop   func() error
}

var theCluster = sync.OnceValues(func() (*cluster, error) {
	config, stop, err := kube.Serve()
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	c := &cluster{config: config, stop: stop}
	if c.Interface, err = dynamic.NewForConfig(config); err != nil {
		return c, err
	}
	if c.store, err = store.OpenKube(config); err != nil {
		return c, err
	}
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return c, err
	}
	groups, err := restmapper.GetAPIGroupResources(d)
	if err != nil {
		return c, err
	}
	c.mapper = restmapper.NewDiscoveryRESTMapper(groups)
	return c, nil
})

var started bool

func TestMain(m *testing.M) {
	status := m.Run()
	if started {
		if c, _ := theCluster(); c != nil {
			_ = c.stop() // nothing depends on it any more
		}
	}
	os.Exit(status)
}

func clusterOf(t *testing.T) *cluster {
	t.Helper()
	started = true
	c, err := theCluster()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// of is where objects of the kind are.
func (c *cluster) of(t *testing.T, u *unstructured.Unstructured) dynamic.ResourceInterface {
	t.Helper()
	m, err := c.mapper.RESTMapping(u.GroupVersionKind().GroupKind(), u.GroupVersionKind().Version)
	if err != nil {
		t.Fatal(err)
	}
	if m.Scope.Name() == apimeta.RESTScopeNameNamespace {
		return c.Resource(m.Resource).Namespace(u.GetNamespace())
	}
	return c.Resource(m.Resource)
}

// put an object there until the test ends.
func (c *cluster) put(t *testing.T, u *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	out, err := c.of(t, u).Create(t.Context(), u, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.of(t, u).Delete(context.Background(), u.GetName(), metav1.DeleteOptions{}) }) // the test may have done so
	return out
}

// install the objects of a manifest of the kinds.
func (c *cluster) install(t *testing.T, file string, kinds ...string) {
	t.Helper()
	for _, u := range manifest(t, file, kinds...) {
		c.put(t, u)
	}
}

func manifest(t *testing.T, file string, kinds ...string) (out []*unstructured.Unstructured) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		u := &unstructured.Unstructured{}
		if err := decoder.Decode(&u.Object); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, k := range kinds {
			if u.GetKind() == k {
				out = append(out, u)
			}
		}
	}
}

const (
	deploy       = "../../config/deploy/tierwall.yaml"
	tieredRBAC   = "../../config/helm/tierwall/files/tiered-rbac.yaml"
	defaulting   = "../../config/helm/tierwall/files/default.yaml"
	policyKind   = "ValidatingAdmissionPolicy"
	policyBound  = "ValidatingAdmissionPolicyBinding"
	mutatingKind = "MutatingAdmissionPolicy"
)

// serve the webhook from this process, where the configurations that are installed find it.
func (c *cluster) serve(t *testing.T, kinds ...string) {
	t.Helper()
	pair, err := newPair("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(mux(c))
	certificate, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.StartTLS()
	t.Cleanup(server.Close)
	for _, u := range manifest(t, deploy, kinds...) {
		hooks, _, err := unstructured.NestedSlice(u.Object, "webhooks")
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range hooks {
			path, _, _ := unstructured.NestedString(h.(map[string]any), "clientConfig", "service", "path")
			h.(map[string]any)["clientConfig"] = map[string]any{"url": server.URL + path, "caBundle": pem64(Keys{Now: pair}.trusted(time.Now(), "127.0.0.1"))}
			h.(map[string]any)["failurePolicy"] = "Fail" // here it is there
		}
		if err := unstructured.SetNestedSlice(u.Object, hooks, "webhooks"); err != nil {
			t.Fatal(err)
		}
		c.put(t, u)
	}
}

func pem64(text []byte) string {
	out, _ := json.Marshal(text)
	return strings.Trim(string(out), `"`)
}

// until it is so: what is installed takes a moment to be in force.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) { return so(), nil })
	if err != nil {
		t.Fatalf("never: %s", what)
	}
}

var namespaces = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}

// namespace that is there from now on: without controllers none goes.
func (c *cluster) namespace(t *testing.T, name string) {
	t.Helper()
	ns := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}}}
	if _, err := c.Resource(namespaces).Apply(t.Context(), name, ns, metav1.ApplyOptions{FieldManager: "test"}); err != nil {
		t.Fatal(err)
	}
}
