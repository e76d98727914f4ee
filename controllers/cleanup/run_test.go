package cleanup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tierwall/tierwall/controllers/journal"
	"github.com/tierwall/tierwall/test/kube"
)

var errKilled = errors.New("killed")

// killer ends a run before each step once.
type killer struct{ met map[string]bool }

func (k *killer) before(step string) error {
	if k.met[step] {
		return nil
	}
	k.met[step] = true
	return errKilled
}

// finishNamespaces does what a cluster's controllers would.
func (s *site) finishNamespaces() {
	ctx, stop := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	s.t.Cleanup(func() { stop(); <-done })
	in := s.dynamic.Resource(at("v1", "namespaces"))
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			list, err := in.List(ctx, metav1.ListOptions{})
			if err != nil {
				continue
			}
			for i := range list.Items {
				if u := &list.Items[i]; u.GetDeletionTimestamp() != nil {
					_ = unstructured.SetNestedSlice(u.Object, nil, "spec", "finalizers")
					_, _ = in.Update(ctx, u, metav1.UpdateOptions{}, "finalize") // it may have gone
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
}

// until the run comes to its end, however often it is killed on the way.
func (s *site) until(path, of string, one func(*Journal) error) (kills int) {
	s.t.Helper()
	for {
		j, err := OpenJournal(path, of, journal.Make)
		fatal(s.t, err)
		err = one(j)
		fatal(s.t, j.Close())
		if !errors.Is(err, errKilled) {
			fatal(s.t, err)
			return kills
		}
		kills++
	}
}

// A run that is killed before every step comes to the same end; so does the way back.
func TestKilledAtEveryStep(t *testing.T) {
	c, err := Open(kube.Start(t))
	fatal(t, err)
	s := &site{c, t}
	s.finishNamespaces()
	text, err := os.ReadFile("testdata/calico.yaml")
	fatal(t, err)
	s.make(definitions + "---" + strings.NewReplacer("desiredNumberScheduled: 2, numberReady: 1", "desiredNumberScheduled: 0, numberReady: 0", ", example.com/mine", "").Replace(string(text)))
	before := s.find(Options{})
	path := filepath.Join(t.TempDir(), "cleanup.db")
	j, err := OpenJournal(path, "cleanup", journal.Make)
	fatal(t, err)
	if err := c.Begin(j, before, Orders{}); !errors.Is(err, ErrOrphaned) || !strings.Contains(err.Error(), "Installation/default (tigera.io/operator-cleanup)") {
		t.Errorf("with orphaned finalizers: %v", err)
	}
	if named := s.find(Options{Named: []string{"ClusterRole/calico-readers"}}); len(named.Left()) != len(before.Left())+1 {
		t.Errorf("named: %d, not named: %d", len(named.Left()), len(before.Left()))
	}
	running := &Inventory{Things: append([]Thing{{Kind: "DaemonSet", Name: "calico-node", Running: "1 of 1 ready"}}, before.Things...)}
	if err := c.Begin(j, running, Orders{ForceFinalizers: true}); !errors.Is(err, ErrRunning) {
		t.Errorf("while Calico runs: %v", err)
	}
	fatal(t, c.Begin(j, before, Orders{ForceFinalizers: true}))
	if _, err := OpenJournal(path, "cleanup", journal.Make); !errors.Is(err, journal.ErrBusy) {
		t.Errorf("two at once: %v", err)
	}
	fatal(t, j.Close())

	k := &killer{map[string]bool{}}
	c.fault = k.before
	var said []string
	say := func(text string) { said = append(said, text) }
	kills := s.until(path, "cleanup", func(j *Journal) error { return c.Continue(t.Context(), j, say) })
	c.fault = nil
	after := s.find(Options{})
	if left := after.Left(); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
	if len(said) != len(before.Left()) {
		t.Errorf("%d objects, said %d times:\n%s", len(before.Left()), len(said), strings.Join(said, "\n"))
	}
	t.Logf("%d objects removed, killed %d times", len(before.Left()), kills)
	for _, name := range []string{"reads-calico", "calico-readers"} {
		if _, err := c.dynamic.Resource(at("rbac.authorization.k8s.io/v1", "clusterroles")).Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			t.Errorf("what is not Calico's: %v", err)
		}
	}

	*k = killer{map[string]bool{}}
	c.fault = k.before
	kills = s.until(path, "cleanup", func(j *Journal) error { return c.Restore(t.Context(), j, say) })
	c.fault = nil
	t.Logf("restored, killed %d times", kills)
	plain := func(i *Inventory) string { // what was being deleted is made again, and nobody deletes it
		return strings.ReplaceAll(i.shown(), " [terminating]", "")
	}
	if diff := cmp.Diff(plain(before), plain(s.find(Options{}))); diff != "" {
		t.Error(diff)
	}
}

// What a controller that still runs has to take away is waited for, and not taken away; what was made anew is not what was planned.
func TestRunStops(t *testing.T) {
	c, err := Open(kube.Start(t))
	fatal(t, err)
	s := &site{c, t}
	c.patience = 300 * time.Millisecond
	s.make(definitions + `---
apiVersion: crd.projectcalico.org/v1
kind: Tier
metadata: {name: others, finalizers: [example.com/mine]}
`)
	path := filepath.Join(t.TempDir(), "cleanup.db")
	j, err := OpenJournal(path, "cleanup", journal.Make)
	fatal(t, err)
	defer j.Close()
	fatal(t, c.Begin(j, s.find(Options{}), Orders{ForceFinalizers: true}))
	tiers := c.dynamic.Resource(at("crd.projectcalico.org/v1", "tiers"))
	if err := c.Continue(t.Context(), j, func(string) {}); err == nil || !strings.Contains(err.Error(), "example.com/mine") {
		t.Errorf("another's finalizer: %v", err)
	}
	u, err := tiers.Get(t.Context(), "others", metav1.GetOptions{})
	fatal(t, err)
	if fmt.Sprint(u.GetFinalizers()) != "[example.com/mine]" {
		t.Errorf("another's finalizer has become %v", u.GetFinalizers())
	}
	if err := c.Begin(j, s.find(Options{}), Orders{}); !errors.Is(err, journal.ErrOther) {
		t.Errorf("a run that has not ended was forgotten: %v", err)
	}
	u.SetFinalizers(nil)
	_, err = tiers.Update(t.Context(), u, metav1.UpdateOptions{})
	fatal(t, err)
	s.make("apiVersion: crd.projectcalico.org/v1\nkind: Tier\nmetadata: {name: others}\n")
	if err := c.Continue(t.Context(), j, func(string) {}); err == nil || !strings.Contains(err.Error(), "made anew") {
		t.Errorf("made anew: %v", err)
	}
	fatal(t, tiers.Delete(t.Context(), "others", metav1.DeleteOptions{}))
	c.patience = time.Minute
	fatal(t, c.Continue(t.Context(), j, func(string) {}))
	if left := s.find(Options{}).Left(); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}

// What only looks like Calico's, or is Calico under another name, is told; what somebody writes while a run is interrupted is saved; and what is put
// back names no owner that has gone.
func TestOthersNames(t *testing.T) {
	c, err := Open(kube.Start(t))
	fatal(t, err)
	s := &site{c, t}
	s.make(definitionOf("crd.projectcalico.org", "v1", "globalnetworkpolicies", "GlobalNetworkPolicy", "Cluster") + `---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: a}
spec: {order: 1}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: calico-node
  ownerReferences:
  - {apiVersion: operator.tigera.io/v1, kind: Installation, name: default, uid: 11111111-1111-4111-8111-111111111111}
  - {apiVersion: v1, kind: Namespace, name: kube-system, uid: 22222222-2222-4222-8222-222222222222}
rules: []
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: acme-lint}
webhooks:
- name: lint.acme.example
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  clientConfig: {service: {namespace: acme, name: lint}}
  rules: [{apiGroups: [projectcalico.org], apiVersions: [v3], operations: [CREATE], resources: [networksets]}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: rke2-canal, namespace: kube-system}
spec:
  selector: {matchLabels: {k8s-app: c}}
  template: {metadata: {labels: {k8s-app: c}}, spec: {containers: [{name: c, image: "registry.example:5000/rancher/hardened-calico:v3@sha256:0"}]}}
status: {desiredNumberScheduled: 3, currentNumberScheduled: 3, numberMisscheduled: 0, numberReady: 3}
---
apiVersion: v1
kind: Pod
metadata: {name: by-hand, namespace: default}
spec: {containers: [{name: c, image: quay.io/calico/node:v3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: renamed, namespace: default}
spec: {hostNetwork: true, containers: [{name: c, image: "mirror/agent:1", env: [{name: FELIX_LOGSEVERITYSCREEN, value: info}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: has-ended, namespace: default}
spec: {containers: [{name: c, image: quay.io/calico/node:v3}]}
status: {phase: Succeeded}
---
apiVersion: v1
kind: Pod
metadata: {name: no-agent, namespace: default}
spec: {containers: [{name: c, image: "tests/agent:1", env: [{name: FELIX_LOGSEVERITYSCREEN, value: info}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: of-another, namespace: kube-system, ownerReferences: [{apiVersion: apps.example/v1, kind: DaemonSet, name: d, uid: 44444444-4444-4444-8444-444444444444, controller: true}]}
spec: {containers: [{name: c, image: quay.io/calico/node:v3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: of-none, namespace: kube-system, ownerReferences: [{apiVersion: apps/v1, kind: DaemonSet, name: d, uid: 33333333-3333-4333-8333-333333333333, controller: true}]}
spec: {containers: [{name: c, image: quay.io/calico/node:v3}]}
`)
	canal, err := c.dynamic.Resource(at("apps/v1", "daemonsets")).Namespace("kube-system").Get(t.Context(), "rke2-canal", metav1.GetOptions{})
	fatal(t, err)
	s.make(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: of-a-set, namespace: kube-system, ownerReferences: [{apiVersion: apps/v1, kind: DaemonSet, name: rke2-canal, uid: %s, controller: true}]}
spec: {containers: [{name: c, image: quay.io/calico/node:v3}]}
`, canal.GetUID()))
	i := s.find(Options{})
	var running []string
	for _, t := range i.Running() {
		running = append(running, t.String())
	}
	if want := []string{"DaemonSet/kube-system/rke2-canal", "Pod/default/by-hand", "Pod/default/renamed", "Pod/kube-system/of-another", "Pod/kube-system/of-none"}; !slices.Equal(running, want) {
		t.Errorf("running: %v", running)
	}
	path := filepath.Join(t.TempDir(), "cleanup.db")
	j, err := OpenJournal(path, "cleanup", journal.Make)
	fatal(t, err)
	if err := c.Begin(j, i, Orders{}); !errors.Is(err, ErrRunning) {
		t.Errorf("beside a Calico of another name: %v", err)
	}
	for _, t := range i.Left() {
		if t.Name == "acme-lint" || t.Name == "rke2-canal" {
			s.t.Errorf("%s would go", &t)
		}
	}
	if named := s.find(Options{Named: []string{"ValidatingWebhookConfiguration/acme-lint"}}); len(named.Left()) != len(i.Left())+1 {
		t.Errorf("the webhook is named, and stays")
	}
	way, err := c.InTheWay(t.Context())
	fatal(t, err)
	if len(way) > 0 {
		t.Errorf("in the way: %v", way)
	}
	fatal(t, c.dynamic.Resource(at("apps/v1", "daemonsets")).Namespace("kube-system").Delete(t.Context(), "rke2-canal", metav1.DeleteOptions{}))
	for name, in := range map[string]string{"by-hand": "default", "renamed": "default", "of-none": "kube-system", "of-another": "kube-system", "of-a-set": "kube-system"} {
		fatal(t, c.dynamic.Resource(at("v1", "pods")).Namespace(in).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}

	fatal(t, c.Begin(j, s.find(Options{}), Orders{}))
	c.fault = func(before string) error {
		if before == "deleting GlobalNetworkPolicy/a" {
			return errKilled
		}
		return nil
	}
	if err := c.Continue(t.Context(), j, func(string) {}); !errors.Is(err, errKilled) {
		t.Fatalf("killed: %v", err)
	}
	c.fault = nil
	policies := c.dynamic.Resource(at("crd.projectcalico.org/v1", "globalnetworkpolicies"))
	_, err = policies.Patch(t.Context(), "a", "application/merge-patch+json", []byte(`{"spec":{"order":2}}`), metav1.PatchOptions{})
	fatal(t, err)
	fatal(t, c.Continue(t.Context(), j, func(string) {}))
	fatal(t, c.Restore(t.Context(), j, func(string) {}))
	u, err := policies.Get(t.Context(), "a", metav1.GetOptions{})
	fatal(t, err)
	if order, _, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "order"); order != int64(2) {
		t.Errorf("what was written meanwhile came back as %v", order)
	}
	role, err := c.dynamic.Resource(at("rbac.authorization.k8s.io/v1", "clusterroles")).Get(t.Context(), "calico-node", metav1.GetOptions{})
	fatal(t, err)
	if owners := role.GetOwnerReferences(); len(owners) != 1 || owners[0].Kind != "Namespace" {
		t.Errorf("owners of what was put back: %v", owners)
	}
	fatal(t, j.Close())
}

// What has a name that others may give too is Calico's in its own namespaces alone; and what its CNI plugin needs stays as long as a pod has its network.
func TestOthersAndThePlugin(t *testing.T) {
	c, err := Open(kube.Start(t))
	fatal(t, err)
	s := &site{c, t}
	s.make(definitionOf("crd.projectcalico.org", "v1", "ippools", "IPPool", "Cluster") + "---" + definitionOf("crd.projectcalico.org", "v1", "globalnetworkpolicies", "GlobalNetworkPolicy", "Cluster") + `---
apiVersion: v1
kind: Secret
metadata: {name: node-certs, namespace: kube-system}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: csi-node-driver, namespace: kube-system}
spec:
  selector: {matchLabels: {k8s-app: c}}
  template: {metadata: {labels: {k8s-app: c}}, spec: {containers: [{name: c, image: "registry.example/storage/csi:1"}]}}
status: {desiredNumberScheduled: 3, currentNumberScheduled: 3, numberMisscheduled: 0, numberReady: 3}
---
apiVersion: v1
kind: Namespace
metadata: {name: calico-system}
---
apiVersion: v1
kind: Secret
metadata: {name: node-certs, namespace: calico-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: calico-cni-plugin}
rules: []
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: default.a}
`)
	list := func(o Options) (left, kept []string) {
		for _, t := range s.find(o).Things {
			switch {
			case t.Kept == "":
				left = append(left, t.String())
			case strings.Contains(t.Kept, "CNI plugin needs it, whose network pod default/web has"):
				kept = append(kept, t.String())
			}
		}
		return left, kept
	}
	all := []string{"GlobalNetworkPolicy/default.a", "ClusterRole/calico-cni-plugin", "Secret/calico-system/node-certs", "Namespace/calico-system",
		"CustomResourceDefinition/globalnetworkpolicies.crd.projectcalico.org", "CustomResourceDefinition/ippools.crd.projectcalico.org"}
	if left, kept := list(Options{}); !slices.Equal(left, all) || kept != nil {
		t.Errorf("without pods of the plugin: %v, and kept: %v", left, kept)
	}
	s.make(`
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, annotations: {cni.projectcalico.org/podIP: 10.0.0.7/32}}
spec: {containers: [{name: c, image: web}]}
`)
	plugins := []string{"ClusterRole/calico-cni-plugin", "Namespace/calico-system", "CustomResourceDefinition/ippools.crd.projectcalico.org"}
	if left, kept := list(Options{}); len(left) != len(all)-len(plugins) || !slices.Equal(kept, plugins) {
		t.Errorf("beside a pod of the plugin: %v, and kept: %v", left, kept)
	}
	if left, kept := list(Options{Named: plugins}); len(left) != len(all) || kept != nil {
		t.Errorf("named: %v, and kept: %v", left, kept)
	}
	if i, o := s.find(Options{}), (Options{Named: []string{"ClusterRole/calico-cni-plugin", "ClusterRole/none"}}); !slices.Equal(i.Nothing(o), []string{"ClusterRole/none"}) {
		t.Errorf("names nothing: %v", i.Nothing(o))
	}
}
