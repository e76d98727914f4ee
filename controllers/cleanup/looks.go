package cleanup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"github.com/tierwall/tierwall/controllers/crds"
)

// shared are CRDs that came with Calico, and that others may use.
var shared = []string{"clusternetworkpolicies.policy.networking.k8s.io"}

// sure keeps what only has a name like Calico's: people give such names too.
func sure(_ context.Context, s *search, u *unstructured.Unstructured, t *Thing) error {
	owned := slices.ContainsFunc(u.GetOwnerReferences(), func(o metav1.OwnerReference) bool {
		return Calicos(o.APIVersion)
	})
	if !owned && !slices.Contains(accounts, t.Name) && !slices.Contains(namespaces, t.Namespace) && !s.options.names(t) {
		t.Kept = "its name is like Calico's, and it may be yours: it goes only when it is named"
	}
	if slices.Contains(pluginAccounts, t.Name) {
		s.plugged(t)
	}
	return nil
}

// plugged keeps what Calico's CNI plugin needs while there are pods whose network is its.
func (s *search) plugged(t *Thing) {
	if s.plugin != "" && t.Kept == "" && !s.options.names(t) {
		t.Kept = fmt.Sprintf("Calico's CNI plugin needs it, whose network pod %s has: it goes when such pods have gone, or when it is named", s.plugin)
	}
}

// plug looks for a pod whose network is from Calico's CNI plugin, which tells that it is by an annotation.
func (s *search) plug(ctx context.Context) error {
	pods := at("v1", "pods")
	for next := ""; ; {
		list, err := s.metadata.Resource(pods).List(ctx, metav1.ListOptions{FieldSelector: "status.phase!=Succeeded,status.phase!=Failed", Limit: s.page, Continue: next})
		if err := s.unknown(ctx, "pods", err); err != nil || list == nil {
			return err
		}
		for i := range list.Items {
			if p := &list.Items[i]; p.Annotations["cni.projectcalico.org/podIP"] != "" {
				s.plugin = p.Namespace + "/" + p.Name
				return nil
			}
		}
		if next = list.GetContinue(); next == "" {
			return nil
		}
	}
}

func text(u *unstructured.Unstructured, fields ...string) string {
	s, _, _ := unstructured.NestedString(u.Object, fields...)
	return s
}

