package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// hop is one node on a packet's way, and what the packet is there.
type hop struct {
	node        string
	in, out     string    // interfaces; "" is one whose name is not known
	first       string    // of a packet that the host makes: the interface on which it would leave before NAT
	made, taken bool      // the host itself makes the packet; it is for the host itself
	from, to    *Endpoint // the node's workloads that send and receive it, or nil
	strangeIn   bool      // the interface is a workload's by its name, and no known workload's
	strangeOut  bool
	before      Flow // as the node gets it
	after       Flow // after destination NAT
}

// ends are the nodes of a flow's ends, as far as the plan knows them.
type ends struct {
	src, dst         *Endpoint // workloads
	srcHost, dstHost *Host
}

func nodeOf(e *Endpoint, h *Host) string {
	switch {
	case e != nil:
		return e.Node
	case h != nil:
		return h.Name
	}
	return ""
}

// journey is the nodes that a flow passes: its source's, Via, its destination's.
func (p *Plan) journey(f Flow) []hop {
	e := ends{src: p.byAddr[f.Src], dst: p.byAddr[f.Dst], srcHost: p.Host(f.Src), dstHost: p.Host(f.Dst)}
	if f.Via != "" && f.InIface != "" { // it comes in there, whoever claims to have sent it
		e.srcHost = nil
		if w := p.behind(f.Via, f.InIface); w != nil || e.src != nil && e.src.Node != f.Via {
			e.src = w
		}
	}
	begin, end := nodeOf(e.src, e.srcHost), nodeOf(e.dst, e.dstHost)
	var names []string
	for _, n := range []string{begin, f.Via, end} {
		if n != "" && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if e.srcHost != nil && e.srcHost == e.dstHost && len(names) == 1 {
		names = append(names, begin) // out and in again, by the loopback interface
	}
	hops := make([]hop, len(names))
	for i, n := range names {
		hops[i] = p.hop(&f, &e, n, i == 0, i == len(names)-1)
	}
	translate(hops, f)
	return hops
}

// behind is the workload behind an interface of a node, or nil.
func (p *Plan) behind(node, iface string) *Endpoint {
	for i := range p.Endpoints {
		if e := &p.Endpoints[i]; !e.Host() && e.Node == node && slices.Contains(e.Ifaces, iface) {
			return e
		}
	}
	return nil
}

func (p *Plan) hop(f *Flow, e *ends, node string, first, last bool) hop {
	h := hop{node: node, made: first && e.srcHost != nil, taken: last && e.dstHost != nil && e.dstHost.Name == node}
	host := p.byName[node]
	if e.srcHost != nil && e.srcHost == e.dstHost {
		h.in, h.out, h.first = "lo", "lo", "lo"
		if f.OrigDst.IsValid() {
			h.first = cmp.Or(given(f, node, f.OutIface, first), host.Iface(f.Src))
		}
		return h
	}
	if first && e.src != nil && e.src.Node == node {
		h.from = e.src
	}
	if last && e.dst != nil && e.dst.Node == node {
		h.to = e.dst
	}
	uplink := cmp.Or(given(f, node, f.OutIface, first), host.Iface(ownAddr(h.made, f.Src)))
	if h.first = uplink; !h.made {
		h.in = cmp.Or(given(f, node, f.InIface, last), iface(h.from), ownIface(h.from == nil, host, ownAddr(h.taken, f.Dst)))
		h.from, h.strangeIn = p.known(node, h.in, h.from)
	}
	if !h.taken {
		h.out = uplink
		if h.to != nil {
			h.out = cmp.Or(given(f, node, f.OutIface, first), iface(h.to))
			h.to, h.strangeOut = p.known(node, h.out, h.to)
		}
		if h.made && !f.OrigDst.IsValid() {
			h.first = h.out
		}
	}
	return h
}

// known is the workload on a node's side of an interface: the one behind it, else the one with the address; none where the
// interface is one of workloads by its name and of none that is known.
func (p *Plan) known(node, iface string, byAddr *Endpoint) (e *Endpoint, strange bool) {
	if e := p.behind(node, iface); e != nil {
		return e, false
	}
	belongs := func(prefix string) bool { return prefix != "" && strings.HasPrefix(iface, prefix) }
	if slices.ContainsFunc(p.Settings[node].Prefixes, belongs) {
		return nil, true
	}
	return byAddr, false
}

func ownIface(outside bool, h *Host, a netip.Addr) string {
	if outside {
		return h.Iface(a)
	}
	return ""
}

// given is the interface that the flow names, if it speaks of this node: of Via, or else of the end.
func given(f *Flow, node, iface string, end bool) string {
	if f.Via == node || f.Via == "" && end {
		return iface
	}
	return ""
}

func ownAddr(own bool, a netip.Addr) netip.Addr {
	if own {
		return a
	}
	return netip.Addr{}
}

func iface(e *Endpoint) string {
	if e == nil || len(e.Ifaces) == 0 {
		return ""
	}
	return e.Ifaces[0]
}

// translate says how each node sees the packet: as it was sent until the node that translates it, and its source masqueraded
// behind that. A node that is not on the way of a node's own plan has done it before.
func translate(hops []hop, f Flow) {
	sent := f
	if f.OrigDst.IsValid() {
		sent.Dst, sent.DstPort = f.OrigDst, f.OrigDstPort
	}
	at := cmp.Or(f.NATNode, f.Via)
	nat := slices.IndexFunc(hops, func(h hop) bool { return at == "" || h.node == at })
	behind := f
	if f.Masquerade.IsValid() {
		behind.Src = f.Masquerade
	}
	for i := range hops {
		h := &hops[i]
		switch {
		case i < nat:
			h.before, h.after = sent, sent
		case i == nat:
			h.before, h.after = sent, f
		default:
			h.before, h.after = behind, behind
		}
	}
}
