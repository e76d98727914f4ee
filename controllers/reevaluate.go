package controllers

import (
	"fmt"
	"net/netip"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// reevaluate marks the connections that the plan would not let begin any more, and clears those that it would again: the table
// stops what is marked, in both directions. It is done once after each change of the table, and after whatever an earlier agent
// did; what failed is done again. Where connections are kept nothing is marked, and nothing in the table asks for a mark.
func (a *Agent) reevaluate(plan *policy.Plan) error {
	settings := plan.Settings[a.Node]
	if !settings.Reevaluate || a.judged {
		return nil
	}
	connections, err := nft.Connections()
	if err != nil {
		return fmt.Errorf("connections that are denied now may go on: %w", err)
	}
	marks, err := (&judge{plan: plan, node: a.Node, bit: settings.Mark, way: ways()}).marks(connections)
	if err != nil {
		return fmt.Errorf("connections that are denied now may go on: %w", err)
	}
	ended := 0
	for _, m := range marks {
		if err := nft.Mark(m.connection, settings.Mark, m.value); err != nil {
			return fmt.Errorf("connections that are denied now may go on: %w", err)
		}
		if m.value != 0 {
			ended++
		}
	}
	if len(marks) > 0 {
		a.Log.Info("connections judged anew", "all", len(connections), "ended", ended, "resumed", len(marks)-ended)
	}
	a.judged = true
	return nil
}

// ways remembers the routes that it has asked for.
func ways() func(to, from netip.Addr) (string, error) {
	known := map[[2]netip.Addr]string{}
	return func(to, from netip.Addr) (string, error) {
		key := [2]netip.Addr{to, from}
		if iface, ok := known[key]; ok {
			return iface, nil
		}
		iface, err := nft.RouteTo(to, from)
		if err == nil {
			known[key] = iface
		}
		return iface, err
	}
}

// judge asks one node's plan what it says of connections that have begun.
type judge struct {
	plan *policy.Plan
	node string
	bit  uint32                                              // of the connection's mark: denied
	way  func(to, from netip.Addr) (iface string, err error) // by which the node sends to an address, as nft.RouteTo
}

// mark is the bit that a connection has to have, and has not.
type mark struct {
	connection nft.Connection
	value      uint32
}

func (j *judge) marks(connections []nft.Connection) (out []mark, err error) {
	for _, c := range connections {
		if !judged(&c) {
			continue
		}
		f, whole, err := j.flow(&c)
		if err != nil {
			return nil, err
		}
		if !whole {
			continue
		}
		value := uint32(0)
		if j.plan.Trace(f).Verdict == policy.Deny {
			value = j.bit
		}
		if c.Mark&j.bit != value {
			out = append(out, mark{c, value})
		}
	}
	return out, nil
}

// judged leaves out what another connection has brought about and ends with it, and what is never established, so that the table
// judges each of its packets. To whom a link's own addresses belong cannot be told.
func judged(c *nft.Connection) bool {
	local := func(a netip.Addr) bool { return a.IsLinkLocalUnicast() || a.IsUnspecified() }
	everybody := c.Dst.IsMulticast() || c.Dst == netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return !c.Expected && !everybody && !local(c.Src) && !local(c.Dst)
}

// flow is a connection's first packet as it passed this node. Where it really went the source of its replies says; by which
// interfaces it came and went the objects say of this node's own ends, and of all others the routes there. It is not whole where
// there is none: the other end is not reached, or is the host by an address that no interface has, as 127.0.0.53 may be.
func (j *judge) flow(c *nft.Connection) (f policy.Flow, whole bool, err error) {
	f = policy.Flow{
		Src: c.Src, SrcPort: c.SrcPort, Dst: c.ReplySrc, DstPort: c.ReplySrcPort,
		Proto: c.Proto, ICMPType: c.ICMPType, ICMPCode: c.ICMPCode, Via: j.node,
	}
	if c.Dst != c.ReplySrc || c.DstPort != c.ReplySrcPort {
		f.OrigDst, f.OrigDstPort, f.NATNode = c.Dst, c.DstPort, j.node
	}
	in, out := j.own(f.Src), j.own(f.Dst)
	if !in {
		if f.InIface, err = j.way(f.Src, j.host(f.Dst)); err != nil {
			return f, false, err
		}
	}
	if !out {
		if f.OutIface, err = j.way(f.Dst, j.host(f.Src)); err != nil {
			return f, false, err
		}
	}
	return f, (in || f.InIface != "") && (out || f.OutIface != ""), nil
}

// own tells whether an address is the node's own or one of its workloads'.
func (j *judge) own(a netip.Addr) bool {
	w := j.plan.Workload(a)
	return w != nil && w.Node == j.node || j.host(a).IsValid()
}

// host gives an address back if it is the node's own.
func (j *judge) host(a netip.Addr) netip.Addr {
	if h := j.plan.Host(a); h != nil && h.Name == j.node {
		return a
	}
	return netip.Addr{}
}
