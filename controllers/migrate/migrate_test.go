package migrate

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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/journal"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/test/kube"
)

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bench is a cluster with Calico's objects.
type bench struct {
	*Site
	t    *testing.T
	path string // of the journal
	said []string
}

var config *rest.Config

func TestMain(m *testing.M) {
	c, stop, err := kube.Serve()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	config = c
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// begin with a cluster in which neither Tierwall nor Calico ever was.
func begin(t *testing.T) *bench {
	t.Helper()
	k, err := store.OpenKube(config)
	fatal(t, err)
	s, err := Open(config, k)
	fatal(t, err)
	b := &bench{Site: s, t: t, path: filepath.Join(t.TempDir(), "journal.db")}
	for _, r := range []struct{ resource, namespace, name string }{
		{"apiregistration.k8s.io/v1/apiservices", "", "v3.projectcalico.org"}, {"v1/services", "calico-apiserver", "calico-api"},
		{"admissionregistration.k8s.io/v1/validatingwebhookconfigurations", "", "calico-webhooks"},
		{"apps/v1/daemonsets", "kube-system", "calico-node"}, {"apps/v1/daemonsets", "kube-system", "azure-npm"}, {"apps/v1/deployments", "tigera-operator", "tigera-operator"},
	} {
		n := strings.LastIndex(r.resource, "/")
		err := b.dynamic.Resource(at(r.resource[:n], r.resource[n+1:])).Namespace(r.namespace).Delete(t.Context(), r.name, metav1.DeleteOptions{})
		if !apierrors.IsNotFound(err) {
			fatal(t, err)
		}
	}
	for _, version := range []string{Stored, Native} {
		in := b.dynamic.Resource(at(version, "tiers"))
		list, err := in.List(t.Context(), metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		fatal(t, err)
		for _, u := range list.Items { // whose finalizers nobody takes away
			_, err := in.Patch(t.Context(), u.GetName(), "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
			fatal(t, err)
		}
	}
	b.withoutCRDs()
	return b
}

// definition of a kind of Calico's, as small as can be.
func definition(group, version, plural, kind, scope string) string {
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

var plurals = map[string]string{
	"CustomResourceDefinition": "customresourcedefinitions", "ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings", "APIService": "apiservices", "ValidatingWebhookConfiguration": "validatingwebhookconfigurations", "Deployment": "deployments", "Service": "services", "DaemonSet": "daemonsets", "ConfigMap": "configmaps", "Namespace": "namespaces",
	"Tier": "tiers", "GlobalNetworkPolicy": "globalnetworkpolicies", "NetworkPolicy": "networkpolicies", "GlobalNetworkSet": "globalnetworksets", "HostEndpoint": "hostendpoints",
	"FelixConfiguration": "felixconfigurations", "KubeControllersConfiguration": "kubecontrollersconfigurations", "IPPool": "ippools", "APIServer": "apiservers",
}

func definitions(group, version string) string {
	var all []string
	for _, kind := range []string{"Tier", "GlobalNetworkPolicy", "GlobalNetworkSet", "HostEndpoint", "FelixConfiguration", "KubeControllersConfiguration", "IPPool"} {
		all = append(all, definition(group, version, plurals[kind], kind, "Cluster"))
	}
	return strings.Join(append(all, definition(group, version, "networkpolicies", "NetworkPolicy", "Namespaced")), "---")
}

// each object of a text of YAML.
func each(t testing.TB, text string, do func(u *unstructured.Unstructured)) {
	t.Helper()
	for _, part := range strings.Split(text, "\n---") {
		u := &unstructured.Unstructured{}
		fatal(t, yaml.Unmarshal([]byte(strings.TrimPrefix(part, "---")), &u.Object))
		if len(u.Object) > 0 {
			do(u)
		}
	}
}

// make objects, as soon as their kinds are served.
func (b *bench) make(text string) {
	b.t.Helper()
	each(b.t, text, func(u *unstructured.Unstructured) {
		in := b.dynamic.Resource(at(u.GetAPIVersion(), plurals[u.GetKind()])).Namespace(u.GetNamespace())
		fatal(b.t, wait.PollUntilContextTimeout(b.t.Context(), 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			_, err := in.Create(ctx, u, metav1.CreateOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) && u.GetKind() == "APIService" {
				return false, nil
			}
			return err == nil || apierrors.IsAlreadyExists(err) && u.GetKind() == "Namespace", err
		}))
	})
}

// withoutCRDs is without Calico's and ours, and all their objects.
func (b *bench) withoutCRDs() {
	b.t.Helper()
	in := b.dynamic.Resource(at("apiextensions.k8s.io/v1", "customresourcedefinitions"))
	fatal(b.t, wait.PollUntilContextTimeout(b.t.Context(), 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		list, err := in.List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		left := 0
		for _, u := range list.Items {
			if strings.HasSuffix(u.GetName(), ".projectcalico.org") || strings.HasSuffix(u.GetName(), ".tierwall.io") || strings.HasSuffix(u.GetName(), ".tigera.io") {
				left++
				if err := in.Delete(ctx, u.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
					return false, err
				}
			}
		}
		return left == 0, nil
	}))
}

// hide ours behind a server of Calico's that does not answer, as its operator would.
func (b *bench) hide() {
	b.t.Helper()
	patch := `{"metadata":{"labels":{"kube-aggregator.kubernetes.io/automanaged":null}},"spec":{"insecureSkipTLSVerify":true,"service":{"namespace":"calico-apiserver","name":"calico-api","port":443}}}`
	_, err := b.dynamic.Resource(apiServices).Patch(b.t.Context(), "v3.projectcalico.org", "application/merge-patch+json", []byte(patch), metav1.PatchOptions{})
	fatal(b.t, err)
}

// enforced by Calico's agents, which run.
func (b *bench) enforced() {
	b.t.Helper()
	in := b.dynamic.Resource(at("apps/v1", "daemonsets")).Namespace("kube-system")
	if _, err := in.Get(b.t.Context(), "calico-node", metav1.GetOptions{}); apierrors.IsNotFound(err) {
		b.make(agentsOfCalico)
	}
	patch := `{"status":{"desiredNumberScheduled":1,"currentNumberScheduled":1,"numberMisscheduled":0,"numberReady":1}}`
	_, err := in.Patch(b.t.Context(), "calico-node", "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}, "status")
	fatal(b.t, err)
}

// withoutServer is a cluster whose CRDs serve our group again.
func (b *bench) withoutServer() {
	b.t.Helper()
	fatal(b.t, b.dynamic.Resource(apiServices).Delete(b.t.Context(), "v3.projectcalico.org", metav1.DeleteOptions{}))
	fatal(b.t, wait.PollUntilContextTimeout(b.t.Context(), 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		_, err := b.Store.List(ctx, "Tier", "")
		return err == nil, nil
	}))
}

func (b *bench) planOf(name string, o Options) (*Plan, *Source) {
	b.t.Helper()
	src, err := b.Read(b.t.Context(), name)
	fatal(b.t, err)
	j, err := OpenJournal(b.path, journal.Make)
	fatal(b.t, err)
	p, err := b.Plan(b.t.Context(), src, j, o)
	fatal(b.t, errors.Join(err, j.Close()))
	return p, src
}

// shown is a plan, a line a thing.
func (p *Plan) shown() string {
	var out strings.Builder
	for _, t := range p.InTheWay {
		fmt.Fprintf(&out, "%s goes\n", &t)
	}
	for _, m := range p.Moves {
		fmt.Fprintf(&out, "%s %s", m.Does, m.Ref())
		if m.From != "" {
			fmt.Fprintf(&out, " from %s", m.From)
		}
		out.WriteString("\n")
	}
	for _, l := range p.Left {
		fmt.Fprintf(&out, "left %s: %s\n", l.What, l.Why)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&out, "note %s\n", n)
	}
	for _, r := range p.Refused {
		fmt.Fprintf(&out, "refused %s\n", r)
	}
	return out.String()
}

// with the journal, once.
func (b *bench) with(do func(*Journal) error) error {
	b.t.Helper()
	j, err := OpenJournal(b.path, journal.Make)
	fatal(b.t, err)
	return errors.Join(do(j), j.Close())
}

func (b *bench) say(line string) { b.said = append(b.said, line) }

var errKilled = errors.New("killed")

// killer ends a run before each step once.
type killer map[string]bool

func (k killer) before(step string) error {
	if k[step] {
		return nil
	}
	k[step] = true
	return errKilled
}

// killed runs until the end, however often it is killed on the way.
func (b *bench) killed(one func(*Journal) error) (kills int) {
	b.t.Helper()
	b.fault = killer{}.before
	defer func() { b.fault = nil }()
	for {
		err := b.with(one)
		if !errors.Is(err, errKilled) {
			fatal(b.t, err)
			return kills
		}
		kills++
	}
}

// all that the store has of what people say.
func (b *bench) all() map[string]string {
	b.t.Helper()
	there, err := b.there(b.t.Context())
	fatal(b.t, err)
	out := map[string]string{}
	for ref, o := range there {
		out[ref.String()] = string(said(o))
	}
	return out
}

const storedObjects = `
apiVersion: crd.projectcalico.org/v1
kind: Tier
metadata: {name: security, finalizers: [projectcalico.org/tier-controller]}
spec: {order: 100}
---
apiVersion: crd.projectcalico.org/v1
kind: Tier
metadata: {name: default}
spec: {order: 1000000, defaultAction: Deny}
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: default.a, annotations: {projectcalico.org/metadata: '{"name":"a","labels":{"team":"x"},"annotations":{"why":"asked"},"uid":"f4c0","creationTimestamp":null,"ownerReferences":[{"apiVersion":"crd.projectcalico.org/v1","kind":"Tier","name":"security","uid":"11111111-1111-4111-8111-111111111111"},{"apiVersion":"v1","kind":"ConfigMap","name":"c","uid":"22222222-2222-4222-8222-222222222222"}]}'}}
spec: {tier: default, selector: app == 'a', types: [Ingress], ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: default.by-hand}
spec: {selector: app == 'b', types: [Ingress]}
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: security.guard}
spec: {tier: security, order: 1, selector: all(), types: [Ingress], ingress: [{action: Pass}]}
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: default.ports}
spec: {tier: default, selector: app == 'c', types: [Ingress], ingress: [{action: Allow, destination: {ports: [80]}}]}
---
apiVersion: crd.projectcalico.org/v1
kind: NetworkPolicy
metadata: {name: default.n, namespace: default}
spec: {tier: default, selector: all(), types: [Egress]}
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkSet
metadata: {name: bad, annotations: {projectcalico.org/metadata: '{"labels":{"kind":"bad"}}'}}
spec: {nets: [192.0.2.0/24]}
---
apiVersion: crd.projectcalico.org/v1
kind: HostEndpoint
metadata: {name: n1-eth0}
spec: {node: n1, interfaceName: eth0}
---
apiVersion: crd.projectcalico.org/v1
kind: FelixConfiguration
metadata: {name: default}
spec: {bpfEnabled: false, wireguardEnabled: true, defaultEndpointToHostAction: ACCEPT}
---
apiVersion: crd.projectcalico.org/v1
kind: KubeControllersConfiguration
metadata: {name: default}
spec: {controllers: {node: {syncLabels: Enabled, hostEndpoint: {autoCreate: Disabled}}}}
status: {environmentVars: {}}
---
apiVersion: crd.projectcalico.org/v1
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.0.0.0/16}
`

const staleService = `
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v3.projectcalico.org, labels: {theirs: "yes"}}
spec: {group: projectcalico.org, version: v3, groupPriorityMinimum: 1500, versionPriority: 200, insecureSkipTLSVerify: true, service: {namespace: calico-apiserver, name: calico-api, port: 443}}
`

const deadWebhook = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: calico-webhooks, labels: {theirs: "yes"}}
webhooks:
- name: rbac.projectcalico.org
  failurePolicy: Fail
  sideEffects: None
  admissionReviewVersions: [v1]
  clientConfig: {service: {namespace: kube-system, name: calico-webhooks, path: /rbac}}
  rules: [{apiGroups: [projectcalico.org], apiVersions: [v3], operations: [CREATE, UPDATE, DELETE], resources: ["*"]}]
