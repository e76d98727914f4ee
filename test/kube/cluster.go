package kube

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Options of a cluster.
type Options struct {
	Images []Image                          // that its nodes have, beside PodImage
	Log    func(format string, args ...any) // is told how far it is; may be nil
}

// Cluster is a Kubernetes cluster of two nodes. Everything of it goes by one name: its network namespaces, its cgroups, and the folder
// with its files.
type Cluster struct {
	Config     *rest.Config // of an administrator; it works in this process only
	Kubeconfig string       // the same for a process on a node or beside the control plane
	PodProgram string       // the file of the command pod, to be run as a probe by Command and PodCommand
	Nodes      []*Node

	name, dir     string
	bin, runtime  string // what Components and Runtime gave
	log           func(format string, args ...any)
	owner, cgroup *os.File // whose lock says that we live, and which our processes begin in
	hub           *place   // where the control plane is
	client        *kubernetes.Clientset
	processes     sync.WaitGroup
	running       sync.Map        // *process by name
	outages       int             // of the control plane
	failed        context.Context // ends when a process does
	fail          context.CancelCauseFunc
}

// patience is how long we wait for one thing, though everything that it needs runs.
const patience = 90 * time.Second

// Up starts a cluster. It needs root, nft and nsenter, and Linux 5.14 with a cgroup tree of version 2. When it cannot, nothing of it is left, and the error has the end of the log of what failed.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a cluster needs root")
	}
	c := &Cluster{log: o.Log}
	if c.log == nil {
		c.log = func(string, ...any) {}
	}
	c.failed, c.fail = context.WithCancelCause(context.Background())
	if err := c.up(ctx, o.Images); err != nil {
		return nil, errors.Join(err, c.Down())
	}
	return c, nil
}

func (c *Cluster) up(ctx context.Context, images []Image) error {
	begun := time.Now()
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"removing what earlier clusters left", Clean},
		{"building", c.build},
		{"claiming a name", c.claim},
		{"connecting the nodes", c.wire},
		{"secrets", c.writeSecrets},
		{"clients", c.connect},
		{"images", func() error { return writeImages(c.file("images.tar"), append(ownImages(c.PodProgram), images...)) }},
		{"starting", func() error { return c.startAll(ctx) }},
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		c.log("%.1fs %s", time.Since(begun).Seconds(), step.what)
	}
	return nil
}

func (c *Cluster) build() (err error) {
	if c.bin, err = Components(); err != nil {
		return err
	}
	if c.runtime, err = Runtime(); err != nil {
		return err
	}
	c.PodProgram, err = podProgram()
	return err
}

// claim takes a name that no other cluster has. It is ours as long as we hold the lock of a file in its folder.
func (c *Cluster) claim() error {
	id := make([]byte, 2)
	_, _ = rand.Read(id) // it does not fail
	name := fmt.Sprintf("tw-%x", id)
	if err := os.Mkdir(stateDir(name), 0o755); err != nil {
		return err
	}
	owner, err := lock(name)
	if err != nil {
		return err
	}
	c.name, c.dir, c.owner = name, stateDir(name), owner
	for i := range plugins {
		c.Nodes = append(c.Nodes, newNode(c, i+1))
	}
	processes, err := makeCgroups(name, c.nodeNames())
	if err != nil {
		return err
	}
	c.cgroup, err = os.Open(processes)
	return err
}

func (c *Cluster) nodeNames() (names []string) {
	for _, n := range c.Nodes {
		names = append(names, n.Name)
	}
	return names
}

// stateDir is the folder of a cluster's files.
func stateDir(name string) string { return filepath.Join(os.TempDir(), "tierwall-test-"+name) }

// lock says that the cluster is used by us. It fails when another process uses it, and ends when ours does.
func lock(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(stateDir(name), "owner"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("cluster %s: %w", name, err), f.Close())
	}
	_, err = fmt.Fprintln(f, os.Getpid())
	return f, err
}

// connect makes what reaches the control plane.
func (c *Cluster) connect() (err error) {
	if c.hub, err = newPlace(func() error { return enterNetns(c.name) }); err != nil {
		return err
	}
	if c.Config, err = c.config(); err != nil {
		return err
	}
	c.Kubeconfig = c.kubeconfig(admin)
	c.client, err = kubernetes.NewForConfig(c.Config)
	return err
}

