package wire

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// link is a pair of ends, the near one in the node.
type link struct {
	name     string
	near     netlink.Link
	far      int // the index of its far end
	nearAddr net.HardwareAddr
	farAddr  net.HardwareAddr
	onBridge bool
}

// anchor is an address that every interface keeps: an interface that loses its last IPv4 address loses its routes too.
var anchor = netip.MustParseAddr("169.254.255.2")

// The gateways to which uplinks send what is for elsewhere. Nobody has them: the far end takes everything.
var gateways = []netip.Addr{netip.MustParseAddr("169.254.255.1"), netip.MustParseAddr("fe80::1")}

// haveLinks makes the links that are not there yet, and waits until they can be used.
func (n *Node) haveLinks(s Spec) error {
	for _, l := range slices.Concat(s.Uplinks, s.Workloads) {
		if l.Bridged {
			if err := n.haveBridge(); err != nil {
				return fmt.Errorf("bridge %s: %w", Bridge, err)
			}
		}
		if n.links[l.Iface] == nil {
			if err := n.join(l.Iface); err != nil {
				return fmt.Errorf("link %s: %w", l.Iface, err)
			}
		}
	}
	return await(n.linkDown)
}

func (n *Node) join(name string) error {
	i := byte(len(n.links) + 1)
	l := &link{name: name, nearAddr: hardware(nearEnd, i), farAddr: hardware(farEnd, i)}
	a := netlink.NewLinkAttrs()
	a.Name, a.HardwareAddr = name, l.nearAddr
	veth := &netlink.Veth{LinkAttrs: a, PeerName: name, PeerHardwareAddr: l.farAddr, PeerNamespace: netlink.NsFd(int(n.outside.fd))}
	if err := n.inner.link.LinkAdd(veth); err != nil {
		return err
	}
	for _, ns := range []*namespace{n.inner, n.outside} {
		if err := ns.up(name); err != nil {
			return err
		}
	}
	far, err := n.outside.link.LinkByName(name)
	if err != nil {
		return err
	}
	if l.near, err = n.inner.link.LinkByName(name); err != nil {
		return err
	}
	l.far = far.Attrs().Index
	n.links[name], n.byFarIndex[l.far] = l, name
	return n.inner.own(l.near, anchor, true)
}

func (n *Node) haveBridge() error {
	if n.bridge != nil {
		return nil
	}
	err := n.inner.set(ofBridges)
	if errors.Is(err, fs.ErrNotExist) {
		_ = exec.Command("modprobe", "br_netfilter").Run() // whether that has helped is seen at once
		err = n.inner.set(ofBridges)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ErrNoBridgeFilter
	case err != nil:
		return err
	}
	a := netlink.NewLinkAttrs()
	a.Name, a.HardwareAddr = Bridge, hardware(bridgeEnd, 0)
	snoop := false
	if err := n.inner.link.LinkAdd(&netlink.Bridge{LinkAttrs: a, MulticastSnooping: &snoop}); err != nil {
		return err
	}
	if err := n.inner.up(Bridge); err != nil {
		return err
	}
	if n.bridge, err = n.inner.link.LinkByName(Bridge); err != nil {
		return err
	}
	return n.inner.own(n.bridge, anchor, true)
}

// patience is how long anything may take that takes no time on an idle machine.
const patience = 20 * time.Second

// await waits until nothing is amiss: what the kernel has been told of links and IPv6 addresses it does a moment later.
func await(amiss func() (string, error)) error {
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(patience); ; <-look.C {
		what, err := amiss()
		switch {
		case err != nil:
			return err
		case what == "":
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%s still, after %s", what, patience)
		}
	}
}

// linkDown tells a link over which no packet can go yet.
func (n *Node) linkDown() (string, error) {
	for _, l := range n.links {
		if up, err := n.refresh(&l.near); !up || err != nil {
			return l.name + " is down", err
		}
	}
	return "", nil
}

// refresh looks at an interface again until it is up.
func (n *Node) refresh(l *netlink.Link) (up bool, err error) {
	if a := (*l).Attrs(); a.OperState != netlink.OperUp {
		now, err := n.inner.link.LinkByIndex(a.Index)
		if err != nil {
			return false, fmt.Errorf("interface %s: %w", a.Name, err)
		}
		*l = now
	}
	return (*l).Attrs().OperState == netlink.OperUp, nil
}

// notYet tells a fact that has been made and does not hold yet: a bridge is down before it has a port, and an IPv6 address is
// nobody's before the kernel has got round to it.
func (n *Node) notYet() (string, error) {
	for f := range n.facts {
		switch {
		case f.kind == bridged:
			if up, err := n.refresh(&n.bridge); !up || err != nil {
				return Bridge + " is down", err
			}
		case f.kind == own && f.addr.Is6():
			routes, err := n.inner.link.RouteGet(f.addr.AsSlice())
			if err != nil || len(routes) == 0 || routes[0].Type != unix.RTN_LOCAL {
				return fmt.Sprintf("%s is not the host's", f.addr), nil
			}
		}
	}
	return "", nil
}

// fact is one thing that is so in a node: comparable, so that what changes between two nodes is a difference of sets.
type fact struct {
	kind kind
	link string
	addr netip.Addr // none for what is about a link
}

// kind of a fact, in the order in which they are made; they are unmade the other way round.
type kind uint8