`

const agentsOfCalico = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: calico-node, namespace: kube-system}
spec:
  selector: {matchLabels: {k8s-app: calico-node}}
  template:
    metadata: {labels: {k8s-app: calico-node}}
    spec: {containers: [{name: calico-node, image: example/node, env: [{name: FELIX_INTERFACEPREFIX, value: azv}, {name: FELIX_HEALTHENABLED, value: "true"}]}]}
`

// Calico with its older CRDs, and an API server of its own that has gone: what is planned, what is refused; a run that is killed before every
// step; what changes in the source afterwards; and the way back, killed as often.
func TestFromStored(t *testing.T) {
	b := begin(t)
	b.make(definitions("crd.projectcalico.org", "v1") + "---" + storedObjects + "---" + staleService + "---" + agentsOfCalico + "---" + deadWebhook)

	const plan = `APIService/v3.projectcalico.org goes
ValidatingWebhookConfiguration/calico-webhooks goes
create Tier/default
create Tier/security
create NetworkPolicy/default/n from NetworkPolicy/default/default.n
create GlobalNetworkPolicy/a from GlobalNetworkPolicy/default.a
create GlobalNetworkPolicy/by-hand from GlobalNetworkPolicy/default.by-hand
create GlobalNetworkPolicy/security.guard
create GlobalNetworkSet/bad
create HostEndpoint/n1-eth0
create FelixConfiguration/default
create KubeControllersConfiguration/default
left GlobalNetworkPolicy/default.ports: spec.ingress[0].destination.ports: Invalid value: rules with numeric port or port range must set protocol to TCP or UDP or SCTP
left IPPool/pods: there is no IPPool here: Tierwall does policy, and leaves pods' addresses to the CNI plugin: use its own tools, calicoctl where that is Calico's
note DaemonSet kube-system/calico-node says FELIX_INTERFACEPREFIX=azv, which no object does: give it to the agents (agent.felix of the chart)
note FelixConfiguration/default: kept, and do nothing here: bpfEnabled, wireguardEnabled
note KubeControllersConfiguration/default: kept, and do nothing here: controllers.node.syncLabels
refused GlobalNetworkPolicy/default.ports cannot be carried: spec.ingress[0].destination.ports: Invalid value: rules with numeric port or port range must set protocol to TCP or UDP or SCTP
`
	p, src := b.planOf("", Options{})
	if src.Name != Stored {
		t.Errorf("the source is %s", src.Name)
	}
	if diff := cmp.Diff(plan, p.shown()); diff != "" {
		t.Errorf("plan:\n%s", diff)
	}
	if err := b.with(func(j *Journal) error { return b.Begin(t.Context(), j, src, p) }); !errors.Is(err, ErrRefused) {
		t.Errorf("a refused plan: %v", err)
	}

	p, src = b.planOf("", Options{Lossy: true})
	fatal(t, b.with(func(j *Journal) error { return b.Begin(t.Context(), j, src, p) }))
	kills := b.killed(func(j *Journal) error { return b.Continue(t.Context(), j, b.say) })
	t.Logf("%d objects, %d CRDs and an APIService, killed %d times", len(p.Moves), len(p.CRDs), kills)
	if len(p.Moves) == 0 || kills < 2*len(p.Moves)+4 {
		t.Errorf("%d kills for %d objects", kills, len(p.Moves))
	}
	got := b.all()
	for ref, want := range map[string]string{
		"GlobalNetworkPolicy/a": `{"metadata":{"labels":{"team":"x"},"annotations":{"why":"asked"}},"spec":{"tier":"default"`,
		"Tier/security":         `{"metadata":{},"spec":{"order":100,"defaultAction":"Deny"}}`,
		"GlobalNetworkSet/bad":  `{"metadata":{"labels":{"kind":"bad"}},"spec":{"nets":["192.0.2.0/24"]}}`,
	} {
		if !strings.HasPrefix(got[ref], want) {
			t.Errorf("%s is %s, want %s", ref, got[ref], want)
		}
	}
	a, err := b.Store.Get(t.Context(), v3.Ref{Kind: "GlobalNetworkPolicy", Name: "a"})
	fatal(t, err)
	if owners := a.GetOwnerReferences(); len(owners) != 1 || owners[0].Kind != "ConfigMap" || owners[0].UID != "22222222-2222-4222-8222-222222222222" {
		t.Errorf("owners: %v", owners)
	}
	if p, _ := b.planOf("", Options{Lossy: true}); !p.Nothing() {
		t.Errorf("afterwards there is still to do:\n%s", p.shown())
	}

	// the source goes on
	in := b.dynamic.Resource(at(Stored, "globalnetworkpolicies"))
	fatal(t, in.Delete(t.Context(), "default.by-hand", metav1.DeleteOptions{}))
	_, err = in.Patch(t.Context(), "security.guard", "application/merge-patch+json", []byte(`{"spec":{"order":2}}`), metav1.PatchOptions{})
	fatal(t, err)
	if p, _ := b.planOf("", Options{Lossy: true}); slices.ContainsFunc(p.Moves, func(m Move) bool { return m.Does == Deletes }) || !strings.Contains(p.shown(), "GlobalNetworkPolicy/by-hand is not in the source any more, and stays: --prune deletes it") {
		t.Errorf("unasked it deletes:\n%s", p.shown())
	}
	p, src = b.planOf("", Options{Lossy: true, Prune: true})
	for _, m := range p.Moves {
		if want := map[string]Does{"GlobalNetworkPolicy/security.guard": Replaces, "GlobalNetworkPolicy/by-hand": Deletes}[m.Ref().String()]; want != "" && m.Does != want || want == "" && m.Does != Unchanged {
			t.Errorf("again: %s %s", m.Does, m.Ref())
		}
	}
	fatal(t, b.with(func(j *Journal) error { return b.Begin(t.Context(), j, src, p) }))
	b.killed(func(j *Journal) error { return b.Continue(t.Context(), j, b.say) })
	if got := b.all(); got["GlobalNetworkPolicy/by-hand"] != "" || !strings.Contains(got["GlobalNetworkPolicy/security.guard"], `"order":2`) {
		t.Errorf("after the second run: %v", got)
	}

	// back: what somebody has changed since stays, and the tier that it is in
	if err := b.with(func(j *Journal) error { return b.Rollback(t.Context(), j, false, b.say) }); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "no agent of Calico's runs") {
		t.Errorf("rollback to where nobody enforces: %v", err)
	}
	b.enforced()
	b.hide()
	if err := b.with(func(j *Journal) error { return b.Rollback(t.Context(), j, false, b.say) }); err == nil || !strings.Contains(err.Error(), "leads to calico-apiserver/calico-api again") {
		t.Errorf("rollback of what another server has: %v", err)
	}
	b.withoutServer()
	changed, err := b.Store.Get(t.Context(), v3.Ref{Kind: "GlobalNetworkPolicy", Name: "security.guard"})
	fatal(t, err)
	changed.SetLabels(map[string]string{"mine": "yes"})
	_, err = b.Store.Put(t.Context(), changed)
	fatal(t, err)
	kills = b.killed(func(j *Journal) error { return b.Rollback(t.Context(), j, false, b.say) })
	t.Logf("and on the way back %d times", kills)
	u, err := b.dynamic.Resource(apiServices).Get(t.Context(), "v3.projectcalico.org", metav1.GetOptions{})
	fatal(t, err)
	if !leads(u) || u.GetLabels()["theirs"] != "yes" {
		t.Errorf("the APIService is not back: %v", u.Object)
	}
	_, err = b.dynamic.Resource(at("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations")).Get(t.Context(), "calico-webhooks", metav1.GetOptions{})
	fatal(t, err)
	for _, want := range []string{"stays: GlobalNetworkPolicy/security.guard has been changed meanwhile", "stays: Tier/security is not allowed: the tier is not empty: GlobalNetworkPolicy/security.guard"} {
		if !strings.Contains(strings.Join(b.said, "\n"), want) {
			t.Errorf("nobody said %q:\n%s", want, strings.Join(b.said, "\n"))
		}
	}
	b.withoutServer()
	for ref := range b.all() {
		if ref != "GlobalNetworkPolicy/security.guard" && !strings.HasPrefix(ref, "Tier/") {
			t.Errorf("%s is still there", ref)
		}
	}
}

