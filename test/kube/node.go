package kube

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Node is a node of the cluster: a kubelet, containerd and kube-proxy in network and mount namespaces of their own.
type Node struct {
	Name  string
	Netns string       // its network namespace, in /run/netns
	Addrs []netip.Addr // IPv4, IPv6

	pods          dual
	plugin        string // that connects its pods
	kubeProxyMode string // that it begins with
	kubeProxy     *process
	cluster       *Cluster
	place         *place
}

// plugins, one for each node. Point to point, every packet of a pod is forwarded by IP. Those between pods on a bridge are not: IP's hooks
// see them only where net.bridge.bridge-nf-call-iptables says so, which we leave as the kernel has it.
var plugins = []string{
	`{"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false, "ipam": %s}`,
	`{"type": "ptp", "ipMasq": false, "ipam": %s}`,
}

// ProxyModes are the modes of kube-proxy, in the order of the nodes that begin with them.
var ProxyModes = []string{"nftables", "iptables"}

func newNode(c *Cluster, number int) *Node {
	n := &Node{Name: fmt.Sprintf("n%d", number), Netns: fmt.Sprintf("%s-n%d", c.name, number), cluster: c, plugin: plugins[number-1], kubeProxyMode: ProxyModes[number-1]}
	n.Addrs, n.pods = nodeNets(number)
	return n
}

// Command is a command in the node's namespaces. Its files are this machine's, but for those in /run, /var/lib and /var/log.
func (n *Node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return n.cluster.inside(ctx, []string{"--net=" + n.place.proc + "/ns/net", "--mount=" + n.place.proc + "/ns/mnt"}, name, args...)
}

// PodCommand is a command in a pod's network namespace, with this machine's files: what it says does not go through the network.
func (n *Node) PodCommand(ctx context.Context, namespace, pod, name string, args ...string) (*exec.Cmd, error) {
	pid, err := n.sandbox(namespace, pod)
	if err != nil {
		return nil, fmt.Errorf("pod %s/%s on %s: %w", namespace, pod, n.Name, err)
	}
	return n.cluster.inside(ctx, []string{"--net=/proc/" + pid + "/ns/net"}, name, args...), nil
}

// KillContainers kills all of the node's containers of a name, as a crash does. The kubelet starts them again.
func (n *Node) KillContainers(ctx context.Context, name string) error {
	out, err := n.ctr(ctx, "containers", "list", "--quiet", `labels."io.kubernetes.container.name"==`+name).Output()
	if err != nil {
		return fmt.Errorf("containers of node %s: %w", n.Name, err)
	}
	for id := range strings.FieldsSeq(string(out)) {
		_ = n.ctr(ctx, "tasks", "kill", "--signal", "SIGKILL", id).Run() // of one that has ended there is no task
	}
	return nil
}

// sandbox is the process that holds a pod's namespaces.
func (n *Node) sandbox(namespace, pod string) (pid string, err error) {
	err = n.place.do(func() error {
		dirs, err := filepath.Glob("/run/containerd/io.containerd.runtime.v2.task/k8s.io/*")
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			if pid = sandboxOf(dir, namespace, pod); pid != "" {
				return nil
			}
		}
		return errors.New("it does not run")
	})
	return pid, err
}

// sandboxOf reads what containerd keeps of a container: what it was started with, and the number of its process.
func sandboxOf(dir, namespace, pod string) (pid string) {
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return "" // it has just ended
	}
	var container struct{ Annotations map[string]string }
	if err := json.Unmarshal(text, &container); err != nil {
		return "" // it begins
	}
	for key, want := range map[string]string{"container-type": "sandbox", "sandbox-namespace": namespace, "sandbox-name": pod} {
		if container.Annotations["io.kubernetes.cri."+key] != want {
			return ""
		}
	}
	text, err = os.ReadFile(filepath.Join(dir, "init.pid"))
	if err != nil {
		return ""
	}
	if _, err := os.Stat("/proc/" + string(text)); err != nil {
		return ""
	}
	return string(text)
}

// begin makes the node's mount namespace and starts containerd in it.
func (n *Node) begin() (err error) {
	if err := n.writeConfigs(); err != nil {
		return err
	}
	if n.place, err = newPlace(n.enter); err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	return n.start("containerd", filepath.Join(n.cluster.runtime, "containerd"), "--config", n.file("containerd.toml"))
}

func (n *Node) start(name, command string, args ...string) error {
	return n.cluster.start(n.place, n.Name+"-"+name, command, args...)
}

