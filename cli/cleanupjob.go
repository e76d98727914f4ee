package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	batchclient "k8s.io/client-go/kubernetes/typed/batch/v1"

	"github.com/tierwall/tierwall/cli/early"
	"github.com/tierwall/tierwall/dataplane/leftovers"
)

// nodesFlags are those of cleanup node for nodes of a cluster.
func nodesFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "nodes", Usage: "`NODES` of the cluster, with commas between them, or all: a Job does it on each, with --root there"},
		&cli.IntFlag{Name: "at-once", Usage: "`N` nodes at once (default: 1 where something is changed, else 10)"},
		&cli.DurationFlag{Name: "timeout", Usage: "`DURATION` to wait for each node", Value: 5 * time.Minute},
		&cli.StringFlag{Name: "job-namespace", Usage: "`NAMESPACE` of the Jobs; it must admit privileged pods", Value: "tierwall-system"},
		&cli.StringFlag{Name: "image", Usage: "`IMAGE` of the Jobs (default: that of the DaemonSet tierwall-agent there, or else this release's)"},
		datastoreFlag(),
	}
}

// nodeResult is what became of one node.
type nodeResult struct {
	Node   string       `json:"node"`
	Status int          `json:"status"` // as an exit status
	Error  string       `json:"error,omitempty"`
	Result *nodeCleanup `json:"result,omitempty"`
}

// alarming tells that the next node is better left alone: this one has lost a connection, or nobody knows.
func (r *nodeResult) alarming() bool {
	return r.Status == exitTimeout || r.Result == nil && r.Status != exitOK && r.Status != exitRefused || r.Result != nil && len(r.Result.Unreachable) > 0
}

// nodeJobs clean nodes, each by a Job on it.
type nodeJobs struct {
	*components
	batch   batchclient.JobInterface
	name    string // of the namespace
	pod     corev1.PodSpec
	owners  []string
	timeout time.Duration
}

// hostRoot is where a Job has its node's root.
const hostRoot = "/host"

func cleanupNodes(c *cli.Context, format string, o leftovers.Options) error {
	if c.Int("at-once") < 0 || c.Duration("timeout") <= 0 {
		return usagef("--at-once is 1 or more, --timeout is more than 0")
	}
	k, err := openComponents(c)
	if err != nil {
		return err
	}
	nodes, err := k.nodes(c)
	if err != nil {
		return err
	}
	j, err := k.nodeJobs(c, o)
	if err != nil {
		return err
	}
	results := j.all(c, nodes)
	if format == "json" {
		text, err := json.MarshalIndent(map[string]any{"nodes": results}, "", "  ")
		if err != nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "%s\n", text)
	} else {
		printNodes(c, results)
	}
	return ofNodes(results)
}

// ofNodes is what all results come to.
func ofNodes(results []nodeResult) error {
	var failed []string
	status := exitOK
	for _, r := range results {
		switch {
		case r.Status == exitOK:
			continue
		case r.Status == exitTimeout:
			status = exitTimeout
		case status != exitTimeout:
			status = exitPartly
		}
		failed = append(failed, r.Node+": "+r.Error)
	}
	if status == exitOK {
		return nil
	}
	if !slices.ContainsFunc(results, func(r nodeResult) bool { return r.Status != exitRefused }) {
		status = exitRefused
	}
	return statusError{errors.New(strings.Join(failed, "\n")), status}
}

