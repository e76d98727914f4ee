package nft

import (
	"encoding/binary"
	"fmt"
	"reflect"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// Tests look at these.
var (
	Ahead            = ahead
	Undone           = undone
	ForeignMessage   = foreign
	Explicit         = explicit
	Check            = check
	MarkMessage      = markMessage
	DecodeConnection = decodeConnection
)

// Judged tells whether the changes from a right table to another are accepted without a look at the whole of it, and whether what is
// then known is what the whole would have taught.
func Judged(have, want *ruleset.Table) (accepted, same bool) {
	o := learn(have)
	if o.accept(ruleset.Diff(have, want), have, want) != nil {
		return false, true
	}
	return true, reflect.DeepEqual(o.outline(), learn(want).outline())
}

// outline is what is known, without pointers.
func (o *objects) outline() map[string]any {
	out := map[string]any{"sets": o.sets, "maps": o.maps, "chains": o.chains, "demands": o.demands}
	names := map[*node]ref{}
	for r, n := range o.nodes {
		names[n] = r
	}
	for r, n := range o.nodes {
		to, from := map[ref]int{}, map[ref]int{}
		for other, count := range n.to {
			to[names[other]] = count
		}
		for other, count := range n.from {
			from[names[other]] = count
		}
		out[fmt.Sprint(r)] = []any{n.kind, n.forbids, n.demands, to, from}
	}
	return out
}

// Clash tells whether the kernel cannot make the one table of the other.
var Clash = clash

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

// Probe tries a table as a feature does.
func Probe(t *ruleset.Table) error {
	named := *t
	named.Name = probeTable
	p := probe{tables: []*ruleset.Table{&named}}
	return p.try()
}

// Fault makes f fail the Conn's calls to the kernel, before they are made.
func (c *Conn) Fault(f func(call string) error) { c.fault = f }

// Written is the table as we would send it to an empty kernel: netlink messages, one behind the other.
func Written(t *ruleset.Table) ([]byte, error) {
	c := &Conn{name: t.Name}
	b := c.transaction(state{}, ruleset.Diff(nil, explicit(t)), owned, 0)
	return b.buf, b.failed
}

// Answered reads a table from a kernel that answers each question with what ask gives.
func Answered(table string, ask nltest.Func) (*ruleset.Table, error) {
	nl, err := nftables.New(nftables.WithTestDial(ask))
	if err != nil {
		return nil, err
	}
	c := &Conn{nl: nl, name: table}
	t, err := c.find()
	if t == nil || err != nil {
		return nil, err
	}
	s, err := c.read(t, owned)
	return s.table, err
}

// What the kernel answers and tells, read alone.
var (
	DecodeGeneration = decodeGeneration
	HostMatters      = matters
	Complaint        = func(m []byte) error { return newBatch(0).complaint(m) }
)