// What is there already and says something else is kept, unless it is to be written over; then rollback puts it back.
func TestConflicts(t *testing.T) {
	b := begin(t)
	fatal(t, b.crds.Apply(t.Context(), false, func(string, string) {}))
	b.make(definition("crd.projectcalico.org", "v1", "globalnetworksets", "GlobalNetworkSet", "Cluster") + `---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkSet
metadata: {name: bad}
spec: {nets: [192.0.2.0/24]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: bad}
spec: {nets: [198.51.100.0/24]}
`)
	before := b.all()
	p, _ := b.planOf(Stored, Options{})
	if len(p.Refused) != 1 || !strings.Contains(p.Refused[0], "GlobalNetworkSet/bad is there already and says something else: --replace") {
		t.Errorf("refused: %q", p.Refused)
	}
	p, src := b.planOf(Stored, Options{Replace: true})
	fatal(t, b.with(func(j *Journal) error {
		return errors.Join(b.Begin(t.Context(), j, src, p), b.Continue(t.Context(), j, b.say))
	}))
	if got := b.all()["GlobalNetworkSet/bad"]; !strings.Contains(got, "192.0.2.0/24") {
		t.Errorf("replaced: %s", got)
	}
	b.enforced()

	// where cleanup has begun to remove the source, and who may not write, the run stays as it is
	sets := b.dynamic.Resource(at(Stored, "globalnetworksets"))
	u, err := sets.Get(t.Context(), "bad", metav1.GetOptions{})
	fatal(t, err)
	fatal(t, sets.Delete(t.Context(), "bad", metav1.DeleteOptions{}))
	if err := b.with(func(j *Journal) error { return b.Rollback(t.Context(), j, false, b.say) }); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "there is no GlobalNetworkSet/bad any more") {
		t.Errorf("rolled back to half a source: %v", err)
	}
	u.SetResourceVersion("")
	_, err = sets.Create(t.Context(), u, metav1.CreateOptions{})
	fatal(t, err)
	b.make(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reads-all}