// nodes that are named, or all that have a kernel.
func (k *components) nodes(c *cli.Context) (nodes []corev1.Node, err error) {
	list, err := k.core.Nodes().List(c.Context, metav1.ListOptions{LabelSelector: "kubernetes.io/os=linux,type!=virtual-kubelet"})
	if err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	if c.String("nodes") == "all" {
		return list.Items, nil
	}
	for _, name := range strings.FieldsFunc(c.String("nodes"), func(r rune) bool { return r == ',' || r == ' ' }) {
		i := slices.IndexFunc(list.Items, func(n corev1.Node) bool { return n.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("--nodes: there is no Linux node %s in this cluster", name)
		}
		nodes = append(nodes, list.Items[i])
	}
	if len(nodes) == 0 {
		return nil, usagef("--nodes is all, or names of nodes with commas between them")
	}
	return nodes, nil
}

func (k *components) nodeJobs(c *cli.Context, o leftovers.Options) (*nodeJobs, error) {
	batch, err := batchclient.NewForConfig(k.config)
	if err != nil {
		return nil, err
	}
	namespace := c.String("job-namespace")
	j := &nodeJobs{components: k, batch: batch.Jobs(namespace), name: namespace, owners: o.Of, timeout: c.Duration("timeout")}
	if len(j.owners) == 0 {
		j.owners = leftovers.Owners()[:1]
	}
	container := corev1.Container{Name: "cleanup", Image: c.String("image"), ImagePullPolicy: corev1.PullIfNotPresent, Args: jobArgs(c, o),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError}
	yes, no, in := true, false, corev1.MountPropagationHostToContainer
	container.SecurityContext = &corev1.SecurityContext{Privileged: &yes, RunAsUser: new(int64), ReadOnlyRootFilesystem: &yes}
	container.VolumeMounts = []corev1.VolumeMount{{Name: "host", MountPath: hostRoot, MountPropagation: &in}}
	root := "/"
	if o.Root != "" {
		root = o.Root
	}
	j.pod = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, HostNetwork: true, HostPID: true, DNSPolicy: corev1.DNSDefault, AutomountServiceAccountToken: &no,
		PriorityClassName: "system-node-critical", Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Volumes: []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: root}}}}}
	agent, err := k.apps.DaemonSets(namespace).Get(c.Context, "tierwall-agent", metav1.GetOptions{})
	switch {
	case err == nil:
		j.pod.ImagePullSecrets = agent.Spec.Template.Spec.ImagePullSecrets
		if theirs := agent.Spec.Template.Spec.Containers[0]; container.Image == "" {
			container.Image, container.ImagePullPolicy = theirs.Image, theirs.ImagePullPolicy
		}
	case !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("DaemonSet %s/tierwall-agent: %w", namespace, err)
	case container.Image == "":
		container.Image = "tierwall/tierwall:" + strings.TrimPrefix(early.Version, "v")
	}
	j.pod.Containers = []corev1.Container{container}
	return j, nil
}

// jobArgs are those of this command, for the node alone.
func jobArgs(c *cli.Context, o leftovers.Options) []string {
	args := []string{"cleanup", "node", "--root=" + hostRoot, "--output=json"}
	for _, flag := range []string{"keep-cni", "yes", "restore"} {
		if c.Bool(flag) {
			args = append(args, "--"+flag)
		}
	}
	for _, owner := range o.Of {
		args = append(args, "--of="+owner)
	}
	for _, check := range c.StringSlice("check") {
		args = append(args, "--check="+check)
	}
	if dir := c.String("backup"); dir != "" {
		args = append(args, "--backup="+dir)
	}
	return args
}

// all nodes, so many at once. Where something is changed none is begun behind one that is alarming.
func (j *nodeJobs) all(c *cli.Context, nodes []corev1.Node) []nodeResult {
	atOnce := c.Int("at-once")
	if atOnce == 0 {
		atOnce = map[bool]int{true: 1, false: 10}[c.Bool("yes")]
	}
	results := make([]nodeResult, len(nodes))
	var running sync.WaitGroup
	var alarm atomic.Pointer[string]
	places := make(chan struct{}, atOnce)
	for i := range nodes {
		places <- struct{}{}
		if at := alarm.Load(); at != nil && c.Bool("yes") {
			results[i] = nodeResult{Node: nodes[i].Name, Status: exitPartly, Error: "not begun, because of " + *at}
			<-places
			continue
		}
		running.Go(func() {
			defer func() { <-places }()
			results[i] = j.clean(c.Context, &nodes[i])
			if results[i].alarming() {
				alarm.Store(&nodes[i].Name)
			}
		})
	}
	running.Wait()
	return results
}

// clean one node.
func (j *nodeJobs) clean(ctx context.Context, n *corev1.Node) nodeResult {
	r := nodeResult{Node: n.Name}
	err := j.do(ctx, n, &r)
	var s statusError
	switch {
	case err == nil:
		return r
	case errors.As(err, &s):
		r.Status = s.status
	case r.Status == exitOK:
		r.Status = exitError
	}
	r.Error = err.Error()
	return r
}

