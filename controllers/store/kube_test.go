package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/test/kube"
)

// gate is a way to the API server that can be shut.
type gate struct {
	mu    sync.Mutex
	shut  bool
	conns []net.Conn
}

func (g *gate) dial(ctx context.Context, network, address string) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return nil, errors.New("the gate is shut")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err == nil {
		g.conns = append(g.conns, c)
	}
	return c, err
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut = shut; shut {
		for _, c := range g.conns {
			_ = c.Close()
		}
	}
}

// While the API server cannot be reached that is said, once, and what was told stands; then the difference is told.
func TestKubeOutage(t *testing.T) {
	direct := kubeStore(t)
	g, config := &gate{}, rest.CopyConfig(direct.config)
	config.Dial = g.dial
	gated, err := OpenKube(config)
	must(t, err)
	ctx := t.Context()
	for _, name := range []string{"stays", "goes"} {
		_, err := direct.Put(ctx, set(name))
		must(t, err)
	}
	w := telling(t, gated)
	w.until("both sets", func() bool { return w.has("stays") && w.has("goes") })
	g.set(true)
	if err := w.error(); !strings.Contains(err.Error(), "the gate is shut") {
		t.Errorf("told %v", err)
	}
	must(t, direct.Delete(ctx, set("goes")))
	_, err = direct.Put(ctx, set("comes"))
	must(t, err)
	if !w.has("goes") {
		t.Error("it was told of what it could not see")
	}
	g.set(false)
	w.until("the difference", func() bool { return w.has("stays") && !w.has("goes") && w.has("comes") })
	if len(w.errs) != 1 {
		t.Errorf("one outage was told %d times: %v", len(w.errs), w.errs)
	}
}

// faulty is a way to the API server on which one watch in some fails: by no answer, by a bad one, or in the middle.
type faulty struct {
	http.RoundTripper
	mu     sync.Mutex
	random *rand.Rand
	faults int
}

func (f *faulty) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Query().Get("watch") != "true" {
		return f.RoundTripper.RoundTrip(r)
	}
	f.mu.Lock()
	fault, after := f.random.IntN(12), f.random.IntN(4000)
	if fault < 6 {
		f.faults++
	}
	f.mu.Unlock()
	switch fault {
	case 0:
		return nil, errors.New("no answer")
	case 1, 2, 3:
		status := []int{http.StatusInternalServerError, http.StatusTooManyRequests, http.StatusGone}[fault-1]
		return &http.Response{StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"text/plain"}},
			Body: io.NopCloser(strings.NewReader("a fault")), Request: r}, nil
	}
	out, err := f.RoundTripper.RoundTrip(r)
	if err == nil && fault < 6 {
		out.Body = &torn{out.Body, after, fault == 5}
	}
	return out, err
}

// torn ends before its time, or becomes nonsense first, which within a string of JSON is no error.
type torn struct {
	io.ReadCloser
	left     int
	nonsense bool
}

