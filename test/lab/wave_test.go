package lab

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/tierwall/tierwall/dataplane/policy"
)

func drawFlow(t *rapid.T) policy.Flow {
	a := rapid.SampledFrom(addrs("10.0.0.1", "10.0.0.2", "10.0.0.3"))
	port := rapid.SampledFrom([]uint16{53, 80, 5000})
	f := policy.Flow{Src: a.Draw(t, "src"), Dst: a.Draw(t, "dst"), Proto: rapid.SampledFrom([]uint8{policy.ProtoTCP, policy.ProtoUDP, policy.ProtoSCTP, 253}).Draw(t, "proto")}
	if policy.HasPorts(f.Proto) {
		f.SrcPort, f.DstPort = port.Draw(t, "srcPort"), port.Draw(t, "dstPort")
	}
	return f
}

// Every flow is in one wave, and no two of a wave are the same connection, each other's answer, or want one port for two things.
func TestWaves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		flows := rapid.SliceOfDistinct(rapid.Custom(drawFlow), rapid.ID[policy.Flow]).Draw(t, "flows")
		count := map[policy.Flow]int{}
		for _, w := range waves(flows) {
			for i, f := range w {
				count[f]++
				for _, g := range w[:i] {
					if collide(f, g) {
						t.Fatalf("%v and %v are in one wave", f, g)
					}
				}
			}
		}
		for _, f := range flows {
			if count[f] != 1 {
				t.Fatalf("%v is sent %d times", f, count[f])
			}
		}
		if len(count) != len(flows) {
			t.Fatalf("%d flows of %d are sent", len(count), len(flows))
		}
	})
}

// collide says it with the addresses alone, not with what waves are made from.
func collide(f, g policy.Flow) bool {
	if f.Proto != g.Proto {
		return false
	}
	at := netip.AddrPortFrom
	fs, fd, gs, gd := at(f.Src, f.SrcPort), at(f.Dst, f.DstPort), at(g.Src, g.SrcPort), at(g.Dst, g.DstPort)
	same, answer := fs == gs && fd == gd, fs == gd && fd == gs
	return same || answer || f.SrcPort != 0 && (fs == gd || fd == gs)
}

// Flows that have nothing to do with each other go at once.
func TestOneWaveIsEnough(t *testing.T) {
	var flows []policy.Flow
	for i := range 1000 {
		flows = append(flows, policy.Flow{Src: one, Dst: three, Proto: policy.ProtoTCP, SrcPort: uint16(20000 + i), DstPort: uint16(1 + i%10)})
		flows = append(flows, policy.Flow{Src: one, Dst: three, Proto: policy.ProtoICMP, ICMPType: 8, ICMPCode: uint8(i % 3)})
	}
	if n := len(waves(flows)); n != 1 {
		t.Errorf("%d waves", n)
	}
}
