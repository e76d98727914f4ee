package cleanup

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tierwall/tierwall/controllers/crds"
)

// Ours says how much of Tierwall itself is to go.
type Ours struct {
	// CRDs go too, and with them all that people have written; those taken over from others are put back. Without, both stay.
	CRDs bool
	// Without are nodes that need not say that our table is gone from them.
	Without []string
}

// Enforced is what Tierwall enforces, and nobody does when it is gone.
type Enforced struct {
	// Policies are how many there are, by resource.
	Policies      map[string]int `json:"policies"`
	HostEndpoints int            `json:"hostEndpoints"`
	// Nodes are those that have a table, or may have one.
	Nodes []Node `json:"nodes"`
	// Others run, and go on enforcing what they read.
	Others []Thing `json:"others,omitempty"`
}

const (
	ourLabel = "app.kubernetes.io/name=tierwall"
	ourSpace = "tierwall-system"
)

// ourPlaces are where what the chart and config/deploy install is: with the label, under one of these names.
var ourPlaces = []place{
	{at("apps/v1", "daemonsets"), "DaemonSet", Nodes, called("tierwall-agent"), ofRelease},
	{at("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations"), "ValidatingWebhookConfiguration", Admission, called("tierwall-webhook"), ofRelease},
	{at("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations"), "MutatingWebhookConfiguration", Admission, called("tierwall-webhook"), ofRelease},
	{at("admissionregistration.k8s.io/v1", "validatingadmissionpolicies"), "ValidatingAdmissionPolicy", Admission, called(admission...), ofRelease},
	{at("admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings"), "ValidatingAdmissionPolicyBinding", Admission, called(admission...), ofRelease},
	{at("admissionregistration.k8s.io/v1", "mutatingadmissionpolicies"), "MutatingAdmissionPolicy", Admission, called(mutating...), ofRelease},
	{at("admissionregistration.k8s.io/v1", "mutatingadmissionpolicybindings"), "MutatingAdmissionPolicyBinding", Admission, called(mutating...), ofRelease},
	{at("apps/v1", "deployments"), "Deployment", Programs, called("tierwall-controller"), ofRelease},
	{at("policy/v1", "poddisruptionbudgets"), "PodDisruptionBudget", Workloads, called("tierwall-controller"), ofRelease},
	{at("v1", "services"), "Service", Workloads, called("tierwall-webhook", "tierwall-metrics"), ofRelease},
	{at("monitoring.coreos.com/v1", "podmonitors"), "PodMonitor", Workloads, called("tierwall"), ofRelease},
	{at("rbac.authorization.k8s.io/v1", "clusterroles"), "ClusterRole", Accounts, called(append(roles, "tierwall-viewer", "tierwall-editor",
		"tierwall-aggregate-to-view", "tierwall-aggregate-to-edit", "tierwall-default-tier")...), ofRelease},
	{at("rbac.authorization.k8s.io/v1", "clusterrolebindings"), "ClusterRoleBinding", Accounts, called(append(roles, "tierwall-default-tier")...), ofRelease},
	{at("rbac.authorization.k8s.io/v1", "roles"), "Role", Accounts, called(roles...), ofRelease},
	{at("rbac.authorization.k8s.io/v1", "rolebindings"), "RoleBinding", Accounts, called(roles...), ofRelease},
	{at("v1", "serviceaccounts"), "ServiceAccount", Accounts, called(roles...), ofRelease},
}

var (
	roles     = []string{"tierwall-agent", "tierwall-controller"}
	admission = []string{"protect-builtin-tiers.tierwall.io", "kubernetes-policy-names.tierwall.io", "own-nodereport.tierwall.io", "tiered-rbac.tierwall.io"}
	mutating  = []string{"policytypes.tierwall.io", "tierlabel.tierwall.io"}
)

// called tells of what has our label whether it has a name of ours too.
func called(names ...string) func(*unstructured.Unstructured) string {
	return func(u *unstructured.Unstructured) string {
		if slices.Contains(names, u.GetName()) {
			return "name " + u.GetName() + ", label " + ourLabel
		}
		return ""
	}
}

// ofRelease notes where a thing is, and of which release of Helm's it is.
func ofRelease(_ context.Context, s *search, u *unstructured.Unstructured, t *Thing) error {
	if t.Namespace != "" {
		s.homes[t.Namespace] = true
	}
	if t.Stage == Nodes {
		t.Way = TakenOut
	}
	if a := u.GetAnnotations(); a["meta.helm.sh/release-name"] != "" {
		s.releases[release{a["meta.helm.sh/release-namespace"], a["meta.helm.sh/release-name"]}] = true
	}
	return nil
}