func (b *torn) Read(p []byte) (int, error) {
	if b.left <= 0 && b.nonsense {
		b.nonsense = false
		return copy(p, "???"), nil
	}
	if b.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// However watches fail, what is told in the end is what there is.
func TestKubeFaults(t *testing.T) {
	direct := kubeStore(t)
	seed := uint64(time.Now().UnixNano())
	f := &faulty{random: rand.New(rand.NewPCG(seed, 0))}
	config := rest.CopyConfig(direct.config)
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { f.RoundTripper = rt; return f })
	k, err := OpenKube(config)
	must(t, err)
	ctx := t.Context()
	w := telling(t, k)
	random := rand.New(rand.NewPCG(seed, 1))
	for round := range 15 {
		for range 4 {
			name := fmt.Sprintf("s%d", random.IntN(5))
			if random.IntN(3) == 0 {
				if err := direct.Delete(ctx, set(name)); err != nil && !errors.Is(err, ErrNotFound) {
					t.Fatal(err)
				}
			} else if _, err := direct.Put(ctx, set(name, fmt.Sprintf("10.%d.0.0/16", random.IntN(200)))); err != nil {
				t.Fatal(err)
			}
		}
		mark := fmt.Sprintf("mark-%d", round)
		_, err := direct.Put(ctx, set(mark))
		must(t, err)
		list, err := direct.List(ctx, "GlobalNetworkSet", "")
		must(t, err)
		w.until("what there is", func() bool { return w.has(mark) && slices.Equal(versions(list), versions(w.sets())) })
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	t.Logf("seed %d: %d faults", seed, f.faults)
	if f.faults == 0 {
		t.Errorf("seed %d: nothing failed", seed)
	}
}

// front is a TLS server before the API server, with whatever certificate it is given.
type front struct {
	*httptest.Server
	mu   sync.Mutex
	cert *tls.Certificate
}

func newFront(t *testing.T, config *rest.Config) *front {
	t.Helper()
	transport, err := rest.TransportFor(config)
	must(t, err)
	target, err := url.Parse(config.Host)
	must(t, err)
	f := &front{Server: httptest.NewUnstartedServer(&httputil.ReverseProxy{Transport: transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }})}
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return &tls.Config{Certificates: []tls.Certificate{*f.cert}}, nil
	}}
	return f
}

// show another certificate, and have everybody connect anew.
func (f *front) show(cert *tls.Certificate) {
	f.mu.Lock()
	f.cert = cert
	f.mu.Unlock()
	f.CloseClientConnections()
}

// authority is a CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	must(t, err)
	cert, err := cert.NewSelfSignedCACert(cert.Config{CommonName: "test"}, key)
	must(t, err)
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})}
}

// issue a certificate for 127.0.0.1 that is valid for an hour from some time on.
func (a *authority) issue(t *testing.T, from time.Time) *tls.Certificate {
	t.Helper()
	raw, err := x509.CreateCertificate(cryptorand.Reader, &x509.Certificate{SerialNumber: big.NewInt(from.UnixNano()), NotBefore: from, NotAfter: from.Add(time.Hour),
		IPAddresses: []net.IP{{127, 0, 0, 1}}, KeyUsage: x509.KeyUsageDigitalSignature}, a.cert, a.key.Public(), a.key)
	must(t, err)
	return &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: a.key}
}

// The API server shows a new certificate, one that is not valid by this machine's clock, and one of another authority. A watch goes on
// whenever it can be sure whom it hears. Where the file that says whom to trust has changed client-go reads it anew, every five minutes.
func TestKubeCertificates(t *testing.T) {
	direct := kubeStore(t)
	f := newFront(t, direct.config)
	first, second := newAuthority(t), newAuthority(t)
	now := time.Now()
	f.cert = first.issue(t, now.Add(-time.Minute))
	f.StartTLS()
	defer f.Close()
	trusted := filepath.Join(t.TempDir(), "ca.crt")
	must(t, os.WriteFile(trusted, first.pem, 0o600))
	k, err := OpenKube(&rest.Config{Host: f.URL, TLSClientConfig: rest.TLSClientConfig{CAFile: trusted}})
	must(t, err)
	ctx := t.Context()
	w := telling(t, k)
	told := func(name string) {
		t.Helper()
		_, err := direct.Put(ctx, set(name))
		must(t, err)
		w.until(name, func() bool { return w.has(name) })
	}
	told("at-first")
	f.show(first.issue(t, now.Add(-2*time.Minute)))
	told("another")
	for what, at := range map[string]time.Time{"expired": now.Add(-2 * time.Hour), "not-yet-valid": now.Add(2 * time.Hour)} {
		f.show(first.issue(t, at))
		if err := w.error(); !strings.Contains(err.Error(), "expired or is not yet valid") {
			t.Errorf("%s: told %v", what, err)
		}
		f.show(first.issue(t, now))
		told("after-" + what)
	}
	f.show(second.issue(t, now))
	if err := w.error(); !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("told %v", err)
	}
	f.show(first.issue(t, now))
	told("after-another-authority")
	w.end() // the front waits for connections to end
}

