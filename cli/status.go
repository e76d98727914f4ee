package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers"
	"github.com/tierwall/tierwall/controllers/store"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "whether all is as it should be: nodes, agents, policies, and in a cluster the controller",
		UsageText: "tierctl status [-n NAMESPACE] [-o wide|json|yaml]",
		Description: "What nodes report, what objects' conditions say, and what follows from both: a node whose report is older than an object that concerns it is\n" +
			"behind. Exit status 1: something is not as it should be; a warning about an object alone is none. On the host that a store is of it also\n" +
			"tells, as root, whether the agent runs: see tierctl node status.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "of namespaced objects only those of `NAMESPACE`"},
			agentsFlag(), outputFlag("wide (nothing is cut short), json, yaml (default: what is wrong, and tables)"), datastoreFlag(),
		},
		Action: printStatus,
	}
}

// statusView is what status -o json prints.
type statusView struct {
	Well       bool              `json:"well"`
	Wrong      []string          `json:"wrong"` // in the order of importance
	Datastore  string            `json:"datastore"`
	Nodes      []nodeStatus      `json:"nodes"`
	Kinds      []kindStatus      `json:"kinds"`
	Objects    []objectStatus    `json:"objects"` // those that are not as they should be
	Warnings   []objectStatus    `json:"warnings"`
	Components []componentStatus `json:"components,omitempty"` // of a cluster
}

// nodeStatus is of a node that has an agent, or should have one.
type nodeStatus struct {
	Node      string       `json:"node"`
	Version   string       `json:"agentVersion,omitempty"`
	Enforcing string       `json:"enforcing"`            // True, False, or Unknown
	Since     *metav1.Time `json:"since,omitempty"`      // it is so
	Reported  *metav1.Time `json:"reportedAt,omitempty"` // last
	Endpoints int          `json:"endpoints"`
	Policies  int          `json:"policies"`
	Behind    int          `json:"behind"` // objects that it does not have in force as they are now
	Wrong     string       `json:"wrong,omitempty"`
}

// kindStatus counts the objects of a kind.
type kindStatus struct {
	Kind string `json:"kind"`
	All  int    `json:"all"`
	Well int    `json:"well"`
}

type objectStatus struct {
	Object string `json:"object"`
	controllers.Fault
}

// componentStatus is of what a cluster has once.
type componentStatus struct {
	Name  string `json:"name"`
	Says  string `json:"says"`
	Wrong bool   `json:"wrong"`
}

func printStatus(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "wide", "json", "yaml")
	if err != nil {
		return err
	}
	v, err := statusOfAll(c)
	if err != nil {
		return err
	}
	switch format {
	case "json", "yaml":
		err = v.write(c, format)
	default:
		err = v.print(c, format == "wide")
	}
	if err != nil || v.Well {
		return err
	}
	more := ""
	if n := len(v.Wrong) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	return fmt.Errorf("not all is as it should be: %s%s", oneLine(v.Wrong[0], 200), more)
}

// statusOfAll asks the store and, in a cluster, those who serve it.
func statusOfAll(c *cli.Context) (*statusView, error) {
	agents, err := labels.Parse(c.String("agents"))
	if err != nil {
		return nil, usagef("agents: %v", err)
	}
	s, err := openStore(c)
	if err != nil {
		return nil, err
	}
	v := &statusView{Wrong: []string{}, Datastore: fmt.Sprint(s), Nodes: []nodeStatus{}, Kinds: []kindStatus{}, Objects: []objectStatus{}, Warnings: []objectStatus{}}
	reports, err := s.List(c.Context, "NodeReport", "")
	if err != nil {
		return nil, err
	}
	objs, err := v.judged(c, s)
	if err != nil {
		return nil, err
	}
	v.reported(reports, objs)
	if kind, _ := datastore(c); kind == kubeDatastore {
		if err := v.cluster(c, s, agents); err != nil {
			return nil, err
		}
	} else if err := v.host(c); err != nil {
		return nil, err
	}
	v.sum()
	return v, nil
}

// judged are the objects that have conditions, and counts them. Only a namespace's own are shown where one is asked for; a node is behind with any.
func (v *statusView) judged(c *cli.Context, s store.Store) (all []client.Object, err error) {
	for _, k := range store.Kinds() {
		if k.Kind == "NodeReport" || !store.Reported(&k) {
			continue
		}
		objs, err := s.List(c.Context, k.Kind, "")
		switch {
		case errors.Is(err, store.ErrInvalid), errors.Is(err, store.ErrNoKind): // what the store does not know it has none of
			continue
		case errors.Is(err, store.ErrCorruptObject): // the others are there all the same
			v.Objects = append(v.Objects, objectStatus{k.Kind, controllers.Fault{Message: err.Error()}})
		case err != nil:
			return nil, err
		}
		all = append(all, objs...)
		v.count(k.Kind, slices.DeleteFunc(objs, func(o client.Object) bool {
			return k.Namespaced && c.String("namespace") != "" && o.GetNamespace() != c.String("namespace")
		}))
	}
	return all, nil
}