rules: [{apiGroups: ["*"], resources: ["*"], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reads-all}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reads-all}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: reader}]
`)
	reader := rest.CopyConfig(config)
	reader.Impersonate.UserName = "reader"
	k, err := store.OpenKube(reader)
	fatal(t, err)
	may, err := Open(reader, k)
	fatal(t, err)
	fatal(t, b.with(func(j *Journal) error {
		if err := may.Rollback(t.Context(), j, false, b.say); !errors.Is(err, store.ErrForbidden) {
			t.Errorf("rolled back by who may not: %v", err)
		}
		_, phase, err := j.Run()
		if phase != Migrated {
			t.Errorf("the run is %s", phase)
		}
		return err
	}))
	fatal(t, b.with(func(j *Journal) error { return b.Rollback(t.Context(), j, false, b.say) }))
	if diff := cmp.Diff(before, b.all()); diff != "" {
		t.Errorf("rolled back:\n%s", diff)
	}

	// a run that finds something else than it was planned for
	fatal(t, b.Store.Delete(t.Context(), set("bad", "192.0.2.0/24")))
	p, src = b.planOf(Stored, Options{})
	fatal(t, b.with(func(j *Journal) error { return b.Begin(t.Context(), j, src, p) }))
	_, err = b.Store.Put(t.Context(), set("bad", "203.0.113.0/24"))
	fatal(t, err)
	err = b.with(func(j *Journal) error { return b.Continue(t.Context(), j, b.say) })
	if !errors.Is(err, errChanged) {
		t.Errorf("changed meanwhile: %v", err)
	}
	err = b.with(func(j *Journal) error { _, err := b.Plan(t.Context(), src, j, Options{}); return err })
	if !errors.Is(err, journal.ErrOther) {
		t.Errorf("another run begins while one has to go on: %v", err)
	}
}

func set(name string, nets ...string) *v3.GlobalNetworkSet {
	return &v3.GlobalNetworkSet{TypeMeta: metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "GlobalNetworkSet"}, ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v3.NetworkSetSpec{Nets: nets}}
}

// What an API server of Calico's hides of ours is seen when that is out of the way: it comes back at rollback, and is not written over unasked.
func TestHidden(t *testing.T) {
	b := begin(t)
	fatal(t, b.crds.Apply(t.Context(), false, func(string, string) {}))
	b.make(definition("crd.projectcalico.org", "v1", "globalnetworksets", "GlobalNetworkSet", "Cluster") + `---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkSet
metadata: {name: mine}
spec: {nets: [192.0.2.0/24]}
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkSet
metadata: {name: theirs}
spec: {nets: [192.0.2.0/24]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: mine}
spec: {nets: [192.0.2.0/24]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: theirs}
spec: {nets: [198.51.100.0/24]}
`)
	b.enforced()
	before := b.all()
	for _, o := range []Options{{}, {Replace: true}} {
		b.hide()
		p, src := b.planOf("", o)
		fatal(t, b.with(func(j *Journal) error { return b.Begin(t.Context(), j, src, p) }))
		err := b.with(func(j *Journal) error { return b.Continue(t.Context(), j, b.say) })
		if o.Replace {
			fatal(t, err)
			if got := b.all()["GlobalNetworkSet/theirs"]; !strings.Contains(got, "192.0.2.0/24") {
				t.Errorf("replaced: %s", got)
			}
		} else if err == nil || !strings.Contains(err.Error(), "says something else: GlobalNetworkSet/theirs; tierctl migrate rollback, and apply with --replace") {
			t.Errorf("something else is hidden: %v", err)
		}
		fatal(t, b.with(func(j *Journal) error { return b.Rollback(t.Context(), j, false, b.say) }))
		b.withoutServer()
		if diff := cmp.Diff(before, b.all()); diff != "" {
			t.Errorf("%+v, rolled back:\n%s", o, diff)
		}
	}

	// what a run of ours has written and then is hidden goes at rollback all the same
	fatal(t, b.Store.Delete(t.Context(), set("mine")))
	fatal(t, b.Store.Delete(t.Context(), set("theirs")))
	for range 2 {
		b.hide()
		p, src := b.planOf("", Options{})
		fatal(t, b.with(func(j *Journal) error {
			return errors.Join(b.Begin(t.Context(), j, src, p), b.Continue(t.Context(), j, b.say))
		}))
	}
	fatal(t, b.with(func(j *Journal) error { return b.Rollback(t.Context(), j, false, b.say) }))
	b.withoutServer()
	if got := b.all(); got["GlobalNetworkSet/mine"] != "" || got["GlobalNetworkSet/theirs"] != "" {
		t.Errorf("after two runs and a rollback: %v", got)
	}
}

// When the source has gone a migration is final, and there is nothing to do.
func TestSourceIsGone(t *testing.T) {
	b := begin(t)
	fatal(t, b.crds.Apply(t.Context(), false, func(string, string) {}))
	b.make(definition("crd.projectcalico.org", "v1", "globalnetworksets", "GlobalNetworkSet", "Cluster") + `---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkSet
