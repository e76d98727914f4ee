package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/tierwall/tierwall/controllers/cleanup"
	"github.com/tierwall/tierwall/controllers/journal"
)

// create an object of a resource, as soon as there is its kind.
func (s *session) create(groupVersion, resource, namespace, text string) {
	s.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	must(s.t, err)
	d, err := dynamic.NewForConfig(config)
	must(s.t, err)
	gv, err := schema.ParseGroupVersion(groupVersion)
	must(s.t, err)
	u := &unstructured.Unstructured{}
	must(s.t, yaml.Unmarshal([]byte(text), &u.Object))
	must(s.t, wait.PollUntilContextTimeout(s.t.Context(), 100*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		_, err = d.Resource(gv.WithResource(resource)).Namespace(namespace).Create(ctx, u, metav1.CreateOptions{})
		return err == nil, nil
	}))
}

const installations = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: installations.operator.tigera.io}
spec:
  group: operator.tigera.io
  scope: Cluster
  names: {plural: installations, singular: installation, kind: Installation}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`

// What an operator sees who removes what Calico has left: what there is, what keeps it, what was done, and the way back.
func TestCleanup(t *testing.T) {
	s := newSession(t)
	s.does(0, "cleanup plan", "0 objects of Calico's")
	s.does(1, "cleanup status --journal @j.db", "nothing was begun")
	s.create("apiextensions.k8s.io/v1", "customresourcedefinitions", "", installations)
	s.create("operator.tigera.io/v1", "installations", "", "apiVersion: operator.tigera.io/v1\nkind: Installation\nmetadata: {name: default, finalizers: [tigera.io/operator-cleanup]}\n")
	s.does(1, "cleanup plan", "objects:\n  Installation/default (nobody takes away its finalizers tigera.io/operator-cleanup)\n", "2 objects of Calico's")
	s.does(0, "cleanup apply --journal @j.db", "nothing was removed: --yes removes it")
	s.does(4, "cleanup apply --yes --journal @j.db", "nothing was removed: finalizers that nobody will take away keep Installation/default", "--force-finalizers takes them away")
	s.file("elsewhere.json", `{"server": "https://192.0.2.1", "things": []}`)
	s.does(4, "cleanup apply --yes --force-finalizers --plan @elsewhere.json --journal @j.db", "elsewhere.json is of the cluster at https://192.0.2.1, not http")
	s.file("wrong.json", "things")
	s.does(1, "cleanup apply --yes --plan @wrong.json --journal @j.db", "wrong.json: is no plan that tierctl has written with -o json")

	var plan strings.Builder
	if status := run(t.Context(), []string{"cleanup", "plan", "-o", "json", "--datastore", "kubernetes:" + s.kubeconfig}, nil, &plan, os.Stderr); status != 1 {
		t.Fatalf("plan -o json: %d", status)
	}
	s.file("plan.json", plan.String())
	var made struct{ Server string }
	must(t, json.Unmarshal([]byte(plan.String()), &made))
	s.file("empty.json", fmt.Sprintf(`{"server": %q, "things": []}`, made.Server))
	s.does(4, "cleanup apply --yes --force-finalizers --plan @empty.json --journal @j.db", "empty.json does not have Installation/default, CustomResourceDefinition/installations.operator.tigera.io")
	s.does(0, "cleanup apply --yes --force-finalizers --plan @plan.json --journal @j.db", "Installation/default deleted\nCustomResourceDefinition/installations.operator.tigera.io deleted\n")
	s.does(0, "cleanup plan", "0 objects of Calico's")
	s.does(0, "cleanup status --journal @j.db", "Removed: 2 of 2 objects removed")
	s.does(0, "cleanup status -o json --journal @j.db", `"phase":"Removed"`)
	s.does(0, "cleanup apply --yes --journal @j.db", "nothing of Calico's is left")
	s.does(0, "cleanup restore --journal @j.db", "nothing was changed")
	s.does(0, "cleanup restore --yes --journal @j.db", "CustomResourceDefinition/installations.operator.tigera.io restored\nInstallation/default restored\n")
	s.does(1, "cleanup plan", "2 objects of Calico's")

	s.create("apps/v1", "deployments", "kube-system", `apiVersion: apps/v1
kind: Deployment
metadata: {name: calico-typha, namespace: kube-system}
spec:
  replicas: 1
  selector: {matchLabels: {k8s-app: calico-typha}}
  template: {metadata: {labels: {k8s-app: calico-typha}}, spec: {containers: [{name: c, image: example/typha}]}}
`)
	s.does(4, "cleanup plan --named ClusterRole/none", "warning: --named ClusterRole/none: there is no such thing of Calico's\n", "still running:\n  Deployment/kube-system/calico-typha (0 of 1 ready)\n", "Calico still runs")
	s.does(4, "cleanup apply --yes --force-finalizers --journal @j.db", "nothing was removed: Calico still runs: Deployment/kube-system/calico-typha")

	// it came back while a run was interrupted
	j, err := cleanup.OpenJournal(filepath.Join(s.dir, "k.db"), "cleanup", journal.Make)
	must(t, err)
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	must(t, err)
	cluster, err := cleanup.Open(config)
	must(t, err)
	i, err := cluster.Find(t.Context(), cleanup.Options{})
	must(t, err)
	running := i.Running()
	i.Things = slices.DeleteFunc(i.Things, func(t cleanup.Thing) bool { return t.Running != "" })
	must(t, cluster.Begin(j, i, cleanup.Orders{ForceFinalizers: true}))
	s.does(1, "cleanup status --journal @k.db", "at work: another run has the journal at this moment\n")
	s.does(1, "cleanup status -o json --journal @k.db", `"phase":"AtWork"`)
	must(t, j.Close())
	s.does(1, "cleanup restore --journal @k.db", "nothing was removed: there is nothing to put back")
	s.does(4, "cleanup apply --yes --journal @k.db", "nothing was removed: Calico still runs: "+running[0].String())

	// what a run was begun with counts when it goes on, and not what there is now
	c, err := dynamic.NewForConfig(config)
	must(t, err)
	must(t, c.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace("kube-system").Delete(t.Context(), "calico-typha", metav1.DeleteOptions{}))
	s.does(4, "cleanup apply --yes --plan @empty.json --journal @k.db", "empty.json does not have Installation/default")
	s.does(0, "cleanup apply --yes --plan @plan.json --journal @k.db", "a run goes on that was saving", "Installation/default deleted")

	// who may see nothing is not told that nothing is there
	text, err := os.ReadFile(s.kubeconfig)
	must(t, err)
	s.kubeconfig = s.file("nobody", strings.Replace(string(text), "{cluster: a}", "{cluster: a, user: nobody}", 1)+"users: [{name: nobody, user: {as: nobody}}]\n")
	s.does(4, "cleanup apply --yes --journal @n.db", "nothing was removed: not all could be looked at")
	s.does(4, "cleanup plan", "tierctl: not all could be looked at")
}