const (
	bridged   kind = iota // the link is a port of the bridge
	own                   // the address is the node's, on the link
	behind                // the address is behind the link, and routed to it
	port                  // the address is behind the link, a port of the bridge
	elsewhere             // what has no other route leaves by the link, by the gateway that is the address
)

// factsOf a node. It refuses an address that two have, and links of one name.
func factsOf(s Spec) (map[fact]bool, error) {
	out, names, addrs := map[fact]bool{}, map[string]bool{}, map[netip.Addr]bool{}
	take := func(l Link, k kind) error {
		if names[l.Iface] || l.Iface == "" || l.Iface == Bridge {
			return fmt.Errorf("interface %q: the name is taken", l.Iface)
		}
		names[l.Iface] = true
		for _, a := range l.Addrs {
			if addrs[a] {
				return fmt.Errorf("interface %s: somebody else has the address %s", l.Iface, a)
			}
			addrs[a], out[fact{k, l.Iface, a}] = true, true
		}
		return nil
	}
	if len(s.Uplinks) == 0 {
		return nil, errors.New("a node needs an uplink")
	}
	for _, l := range s.Uplinks {
		if l.Bridged {
			return nil, fmt.Errorf("interface %s: an uplink is on no bridge here", l.Iface)
		}
		if err := take(l, own); err != nil {
			return nil, err
		}
	}
	for _, g := range gateways {
		out[fact{elsewhere, s.Uplinks[0].Iface, g}] = true
	}
	for _, l := range s.Workloads {
		k := behind
		if l.Bridged {
			k, out[fact{kind: bridged, link: l.Iface}] = port, true
		}
		if err := take(l, k); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// make makes exactly these facts hold.
func (n *Node) make(want map[fact]bool) error {
	var gone, new []fact
	for f := range n.facts {
		if !want[f] {
			gone = append(gone, f)
		}
	}
	for f := range want {
		if !n.facts[f] {
			new = append(new, f)
		}
	}
	order := func(a, b fact) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.link, b.link), a.addr.Compare(b.addr))
	}
	slices.SortFunc(gone, func(a, b fact) int { return order(b, a) })
	slices.SortFunc(new, order)
	for _, f := range gone {
		if err := n.state(f, false); err != nil {
			return fmt.Errorf("taking %s from %s: %w", f.addr, f.link, err)
		}
		delete(n.facts, f)
	}
	for _, f := range new {
		if err := n.state(f, true); err != nil {
			return fmt.Errorf("giving %s to %s: %w", f.addr, f.link, err)
		}
		n.facts[f] = true
	}
	return await(n.notYet)
}

// state makes a fact hold, or not.
func (n *Node) state(f fact, holds bool) error {
	l := n.links[f.link]
	switch f.kind {
	case bridged:
		return n.attach(l, holds)
	case own:
		return n.inner.own(l.near, f.addr, holds)
	case behind:
		return n.route(l.near, l.farAddr, netip.PrefixFrom(f.addr, f.addr.BitLen()), f.addr, holds)
	case port:
		if delete(n.ports, f.addr); holds {
			n.ports[f.addr] = l
		}
		return n.route(n.bridge, l.farAddr, netip.PrefixFrom(f.addr, f.addr.BitLen()), f.addr, holds)
	}
	return n.route(l.near, l.farAddr, netip.PrefixFrom(anyOf(f.addr), 0), f.addr, holds)
}

func anyOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// attach makes a link a port of the bridge, which then knows by which port to reach its far end and need not ask all of them.
func (n *Node) attach(l *link, holds bool) error {
	n.bridge.Attrs().OperState = netlink.OperUnknown // which may change now
	if l.onBridge = holds; !holds {
		return n.inner.link.LinkSetNoMaster(l.near)
	}
	if err := n.inner.link.LinkSetMaster(l.near, n.bridge); err != nil {
		return err
	}
	return n.inner.link.NeighSet(&netlink.Neigh{LinkIndex: l.near.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER,
		State: netlink.NUD_NOARP, HardwareAddr: l.farAddr})
}

func (n *namespace) own(l netlink.Link, a netip.Addr, holds bool) error {
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))}
	if !holds {
		return n.link.AddrDel(l, addr)
	}
	if a.IsLinkLocalUnicast() {
		addr.Scope = int(netlink.SCOPE_LINK)
	}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return n.link.AddrAdd(l, addr)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// neighbour is an address whose hardware address the node need not ask for.
type neighbour struct {
	iface int
	addr  netip.Addr
}

// route leads packets over an interface to a neighbour.
func (n *Node) route(l netlink.Link, at net.HardwareAddr, to netip.Prefix, via netip.Addr, holds bool) error {
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(to)}
	if to.IsSingleIP() {
		r.Scope = netlink.SCOPE_LINK
	} else {
		r.Gw, r.Flags = via.AsSlice(), int(netlink.FLAG_ONLINK)
	}
	if !holds {
		return n.inner.link.RouteDel(r)
	}
	if err := n.inner.link.RouteReplace(r); err != nil {
		return err
	}
	k := neighbour{l.Attrs().Index, via}
	if n.known[k] == at.String() {
		return nil
	}
	n.known[k] = at.String()
	told := netlink.Neigh{LinkIndex: k.iface, State: netlink.NUD_PERMANENT, IP: via.AsSlice(), HardwareAddr: at}
	return n.inner.link.NeighSet(&told)
}