func (j *nodeJobs) do(ctx context.Context, n *corev1.Node, r *nodeResult) error {
	if !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}) {
		return statusError{errors.New("the node is not ready: nothing was begun there"), exitPartly}
	}
	if err := j.refuses(ctx, n.Name); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, j.timeout)
	defer stop()
	job, err := j.begin(ctx, n.Name)
	if err != nil {
		return inTime(ctx, err)
	}
	pod, err := j.ended(ctx, job)
	if pod == nil || pod.Status.Phase == corev1.PodPending || err == nil {
		defer j.remove(context.WithoutCancel(ctx), job) // one that is at work ends by itself, and is removed later
	}
	if err != nil {
		return inTime(ctx, fmt.Errorf("Job %s/%s: %w", j.name, job, err))
	}
	return j.result(ctx, pod, r)
}

// inTime marks what did not end in time.
func inTime(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return statusError{err, exitTimeout}
	}
	return err
}

// running are the pods' labels by which owners' DaemonSets are known.
var running = map[string][]string{"calico": {"calico-node", "canal"}, "kube-router": {"kube-router"}, "azure-npm": {"azure-npm"}}

// refuses while an owner's pod is on the node.
func (j *nodeJobs) refuses(ctx context.Context, node string) error {
	var apps []string
	for _, o := range j.owners {
		apps = append(apps, running[o]...)
	}
	pods, err := j.core.Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node, LabelSelector: "k8s-app in (" + strings.Join(apps, ",") + ")"})
	if err != nil {
		return fmt.Errorf("looking for pods of %s: %w", strings.Join(j.owners, " and "), err)
	}
	for _, p := range pods.Items {
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			return statusError{fmt.Errorf("nothing was removed: pod %s/%s is still there, and would make again what is removed", p.Namespace, p.Name), exitRefused}
		}
	}
	return nil
}

// jobName of a node's; it is the value of a label, too.
func jobName(node string) string {
	const prefix, most = "tierwall-cleanup-", 63
	if len(prefix+node) <= most {
		return prefix + node
	}
	return fmt.Sprintf("%s%x", prefix, sha256.Sum256([]byte(node)))[:most]
}

// begin a node's Job. One of an earlier call that has ended is removed first; one that is at work and does the same is waited for.
func (j *nodeJobs) begin(ctx context.Context, node string) (name string, err error) {
	labels := map[string]string{"app.kubernetes.io/name": "tierwall", "app.kubernetes.io/component": "cleanup"}
	tries, ttl := int32(0), int32(3600)
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: jobName(node), Namespace: j.name, Labels: labels},
		Spec: batchv1.JobSpec{BackoffLimit: &tries, TTLSecondsAfterFinished: &ttl,
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: j.pod}}}
	job.Spec.Template.Spec.NodeName = node
	err = wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		_, err := j.batch.Create(ctx, job, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return true, err
		}
		old, err := j.batch.Get(ctx, job.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return false, nil
		case err != nil:
			return false, err
		case old.DeletionTimestamp != nil:
			return false, nil
		case old.Status.Succeeded+old.Status.Failed > 0:
			return false, j.remove(ctx, job.Name)
		case !slices.Equal(old.Spec.Template.Spec.Containers[0].Args, j.pod.Containers[0].Args):
			return false, statusError{fmt.Errorf("Job %s/%s of another call is at work there: wait for it, or delete it", j.name, job.Name), exitRefused}
		}
		return true, nil
	})
	if err != nil && !errors.As(err, new(statusError)) {
		err = fmt.Errorf("making Job %s/%s: %w", j.name, job.Name, err)
	}
	return job.Name, err
}

func (j *nodeJobs) remove(ctx context.Context, name string) error {
	policy := metav1.DeletePropagationForeground
	err := j.batch.Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &policy})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// ended waits until the Job's pod has, and gives the last that was seen of it.
