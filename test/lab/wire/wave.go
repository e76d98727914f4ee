package wire

import (
	"net/netip"
	"slices"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// conn is what connection tracking knows a connection by.
type conn struct {
	proto    uint8
	src, dst netip.AddrPort
}

func connOf(f policy.Flow) conn {
	return conn{f.Proto, netip.AddrPortFrom(f.Src, f.SrcPort), netip.AddrPortFrom(f.Dst, f.DstPort)}
}

func (c conn) reversed() conn { return conn{c.proto, c.dst, c.src} }

// wave is packets, by their place in a list, of which none helps another through: no two are of one connection or answer each
// other.
type wave struct {
	places []int
	conns  map[conn]bool
}

func waves(packets []Packet) (out []*wave) {
	for i := range packets {
		p := &packets[i]
		at := 0
		for at < len(out) && !out[at].takes(p) {
			at++
		}
		if at == len(out) {
			out = append(out, &wave{conns: map[conn]bool{}})
		}
		out[at].add(i, p)
	}
	return out
}

// connsOf are what a packet's connection is known by before and after destination NAT, and by its answers.
func connsOf(p *Packet) []conn {
	before, after := connOf(p.original()), connOf(p.Flow)
	return []conn{before, after, before.reversed(), after.reversed()}
}

func (w *wave) takes(p *Packet) bool {
	if p.Proto == policy.ProtoICMP || p.Proto == policy.ProtoICMPv6 {
		return true // each message has an identifier of its own
	}
	return !slices.ContainsFunc(connsOf(p), func(c conn) bool { return w.conns[c] })
}

func (w *wave) add(place int, p *Packet) {
	w.places = append(w.places, place)
	for _, c := range connsOf(p) {
		w.conns[c] = true
	}
}
