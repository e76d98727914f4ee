package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/tierwall/tierwall/test/kube"
)

// session is somebody at a command line whose datastore is a cluster. Between him and the API server is a proxy that can refuse.
type session struct {
	t          *testing.T
	dir        string
	kubeconfig string
	refuse     atomic.Pointer[string] // the end of the path of the writes that are refused, but for dry runs
}

func newSession(t *testing.T) *session {
	config := kube.Start(t)
	transport, err := rest.TransportFor(config)
	must(t, err)
	target, err := url.Parse(config.Host)
	must(t, err)
	s := &session{t: t, dir: t.TempDir()}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = transport
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if end := s.refuse.Load(); end != nil && r.Method != http.MethodGet && strings.HasSuffix(r.URL.Path, *end) && r.URL.Query().Get("dryRun") == "" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "meanwhile forbidden"}`))
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.kubeconfig = s.file("kubeconfig", "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: a}}]\n"+
		"clusters: [{name: a, cluster: {server: '"+server.URL+"'}}]\n")
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *session) file(name, text string) string {
	path := filepath.Join(s.dir, name)
	must(s.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// does runs a command, which must end with a status and print each text.
func (s *session) does(status int, command string, texts ...string) {
	s.t.Helper()
	var out strings.Builder
	args := append(strings.Fields(strings.ReplaceAll(command, "@", s.dir+"/")), "--datastore", "kubernetes:"+s.kubeconfig)
	if have := run(s.t.Context(), args, nil, &out, &out); have != status {
		s.t.Errorf("%s: exit status %d, want %d: %s", command, have, status, out.String())
	}
	for _, text := range texts {
		if !strings.Contains(out.String(), text) {
			s.t.Errorf("%s: no %q in\n%s", command, text, out.String())
		}
	}
}

const clusterPolicy = `apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: NAME}
spec:
  order: 10
  selector: all()
`

// What the scripts of testdata show on a file, on an API server.
func TestWritesInACluster(t *testing.T) {
	s := newSession(t)
	s.file("p.yaml", strings.ReplaceAll(clusterPolicy, "NAME", "p"))
	s.file("more.yaml", strings.ReplaceAll(clusterPolicy, "NAME", "p")+"  tier: blue\n---\napiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: blue}\n")
	s.does(0, "apply -f @p.yaml --dry-run", "GlobalNetworkPolicy/p created (dry run)")
	s.does(1, "get gnp p", "resource does not exist: GlobalNetworkPolicy/p")
	s.does(1, "diff -f @p.yaml", "--- /dev/null\n+++ GlobalNetworkPolicy/p", "+  order: 10")
	s.does(0, "apply -f @p.yaml", "GlobalNetworkPolicy/p created\nSuccessfully applied 1 'GlobalNetworkPolicy' resource(s)")
	s.does(0, "apply -f @p.yaml", "GlobalNetworkPolicy/p unchanged")
	s.does(0, "diff -f @p.yaml")
	s.does(0, `patch gnp p -p {"spec":{"order":20}} --dry-run=client`, "patched (dry run")
	s.does(0, `patch gnp p -p {"spec":{"order":20}} --dry-run`, "GlobalNetworkPolicy/p patched (dry run)")
	s.does(1, "diff -f @more.yaml", "+  tier: blue", "Tier/blue")
	s.does(0, `patch gnp p -p {"spec":{"order":20}}`, "GlobalNetworkPolicy/p patched")
	s.does(0, `patch gnp p -t json -p [{"op":"replace","path":"/spec/order","value":30}]`, "GlobalNetworkPolicy/p patched")
	s.does(0, `patch gnp p -p {"spec":{"order":30}}`, "GlobalNetworkPolicy/p unchanged")
	s.does(1, `patch gnp p -p {"spec":{"tier":"ghost"}}`, `--patch:1:17: spec.tier: Invalid value: "ghost"`)
	s.does(0, "label gnp p a=1 b=2", "Successfully set label a on gnp p")
	s.does(1, "label gnp p a=2", "key a is already present")
	s.does(0, "get gnp p -o jsonpath={.metadata.labels.a}/{.spec.order}", "1/30")
	s.does(0, "wait gnp p --for=jsonpath={.spec.order}=30", "GlobalNetworkPolicy/p condition met")
	s.does(5, "wait gnp p --for=condition=Programmed --timeout=200ms", "GlobalNetworkPolicy/p: it has no condition Programmed")
	s.does(2, "wait pod p --for=condition=Ready", "kubectl wait has the rest")
	s.does(0, "wait gnp none --for=delete")

	// whose a field is
	s.file("mine.yaml", strings.Replace(strings.ReplaceAll(clusterPolicy, "NAME", "q"), "10", "11", 1))
	s.file("his.yaml", strings.Replace(strings.ReplaceAll(clusterPolicy, "NAME", "q"), "10", "12", 1))
	s.does(0, "apply --server-side --field-manager ann -f @mine.yaml --dry-run", "GlobalNetworkPolicy/q created (dry run)")
	s.does(0, "apply --server-side --field-manager ann -f @mine.yaml", "GlobalNetworkPolicy/q created")
	s.does(0, "apply --server-side --field-manager ann -f @mine.yaml", "GlobalNetworkPolicy/q unchanged")
	s.does(1, "apply --server-side --field-manager bob -f @his.yaml", `his.yaml:5:10: GlobalNetworkPolicy/q: spec.order: managed by "ann"`)
	s.does(1, "diff --server-side --field-manager bob -f @his.yaml --force-conflicts", "-  order: 11\n+  order: 12")
	s.does(0, "apply --server-side --field-manager bob -f @his.yaml --force-conflicts", "GlobalNetworkPolicy/q configured")
	s.does(0, "get gnp q -o yaml --show-managed-fields", "manager: bob")

	// what the API server alone refuses stands at its place, too
	s.file("netpol.yaml", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: np, namespace: default}\nspec:\n  podSelector: {}\n  egress:\n"+
		"  - to:\n    - ipBlock:\n        cidr: 10.0.0.0/33\n")
	s.does(1, "apply -f @netpol.yaml", "netpol.yaml:9:15: KubernetesNetworkPolicy/default/np: spec.egress[0].to[0].ipBlock.cidr: ")
	s.file("service.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: default}\nspec:\n  ports:\n  - port: 80\n    nodePort: 5\n  type: NodePort\n")
	s.does(1, "apply -f @service.yaml", "service.yaml:7:15: Service/default/s: spec.ports[0].nodePort: ", "failed to apply 'Service' resource: nothing was written")

	// somebody comes in between the trial and the writing: the others are written, and it is said which
	s.file("three.yaml", strings.ReplaceAll(clusterPolicy, "NAME", "r")+"---\napiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: red}\n---\n"+
		strings.ReplaceAll(clusterPolicy, "NAME", "u"))
	end := "/tiers"
	s.refuse.Store(&end)
	s.does(3, "apply -f @three.yaml", "three.yaml:8:1: Tier/red: ", "meanwhile forbidden", "GlobalNetworkPolicy/r created\n", "GlobalNetworkPolicy/u created\n",
		"Partial success: applied 2 out of 3 resources\n")
	s.does(0, "get gnp r u")
	s.does(1, "get tier red")
	s.refuse.Store(nil)
	s.does(0, "replace -f @p.yaml", "GlobalNetworkPolicy/p replaced")
	s.does(1, "replace -f @three.yaml", "three.yaml:8:1: Tier/red: resource does not exist", "nothing was written: 1 of 3 objects cannot be written")
	s.does(0, "delete gnp r u", "Successfully deleted 2 'GlobalNetworkPolicy' resource(s)")
}