// startAll starts the control plane and the nodes' containerd at a time; then the rest of the nodes.
func (c *Cluster) startAll(ctx context.Context) error {
	for _, n := range c.Nodes {
		if err := n.begin(); err != nil {
			return err
		}
	}
	steps := []func() error{func() error { return c.startControlPlane(ctx) }}
	for _, n := range c.Nodes {
		steps = append(steps, func() error { return n.importImages(ctx) })
	}
	if err := c.together(steps...); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := n.join(); err != nil {
			return err
		}
	}
	return c.await(ctx, "nodes", c.ready)
}

// ready fails when no pod could be made in the namespace default, or a node is not ready.
func (c *Cluster) ready(ctx context.Context) error {
	if _, err := c.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{}); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := n.ready(ctx); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	return nil
}

// together does things at a time. When one fails, whatever the others wait for is in vain.
func (c *Cluster) together(steps ...func() error) error {
	errs := make(chan error)
	for _, step := range steps {
		go func() { errs <- step() }()
	}
	var first error
	for range steps {
		if err := <-errs; err != nil && first == nil {
			first = err
			c.fail(err)
		}
	}
	return first
}

// await tries until there is no error: as long as ctx lasts, all processes run, and our patience does. One try may take some seconds.
func (c *Cluster) await(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %v", patience))
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer context.AfterFunc(c.failed, func() { fail(context.Cause(c.failed)) })()
	return poll(ctx, what, func() error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return try(ctx)
	})
}

// poll tries until there is no error. When ctx ends first, what ended it and the last error are told.
func poll(ctx context.Context, what string, try func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil { // what comes of that ctx has ended is no news
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (the last try: %w)", what, context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}

// Command is a command beside the control plane: to the nodes, one from outside the cluster.
func (c *Cluster) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return c.inside(ctx, []string{"--net=/run/netns/" + c.name}, name, args...)
}

// Kubectl is kubectl of an administrator.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	cmd := c.Command(ctx, c.component("kubectl"), append([]string{"--kubeconfig", c.Kubeconfig, "--cache-dir", c.file("kubectl")}, args...)...)
	cmd.Env = environment()
	return cmd
}

// PodCommand is a command in the network namespace of a pod that runs, with this machine's files.
func (c *Cluster) PodCommand(ctx context.Context, namespace, pod, name string, args ...string) (*exec.Cmd, error) {
	var errs []error
	for _, n := range c.Nodes {
		cmd, err := n.PodCommand(ctx, namespace, pod, name, args...)
		if err == nil {
			return cmd, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// Down ends the cluster and removes everything of it. It does no harm to call it again.
func (c *Cluster) Down() error {
	if c.owner == nil {
		return nil
	}
	c.fail(errors.New("the cluster is taken down"))
	errs := []error{kill(c.name)}
	c.processes.Wait()
	c.hub.close()
	for _, n := range c.Nodes {
		n.place.close()
	}
	errs = append(errs, remove(c.name), c.owner.Close())
	if c.cgroup != nil {
		errs = append(errs, c.cgroup.Close())
	}
	c.owner = nil
	return errors.Join(errs...)
}

// Clean removes what is left of clusters whose process was killed.
func Clean() error {
	dirs, err := filepath.Glob(stateDir("*"))
	errs := []error{err}
	for _, dir := range dirs {
		name := strings.TrimPrefix(dir, stateDir(""))
		owner, err := lock(name)
		if err != nil {
			continue // its process lives
		}
		errs = append(errs, kill(name), remove(name), owner.Close())
	}
	return errors.Join(errs...)
}

func kill(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return killCgroup(ctx, name)
}

// remove what is left of a cluster that has no process any more.
func remove(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return errors.Join(removeCgroups(ctx, name), removeNetnses(name), os.RemoveAll(stateDir(name)))
}

func (c *Cluster) file(names ...string) string {
	return filepath.Join(append([]string{c.dir}, names...)...)
}

func (c *Cluster) component(name string) string { return filepath.Join(c.bin, name) }
