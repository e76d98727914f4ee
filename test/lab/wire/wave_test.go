package wire

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tierwall/tierwall/dataplane/policy"
)

func drawPacket(t *rapid.T) Packet {
	a := rapid.SampledFrom(addrs("10.0.0.1", "10.0.0.2", "10.0.0.3"))
	port := rapid.SampledFrom([]uint16{53, 80, 5000})
	proto := rapid.SampledFrom([]uint8{policy.ProtoTCP, policy.ProtoICMP, 253})
	f := policy.Flow{Src: a.Draw(t, "src"), Dst: a.Draw(t, "dst"), Proto: proto.Draw(t, "proto")}
	if policy.HasPorts(f.Proto) {
		f.SrcPort, f.DstPort = port.Draw(t, "srcPort"), port.Draw(t, "dstPort")
		if rapid.Bool().Draw(t, "translated") {
			f.OrigDst, f.OrigDstPort = a.Draw(t, "origDst"), port.Draw(t, "origDstPort")
		}
	}
	return Packet{Flow: f}
}

type tuple struct {
	proto    uint8
	from, to netip.Addr
	src, dst uint16
}

// tuples of a flow: as it is sent, as it arrives, and as both are answered.
func tuples(f policy.Flow) []tuple {
	out := []tuple{{f.Proto, f.Src, f.Dst, f.SrcPort, f.DstPort}, {f.Proto, f.Dst, f.Src, f.DstPort, f.SrcPort}}
	if f.OrigDst.IsValid() {
		out = append(out, tuple{f.Proto, f.Src, f.OrigDst, f.SrcPort, f.OrigDstPort})
		out = append(out, tuple{f.Proto, f.OrigDst, f.Src, f.OrigDstPort, f.SrcPort})
	}
	return out
}

// Every packet is in one wave, and no two of a wave are of one connection or answer each other.
func TestWaves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		packets := rapid.SliceOf(rapid.Custom(drawPacket)).Draw(t, "packets")
		var all []int
		for _, w := range waves(packets) {
			seen := map[tuple]bool{}
			for _, i := range w.places {
				for _, u := range tuples(packets[i].Flow) {
					if seen[u] && packets[i].Proto != policy.ProtoICMP {
						t.Fatalf("%+v is twice in a wave, or answered", packets[i])
					}
				}
				for _, u := range tuples(packets[i].Flow) {
					seen[u] = true
				}
			}
			all = append(all, w.places...)
		}
		slices.Sort(all)
		for i := range packets {
			if len(all) != len(packets) || all[i] != i {
				t.Fatalf("%d packets, sent are %v", len(packets), all)
			}
		}
	})
}
