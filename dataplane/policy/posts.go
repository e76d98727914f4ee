package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Post is a place on a packet's way where a guard is asked, or where whatever comes is refused.
type Post struct {
	Endpoint *Endpoint // whose guard is asked, or at whom it is refused; nil of an unknown one
	Guard    *Guard    // nil where whatever comes is refused
	Direction
	Why string // it is refused
	// Fresh is where what an untracked or pre-DNAT policy has allowed before says nothing any more.
	Fresh bool
	// Discovery lets IPv6 neighbour discovery by.
	Discovery bool
}

// Posts are the posts that a packet from one address to another meets, in order, if no node translates it and it takes the straight way.
// Which they are depends on no more than the footings of the two addresses and on whether their nodes are one; only a packet of a
// workload to its own address is asked nothing.
func (p *Plan) Posts(src, dst netip.Addr) []Post {
	w := way{plan: p}
	if src == dst && p.where.byAddr[src] != nil {
		return nil
	}
	for _, h := range p.journey(Flow{Src: src, Dst: dst}) {
		w.hop, w.fresh = &h, true
		if h.made {
			w.leave()
		} else {
			w.enter()
		}
	}
	return w.posts
}

// way is Posts in the making, node by node, as tracer has them.
type way struct {
	plan  *Plan
	hop   *hop
	fresh bool
	posts []Post
}

func (w *way) put(p Post) {
	p.Fresh, w.fresh = w.fresh, false
	w.posts = append(w.posts, p)
}

func (w *way) ask(e *Endpoint, s Stage, d Direction, discovery bool) {
	if g := e.guard(s, d); g != nil {
		w.put(Post{Endpoint: e, Guard: g, Direction: d, Discovery: discovery})
	}
}

func (w *way) host(s Stage, d Direction, iface string) {
	if e := w.plan.hostEndpoint(w.hop.node, iface); e != nil {
		w.ask(e, s, d, false)
	}
}

func (w *way) unknown(d Direction, iface string, discovery bool) {
	w.put(Post{Direction: d, Why: "interface " + iface + " is for workloads, and this is none that is known", Discovery: discovery})
}

func (w *way) enter() {
	h := w.hop
	if h.from != nil && slices.Contains(h.from.Ifaces, h.in) {
		if src := h.before.Src; !h.from.sends(src, h.before.Dst) {
			w.put(Post{Endpoint: h.from, Direction: Egress, Why: "a workload may send only from its own addresses"})
		}
	} else {
		w.host(Untracked, Ingress, h.in)
	}
	w.host(PreDNAT, Ingress, h.in)
	if h.taken {
		w.take()
	} else {
		w.forward()
	}
}

func (w *way) take() {
	h := w.hop
	if h.from == nil {
		if h.strangeIn {
			w.unknown(Egress, h.in, true)
		}
		w.host(Normal, Ingress, h.in)
		return
	}
	w.ask(h.from, Normal, Egress, true)
	if w.plan.Settings[h.node].EndpointToHost == Deny {
		w.put(Post{Endpoint: h.from, Direction: Egress, Discovery: true, Why: "a workload's traffic to its own host: defaultEndpointToHostAction is Drop"})
	}
	if !h.from.behind(h.in) {
		w.host(Normal, Ingress, h.in)
	}
}

func (w *way) forward() {
	h := w.hop
	w.host(Forward, Ingress, h.in)
	if h.from != nil {
		w.ask(h.from, Normal, Egress, false)
	} else if h.strangeIn {
		w.unknown(Egress, h.in, false)
	}
	if h.to != nil {
		w.ask(h.to, Normal, Ingress, false)
	} else if h.strangeOut {
		w.unknown(Ingress, h.out, false)
	}
	w.fresh = true
	w.host(Forward, Egress, h.out)
}

func (w *way) leave() {
	h := w.hop
	w.host(Untracked, Egress, h.first)
	if h.to == nil && !h.strangeOut {
		w.host(Normal, Egress, h.out)
	}
}