func slice(u map[string]any, fields ...string) (out []map[string]any) {
	all, _, _ := unstructured.NestedSlice(u, fields...)
	for _, v := range all {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// definition is a CRD whose objects are to be found.
type definition struct {
	schema.GroupVersionResource
	kind string
	kept string
}

func isDefinition(u *unstructured.Unstructured) string {
	if slices.Contains(shared, u.GetName()) {
		return "it came with Calico"
	}
	return ofGroup(text(u, "spec", "group"))
}

// define says why a CRD stays.
func define(_ context.Context, s *search, u *unstructured.Unstructured, t *Thing) error {
	switch _, ours := u.GetAnnotations()[crds.SchemaAnnotation]; {
	case ours:
		t.Kept = "Tierwall uses it"
	case slices.Contains(shared, t.Name) && !s.options.names(t):
		t.Kept = "others may use it: it goes only when it is named"
	case slices.Contains(pluginResources, text(u, "spec", "names", "plural")):
		s.plugged(t)
	}
	s.defines(u, t)
	return nil
}

// defines notes a CRD's objects for later: those of a CRD that stays are kept for the same reason.
func (s *search) defines(u *unstructured.Unstructured, t *Thing) {
	version := ""
	for _, v := range slice(u.Object, "spec", "versions") {
		if served, _ := v["served"].(bool); served && (version == "" || v["storage"] == true) {
			version, _ = v["name"].(string)
		}
	}
	if version == "" {
		t.Trouble = append(t.Trouble, "no version of it is served: its objects cannot be seen")
		return
	}
	s.definitions = append(s.definitions, definition{schema.GroupVersionResource{Group: text(u, "spec", "group"), Version: version, Resource: text(u, "spec", "names", "plural")},
		text(u, "spec", "names", "kind"), t.Kept})
}

// objectsOf a CRD. Only their metadata is asked for: what a schema no longer allows is seen too.
func (s *search) objectsOf(ctx context.Context, d definition) error {
	for next := ""; ; {
		list, err := s.metadata.Resource(d.GroupVersionResource).List(ctx, metav1.ListOptions{Limit: s.page, Continue: next})
		if err != nil && d.kept != "" && ctx.Err() == nil { // a stale APIService hides what stays: it need not be seen
			return nil
		}
		if err := s.unknown(ctx, "objects of "+d.GroupResource().String(), err); err != nil || list == nil {
			return err
		}
		for i := range list.Items {
			t := s.thing(Objects, d.GroupVersionResource, d.kind, &list.Items[i], "group "+d.Group)
			t.Kept = d.kept
			s.found.Things = append(s.found.Things, t)
		}
		if next = list.GetContinue(); next == "" {
			return nil
		}
	}
}

// isAggregated tells of an APIService of Calico's groups that another server answers for; those of CRDs come and go with them.
func isAggregated(u *unstructured.Unstructured) string {
	if _, found, _ := unstructured.NestedMap(u.Object, "spec", "service"); !found {
		return ""
	}
	return ofGroup(text(u, "spec", "group"))
}

func available(_ context.Context, _ *search, u *unstructured.Unstructured, t *Thing) error {
	for _, c := range slice(u.Object, "status", "conditions") {
		if c["type"] == "Available" && c["status"] != "True" {
			t.Trouble = append(t.Trouble, fmt.Sprintf("nobody answers for it (%v): no namespace can be deleted until it is gone", c["reason"]))
		}
	}
	return nil
}

// isWebhook is a configuration of Calico's name, or one whose webhooks are all for its groups. Ours is for them too.
func isWebhook(u *unstructured.Unstructured) string {
	if strings.HasPrefix(u.GetName(), "tierwall") {
		return ""
	}
	if why := prefixed(u); why != "" {
		return why
	}
	hooks := slice(u.Object, "webhooks")
	why := ""
	for _, w := range hooks {
		groups := []string{}
		for _, r := range slice(w, "rules") {
			g, _, _ := unstructured.NestedStringSlice(r, "apiGroups")
			groups = append(groups, g...)
		}
		if len(groups) == 0 || slices.ContainsFunc(groups, func(g string) bool { return ofGroup(g) == "" }) {
			return ""
		}
		why = "it is for " + strings.Join(groups, ", ")
	}
	return why
}

// answers says of each webhook that fails closed whether anybody stands behind it.
func answers(ctx context.Context, s *search, u *unstructured.Unstructured, t *Thing) error {
	if prefixed(u) == "" && !s.options.names(t) {
		t.Kept = "it is for Calico's groups, and may be yours: it goes only when it is named"
	}
	for _, w := range slice(u.Object, "webhooks") {
		if w["failurePolicy"] != "Fail" {
			continue
		}
		namespace, _, _ := unstructured.NestedString(w, "clientConfig", "service", "namespace")
		name, found, _ := unstructured.NestedString(w, "clientConfig", "service", "name")
		if !found {
			continue
		}
		there, err := s.stands(ctx, namespace, name)
		if err := s.unknown(ctx, fmt.Sprintf("endpoints of Service/%s/%s", namespace, name), err); err != nil {
			return err
		}
		if err == nil && !there {
			t.Trouble = append(t.Trouble, fmt.Sprintf("%v: nobody stands behind Service/%s/%s: it refuses all writes that it is asked about", w["name"], namespace, name))
		}
	}
	return nil
}

// stands tells whether a service has an endpoint that is ready.
func (s *search) stands(ctx context.Context, namespace, name string) (bool, error) {
	list, err := s.dynamic.Resource(at("discovery.k8s.io/v1", "endpointslices")).Namespace(namespace).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + name})
	if err != nil {
		return false, err
	}
	for i := range list.Items {
		for _, e := range slice(list.Items[i].Object, "endpoints") {
			if ready, found, _ := unstructured.NestedBool(e, "conditions", "ready"); ready || !found {
				return true, nil
			}
		}
	}
	return false, nil
}

func isPolicy(u *unstructured.Unstructured) string {
	for _, s := range suffixes {
		if strings.HasSuffix(u.GetName(), "."+s) {
			return "name " + u.GetName()
		}
	}
	return ""
}

