package main

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Of the files that nobody has named the first that is there counts, and none for what runs on its own.
func TestDefaultFiles(t *testing.T) {
	old := configFiles
	t.Cleanup(func() { configFiles = old })
	for _, name := range []string{"TIERWALL_DATASTORE", "DATASTORE_TYPE", "KUBECONFIG"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", t.TempDir())
	dir := t.TempDir()
	configFiles = []string{filepath.Join(dir, "tierctl.cfg"), filepath.Join(dir, "calicoctl.cfg")}
	view := func(args ...string) string {
		var out strings.Builder
		run(t.Context(), append([]string{"config", "view", "--origin"}, args...), nil, &out, &out)
		return out.String()
	}
	holds := func(have, want string) {
		t.Helper()
		if !strings.Contains(have, want) {
			t.Errorf("have\n%s\nwithout %q", have, want)
		}
	}
	holds(view(), "default: nobody has said")
	for i := len(configFiles) - 1; i >= 0; i-- {
		text := "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nspec:\n  datastoreType: kubernetes\n  k8sAPIEndpoint: https://127.0.0.1:1\n"
		if err := os.WriteFile(configFiles[i], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		holds(view(), "datastore: kubernetes # file "+configFiles[i]+":4")
	}
	holds(view("--datastore", "bolt:x.db"), "datastore: bolt:x.db # flag --datastore")
	var errs strings.Builder
	run(t.Context(), []string{"controller"}, nil, &errs, &errs)
	holds(errs.String(), "the datastore is "+defaultDatastore+" (default)")
}

// An API server is reached by the environment alone, as calicoctl reaches it: endpoint, CA and token, and no kubeconfig's credentials.
func TestEnvironmentAlone(t *testing.T) {
	var authorization, agent string
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		authorization, agent = r.Header.Get("Authorization"), r.UserAgent()
	}))
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	other := "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n" +
		"clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: a, user: {token: another's}}]\n"
	if err := os.MkdirAll(filepath.Join(home, ".kube"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".kube", "config"), []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"TIERWALL_DATASTORE": "", "KUBECONFIG": "", "HOME": home,
		"DATASTORE_TYPE": "kubernetes", "K8S_API_ENDPOINT": server.URL, "CALICO_K8S_CA_FILE": ca} {
		t.Setenv(name, value)
	}
	for token, want := range map[string]string{"": "", "mine": "Bearer mine"} {
		t.Setenv("K8S_API_TOKEN", token)
		authorization, agent = "none came", ""
		var out strings.Builder
		run(t.Context(), []string{"get", "tier", "default"}, nil, &out, &out)
		if authorization != want || !strings.HasPrefix(agent, "tierctl/") {
			t.Errorf("with token %q the server was told %q, by %q: %s", token, authorization, agent, out.String())
		}
	}
}
