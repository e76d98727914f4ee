package crd_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/config/crd"
	"github.com/tierwall/tierwall/test/verdicts"
)

// kind is one kind of apis/v3 and an object of it.
type kind struct {
	name  string
	empty v3.Object
}

// kinds are all that apis/v3 and apis/v1alpha1 have, by name.
func kinds() (out []kind) {
	for _, gv := range []schema.GroupVersion{v3.GroupVersion, v1alpha1.GroupVersion} {
		for name, typ := range scheme.KnownTypes(gv) {
			if obj, ok := reflect.New(typ).Interface().(v3.Object); ok && strings.HasSuffix(typ.PkgPath(), "apis/"+gv.Version) {
				out = append(out, kind{name, obj})
			}
		}
	}
	slices.SortFunc(out, func(a, b kind) int { return strings.Compare(a.name, b.name) })
	return out
}

// shape is what a CRD says of a kind besides its schema.
type shape struct {
	Plural, Scope string
	ShortNames    []string
	Columns       []string // name type JSONPath
	Selectable    []string
	Status        bool
	Standalone    bool
	Report        bool // its group is ours, and its status is written with the object
	Plain         bool // its status has no conditions: it is what others say
}

const (
	tierColumn      = "Tier string .spec.tier"
	orderColumn     = "Order number .spec.order"
	ageColumn       = "Age date .metadata.creationTimestamp"
	interfaceColumn = "Interface string .spec.interfaceName"
	nodeColumn      = "Node string .spec.node"
)

// shapes is the table of contract §1.1, with a status on every kind that a cluster holds (issue: condition Accepted), and the two
// kinds that only a host without a cluster has as objects.
var shapes = map[string]shape{
	"Tier": {Plural: "tiers", Scope: "Cluster", Status: true, Columns: []string{orderColumn, "DefaultAction string .spec.defaultAction",
		`Status string .status.conditions[?(@.type=="Ready")].reason`}},
	"NetworkPolicy": {Plural: "networkpolicies", Scope: "Namespaced", ShortNames: []string{"cnp", "caliconetworkpolicy"},
		Columns: []string{tierColumn, orderColumn}, Selectable: []string{".spec.tier"}, Status: true},
	"GlobalNetworkPolicy": {Plural: "globalnetworkpolicies", Scope: "Cluster", ShortNames: []string{"gnp", "cgnp"},
		Columns: []string{tierColumn, orderColumn, ageColumn}, Selectable: []string{".spec.tier"}, Status: true},
	"StagedNetworkPolicy": {Plural: "stagednetworkpolicies", Scope: "Namespaced", ShortNames: []string{"scnp", "snp"},
		Columns: []string{tierColumn, orderColumn}, Selectable: []string{".spec.tier"}, Status: true},
	"StagedGlobalNetworkPolicy": {Plural: "stagedglobalnetworkpolicies", Scope: "Cluster", ShortNames: []string{"sgnp"},
		Columns: []string{tierColumn, orderColumn}, Selectable: []string{".spec.tier"}, Status: true},
	"StagedKubernetesNetworkPolicy": {Plural: "stagedkubernetesnetworkpolicies", Scope: "Namespaced", ShortNames: []string{"sknp"}, Status: true},
	"GlobalNetworkSet":              {Plural: "globalnetworksets", Scope: "Cluster", ShortNames: []string{"gns"}, Columns: []string{ageColumn}, Status: true},
	"NetworkSet":                    {Plural: "networksets", Scope: "Namespaced", Status: true},
	"HostEndpoint": {Plural: "hostendpoints", Scope: "Cluster", ShortNames: []string{"hep", "heps"},
		Columns: []string{nodeColumn, interfaceColumn}, Status: true},
	"WorkloadEndpoint": {Plural: "workloadendpoints", Scope: "Namespaced", ShortNames: []string{"wep", "weps"},
		Columns: []string{"Workload string .spec.workload", nodeColumn, interfaceColumn}, Standalone: true},
	"Profile":                      {Plural: "profiles", Scope: "Cluster", ShortNames: []string{"pro"}, Standalone: true},
	"FelixConfiguration":           {Plural: "felixconfigurations", Scope: "Cluster", Status: true},
	"KubeControllersConfiguration": {Plural: "kubecontrollersconfigurations", Scope: "Cluster", ShortNames: []string{"kcc", "kccs"}, Status: true, Plain: true},
	"NodeReport": {Plural: "nodereports", Scope: "Cluster", ShortNames: []string{"nr"}, Report: true, Columns: []string{
		`Enforcing string .status.conditions[?(@.type=="Enforcing")].status`, "Endpoints integer .status.endpoints",
		"Policies integer .status.policies", "Agent string .status.agentVersion", "Reported date .status.reportedAt"}},
}

