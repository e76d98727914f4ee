package wire

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net"
	"slices"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// hopLimit is the highest, which neighbour discovery asks for.
const hopLimit = 255

const protoGRE = 47

// unsendable are the protocol numbers that are no protocol in IPv6, but a header that another follows.
var unsendable = []uint8{43, 44, 51, 59, 60, 135}

// packetOf is a flow's first packet, from its IP header on. The token makes it differ from every other.
func packetOf(f policy.Flow, token uint32) ([]byte, error) {
	switch icmp6 := f.Proto == policy.ProtoICMPv6; {
	case !f.Src.IsValid() || !f.Dst.IsValid() || f.Src.Is4() != f.Dst.Is4() || f.Src.Is4In6() || f.Dst.Is4In6():
		return nil, errors.New("its two ends are not addresses of one family")
	case icmp6 && f.Src.Is4(), f.Proto == policy.ProtoICMP && f.Src.Is6():
		return nil, errors.New("its protocol is of the other family")
	case f.Proto == 0 || f.Proto == 255:
		return nil, errors.New("no raw socket receives its protocol")
	case f.Src.Is6() && slices.Contains(unsendable, f.Proto):
		return nil, errors.New("its protocol is the header of another in IPv6")
	}
	segment := segmentOf(f, token)
	return append(header(f, len(segment)), segment...), nil
}

// header is an IP header without options or extensions.
func header(f policy.Flow, length int) []byte {
	if f.Src.Is6() {
		b := []byte{0x60, 0, 0, 0, byte(length >> 8), byte(length), f.Proto, hopLimit}
		return append(append(b, f.Src.AsSlice()...), f.Dst.AsSlice()...)
	}
	length += 20
	b := []byte{0x45, 0, byte(length >> 8), byte(length), 0, 1, 0x40, 0, hopLimit, f.Proto, 0, 0}
	b = append(append(b, f.Src.AsSlice()...), f.Dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return b
}

// segmentOf is what a packet has behind its IP header, the token in or at the end of it.
func segmentOf(f policy.Flow, token uint32) []byte {
	build := builders[f.Proto]
	if build == nil {
		build = plain
	}
	return build(f, token)
}

var builders = map[uint8]func(policy.Flow, uint32) []byte{
	policy.ProtoTCP: syn, policy.ProtoUDP: datagram, policy.ProtoUDPLite: datagram, policy.ProtoSCTP: initChunk,
	policy.ProtoICMP: icmp, policy.ProtoICMPv6: icmp, protoGRE: gre,
}

func ports(f policy.Flow) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, f.SrcPort), f.DstPort)
}

// syn asks for a TCP connection, and brings its first bytes.
func syn(f policy.Flow, token uint32) []byte {
	b := binary.BigEndian.AppendUint32(ports(f), token) // the sequence number
	b = append(b, 0, 0, 0, 0, 5<<4, 0x02, 0xff, 0xff, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, token)
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudoHeader(f, len(b)), b...)))
	return b
}

// datagram is one of UDP, or of UDP-Lite with a checksum over all of it.
func datagram(f policy.Flow, token uint32) []byte {
	b := append(ports(f), 0, 12, 0, 0)
	b = binary.BigEndian.AppendUint32(b, token)
	sum := checksum(append(pseudoHeader(f, len(b)), b...))
	if sum == 0 {
		sum = 0xffff // 0 would say that there is none
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	return b
}

// initChunk begins an SCTP association (RFC 9260 §3.3.2): verification tag 0, and one chunk, whose initiate tag is the token.
func initChunk(f policy.Flow, token uint32) []byte {
	b := append(ports(f), 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20)
	b = binary.BigEndian.AppendUint32(b, token)
	b = append(b, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1) // window, streams out and in, first TSN
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(b[8:], sum) // RFC 9260 appendix A: the least significant byte first
	return b
}

// icmp is a message with an identifier of its own, and long enough for every type: of neighbour discovery and of listener
// reports the address that it is about follows.
func icmp(f policy.Flow, token uint32) []byte {
	b := []byte{f.ICMPType, f.ICMPCode, 0, 0}
	b = binary.BigEndian.AppendUint32(b, token<<16|token>>16) // identifier, which is to differ, and sequence number
	b = append(b, f.Dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, token)
	sum := b
	if f.Proto == policy.ProtoICMPv6 {
		sum = append(pseudoHeader(f, len(b)), b...)
	}
	binary.BigEndian.PutUint16(b[2:], checksum(sum))
	return b
}

// gre is of version 0, which carries Ethernet frames; connection tracking knows what version 1 must be.
func gre(_ policy.Flow, token uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{0, 0, 0x65, 0x58}, token)
}

func plain(_ policy.Flow, token uint32) []byte {
	return binary.BigEndian.AppendUint32(make([]byte, 16), token)
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

// The Ethernet types that count here. Those of local experiments are nobody's, so no rule and no router has a say in them.
const (
	etherIPv4   = 0x0800
	etherIPv6   = 0x86dd
	etherMarker = 0x88b5
)

// frame puts a packet on a wire.
func frame(to, from net.HardwareAddr, ether uint16, packet []byte) []byte {
	b := slices.Concat(to, from)
	return append(binary.BigEndian.AppendUint16(b, ether), packet...)
}

// parcel is what a packet is known by where it comes out: all that is behind its IP header, which no router changes. An answer
// to a packet is another parcel, and so is an error about it.
type parcel struct {
	proto   uint8
	segment string
}

// unwrap takes the IP header off a packet.
func unwrap(b []byte) (parcel, bool) {
	switch {
	case len(b) >= 20 && b[0] == 0x45:
		if length := int(binary.BigEndian.Uint16(b[2:])); length >= 20 && length <= len(b) {
			return parcel{b[9], string(b[20:length])}, true
		}
	case len(b) >= 40 && b[0]>>4 == 6:
		if length := 40 + int(binary.BigEndian.Uint16(b[4:])); length <= len(b) {
			return parcel{b[6], string(b[40:length])}, true
		}
	}
	return parcel{}, false
}
