package calico

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type object = map[string]any

// named is an object that has nothing else yet.
func named(apiVersion, kind, namespace, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: object{"apiVersion": apiVersion, "kind": kind}}
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

func with(u *unstructured.Unstructured, fields object) *unstructured.Unstructured {
	maps.Copy(u.Object, fields)
	return u
}

// system is where Calico's own workloads are.
func (c *Calico) system() string {
	if c.Way&inSystem != 0 {
		return "calico-system"
	}
	return "kube-system"
}

// place of a row: one of Calico's namespaces, or its system's.
func (c *Calico) place(namespace string) string {
	if namespace == "" {
		return c.system()
	}
	return namespace
}

// row is an object that Calico has where it came in one of these ways.
type row struct {
	ways            Way
	kind            string
	namespace, name string
}

// rows of kinds that have nothing in them but a name.
var rows = []row{
	{inSystem, "Namespace", "", "calico-system"},
	{inSystem, "Namespace", "", "tigera-operator"},
	{Operator, "Namespace", "", "calico-apiserver"},

	{everywhere, "DaemonSet", "", "calico-node"},
	{everywhere, "Deployment", "", "calico-kube-controllers"},
	{everywhere, "Deployment", "", "calico-typha"},
	{inSystem, "DaemonSet", "", "csi-node-driver"},
	{inSystem, "Deployment", "tigera-operator", "tigera-operator"},
	{Operator, "Deployment", "calico-apiserver", "calico-apiserver"},
	{Operator, "Deployment", "", "goldmane"},
	{Operator, "Deployment", "", "whisker"},
	{Native, "Deployment", "", "calico-webhooks"},

	{everywhere, "account", "", "calico-node"},
	{everywhere, "account", "", "calico-cni-plugin"},
	{everywhere, "account", "", "calico-kube-controllers"},
	{inSystem, "account", "", "calico-typha"},
	{inSystem, "account", "tigera-operator", "tigera-operator"},
	{Operator, "account", "calico-apiserver", "calico-apiserver"},
	{Native, "account", "", "calico-webhooks"},
	{everywhere, "ClusterRole", "", "calico-tier-getter"},
	{Operator, "ClusterRole", "", "calico-crds"},
	{Operator, "ClusterRole", "", "tigera-network-admin"},

	{byFile, "ConfigMap", "", "calico-config"},
	{inSystem, "ConfigMap", "", "cni-config"},
	{inSystem, "ConfigMap", "tigera-operator", "kubernetes-services-endpoint"},
	{inSystem, "Secret", "", "node-certs"},
	{inSystem, "Secret", "", "typha-certs"},
	{everywhere, "Service", "", "calico-typha"},
	{Operator, "Service", "calico-apiserver", "calico-api"},
}

func (c *Calico) rows(kinds ...string) (out []row) {
	for _, r := range rows {
		if r.ways&c.Way != 0 && slices.Contains(kinds, r.kind) {
			out = append(out, r)
		}
	}
	return out
}

func (c *Calico) namespaces() (out []*unstructured.Unstructured) {
	for _, r := range c.rows("Namespace") {
		out = append(out, named("v1", r.kind, "", r.name))
	}
	return out
}

// workloads that run; of what is gone there are none.
func (c *Calico) workloads() (out []*unstructured.Unstructured) {
	if c.gone() {
		return nil
	}
	image := c.Image
	if image == "" {
		image = "calico.invalid/none"
	}
	for _, r := range c.rows("DaemonSet", "Deployment") {
		container := object{"name": r.name, "image": image, "imagePullPolicy": "IfNotPresent"}
		if len(c.Args) > 0 {
			args := make([]any, len(c.Args))
			for i, a := range c.Args {
				args[i] = a
			}
			container["args"] = args
		}
		labels := object{"k8s-app": r.name}
		u := with(named("apps/v1", r.kind, c.place(r.namespace), r.name), object{"spec": object{
			"selector": object{"matchLabels": labels},
			"template": object{"metadata": object{"labels": labels}, "spec": object{"containers": []any{container}, "terminationGracePeriodSeconds": int64(1)}},
		}})
		if r.kind == "DaemonSet" {
			u.Object["status"] = object{"desiredNumberScheduled": int64(2), "currentNumberScheduled": int64(2), "numberReady": int64(2), "numberMisscheduled": int64(0)}
		}
		out = append(out, u)
	}
	return out
}

