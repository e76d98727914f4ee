package lab

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// ClusterOf is the cluster that a plan of all nodes describes, with every address that the flows mention. A node without an
// address gets one of its own making, so that it can be reached at all.
func ClusterOf(p *policy.Plan, flows []policy.Flow) Cluster {
	b := clusterBuilder{nodes: map[string]*Node{}, taken: map[netip.Addr]bool{}}
	for _, h := range p.Hosts {
		b.node(h.Name)
	}
	for i := range p.Endpoints {
		b.node(p.Endpoints[i].Node)
	}
	for _, h := range p.Hosts {
		for _, f := range h.Ifaces {
			b.own(b.node(h.Name), f.Name, f.Addrs)
		}
	}
	for i := range p.Endpoints {
		b.workload(&p.Endpoints[i])
	}
	b.nameless()
	for _, f := range flows {
		for _, a := range []netip.Addr{f.Src, f.Dst} {
			if livable(a) && !b.taken[a] {
				b.taken[a] = true
				b.out.Outside = append(b.out.Outside, a)
			}
		}
	}
	slices.SortFunc(b.order, func(a, c *Node) int { return cmp.Compare(a.Name, c.Name) })
	for _, n := range b.order {
		b.out.Nodes = append(b.out.Nodes, *n)
	}
	return b.out
}

type clusterBuilder struct {
	out   Cluster
	nodes map[string]*Node
	order []*Node
	taken map[netip.Addr]bool
}

func (b *clusterBuilder) node(name string) *Node {
	if b.nodes[name] == nil {
		b.nodes[name] = &Node{Name: name}
		b.order = append(b.order, b.nodes[name])
	}
	return b.nodes[name]
}

// own puts addresses that nobody has yet on an interface.
func (b *clusterBuilder) own(n *Node, iface string, addrs []netip.Addr) {
	at := slices.IndexFunc(n.Uplinks, func(u Uplink) bool { return u.Iface == iface })
	if at < 0 {
		at = len(n.Uplinks)
		n.Uplinks = append(n.Uplinks, Uplink{Iface: iface})
	}
	u := &n.Uplinks[at]
	for _, a := range addrs {
		if !b.taken[a] {
			b.taken[a] = true
			u.Addrs = append(u.Addrs, a)
		}
	}
}

func (b *clusterBuilder) workload(e *policy.Endpoint) {
	if e.Host() {
		return
	}
	w := Workload{Name: e.Ref.Namespace + "/" + e.Ref.Name, Node: e.Node}
	if len(e.Ifaces) > 0 {
		w.Iface = e.Ifaces[0]
	}
	for _, a := range e.Addrs {
		if !b.taken[a] {
			b.taken[a] = true
			w.Addrs = append(w.Addrs, a)
		}
	}
	if len(w.Addrs) > 0 {
		b.out.Workloads = append(b.out.Workloads, w)
	}
}

// nameless gives every node an uplink.
func (b *clusterBuilder) nameless() {
	for _, n := range b.order {
		if len(n.Uplinks) == 0 {
			n.Uplinks = []Uplink{{Iface: "eth0"}}
		}
	}
}
