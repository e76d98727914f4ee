package lab

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// ClusterOf is the cluster that a plan of all nodes describes, with every address that the flows mention. A node without an
// address gets one of its own making, so that it can be reached at all.
func ClusterOf(p *policy.Plan, flows []policy.Flow) Cluster {
	b := clusterBuilder{plan: p, nodes: map[string]*Node{}, taken: map[netip.Addr]bool{}, at: map[netip.Addr]string{}}
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
	b.strangers(flows)
	b.outsiders(flows)
	slices.SortFunc(b.order, func(a, c *Node) int { return cmp.Compare(a.Name, c.Name) })
	for _, n := range b.order {
		b.out.Nodes = append(b.out.Nodes, *n)
	}
	return b.out
}

type clusterBuilder struct {
	plan  *policy.Plan
	out   Cluster
	nodes map[string]*Node
	order []*Node
	taken map[netip.Addr]bool
	at    map[netip.Addr]string // the node of an address, if it is of one
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
			b.taken[a], b.at[a] = true, n.Name
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
			b.taken[a], b.at[a] = true, e.Node
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

// strangers makes the interfaces that flows name and no object does. One that is a workload's by its name has a workload behind
// it that nobody knows; any other is an uplink.
func (b *clusterBuilder) strangers(flows []policy.Flow) {
	for _, f := range flows {
		b.stranger(cmp.Or(f.Via, b.at[f.Dst]), f.InIface, netip.Addr{})
		b.stranger(cmp.Or(f.Via, b.at[f.Src]), f.OutIface, f.Dst)
	}
}

func (b *clusterBuilder) stranger(node, iface string, claim netip.Addr) {
	n := b.nodes[node]
	if n == nil || iface == "" || iface == "lo" || slices.ContainsFunc(n.Uplinks, func(u Uplink) bool { return u.Iface == iface }) {
		return
	}
	known := func(w Workload) bool { return w.Node == node && cmp.Or(w.Iface, ifaceOf(w.Name)) == iface }
	i := slices.IndexFunc(b.out.Workloads, known)
	switch {
	case i < 0 && !slices.ContainsFunc(b.plan.Settings[node].Prefixes, func(p string) bool { return strings.HasPrefix(iface, p) }):
		b.own(n, iface, nil)
		return
	case i < 0:
		i = len(b.out.Workloads)
		b.out.Workloads = append(b.out.Workloads, Workload{Name: node + "/" + iface, Node: node, Iface: iface})
	}
	if w := &b.out.Workloads[i]; livable(claim) && !slices.Contains(w.Addrs, claim) && !slices.Contains(w.Claims, claim) {
		w.Claims = append(w.Claims, claim)
	}
}

// outsiders takes in the addresses that nobody has, so that those of which one sends to the other are apart if that can be.
func (b *clusterBuilder) outsiders(flows []policy.Flow) {
	for _, f := range flows {
		for _, end := range []struct{ a, other netip.Addr }{{f.Src, f.Dst}, {f.Dst, f.Src}} {
			if !livable(end.a) || b.taken[end.a] {
				continue
			}
			b.taken[end.a] = true
			outside := &b.out.Outside
			if slices.Contains(*outside, end.other) {
				outside = &b.out.Beyond
			}
			*outside = append(*outside, end.a)
		}
	}
}