func manifests(t testing.TB) map[string]crd.Manifest {
	t.Helper()
	all, err := crd.Manifests()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]crd.Manifest{}
	for _, m := range all {
		out[m.CRD.Spec.Names.Kind] = m
	}
	return out
}

func shapeOf(t *testing.T, m crd.Manifest) shape {
	t.Helper()
	if len(m.CRD.Spec.Versions) != 1 {
		t.Fatalf("%s: %d versions", m.File, len(m.CRD.Spec.Versions))
	}
	v := m.CRD.Spec.Versions[0]
	is := schema.GroupVersion{Group: m.CRD.Spec.Group, Version: v.Name}
	if !v.Served || !v.Storage || is != v3.GroupVersion && is != v1alpha1.GroupVersion {
		t.Errorf("%s: %s/%s, served %t, storage %t", m.File, m.CRD.Spec.Group, v.Name, v.Served, v.Storage)
	}
	s := shape{Plural: m.CRD.Spec.Names.Plural, Scope: string(m.CRD.Spec.Scope), ShortNames: m.CRD.Spec.Names.ShortNames, Standalone: m.Standalone,
		Report: is == v1alpha1.GroupVersion, Status: v.Subresources != nil && v.Subresources.Status != nil}
	if status, has := root(m).Properties["status"]; has {
		_, conditions := status.Properties["conditions"]
		s.Plain = !conditions
	}
	for _, c := range v.AdditionalPrinterColumns {
		if text := c.Name + " " + c.Type + " " + c.JSONPath; !slices.Contains(added, text) || slices.Contains(shapes[m.CRD.Spec.Names.Kind].Columns, text) {
			s.Columns = append(s.Columns, text)
		}
	}
	for _, f := range v.SelectableFields {
		s.Selectable = append(s.Selectable, f.JSONPath)
	}
	return s
}

// added are the columns that the kinds have beside Calico's: how objects fare.
var added = []string{
	`Programmed string .status.conditions[?(@.type=="Programmed")].status`,
	`Accepted string .status.conditions[?(@.type=="Accepted")].status`,
	`In force string .status.conditions[?(@.type=="Programmed")].message`,
	"Selector string .spec.selector", ageColumn,
}

// Each kind of which nodes say whether it is in force shows it.
func TestColumnsSayHowObjectsFare(t *testing.T) {
	for _, kind := range []string{"NetworkPolicy", "GlobalNetworkPolicy", "NetworkSet", "GlobalNetworkSet", "HostEndpoint"} {
		columns := manifests(t)[kind].CRD.Spec.Versions[0].AdditionalPrinterColumns
		if !slices.ContainsFunc(columns, func(c apiextensionsv1.CustomResourceColumnDefinition) bool {
			return c.Name == "Programmed" && c.Priority == 0
		}) {
			t.Errorf("kubectl get shows of no %s whether it is programmed", kind)
		}
	}
}

