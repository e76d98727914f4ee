package main

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/tierwall/tierwall/controllers"
	"github.com/tierwall/tierwall/test/kube"
)

// kubeconfigOf writes how to get at an API server.
func kubeconfigOf(t *testing.T, config *rest.Config) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"u": {ClientCertificateData: config.CertData, ClientKeyData: config.KeyData,
			Token: config.BearerToken}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}, path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// tierctl runs a command line, and gives what it said.
func tierctl(t *testing.T, args ...string) (status int, out, errs string) {
	t.Helper()
	var o, e strings.Builder
	status = run(t.Context(), args, strings.NewReader(""), &o, &e)
	return status, o.String(), e.String()
}

// What an operator is told of a cluster: nodes without an agent, agents that are not ready, who leads, and all of it in one archive.
func TestClusterStatusAndDiags(t *testing.T) {
	config := kube.Start(t)
	k := kubernetes.NewForConfigOrDie(config)
	datastore := "--datastore=kubernetes:" + kubeconfigOf(t, config)
	file := filepath.Join(t.TempDir(), "report.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if status, _, errs := tierctl(t, "apply", "-f", file, datastore); status != exitOK {
			t.Fatal(errs)
		}
	}
	expect := func(want statusView) {
		t.Helper()
		var have statusView
		status, out, errs := tierctl(t, "status", "-o", "json", datastore)
		if err := json.Unmarshal([]byte(out), &have); err != nil {
			t.Fatalf("%v: %s%s", err, out, errs)
		}
		if (status == exitOK) != want.Well || have.Well != want.Well || strings.Join(have.Wrong, "\n") != strings.Join(want.Wrong, "\n") {
			t.Errorf("exit status %d, well %v, wrong:\n%s\nwant:\n%s", status, have.Well, strings.Join(have.Wrong, "\n"), strings.Join(want.Wrong, "\n"))
		}
	}
	for _, name := range []string{"n1", "n2", "windows"} {
		system := map[bool]string{true: "windows", false: "linux"}[name == "windows"]
		_, err := k.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/os": system}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	const report = "apiVersion: tierwall.io/v1alpha1\nkind: NodeReport\nmetadata: {name: N}\nstatus:\n  reportedAt: '2026-01-01T00:00:00Z'\n  agentVersion: v1\n" +
		"  conditions: [{type: Enforcing, status: 'True', reason: Programmed, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}]\n"
	write(strings.ReplaceAll(report, "N}", "n1}"))
	const leaderless = "Controller: none leads: no status is written, built-in tiers and automatic host endpoints are not kept"
	expect(statusView{Wrong: []string{"node n2: no agent has reported from it", leaderless}})

	write(strings.ReplaceAll(report, "N}", "n2}"))
	holder, seconds, now := "tierwall-controller-x_1", int32(15), metav1.NewMicroTime(time.Now())
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: controllers.Lease, Namespace: "default"},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now}}
	lease, err := k.CoordinationV1().Leases("default").Create(t.Context(), lease, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	expect(statusView{Well: true})

	old := metav1.NewMicroTime(now.Add(-time.Hour))
	lease.Spec.RenewTime = &old
	if _, err := k.CoordinationV1().Leases("default").Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "agent-1", Namespace: "default",
		Labels: map[string]string{"app.kubernetes.io/name": "tierwall", "app.kubernetes.io/component": "agent"}},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "agent", Image: "x", Env: []corev1.EnvVar{{Name: "A", Value: "hunter2"}}}}}}
	if _, err := k.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"},
		StringData: map[string]string{"a": "hunter2"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	write("apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: web}\nspec: {selector: app == 'web'}\n")
	expect(statusView{Wrong: []string{
		"node n1: its agent default/agent-1 is not ready: see kubectl describe pod, and its log",
		"node n2: no pod of an agent is on it: what it enforced last stays in force",
		"Controller: default/tierwall-controller-x led, and has not been heard of for 60m",
		"GlobalNetworkPolicy/web: nobody has said anything of it since it was written",
	}})

	to := filepath.Join(t.TempDir(), "a.tar.gz")
	if status, out, errs := tierctl(t, "cluster", "diags", "-o", to, datastore, "--focus-nodes=n1", "--since=5m"); status != exitOK || out != to+"\n" || errs != "" {
		t.Errorf("exit status %d: %s%s", status, out, errs)
	}
	parts := unpacked(t, to)
	for name, has := range map[string]string{"objects.yaml": "name: web", "nodes.yaml": "name: windows", "crds.json": `"Current"`, "leases.yaml": holder,
		"workloads/agent-pods.yaml": "(left out)", "status.json": `"well": false`, "version.txt": "Kubernetes v", "MISSING.txt": ""} {
		if text, ok := parts[name]; !ok || !strings.Contains(text, has) {
			t.Errorf("%s: there is %v, and it does not have %q", name, ok, has)
		}
	}
	for name, text := range parts {
		if strings.Contains(text, "hunter2") {
			t.Errorf("%s has what is secret", name)
		}
	}
	if err := os.WriteFile(file, []byte(parts["objects.yaml"]), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := tierctl(t, "plan", "-f", file); status != exitOK { // whoever gets the archive can ask what was so
		t.Error(errs)
	}
}

// unpacked is what an archive has, by the names below its folder.
func unpacked(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		out[name] = string(text)
	}
}