metadata: {name: bad}
spec: {nets: [192.0.2.0/24]}
`)
	p, src := b.planOf("", Options{})
	fatal(t, b.with(func(j *Journal) error {
		return errors.Join(b.Begin(t.Context(), j, src, p), b.Continue(t.Context(), j, b.say))
	}))
	in := b.dynamic.Resource(at("apiextensions.k8s.io/v1", "customresourcedefinitions"))
	fatal(t, in.Delete(t.Context(), "globalnetworksets.crd.projectcalico.org", metav1.DeleteOptions{}))
	fatal(t, wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) {
		left, err := b.serves(Stored)
		return len(left) == 0, err
	}))
	p, _ = b.planOf("", Options{})
	if want := "note crd.projectcalico.org/v1, from which an earlier run came, is gone: what it has written stays"; !p.Nothing() || !strings.Contains(p.shown(), want) {
		t.Errorf("the source is gone:\n%s", p.shown())
	}
	if b.all()["GlobalNetworkSet/bad"] == "" {
		t.Error("what was migrated is gone with its source")
	}
	if err := b.with(func(j *Journal) error { return b.Rollback(t.Context(), j, false, b.say) }); !errors.Is(err, ErrRefused) || b.all()["GlobalNetworkSet/bad"] == "" {
		t.Errorf("rollback to nowhere: %v", err)
	}
	fatal(t, b.with(func(j *Journal) error { return b.Rollback(t.Context(), j, true, b.say) }))
	if b.all()["GlobalNetworkSet/bad"] != "" {
		t.Error("what was to be abandoned is still there")
	}
}

// Calico's own CRDs of our group are taken over with their objects, and given back.
func TestFromNative(t *testing.T) {
	b := begin(t)
	b.make(definitions("projectcalico.org", "v3") + "---" + strings.ReplaceAll(strings.ReplaceAll(storedObjects, "crd.projectcalico.org/v1", "projectcalico.org/v3"), ", destination: {ports: [80]}", ""))
	p, src := b.planOf("", Options{})
	if src.Name != Native || len(p.Refused) > 0 || len(p.CRDs) == 0 || p.Nothing() {
		t.Fatalf("plan from %s:\n%s", src.Name, p.shown())
	}
	before := b.all()
	fatal(t, b.with(func(j *Journal) error { return b.Begin(t.Context(), j, src, p) }))
	b.killed(func(j *Journal) error { return b.Continue(t.Context(), j, b.say) })
	if !strings.Contains(strings.Join(b.said, "\n"), "CustomResourceDefinition/globalnetworkpolicies.projectcalico.org taken over") {
		t.Errorf("said: %s", strings.Join(b.said, "\n"))
	}
	if diff := cmp.Diff(len(before), len(b.all())); diff != "" {
		t.Errorf("objects: %s", diff)
	}
	b.killed(func(j *Journal) error { return b.Rollback(t.Context(), j, false, b.say) })
	if p, _ := b.planOf("", Options{}); p.Nothing() {
		t.Error("after rollback the CRDs are still ours")
	}
	if diff := cmp.Diff(before, b.all()); diff != "" {
		t.Errorf("rolled back:\n%s", diff)
	}
}

// Where Calico's operator would put its APIService back, nothing is begun.
func TestOperatorKeepsItsServer(t *testing.T) {
	b := begin(t)
	b.make(definitions("crd.projectcalico.org", "v1") + "---" + definition("operator.tigera.io", "v1", "apiservers", "APIServer", "Cluster") + "---" + staleService + `---
