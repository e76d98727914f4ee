package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Connection is one that the kernel tracks. Its original direction is as the first packet came, before any translation; the
// reply's source is where that packet really went.
type Connection struct {
	ID                         uint32
	Zone                       uint16
	Proto                      uint8
	Src, Dst                   netip.Addr
	SrcPort, DstPort           uint16
	ReplySrc, ReplyDst         netip.Addr
	ReplySrcPort, ReplyDstPort uint16
	ICMPType, ICMPCode         uint8
	ICMPID                     uint16 // tells one echo request from another
	Expected                   bool   // it is related to another connection, as FTP's data is
	Mark                       uint32
}

// The attributes of a connection, as linux/netfilter/nfnetlink_conntrack.h numbers them.
const (
	ctOrig, ctReply, ctStatus, ctMark, ctID, ctZone, ctMarkMask = 1, 2, 3, 8, 12, 18, 21

	ctIP, ctProto                    = 1, 2       // in a direction
	ctSrc4, ctDst4, ctSrc6, ctDst6   = 1, 2, 3, 4 // in ctIP
	ctNumber, ctSrcPort, ctDstPort   = 1, 2, 3    // in ctProto
	ctICMPID, ctICMPType, ctICMPCode = 4, 5, 6
	ctICMPv6ID, ctICMPv6Type         = 7, 8
	ctICMPv6Code                     = 9

	ctNew, ctGet = unix.NFNL_SUBSYS_CTNETLINK<<8 | 0, unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // messages

	ctExpected = 1 // a bit of the status
)

// Connections are all those of the caller's network namespace, of both families. One that begins or ends meanwhile may be missing.
func Connections() ([]Connection, error) {
	answers, err := conntrack(ctGet, netlink.Dump, ctHeader(netip.Addr{}))
	if err != nil {
		return nil, fmt.Errorf("listing connections: %w", err)
	}
	out := make([]Connection, 0, len(answers))
	for _, m := range answers {
		c, err := decodeConnection(m.Data)
		if err != nil {
			return nil, fmt.Errorf("reading a connection: %w", err)
		}
		out = append(out, c)
	}
	return out, nil
}

// Mark gives the bits of the connection's mark that are under the mask the value, and leaves the others. The connection is found
// by its original direction. That it has ended meanwhile is no error.
func Mark(c Connection, mask, value uint32) error {
	data, err := markMessage(c, mask, value)
	if err == nil {
		_, err = conntrack(ctNew, netlink.Acknowledge, data)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("marking the connection from %s to %s: %w", c.Src, c.Dst, err)
	}
	return nil
}

func markMessage(c Connection, mask, value uint32) ([]byte, error) {
	if value&^mask != 0 {
		return nil, fmt.Errorf("no bits under mask %#x are %#x", mask, value)
	}
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Nested(ctOrig, c.original().encode)
	if c.Zone != 0 {
		ae.Uint16(ctZone, c.Zone)
	}
	ae.Uint32(ctMark, value)
	ae.Uint32(ctMarkMask, mask)
	attributes, err := ae.Encode()
	return append(ctHeader(c.Src), attributes...), err
}

// ctHeader is the family, the version and no resource.
func ctHeader(a netip.Addr) []byte {
	family := byte(unix.AF_UNSPEC)
	switch {
	case a.Is4():
		family = unix.AF_INET
	case a.Is6():
		family = unix.AF_INET6
	}
	return []byte{family, unix.NFNETLINK_V0, 0, 0}
}

// conntrack asks the kernel's connection tracking, and gives its answers.
func conntrack(message netlink.HeaderType, flags netlink.HeaderFlags, data []byte) ([]netlink.Message, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = nl.Close() }()
	return nl.Execute(netlink.Message{Header: netlink.Header{Type: message, Flags: netlink.Request | flags}, Data: data})
}