const rbac = "rbac.authorization.k8s.io/v1"

// protected are those that the operator keeps until the CNI plugin has cleaned up behind its pods.
var protected = []string{"calico-node", "calico-cni-plugin"}

// accounts are service accounts with their roles, settings, and services.
func (c *Calico) accounts() (out []*unstructured.Unstructured) {
	for _, r := range c.rows("account", "ClusterRole", "ConfigMap", "Secret", "Service") {
		in := c.place(r.namespace)
		switch r.kind {
		case "account":
			role := with(named(rbac, "ClusterRole", "", r.name), object{"rules": []any{}})
			binding := with(named(rbac, "ClusterRoleBinding", "", r.name), object{
				"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": r.name},
				"subjects": []any{object{"kind": "ServiceAccount", "namespace": in, "name": r.name}}})
			three := []*unstructured.Unstructured{role, binding, named("v1", "ServiceAccount", in, r.name)}
			for _, u := range three {
				if c.Way&inSystem != 0 && c.finalized() && slices.Contains(protected, r.name) {
					u.SetFinalizers([]string{"tigera.io/cni-protector"})
				}
			}
			out = append(out, three...)
		case "ClusterRole":
			out = append(out, with(named(rbac, r.kind, "", r.name), object{"rules": []any{}}))
		case "Service":
			out = append(out, with(named("v1", r.kind, in, r.name), object{"spec": object{
				"selector": object{"k8s-app": r.name}, "ports": []any{object{"port": int64(443), "protocol": "TCP"}}}}))
		default:
			out = append(out, named("v1", r.kind, in, r.name))
		}
	}
	if c.Faults&StaleAPIService != 0 {
		out = slices.DeleteFunc(out, func(u *unstructured.Unstructured) bool {
			return u.GetKind() == "Service" && u.GetName() == "calico-api"
		})
	}
	return out
}

// installations are what the operator, or the controllers, keep of themselves.
func (c *Calico) installations() (out []*unstructured.Unstructured) {
	own := func(kind, name string, spec object, finalizers ...string) *unstructured.Unstructured {
		u := with(named(operators+"/v1", kind, "", name), object{"spec": spec})
		if c.finalized() {
			u.SetFinalizers(finalizers)
		}
		return u
	}
	switch {
	case c.Way == Native:
		u := with(named(migrations+"/v1", "DatastoreMigration", "", "v1-to-v3"), object{"spec": object{"type": "APIServerToCRDs"}})
		if c.finalized() {
			u.SetFinalizers([]string{"migration.projectcalico.org/v1-crd-cleanup"})
		}
		return append(out, u)
	case c.Way&inSystem != 0:
		out = append(out, own("Installation", "default", object{"variant": "Calico", "cni": object{"type": "AzureVNET"}},
			"tigera.io/operator-cleanup", "operator.tigera.io/installation-controller", "operator.tigera.io/apiserver-controller"),
			own("TigeraStatus", "calico", object{}), own("ImageSet", "calico-v3", object{}))
		if c.Way == Operator {
			out = append(out, own("APIServer", "default", object{}), own("Goldmane", "default", object{}), own("Whisker", "default", object{}))
		}
	}
	return out
}

const registration = "admissionregistration.k8s.io/v1"

var policyResources = []any{"networkpolicies", "globalnetworkpolicies", "stagednetworkpolicies", "stagedglobalnetworkpolicies"}

// rules of admission for kinds of projectcalico.org/v3.
func rulesFor(operations, resources []any) []any {
	return []any{object{"apiGroups": []any{v3Group}, "apiVersions": []any{"v3"}, "operations": operations, "resources": resources}}
}