apiVersion: operator.tigera.io/v1
kind: APIServer
metadata: {name: default}
---
apiVersion: v1
kind: Namespace
metadata: {name: tigera-operator}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: tigera-operator, namespace: tigera-operator}
spec:
  selector: {matchLabels: {k8s-app: o}}
  template: {metadata: {labels: {k8s-app: o}}, spec: {containers: [{name: o, image: example/operator}]}}
`)
	p, src := b.planOf("", Options{})
	if len(p.Refused) != 1 || !strings.Contains(p.Refused[0], "kubectl delete apiservers.operator.tigera.io default") {
		t.Errorf("refused: %q", p.Refused)
	}
	if err := b.with(func(j *Journal) error { return b.Begin(t.Context(), j, src, p) }); !errors.Is(err, ErrRefused) {
		t.Errorf("begin: %v", err)
	}
}

// Azure NPM has no objects of its own: what there is is said.
func TestFromKubernetes(t *testing.T) {
	b := begin(t)
	fatal(t, b.crds.Apply(t.Context(), false, func(string, string) {}))
	b.make(strings.ReplaceAll(agentsOfCalico, "calico-node", "azure-npm") + `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: default}
spec: {podSelector: {}}
`)
	p, src := b.planOf("", Options{})
	want := "note NetworkPolicies of Kubernetes that are enforced as they are: 1\n" +
		"note DaemonSet kube-system/azure-npm enforces them too, as long as it is there; afterwards: tierctl cleanup node --of azure-npm\n"
	if diff := cmp.Diff(want, p.shown()); src.Name != Kubernetes || diff != "" || !p.Nothing() {
		t.Errorf("from %s:\n%s", src.Name, diff)
	}
}

// What a file has that is not Calico's, or not as Calico says it, is left; policy that would be lost by that is refused.
func TestOthersInAFile(t *testing.T) {
	b := begin(t)
	fatal(t, b.crds.Apply(t.Context(), false, func(string, string) {}))
	const mine = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: mine, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress]}
`
	b.make(mine)
	src := &Source{Name: "export.yaml"}
	each(t, mine+`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nowhere, namespace: default}
spec: {podSelector: {}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c, namespace: default}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolcy
metadata: {name: mistyped}
---
metadata: {name: says-nothing}
---
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: web}
spec: {ingress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: kns.shop}
spec: {ingress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.0.0.0/16}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: knp.default.mine, namespace: default}
spec: {types: [Ingress]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: knp.default.set, ownerReferences: [{apiVersion: operator.tigera.io/v1, kind: Installation, name: default, uid: 11111111-1111-4111-8111-111111111111}]}
spec: {nets: [192.0.2.0/24]}
`, func(u *unstructured.Unstructured) { src.Objects = append(src.Objects, Object{Was: u}) })
	var p *Plan
	fatal(t, b.with(func(j *Journal) (err error) {
		p, err = b.Plan(t.Context(), src, j, Options{})
		return err
	}))
	var moves, lost, left []string
	for _, m := range p.Moves {
		moves = append(moves, m.Ref().String())
		if owners := m.want.GetOwnerReferences(); len(owners) > 0 {
			t.Errorf("%s has owners %v", m.Ref(), owners)
		}
	}
	for _, l := range p.Left {
		if l.Lost {
			lost = append(lost, l.What)
		} else {
			left = append(left, l.What)
		}
	}
	if diff := cmp.Diff([]string{"GlobalNetworkSet/knp.default.set"}, moves); diff != "" {
		t.Errorf("carried: %s", diff)
	}
	if diff := cmp.Diff([]string{"/says-nothing", "GlobalNetworkPolcy/mistyped", "NetworkPolicy/default/nowhere", "Profile/web"}, lost); diff != "" {
		t.Errorf("lost: %s", diff)
	}
	if diff := cmp.Diff([]string{"ConfigMap/default/c", "IPPool/pods", "NetworkPolicy/default/knp.default.mine", "NetworkPolicy/default/mine", "Profile/kns.shop"}, left); diff != "" {
		t.Errorf("left: %s", diff)
	}
	if len(p.Refused) != len(lost) {
		t.Errorf("refused: %q", p.Refused)
	}
}

