package policy

import (
	"cmp"
	"net/netip"
	"slices"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Iface is an interface of a host, the addresses on it, and the addresses behind it to each of which the host has a route of its
// own: so a routed workload's interface is known, whatever made it.
type Iface struct {
	Name  string
	Addrs []netip.Addr
	Peers []netip.Addr
	// Nets are the networks of its own addresses.
	Nets []netip.Prefix
	// Shared is an interface behind which there may be several workloads, as behind a bridge.
	Shared bool
	// Uplink is an interface that leads elsewhere: whoever has an address behind it is no workload of this node.
	Uplink bool
}

// SetInterfaces tells what interfaces the index's node really has. Without it they are taken from what the objects say: an
// interface that a host endpoint names has the addresses that this endpoint expects, and every other address of the host is on
// its first interface, which is the first that an endpoint names, or eth0.
func (x *Index) SetInterfaces(ifaces []Iface) { x.ifaces, x.stale = ifaces, true }

// Nodes are the names of all nodes that an object is on or is about, sorted.
func (x *Index) Nodes() []string {
	seen := map[string]bool{}
	for _, h := range x.hosts {
		seen[h.Name] = true
	}
	for _, m := range x.members {
		if m.node != "" {
			seen[m.node] = true
		}
	}
	return sortedKeys(seen)
}

// HasNode tells whether an object is on a node or is about it, at once where it is the index's own and not deserted.
func (x *Index) HasNode(node string) bool {
	if node == x.node && len(x.owned) > 0 {
		return true
	}
	for _, h := range x.hosts {
		if h.Name == node {
			return true
		}
	}
	return x.node == "" && slices.Contains(x.Nodes(), node)
}

// hostEndpoints of each host, by name.
func (x *Index) hostEndpoints() map[string][]*member {
	out := map[string][]*member{}
	for ref, m := range x.owned {
		if ref.Kind == "HostEndpoint" {
			out[m.node] = append(out[m.node], m)
		}
	}
	for _, all := range out {
		slices.SortFunc(all, func(a, b *member) int { return a.ref.Compare(b.ref) })
	}
	return out
}

func (m *member) named() bool { return m.iface != "" && m.iface != "*" }

// interfaces of a host, the first one first.
func (x *Index) interfaces(host string, endpoints []*member, addrs []netip.Addr) []Iface {
	if host == x.node && x.ifaces != nil {
		return x.ifaces
	}
	var out []Iface
	taken := map[netip.Addr]bool{}
	put := func(name string, addrs []netip.Addr) {
		i := slices.IndexFunc(out, func(f Iface) bool { return f.Name == name })
		if i < 0 {
			i = len(out)
			out = append(out, Iface{Name: name})
		}
		for _, a := range addrs {
			if !taken[a] {
				taken[a] = true
				out[i].Addrs = append(out[i].Addrs, a)
			}
		}
	}
	first := ""
	for _, m := range endpoints {
		if m.named() && m.iface != "lo" {
			first = cmp.Or(first, m.iface)
			put(m.iface, m.addrs)
		}
	}
	put(cmp.Or(first, "eth0"), addrs)
	return out
}

// peers are the interfaces to which single addresses are routed.
func (x *Index) peers() map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for _, f := range x.ifaces {
		for _, a := range f.Peers {
			if _, ok := out[a]; !ok && !f.Shared && !f.Uplink {
				out[a] = f.Name
			}
		}
	}
	return out
}

// bridges are the interfaces behind which there may be several workloads, and nobody else.
func (x *Index) bridges() (out []Iface) {
	for _, f := range x.ifaces {
		if f.Shared && !f.Uplink {
			out = append(out, f)
		}
	}
	return out
}

func (f *Iface) behind(a netip.Addr) bool {
	return slices.Contains(f.Peers, a) || slices.ContainsFunc(f.Nets, func(n netip.Prefix) bool { return n.Contains(a) })
}

// standings tell on which interfaces each host endpoint stands: on the one it names or, if it names none, on those that have an
// address which it expects. Where several could stand the first by name does (contract §4.4).
func (x *Index) standings(hosts []Host, endpoints map[string][]*member) map[v3.Ref][]string {
	workloads := map[string]bool{}
	for _, m := range x.owned {
		if m.ref.Kind == "WorkloadEndpoint" && x.node != "" {
			workloads[m.iface] = true
		}
	}
	out := map[v3.Ref][]string{}
	for _, h := range hosts {
		settings := x.settings(h.Name)
		held := map[string]bool{}
		stand := func(m *member, iface string) {
			if !held[iface] {
				held[iface] = true
				out[m.ref] = append(out[m.ref], iface)
			}
		}
		for _, m := range endpoints[h.Name] {
			if m.iface != "" {
				stand(m, m.iface)
				continue
			}
			for _, f := range h.Ifaces {
				expected := func(a netip.Addr) bool { return slices.Contains(m.addrs, a) }
				if !workloads[f.Name] && !settings.ofWorkloads(f.Name) && !settings.excludes(f.Name) && slices.ContainsFunc(f.Addrs, expected) {
					stand(m, f.Name)
				}
			}
		}
	}
	return out
}

// Iface is the interface of a host on which an address is; the host's first one for an address that is on none.
func (h *Host) Iface(a netip.Addr) string {
	for i := 0; h != nil && i < len(h.Ifaces); i++ {
		if slices.Contains(h.Ifaces[i].Addrs, a) {
			return h.Ifaces[i].Name
		}
	}
	if h == nil || len(h.Ifaces) == 0 {
		return ""
	}
	return h.Ifaces[0].Name
}

// Host that has an address, or nil.
func (p *Plan) Host(a netip.Addr) *Host {
	return p.where.hosts[a]
}
