package wire

import (
	"net/netip"

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
	for i, p := range packets {
		c := connOf(p.Flow)
		at := 0
		for at < len(out) && !out[at].takes(c) {
			at++
		}
		if at == len(out) {
			out = append(out, &wave{conns: map[conn]bool{}})
		}
		out[at].places = append(out[at].places, i)
		out[at].conns[c] = true
	}
	return out
}

func (w *wave) takes(c conn) bool {
	// Each ICMP message has an identifier of its own.
	return c.proto == policy.ProtoICMP || c.proto == policy.ProtoICMPv6 || !w.conns[c] && !w.conns[c.reversed()]
}