// A file, into a store that is one too.
func TestFromFile(t *testing.T) {
	s := store.OpenBolt(filepath.Join(t.TempDir(), "store.db"))
	site, err := Open(nil, s)
	fatal(t, err)
	b := &bench{Site: site, t: t, path: filepath.Join(t.TempDir(), "journal.db")}
	src := &Source{Name: "export.yaml"}
	each(t, strings.ReplaceAll(storedObjects, ", destination: {ports: [80]}", ""), func(u *unstructured.Unstructured) { src.Objects = append(src.Objects, Object{Was: u}) })
	fatal(t, b.with(func(j *Journal) error {
		p, err := b.Plan(t.Context(), src, j, Options{})
		if err != nil {
			return err
		}
		return b.Begin(t.Context(), j, src, p)
	}))
	b.killed(func(j *Journal) error { return b.Continue(t.Context(), j, b.say) })
	if got := b.all(); got["GlobalNetworkPolicy/security.guard"] == "" || got["Tier/security"] == "" {
		t.Errorf("the store has %v", got)
	}
	fatal(t, b.with(func(j *Journal) error {
		saved, err := j.Source()
		if err == nil && len(saved.Policies()) != len(src.Policies()) {
			t.Errorf("%d policies are saved of %d", len(saved.Policies()), len(src.Policies()))
		}
		return err
	}))
	b.killed(func(j *Journal) error { return b.Rollback(t.Context(), j, false, b.say) })
	for ref := range b.all() {
		if !strings.HasPrefix(ref, "Tier/") && !strings.HasPrefix(ref, "FelixConfiguration/") {
			t.Errorf("%s is still there", ref)
		}
	}
}
