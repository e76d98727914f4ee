package lab

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/bits"
	"net/netip"
	"slices"
	"syscall"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// requests are the ICMP types with which a flow can begin: what connection tracking takes for new or, for neighbour discovery
// and listener reports, does not track.
var requests = map[uint8][]uint8{
	policy.ProtoICMP:   {8, 13, 15, 17},
	policy.ProtoICMPv6: {128, 130, 131, 132, 133, 134, 135, 136, 143},
}

// headers are no protocol of their own in an IPv6 packet.
var headers = []uint8{0, 43, 44, 51, 59, 60, 135}

// noSockets are the numbers that a raw socket cannot have in IPv4: Linux takes them for "any", and for "send only".
var noSockets = []uint8{0, 255}

// nobodys are addresses that no interface can have, or that the lab's own links have.
var nobodys = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.255.0/24"),
	netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// livable tells whether somebody in the lab can have an address.
func livable(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && !slices.ContainsFunc(nobodys, func(p netip.Prefix) bool { return p.Contains(a) })
}

// sendable tells whether a flow can begin with a packet of the kind.
func sendable(f policy.Flow) bool {
	switch {
	case !livable(f.Src) || !livable(f.Dst):
		return false
	case policy.HasPorts(f.Proto):
		return f.SrcPort != 0 && f.DstPort != 0 && clientOf(f) != serverOf(f)
	case isICMP(f.Proto):
		return slices.Contains(requests[f.Proto], f.ICMPType) && (f.Proto == policy.ProtoICMPv6) == f.Src.Is6()
	case f.Src.Is6():
		return !slices.Contains(headers, f.Proto) && f.Proto != 255
	}
	return !slices.Contains(noSockets, f.Proto)
}

// answers are the ICMP types with which a kernel answers an echo request.
var answers = map[uint8]struct{ request, answer uint8 }{policy.ProtoICMP: {8, 0}, policy.ProtoICMPv6: {128, 129}}

// hasAnswer tells whether the far end answers. Over TCP it does too, which connect sees to.
func hasAnswer(f policy.Flow) bool {
	return f.Proto == policy.ProtoUDP || isICMP(f.Proto) && f.ICMPType == answers[f.Proto].request
}

// isAnswer tells an answer from what else comes to the same socket.
func isAnswer(f policy.Flow, packet []byte) bool {
	return !isICMP(f.Proto) || len(packet) > 0 && packet[0] == answers[f.Proto].answer
}

// synPorts are the ports of a TCP segment that asks for a connection.
func synPorts(segment []byte) (src, dst uint16, ok bool) {
	const syn, ack = 0x02, 0x10
	if len(segment) < 20 || segment[13]&(syn|ack) != syn {
		return 0, 0, false
	}
	return binary.BigEndian.Uint16(segment), binary.BigEndian.Uint16(segment[2:]), true
}

const protoGRE = 47

// tokenOffset is where in a protocol's packet packetOf puts the token.
func tokenOffset(proto uint8) int {
	switch proto {
	case policy.ProtoICMP, policy.ProtoICMPv6, policy.ProtoUDPLite:
		return 8
	case policy.ProtoSCTP:
		return 16 // the initiate tag
	case protoGRE:
		return 4
	}
	return 0
}

func tokenIn(packet []byte, offset int) (uint32, bool) {
	if len(packet) < offset+4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(packet[offset:]), true
}

// packetOf is what a flow's first packet has behind its IP header; for UDP, behind its UDP header.
func packetOf(f policy.Flow, token uint32) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, tokenOffset(f.Proto)), token)
	switch f.Proto {
	case policy.ProtoICMP, policy.ProtoICMPv6:
		b[0], b[1] = f.ICMPType, f.ICMPCode
		binary.BigEndian.PutUint32(b[4:], bits.RotateLeft32(token, 16)) // identifier, which is to differ, and sequence number
		if f.Proto == policy.ProtoICMP {                                // the kernel does it for ICMPv6
			binary.BigEndian.PutUint16(b[2:], checksum(b))
		}
	case policy.ProtoUDPLite:
		binary.BigEndian.PutUint16(b[0:], f.SrcPort)
		binary.BigEndian.PutUint16(b[2:], f.DstPort) // coverage 0: all of it
		binary.BigEndian.PutUint16(b[6:], checksum(append(pseudoHeader(f, len(b)), b...)))
	case policy.ProtoSCTP:
		return initChunk(f, b)
	case protoGRE:
		binary.BigEndian.PutUint16(b[2:], 0x6558) // version 0, of Ethernet frames; connection tracking knows what version 1 must be
	}
	return b
}

// initChunk is an SCTP packet with the chunk that begins an association (RFC 9260 §3.3.2); b ends with the initiate tag.
func initChunk(f policy.Flow, b []byte) []byte {
	binary.BigEndian.PutUint16(b[0:], f.SrcPort)
	binary.BigEndian.PutUint16(b[2:], f.DstPort)
	b[12] = 1                               // INIT
	b[15] = 20                              // length of the chunk
	b = append(b, 0, 1, 0, 0, 0, 1, 0, 1)   // window, outbound and inbound streams
	b = binary.BigEndian.AppendUint32(b, 1) // first TSN
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(b[8:], sum) // RFC 9260 appendix A: the least significant byte first
	return b
}

func pseudoHeader(f policy.Flow, length int) []byte {
	b := append(f.Src.AsSlice(), f.Dst.AsSlice()...)
	if f.Src.Is4() {
		return append(b, 0, f.Proto, byte(length>>8), byte(length))
	}
	return append(b, 0, 0, byte(length>>8), byte(length), 0, 0, 0, f.Proto)
}

// checksum is that of RFC 1071, over bytes in which its own place is 0.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// refused tells whether somebody on the way said no in words: a reset, or an ICMP error.
func refused(err error) bool {
	for _, e := range []error{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EPERM, syscall.EACCES, syscall.EPROTO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