func (j *nodeJobs) ended(ctx context.Context, job string) (pod *corev1.Pod, err error) {
	why := "it has no pod yet"
	err = wait.PollUntilContextCancel(ctx, 300*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		pods, err := j.core.Pods(j.name).List(ctx, metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-name=" + job})
		switch {
		case err != nil && ctx.Err() == nil:
			why = err.Error() // perhaps the API server is away for a moment
			return false, nil
		case err != nil:
			return false, err
		case len(pods.Items) == 0:
			return false, nil
		}
		pod = &pods.Items[0]
		why = "its pod " + pod.Name + " is " + string(pod.Status.Phase)
		if s := pod.Status.ContainerStatuses; len(s) > 0 && s[0].State.Waiting != nil {
			why += ": " + strings.TrimSpace(s[0].State.Waiting.Reason+" "+s[0].State.Waiting.Message)
		}
		return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed, nil
	})
	if err != nil {
		err = fmt.Errorf("it has not ended in time: %s", why)
	}
	return pod, err
}

// result is what the command on the node has printed, or else what it ended with.
func (j *nodeJobs) result(ctx context.Context, pod *corev1.Pod, r *nodeResult) error {
	if len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].State.Terminated == nil {
		return fmt.Errorf("pod %s ended before it began: %s %s", pod.Name, pod.Status.Reason, pod.Status.Message)
	}
	end := pod.Status.ContainerStatuses[0].State.Terminated
	r.Status = int(end.ExitCode)
	log, err := j.core.Pods(j.name).GetLogs(pod.Name, &corev1.PodLogOptions{}).Stream(ctx)
	if err == nil {
		var text []byte
		text, err = io.ReadAll(log)
		err = errors.Join(err, log.Close())
		if err == nil {
			r.Result, err = parseResult(text)
		}
	}
	switch {
	case r.Result != nil && r.Result.Error != "":
		return errors.New(r.Result.Error)
	case err == nil && r.Status == exitOK:
		return nil
	case r.Status == exitOK:
		return statusError{fmt.Errorf("it was done, but what was done could not be read: %w", err), exitPartly}
	}
	return fmt.Errorf("exit status %d: %s", r.Status, strings.TrimSpace(end.Message))
}

// parseResult finds what is the result's among all that was printed: a log has both outputs.
func parseResult(log []byte) (*nodeCleanup, error) {
	var text strings.Builder
	for line := range strings.Lines(string(log)) {
		if strings.HasPrefix(line, "{") || strings.HasPrefix(line, "}") || strings.HasPrefix(line, "  ") {
			text.WriteString(line)
		}
	}
	v := new(nodeCleanup)
	if err := json.Unmarshal([]byte(text.String()), v); err != nil {
		return nil, fmt.Errorf("the log of its pod has no result: %w", err)
	}
	return v, nil
}

// printNodes a line each; of a single one everything.
func printNodes(c *cli.Context, results []nodeResult) {
	if len(results) == 1 && results[0].Result != nil {
		results[0].Result.print(c)
		return
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NODE\tFOUND\tSTAY\tSTATE\tBACKUP")
	for _, r := range results {
		if r.Result == nil {
			fmt.Fprintf(w, "%s\t-\t-\t%s\t-\n", r.Node, map[int]string{exitRefused: "refused", exitTimeout: "not in time", exitPartly: "not begun"}[r.Status])
			continue
		}
		backup := r.Result.Backup
		if backup == "" {
			backup = "-"
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\n", r.Node, len(r.Result.Items), len(r.Result.Kept), r.state(), backup)
	}
	_ = w.Flush() // to the same writer as everything else
	for _, r := range results {
		for _, m := range r.mind() {
			fmt.Fprintf(c.App.Writer, "%s: mind: %s\n", r.Node, m)
		}
	}
}

func (r *nodeResult) mind() []string {
	if r.Result == nil || r.Result.Leftovers == nil {
		return nil
	}
	return r.Result.Mind
}

// state in a word or two.
func (r *nodeResult) state() string {
	switch v := r.Result; {
	case r.Status == exitRefused:
		return "refused"
	case v.Removed && r.Status == exitOK:
		return "removed"
	case v.Restored && r.Status == exitOK:
		return "put back"
	case r.Status != exitOK:
		return "failed"
	case len(v.Items) == 0:
		return "clean"
	}
	return "would be removed"
}

// inPod are what a pod can check without being told: the API server, by its service.
func inPod() (targets []string) {
	if host := os.Getenv("KUBERNETES_SERVICE_HOST"); host != "" {
		targets = append(targets, net.JoinHostPort(host, os.Getenv("KUBERNETES_SERVICE_PORT")))
	}
	return targets
}
