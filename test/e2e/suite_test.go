//go:build e2e

// Package e2e plays what operators do in a real cluster of two nodes: the agent as a DaemonSet, the controller as a Deployment, real pods
// behind a bridge on one node and routed on the other, kube-proxy in either mode, and kubectl and tierctl as people use them.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/tierwall/tierwall/test/kube"
)

// suite is the cluster that all tests share, with Tierwall installed.
type suite struct {
	*kube.Cluster
	root    string // of the repository
	tierctl string
	before  map[string]string // settings of the nodes without Tierwall
}

var shared *suite

func TestMain(m *testing.M) {
	status, err := run(m)
	if err != nil {
		fmt.Fprintf(os.Stderr, "e2e: %v\n", err)
		status = 1
	}
	os.Exit(status)
}

func run(m *testing.M) (status int, err error) {
	ctx := context.Background()
	root, err := filepath.Abs("../..")
	if err != nil {
		return 1, err
	}
	s := &suite{root: root, tierctl: filepath.Join(root, "bin", "tierctl")}
	if _, err := os.Stat(s.tierctl); err != nil {
		return 1, fmt.Errorf("%w: make build makes it", err)
	}
	begun := time.Now()
	log := func(format string, args ...any) {
		fmt.Printf("%5.1fs "+format+"\n", append([]any{time.Since(begun).Seconds()}, args...)...)
	}
	upgraded, done, err := buildNext(ctx, root)
	if err != nil {
		return 1, err
	}
	defer done()
	s.Cluster, err = kube.Up(ctx, kube.Options{Log: log, Images: []kube.Image{
		{Ref: "tierwall.test/tierwall:dev", Files: map[string]string{"/tierctl": s.tierctl}, Entrypoint: []string{"/tierctl"}},
		{Ref: "tierwall.test/tierwall:next", Files: map[string]string{"/tierctl": upgraded}, Entrypoint: []string{"/tierctl"}}}})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, s.Down()) }()
	s.before = map[string]string{}
	for _, n := range s.Nodes {
		if s.before[n.Name], err = settingsOf(ctx, n); err != nil {
			return 1, fmt.Errorf("node %s: %w\n%s", n.Name, err, s.before[n.Name])
		}
	}
	if err := s.install(ctx); err != nil {
		return 1, errors.Join(err, s.explain(ctx))
	}
	log("Tierwall is installed")
	shared = s
	return m.Run(), nil
}

// next is the version of the tierctl to which agents are upgraded.
const next = "v9.9.9"

func buildNext(ctx context.Context, root string) (path string, done func(), err error) {
	dir, err := os.MkdirTemp("", "tierctl-")
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join(dir, "tierctl")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X github.com/tierwall/tierwall/cli/early.Version="+next, "-o", path, "./cli")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := said(cmd); err != nil {
		return "", nil, fmt.Errorf("building tierctl %s: %w\n%s", next, err, out)
	}
	return path, func() { _ = os.RemoveAll(dir) }, nil
}

