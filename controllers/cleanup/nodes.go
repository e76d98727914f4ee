package cleanup

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Node is one whose kernel has our table, or may have it.
type Node struct {
	Name string `json:"name"`
	// Reports tells whether there is its NodeReport, which goes with the table.
	Reports bool `json:"reports"`
	// Trouble is why it will not answer when it is told to take the table out.
	Trouble string `json:"trouble,omitempty"`

	ready, agent, done bool
	says               string // its agent's pod, of why it has not ended
}

// out tells whether the table is out.
func (n *Node) out() bool { return n.done && !n.Reports }

// tables are the nodes that have one or may have one, by name: those that report, and those that have an agent of one of the DaemonSets. A node
// whose object is gone has none.
func (c *Cluster) tables(ctx context.Context, agents ...*unstructured.Unstructured) (map[string]*Node, error) {
	list, err := c.dynamic.Resource(at("v1", "nodes")).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	all, some := map[string]*Node{}, map[string]*Node{}
	for i := range list.Items {
		all[list.Items[i].GetName()] = &Node{Name: list.Items[i].GetName(), ready: isTrue(&list.Items[i], "Ready")}
	}
	reports, err := c.dynamic.Resource(at("tierwall.io/v1alpha1", "nodereports")).List(ctx, metav1.ListOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("reports of nodes: %w", err)
	}
	if err == nil {
		for i := range reports.Items {
			if n := all[reports.Items[i].GetName()]; n != nil {
				n.Reports, some[n.Name] = true, n
			}
		}
	}
	for _, ds := range agents {
		if ds == nil { // it is gone
			continue
		}
		pods, err := c.podsOf(ctx, ds)
		if err != nil {
			return nil, err
		}
		for i := range pods {
			if n := all[text(&pods[i], "spec", "nodeName")]; n != nil {
				n.agent, some[n.Name] = true, n
				n.hear(&pods[i])
			}
		}
	}
	for _, n := range some {
		n.judge()
	}
	return some, nil
}

func isTrue(u *unstructured.Unstructured, condition string) bool {
	return slices.ContainsFunc(slice(u.Object, "status", "conditions"), func(c map[string]any) bool { return c["type"] == condition && c["status"] == "True" })
}

// podsOf a workload.
func (c *Cluster) podsOf(ctx context.Context, of *unstructured.Unstructured) ([]unstructured.Unstructured, error) {
	match, _, _ := unstructured.NestedStringMap(of.Object, "spec", "selector", "matchLabels")
	if len(match) == 0 {
		return nil, nil
	}
	list, err := c.dynamic.Resource(at("v1", "pods")).Namespace(of.GetNamespace()).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(match).String()})
	if err != nil {
		return nil, fmt.Errorf("pods of %s/%s: %w", of.GetKind(), of.GetName(), err)
	}
	return list.Items, nil
}

// hear what an agent's pod says: it has taken the table out when it was told to, and has once ended well.
func (n *Node) hear(pod *unstructured.Unstructured) {
	told := slices.ContainsFunc(slice(pod.Object, "spec", "containers"), func(c map[string]any) bool {
		args, _, _ := unstructured.NestedStringSlice(c, "args")
		return c["name"] == agentContainer && slices.Contains(args, removeFlag)
	})
	for _, s := range slice(pod.Object, "status", "containerStatuses") {
		if s["name"] != agentContainer {
			continue
		}
		for _, state := range []string{"state", "lastState"} {
			code, ended, _ := unstructured.NestedInt64(s, state, "terminated", "exitCode")
			switch {
			case told && ended && code == 0:
				n.done = true
			case ended && code != 0:
				n.says = fmt.Sprintf("its agent ended with status %d: see the log of pod %s", code, pod.GetName())
			}
		}
		if reason, waits, _ := unstructured.NestedString(s, "state", "waiting", "reason"); waits && n.says == "" {
			n.says = fmt.Sprintf("pod %s: %s", pod.GetName(), reason)
		}
	}
}

// judge why it will not answer.
func (n *Node) judge() {
	switch {
	case n.out():
	case !n.ready:
		n.Trouble = "it is not ready: wait until it is, or delete its Node object"
	case !n.agent:
		n.Trouble = "no agent's pod runs there: sudo tierctl agent --remove --datastore kubernetes:KUBECONFIG on it takes the table out"
	}
}

// ourNodes says which nodes have tables, and which of them will not answer.
func (s *search) ourNodes(ctx context.Context, o Ours) error {
	var agents []*unstructured.Unstructured
	for i := range s.found.Things {
		if t := &s.found.Things[i]; t.Way == TakenOut {
			ds, err := s.get(ctx, t)
			if err != nil {
				return err
			}
			agents = append(agents, ds)
		}
	}
	nodes, err := s.tables(ctx, agents...)
	if err := s.unknown(ctx, "which nodes have a table", err); err != nil {
		return err
	}
	s.found.Enforced.Nodes = []Node{}
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		n := nodes[name]
		s.found.Enforced.Nodes = append(s.found.Enforced.Nodes, *n)
		if n.Trouble != "" && !slices.Contains(o.Without, name) {
			s.found.Refused = append(s.found.Refused, fmt.Sprintf("node %s would keep its table: %s; --without-node %s goes on without it", name, n.Trouble, name))
		}
	}
	return nil
}

const (
	agentContainer = "agent"
	bootContainer  = "boot"
	removeFlag     = "--remove"
)