// etcd is put back to what it was, while a watch is on: what is there then is told, and what comes after it. A watch that asked to go on from
// where it was would hear nothing until the store had come as far again.
func TestKubeRestored(t *testing.T) {
	server := kube.StartServer(t)
	k, err := OpenKube(server.Config)
	must(t, err)
	k = k.Following(func(k *Kind) bool { return k.Kind == "GlobalNetworkSet" || k.Kind == "Namespace" })
	ctx := t.Context()
	put := func(name string, nets ...string) {
		t.Helper()
		_, err := k.Put(ctx, set(name, nets...))
		must(t, err)
	}
	put("old")
	put("changed", "10.0.0.0/8")
	must(t, server.Stop())
	must(t, server.Save())
	must(t, server.Again())
	w := telling(t, k)
	for i := range 100 { // far ahead of what is put back
		put("changed", fmt.Sprintf("10.%d.0.0/16", i))
	}
	put("new")
	must(t, k.Delete(ctx, set("old")))
	w.until("all", func() bool { return w.has("new") && w.has("changed") && !w.has("old") })
	must(t, server.Stop())
	must(t, server.Restore())
	must(t, server.Again())
	w.until("what was put back", func() bool {
		return w.has("old") && !w.has("new") && w.objects[setRef("changed")].(*v3.GlobalNetworkSet).Spec.Nets[0] == "10.0.0.0/8"
	})
	put("after")
	w.until("what comes after it", func() bool { return w.has("after") })
	t.Logf("told: %v", w.errs)
}

func crdClient(k *Kube, plural string) func(ctx context.Context, patch any) error {
	return func(ctx context.Context, patch any) error {
		text, err := json.Marshal(patch)
		if err != nil {
			return err
		}
		_, err = k.dynamic.Resource(crdResource).Patch(ctx, plural, types.JSONPatchType, text, metav1.PatchOptions{})
		return err
	}
}

// An object that cannot be decoded is told as such, and those around it are told as ever: when listed, and when watched.
func TestKubeTellsWhatCannotBeDecoded(t *testing.T) {
	config := kube.Start(t) // its own: its CRD is bent
	s, err := OpenKube(config)
	must(t, err)
	ctx := t.Context()
	spec := "/spec/versions/0/schema/openAPIV3Schema/properties/spec"
	must(t, crdClient(s, "globalnetworksets.projectcalico.org")(ctx, []map[string]any{
		{"op": "replace", "path": spec, "value": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}))
	resource := s.dynamic.Resource(schema.GroupVersionResource{Group: "projectcalico.org", Version: "v3", Resource: "globalnetworksets"})
	bad := func(name string) {
		t.Helper()
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
			"metadata": map[string]any{"name": name, "labels": map[string]any{"a": "b"}}, "spec": map[string]any{"nets": "text"}}}
		for { // the API server takes a while to serve what it has accepted
			_, err := resource.Create(ctx, u, metav1.CreateOptions{})
			if err == nil {
				return
			}
			if !strings.Contains(err.Error(), "nets") || ctx.Err() != nil {
				t.Fatal(err)
			}
		}
	}
	bad("listed")
	_, err = s.Put(ctx, set("good"))
	must(t, err)
	w := telling(t, s)
	w.until("what was there", func() bool { return w.has("listed") && w.has("good") })
	bad("watched")
	_, err = s.Put(ctx, set("after"))
	must(t, err)
	w.until("what came", func() bool { return w.has("watched") && w.has("after") })
	for name, is := range map[string]bool{"listed": true, "watched": true, "good": false, "after": false} {
		if got := w.corrupt[setRef(name)] != nil; got != is {
			t.Errorf("%s cannot be decoded: %v", name, got)
		}
	}
	all, err := s.List(ctx, "GlobalNetworkSet", "")
	if len(all) != 2 || !errors.Is(err, ErrCorruptObject) || !strings.Contains(err.Error(), "GlobalNetworkSet/listed") {
		t.Errorf("listed %d, and %v", len(all), err)
	}
	must(t, s.Delete(ctx, set("listed")))
	w.until("it is gone", func() bool { return !w.has("listed") })
}

