package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/tierwall/tierwall/cli/early"
	"github.com/tierwall/tierwall/test/kube"
)

// kubeconfig writes one for a cluster, whose namespace is shop.
func kubeconfig(t *testing.T, config *rest.Config, path string) {
	t.Helper()
	err := clientcmd.WriteToFile(api.Config{
		Clusters: map[string]*api.Cluster{"c": {Server: config.Host, CertificateAuthorityData: config.CAData, CertificateAuthority: config.CAFile,
			InsecureSkipTLSVerify: config.Insecure}},
		AuthInfos: map[string]*api.AuthInfo{"u": {Token: config.BearerToken, ClientCertificateData: config.CertData, ClientKeyData: config.KeyData,
			ClientCertificate: config.CertFile, ClientKey: config.KeyFile}},
		Contexts:       map[string]*api.Context{"here": {Cluster: "c", AuthInfo: "u"}, "there": {Cluster: "nowhere", AuthInfo: "u"}},
		CurrentContext: "here",
	}, path)
	if err != nil {
		t.Fatal(err)
	}
}

const pluginObjects = `
{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: security}, spec: {order: 1}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: security.quarantine}, spec: {tier: security, selector: bad == 'yes'}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: db, namespace: shop}, spec: {podSelector: {}}}
`

// kubectl finds the program by its name, hands on what it was told, and completes its words.
func TestKubectlPlugin(t *testing.T) {
	config := kube.Start(t)
	components, err := kube.Components()
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	for _, name := range []string{pluginName, early.KubectlName} {
		if err := os.Symlink(exe, filepath.Join(home, name)); err != nil {
			t.Fatal(err)
		}
	}
	objects := filepath.Join(home, "objects.yaml")
	if err := os.WriteFile(objects, []byte(pluginObjects), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(home, "config")
	kubeconfig(t, config, file)
	kubectl := func(status int, args ...string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), filepath.Join(components, "kubectl"), args...)
		c.Env = append(os.Environ(), "HOME="+home, "PATH="+home+":"+os.Getenv("PATH"), "TIERWALL_DATASTORE=", "KUBECONFIG="+file)
		text, _ := c.CombinedOutput()
		if have := c.ProcessState.ExitCode(); have != status {
			t.Errorf("kubectl %s: exit status %d, want %d: %s", strings.Join(args, " "), have, status, text)
		}
		return string(text)
	}
	for _, s := range []struct {
		args   string
		status int
		want   string // a part of what is printed
	}{
		{"create namespace shop", 0, "namespace/shop created"},
		{"tierwall apply -f " + objects, 0, "GlobalNetworkPolicy/security.quarantine created\n"},
		{"tierwall get gnp", 0, "\nsecurity.quarantine "},
		{"get globalnetworkpolicies.projectcalico.org -o name", 0, "globalnetworkpolicy.projectcalico.org/security.quarantine\n"},
		{"tierwall get netpol -n shop -o name", 0, "KubernetesNetworkPolicy/shop/db\n"},
		{"tierwall -n shop get netpol -o name --context here --kubeconfig " + file, 0, "KubernetesNetworkPolicy/shop/db\n"},
		{"tierwall get gnp --context there", 1, "kubectl tierwall: "},
		{"tierwall get gnp --kubeconfig /nowhere", 1, "/nowhere"},
		{"tierwall gett", 2, "kubectl tierwall: unknown command \"gett\", did you mean get?; see 'kubectl tierwall --help'\n"},
		{"tierwall get --help", 0, "kubectl tierwall get KIND [NAME...]"},
		{"tierwall crds nonsense", 2, "see 'kubectl tierwall crds --help'"},
		{"__complete tierwall get gnp ", 0, "security.quarantine\n:4\n"},
		{"__complete tierwall get netpol -n shop ", 0, "db\n:4\n"},
		{"__complete tierwall get netpol -n s", 0, "shop\n:4\n"},
		{"__complete tierwall get globalnetworks", 0, "globalnetworkset\tGlobalNetworkSet\n"},
	} {
		if have := kubectl(s.status, strings.Split(s.args, " ")...); !strings.Contains(have, s.want) {
			t.Errorf("kubectl %s: %q has no %q", s.args, have, s.want)
		}
	}
}
