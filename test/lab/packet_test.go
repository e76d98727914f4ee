package lab

import (
	"encoding/binary"
	"encoding/hex"
	"testing"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// The sum of bytes with their checksum in place is none: RFC 1071 §1.
func TestChecksums(t *testing.T) {
	if sum := checksum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}); sum != ^uint16(0xddf2) { // the RFC's own example, §3
		t.Errorf("%#x", sum)
	}
	for _, f := range []policy.Flow{
		{Src: one, Dst: three, Proto: policy.ProtoICMP, ICMPType: 8, ICMPCode: 2},
		{Src: one, Dst: three, Proto: policy.ProtoUDPLite, SrcPort: 7, DstPort: 9},
		{Src: one6, Dst: three6, Proto: policy.ProtoUDPLite, SrcPort: 7, DstPort: 9},
	} {
		packet := packetOf(f, 0x01020304)
		covered := packet
		if f.Proto == policy.ProtoUDPLite {
			covered = append(pseudoHeader(f, len(packet)), packet...)
		}
		if sum := checksum(covered); sum != 0 {
			t.Errorf("%s: %#x over %s", text(f), sum, hex.EncodeToString(packet))
		}
	}
}

// A token is found again where packetOf has put it, whatever the protocol.
func TestTokens(t *testing.T) {
	for proto := range 256 {
		f := policy.Flow{Src: one, Dst: three, Proto: uint8(proto), SrcPort: 7, DstPort: 9, ICMPType: 8}
		offset := tokenOffset(f.Proto)
		packet := packetOf(f, 0x01020304)
		if token, ok := tokenIn(packet, offset); !ok || token != 0x01020304 {
			t.Errorf("protocol %d: %#x %t", proto, token, ok)
		}
		if _, ok := tokenIn(packet[:offset+3], offset); ok {
			t.Errorf("protocol %d: a token in a packet that is too short", proto)
		}
	}
}

// Flows that follow each other have identifiers of their own, by which connection tracking tells them apart.
func TestEchoIdentifiers(t *testing.T) {
	f, seen := probes["echo"], map[uint16]bool{}
	for token := range uint32(1000) {
		seen[binary.BigEndian.Uint16(packetOf(f, 77000+token)[4:])] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d identifiers", len(seen))
	}
}

func TestSYN(t *testing.T) {
	segment := func(flags byte) []byte {
		b := make([]byte, 20)
		b[1], b[3], b[13] = 80, 90, flags
		return b
	}
	for _, c := range []struct {
		segment []byte
		ok      bool
	}{{segment(0x02), true}, {segment(0xc2), true}, {segment(0x12), false}, {segment(0x10), false}, {segment(0x04), false}, {segment(0x02)[:19], false}, {nil, false}} {
		src, dst, ok := synPorts(c.segment)
		if ok != c.ok || ok && (src != 80 || dst != 90) {
			t.Errorf("%x: %d %d %t", c.segment, src, dst, ok)
		}
	}
}