// isBinding of a policy that is Calico's.
func isBinding(u *unstructured.Unstructured) string {
	policy := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": text(u, "spec", "policyName")}}}
	if isPolicy(policy) != "" {
		return "it binds " + policy.GetName()
	}
	return ""
}

// agents are Calico's programs, by the ends of their images' names in any registry.
var agents = []string{"calico/node", "calico/typha", "calico/kube-controllers", "calico/apiserver", "tigera/operator", "hardened-calico", "mirrored-calico-node", "calico/calico"}

// works is a workload of Calico's name where Calico gives it, or one that runs Calico under another name.
func works(u *unstructured.Unstructured) string {
	if why := named(u, workloads); why != "" {
		return why
	}
	pod, _, _ := unstructured.NestedMap(u.Object, "spec", "template", "spec")
	return runs(pod)
}

// runs tells by what a pod is said to be whether Calico runs in it: by an image's name, or by Felix's settings where the node's network is the pod's.
func runs(pod map[string]any) string {
	for _, c := range slice(pod, "containers") {
		image, _ := c["image"].(string)
		repository, _, _ := strings.Cut(image, "@")
		if n := strings.LastIndex(repository, ":"); n > strings.LastIndex(repository, "/") {
			repository = repository[:n]
		}
		for _, name := range agents {
			if strings.HasSuffix("/"+repository, "/"+name) {
				return "image " + image
			}
		}
		for _, e := range slice(c, "env") {
			if name, _ := e["name"].(string); pod["hostNetwork"] == true && strings.HasPrefix(name, "FELIX_") {
				return fmt.Sprintf("%s is set in container %v", name, c["name"])
			}
		}
	}
	return ""
}

// worksAlone is a pod in which Calico runs.
func worksAlone(u *unstructured.Unstructured) string {
	pod, _, _ := unstructured.NestedMap(u.Object, "spec")
	return runs(pod)
}

// runningAlone leaves those out whose workload is there, and says how much of it runs. A workload goes before its pods do, and on a node that does not answer
// they stay.
func runningAlone(ctx context.Context, s *search, u *unstructured.Unstructured, t *Thing) error {
	kept, err := s.owned(ctx, u)
	if err != nil {
		return err
	}
	phase := text(u, "status", "phase")
	if kept || phase == "Succeeded" || phase == "Failed" {
		t.Why = ""
		return nil
	}
	t.Kept, t.Running = "no workload keeps it: it goes as it came", cmp.Or(phase, "Pending")
	return nil
}

// owned tells whether the DaemonSet or Deployment that made an object, perhaps by way of another, is there: those are looked at themselves. Of what anybody else
// has made nobody else tells whether it runs.
func (s *search) owned(ctx context.Context, u *unstructured.Unstructured) (bool, error) {
	owner := metav1.GetControllerOf(u)
	if owner == nil {
		return u.GetKind() == "DaemonSet" || u.GetKind() == "Deployment", nil
	}
	if owner.APIVersion != "apps/v1" {
		return false, nil
	}
	of, err := s.dynamic.Resource(at("apps/v1", strings.ToLower(owner.Kind)+"s")).Namespace(u.GetNamespace()).Get(ctx, owner.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, s.unknown(ctx, fmt.Sprintf("%s/%s/%s", owner.Kind, u.GetNamespace(), owner.Name), err)
	case of.GetUID() != owner.UID:
		return false, nil
	}
	return s.owned(ctx, of)
}

// running says how much of a workload is wanted and ready.
func running(wanted, ready string) func(context.Context, *search, *unstructured.Unstructured, *Thing) error {
	return func(_ context.Context, _ *search, u *unstructured.Unstructured, t *Thing) error {
		want, _, _ := unstructured.NestedInt64(u.Object, "status", wanted)
		have, _, _ := unstructured.NestedInt64(u.Object, "status", ready)
		if replicas, found, _ := unstructured.NestedInt64(u.Object, "spec", "replicas"); found {
			want = max(want, replicas)
		}
		if named(u, workloads) == "" {
			t.Kept = "it runs Calico under a name of others: it goes as it came"
		}
		if want > 0 || have > 0 {
			t.Running = fmt.Sprintf("%d of %d ready", have, want)
		}
		return nil
	}
}

