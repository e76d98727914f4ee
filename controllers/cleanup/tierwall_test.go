package cleanup

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/tierwall/tierwall/controllers/crds"
	"github.com/tierwall/tierwall/controllers/journal"
	"github.com/tierwall/tierwall/test/kube"
)

const chart = "../../config/helm/tierwall/"

// manifest is what kubectl installs.
func manifest(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../config/deploy/tierwall.yaml")
	fatal(t, err)
	return string(text)
}

var (
	kindLine = regexp.MustCompile(`(?m)^kind: (\w+)$`)
	nameLine = regexp.MustCompile(`(?m)^metadata:\n  name: (tierwall[a-z-]*|[a-z-]+\.tierwall\.io)$`)
)

// Whatever the chart can install is looked for, under its name.
func TestAllOfTheChartIsOurs(t *testing.T) {
	templates, err := filepath.Glob(chart + "templates/*.yaml")
	fatal(t, err)
	files, err := filepath.Glob(chart + "files/*.yaml")
	fatal(t, err)
	found := 0
	for _, file := range append(templates, files...) {
		text, err := os.ReadFile(file)
		fatal(t, err)
		for _, document := range strings.Split(string(text), "\n---\n") {
			kind, name := kindLine.FindStringSubmatch(document), nameLine.FindStringSubmatch(document)
			if kind == nil || name == nil || kind[1] == "Secret" { // which has no label where the controller has made it anew
				continue
			}
			found++
			u := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": name[1]}}}
			if !slices.ContainsFunc(ourPlaces, func(p place) bool { return p.kind == kind[1] && p.is(u) != "" }) {
				t.Errorf("%s: %s/%s is not looked for", file, kind[1], name[1])
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d objects were found in the chart", found)
	}
}

// agents plays the cluster's part, and the agents': pods of the DaemonSet on each node of these, which report while they run and take their report
// away when they are told to remove the table.
func (s *site) agents(nodes ...string) {
	ctx, stop := context.WithCancel(s.t.Context())
	var done sync.WaitGroup
	s.t.Cleanup(func() { stop(); done.Wait() })
	done.Go(func() {
		for seen := ""; ctx.Err() == nil; {
			ds, _ := s.dynamic.Resource(at("apps/v1", "daemonsets")).Namespace(ourSpace).Get(ctx, "tierwall-agent", metav1.GetOptions{})
			now := "none"
			if ds != nil && ds.GetUID() != "" {
				now = fmt.Sprint(ds.GetUID(), ds.GetGeneration())
			}
			if now != seen && s.follow(ctx, ds, nodes) == nil {
				seen = now
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
}

func (s *site) follow(ctx context.Context, ds *unstructured.Unstructured, nodes []string) error {
	pods, reports := s.dynamic.Resource(at("v1", "pods")).Namespace(ourSpace), s.dynamic.Resource(at("tierwall.io/v1alpha1", "nodereports"))
	now := int64(0)
	if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{LabelSelector: ourLabel}); err != nil {
		return err
	}
	if ds == nil || ds.GetUID() == "" {
		return nil
	}
	args, _, _ := unstructured.NestedStringSlice(slice(ds.Object, "spec", "template", "spec", "containers")[0], "args")
	removes := slices.Contains(args, "--remove")
	for _, node := range nodes {
		pod := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Pod",
			"metadata": map[string]any{"name": "tierwall-agent-" + node, "labels": map[string]any{"app.kubernetes.io/name": "tierwall", "app.kubernetes.io/component": "agent"},
				"ownerReferences": []any{map[string]any{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": ds.GetName(), "uid": string(ds.GetUID()), "controller": true}}},
			"spec": map[string]any{"nodeName": node, "containers": []any{map[string]any{"name": "agent", "image": "example/tierwall", "args": anys(args)}}}}}
		if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return err
		}
		state, do := `"running":{}`, s.report
		if removes {
			state, do = `"terminated":{"exitCode":0}`, func(ctx context.Context, in dynamic.ResourceInterface, node string) error {
				return in.Delete(ctx, node, metav1.DeleteOptions{})
			}
		}
		_ = do(ctx, reports, node) // it is there already, or gone
		patch := fmt.Sprintf(`{"status":{"containerStatuses":[{"name":"agent","image":"i","imageID":"i","ready":false,"restartCount":0,"state":{%s}}]}}`, state)
		if _, err := pods.Patch(ctx, pod.GetName(), types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
			return err
		}
	}
	patch := fmt.Sprintf(`{"status":{"observedGeneration":%d,"desiredNumberScheduled":%d,"currentNumberScheduled":0,"numberMisscheduled":0,"numberReady":0}}`, ds.GetGeneration(), len(nodes))
	_, err := s.dynamic.Resource(at("apps/v1", "daemonsets")).Namespace(ourSpace).Patch(ctx, ds.GetName(), types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	return err
}

func anys(words []string) (out []any) {
	for _, w := range words {
		out = append(out, w)
	}
	return out
}

func (s *site) report(ctx context.Context, in dynamic.ResourceInterface, node string) error {
	_, err := in.Create(ctx, &unstructured.Unstructured{Object: map[string]any{"apiVersion": "tierwall.io/v1alpha1", "kind": "NodeReport", "metadata": map[string]any{"name": node}}}, metav1.CreateOptions{})
	return err
}

func node(name, ready string) string {
	return fmt.Sprintf("\n---\napiVersion: v1\nkind: Node\nmetadata: {name: %s}\nstatus: {conditions: [{type: Ready, status: %q}]}\n", name, ready)
}

// reported waits until each of these nodes reports, as its agent does soon.
func (s *site) reported(nodes ...string) {
	s.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		list, err := s.dynamic.Resource(at("tierwall.io/v1alpha1", "nodereports")).List(s.t.Context(), metav1.ListOptions{})
		if err == nil && len(list.Items) == len(nodes) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("nodes do not report: %v", err)
		}
	}
}

func (s *site) ours(o Ours) *Inventory {
	s.t.Helper()
	i, err := s.FindOurs(s.t.Context(), o)
	fatal(s.t, err)
	return i
}

// policy is what people have written, and what our controller has done to it.
const policy = `
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: default, finalizers: [projectcalico.org/tier-controller]}
spec: {order: 1000000}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security, finalizers: [projectcalico.org/tier-controller]}
spec: {order: 10}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.web}
spec: {tier: security, selector: "app == 'web'"}
---
apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: security.later}
spec: {tier: security, selector: "app == 'web'"}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n1}
spec: {node: n1, interfaceName: "*"}
`

// others have what looks like ours.
const others = `
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: tierwall-agent, namespace: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: mine, namespace: shop, labels: {app.kubernetes.io/name: tierwall}}
`

func lease(namespace string) string {
	return "\n---\napiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: tierwall-controller, namespace: " + namespace + "}\n"
}

// releaseOf a chart, as Helm remembers it.
func releaseOf(t *testing.T, chart string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	fatal(t, errors.Join(json.NewEncoder(z).Encode(map[string]any{"name": "tw", "chart": map[string]any{"metadata": map[string]any{"name": chart}}}), z.Close()))
	twice := base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString(b.Bytes())))
	return "\n---\napiVersion: v1\nkind: Secret\ntype: helm.sh/release.v1\nmetadata: {name: sh.helm.release.v1.tw.v1, namespace: tierwall-system, labels: {owner: helm, name: tw}}\n" +
		"data: {release: " + twice + "}\n"
}

// annotated as Helm annotates what it makes.
func annotated(text string) string {
	return strings.ReplaceAll(text, "\nmetadata:\n", "\nmetadata:\n  annotations: {meta.helm.sh/release-name: tw, meta.helm.sh/release-namespace: tierwall-system}\n")
}

// Uninstalled with everything, killed before every step, nothing of it is left and nothing of others is gone; and it comes back, with all policy.
func TestUninstallKilledAtEveryStep(t *testing.T) {
	c, err := Open(kube.Start(t))
	fatal(t, err)
	s := &site{c, t}
	s.finishNamespaces()
	s.make(annotated(manifest(t)) + others + lease(ourSpace) + releaseOf(t, "tierwall") + node("n1", "True") + node("n2", "True") + policy)
	s.agents("n1", "n2")
	s.reported("n1", "n2")

	before := s.ours(Ours{CRDs: true})
	if before.Enforced.Policies["globalnetworkpolicies.projectcalico.org"] != 1 || before.Enforced.HostEndpoints != 1 || len(before.Enforced.Nodes) != 2 {
		t.Errorf("enforced is %+v", before.Enforced)
	}
	if *update {
		fatal(t, os.WriteFile("testdata/tierwall.golden", []byte(before.shown()), 0o644))
	}
	want, err := os.ReadFile("testdata/tierwall.golden")
	fatal(t, err)
	if diff := cmp.Diff(string(want), before.shown()); diff != "" {
		t.Error(diff)
	}
	if err := before.Safe(Orders{}); !errors.Is(err, ErrOrphaned) {
		t.Errorf("finalizers: %v", err)
	}

	path := filepath.Join(t.TempDir(), "uninstall.db")
	j, err := OpenJournal(path, "uninstall", journal.Make)
	fatal(t, err)
	fatal(t, c.Begin(j, before, Orders{ForceFinalizers: true}))
	fatal(t, j.Close())
	k := &killer{map[string]bool{}}
	c.fault = k.before
	var said []string
	say := func(text string) { said = append(said, text) }
	kills := s.until(path, "uninstall", func(j *Journal) error { return c.Continue(t.Context(), j, say) })
	c.fault = nil
	t.Logf("%d objects removed, killed %d times", len(before.Left()), kills)
	if left := s.ours(Ours{CRDs: true}); len(left.Things) > 0 || len(left.Enforced.Nodes) > 0 {
		t.Errorf("left are %s, nodes %+v", left.shown(), left.Enforced.Nodes)
	}
	order := []string{"DaemonSet/tierwall-system/tierwall-agent deleted", "ValidatingWebhookConfiguration/tierwall-webhook deleted", "Deployment/tierwall-system/tierwall-controller deleted",
		"GlobalNetworkPolicy/security.web deleted", "Tier/default deleted", "ServiceAccount/tierwall-system/tierwall-agent deleted", "Namespace/tierwall-system deleted",
		"CustomResourceDefinition/tiers.projectcalico.org deleted"}
	for i, at := 0, -1; i < len(order); i++ {
		now := slices.Index(said, order[i])
		if now <= at {
			t.Errorf("%s is not said after %s", order[i], order[max(i-1, 0)])
		}
		at = now
	}
	for _, name := range []string{"tierwall-agent", "mine"} {
		if _, err := c.dynamic.Resource(at("v1", "serviceaccounts")).Namespace("shop").Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			t.Errorf("what is another's: %v", err)
		}
	}
	if _, err := c.dynamic.Resource(at("apiextensions.k8s.io/v1", "customresourcedefinitions")).Get(t.Context(), shared[0], metav1.GetOptions{}); err != nil {
		t.Errorf("another project's CRD: %v", err)
	}

	*k = killer{map[string]bool{}}
	c.fault = k.before
	kills = s.until(path, "uninstall", func(j *Journal) error { return c.Restore(t.Context(), j, say) })
	c.fault = nil
	t.Logf("restored, killed %d times", kills)
	s.reported("n1", "n2")
	if diff := cmp.Diff(before.shown(), s.ours(Ours{CRDs: true}).shown()); diff != "" {
		t.Error(diff)
	}
}

// Without CRDs policy stays, and can be deleted; the way can be turned back in the middle. What others have in the namespace keeps it, and a release
// of another chart stays in Helm's memory.
func TestUninstallKeepsPolicy(t *testing.T) {
	c, err := Open(kube.Start(t))
	fatal(t, err)
	s := &site{c, t}
	s.make(annotated(manifest(t)) + releaseOf(t, "platform") + node("n1", "True") + node("n2", "True") + policy)
	s.agents("n1", "n2")
	s.reported("n1", "n2")
	s.make("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mine, namespace: tierwall-system}\n")
	i := s.ours(Ours{})
	for _, want := range []string{
		"objects: Tier/security [way: stays, without its finalizers] [orphaned: projectcalico.org/tier-controller]\n",
		"accounts: Secret/tierwall-system/sh.helm.release.v1.tw.v1 [kept: it is of chart platform, which has more than Tierwall",
		"namespaces: Namespace/tierwall-system [way: deleted if nothing else is in it] [kept: in it there is ",
		"ConfigMap/tierwall-system/mine",
		"definitions: CustomResourceDefinition/tiers.projectcalico.org [kept: it stays with its objects, unless CRDs are to go]\n",
	} {
		if !strings.Contains(i.shown(), want) {
			t.Errorf("no %q in\n%s", want, i.shown())
		}
	}
	path := filepath.Join(t.TempDir(), "uninstall.db")
	j, err := OpenJournal(path, "uninstall", journal.Make)
	fatal(t, err)
	defer j.Close()
	daemonSet := func() *unstructured.Unstructured {
		ds, err := c.dynamic.Resource(at("apps/v1", "daemonsets")).Namespace(ourSpace).Get(t.Context(), "tierwall-agent", metav1.GetOptions{})
		fatal(t, err)
		return ds
	}
	was := daemonSet()
	fatal(t, c.Begin(j, i, Orders{ForceFinalizers: true}))
	c.fault = func(step string) error {
		if step == "noting that the tables are out" {
			return errKilled
		}
		return nil
	}
	if err := c.Continue(t.Context(), j, func(string) {}); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	c.fault = nil
	fatal(t, c.Restore(t.Context(), j, func(string) {}))
	if diff := cmp.Diff(was.Object["spec"], daemonSet().Object["spec"]); diff != "" {
		t.Errorf("turned back, the agents are not as they were:\n%s", diff)
	}
	s.reported("n1", "n2")

	fatal(t, c.Begin(j, s.ours(Ours{}), Orders{ForceFinalizers: true}))
	fatal(t, c.Continue(t.Context(), j, func(string) {}))
	if left := s.ours(Ours{}).Left(); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
	tiers := c.dynamic.Resource(at("projectcalico.org/v3", "tiers"))
	fatal(t, tiers.Delete(t.Context(), "security", metav1.DeleteOptions{}))
	if _, err := tiers.Get(t.Context(), "security", metav1.GetOptions{}); err == nil {
		t.Error("a tier that stayed cannot be deleted")
	}
}

// A node that does not answer is named, before anything is changed where that is known, and by the run where it is not.
func TestUninstallWaitsForNodes(t *testing.T) {
	c, err := Open(kube.Start(t))
	fatal(t, err)
	s := &site{c, t}
	s.make(manifest(t) + node("n1", "True") + node("n2", "False"))
	s.agents("n1") // that of n2 is as dead as the node
	fatal(t, s.report(t.Context(), c.dynamic.Resource(at("tierwall.io/v1alpha1", "nodereports")), "n2"))
	s.reported("n1", "n2")
	if err := s.ours(Ours{}).Safe(Orders{ForceFinalizers: true}); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), "node n2 would keep its table: it is not ready") {
		t.Errorf("a dead node: %v", err)
	}
	i := s.ours(Ours{Without: []string{"n2"}})
	fatal(t, i.Safe(Orders{ForceFinalizers: true}))
	j, err := OpenJournal(filepath.Join(t.TempDir(), "uninstall.db"), "uninstall", journal.Make)
	fatal(t, err)
	defer j.Close()
	c.patience = time.Second
	fatal(t, c.Begin(j, i, Orders{ForceFinalizers: true}))
	err = c.Continue(t.Context(), j, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "no answer came yet from n2 (it is not ready") {
		t.Errorf("a node that does not answer: %v", err)
	}
	if _, err := c.dynamic.Resource(at("v1", "serviceaccounts")).Namespace(ourSpace).Get(t.Context(), "tierwall-agent", metav1.GetOptions{}); err != nil {
		t.Errorf("it went on: %v", err)
	}
	// somebody deletes the agents meanwhile: that is no answer either
	fatal(t, c.dynamic.Resource(at("apps/v1", "daemonsets")).Namespace(ourSpace).Delete(t.Context(), "tierwall-agent", metav1.DeleteOptions{}))
	if err := c.Continue(t.Context(), j, func(string) {}); err == nil || !strings.Contains(err.Error(), "no answer came yet from n2") {
		t.Errorf("agents are deleted, and the table is not out: %v", err)
	}
	fatal(t, j.GoWithout("n2"))
	err = c.Continue(t.Context(), j, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "Namespace/tierwall-system does not go") { // nobody finishes namespaces here
		t.Error(err)
	}
	if left := s.ours(Ours{Without: []string{"n2"}}); len(left.Left()) != 1 || len(left.Enforced.Nodes) != 1 {
		t.Errorf("left are %s, nodes %+v", left.shown(), left.Enforced.Nodes)
	}
}

