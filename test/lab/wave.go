package lab

import (
	"net/netip"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// server is where flows arrive: a port, or every packet of a protocol when the port is 0.
type server struct {
	addr  netip.Addr
	proto uint8
	port  uint16
}

func serverOf(f policy.Flow) server { return server{f.Dst, f.Proto, f.DstPort} }
func clientOf(f policy.Flow) server { return server{f.Src, f.Proto, f.SrcPort} }

// conn is what connection tracking knows a connection by.
type conn struct {
	proto    uint8
	src, dst netip.AddrPort
}

func connOf(f policy.Flow) conn {
	return conn{f.Proto, netip.AddrPortFrom(f.Src, f.SrcPort), netip.AddrPortFrom(f.Dst, f.DstPort)}
}

func (c conn) reversed() conn { return conn{c.proto, c.dst, c.src} }

// connsOf are a flow's connection as it is sent and as it arrives.
func connsOf(f policy.Flow) [2]conn { return [2]conn{connOf(original(f)), connOf(translated(f))} }

// wave is flows that can be under way at a time without one deciding what becomes of another.
type wave struct {
	flows            []policy.Flow
	conns            map[conn]bool
	clients, servers map[server]bool
}

// waves splits flows into as many waves as need be.
func waves(flows []policy.Flow) (out [][]policy.Flow) {
	var all []*wave
	for _, f := range flows {
		i := 0
		for i < len(all) && !all[i].takes(f) {
			i++
		}
		if i == len(all) {
			all = append(all, &wave{conns: map[conn]bool{}, clients: map[server]bool{}, servers: map[server]bool{}})
		}
		all[i].add(f)
	}
	for _, w := range all {
		out = append(out, w.flows)
	}
	return out
}

// takes tells whether a flow is neither the same connection as one of the wave nor the answer to one, and needs no port for
// one purpose that the wave has for the other.
func (w *wave) takes(f policy.Flow) bool {
	if isICMP(f.Proto) {
		return true // each has an identifier of its own
	}
	for _, c := range connsOf(f) {
		if w.conns[c] || w.conns[c.reversed()] {
			return false
		}
	}
	return !policy.HasPorts(f.Proto) || !w.clients[serverOf(f)] && !w.servers[clientOf(f)]
}

func (w *wave) add(f policy.Flow) {
	w.flows = append(w.flows, f)
	for _, c := range connsOf(f) {
		w.conns[c] = true
	}
	w.clients[clientOf(f)] = true
	w.servers[serverOf(f)] = true
}

func isICMP(proto uint8) bool { return proto == policy.ProtoICMP || proto == policy.ProtoICMPv6 }
