package main

import (
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Of the files that nobody has named the first that is there counts, and none for what runs on its own.
func TestDefaultFiles(t *testing.T) {
	nothingThere(t)
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
	holds(errs.String(), "the datastore is "+boltDatastore+":"+boltDefault+" (default)")
}

// nothingThere lets nobody have said where the datastore is, in a machine of which nothing is known.
func nothingThere(t *testing.T) {
	t.Helper()
	files, file, dir := configFiles, boltDefault, t.TempDir()
	t.Cleanup(func() { configFiles, boltDefault = files, file })
	configFiles = []string{filepath.Join(dir, "tierctl.cfg"), filepath.Join(dir, "calicoctl.cfg")}
	boltDefault = filepath.Join(dir, "tierwall.db")
	t.Setenv("HOME", dir)
	for _, k := range knobs {
		if k.env != "" {
			t.Setenv(k.env, "")
			t.Setenv("CALICO_"+k.env, "")
		}
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
}

// Where nobody has said anything, a host's own file goes before a kubeconfig that lies about, and that before a pod's cluster. What runs on its own
// does not look.
func TestGuess(t *testing.T) {
	nothingThere(t)
	said := func(want string, args ...string) {
		t.Helper()
		var out strings.Builder
		run(t.Context(), args, nil, &out, &out)
		if !strings.Contains(out.String(), want) {
			t.Errorf("%v: have\n%s\nwithout %q", args, out.String(), want)
		}
	}
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	view := []string{"config", "view", "--origin"}
	said("datastore: bolt:"+boltDefault+" # default: nobody has said", view...)
	said("no such store: tierctl apply creates it; the datastore is bolt:"+boltDefault+" (default: nobody has said", "get", "gnp")
	var out strings.Builder
	if status := run(t.Context(), []string{"version"}, nil, &out, &out); status != exitOK || strings.Contains(out.String(), "Cluster") {
		t.Errorf("version: status %d: %s", status, out.String())
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
	said("datastore: kubernetes # default: this is a pod", view...)
	kubeconfig := filepath.Join(os.Getenv("HOME"), ".kube", "config")
	write(kubeconfig, "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a}}], clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}]}")
	said("datastore: kubernetes:"+kubeconfig+" # default: that is there, and no "+boltDefault, view...)
	said("connection refused; the datastore is kubernetes:"+kubeconfig+" (default: that is there", "get", "gnp")
	said("the datastore is bolt:"+boltDefault+" (default)", "controller")
	write(boltDefault, "")
	said("datastore: bolt:"+boltDefault+" # default: the file is there", view...)
	t.Setenv("KUBECONFIG", kubeconfig)
	said("datastore: kubernetes # env KUBECONFIG", view...)
	said("the datastore is bolt:"+boltDefault+" (default)", "controller")
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
	nothingThere(t)
	for name, value := range map[string]string{"HOME": home,
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

// One whom the API server does not know is told so in calicoctl's words, whatever he asked for; scripts look for them.
func TestUnauthorized(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 401, "reason": "Unauthorized", "message": "Unauthorized"}`))
	}))
	defer server.Close()
	nothingThere(t)
	t.Setenv("DATASTORE_TYPE", "kubernetes")
	t.Setenv("K8S_API_ENDPOINT", server.URL)
	for _, command := range []string{"get tier", "get tier default", "label tier default a=b", "lint", "wait tier default --for=create", "status"} {
		var out strings.Builder
		run(t.Context(), strings.Fields(command), nil, &out, &out)
		if !strings.HasPrefix(out.String(), "tierctl: connection is unauthorized: ") {
			t.Errorf("%s: %s", command, out.String())
		}
	}
}