// admission are the webhooks, and policies where objects are CRDs of the API that people use. A webhook that is not to be dead fails open:
// nobody stands behind it in either case.
func (c *Calico) admission() (out []*unstructured.Unstructured) {
	if c.Way == Native || c.Faults&DeadWebhook != 0 {
		out = append(out, c.webhooks())
	}
	if c.Way != Native {
		return out
	}
	const builtinTiers = "protect-builtin-tiers.projectcalico.org"
	out = append(out,
		with(named(registration, "ValidatingAdmissionPolicy", "", builtinTiers), object{"spec": object{
			"failurePolicy": "Fail", "matchConstraints": object{"resourceRules": rulesFor([]any{"DELETE"}, []any{"tiers"})},
			"validations": []any{object{"expression": "!(oldObject.metadata.name in ['default', 'kube-admin', 'kube-baseline'])",
				"messageExpression": "\"The built-in tier '\" + oldObject.metadata.name + \"' cannot be deleted\""}}}}),
		with(named(registration, "ValidatingAdmissionPolicyBinding", "", "protect-builtin-tiers-binding"), object{"spec": object{
			"policyName": builtinTiers, "validationActions": []any{"Deny"}}}))
	for _, p := range []struct{ name, binding, condition, patch string }{
		{"policytypes.policy.projectcalico.org", "set-policytypes-binding", "has(object.spec) && !has(object.spec.types)",
			"[JSONPatch{op: 'add', path: '/spec/types', value: has(object.spec.egress) ? (has(object.spec.ingress) ? ['Ingress', 'Egress'] : ['Egress']) : ['Ingress']}]"},
		{"tierlabel.policy.projectcalico.org", "set-tier-label-binding", "has(object.spec) && !has(object.spec.tier)",
			"[JSONPatch{op: 'add', path: '/spec/tier', value: 'default'}]"},
	} {
		out = append(out,
			with(named(registration, "MutatingAdmissionPolicy", "", p.name), object{"spec": object{
				"failurePolicy": "Fail", "reinvocationPolicy": "Never", "matchConstraints": object{"resourceRules": rulesFor([]any{"CREATE", "UPDATE"}, policyResources)},
				"matchConditions": []any{object{"name": "unsaid", "expression": p.condition}},
				"mutations":       []any{object{"patchType": "JSONPatch", "jsonPatch": object{"expression": p.patch}}}}}),
			with(named(registration, "MutatingAdmissionPolicyBinding", "", p.binding), object{"spec": object{"policyName": p.name}}))
	}
	return out
}

func (c *Calico) webhooks() *unstructured.Unstructured {
	policy := "Ignore"
	if c.Faults&DeadWebhook != 0 {
		policy = "Fail"
	}
	hook := func(name, path, failurePolicy string, rules []any) object {
		return object{"name": name, "failurePolicy": failurePolicy, "sideEffects": "None", "timeoutSeconds": int64(5), "admissionReviewVersions": []any{"v1"},
			"clientConfig": object{"service": object{"namespace": c.system(), "name": "calico-webhooks", "path": path}}, "rules": rules}
	}
	return with(named(registration, "ValidatingWebhookConfiguration", "", "calico-webhooks"), object{"webhooks": []any{
		hook("tiered-rbac.projectcalico.org", "/rbac", policy, rulesFor([]any{"CREATE", "UPDATE", "DELETE", "CONNECT"}, policyResources)),
		hook("cluster-info.api.projectcalico.org", "/cluster-info", "Ignore", rulesFor([]any{"CREATE", "UPDATE", "DELETE"}, []any{"clusterinformations"})),
	}})
}

// apiService is that of an aggregated API server that is gone; Native never had one.
func (c *Calico) apiService() []*unstructured.Unstructured {
	if c.Faults&StaleAPIService == 0 || c.Way == Native {
		return nil
	}
	u := named("apiregistration.k8s.io/v1", "APIService", "", "v3."+v3Group)
	return []*unstructured.Unstructured{with(u, object{"spec": object{"group": v3Group, "version": "v3", "groupPriorityMinimum": int64(1500), "versionPriority": int64(200),
		"insecureSkipTLSVerify": true, "service": object{"namespace": "calico-apiserver", "name": "calico-api", "port": int64(443)}}})}
}