func (v *statusView) count(kind string, objs []client.Object) {
	n := kindStatus{Kind: kind}
	for _, o := range objs {
		name := v3.RefOf(o.(v3.Object)).String()
		if t, err := store.TrialOf(o); err == nil && t != nil {
			v.Warnings = append(v.Warnings, objectStatus{name, controllers.Fault{Reason: "OnTrial", Message: trialWords(t)}})
		}
		if !hasStatus(o) {
			continue
		}
		n.All++
		wrong, warning := controllers.FaultOf(o)
		if wrong != nil {
			v.Objects = append(v.Objects, objectStatus{name, *wrong})
		} else {
			n.Well++
		}
		if warning != nil {
			v.Warnings = append(v.Warnings, objectStatus{name, *warning})
		}
	}
	if n.All > 0 {
		v.Kinds = append(v.Kinds, n)
	}
}

// trialWords are of an object that is not as it is to stay, unless somebody says so.
func trialWords(t *store.Trial) string {
	done := "changed"
	if t.Gone {
		done = "deleted"
	}
	return fmt.Sprintf("%s on trial by %s until %s: tierctl confirm %s keeps it so", done, t.By, t.Until.Format(time.RFC3339), t.ID)
}

// hasStatus leaves out kinds that nobody judges.
func hasStatus(o client.Object) bool {
	_, felix := o.(*v3.FelixConfiguration)
	conditions, _ := v3.ConditionsOf(o)
	return conditions != nil && !felix || v3.RefOf(o.(v3.Object)).Kind == v3.KindKubernetesClusterNetworkPolicy
}

// reported is what nodes say of themselves, and what they do not have yet.
func (v *statusView) reported(reports, objs []client.Object) {
	for _, o := range reports {
		r, ok := o.(*v1alpha1.NodeReport)
		if !ok {
			continue
		}
		n := nodeStatus{Node: r.Name, Version: r.Status.AgentVersion, Enforcing: "Unknown", Reported: &r.Status.ReportedAt,
			Endpoints: r.Status.Endpoints, Policies: r.Status.Policies}
		if c := apimeta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionEnforcing); c != nil {
			n.Enforcing, n.Since = string(c.Status), &c.LastTransitionTime
			if c.Status != metav1.ConditionTrue {
				n.Wrong = cmp.Or(c.Message, c.Reason)
			}
		} else {
			n.Wrong = "its report does not say whether it enforces"
		}
		for _, obj := range objs {
			if controllers.Behind(r, obj) {
				n.Behind++
			}
		}
		if n.Wrong == "" && n.Behind > 0 {
			n.Wrong = fmt.Sprintf("its report is older than %d objects: its agent has ended, or does not come after", n.Behind)
		}
		v.Nodes = append(v.Nodes, n)
	}
}

// colour of what a node says of enforcing.
func (n *nodeStatus) colour() colour {
	switch {
	case n.Enforcing == string(metav1.ConditionFalse):
		return red
	case n.Wrong != "":
		return yellow
	}
	return normal
}

// lacking notes a node's fault, unless a weightier one is known.
func (n *nodeStatus) lacking(format string, args ...any) {
	if n.Enforcing != string(metav1.ConditionFalse) {
		n.Wrong = fmt.Sprintf(format, args...)
	}
}

func (v *statusView) node(name string) *nodeStatus {
	for i := range v.Nodes {
		if v.Nodes[i].Node == name {
			return &v.Nodes[i]
		}
	}
	return nil
}

// sum up: what enforces comes before what is enforced.
func (v *statusView) sum() {
	for _, n := range v.Nodes {
		if n.Wrong != "" {
			v.Wrong = append(v.Wrong, "node "+n.Node+": "+n.Wrong)
		}
	}
	if len(v.Nodes) == 0 {
		v.Wrong = append(v.Wrong, "no agent has reported: nothing is enforced")
	}
	for _, c := range v.Components {
		if c.Wrong {
			v.Wrong = append(v.Wrong, c.Name+": "+c.Says)
		}
	}
	for _, o := range v.Objects {
		v.Wrong = append(v.Wrong, o.Object+": "+o.Fault.String())
	}
	v.Well = len(v.Wrong) == 0
}

func (v *statusView) write(c *cli.Context, format string) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err == nil && format == "yaml" {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s\n", strings.TrimRight(string(text), "\n"))
	return err
}