// sends tells whether a workload may send from an address (contract §4.7).
func (e *Endpoint) sends(src, dst netip.Addr) bool {
	return slices.Contains(e.Addrs, src) || containsAddr(e.Sources, src) ||
		src.Is6() && (src.IsLinkLocalUnicast() || src.IsUnspecified()) || src == netip.IPv4Unspecified() && dst == broadcast
}

// Footing is what Posts asks of an address.
type Footing struct {
	Node string // "" of an address that is on none
	Like string // those that say the same stand alike on their nodes
}

// Footings of addresses. A plan in which an address is two ends' at once, or a workload stands where its host does, has a footing for each
// address that it knows.
func (p *Plan) Footings(addrs []netip.Addr) []Footing {
	s := footings{plan: p, hosts: map[string]string{}}
	s.muddled = p.muddle()
	out := make([]Footing, len(addrs))
	for i, a := range addrs {
		out[i] = s.of(a)
	}
	return out
}

type footings struct {
	plan    *Plan
	hosts   map[string]string // what is like of each node
	muddled []*Endpoint
}

// muddle are the workloads that stand where another workload or their host does, or have a host's address.
func (p *Plan) muddle() (out []*Endpoint) {
	for i := range p.Endpoints {
		e := &p.Endpoints[i]
		if e.Host() {
			continue
		}
		odd := slices.ContainsFunc(e.Addrs, func(a netip.Addr) bool { return p.Host(a) != nil })
		host := p.where.byName[e.Node]
		for _, name := range e.Ifaces {
			odd = odd || p.behind(e.Node, name) != e || host != nil && slices.ContainsFunc(host.Ifaces, func(f Iface) bool { return f.Name == name })
		}
		if odd {
			out = append(out, e)
		}
	}
	return out
}

func (s *footings) of(a netip.Addr) Footing {
	e, h := s.plan.where.byAddr[a], s.plan.Host(a)
	at := Footing{Node: nodeOf(e, h)}
	var like strings.Builder
	fmt.Fprintf(&like, "on link %t\nloopback %t\n", onLink(a), a.IsLoopback())
	switch {
	case len(s.muddled) > 0 && (e != nil || h != nil):
		at.Like = a.String()
		return at
	case e != nil:
		fmt.Fprintf(&like, "workload, guarded %t %t, interface of its own %t\n%s",
			e.guard(Normal, Ingress) != nil, e.guard(Normal, Egress) != nil, len(e.Ifaces) > 0, s.host(e.Node))
		s.iface(&like, e.Node, iface(e))
	case h != nil:
		fmt.Fprintf(&like, "host\n%s", s.host(h.Name))
		s.iface(&like, h.Name, h.Iface(a))
	}
	for _, e := range s.muddled {
		fmt.Fprintf(&like, "%t", e.sends(a, a))
	}
	at.Like = like.String()
	return at
}

// host is what all addresses of a node have in common.
func (s *footings) host(node string) string {
	text, ok := s.hosts[node]
	if !ok {
		var like strings.Builder
		fmt.Fprintf(&like, "to host %s, known %t\n", s.plan.Settings[node].EndpointToHost, node != "")
		s.iface(&like, node, "lo")
		if h := s.plan.where.byName[node]; h != nil && len(h.Ifaces) > 0 {
			s.iface(&like, node, h.Ifaces[0].Name)
		} else {
			s.iface(&like, node, "")
		}
		text = like.String()
		s.hosts[node] = text
	}
	return text
}

// iface is who guards an interface of a node, by what it asks.
func (s *footings) iface(b *strings.Builder, node, name string) {
	settings := s.plan.Settings[node]
	fmt.Fprintf(b, "interface, of workloads by its name %t\n", settings.ofWorkloads(name))
	if e := s.plan.hostEndpoint(node, name); e != nil {
		for _, g := range e.Guards {
			fmt.Fprintf(b, "%+v\n", g)
		}
	}
}