// Who deletes a CRD deletes all objects of its kind. That is not what the policy's authors have said: what was told stays, until the CRD is
// there again and says otherwise. A watch that begins meanwhile is not told that there is nothing.
func TestKubeKeepsWhatACRDTakesWithIt(t *testing.T) {
	config := kube.Start(t)
	s, err := OpenKube(config)
	must(t, err)
	ctx := t.Context()
	for _, name := range []string{"a", "b"} {
		_, err := s.Put(ctx, set(name))
		must(t, err)
	}
	w := telling(t, s)
	w.until("both", func() bool { return w.has("a") && w.has("b") })
	const crdName = "globalnetworksets.projectcalico.org"
	crds := s.dynamic.Resource(crdResource)
	was, err := crds.Get(ctx, crdName, metav1.GetOptions{})
	must(t, err)
	must(t, crds.Delete(ctx, crdName, metav1.DeleteOptions{}))
	for err := w.error(); !errors.Is(err, ErrNoKind); err = w.error() {
		t.Logf("told: %v", err)
	}
	if !w.has("a") || !w.has("b") {
		t.Error("the CRD took its objects with it")
	}
	_, err = s.Put(ctx, tier("other")) // the others go on
	must(t, err)
	w.until("another kind", func() bool { return w.objects[v3.Ref{Kind: "Tier", Name: "other"}] != nil })

	late := telling(t, s)
	if err := late.error(); !errors.Is(err, ErrNoKind) {
		t.Errorf("a watch that began without the CRD was told %v", err)
	}
	again := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": crdName}, "spec": was.Object["spec"]}}
	_, err = crds.Create(ctx, again, metav1.CreateOptions{})
	must(t, err)
	w.until("the CRD is there again, without objects", func() bool { return !w.has("a") && !w.has("b") })
	late.until("everything", func() bool { return !late.has("a") && late.objects[v3.Ref{Kind: "Tier", Name: "other"}] != nil })
}

// The CRD of ClusterNetworkPolicy is another project's: a cluster need not have it, and may get it later.
func TestKubeWithoutClusterNetworkPolicy(t *testing.T) {
	config := kube.Start(t)
	s, err := OpenKube(config)
	must(t, err)
	ctx := t.Context()
	const crdName = "clusternetworkpolicies.policy.networking.k8s.io"
	crds := s.dynamic.Resource(crdResource)
	was, err := crds.Get(ctx, crdName, metav1.GetOptions{})
	must(t, err)
	must(t, crds.Delete(ctx, crdName, metav1.DeleteOptions{}))
	for { // it goes in its own time
		if _, err := crds.Get(ctx, crdName, metav1.GetOptions{}); err != nil {
			break
		}
	}
	_, err = s.Put(ctx, set("a"))
	must(t, err)
	w := telling(t, s)
	w.until("the others", func() bool { return w.has("a") })
	if !slices.ContainsFunc(w.errs, func(err error) bool { return errors.Is(err, ErrUnfollowed) }) {
		t.Errorf("nobody was told: %v", w.errs)
	}
	again := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": crdName, "annotations": map[string]any{"api-approved.kubernetes.io": "unapproved, a test"}}, "spec": was.Object["spec"]}}
	_, err = crds.Create(ctx, again, metav1.CreateOptions{})
	must(t, err)
	policy := object(t, `{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c},
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}`)
	for {
		if _, err = s.Put(ctx, policy); err == nil {
			break
		}
		if !errors.Is(err, ErrNoKind) && !errors.Is(err, ErrNotFound) { // it is not served yet
			t.Fatal(err)
		}
	}
	there := func() bool { return w.objects[v3.RefOf(policy.(v3.Object))] != nil }
	w.until("the policy", there)
	must(t, crds.Delete(ctx, crdName, metav1.DeleteOptions{}))
	for err := w.error(); !errors.Is(err, ErrNoKind); err = w.error() {
		t.Logf("told: %v", err)
	}
	_, err = s.Put(ctx, set("b"))
	must(t, err)
	w.until("another kind", func() bool { return w.has("b") })
	if !there() {
		t.Error("the CRD took its policy with it")
	}
}