// removing is the DaemonSet of agents that take the table out, and what starts with the machine, as config/deploy/remove.yaml and the chart's agent.remove
// make it: a patch.
func removing(ds *unstructured.Unstructured) ([]byte, error) {
	ds = ds.DeepCopy()
	pod, _, err := unstructured.NestedMap(ds.Object, "spec", "template", "spec")
	if err != nil {
		return nil, err
	}
	var boot []any // what only who installs it has mounted
	starts := []any{}
	for _, c := range slice(pod, "initContainers") {
		if c["name"] == bootContainer {
			boot, _, _ = unstructured.NestedSlice(c, "volumeMounts")
		} else {
			starts = append(starts, c)
		}
	}
	containers := slice(pod, "containers")
	i := slices.IndexFunc(containers, func(c map[string]any) bool { return c["name"] == agentContainer })
	if i < 0 {
		return nil, fmt.Errorf("it has no container %s", agentContainer)
	}
	agent := containers[i]
	args, _, _ := unstructured.NestedStringSlice(agent, "args")
	args = slices.DeleteFunc(args, func(a string) bool {
		name, _, _ := strings.Cut(a, "=")
		return slices.Contains([]string{removeFlag, "--listen", "--established-connections"}, name) // what only one who stays needs
	})
	agent["args"] = append(args, removeFlag)
	for _, probe := range []string{"livenessProbe", "readinessProbe", "startupProbe"} {
		delete(agent, probe)
	}
	agent["volumeMounts"] = mounts(slice(agent, "volumeMounts"), boot)
	pod["containers"], pod["initContainers"] = containers, starts
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": ds.GetUID()},
		"spec": map[string]any{
			"updateStrategy": map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxUnavailable": "100%", "maxSurge": 0}}, // these pods end: no node waits for another's
			"template":       map[string]any{"spec": pod},
		}})
}

// mounts of the agent, and of the boot container: parts of folders are mounted so that the agent may not write what it now has to remove.
func mounts(agent []map[string]any, boot []any) []any {
	out, at := []any{}, map[any]bool{}
	for _, m := range agent {
		if len(boot) == 0 || m["subPath"] == nil {
			out, at[m["mountPath"]] = append(out, m), true
		}
	}
	for _, m := range boot {
		if m, ok := m.(map[string]any); ok && !at[m["mountPath"]] {
			out = append(out, m)
		}
	}
	return out
}

// takeOut the table of every node's kernel, and wait for the answers. It is done once, for afterwards nobody can answer.
func (r *run) takeOut(ctx context.Context, t *Thing, ds *unstructured.Unstructured) error {
	if r.Noted(tablesOut) {
		return nil
	}
	if ds != nil && ds.GetDeletionTimestamp() == nil {
		patch, err := removing(ds)
		if err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
		if err := r.step("taking out the tables by " + t.String()); err != nil {
			return err
		}
		if _, err := r.in(t).Patch(ctx, t.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("telling %s to take the tables out: %w", t, err)
		}
	}
	for left := map[string]string(nil); ; {
		before := left
		changed, err := r.until(ctx, r.patience, func() (_ bool, err error) {
			left, err = r.silent(ctx, t)
			return len(left) == 0 || !maps.EqualFunc(left, before, func(string, string) bool { return true }), err
		})
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(before)) {
			if _, still := left[name]; !still && name != "" {
				r.say("Node/" + name + " has no table any more")
			}
		}
		switch {
		case len(left) == 0:
			if err := r.step("noting that the tables are out"); err != nil {
				return err
			}
			return r.Note(tablesOut)
		case !changed:
			return fmt.Errorf("no answer came yet from %s, and nothing else was removed", sentence(left))
		}
	}
}

// sentence of nodes with what is to be said of each.
func sentence(nodes map[string]string) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		out = append(out, strings.TrimSpace(name+" "+nodes[name]))
	}
	return someOf(out)
}

// silent are the nodes from which the table is not yet known to be gone, each with why; "" stands for those that have no pod yet.
func (r *run) silent(ctx context.Context, t *Thing) (map[string]string, error) {
	ds, err := r.get(ctx, t)
	if err != nil {
		return nil, err
	}
	nodes, err := r.tables(ctx, ds)
	if err != nil {
		return nil, err
	}
	out, answered := map[string]string{}, 0
	for name, n := range nodes {
		switch {
		case n.out() || r.Noted(without(name)):
			answered++
		case n.Trouble != "":
			out[name] = "(" + n.Trouble + ")"
		case n.says != "":
			out[name] = "(" + n.says + ")"
		default:
			out[name] = ""
		}
	}
	if ds == nil {
		return out, nil
	}
	seen, _, _ := unstructured.NestedInt64(ds.Object, "status", "observedGeneration")
	wanted, _, _ := unstructured.NestedInt64(ds.Object, "status", "desiredNumberScheduled")
	if seen < ds.GetGeneration() || len(out) == 0 && int64(answered) < wanted {
		out[""] = fmt.Sprintf("%s (%d of %d nodes have a pod of it)", t, answered, wanted)
	}
	return out, nil
}

// What a run notes beside what is gone.
const tablesOut = "tables are out"

func without(node string) string { return "without node " + node }

// GoWithout notes that the run need not wait for a node.
func (j *Journal) GoWithout(node string) error { return j.Note(without(node)) }
