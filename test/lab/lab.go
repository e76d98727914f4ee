package lab

import (
	"cmp"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Cluster is what the lab builds.
type Cluster struct {
	Nodes     []Node
	Workloads []Workload
	Outside   []netip.Addr // of nobody in the cluster
	Beyond    []netip.Addr // the same, apart from Outside: packets between the two pass the fabric
}

// Node is a host with its uplinks; the first is where packets for elsewhere go.
type Node struct {
	Name    string
	Uplinks []Uplink
}

// Uplink is an interface that leads out of a node, and the addresses on it.
type Uplink struct {
	Iface string
	Addrs []netip.Addr
}

// Workload is a pod or a workload endpoint.
type Workload struct {
	Name  string // namespace/name
	Node  string
	Iface string // the node's end of its link; "" for Calico's name of it
	Addrs []netip.Addr
	// Claims are addresses that it has as well, though nobody knows: they are another's, or nobody's.
	Claims []netip.Addr
}

// Lab is a Cluster that has been built: a fabric to which the nodes and the outside are linked, and on each node its
// workloads.
type Lab struct {
	fabric   *namespace
	nodes    map[string]*namespace
	index    map[string]int            // of nodes
	uplinks  map[string][]string       // of nodes: their names
	home     map[*namespace]string     // the node that a node's or a workload's namespace is of
	outside  map[*namespace]string     // the fabric's port to it
	outsider *namespace                // the first of them
	behind   map[ifaceAt]*namespace    // the workload behind an interface
	owner    map[netip.Addr]*namespace // who has an address
	all      []*namespace
	agents   []*agent
	sent     bool // something, so that nodes may remember connections
}

// Build makes the namespaces, links, addresses and routes.
func Build(c Cluster) (*Lab, error) {
	l := &Lab{nodes: map[string]*namespace{}, index: map[string]int{}, uplinks: map[string][]string{}, home: map[*namespace]string{},
		outside: map[*namespace]string{}, behind: map[ifaceAt]*namespace{}, owner: map[netip.Addr]*namespace{}}
	if err := l.build(c); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) build(c Cluster) (err error) {
	if l.fabric, err = l.namespace("fabric"); err != nil {
		return err
	}
	for i, n := range c.Nodes {
		if err := l.node(i, n); err != nil {
			return err
		}
	}
	for _, w := range c.Workloads {
		i, ok := l.index[w.Node]
		if !ok {
			return fmt.Errorf("workload %s is on node %s, which is none of the lab's", w.Name, w.Node)
		}
		if err := l.workload(i, w); err != nil {
			return err
		}
	}
	if err := l.outsiders("outside", c.Outside); err != nil {
		return err
	}
	return l.outsiders("beyond", c.Beyond)
}

func (l *Lab) namespace(name string) (*namespace, error) {
	n, err := newNamespace(name)
	if n != nil {
		l.all = append(l.all, n)
	}
	return n, err
}

// node links each of a node's uplinks to the fabric. Packets from the addresses of a second uplink leave by it.
func (l *Lab) node(i int, n Node) error {
	ns, err := l.namespace("node " + n.Name)
	if err != nil {
		return err
	}
	l.nodes[n.Name], l.index[n.Name], l.home[ns] = ns, i, n.Name
	for j, u := range n.Uplinks {
		l.uplinks[n.Name] = append(l.uplinks[n.Name], u.Iface)
		port := fabricPort(i, j)
		if err := fabricLinks.join(l.fabric, port, ns, u.Iface); err != nil {
			return err
		}
		if err := ns.own(u.Iface, u.Addrs); err != nil {
			return err
		}
		table := 0
		if j > 0 {
			table = 100 + j
		}
		if err := fabricLinks.uplink(ns, u.Iface, table); err != nil {
			return err
		}
		for _, a := range u.Addrs {
			l.owner[a] = ns
			if err := fabricLinks.toFar(l.fabric, port, a); err != nil {
				return err
			}
			if j > 0 {
				if err := ns.from(a, table); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func fabricPort(node, uplink int) string { return fmt.Sprintf("n%d-%d", node, uplink) }

func (l *Lab) workload(node int, w Workload) error {
	ns, err := l.namespace("workload " + w.Name)
	if err != nil {
		return err
	}
	iface := w.Iface
	if iface == "" {
		iface = ifaceOf(w.Name)
	}
	host := l.nodes[w.Node]
	l.home[ns], l.behind[ifaceAt{w.Node, iface}] = w.Node, ns
	if err := workloadLinks.join(host, iface, ns, "eth0"); err != nil {
		return err
	}
	if err := ns.own("eth0", slices.Concat(w.Addrs, w.Claims)); err != nil {
		return err
	}
	if err := workloadLinks.uplink(ns, "eth0", 0); err != nil {
		return err
	}
	for _, a := range w.Addrs {
		l.owner[a] = ns
		// over no gateway, as CNI plugins do it: so the agent knows the pod's interface
		if err := host.route(iface, netip.PrefixFrom(a, a.BitLen()), netip.Addr{}, 0); err != nil {
			return err
		}
		if err := fabricLinks.toFar(l.fabric, fabricPort(node, 0), a); err != nil {
			return err
		}
	}
	return nil
}

// ifaceOf is the name that Calico's CNI plugin gives to the host's end of a pod's link.
func ifaceOf(workload string) string {
	sum := sha1.Sum([]byte(strings.Replace(workload, "/", ".", 1)))
	return "cali" + hex.EncodeToString(sum[:])[:11]
}

func (l *Lab) outsiders(name string, addrs []netip.Addr) error {
	ns, err := l.namespace(name)
	if err != nil {
		return err
	}
	l.outside[ns], l.outsider = name, cmp.Or(l.outsider, ns)
	if err := fabricLinks.join(l.fabric, name, ns, "eth0"); err != nil {
		return err
	}
	if err := ns.own("eth0", addrs); err != nil {
		return err
	}
	for _, a := range addrs {
		l.owner[a] = ns
		if err := fabricLinks.toFar(l.fabric, name, a); err != nil {
			return err
		}
	}
	return fabricLinks.uplink(ns, "eth0", 0)
}

// Nodes are the names of the nodes, sorted.
func (l *Lab) Nodes() (names []string) {
	for n := range l.nodes {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// KillAgents ends the agents as a crash does, without a word.
func (l *Lab) KillAgents() error {
	var errs []error
	for _, a := range l.agents {
		errs = append(errs, a.cmd.Process.Kill(), a.stop())
	}
	l.agents = nil
	return errors.Join(errs...)
}

// StopAgents asks the agents to end.
func (l *Lab) StopAgents() error { return l.StopFirst(len(l.agents)) }

// StopFirst asks so many of the agents to end, those that were started first.
func (l *Lab) StopFirst(n int) error {
	var errs []error
	for _, a := range l.agents[:n] {
		errs = append(errs, a.stop())
	}
	l.agents = slices.Clone(l.agents[n:])
	return errors.Join(errs...)
}

// Close ends the agents and lets go of the namespaces.
func (l *Lab) Close() error {
	err := l.StopAgents()
	for _, n := range l.all {
		n.close()
	}
	l.all = nil
	return err
}
