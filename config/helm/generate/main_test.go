package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/tierwall/tierwall/config/crd"
)

// What is made of the CRDs is as they are now.
func TestWritten(t *testing.T) {
	t.Chdir("../../..")
	files, err := fromCRDs()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		if have, err := os.ReadFile(name); err != nil || string(have) != string(want) {
			t.Errorf("%s is not as make generate writes it (%v)", name, err)
		}
	}
	there, err := filepath.Glob(templates + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range there {
		if files[name] == nil {
			t.Errorf("%s is of a kind that is no more", name)
		}
	}
}

func TestTemplate(t *testing.T) {
	got, err := template("---\nkind: K\nmetadata:\n  annotations:\n    a: b\nspec: use {{x}}\n")
	want := "kind: K\nmetadata:\n  annotations:\n    helm.sh/resource-policy: keep\n    a: b\nspec: use {{ \"{{\" }}x}}\n"
	if err != nil || !strings.Contains(got, "}}\n"+want+"{{- end }}\n") {
		t.Errorf("%v\n%s", err, got)
	}
	if got, err := template("kind: K\nmetadata:\n  name: x\n"); err == nil {
		t.Errorf("what is kept no longer says so:\n%s", got)
	}
}

// Whoever adds a kind also says in the chart who may do what with it; and nobody may do anything with whatever there is.
func TestRoles(t *testing.T) {
	roles := readRoles(t, "../../deploy/tierwall.yaml")
	all, err := crd.Manifests()
	if err != nil {
		t.Fatal(err)
	}
	crds := []string{"clusternetworkpolicies.policy.networking.k8s.io"} // not ours, but followed
	for _, m := range all {
		if m.Standalone {
			continue
		}
		crds = append(crds, m.CRD.Name)
		for _, role := range []string{"tierwall-agent", "tierwall-controller", "tierwall-viewer", "tierwall-editor"} {
			if group := m.CRD.Spec.Group; (role != "tierwall-agent" || group != "tierwall.io") && !may(roles[role], "list", group, m.CRD.Spec.Names.Plural) {
				t.Errorf("%s may not list %s", role, m.CRD.Name)
			}
		}
	}
	for name, rules := range roles {
		for _, r := range rules {
			for _, words := range [][]string{r.Verbs, r.APIGroups, r.Resources} {
				if slices.Contains(words, "*") {
					t.Errorf("%s may too much: %v", name, r)
				}
			}
			if slices.Contains(r.Resources, "secrets") && !ownSecret(name, r) || admits(r) && !slices.Equal(r.ResourceNames, []string{"tierwall-webhook"}) {
				t.Errorf("%s may too much: %v", name, r)
			}
			if slices.Contains(r.Resources, "customresourcedefinitions") && !slices.Equal(slices.Sorted(slices.Values(r.ResourceNames)), slices.Sorted(slices.Values(crds))) {
				t.Errorf("%s may ask for the CRDs %v; there are %v", name, r.ResourceNames, crds)
			}
		}
	}
}

// ownSecret tells whether a rule is about no Secret but the webhook's: to make one a name cannot be asked for.
func ownSecret(role string, r rbacv1.PolicyRule) bool {
	return role == "tierwall-controller" && (slices.Equal(r.ResourceNames, []string{"tierwall-webhook"}) || slices.Equal(r.Verbs, []string{"create"}))
}

// admits tells whether a rule is about what decides on others' objects.
func admits(r rbacv1.PolicyRule) bool {
	return slices.Contains(r.APIGroups, "admissionregistration.k8s.io")
}

// Nobody's ClusterRole has to do with Secrets: the webhook's is in one namespace.
func TestSecretsAreOfOneNamespace(t *testing.T) {
	text, err := os.ReadFile("../../deploy/tierwall.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		if strings.Contains(doc, "kind: ClusterRole\n") && strings.Contains(doc, "secrets") {
			t.Errorf("of all namespaces:\n%s", doc)
		}
	}
}

func readRoles(t *testing.T, file string) map[string][]rbacv1.PolicyRule {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string][]rbacv1.PolicyRule{}
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal([]byte(doc), &role); err != nil {
			t.Fatal(err)
		}
		if role.Kind == "ClusterRole" || role.Kind == "Role" {
			roles[role.Name] = append(roles[role.Name], role.Rules...)
		}
	}
	return roles
}

func may(rules []rbacv1.PolicyRule, verb, group, resource string) bool {
	return slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool {
		return slices.Contains(r.Verbs, verb) && slices.Contains(r.APIGroups, group) && slices.Contains(r.Resources, resource)
	})
}
