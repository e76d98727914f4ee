// Package wire is a fast judge of one node's ruleset by the real kernel. It makes one network namespace that is the node, puts
// raw packets on its wires, and sees where each comes out:
//
//	                       ┌───────────── node ─────────────┐
//	packet ──► far end ──► │ uplink or workload's interface │ ──► far end of another   Out(it)
//	                       │                                │ ──► raw socket           Local
//	packet ──────────────► │ raw socket of the host         │ ──► nowhere              Lost
//	                       └────────────────────────────────┘
//
// The far ends are in a second namespace that has no addresses and answers nothing. Every packet is the first of its connection.
// The package knows where addresses are, and nothing of policy but the form of a flow.
package wire

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// Spec is a node: who has which address.
type Spec struct {
	Uplinks   []Link // with the node's own addresses; packets for elsewhere leave by the first
	Workloads []Link
}

// Link is an interface of the node and the addresses on it or, of a workload, behind it.
type Link struct {
	Iface   string
	Addrs   []netip.Addr
	Bridged bool // it is a port of the bridge Bridge, and has no route of its own
}

// Bridge is the interface by which the node's own routing knows the workloads that are Bridged.
const Bridge = "br0"

// Packet is a packet to send.
type Packet struct {
	policy.Flow        // if OrigDst is valid the packet is sent there, and something in the node is to translate it
	In          string // the interface of the node on which it comes in; "" for one that the host itself sends
}

// original is the flow as it is sent.
func (p *Packet) original() policy.Flow {
	f := p.Flow
	if f.OrigDst.IsValid() {
		f.Dst, f.DstPort = f.OrigDst, f.OrigDstPort
	}
	return f
}

// Fate is what became of a packet.
type Fate string

// The fates of packets that do not go Out.
const (
	Lost  Fate = "lost"
	Local Fate = "local" // the host itself has it, after the input hook
)

// Out is the fate of a packet that has left the node by an interface.
func Out(iface string) Fate { return Fate("out of " + iface) }

// Node is a node that has been made.
type Node struct {
	inner, outside *namespace
	links          map[string]*link
	byFarIndex     map[int]string // the names of links by the index of their far end
	bridge         netlink.Link
	ports          map[netip.Addr]*link // behind which port of the bridge an address is
	facts          map[fact]bool        // that hold now
	known          map[neighbour]string // the hardware addresses that the node has been told
	sockets        sockets
	tracks         bool   // connection tracking is as we need it
	token          uint32 // of the last packet; no two packets are the same
}

// Open makes a node.
func Open(s Spec) (*Node, error) {
	n := &Node{links: map[string]*link{}, byFarIndex: map[int]string{}, facts: map[fact]bool{},
		ports: map[netip.Addr]*link{}, known: map[neighbour]string{}}
	if err := n.open(s); err != nil {
		n.Close()
		return nil, fmt.Errorf("making a node: %w", err)
	}
	return n, nil
}

func (n *Node) open(s Spec) (err error) {
	if n.inner, err = newNamespace("node", ofNode); err != nil {
		return err
	}
	if n.outside, err = newNamespace("outside", ofOutside); err != nil {
		return err
	}
	if err := n.sockets.open(n.inner, n.outside); err != nil {
		return err
	}
	return n.Become(s)
}

// Become makes another node of it: its interfaces stay and are used again where they have the same names, its addresses and
// routes go. What is in its nftables stays.
func (n *Node) Become(s Spec) error {
	want, err := factsOf(s)
	if err != nil {
		return err
	}
	if err := n.haveLinks(s); err != nil {
		return err
	}
	return n.make(want)
}

// Do runs f on a thread in the node's namespace.
func (n *Node) Do(f func() error) error { return n.inner.do(f) }

// Close lets go of the namespaces.
func (n *Node) Close() {
	n.sockets.close()
	for _, ns := range []*namespace{n.inner, n.outside} {
		if ns != nil {
			ns.close()
		}
	}
}

// hardware is an address of our own making: 02 says that it is local.
func hardware(kind, n byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, kind, n} }

// The kinds of ends that have a hardware address.
const (
	nearEnd = iota
	farEnd
	bridgeEnd
)