// importImages waits for containerd and gives it the images.
func (n *Node) importImages(ctx context.Context) error {
	err := n.cluster.await(ctx, n.Name+"-containerd", func(ctx context.Context) error {
		if out, err := n.ctr(ctx, "version").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if out, err := n.ctr(ctx, "images", "import", n.cluster.file("images.tar")).CombinedOutput(); err != nil {
		return fmt.Errorf("importing images on %s: %w: %s", n.Name, err, out)
	}
	return nil
}

func (n *Node) ctr(ctx context.Context, args ...string) *exec.Cmd {
	return n.Command(ctx, filepath.Join(n.cluster.runtime, "ctr"), append([]string{"--namespace", "k8s.io"}, args...)...)
}

// join starts what makes it a node of the cluster.
func (n *Node) join() error {
	err := n.start("kubelet", n.cluster.component("kubelet"), "--config="+n.file("kubelet.yaml"), "--kubeconfig="+n.cluster.kubeconfig(n.user()),
		"--hostname-override="+n.Name, "--node-ip="+n.Addrs[0].String()+","+n.Addrs[1].String(), "--cert-dir=/var/lib/kubelet/pki", "--v=2")
	if err != nil {
		return err
	}
	return n.startKubeProxy(n.kubeProxyMode)
}

func (n *Node) startKubeProxy(mode string) (err error) {
	file := n.file("kube-proxy-" + mode + ".yaml")
	if err := writeTemplate(file, kubeProxyConfig, map[string]any{"Name": n.Name, "Mode": mode, "Kubeconfig": n.cluster.kubeconfig(proxy), "PodNets": podNets}); err != nil {
		return err
	}
	n.kubeProxy, err = n.cluster.begin(n.place, n.Name+"-kube-proxy", n.cluster.component("kube-proxy"), "--config="+file)
	return err
}

// RestartKubeProxy ends kube-proxy and starts it in one of ProxyModes. What it programmed in another mode it removes itself.
func (n *Node) RestartKubeProxy(ctx context.Context, mode string) error {
	n.kubeProxy.stop()
	if err := n.startKubeProxy(mode); err != nil {
		return err
	}
	return n.cluster.await(ctx, "kube-proxy of "+n.Name, n.proxied)
}

// proxied fails before kube-proxy has programmed everything once since it was started.
func (n *Node) proxied(ctx context.Context) error {
	conn, err := n.place.dial(ctx, "tcp", "127.0.0.1:10256")
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("kube-proxy says %s", answer.Status)
	}
	return nil
}

// ready fails when no pod would be started on the node, or kube-proxy leads nobody there to a service.
func (n *Node) ready(ctx context.Context) error {
	node, err := n.cluster.client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if err := nodeReady(node); err != nil {
		return err
	}
	if err := n.place.reaches(ctx, netip.AddrPortFrom(apiService[0], 443).String()); err != nil {
		return fmt.Errorf("service kubernetes: %w", err)
	}
	return nil
}

func nodeReady(n *corev1.Node) error {
	if len(n.Spec.Taints) > 0 {
		return fmt.Errorf("taint %s", n.Spec.Taints[0].Key)
	}
	for _, c := range n.Status.Conditions {
		switch {
		case c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue:
			return nil
		case c.Type == corev1.NodeReady:
			return errors.New(c.Message)
		}
	}
	return errors.New("nothing heard of it")
}

func (n *Node) file(name string) string { return n.cluster.file(n.Name, name) }

// kernelSettings are those of the whole machine that a kubelet sets. It finds files in their place which have its values already.
var kernelSettings = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// enter moves the thread it is called on to the node. What is mounted on this machine is seen there too, and not the other way round;
// /run, /var/lib and /var/log are the node's own.
func (n *Node) enter() error {
	if err := enterNetns(n.Netns); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	mounts := []mount{
		{"", "/", "", unix.MS_REC | unix.MS_SLAVE},
		{"", "/", "", unix.MS_REC | unix.MS_SHARED}, // containers see what is mounted later
		{n.file("lib"), "/var/lib", "", unix.MS_BIND},
		{n.file("log"), "/var/log", "", unix.MS_BIND},
		{"none", "/run", "tmpfs", 0},
	}
	for name, value := range kernelSettings {
		file := n.file(filepath.Base(name))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		mounts = append(mounts, mount{file, "/proc/sys/" + name, "", unix.MS_BIND})
	}
	for _, m := range mounts {
		if err := unix.Mount(m.from, m.on, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mounting %s on %s: %w", m.from, m.on, err)
		}
	}
	return nil
}

type mount struct {
	from, on, kind string
	flags          uintptr
}

// writeConfigs writes what the node's processes are told.
func (n *Node) writeConfigs() error {
	for _, dir := range []string{"lib/kubelet", "lib/cni", "log", "cni"} {
		if err := os.MkdirAll(n.file(dir), 0o755); err != nil {
			return err
		}
	}
	ipam := fmt.Sprintf(`{"type": "host-local", "ranges": [[{"subnet": %q}], [{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}`, n.pods[0], n.pods[1])
	values := map[string]any{
		"Name": n.Name, "Cgroup": "/" + n.cluster.name + "/" + n.Name, "Dir": n.file(""), "Runtime": n.cluster.runtime, "Pause": pauseImage,
		"Plugin": fmt.Sprintf(n.plugin, ipam),
	}
	for file, t := range map[string]*template.Template{
		"containerd.toml": containerdConfig, "kubelet.yaml": kubeletConfig, "cni/10-pods.conflist": cniConfig,
	} {
		if err := writeTemplate(n.file(file), t, values); err != nil {
			return err
		}
	}
	return nil
}

func writeTemplate(file string, t *template.Template, values any) error {
	var text bytes.Buffer
	if err := t.Execute(&text, values); err != nil {
		return err
	}
	return os.WriteFile(file, text.Bytes(), 0o644)
}
