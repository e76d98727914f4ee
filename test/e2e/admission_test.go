//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// refusal is what kubectl says of what must be refused, sooner or later: admission takes a moment to be in force.
func (t *test) refusal(input string, args ...string) string {
	t.Helper()
	var out string
	t.eventually(fmt.Sprintf("kubectl %s is refused", strings.Join(args, " ")), func() bool {
		cmd := t.Kubectl(t.Context(), args...)
		cmd.Stdin = strings.NewReader(input)
		var err error
		out, err = said(cmd)
		return err != nil
	})
	return out
}

func (t *test) refused(want, input string, args ...string) {
	t.Helper()
	if out := t.refusal(input, args...); !strings.Contains(out, want) {
		t.Errorf("kubectl %s says\n%s\nwant %q", strings.Join(args, " "), out, want)
	}
}

// withoutWebhook nobody judges what CEL cannot, until the test ends.
func (t *test) withoutWebhook() {
	t.Helper()
	t.kubectl("delete", "validatingwebhookconfiguration", "tierwall-webhook")
	t.Cleanup(func() {
		t.command(t.Kubectl(context.Background(), "apply", "-k", filepath.Join(t.root, "test", "e2e", "overlay")), "")
	})
}

const wrong = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: wrong}\nspec: {selector: app =, ingress: [{action: Allow}]}\n"

// What admission refuses is refused with its field; while the webhook is away everything can be written, and the agents take what they do
// not understand for closed; its certificate comes again.
func TestAdmission(t *testing.T) {
	s := begin(t)
	s.refused("spec.selector: Invalid value", wrong, "apply", "--dry-run=server", "-f", "-")
	s.refused("The built-in tier 'default' cannot be deleted", "", "delete", "tiers.projectcalico.org", "default", "--dry-run=server")

	was := s.kubectl("-n", "tierwall-system", "get", "secret", "tierwall-webhook", "-o", `jsonpath={.data.tls\.crt}`)
	s.kubectl("-n", "tierwall-system", "delete", "secret", "tierwall-webhook")
	s.eventually("another certificate, which is trusted", func() bool {
		now, err := said(s.Kubectl(t.Context(), "-n", "tierwall-system", "get", "secret", "tierwall-webhook", "-o", `jsonpath={.data.tls\.crt} {.data.ca\.crt}`))
		certificate, ca, _ := strings.Cut(now, " ")
		return err == nil && certificate != "" && certificate != was &&
			s.kubectl("get", "validatingwebhookconfiguration", "tierwall-webhook", "-o", "jsonpath={.webhooks[0].clientConfig.caBundle}") == ca
	})
	s.refused("spec.selector: Invalid value", wrong, "apply", "--dry-run=server", "-f", "-")

	s.kubectl("-n", "tierwall-system", "scale", "deployment", "tierwall-controller", "--replicas=0")
	s.kubectl("-n", "tierwall-system", "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=controller", "--timeout=60s")
	s.apply(namespace("away") + pod("away", "server", n1, "app=server") + pod("away", "client", n2, "app=client"))
	to := s.running("away")["server"]
	s.expect("before", opens("away/client", to...))
	s.apply(`
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: half, namespace: away}
spec: {selector: app == 'server', ingress: [{action: Allow, source: {selector: app =}}]}
`)
	s.expect("written, and closed", shuts("away/client", to...))
	s.kubectl("-n", "tierwall-system", "scale", "deployment", "tierwall-controller", "--replicas=2")
	s.kubectl("-n", "tierwall-system", "rollout", "status", "deployment/tierwall-controller", "--timeout=90s")
	s.kubectl("-n", "away", "wait", "--for=condition=Accepted=false", "networkpolicies.projectcalico.org/half", "--timeout=30s")
	s.refused("spec.selector: Invalid value", wrong, "apply", "--dry-run=server", "-f", "-")
}

// An agent writes of its own node, and of no other: its token says which.
func TestAgentsReportOfTheirOwnNode(t *testing.T) {
	s := begin(t)
	name := s.kubectl("-n", "tierwall-system", "get", "pod", "-l", "app.kubernetes.io/component=agent", "--field-selector", "spec.nodeName="+n1, "-o", "jsonpath={.items[0].metadata.name}")
	uid := s.kubectl("-n", "tierwall-system", "get", "pod", name, "-o", "jsonpath={.metadata.uid}")
	token := strings.TrimSpace(s.kubectl("-n", "tierwall-system", "create", "token", "tierwall-agent", "--bound-object-kind=Pod", "--bound-object-name="+name, "--bound-object-uid="+uid))
	as := "--token=" + token
	s.refused("its token is of node n1, the report of n2", "", as, "delete", "nodereports.tierwall.io", n2, "--dry-run=server")
	s.kubectl(as, "delete", "nodereports.tierwall.io", n1, "--dry-run=server")
}

// With rbac.tiered an editor of a namespace writes in the default tier alone, and chose any without.
func TestTieredRBAC(t *testing.T) {
	s := begin(t)
	helm := []string{"template", "tierwall", filepath.Join(s.root, "config", "helm", "tierwall"), "--namespace", "tierwall-system", "--set", "crds.install=false", "--kube-version", "1.31.0"}
	rendered := s.command(s.Command(t.Context(), filepath.Join(s.root, "bin", "helm"), append(helm, "--set", "rbac.tiered=true", "-s", "templates/rbac-people.yaml", "-s", "templates/admission.yaml")...), "")
	s.apply(namespace("team") + `---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: ed, namespace: team}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: ed}]
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: sec}
spec: {order: 10}
`)
	in := func(tier string) string {
		return fmt.Sprintf("apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: p, namespace: team}\nspec: {tier: %s, selector: all()}\n", tier)
	}
	as := []string{"--as=ed", "--as-group=system:authenticated", "create", "--dry-run=server", "-f", "-"}
	s.command(s.Kubectl(t.Context(), as...), in("sec"))
	s.command(s.Kubectl(t.Context(), "apply", "-f", "-"), rendered)
	t.Cleanup(func() {
		s.command(s.Kubectl(context.Background(), "delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", "tiered-rbac.tierwall.io"), "")
		s.command(s.Kubectl(context.Background(), "delete", "clusterrole,clusterrolebinding", "tierwall-default-tier"), "")
		s.command(s.Kubectl(context.Background(), "apply", "-k", filepath.Join(s.root, "test", "e2e", "overlay")), "")
	})
	s.refused(`User "ed" cannot create networkpolicies.projectcalico.org in tier "sec" and namespace "team" (user cannot get tier)`, in("sec"), as...)
	s.eventually("in the default tier he may", func() bool {
		cmd := s.Kubectl(t.Context(), as...)
		cmd.Stdin = strings.NewReader(in("default"))
		_, err := said(cmd)
		return err == nil
	})
}