func decodeConnection(data []byte) (c Connection, err error) {
	const header = 4 // family, version, resource
	if len(data) < header {
		return c, fmt.Errorf("%d bytes are none", len(data))
	}
	ad, err := netlink.NewAttributeDecoder(data[header:])
	if err != nil {
		return c, err
	}
	ad.ByteOrder = binary.BigEndian
	var orig, reply tuple
	for ad.Next() {
		switch ad.Type() {
		case ctOrig:
			ad.Nested(orig.decode)
		case ctReply:
			ad.Nested(reply.decode)
		case ctStatus:
			c.Expected = ad.Uint32()&ctExpected != 0
		case ctMark:
			c.Mark = ad.Uint32()
		case ctID:
			c.ID = ad.Uint32()
		case ctZone:
			c.Zone = ad.Uint16()
		}
	}
	c.Proto, c.ICMPType, c.ICMPCode, c.ICMPID = orig.proto, orig.icmpType, orig.icmpCode, orig.icmpID
	c.Src, c.Dst, c.SrcPort, c.DstPort = orig.src, orig.dst, orig.srcPort, orig.dstPort
	c.ReplySrc, c.ReplyDst, c.ReplySrcPort, c.ReplyDstPort = reply.src, reply.dst, reply.srcPort, reply.dstPort
	return c, ad.Err()
}

// tuple is one direction of a connection.
type tuple struct {
	proto              uint8
	src, dst           netip.Addr
	srcPort, dstPort   uint16
	icmpID             uint16
	icmpType, icmpCode uint8
}

func (c *Connection) original() *tuple {
	return &tuple{c.Proto, c.Src, c.Dst, c.SrcPort, c.DstPort, c.ICMPID, c.ICMPType, c.ICMPCode}
}

func (t *tuple) encode(ae *netlink.AttributeEncoder) error {
	ae.Nested(ctIP, func(ae *netlink.AttributeEncoder) error {
		src, dst := uint16(ctSrc4), uint16(ctDst4)
		if t.src.Is6() {
			src, dst = ctSrc6, ctDst6
		}
		ae.Bytes(src, t.src.AsSlice())
		ae.Bytes(dst, t.dst.AsSlice())
		return nil
	})
	ae.Nested(ctProto, t.encodeProto)
	return nil
}

func (t *tuple) encodeProto(ae *netlink.AttributeEncoder) error {
	ae.Uint8(ctNumber, t.proto)
	switch t.proto {
	case unix.IPPROTO_ICMP:
		ae.Uint16(ctICMPID, t.icmpID)
		ae.Uint8(ctICMPType, t.icmpType)
		ae.Uint8(ctICMPCode, t.icmpCode)
	case unix.IPPROTO_ICMPV6:
		ae.Uint16(ctICMPv6ID, t.icmpID)
		ae.Uint8(ctICMPv6Type, t.icmpType)
		ae.Uint8(ctICMPv6Code, t.icmpCode)
	default: // protocols without ports do not look at them
		ae.Uint16(ctSrcPort, t.srcPort)
		ae.Uint16(ctDstPort, t.dstPort)
	}
	return nil
}

// decode is the opposite of encode.
func (t *tuple) decode(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case ctIP:
			ad.Nested(t.decodeIP)
		case ctProto:
			ad.Nested(t.decodeProto)
		}
	}
	return nil
}

func (t *tuple) decodeIP(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		a, _ := netip.AddrFromSlice(ad.Bytes())
		switch ad.Type() {
		case ctSrc4, ctSrc6:
			t.src = a
		case ctDst4, ctDst6:
			t.dst = a
		}
	}
	return nil
}

func (t *tuple) decodeProto(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case ctNumber:
			t.proto = ad.Uint8()
		case ctSrcPort:
			t.srcPort = ad.Uint16()
		case ctDstPort:
			t.dstPort = ad.Uint16()
		case ctICMPID, ctICMPv6ID:
			t.icmpID = ad.Uint16()
		case ctICMPType, ctICMPv6Type:
			t.icmpType = ad.Uint8()
		case ctICMPCode, ctICMPv6Code:
			t.icmpCode = ad.Uint8()
		}
	}
	return nil
}