// conditions of a namespace that does not go say why.
func conditions(_ context.Context, s *search, u *unstructured.Unstructured, t *Thing) error {
	if t.Name == "calico-system" { // where the operator has the plugin's account
		s.plugged(t)
	}
	if !t.Terminating {
		return nil
	}
	for _, c := range slice(u.Object, "status", "conditions") {
		if c["status"] == "True" {
			t.Trouble = append(t.Trouble, fmt.Sprint(c["message"]))
		}
	}
	return nil
}

// insideSpaces finds what else is in Calico's namespaces, and goes with them: it is to be seen, and saved.
func (s *search) insideSpaces(ctx context.Context) error {
	var spaces []string
	known := map[string]bool{}
	for i := range s.found.Things {
		t := &s.found.Things[i]
		known[t.key()] = true
		if t.Stage == Spaces {
			spaces = append(spaces, t.Name)
		}
	}
	inside, err := s.inside(ctx, spaces, known)
	s.found.Things = append(s.found.Things, inside...)
	return err
}

// inside namespaces is what is not known yet, but for what its owner or the cluster makes by itself.
func (s *search) inside(ctx context.Context, spaces []string, known map[string]bool) (out []Thing, err error) {
	if len(spaces) == 0 {
		return nil, nil
	}
	lists, err := discovery.ServerPreferredNamespacedResources(s.served)
	if failed := (*discovery.ErrGroupDiscoveryFailed)(nil); errors.As(err, &failed) {
		for gv, err := range failed.Groups {
			if ofGroup(gv.Group) == "" { // theirs is an APIService that nobody answers for
				_ = s.unknown(ctx, "what is served as "+gv.String(), err)
			}
		}
	} else if err := s.unknown(ctx, "what is served", err); err != nil {
		return nil, err
	}
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, r := range l.APIResources {
			if !slices.Contains(r.Verbs, "list") || !slices.Contains(r.Verbs, "delete") || r.Kind == "Event" || r.Kind == "Endpoints" {
				continue
			}
			for _, space := range spaces {
				err := s.eachInside(ctx, space, gv.WithResource(r.Name), r.Kind, func(t Thing, o *metav1.PartialObjectMetadata) {
					if metav1.GetControllerOf(o) == nil && !known[t.key()] && !made[r.Kind+"/"+o.Name] {
						out = append(out, t)
					}
				})
				if err != nil {
					return nil, err
				}
			}
		}
	}
	return out, nil
}

func (s *search) eachInside(ctx context.Context, space string, r schema.GroupVersionResource, kind string, do func(Thing, *metav1.PartialObjectMetadata)) error {
	for next := ""; ; {
		list, err := s.metadata.Resource(r).Namespace(space).List(ctx, metav1.ListOptions{Limit: s.page, Continue: next})
		if err := s.unknown(ctx, fmt.Sprintf("%s in namespace %s", r.GroupResource(), space), err); err != nil || list == nil {
			return err
		}
		for i := range list.Items {
			do(s.thing(Accounts, r, kind, &list.Items[i], "it is in namespace "+space), &list.Items[i])
		}
		if next = list.GetContinue(); next == "" {
			return nil
		}
	}
}

// made are the objects that every namespace has.
var made = map[string]bool{"ServiceAccount/default": true, "ConfigMap/kube-root-ca.crt": true}

// takers are the workloads that take away a finalizer (contract §7.2).
var takers = []struct{ prefix, by string }{
	{"projectcalico.org/", "calico-kube-controllers"},
	{"migration.projectcalico.org/", "calico-kube-controllers"},
	{"tigera.io/", "tigera-operator"},
	{"operator.tigera.io/", "tigera-operator"},
}

// finalizers parts those that somebody takes away who still runs from the orphaned. Those of others than Calico are theirs.
func (s *search) finalizers(running []Thing) {
	up := map[string]bool{}
	for _, t := range running {
		up[t.Name] = true
	}
	for i := range s.found.Things {
		t := &s.found.Things[i]
		var orphaned []string
		for _, f := range t.Orphaned {
			gone := false
			for _, taker := range takers {
				gone = gone || strings.HasPrefix(f, taker.prefix) && !up[taker.by]
			}
			if gone {
				orphaned = append(orphaned, f)
			} else {
				t.Waits = append(t.Waits, f)
			}
		}
		t.Orphaned = orphaned
	}
}