// What Calico may read stays, and what was Calico's is put back.
func TestUninstallBesideCalico(t *testing.T) {
	config := kube.Start(t)
	c, err := Open(config)
	fatal(t, err)
	s := &site{c, t}
	definitions := c.dynamic.Resource(at("apiextensions.k8s.io/v1", "customresourcedefinitions"))
	const name = "globalnetworksets.projectcalico.org"
	u, err := definitions.Get(t.Context(), name, metav1.GetOptions{})
	fatal(t, err)
	u.SetAnnotations(nil) // Calico's own
	unstructured.RemoveNestedField(slice(u.Object, "spec", "versions")[0], "additionalPrinterColumns")
	fatal(t, unstructured.SetNestedField(u.Object, "gnetset", "spec", "names", "singular"))
	_, err = definitions.Update(t.Context(), u, metav1.UpdateOptions{})
	fatal(t, err)
	taker, err := crds.Open(config)
	fatal(t, err)
	fatal(t, taker.Apply(t.Context(), false, func(string, string) {}))

	s.make("apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: theirs}\nspec: {nets: [192.0.2.0/24]}\n---" + `
apiVersion: apps/v1
kind: Deployment
metadata: {name: calico-kube-controllers, namespace: kube-system}
spec:
  replicas: 1
  selector: {matchLabels: {k8s-app: calico-kube-controllers}}
  template: {metadata: {labels: {k8s-app: calico-kube-controllers}}, spec: {containers: [{name: c, image: example/controllers}]}}
`)
	if err := s.ours(Ours{CRDs: true}).Safe(Orders{}); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), "may be read by Deployment/kube-system/calico-kube-controllers, which runs") {
		t.Errorf("while Calico runs: %v", err)
	}
	fatal(t, s.ours(Ours{}).Safe(Orders{}))
	fatal(t, c.dynamic.Resource(at("apps/v1", "deployments")).Namespace("kube-system").Delete(t.Context(), "calico-kube-controllers", metav1.DeleteOptions{}))

	j, err := OpenJournal(filepath.Join(t.TempDir(), "uninstall.db"), "uninstall", journal.Make)
	fatal(t, err)
	defer j.Close()
	i := s.ours(Ours{CRDs: true})
	if !strings.Contains(i.shown(), "definitions: CustomResourceDefinition/"+name+" [way: put back as it was]\n") || strings.Contains(i.shown(), "theirs") {
		t.Errorf("what was taken over:\n%s", i.shown())
	}
	fatal(t, c.Begin(j, i, Orders{ForceFinalizers: true}))
	fatal(t, c.Continue(t.Context(), j, func(string) {}))
	u, err = definitions.Get(t.Context(), name, metav1.GetOptions{})
	fatal(t, err)
	if singular := text(u, "spec", "names", "singular"); singular != "gnetset" || u.GetAnnotations()[crds.SchemaAnnotation] != "" {
		t.Errorf("it is not as it was: %s, %v", singular, u.GetAnnotations())
	}
	if _, err := c.dynamic.Resource(at("projectcalico.org/v3", "globalnetworksets")).Get(t.Context(), "theirs", metav1.GetOptions{}); err != nil {
		t.Errorf("an object of it: %v", err)
	}
	fatal(t, c.Restore(t.Context(), j, func(string) {}))
	u, err = definitions.Get(t.Context(), name, metav1.GetOptions{})
	fatal(t, err)
	if u.GetAnnotations()[crds.ReplacedAnnotation] == "" || text(u, "spec", "names", "singular") == "gnetset" {
		t.Errorf("it is not ours again: %v", u.GetAnnotations())
	}
}