func (v *statusView) print(c *cli.Context, wide bool) error {
	w := tabwriter.NewWriter(c.App.Writer, 5, 1, 3, ' ', 0)
	most, lines := 160, 20
	if wide {
		most, lines = 1<<20, 1<<20
	}
	paint := func(k colour, text string) string { return paint(c.App.Writer, k, text) }
	fmt.Fprintf(w, "NODE\t%s\tSINCE\tREPORTED\tENDPOINTS\tPOLICIES\tAGENT\n", paint(normal, "ENFORCING"))
	for _, n := range v.Nodes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", n.Node, paint(n.colour(), n.Enforcing), age(n.Since), age(n.Reported), n.Endpoints, n.Policies, cmp.Or(n.Version, "-"))
	}
	if len(v.Kinds) > 0 {
		fmt.Fprintf(w, "\nKIND\t%s\tOF\n", paint(normal, "WELL"))
	}
	for _, k := range v.Kinds {
		fmt.Fprintf(w, "%s\t%s\t%d\n", k.Kind, paint(map[bool]colour{true: normal, false: yellow}[k.Well == k.All], strconv.Itoa(k.Well)), k.All)
	}
	if len(v.Components) > 0 {
		fmt.Fprintln(w)
	}
	for _, k := range v.Components {
		fmt.Fprintf(w, "%s\t%s\n", k.Name, paint(map[bool]colour{true: red}[k.Wrong], oneLine(k.Says, most)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	var b strings.Builder
	list := func(heading string, all []string) {
		for i, text := range all {
			if i == 0 {
				b.WriteString("\n" + heading + "\n")
			}
			if i == lines {
				fmt.Fprintf(&b, "  and %d more: -o wide says them all\n", len(all)-i)
				return
			}
			b.WriteString("  " + oneLine(text, most) + "\n")
		}
	}
	list(paint(red, "Not as it should be:"), v.Wrong)
	var warnings []string
	for _, o := range v.Warnings {
		warnings = append(warnings, o.Object+": "+o.Message)
	}
	list(paint(yellow, "Warnings:"), warnings)
	if v.Well {
		b.WriteString("\n" + paint(green, "All is as it should be.") + "\n")
	}
	_, err := fmt.Fprint(c.App.Writer, b.String())
	return err
}

// age as kubectl has it.
func age(t *metav1.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// oneLine of a text, cut short.
func oneLine(text string, most int) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' }), "; ")
	if r := []rune(text); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}

// host is what the machine itself says of its agent, where it may be asked and the store is its own.
func (v *statusView) host(c *cli.Context) error {
	name, err := nodeName(c)
	if err != nil {
		return err
	}
	n := v.node(name)
	if n == nil {
		return nil
	}
	held, err := holder()
	if err == nil && held.Process == 0 {
		n.lacking("%s", map[bool]string{true: "its agent does not run: what it enforced last stays in force", false: "its agent does not run, and its table is not there"}[held.There])
	}
	return nil // who may not ask the kernel does not know
}

// cluster is what serves the whole of one.
func (v *statusView) cluster(c *cli.Context, s store.Store, agents labels.Selector) error {
	nodes, err := s.List(c.Context, "Node", "")
	if err != nil {
		return err
	}
	for _, o := range nodes {
		if v.node(o.GetName()) == nil && agents.Matches(labels.Set(o.GetLabels())) {
			v.Nodes = append(v.Nodes, nodeStatus{Node: o.GetName(), Enforcing: "Unknown", Wrong: "no agent has reported from it"})
		}
	}
	slices.SortFunc(v.Nodes, func(a, b nodeStatus) int { return strings.Compare(a.Node, b.Node) })
	k, err := openComponents(c)
	if err != nil {
		return err
	}
	v.Components = k.look(c.Context)
	pods, err := k.agents(c.Context)
	if err != nil {
		v.Components = append(v.Components, componentStatus{Name: "Agents", Says: "their pods cannot be looked at: " + err.Error()})
	}
	v.pods(pods, nodes)
	return nil
}

// pods are the agents', where they are pods at all: a report does not say whether its agent still runs.
func (v *statusView) pods(pods []corev1.Pod, nodes []client.Object) {
	if len(pods) == 0 {
		return
	}
	there := map[string]bool{}
	for _, o := range nodes {
		there[o.GetName()] = true
	}
	for i := range v.Nodes {
		n := &v.Nodes[i]
		j := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Spec.NodeName == n.Node && p.DeletionTimestamp == nil })
		switch {
		case !there[n.Node]:
			n.lacking("there is no such node any more: the controller removes its report")
		case j < 0:
			n.lacking("no pod of an agent is on it: what it enforced last stays in force")
		case !ready(&pods[j]):
			n.lacking("its agent %s/%s is not ready: see kubectl describe pod, and its log", pods[j].Namespace, pods[j].Name)
		}
	}
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
}

// within bounds one question to a server that may not answer.
func within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 20*time.Second)
}