// FindOurs finds what of Tierwall itself is in a cluster, in the order in which it can go:
//
//	nodes ─► admission ─► controller ─► policy ─► accounts ─► namespace ─► CRDs
//
// The table is taken out first, while those are there who can do it. Then goes who could refuse what follows, then who would make it anew.
func (c *Cluster) FindOurs(ctx context.Context, o Ours) (*Inventory, error) {
	s := c.search()
	s.found.Enforced, s.labels = &Enforced{Policies: map[string]int{}}, ourLabel
	for _, p := range ourPlaces {
		if err := s.look(ctx, p); err != nil {
			return nil, err
		}
	}
	s.labels = ""
	for _, look := range []func(context.Context, Ours) error{s.unlabelled, s.ofHelm, s.enforced, s.ourDefinitions, s.ourSpaces, s.ourNodes} {
		if err := look(ctx, o); err != nil {
			return nil, err
		}
	}
	s.found.sort()
	return s.found, nil
}

// unlabelled is what our programs make themselves.
func (s *search) unlabelled(ctx context.Context, _ Ours) error {
	for _, p := range []struct {
		schema.GroupVersionResource
		kind, name, why string
	}{
		{at("coordination.k8s.io/v1", "leases"), "Lease", "tierwall-controller", "the controller that leads holds it"},
		{at("v1", "secrets"), "Secret", "tierwall-webhook", "the certificate of admission"},
	} {
		for _, home := range slices.Sorted(maps.Keys(s.homes)) {
			u, err := s.dynamic.Resource(p.GroupVersionResource).Namespace(home).Get(ctx, p.name, metav1.GetOptions{})
			if err := s.unknown(ctx, p.kind+"/"+home+"/"+p.name, err); err != nil {
				return err
			}
			if err == nil {
				s.found.Things = append(s.found.Things, s.thing(Accounts, p.GroupVersionResource, p.kind, u, p.why))
			}
		}
	}
	return nil
}

// release of Helm's.
type release struct{ namespace, name string }

// ofHelm finds what Helm remembers of our release, or it would show one that is not there. A release that has more than our chart is its owner's.
func (s *search) ofHelm(ctx context.Context, _ Ours) error {
	for r := range s.releases {
		for kind, resource := range map[string]string{"Secret": "secrets", "ConfigMap": "configmaps"} {
			in := at("v1", resource)
			list, err := s.dynamic.Resource(in).Namespace(r.namespace).List(ctx, metav1.ListOptions{LabelSelector: "owner=helm,name=" + r.name})
			if err := s.unknown(ctx, "what Helm remembers of release "+r.name, err); err != nil {
				return err
			}
			if err != nil {
				continue
			}
			for i := range list.Items {
				u := &list.Items[i]
				if !strings.HasPrefix(u.GetName(), "sh.helm.release.v1."+r.name+".v") {
					continue
				}
				t := s.thing(Accounts, in, kind, u, "Helm's memory of release "+r.name)
				if chart, err := chartOf(u); err != nil {
					t.Kept = fmt.Sprintf("of which chart it is cannot be read: %v", err)
				} else if chart != "tierwall" {
					t.Kept = "it is of chart " + chart + ", which has more than Tierwall: take Tierwall out of that chart, or it comes back"
				}
				s.found.Things = append(s.found.Things, t)
			}
		}
	}
	return nil
}

// chartOf what Helm remembers: JSON, gzip, base64, and once more base64 in a Secret.
func chartOf(u *unstructured.Unstructured) (string, error) {
	raw := []byte(text(u, "data", "release"))
	for range map[string]int{"Secret": 2, "ConfigMap": 1}[u.GetKind()] {
		var err error
		if raw, err = base64.StdEncoding.DecodeString(string(raw)); err != nil {
			return "", err
		}
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return "", err
	}
	var r struct {
		Chart struct{ Metadata struct{ Name string } }
	}
	const bound = 64 << 20
	if err := json.NewDecoder(io.LimitReader(z, bound)).Decode(&r); err != nil {
		return "", err
	}
	return r.Chart.Metadata.Name, nil
}

// enforced counts what agents enforce, and finds who else enforces.
func (s *search) enforced(ctx context.Context, _ Ours) error {
	e := s.found.Enforced
	for _, r := range []schema.GroupVersionResource{at("networking.k8s.io/v1", "networkpolicies"), at("projectcalico.org/v3", "networkpolicies"),
		at("projectcalico.org/v3", "globalnetworkpolicies"), at("policy.networking.k8s.io/v1alpha2", "clusternetworkpolicies")} {
		n, err := s.count(ctx, r)
		if err != nil {
			return err
		}
		if n > 0 {
			e.Policies[r.GroupResource().String()] = n
		}
	}
	var err error
	if e.HostEndpoints, err = s.count(ctx, at("projectcalico.org/v3", "hostendpoints")); err != nil {
		return err
	}
	calico := s.search()
	for _, p := range places {
		if p.stage == Workloads {
			if err := calico.look(ctx, p); err != nil {
				return err
			}
		}
	}
	e.Others, s.found.Unknown = calico.found.Running(), append(s.found.Unknown, calico.found.Unknown...)
	return nil
}

