package calico

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Groups that Calico's objects are of.
const (
	v3Group    = "projectcalico.org"
	v1Group    = "crd.projectcalico.org"
	operators  = "operator.tigera.io"
	migrations = "migration.projectcalico.org"
	extensions = "apiextensions.k8s.io/v1"
)

// group that the way stores policy in.
func (c *Calico) group() string {
	if c.Way == Native {
		return v3Group
	}
	return v1Group
}

// kind of object that has a CRD.
type kind struct {
	group, plural, kind string
	namespaced          bool
	status              bool // is a subresource
	short               string
	ways                Way
}

// calicos are the kinds that each of the two groups has; IPAM's configuration is called otherwise in the older.
var calicos = []kind{
	{plural: "bgpconfigurations", kind: "BGPConfiguration"},
	{plural: "bgpfilters", kind: "BGPFilter"},
	{plural: "bgppeers", kind: "BGPPeer"},
	{plural: "blockaffinities", kind: "BlockAffinity"},
	{plural: "caliconodestatuses", kind: "CalicoNodeStatus", status: true},
	{plural: "clusterinformations", kind: "ClusterInformation", short: "clusterinfo"},
	{plural: "felixconfigurations", kind: "FelixConfiguration"},
	{plural: "globalnetworkpolicies", kind: "GlobalNetworkPolicy", short: "gnp"},
	{plural: "globalnetworksets", kind: "GlobalNetworkSet", short: "gns"},
	{plural: "hostendpoints", kind: "HostEndpoint", short: "hep"},
	{plural: "ipamblocks", kind: "IPAMBlock"},
	{plural: "ipamhandles", kind: "IPAMHandle"},
	{plural: "ippools", kind: "IPPool"},
	{plural: "ipreservations", kind: "IPReservation"},
	{plural: "kubecontrollersconfigurations", kind: "KubeControllersConfiguration", status: true, short: "kcc"},
	{plural: "networkpolicies", kind: "NetworkPolicy", namespaced: true, short: "cnp"},
	{plural: "networksets", kind: "NetworkSet", namespaced: true},
	{plural: "stagedglobalnetworkpolicies", kind: "StagedGlobalNetworkPolicy", short: "sgnp"},
	{plural: "stagedkubernetesnetworkpolicies", kind: "StagedKubernetesNetworkPolicy", namespaced: true, short: "sknp"},
	{plural: "stagednetworkpolicies", kind: "StagedNetworkPolicy", namespaced: true, short: "snp"},
	{plural: "tiers", kind: "Tier", status: true},
}

// kinds are all that have a CRD.
var kinds = func() (out []kind) {
	for _, g := range []kind{{group: v1Group, ways: Operator | Manifest | AKS}, {group: v3Group, ways: Native}} {
		for _, k := range calicos {
			k.group, k.ways = g.group, g.ways
			if g.group == v1Group {
				k.short = "" // so that kubectl's go to the API that people use
			}
			out = append(out, k)
		}
	}
	return append(out,
		kind{group: v1Group, plural: "ipamconfigs", kind: "IPAMConfig", ways: Operator | Manifest | AKS},
		kind{group: v3Group, plural: "ipamconfigurations", kind: "IPAMConfiguration", ways: Native},
		kind{group: migrations, plural: "datastoremigrations", kind: "DatastoreMigration", status: true, ways: Native},
		kind{group: operators, plural: "apiservers", kind: "APIServer", status: true, ways: inSystem},
		kind{group: operators, plural: "gatewayapis", kind: "GatewayAPI", status: true, ways: inSystem},
		kind{group: operators, plural: "goldmanes", kind: "Goldmane", status: true, ways: inSystem},
		kind{group: operators, plural: "imagesets", kind: "ImageSet", ways: inSystem},
		kind{group: operators, plural: "installations", kind: "Installation", status: true, ways: inSystem},
		kind{group: operators, plural: "istios", kind: "Istio", status: true, ways: inSystem},
		kind{group: operators, plural: "managementclusterconnections", kind: "ManagementClusterConnection", status: true, ways: inSystem},
		kind{group: operators, plural: "tigerastatuses", kind: "TigeraStatus", status: true, ways: inSystem},
		kind{group: operators, plural: "whiskers", kind: "Whisker", status: true, ways: inSystem},
	)
}()

// version that a group is served in.
func version(group string) string {
	if group == v3Group {
		return "v3"
	}
	return "v1"
}

// definitions are the CRDs of the way. Their schema lets everything by, as one that is older or younger than its objects may.
func (c *Calico) definitions() (out []*unstructured.Unstructured) {
	for _, k := range kinds {
		if k.ways&c.Way != 0 {
			out = append(out, k.definition())
		}
	}
	return out
}

func (k *kind) definition() *unstructured.Unstructured {
	u := named(extensions, "CustomResourceDefinition", "", k.plural+"."+k.group)
	names := object{"plural": k.plural, "singular": strings.ToLower(k.kind), "kind": k.kind, "listKind": k.kind + "List"}
	if k.short != "" {
		names["shortNames"] = []any{k.short}
	}
	scope := "Cluster"
	if k.namespaced {
		scope = "Namespaced"
	}
	v := object{"name": version(k.group), "served": true, "storage": true,
		"schema": object{"openAPIV3Schema": object{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}
	if k.status {
		v["subresources"] = object{"status": object{}}
	}
	u.Object["spec"] = object{"group": k.group, "scope": scope, "names": names, "preserveUnknownFields": false, "versions": []any{v}}
	return u
}

// builtin resources are the API server's own.
var builtin = map[schema.GroupKind]string{
	{Kind: "Namespace"}: "namespaces", {Kind: "ServiceAccount"}: "serviceaccounts", {Kind: "Service"}: "services", {Kind: "ConfigMap"}: "configmaps", {Kind: "Secret"}: "secrets",
	{Group: "apps", Kind: "DaemonSet"}: "daemonsets", {Group: "apps", Kind: "Deployment"}: "deployments",
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}: "clusterroles", {Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}: "clusterrolebindings",
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: "customresourcedefinitions", {Group: "apiregistration.k8s.io", Kind: "APIService"}: "apiservices",
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"}:   "validatingwebhookconfigurations",
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicy"}:        "validatingadmissionpolicies",
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicyBinding"}: "validatingadmissionpolicybindings",
	{Group: "admissionregistration.k8s.io", Kind: "MutatingAdmissionPolicy"}:          "mutatingadmissionpolicies",
	{Group: "admissionregistration.k8s.io", Kind: "MutatingAdmissionPolicyBinding"}:   "mutatingadmissionpolicybindings",
}

// resourceOf a kind, or "".
func resourceOf(gk schema.GroupKind) string {
	for _, k := range kinds {
		if k.group == gk.Group && k.kind == gk.Kind {
			return k.plural
		}
	}
	return builtin[gk]
}
