package lab

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

var oneNode = Cluster{Nodes: []Node{{"n1", []Uplink{{"eth0", addrs("192.0.2.1", "2001:db8::1")}}}}, Outside: addrs("198.51.100.9")}

// bridge hangs two pods on a bridge of a node, as the plugin of that name does: the bridge has an address in their network.
func (c *cluster) bridge(node, name string) {
	c.t.Helper()
	host := c.nodes[node]
	fatal(c.t, host.link.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}))
	br, err := host.link.LinkByName(name)
	fatal(c.t, err)
	fatal(c.t, host.link.LinkSetUp(br))
	c.ownIn(host, br, "10.0.0.254/24", "fd00::fe/112")
	for _, pod := range []struct {
		port  string
		addrs []string
	}{{"veth1", []string{"10.0.0.1/24", "fd00::1/112"}}, {"veth2", []string{"10.0.0.2/24", "fd00::2/112"}}} {
		ns, err := c.namespace("pod behind " + pod.port)
		fatal(c.t, err)
		fatal(c.t, linkLocal(5).join(host, pod.port, ns, "eth0"))
		port, err := host.link.LinkByName(pod.port)
		fatal(c.t, err)
		fatal(c.t, host.link.LinkSetMaster(port, br))
		eth0, err := ns.link.LinkByName("eth0")
		fatal(c.t, err)
		c.ownIn(ns, eth0, pod.addrs...)
		for i, p := range pod.addrs {
			a, gateway := netip.MustParsePrefix(p).Addr(), addrs("10.0.0.254", "fd00::fe")[i]
			c.owner[a] = ns
			fatal(c.t, fabricLinks.toFar(c.fabric, fabricPort(0, 0), a))
			fatal(c.t, ns.route("eth0", []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}[i], gateway, 0))
		}
	}
}

func (c *cluster) ownIn(ns *namespace, link netlink.Link, prefixes ...string) {
	c.t.Helper()
	for _, p := range prefixes {
		a, err := netlink.ParseAddr(p)
		fatal(c.t, err)
		if a.IP.To4() == nil {
			a.Flags = ifaFlagNoDAD
		}
		fatal(c.t, ns.link.AddrAdd(link, a))
	}
}

var bridgeSettings = []string{"net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"}

func (c *cluster) bridgeFiltering(value string) {
	c.t.Helper()
	for _, s := range bridgeSettings {
		c.on("n1", "sh", "-c", "echo "+value+" > /proc/sys/"+strings.ReplaceAll(s, ".", "/"))
	}
}

func (c *cluster) isFiltered() bool {
	c.t.Helper()
	said := ""
	for _, s := range bridgeSettings {
		said += c.on("n1", "cat", "/proc/sys/"+strings.ReplaceAll(s, ".", "/"))
	}
	return said == "1\n1\n"
}

// between are flows from one pod to the other, in both families.
func (c *cluster) between(what string, port uint16, want Observation) {
	c.t.Helper()
	c.sees(what, tcp("10.0.0.1", "10.0.0.2", port), want)
	c.sees(what, tcp("fd00::1", "fd00::2", port), want)
}

// Packets between two pods on a bridge pass by every hook of the table, until the agent starts.
func TestBridgedPods(t *testing.T) {
	t.Parallel()
	c := newCluster(t, oneNode)
	c.bridge("n1", "br0")
	c.bridgeFiltering("0")
	c.between("without an agent", 5000, Arrived)
	c.start(threePods + deny5000)
	if !c.isFiltered() {
		t.Error("the agent says that it enforces, and has not made the bridge hand packets up")
	}
	c.between("what the policy denies", 5000, Lost)
	c.between("what it allows", 5001, Arrived)
}

// Where no pod is on a bridge its host's setting is nobody's business.
func TestBridgeWithoutPods(t *testing.T) {
	t.Parallel()
	c := newCluster(t, oneNode)
	c.bridge("n1", "br0")
	c.bridgeFiltering("0")
	c.start("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n")
	if c.isFiltered() {
		t.Error("the agent has changed the host's setting, and no pod is on its bridge")
	}
	c.apply(threePods) // the pods come
	if !c.isFiltered() {
		t.Error("the agent says that it enforces, and has not made the bridge hand packets up")
	}
}

// An agent that cannot make the bridge hand packets up does not say that it enforces, but what to do; what it can enforce it does. It
// says so as soon as somebody has done that.
func TestBridgeThatCannotBeFiltered(t *testing.T) {
	t.Parallel()
	c := newCluster(t, oneNode)
	c.bridge("n1", "br0")
	c.bridgeFiltering("0")
	script := "#!/bin/sh\n"
	for _, s := range bridgeSettings { // as in a container
		f := "/proc/sys/" + strings.ReplaceAll(s, ".", "/")
		script += "mount --bind " + f + " " + f + " && mount -o remount,ro,bind " + f + " || exit 9\n"
	}
	wrapped := filepath.Join(t.TempDir(), "tierctl")
	fatal(t, os.WriteFile(wrapped, []byte(script+"exec "+c.tierctl.Path+` "$@"`+"\n"), 0o700))
	inContainer := c.tierctl
	inContainer.Path = filepath.Join(t.TempDir(), "contained")
	fatal(t, os.WriteFile(inContainer.Path, []byte("#!/bin/sh\nexec unshare -m "+wrapped+` "$@"`+"\n"), 0o700))
	revision := c.write(threePods+deny5000, "apply", "-f", "-")

	said := c.on("n1", "sh", "-c", inContainer.Path+" agent --once --node n1 --datastore "+inContainer.Datastore+" 2>&1; echo status $?")
	for _, want := range []string{"br0", "bridge-nf-call-iptables", "set it to 1", "status 1"} {
		if !strings.Contains(said, want) {
			t.Errorf("--once does not say %q: %s", want, said)
		}
	}
	if strings.Contains(said, `"programmed"`) {
		t.Errorf("--once says that it has programmed: %s", said)
	}
	fatal(t, c.StartAgents(inContainer))
	c.agentSays("not all is enforced")
	if log := c.agents[0].said(); strings.Contains(log, `"programmed"`) {
		t.Errorf("the agent says that it has programmed: %s", log)
	}
	c.between("past the table", 5000, Arrived)
	c.sees("from elsewhere", tcp("198.51.100.9", "10.0.0.2", 5000), Lost)
	c.sees("from elsewhere", tcp("198.51.100.9", "10.0.0.2", 5001), Arrived)
	c.bridgeFiltering("1")
	c.waitFor(revision)
	c.between("when somebody has set it", 5000, Lost)
}

// agentSays waits for a line of the first agent's log.
func (c *cluster) agentSays(text string) {
	c.t.Helper()
	ctx, stop := context.WithTimeout(c.t.Context(), patience)
	defer stop()
	for a := c.agents[0]; ; {
		a.mu.Lock()
		changed := a.changed
		a.mu.Unlock()
		log := a.said()
		if strings.Contains(log, text) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.t.Fatalf("the agent does not say %q:\n%s", text, log)
		}
	}
}

func (a *agent) said() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.log, "\n")
}
