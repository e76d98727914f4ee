//go:build e2e

package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierwall/tierwall/test/kube"
)

// settingsOf a node are what the agent sets there for bridges.
func settingsOf(ctx context.Context, n *kube.Node) (string, error) {
	return said(n.Command(ctx, "sh", "-c", "grep . /proc/sys/net/bridge/bridge-nf-call-*"))
}

// othersRules are all rules on a node but ours, without what they count, of iptables in both kinds and of nft. The kubelet's and kube-proxy's come and
// go as they please, with services that have gone; that uninstalling leaves a node byte for byte as it was is seen in the lab, where nobody else is.
func (t *test) othersRules(n *kube.Node) string {
	t.Helper()
	return t.command(n.Command(t.Context(), "sh", "-c", "for i in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy; do $i-save | sed '/^#/d; /KUBE/d; s/ \\[[0-9:]*\\]$//'; done; "+
		"nft list tables | grep -vE ' (inet tierwall|ip6? (kube-proxy|filter|nat|mangle|raw))$' | while read t; do nft --stateless list $t; done"), "")
}

// Uninstalled as the README says, by one command, the nodes are as they were; nothing of Tierwall is left on the nodes or in the cluster, and what a policy closed is open. Then the
// chart installs it anew: new pods are closed until they are known, the policy is in force again, and the CRDs stay when the release goes.
// So it goes by that command as well, with what starts
// with the machine, and Helm knows no release any more. The tests after this one find it installed by the chart.
func TestUninstallAndHelm(t *testing.T) {
	s := begin(t)
	s.apply(namespace("left") + pod("left", "server", n1, "app=server") + pod("left", "routed", n2, "app=server") + pod("left", "client", n2, "app=client") + `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: left}
spec: {podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress]}
`)
	pods := s.running("left")
	to := append(pods["server"], pods["routed"]...)
	s.expect("installed", shuts("left/client", to...))

	others := map[string]string{}
	for _, n := range s.Nodes {
		others[n.Name] = s.othersRules(n)
	}
	journal := filepath.Join(t.TempDir(), "uninstall.db")
	t.Log(s.tierctlRun("", "uninstall", "--crds"))
	t.Log(s.tierctlRun("", "uninstall", "--yes", "--crds", "--journal", journal))
	for _, n := range s.Nodes {
		settings, err := settingsOf(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s.before[n.Name], settings); diff != "" {
			t.Errorf("node %s is not as it was before the install:\n%s", n.Name, diff)
		}
		if diff := cmp.Diff(others[n.Name], s.othersRules(n)); diff != "" {
			t.Errorf("the rules of others on node %s are not as they were:\n%s", n.Name, diff)
		}
	}
	s.expect("uninstalled", opens("left/client", to...))
	for _, n := range s.Nodes {
		if out := s.command(n.Command(t.Context(), "nft", "list", "tables"), ""); strings.Contains(out, "tierwall") {
			t.Errorf("node %s still has %s", n.Name, out)
		}
	}
	if out := s.kubectl("get", "crds,clusterroles,clusterrolebindings,namespaces", "-o", "name"); strings.Contains(out, "tierwall") || strings.Contains(out, "projectcalico") {
		t.Errorf("left in the cluster: %s", out)
	}

	helm := func(args ...string) string {
		t.Helper()
		return s.command(s.Command(t.Context(), filepath.Join(s.root, "bin", "helm"), append([]string{"--kubeconfig", s.Kubeconfig, "--namespace", "tierwall-system"}, args...)...), "")
	}
	chart := filepath.Join(s.root, "config", "helm", "tierwall")
	image := []string{"--set", "image.repository=tierwall.test/tierwall", "--set", "image.tag=dev", "--wait", "--timeout", "90s"}
	space := func() {
		t.Helper()
		s.kubectl("create", "namespace", "tierwall-system")
		s.kubectl("label", "namespace", "tierwall-system", "pod-security.kubernetes.io/enforce=privileged")
	}
	space()
	const units = "/var/lib/units" // a node's /etc is this machine's
	for _, n := range s.Nodes {
		s.command(n.Command(t.Context(), "mkdir", units), "")
	}
	boots := append([]string{"install", "tierwall", chart, "--set", "agent.closeUnknownInterfaces=veth", "--set", "agent.boot.install=true,agent.boot.units=" + units}, image...)
	helm(boots...)
	s.expect("by the chart", shuts("left/client", to...))
	s.remembers(0, "server", "client")
	s.remembers(1, "routed", "client")
	helm("uninstall", "tierwall", "--wait")
	if out := s.kubectl("get", "crds", "-o", "name"); !strings.Contains(out, "globalnetworkpolicies.projectcalico.org") {
		t.Errorf("the CRDs went with the release: %s", out)
	}
	s.now("the tables filter on without agents", shuts("left/client", to...))
	for _, n := range s.Nodes { // as when the nodes start, and nothing of Kubernetes has yet
		s.command(n.Command(t.Context(), "nft", "delete", "table", "inet", "tierwall"), "")
	}
	s.now("open", opens("left/client", to...))
	for _, n := range s.Nodes {
		s.command(n.Command(t.Context(), "sh", "-ec", `eval "$(sed -n 's/^Environment="\(.*\)"$/export "\1"/p' `+units+`/tierwall-boot.service.d/environment.conf)"
			exec $(sed -n 's/^ExecStart=//p' `+units+`/sysinit.target.wants/tierwall-boot.service)`), "")
	}
	s.now("what systemd runs before the network is up", shuts("left/client", to...))

	helm(boots...)
	t.Log(s.tierctlRun("", "uninstall", "--yes", "--journal", journal))
	s.expect("what Helm has installed is uninstalled", opens("left/client", to...))
	if out := helm("list", "--all", "--short"); strings.TrimSpace(out) != "" {
		t.Errorf("Helm still shows %s", out)
	}
	for _, n := range s.Nodes {
		if out := s.command(n.Command(t.Context(), "sh", "-c", "nft list tables; ls -R "+units), ""); strings.Contains(out, "tierwall") {
			t.Errorf("node %s still has %s", n.Name, out)
		}
	}
	space()
	helm(append([]string{"install", "tierwall", chart, "--set", "agent.closeUnknownInterfaces=veth"}, image...)...)
	s.now("and again", shuts("left/client", to...))
}
