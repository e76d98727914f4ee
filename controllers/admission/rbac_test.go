package admission

import (
	"context"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// as is the cluster as somebody else sees it. A user of no groups is not even authenticated, as far as roles know.
func (c *cluster) as(t *testing.T, user string, extra map[string][]string) *cluster {
	t.Helper()
	config := rest.CopyConfig(c.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:authenticated"}, Extra: extra}
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{config: config, store: c.store, Interface: d, mapper: c.mapper}
}

// roles of people: who makes the chart's own roles what they are with rbac.tiered, and a team of its own tier.
const roles = `
kind: ClusterRole
metadata: {name: security}
rules:
- {apiGroups: [projectcalico.org], resources: [networkpolicies, globalnetworkpolicies], verbs: ["*"]}
- {apiGroups: [projectcalico.org], resources: [tiers], resourceNames: [sec], verbs: [get]}
- {apiGroups: [projectcalico.org], resources: [tier.networkpolicies, tier.globalnetworkpolicies], resourceNames: [sec.*], verbs: ["*"]}
---
kind: ClusterRole
metadata: {name: sees-sec}
rules:
- {apiGroups: [projectcalico.org], resources: [tiers], resourceNames: [sec], verbs: [get]}
---
kind: ClusterRole
metadata: {name: default-tier}
rules:
- {apiGroups: [projectcalico.org], resources: [tiers], resourceNames: [default], verbs: [get]}
---
kind: ClusterRole
metadata: {name: editor}
rules:
- {apiGroups: [projectcalico.org], resources: [networkpolicies, stagednetworkpolicies], verbs: [get, create, update, patch, delete, deletecollection]}
- {apiGroups: [projectcalico.org], resources: [tier.networkpolicies, tier.stagednetworkpolicies], resourceNames: [default.*], verbs: [create, update, patch, delete]}
---
kind: ClusterRole
metadata: {name: one-policy}
rules:
- {apiGroups: [projectcalico.org], resources: [networkpolicies], verbs: [create, update, patch]}
- {apiGroups: [projectcalico.org], resources: [tier.networkpolicies], resourceNames: [mine], verbs: [create, update]}
---
kind: ClusterRole
metadata: {name: every-tier}
rules:
- {apiGroups: [projectcalico.org], resources: [tiers], verbs: [get]}
- {apiGroups: [projectcalico.org], resources: [networkpolicies, globalnetworkpolicies, tier.networkpolicies, tier.globalnetworkpolicies], verbs: ["*"]}
---
kind: ClusterRoleBinding
metadata: {name: security}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: security}
subjects: [{kind: User, name: sue, apiGroup: rbac.authorization.k8s.io}]
---
kind: ClusterRoleBinding
metadata: {name: default-tier}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: default-tier}
subjects: [{kind: Group, name: "system:authenticated", apiGroup: rbac.authorization.k8s.io}]
---
kind: ClusterRoleBinding
metadata: {name: sees-sec}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: sees-sec}
subjects: [{kind: User, name: sly, apiGroup: rbac.authorization.k8s.io}]
---
kind: ClusterRoleBinding
metadata: {name: every-tier}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: every-tier}
subjects: [{kind: User, name: all, apiGroup: rbac.authorization.k8s.io}]
---
kind: RoleBinding
metadata: {name: editors, namespace: ns1}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: editor}
subjects: [{kind: User, name: ed, apiGroup: rbac.authorization.k8s.io}, {kind: User, name: sly, apiGroup: rbac.authorization.k8s.io}]
---
kind: RoleBinding
metadata: {name: one-policy, namespace: ns1}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: one-policy}
subjects: [{kind: User, name: ann, apiGroup: rbac.authorization.k8s.io}]
`

// TestTieredRBAC is contract §1.15. ed and sly are editors of the namespace, and sly may also see the tier of the security team, which sue is of.
func TestTieredRBAC(t *testing.T) {
	c := clusterOf(t)
	c.namespace(t, "ns1")
	c.put(t, read(t, "kind: Tier\nmetadata: {name: sec}"))
	for doc := range strings.SplitSeq(roles, "\n---\n") {
		u := read(t, strings.TrimSpace(doc))
		u.SetAPIVersion("rbac.authorization.k8s.io/v1")
		c.put(t, u)
	}
	inSec := c.put(t, read(t, "kind: NetworkPolicy\nmetadata: {name: in-sec}\nspec: {tier: sec}"))
	c.put(t, read(t, "kind: NetworkPolicy\nmetadata: {name: in-default}\nspec: {tier: default}"))
	c.put(t, read(t, "kind: NetworkPolicy\nmetadata: {name: mine}\nspec: {tier: default}"))
	c.install(t, tieredRBAC, policyKind, policyBound)

	create := func(user, text string) error {
		u := read(t, text)
		_, err := c.as(t, user, nil).of(t, u).Create(t.Context(), u, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	patch := func(user, name, patch string) error {
		_, err := c.as(t, user, nil).of(t, inSec).Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	remove := func(user, name string) error {
		return c.as(t, user, nil).of(t, inSec).Delete(t.Context(), name, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
	}
	collection := func(user string) error {
		return c.as(t, user, nil).of(t, inSec).DeleteCollection(t.Context(), metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}, metav1.ListOptions{})
	}
	until(t, "it is in force", func() bool { return create("sly", "kind: NetworkPolicy\nspec: {tier: sec}") != nil })

	const np, gnp = "kind: NetworkPolicy\nmetadata: {name: new}\nspec: ", "kind: GlobalNetworkPolicy\nmetadata: {name: new}\nspec: "
	for _, row := range []struct {
		says string
		err  error
		want string // the end of the refusal; nothing when there is none
	}{
		{"an editor in the default tier", create("ed", np+"{}"), ""},
		{"by the tier's name", create("ed", np+"{tier: default}"), ""},
		{"a staged one", create("ed", "kind: StagedNetworkPolicy\nspec: {}"), ""},
		{"in another tier", create("ed", np+"{tier: sec}"), `User "ed" cannot create networkpolicies.projectcalico.org in tier "sec" and namespace "ns1" (user cannot get tier)`},
		{"in one that is not there", create("ed", np+"{tier: ghost}"), `in tier "ghost" and namespace "ns1" (user cannot get tier)`},
		{"who may see it", create("sly", np+"{tier: sec}"), `User "sly" cannot create networkpolicies.projectcalico.org in tier "sec" and namespace "ns1"`},
		{"a change", patch("ed", "in-default", `{"spec":{"order":1}}`), ""},
		{"a change in another tier", patch("sly", "in-sec", `{"spec":{"order":1}}`), `User "sly" cannot update networkpolicies.projectcalico.org in tier "sec" and namespace "ns1"`},
		{"a label in another tier", patch("sly", "in-sec", `{"metadata":{"labels":{"a":"b"}}}`), `in tier "sec" and namespace "ns1"`},
		{"a move into another tier", patch("sly", "in-default", `{"spec":{"tier":"sec"}}`), `in tier "sec" and namespace "ns1"`},
		{"a move out of another tier", patch("sly", "in-sec", `{"spec":{"tier":"default"}}`), `in tier "sec" and namespace "ns1"`},
		{"a move by who may be in one of both", patch("sue", "in-sec", `{"spec":{"tier":"default"}}`), `User "sue" cannot update networkpolicies.projectcalico.org in tier "default" and namespace "ns1"`},
		{"a move by who may be in both", patch("all", "in-sec", `{"spec":{"tier":"default"}}`), ""},
		{"a deletion", remove("ed", "in-default"), ""},
		{"a deletion in another tier", remove("sly", "in-sec"), `User "sly" cannot delete networkpolicies.projectcalico.org in tier "sec" and namespace "ns1"`},
		{"all of them at once", collection("sly"), `in tier "sec" and namespace "ns1"`},
		{"all of them, by who may", collection("all"), ""},
		{"one policy by its name", patch("ann", "mine", `{"spec":{"order":1}}`), ""},
		{"another one", patch("ann", "in-default", `{"spec":{"order":1}}`), `User "ann" cannot update networkpolicies.projectcalico.org in tier "default" and namespace "ns1"`},
		{"her own tier", create("sue", gnp+"{tier: sec}"), ""},
		{"not her own", create("sue", gnp+"{}"), `User "sue" cannot create globalnetworkpolicies.projectcalico.org in tier "default"`},
		{"every tier", create("all", gnp+"{tier: sec}"), ""},
		{"the namespace controller", remove("system:serviceaccount:kube-system:namespace-controller", "in-sec"), ""},
		{"the garbage collector", remove("system:serviceaccount:kube-system:generic-garbage-collector", "in-sec"), ""},
		{"which takes finalizers away", patch("system:serviceaccount:kube-system:generic-garbage-collector", "in-sec", `{"metadata":{"finalizers":["a/b"]}}`), ""},
	} {
		switch {
		case row.want == "" && row.err != nil:
			t.Errorf("%s: %v", row.says, row.err)
		case row.want != "" && (!apierrors.IsForbidden(row.err) || !strings.HasSuffix(row.err.Error(), row.want)):
			t.Errorf("%s: %v\nwant %s", row.says, row.err, row.want)
		}
	}
}

// TestOwnNodeReport: an agent's token is bound to its node, and writes of that alone.
func TestOwnNodeReport(t *testing.T) {
	c := clusterOf(t)
	c.install(t, deploy, policyKind, policyBound)
	role := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": "tierwall-agent"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "tierwall-agent"},
		"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": "tierwall-agent", "namespace": "tierwall-system"}}}}
	for _, u := range manifest(t, deploy, "ClusterRole") {
		if u.GetName() == "tierwall-agent" {
			c.put(t, u)
		}
	}
	c.put(t, role)
	report := func(node string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "tierwall.io/v1alpha1", "kind": "NodeReport", "metadata": map[string]any{"name": node},
			"status": map[string]any{"reportedAt": "2026-01-01T00:00:00Z"}}}
	}
	agent := func(node string) *cluster {
		extra := map[string][]string{}
		if node != "" {
			extra["authentication.kubernetes.io/node-name"] = []string{node}
		}
		return c.as(t, "system:serviceaccount:tierwall-system:tierwall-agent", extra)
	}
	write := func(by *cluster, node string) error {
		_, err := by.of(t, report(node)).Create(t.Context(), report(node), metav1.CreateOptions{})
		return err
	}
	until(t, "it is in force", func() bool {
		err := write(agent(""), "n9")
		if err == nil {
			_ = c.of(t, report("n9")).Delete(context.Background(), "n9", metav1.DeleteOptions{})
		}
		return err != nil && strings.Contains(err.Error(), "own-nodereport.tierwall.io")
	})
	if err := write(agent("n1"), "n1"); err != nil {
		t.Errorf("its own: %v", err)
	}
	if err := write(agent("n1"), "n2"); !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), "its token is of node n1, the report of n2") {
		t.Errorf("another's: %v", err)
	}
	if err := write(agent(""), "n2"); !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), "its token is of no node, the report of n2") {
		t.Errorf("a token of no node: %v", err)
	}
	if err := write(c, "n2"); err != nil {
		t.Errorf("an administrator: %v", err)
	}
	if err := agent("n1").of(t, report("n2")).Delete(t.Context(), "n2", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a deletion of another's: %v", err)
	}
	if err := agent("n1").of(t, report("n1")).Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Errorf("a deletion of its own: %v", err)
	}
	_ = c.of(t, report("n2")).Delete(context.Background(), "n2", metav1.DeleteOptions{}) // it is of this test
}