// TestShapes: every Go kind has a CRD, every CRD a Go kind, and each the names, columns and subresources of its row.
func TestShapes(t *testing.T) {
	all := manifests(t)
	if len(all) != len(kinds()) || len(all) != len(shapes) {
		t.Errorf("%d CRDs, %d Go kinds, %d rows", len(all), len(kinds()), len(shapes))
	}
	for _, k := range kinds() {
		m, ok := all[k.name]
		if !ok {
			t.Errorf("%s has no CRD", k.name)
			continue
		}
		if diff := cmp.Diff(shapes[k.name], shapeOf(t, m)); diff != "" {
			t.Errorf("%s (-want +have):\n%s", k.name, diff)
		}
		if verdicts.Namespaced[k.name] != (m.CRD.Spec.Scope == apiextensionsv1.NamespaceScoped) {
			t.Errorf("%s: the tests put it in the wrong scope", k.name)
		}
	}
}

// No two kinds answer to one name.
func TestNamesAreUnique(t *testing.T) {
	owner := map[string]string{}
	for name, m := range manifests(t) {
		names := m.CRD.Spec.Names
		for _, n := range append([]string{names.Plural, names.Singular}, names.ShortNames...) {
			if o, taken := owner[n]; taken {
				t.Errorf("%q is %s and %s", n, o, name)
			}
			owner[n] = name
		}
	}
}

func root(m crd.Manifest) *apiextensionsv1.JSONSchemaProps {
	return m.CRD.Spec.Versions[0].Schema.OpenAPIV3Schema
}

// walk visits every schema below s, the items of lists included.
func walk(path string, s *apiextensionsv1.JSONSchemaProps, visit func(path string, s *apiextensionsv1.JSONSchemaProps)) {
	visit(path, s)
	for name := range s.Properties {
		p := s.Properties[name]
		walk(path+"."+name, &p, visit)
	}
	if s.Items != nil && s.Items.Schema != nil {
		walk(path+"[]", s.Items.Schema, visit)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		walk(path+"{}", s.AdditionalProperties.Schema, visit)
	}
}

// TestExplained: `kubectl explain` has a sentence for every kind and every field. metadata is explained by kubectl itself.
func TestExplained(t *testing.T) {
	var fields int
	for name, m := range manifests(t) {
		walk(name, root(m), func(path string, s *apiextensionsv1.JSONSchemaProps) {
			if strings.HasSuffix(path, "[]") || strings.HasSuffix(path, "{}") || path == name+".metadata" {
				return
			}
			fields++
			if text := strings.TrimSpace(s.Description); len(text) < 10 || !strings.Contains(text, " ") {
				t.Errorf("%s is not explained: %q", path, text)
			}
		})
	}
	t.Logf("%d fields", fields)
}

// TestListTypes: each list of ours says how server-side apply is to merge it.
func TestListTypes(t *testing.T) {
	for name, m := range manifests(t) {
		walk(name, root(m), func(path string, s *apiextensionsv1.JSONSchemaProps) {
			if s.Type == "array" && s.XListType == nil {
				t.Errorf("%s has no list type", path)
			}
		})
	}
}

// TestConditions: a status has conditions, a list keyed by type, each with the generation of which it speaks.
func TestConditions(t *testing.T) {
	for name, m := range manifests(t) {
		status, has := root(m).Properties["status"]
		if has != (shapes[name].Status || shapes[name].Report) {
			t.Errorf("%s: status in the schema: %t, subresource: %t", name, has, shapes[name].Status)
		}
		if !has || shapes[name].Plain {
			continue
		}
		conditions := status.Properties["conditions"]
		if conditions.XListType == nil || *conditions.XListType != "map" || !slices.Equal(conditions.XListMapKeys, []string{"type"}) {
			t.Errorf("%s: conditions are not keyed by type", name)
			continue
		}
		if _, ok := conditions.Items.Schema.Properties["observedGeneration"]; !ok {
			t.Errorf("%s: conditions have no observedGeneration", name)
		}
	}
}
