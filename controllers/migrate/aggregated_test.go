package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
)

// aggregated is an API server as Calico's: it serves projectcalico.org/v3, read only, from objects that no other has.
type aggregated struct {
	objects map[string][]map[string]any // by resource
	listed  map[string]int
}

func (a *aggregated) resources() (out []metav1.APIResource) {
	for kind, plural := range plurals {
		if a.objects[plural] != nil {
			out = append(out, metav1.APIResource{Name: plural, Kind: kind, Namespaced: kind == "NetworkPolicy", Verbs: metav1.Verbs{"list", "get"}})
		}
	}
	return out
}

// ServeHTTP answers who asks what there is, and for all of a resource, in all namespaces.
func (a *aggregated) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var answer any
	switch dir, last := path.Split(r.URL.Path); {
	case r.URL.Path == "/apis/projectcalico.org/v3":
		answer = metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: Native, APIResources: a.resources()}
	case dir == "/apis/projectcalico.org/v3/" && a.objects[last] != nil:
		a.listed[last]++
		answer = map[string]any{"apiVersion": Native, "kind": "List", "metadata": map[string]any{"resourceVersion": "7"}, "items": a.objects[last]}
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // who does not take it has gone
}

// serve objects by a server that answers behind the APIService, as one with Calico's etcd behind it does.
func (b *bench) serve(objects string) *aggregated {
	b.t.Helper()
	a := &aggregated{map[string][]map[string]any{}, map[string]int{}}
	each(b.t, objects, func(u *unstructured.Unstructured) {
		a.objects[plurals[u.GetKind()]] = append(a.objects[plurals[u.GetKind()]], u.Object)
	})
	server := httptest.NewTLSServer(a)
	b.t.Cleanup(server.Close)
	at, err := url.Parse(server.URL)
	fatal(b.t, err)
	b.make(fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: calico-apiserver}
---
apiVersion: v1
kind: Service
metadata: {name: calico-api, namespace: calico-apiserver}
spec: {type: ExternalName, externalName: localhost, ports: [{port: %[1]s}]}
`, at.Port()) + "---" + strings.Replace(staleService, "port: 443", "port: "+at.Port(), 1))
	fatal(b.t, wait.PollUntilContextTimeout(b.t.Context(), 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		served, err := b.serves(Native)
		return err == nil && len(served) == len(a.objects), nil
	}))
	return a
}

// Calico whose objects only its own API server has, because they are in an etcd of its own: all is read through that, before it is out of the way. Rolled back it
// serves as before, and has never been written to.
func TestFromAnAPIServer(t *testing.T) {
	b := begin(t)
	was := strings.ReplaceAll(strings.ReplaceAll(storedObjects, "crd.projectcalico.org/v1", "projectcalico.org/v3"), ", destination: {ports: [80]}", "")
	server := b.serve(was)
	p, src := b.planOf("", Options{})
	if src.Name != Native || src.inPlace || len(p.Refused) > 0 || len(p.InTheWay) != 1 || server.listed["globalnetworkpolicies"] == 0 {
		t.Fatalf("plan from %s:\n%s", src.Name, p.shown())
	}
	for _, m := range p.Moves {
		if m.Does != Creates {
			t.Errorf("%s %s", m.Does, m.Ref())
		}
	}
	fatal(t, b.with(func(j *Journal) error { return b.Begin(t.Context(), j, src, p) }))
	kills := b.killed(func(j *Journal) error { return b.Continue(t.Context(), j, b.say) })
	got := b.all()
	for _, ref := range []string{"Tier/security", "GlobalNetworkPolicy/default.a", "GlobalNetworkPolicy/security.guard", "NetworkPolicy/default/default.n", "GlobalNetworkSet/bad", "HostEndpoint/n1-eth0"} {
		if got[ref] == "" {
			t.Errorf("%s is not there: %v", ref, got)
		}
	}
	fatal(t, b.with(func(j *Journal) error {
		saved, err := j.Source()
		if err == nil && len(saved.Policies()) != len(src.Policies()) {
			t.Errorf("%d policies are saved of %d", len(saved.Policies()), len(src.Policies()))
		}
		return err
	}))
	if err := b.with(func(j *Journal) error { return b.Rollback(t.Context(), j, false, b.say) }); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "no agent of Calico's runs") {
		t.Errorf("rollback to where nobody enforces: %v", err)
	}
	b.enforced()
	back := b.killed(func(j *Journal) error { return b.Rollback(t.Context(), j, false, b.say) })
	t.Logf("%d objects, killed %d times, and on the way back %d times", len(p.Moves), kills, back)
	fatal(t, wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		served, err := b.serves(Native)
		return err == nil && len(served) == len(server.objects), nil
	}))
	again, err := b.Read(t.Context(), Native)
	fatal(t, err)
	if differences := src.Differences(again); len(differences) > 0 || len(again.Objects) != len(src.Objects) {
		t.Errorf("after rollback the server has %d objects, and otherwise: %v", len(again.Objects), differences)
	}

	b.withoutServer()
	var left []string
	for ref := range b.all() {
		if !strings.HasPrefix(ref, "Tier/") {
			left = append(left, ref)
		}
	}
	slices.Sort(left)
	if diff := cmp.Diff([]string(nil), left); diff != "" {
		t.Errorf("of ours there is still %s", diff)
	}
}
