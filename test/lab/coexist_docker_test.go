package lab

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// dockerCgroup is where docker's containers are.
var dockerCgroup = fmt.Sprintf("tierwall-lab-%d", os.Getpid())

// dockerd runs docker's daemon on a node. It finds that packets are not forwarded there, and so sees to it that none but its own are.
func (c *cluster) dockerd(node string) *guest {
	c.t.Helper()
	if ids, err := os.ReadFile("/proc/self/uid_map"); err != nil || !strings.HasSuffix(strings.TrimSpace(string(ids)), " 4294967295") {
		c.t.Skip("left out, for docker's daemon needs root outside of every user namespace")
	}
	image := filepath.Join(c.t.TempDir(), "image")
	build := exec.Command("go", "build", "-o", filepath.Join(image, "pod"), "../kube/pod")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		c.t.Fatalf("building pod: %v\n%s", err, out)
	}
	c.t.Cleanup(func() { removeCgroups(dockerCgroup) }) // after the guest's end
	g := c.guest(node, "echo 0 >/proc/sys/net/ipv4/ip_forward", "docker.io")
	g.startDockerd()
	g.run("tar -C " + image + " -c pod | docker import - pod")
	return g
}

func (g *guest) startDockerd() {
	g.c.t.Helper()
	g.daemon("dockerd", "dockerd --live-restore --storage-driver vfs --cgroup-parent /"+dockerCgroup+" --pidfile /run/docker.pid", "docker version")
}

// removeCgroups of containers that are gone.
func removeCgroups(name string) {
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		dirs, _ := filepath.Glob(pattern) // the pattern is a good one
		for _, dir := range dirs {
			_ = exec.Command("find", dir, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").Run()
		}
	}
}

// container runs one that does nothing, and takes probes at its address.
func (g *guest) container(name string, args ...string) (address string) {
	g.c.t.Helper()
	g.run("docker run --detach --name " + name + " " + strings.Join(args, " ") + " pod /pod pause")
	words := strings.Fields(g.run("docker inspect --format '{{.State.Pid}} {{.NetworkSettings.IPAddress}}' " + name))
	fd, err := netns.GetFromPath("/proc/" + g.pid + "/root/proc/" + words[0] + "/ns/net")
	fatal(g.c.t, err)
	link, err := netlink.NewHandleAt(fd)
	fatal(g.c.t, err)
	ns := &namespace{name: "container " + name, fd: fd, link: link}
	g.c.all = append(g.c.all, ns)
	g.c.owner[netip.MustParseAddr(words[1])] = ns
	return words[1]
}

// dockerFlows are ways to and from two containers, of which one has published its port 8080 as the node's 30080.
func dockerFlows(one, two string) []serviceFlow {
	return []serviceFlow{
		{name: "published, to outside", from: "198.51.100.9", to: "192.0.2.1", port: 30080, source: "198.51.100.9"},
		{name: "between containers", from: two, to: one, port: 8080, source: two},
		{name: "from a container to outside", from: two, to: "198.51.100.9", port: 8080, source: "192.0.2.1"},
	}
}

// dockerPolicies of the node's uplink, and what each stops.
var dockerPolicies = []struct {
	name, policy string
	stops        []string
}{
	{"before DNAT the published port is seen", denying(preDNAT, "Ingress", "destination: {ports: [30080]}", false), []string{"published, to outside"}},
	{"forwarded, the container's is", denying(onForward, "Ingress", "destination: {ports: [8080]}", true), []string{"published, to outside", "to a pod"}},
	{"forwarded, on the way out", denying(onForward, "Egress", "destination: {nets: [198.51.100.9/32]}", true), []string{"from a container to outside"}},
	{"the host's own policy is not asked of what is forwarded", denying("selector: uplink == 'first'", "Ingress", "source: {nets: [0.0.0.0/0]}", false), nil},
	{"pods' policy is not asked of containers", denying("selector: has(app)", "Ingress", "source: {nets: [172.17.0.0/16]}", true), nil},
}

func (c *cluster) judges(what string, flows []serviceFlow, stops ...string) {
	c.t.Helper()
	var all sync.WaitGroup
	for _, f := range flows {
		want := "Allow"
		if slices.Contains(stops, f.name) {
			want = "Deny"
		}
		all.Go(func() {
			if have := c.connects(f, want == "Allow"); have != want {
				c.t.Errorf("%s: %s: the kernel says %s, want %s", what, f.name, have, want)
			}
		})
	}
	all.Wait()
}

// Docker's daemon and its containers on a node with pods: host endpoints guard the ports that it publishes, its containers are no pods of
// ours, and its FORWARD chain drops pods' packets until it is told otherwise.
func TestDocker(t *testing.T) {
	t.Parallel()
	c := newCluster(t, small)
	c.start(threePods + uplinks)
	ours := c.ours("n1")
	g := c.dockerd("n1")
	one, two := g.container("one", "--publish", "30080:8080"), g.container("two")
	for _, server := range []string{one, "198.51.100.9", "10.0.0.1"} {
		c.server(server)
	}
	flows := append(dockerFlows(one, two), serviceFlow{name: "to a pod", from: "198.51.100.9", to: "10.0.0.1", port: 8080, source: "198.51.100.9"})
	c.judges("docker as it is installed", flows, "to a pod")
	g.run("iptables -I DOCKER-USER -d 10.0.0.0/16 -j ACCEPT; iptables -I DOCKER-USER -s 10.0.0.0/16 -j ACCEPT")
	c.judges("pods let through", flows)
	c.undisturbed("our table", ours, c.ours("n1"))
	theirs := c.others("n1")
	for _, p := range dockerPolicies {
		c.apply(p.policy)
		c.judges(p.name, flows, p.stops...)
	}
	c.delete("globalnetworkpolicy denying")
	c.apply(felix("default", `interfacePrefix: "cali,tap,veth"`))
	c.judges("interfaces called as docker's are closed unless they are pods'", flows)
	c.undisturbed("docker's rules", theirs, c.others("n1"))
	g.end("dockerd")
	g.startDockerd()
	c.judges("the daemon started anew", flows)
	c.undisturbed("docker's rules", theirs, c.others("n1"))
}
