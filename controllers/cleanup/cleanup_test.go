package cleanup

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/yaml"

	"github.com/tierwall/tierwall/test/kube"
)

var update = flag.Bool("update", false, "rewrite what is found")

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site is a cluster in which Calico is, or has been.
type site struct {
	*Cluster
	t *testing.T
}

// definitionOf a kind, as small as can be.
func definitionOf(group, version, plural, kind, scope string) string {
	return fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[3]s.%[1]s}
spec:
  group: %[1]s
  scope: %[5]s
  names: {plural: %[3]s, singular: %[6]s, kind: %[4]s}
  versions: [{name: %[2]s, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`, group, version, plural, kind, scope, strings.ToLower(kind))
}

// definitions of the kinds that are in testdata/calico.yaml.
var definitions = strings.Join([]string{
	definitionOf("crd.projectcalico.org", "v1", "tiers", "Tier", "Cluster"),
	definitionOf("crd.projectcalico.org", "v1", "globalnetworkpolicies", "GlobalNetworkPolicy", "Cluster"),
	definitionOf("crd.projectcalico.org", "v1", "stagedglobalnetworkpolicies", "StagedGlobalNetworkPolicy", "Cluster"),
	definitionOf("operator.tigera.io", "v1", "installations", "Installation", "Cluster"),
}, "---")

// resources of the kinds that tests make.
var resources = map[string]string{
	"Namespace": "namespaces", "DaemonSet": "daemonsets", "Deployment": "deployments", "ClusterRole": "clusterroles", "ServiceAccount": "serviceaccounts", "ConfigMap": "configmaps",
	"APIService": "apiservices", "ValidatingWebhookConfiguration": "validatingwebhookconfigurations", "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
	"ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings", "CustomResourceDefinition": "customresourcedefinitions",
	"PodDisruptionBudget": "poddisruptionbudgets", "Service": "services", "Secret": "secrets", "Role": "roles", "RoleBinding": "rolebindings", "ClusterRoleBinding": "clusterrolebindings",
	"MutatingWebhookConfiguration": "mutatingwebhookconfigurations", "Lease": "leases", "Node": "nodes", "Pod": "pods", "NodeReport": "nodereports", "NetworkPolicy": "networkpolicies",
	"HostEndpoint": "hostendpoints", "GlobalNetworkSet": "globalnetworksets", "Tier": "tiers", "GlobalNetworkPolicy": "globalnetworkpolicies", "StagedGlobalNetworkPolicy": "stagedglobalnetworkpolicies", "Installation": "installations",
}

// make objects, and wait for CRDs to be served.
func (s *site) make(text string) {
	s.t.Helper()
	for _, part := range strings.Split(text, "\n---") {
		u := &unstructured.Unstructured{}
		fatal(s.t, yaml.Unmarshal([]byte(part), &u.Object))
		if len(u.Object) == 0 {
			continue
		}
		in := s.dynamic.Resource(at(u.GetAPIVersion(), resources[u.GetKind()])).Namespace(u.GetNamespace())
		err := wait.PollUntilContextTimeout(s.t.Context(), 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			_, err := in.Create(ctx, u, metav1.CreateOptions{})
			if apierrors.IsNotFound(err) { // its CRD is not served yet
				return false, nil
			}
			return true, err
		})
		if err != nil {
			s.t.Fatalf("%s/%s: %v", u.GetKind(), u.GetName(), err)
		}
		if status, ok := u.Object["status"]; ok && u.GetKind() != "CustomResourceDefinition" {
			patch, err := yaml.YAMLToJSON([]byte(fmt.Sprintf("status: %s", mustJSON(s.t, status))))
			fatal(s.t, err)
			_, err = in.Patch(s.t.Context(), u.GetName(), types.MergePatchType, patch, metav1.PatchOptions{}, "status")
			fatal(s.t, err)
		}
	}
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	out, err := yaml.Marshal(v)
	fatal(t, err)
	out, err = yaml.YAMLToJSON(out)
	fatal(t, err)
	return string(out)
}

func (s *site) find(o Options) *Inventory {
	s.t.Helper()
	inventory, err := s.Find(s.t.Context(), o)
	fatal(s.t, err)
	return inventory
}

// shown is an inventory, a line a thing, without what the API server itself is made of.
func (i *Inventory) shown() string {
	var b strings.Builder
	for _, t := range i.Things {
		fmt.Fprintf(&b, "%s: %s", t.Stage, &t)
		for _, x := range []struct {
			label string
			words []string
		}{{"way", []string{string(t.Way)}}, {"running", []string{t.Running}}, {"kept", []string{t.Kept}}, {"trouble", t.Trouble}, {"orphaned", t.Orphaned}, {"waits", t.Waits}} {
			if words := strings.Join(x.words, "; "); words != "" {
				fmt.Fprintf(&b, " [%s: %s]", x.label, words)
			}
		}
		if t.Terminating {
			b.WriteString(" [terminating]")
		}
		b.WriteString("\n")
	}
	for _, u := range i.Unknown {
		fmt.Fprintf(&b, "unknown: %s\n", u)
	}
	return b.String()
}

// What of Calico's there is, in the order in which it goes: beside it there is Tierwall, and what only looks like Calico's.
func TestFind(t *testing.T) {
	c, err := Open(kube.Start(t))
	fatal(t, err)
	s := &site{c, t}
	none := s.find(Options{})
	for _, thing := range none.Things {
		if thing.Kept == "" {
			t.Errorf("before Calico was there: %s: %s", &thing, thing.Why)
		}
	}
	text, err := os.ReadFile("testdata/calico.yaml")
	fatal(t, err)
	s.make(definitions + "---" + definitionOf("notprojectcalico.org", "v1", "others", "Other", "Cluster") + "---" + string(text))
	fatal(t, c.dynamic.Resource(at("crd.projectcalico.org/v1", "tiers")).Delete(t.Context(), "gone", metav1.DeleteOptions{}))
	c.page = 2
	inventory := s.find(Options{})
	var left strings.Builder
	for _, line := range strings.SplitAfter(inventory.shown(), "\n") {
		if !strings.Contains(line, "[kept: Tierwall uses it]") {
			left.WriteString(line)
		}
	}
	if *update {
		fatal(t, os.WriteFile("testdata/found.golden", []byte(left.String()), 0o644))
	}
	want, err := os.ReadFile("testdata/found.golden")
	fatal(t, err)
	if diff := cmp.Diff(string(want), left.String()); diff != "" {
		t.Error(diff)
	}
	if running := inventory.Running(); len(running) != 1 || running[0].Name != "calico-node" {
		t.Errorf("running are %v", running)
	}
}
