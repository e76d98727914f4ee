package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// hop is one node on a packet's way, and what the packet is there.
type hop struct {
	node        string
	in, out     string    // interfaces; "" is one whose name is not known
	first       string    // of a packet that the host makes: the interface on which it would leave before NAT
	made, taken bool      // the host itself makes the packet; it is for the host itself
	sent        bool      // a workload of the node sends the packet
	from, to    *Endpoint // the node's workloads that send and receive it, or nil
	strangeIn   bool      // the interface is a workload's by its name, and no known workload's
	strangeOut  bool
	before      Flow // as the node gets it
	after       Flow // after destination NAT
}

// ends are the ends of a flow, as far as the plan knows them.
type ends struct {
	dst              *Endpoint // the workload
	srcHost, dstHost *Host
	loops            bool // from a host to itself, by the loopback interface
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
	e := ends{dst: p.where.byAddr[f.Dst], srcHost: p.Host(f.Src), dstHost: p.Host(f.Dst)}
	if e.srcHost != nil && f.Dst.IsLoopback() {
		e.dstHost = e.srcHost // each host has one of its own
	}
	begin, end := nodeOf(p.where.byAddr[f.Src], e.srcHost), nodeOf(e.dst, e.dstHost)
	if f.Via != "" && f.InIface != "" { // it comes in there, whoever claims to have sent it
		begin, e.srcHost = "", nil
	}
	var hops []hop
	for _, n := range []string{begin, f.Via, end} {
		if n != "" && (len(hops) == 0 || hops[len(hops)-1].node != n) {
			hops = append(hops, hop{node: n})
		}
	}
	if e.loops = e.srcHost != nil && e.srcHost == e.dstHost && len(hops) == 1; e.loops {
		hops = append(hops, hop{node: begin}) // out and in again
	}
	translate(hops, f)
	for i := range hops {
		hops[i].made = i == 0 && e.srcHost != nil
		hops[i].sent = i == 0 && begin != "" && !hops[i].made
		p.place(&hops[i], &f, &e, i == len(hops)-1)
	}
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

// place finds between what the packet is at a node.
func (p *Plan) place(h *hop, f *Flow, e *ends, last bool) {
	h.taken = last && (e.dstHost != nil && e.dstHost.Name == h.node || onLink(f.Dst) && !h.made)
	host := p.where.byName[h.node]
	if e.loops {
		h.in, h.out = "lo", "lo"
		h.first = p.towards(h, cmp.Or(given(f, h.node, f.OutIface, h.made), host.Iface(f.Src)))
		return
	}
	from := p.where.byAddr[h.before.Src]
	if from != nil && from.Node != h.node {
		from = nil
	}
	begins := h.made || h.sent
	uplink := cmp.Or(given(f, h.node, f.OutIface, begins), host.Iface(ownAddr(h.made, f.Src)))
	if !h.made {
		if h.in = given(f, h.node, f.InIface, last); h.in == "" && h.sent {
			h.in = iface(from)
		} else if h.in == "" {
			h.in = host.Iface(ownAddr(h.taken, f.Dst))
		}
		h.from, h.strangeIn = p.known(h.node, h.in, from)
	}
	if h.taken {
		return
	}
	h.out = uplink
	var to *Endpoint
	if last && e.dst != nil && e.dst.Node == h.node {
		to, h.out = e.dst, cmp.Or(given(f, h.node, f.OutIface, begins), iface(e.dst))
	}
	h.to, h.strangeOut = p.known(h.node, h.out, to)
	h.first = p.towards(h, uplink)
}

// onLink tells whether packets to an address go no further than the first host.
func onLink(a netip.Addr) bool {
	return a.IsMulticast() || a == broadcast || a.IsLinkLocalUnicast()
}

// towards is the interface to which a host's own packet is routed as it is sent.
func (p *Plan) towards(h *hop, uplink string) string {
	to := h.before.Dst
	if own := p.Host(to); own != nil && own.Name == h.node || to.IsLoopback() {
		return "lo"
	}
	if e := p.where.byAddr[to]; e != nil && e.Node == h.node {
		return iface(e)
	}
	return uplink
}

// known is the workload on a node's side of an interface: the one behind it, else the one with the address. What is behind an
// interface of workloads, by its name or because others are, and is none that is known, is strange.
func (p *Plan) known(node, iface string, byAddr *Endpoint) (e *Endpoint, strange bool) {
	if e := p.behind(node, iface); e != nil {
		return e, false
	}
	if settings := p.Settings[node]; settings.ofWorkloads(iface) {
		return nil, true
	}
	return byAddr, byAddr == nil && p.bridge(node, iface)
}

// bridge tells whether an interface is one behind which there are only workloads: who is not known there is refused.
func (p *Plan) bridge(node, iface string) bool { return node == p.Node && p.where.bridges[iface] }

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
	switch {
	case e == nil:
		return ""
	case len(e.Ifaces) > 0:
		return e.Ifaces[0]
	case len(e.Shared) > 0:
		return e.Shared[0]
	}
	return ""
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