func (s *search) count(ctx context.Context, r schema.GroupVersionResource) (n int, err error) {
	for next := ""; ; {
		list, err := s.metadata.Resource(r).List(ctx, metav1.ListOptions{Limit: s.page, Continue: next})
		if err := s.unknown(ctx, r.GroupResource().String(), err); err != nil || list == nil {
			return n, err
		}
		n += len(list.Items)
		if next = list.GetContinue(); next == "" {
			return n, nil
		}
	}
}

// ourDefinitions are the CRDs that we have installed or taken over, and their objects. Of objects that stay a tier loses its finalizer, or nobody
// could delete it any more.
func (s *search) ourDefinitions(ctx context.Context, o Ours) error {
	taken, err := s.taken(ctx, o)
	if err != nil {
		return err
	}
	in := at("apiextensions.k8s.io/v1", "customresourcedefinitions")
	err = s.each(ctx, in, "CustomResourceDefinition", func(u *unstructured.Unstructured) error {
		if _, ours := u.GetAnnotations()[crds.SchemaAnnotation]; !ours {
			return nil
		}
		t := s.thing(Definitions, in, "CustomResourceDefinition", u, "annotation "+crds.SchemaAnnotation)
		losses, was := taken[u.GetName()]
		switch {
		case !o.CRDs:
			t.Kept = "it stays with its objects, unless CRDs are to go"
		case was:
			t.Kept = "another's objects"
		}
		if kind := text(u, "spec", "names", "kind"); kind == "Tier" || t.Kept == "" && kind != "NodeReport" { // which agents write
			s.defines(u, &t)
		}
		if o.CRDs && was {
			t.Kept, t.Way = "", HandedBack
			for _, l := range losses {
				s.found.Refused = append(s.found.Refused, fmt.Sprintf("%s cannot be put back: %s: tierctl crds restore --force does it", &t, l))
			}
		} else if t.Kept == "" && ofGroup(text(u, "spec", "group")) != "" && len(s.found.Enforced.Others) > 0 {
			s.found.Refused = append(s.found.Refused, fmt.Sprintf("%s may be read by %s, which runs", &t, &s.found.Enforced.Others[0]))
		}
		s.found.Things = append(s.found.Things, t)
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range s.definitions {
		if err := s.objectsOf(ctx, d); err != nil {
			return err
		}
	}
	s.finalizers(s.found.Enforced.Others)
	for i := range s.found.Things {
		if t := &s.found.Things[i]; t.Stage == Objects && t.Kept != "" && len(t.Orphaned) > 0 {
			t.Kept, t.Way = "", Released
		}
	}
	return nil
}

// taken are the CRDs that were another's, with what would be lost if they were put back.
func (s *search) taken(ctx context.Context, o Ours) (map[string][]string, error) {
	if !o.CRDs {
		return nil, nil
	}
	c, err := crds.Open(s.config)
	if err != nil {
		return nil, err
	}
	all, err := c.Taken(ctx)
	if err := s.unknown(ctx, "the CRDs that were taken over", err); err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, f := range all {
		out[f.Name] = f.Losses
	}
	return out, nil
}

// ourSpaces are namespaces that the manifests make. One in which others have something stays.
func (s *search) ourSpaces(ctx context.Context, _ Ours) error {
	in := at("v1", "namespaces")
	for _, home := range slices.Sorted(maps.Keys(s.homes)) {
		u, err := s.dynamic.Resource(in).Get(ctx, home, metav1.GetOptions{})
		if err := s.unknown(ctx, "Namespace/"+home, err); err != nil {
			return err
		}
		if err != nil {
			continue
		}
		t := s.thing(Spaces, in, "Namespace", u, "Tierwall is in it")
		t.Way = IfEmpty
		if home != ourSpace && u.GetLabels()["app.kubernetes.io/name"] != "tierwall" {
			t.Kept = "it is not called " + ourSpace + ", and may be yours"
		} else if others, err := s.others(ctx, home, s.found.Things); err != nil {
			return err
		} else if len(others) > 0 {
			t.Kept = "in it there is " + someOf(others)
		}
		s.found.Things = append(s.found.Things, t)
	}
	return nil
}

// others than these things in a namespace.
func (s *search) others(ctx context.Context, space string, than []Thing) (names []string, err error) {
	known := map[string]bool{}
	for i := range than {
		known[than[i].key()] = than[i].Kept == ""
	}
	inside, err := s.inside(ctx, []string{space}, known)
	for i := range inside {
		names = append(names, inside[i].String())
	}
	return names, err
}

// someOf many words, and how many more.
func someOf(words []string) string {
	const most = 5
	if len(words) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(words[:most], ", "), len(words)-most)
	}
	return strings.Join(words, ", ")
}
