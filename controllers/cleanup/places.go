package cleanup

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Calico's groups end so.
var suffixes = []string{"projectcalico.org", "tigera.io"}

func ofGroup(group string) string {
	for _, s := range suffixes {
		if group == s || strings.HasSuffix(group, "."+s) {
			return "group " + group
		}
	}
	return ""
}

// Calicos tells whether an API's version, as apps/v1, is of one of Calico's groups.
func Calicos(apiVersion string) bool {
	gv, err := schema.ParseGroupVersion(apiVersion)
	return err == nil && ofGroup(gv.Group) != ""
}

// Names that Calico's manifests and its operator give (contract §7.1).
var (
	namespaces = []string{"calico-system", "calico-apiserver", "tigera-operator"}
	workloads  = []string{"calico-node", "calico-node-windows", "csi-node-driver", "canal", "calico-kube-controllers", "calico-typha", "typha-autoscaler",
		"calico-typha-horizontal-autoscaler", "calico-typha-vertical-autoscaler", "calico-apiserver", "calico-webhooks", "goldmane", "whisker", "tigera-operator"}
	settings = []string{"calico-config", "canal-config", "cni-config", "kubernetes-services-endpoint", "node-certs", "typha-certs", "calico-apiserver-certs", "calico-etcd-secrets"}
	accounts = []string{"calico-node", "calico-cni-plugin", "calico-kube-controllers", "calico-typha", "calico-tier-getter", "calico-webhooks", "calico-crds", "calico-apiserver",
		"calico-apiserver-access-calico-crds", "calico-apiserver-delegate-auth", "calico-apiserver-auth-reader", "calico-extension-apiserver-auth-access",
		"calico-webhook-reader", "calico-api", "tigera-operator", "tigera-operator-secrets", "tigera-network-admin", "canal-calico"}
	// generic are names that say nothing of Calico, and are its only in its own namespaces.
	generic  = []string{"csi-node-driver", "goldmane", "whisker", "cni-config", "kubernetes-services-endpoint", "node-certs", "typha-certs"}
	prefixes = []string{"calico-", "calico:", "tigera-", "goldmane-", "whisker-", "canal-"}
)

// What Calico's CNI plugin needs, beside its settings on each node: pods whose network is its cannot be taken away without it.
var (
	pluginResources = []string{"ippools", "ipreservations", "ipamblocks", "ipamhandles", "ipamconfigs", "ipamconfigurations", "blockaffinities", "clusterinformations"}
	pluginAccounts  = []string{"calico-node", "calico-cni-plugin"}
)

// named tells of a name in a namespace, or of none, whether it is one of those that Calico gives where Calico gives them.
func named(u *unstructured.Unstructured, names []string) string {
	in := u.GetNamespace()
	if in != "" && in != "kube-system" && !slices.Contains(namespaces, in) {
		return ""
	}
	if slices.Contains(names, u.GetName()) && !(in == "kube-system" && slices.Contains(generic, u.GetName())) {
		return "name " + u.GetName()
	}
	return ""
}

func prefixed(u *unstructured.Unstructured) string {
	in := u.GetNamespace()
	if in != "" && in != "kube-system" && !slices.Contains(namespaces, in) {
		return ""
	}
	for _, p := range prefixes {
		if strings.HasPrefix(u.GetName(), p) || u.GetName()+"-" == p {
			return "name " + u.GetName()
		}
	}
	return ""
}

func withNames(names []string) func(*unstructured.Unstructured) string {
	return func(u *unstructured.Unstructured) string { return named(u, names) }
}

// places are in no order: stages are. But of a resource that is here in two versions the later is first, and the other counts only where that is
// not served.
var places = []place{
	{at("apiextensions.k8s.io/v1", "customresourcedefinitions"), "CustomResourceDefinition", Definitions, isDefinition, define},
	{at("apiregistration.k8s.io/v1", "apiservices"), "APIService", Served, isAggregated, available},
	{at("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations"), "ValidatingWebhookConfiguration", Admission, isWebhook, answers},
	{at("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations"), "MutatingWebhookConfiguration", Admission, isWebhook, answers},
	{at("admissionregistration.k8s.io/v1", "validatingadmissionpolicies"), "ValidatingAdmissionPolicy", Admission, isPolicy, nil},
	{at("admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings"), "ValidatingAdmissionPolicyBinding", Admission, isBinding, nil},
	{at("admissionregistration.k8s.io/v1", "mutatingadmissionpolicies"), "MutatingAdmissionPolicy", Admission, isPolicy, nil},
	{at("admissionregistration.k8s.io/v1", "mutatingadmissionpolicybindings"), "MutatingAdmissionPolicyBinding", Admission, isBinding, nil},
	{at("admissionregistration.k8s.io/v1beta1", "mutatingadmissionpolicies"), "MutatingAdmissionPolicy", Admission, isPolicy, nil},
	{at("admissionregistration.k8s.io/v1beta1", "mutatingadmissionpolicybindings"), "MutatingAdmissionPolicyBinding", Admission, isBinding, nil},
	{at("apps/v1", "daemonsets"), "DaemonSet", Workloads, works, running("desiredNumberScheduled", "numberReady")},
	{at("apps/v1", "deployments"), "Deployment", Workloads, works, running("replicas", "readyReplicas")},
	{at("v1", "pods"), "Pod", Workloads, worksAlone, runningAlone},
	{at("rbac.authorization.k8s.io/v1", "clusterroles"), "ClusterRole", Accounts, prefixed, sure},
	{at("rbac.authorization.k8s.io/v1", "clusterrolebindings"), "ClusterRoleBinding", Accounts, prefixed, sure},
	{at("rbac.authorization.k8s.io/v1", "roles"), "Role", Accounts, prefixed, sure},
	{at("rbac.authorization.k8s.io/v1", "rolebindings"), "RoleBinding", Accounts, prefixed, sure},
	{at("v1", "serviceaccounts"), "ServiceAccount", Accounts, prefixed, sure},
	{at("v1", "services"), "Service", Accounts, prefixed, sure},
	{at("v1", "configmaps"), "ConfigMap", Accounts, withNames(settings), nil},
	{at("v1", "secrets"), "Secret", Accounts, withNames(settings), nil},
	{at("v1", "namespaces"), "Namespace", Spaces, withNames(namespaces), conditions},
}

func at(groupVersion, resource string) schema.GroupVersionResource {
	gv, _ := schema.ParseGroupVersion(groupVersion) // it is one
	return gv.WithResource(resource)
}
