package wire

import (
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
	}
	return Packet{Flow: f}
}

// Every packet is in one wave, and no two of a wave are of one connection or answer each other.
func TestWaves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		packets := rapid.SliceOf(rapid.Custom(drawPacket)).Draw(t, "packets")
		var all []int
		for _, w := range waves(packets) {
			seen := map[policy.Flow]bool{}
			for _, i := range w.places {
				f := packets[i].Flow
				back := policy.Flow{Src: f.Dst, Dst: f.Src, Proto: f.Proto, SrcPort: f.DstPort, DstPort: f.SrcPort}
				if f.Proto != policy.ProtoICMP && (seen[f] || seen[back]) {
					t.Fatalf("%+v is twice in a wave, or answered", f)
				}
				seen[f] = true
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
