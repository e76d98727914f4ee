package nft

import (
	"encoding/binary"

	"github.com/mdlayher/netlink"
)

// Tests look at these.
var (
	Ahead            = ahead
	ForeignMessage   = foreign
	Explicit         = explicit
	Check            = check
	MarkMessage      = markMessage
	DecodeConnection = decodeConnection
)

// Unowned makes the Conn behave as on a kernel before 6.9, whose tables have no owner that persists.
func (c *Conn) Unowned() { c.flags = 0 }

// Track makes the kernel track a connection, which master has brought about unless that is nil.
func Track(c Connection, master *Connection) error {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Nested(ctOrig, c.original().encode)
	reply := tuple{proto: c.Proto, src: c.ReplySrc, dst: c.ReplyDst, srcPort: c.ReplySrcPort, dstPort: c.ReplyDstPort}
	ae.Nested(ctReply, reply.encode)
	ae.Uint16(ctZone, c.Zone)
	const timeout, ofMaster = 7, 14
	ae.Uint32(timeout, 100)
	if master != nil {
		ae.Nested(ofMaster, master.original().encode)
	}
	attributes, err := ae.Encode()
	if err != nil {
		return err
	}
	_, err = conntrack(ctNew, netlink.Acknowledge|netlink.Create, append(ctHeader(c.Src), attributes...))
	return err
}