// Who may not ask whether a CRD is being deleted believes what he is told, and says so: else nothing could be deleted any more.
func TestForbiddenToDoubt(t *testing.T) {
	f, feeds := follows("Namespace")
	d := feeds[0]
	d.doubts, d.going = make(chan struct{}, 1), func(context.Context) (bool, error) {
		return false, apierrors.NewForbidden(schema.GroupResource{Resource: "customresourcedefinitions"}, "x", errors.New("no"))
	}
	must(t, d.Replace([]any{namespaceAt("a", "5")}, "7"))
	taken(f)
	must(t, d.Delete(namespaceAt("a", "8")))
	if got := taken(f); len(got) != 0 {
		t.Errorf("before it was judged: %q", got)
	}
	must(t, d.decide(t.Context()))
	if got := taken(f); len(got) != 3 || !strings.Contains(got[0], "perhaps its CRD is being deleted") || got[1] != "-a" {
		t.Errorf("told %q", got)
	}
}

// Of a pod, policy knows what it asks and no more; what changes of the rest is not told.
func TestKubeStripsPods(t *testing.T) {
	s := kubeStore(t)
	ctx := t.Context()
	pods, err := OpenKube(s.config)
	must(t, err)
	pods = pods.Following(func(k *Kind) bool { return k.Kind == "Pod" })
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p",
		Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"note": strings.Repeat("x", 1000)}},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: "A", Value: "b"}},
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}}}}
	_, err = pods.Put(ctx, pod)
	must(t, err)
	ref := v3.RefOf(pod)
	status := func(text string) {
		t.Helper()
		_, err := pods.dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace("default").Patch(ctx, "p", types.MergePatchType,
			[]byte(`{"status":`+text+`}`), metav1.PatchOptions{}, "status")
		must(t, err)
	}
	t.Cleanup(func() {
		zero := int64(0)
		_ = pods.dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace("default").Delete(context.Background(), "p",
			metav1.DeleteOptions{GracePeriodSeconds: &zero})
	})
	w := telling(t, pods)
	w.until("the pod", func() bool { return w.objects[ref] != nil })
	status(`{"phase":"Pending","message":"nobody asks this"}`)
	status(`{"phase":"Running","podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"}],"message":"or this"}`)
	w.until("its address", func() bool { return w.objects[ref].(*corev1.Pod).Status.PodIP == "10.0.0.1" })
	puts := w.puts
	status(`{"message":"or that"}`)
	status(`{"phase":"Succeeded"}`)
	w.until("its end", func() bool { return w.objects[ref].(*corev1.Pod).Status.Phase == corev1.PodSucceeded })
	if w.puts != puts+1 {
		t.Errorf("told %d times", w.puts-puts)
	}
	text, err := json.Marshal(w.objects[ref])
	must(t, err)
	for _, gone := range []string{"xxx", `"env"`, "or that", "managedFields", `"image":"i"`} {
		if strings.Contains(string(text), gone) {
			t.Errorf("the pod still has %s: %s", gone, text)
		}
	}
	for _, there := range []string{`"app":"web"`, `"containerPort":80`, `"nodeName":"n1"`, `"10.0.0.1"`} {
		if !strings.Contains(string(text), there) {
			t.Errorf("the pod has no %s: %s", there, text)
		}
	}
}

// Every field that strip leaves out of an object is one that policy does not ask.
func TestStripKeepsWhatPolicyAsks(t *testing.T) {
	for _, c := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"a": "b"}}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s", Labels: map[string]string{"a": "b"}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"a": "b"}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}}},
	} {
		before, err := json.Marshal(c)
		must(t, err)
		after, err := json.Marshal(strip(c))
		must(t, err)
		if string(before) != string(after) {
			t.Errorf("%s became %s", before, after)
		}
	}
}