// install as the README says.
func (s *suite) install(ctx context.Context) error {
	for _, args := range [][]string{
		{"apply", "-k", filepath.Join(s.root, "test", "e2e", "overlay")},
		{"-n", "tierwall-system", "rollout", "status", "daemonset/tierwall-agent", "--timeout=90s"},
		{"-n", "tierwall-system", "rollout", "status", "deployment/tierwall-controller", "--timeout=90s"},
	} {
		if out, err := said(s.Kubectl(ctx, args...)); err != nil {
			return fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// explain what became of our pods.
func (s *suite) explain(ctx context.Context) error {
	return s.tell(ctx, []string{"-n", "tierwall-system", "get", "pods", "-o", "wide"}, []string{"-n", "tierwall-system", "describe", "pods"},
		[]string{"-n", "tierwall-system", "logs", "--tail=30", "--prefix", "-l", "app.kubernetes.io/name=tierwall"})
}

// tell what kubectl says of each.
func (s *suite) tell(ctx context.Context, questions ...[]string) error {
	var all []string
	for _, args := range questions {
		out, _ := said(s.Kubectl(ctx, args...)) // what it can say it has said
		all = append(all, out)
	}
	return errors.New(strings.Join(all, "\n"))
}

// said is all that a command writes.
func said(cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// test is the suite in one test.
type test struct {
	*suite
	testing.TB
}

func begin(t testing.TB) *test { return &test{shared, t} }

// kubectl must succeed, and gives what it said. A first argument that begins with a line of YAML is its input.
func (t *test) kubectl(args ...string) string {
	t.Helper()
	return t.command(t.Kubectl(t.Context(), args...), "")
}

// apply objects with kubectl, and take them away when the test has ended.
func (t *test) apply(objects string) {
	t.Helper()
	t.command(t.Kubectl(t.Context(), "apply", "-f", "-"), objects)
	t.Cleanup(func() {
		cmd := t.Kubectl(context.Background(), "delete", "--ignore-not-found", "--wait=false", "-f", "-")
		cmd.Stdin = strings.NewReader(objects)
		if out, err := said(cmd); err != nil {
			t.Errorf("taking objects away: %v\n%s", err, out)
		}
	})
}

// tierctlRun must succeed, and gives what it said.
func (t *test) tierctlRun(input string, args ...string) string {
	t.Helper()
	return t.command(t.Command(t.Context(), t.tierctl, append(args, "--datastore", "kubernetes:"+t.Kubeconfig)...), input)
}

// tierctlApply is apply, by tierctl.
func (t *test) tierctlApply(objects string) {
	t.Helper()
	t.tierctlRun(objects, "apply", "-f", "-")
	t.Cleanup(func() {
		cmd := t.Command(context.Background(), t.tierctl, "delete", "--skip-not-exists", "-f", "-", "--datastore", "kubernetes:"+t.Kubeconfig)
		cmd.Stdin = strings.NewReader(objects)
		if out, err := said(cmd); err != nil {
			t.Errorf("taking objects away: %v\n%s", err, out)
		}
	})
}

func (t *test) command(cmd *exec.Cmd, input string) string {
	t.Helper()
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
	}
	out, err := said(cmd)
	if err != nil {
		t.Errorf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
		t.Fatal(t.standing())
	}
	return out
}

// pod that serves, on a node, with labels k=v.
func pod(namespace, name, node string, labels ...string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {namespace: %s, name: %s, labels: {%s}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers:
  - {name: pod, image: "tierwall.test/pod:1", imagePullPolicy: Never, args: [serve], ports: [{name: http, containerPort: 80}]}
`, namespace, name, strings.ReplaceAll(strings.Join(labels, ", "), "=", ": "), node)
}

func namespace(name string, labels ...string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {%s}}\n", name, strings.ReplaceAll(strings.Join(labels, ", "), "=", ": "))
}

// running waits until pods have addresses, and gives them: IPv4 and IPv6.
func (t *test) running(namespace string) map[string][]string {
	t.Helper()
	t.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pods", "--all", "--timeout=90s")
	out := map[string][]string{}
	text := t.kubectl("-n", namespace, "get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.name}{range .status.podIPs[*]} {.ip}{end}{"\n"}{end}`)
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		out[words[0]] = words[1:]
	}
	return out
}

// outcome of one try.
type outcome string

const (
	answered outcome = "answered"
	refused  outcome = "refused"
	nothing  outcome = "nothing came back"
)

// try once, for so long, to reach an address from a pod ("namespace/name"), from a node ("node/name"), or from outside ("").
func (t *test) try(from, proto, to, port string, patient time.Duration) outcome {
	t.Helper()
	args := []string{"probe", "-timeout", patient.String(), proto, to, port}
	cmd := t.Command(t.Context(), t.PodProgram, args...)
	where, name, isPod := strings.Cut(from, "/")
	switch {
	case where == "node":
		for _, n := range t.Nodes {
			if n.Name == name {
				cmd = n.Command(t.Context(), t.PodProgram, args...)
			}
		}
	case isPod:
		var err error
		if cmd, err = t.PodCommand(t.Context(), where, name, t.PodProgram, args...); err != nil {
			return outcome(err.Error())
		}
	}
	_, err := said(cmd)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return answered
	case errors.As(err, &exit) && exit.ExitCode() == 3:
		return refused
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		return nothing
	}
	return outcome(fmt.Sprintf("%s: %v", cmd, err))
}

// An answer comes in no time, but the machine may be busy; how long nothing comes is a matter of taste.
const (
	short = 500 * time.Millisecond
	long  = 5 * time.Second
)

func (f *flow) patience() time.Duration {
	if f.want == nothing {
		return short
	}
	return long
}

// patience is how long a change may take to be in force on both nodes.
const patience = 15 * time.Second

// flow is one way that is tried, and what becomes of it.
type flow struct {
	from, proto string
	to          []string // each of these addresses
	port        string
	want        outcome
}

// expect that each flow has its outcome, soon, and then keeps it.
func (t *test) expect(what string, flows ...flow) {
	t.Helper()
	deadline := time.Now().Add(patience)
	t.all(flows, func(f flow, to string) string {
		got := t.try(f.from, f.proto, to, f.port, short)
		for got != f.want && time.Now().Before(deadline) {
			got = t.try(f.from, f.proto, to, f.port, short)
		}
		if got != f.want {
			return fmt.Sprintf("%s: %s from %s to %s port %s: %s, want: %s", what, f.proto, f.from, to, f.port, got, f.want)
		}
		return ""
	})
	t.now(what+", and then", flows...)
}

// now each flow has its outcome already.
func (t *test) now(what string, flows ...flow) {
	t.Helper()
	t.all(flows, func(f flow, to string) string {
		if got := t.try(f.from, f.proto, to, f.port, f.patience()); got != f.want {
			return fmt.Sprintf("%s: %s from %s to %s port %s: %s, want: %s", what, f.proto, f.from, to, f.port, got, f.want)
		}
		return ""
	})
}

// all flows at a time; what is wrong with one ends the test.
func (t *test) all(flows []flow, do func(f flow, to string) (wrong string)) {
	t.Helper()
	var running sync.WaitGroup
	wrong := make(chan string, 1000)
	for _, f := range flows {
		for _, to := range f.to {
			running.Go(func() {
				if w := do(f, to); w != "" {
					wrong <- w
				}
			})
		}
	}
	running.Wait()
	close(wrong)
	for w := range wrong {
		t.Error(w)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// standing is how the objects and the nodes stand.
func (t *test) standing() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return t.tell(ctx, []string{"get", "gnp,tier,hep,nodereports.tierwall.io", "-o", "yaml"}, []string{"-n", "tierwall-system", "get", "pods,leases", "-o", "wide"},
		[]string{"-n", "tierwall-system", "logs", "--tail=40", "--prefix", "-l", "app.kubernetes.io/name=tierwall"})
}

// opens and shuts are flows to port 80 by TCP.
func opens(from string, to ...string) flow { return flow{from, "tcp", to, "80", answered} }
func shuts(from string, to ...string) flow { return flow{from, "tcp", to, "80", nothing} }

// eventually something is so.
func (t *test) eventually(what string, ok func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 2*patience, true, func(context.Context) (bool, error) { return ok(), nil })
	if err != nil {
		t.Fatalf("never: %s", what)
	}
}
