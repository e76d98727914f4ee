package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The control plane and the nodes are on one switch, in network namespaces of their own: the machine's own is not touched. Between the
// pods of two nodes there are routes, and no source NAT.
//
//	tw-1f2e: control plane      tw-1f2e-n1: node n1
//	br0 .254 ──┬─────────────── eth0 .1 ── cni0, a bridge ── pods
//	           │                tw-1f2e-n2: node n2
//	           └─────────────── eth0 .2 ── pods, point to point
var (
	hostNets    = dual{netip.MustParsePrefix("172.31.0.0/24"), netip.MustParsePrefix("fd00:31::/64")}
	podNets     = dual{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}
	serviceNets = dual{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}

	controlPlane = []netip.Addr{netip.MustParseAddr("172.31.0.254"), netip.MustParseAddr("fd00:31::fe")}
	apiService   = []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00:10:96::1")} // the API server's service
)

// dual is an IPv4 network, and an IPv6 one.
type dual [2]netip.Prefix

func (d dual) String() string { return d[0].String() + "," + d[1].String() }

// nodeNets are a node's addresses, and the networks of its pods.
func nodeNets(number int) (addrs []netip.Addr, pods dual) {
	addr := func(format string) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(format, number)) }
	return []netip.Addr{addr("172.31.0.%d"), addr("fd00:31::%d")},
		dual{netip.PrefixFrom(addr("10.244.%d.0"), 24), netip.PrefixFrom(addr("fd00:10:244:%d::"), 64)}
}

// wire makes the namespaces, and everything in them that is there before a pod is.
func (c *Cluster) wire() error {
	if err := newNetns(c.name); err != nil {
		return fmt.Errorf("namespace %s: %w", c.name, err)
	}
	hub, err := openNetns(c.name)
	if err != nil {
		return err
	}
	defer hub.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	br := &netlink.Bridge{LinkAttrs: attrs}
	if err := hub.LinkAdd(br); err != nil {
		return fmt.Errorf("bridge br0: %w", err)
	}
	if err := hub.up(br, controlPlane); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := n.wire(hub, br); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	for _, n := range c.Nodes {
		if err := n.route(hub, c.Nodes); err != nil {
			return fmt.Errorf("routes to and from node %s: %w", n.Name, err)
		}
	}
	return nil
}

// wire connects the node with the switch.
func (n *Node) wire(hub *links, br *netlink.Bridge) error {
	if err := newNetns(n.Netns); err != nil {
		return fmt.Errorf("namespace %s: %w", n.Netns, err)
	}
	ns, err := netns.GetFromName(n.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = n.Name, br.Index
	port := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}
	if err := hub.LinkAdd(port); err != nil {
		return fmt.Errorf("link to the switch: %w", err)
	}
	if err := hub.up(port, nil); err != nil {
		return err
	}
	at, err := openNetns(n.Netns)
	if err != nil {
		return err
	}
	defer at.Close()
	eth0, err := at.LinkByName("eth0")
	if err != nil {
		return err
	}
	return at.up(eth0, n.Addrs)
}

// route leads to the node's pods from everywhere. The default route leads nowhere: it is there because without any route no packet to a
// service is sent, though kube-proxy would give it another destination.
func (n *Node) route(hub *links, nodes []*Node) error {
	at, err := openNetns(n.Netns)
	if err != nil {
		return err
	}
	defer at.Close()
	for i, addr := range n.Addrs {
		if err := hub.routeTo(n.pods[i], addr); err != nil {
			return err
		}
		if err := at.routeTo(netip.PrefixFrom(zero(addr), 0), controlPlane[i]); err != nil {
			return err
		}
		for _, other := range nodes {
			if other == n {
				continue
			}
			if err := at.routeTo(other.pods[i], other.Addrs[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func zero(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// links are the links of a namespace.
type links struct{ *netlink.Handle }

func openNetns(name string) (*links, error) {
	ns, err := netns.GetFromName(name)
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	return &links{h}, err
}

// up sets a link up, with addresses of the hosts' networks.
func (l *links) up(link netlink.Link, addrs []netip.Addr) error {
	for i, a := range addrs {
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, hostNets[i].Bits())), Flags: unix.IFA_F_NODAD}
		if err := l.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("%s on %s: %w", a, link.Attrs().Name, err)
		}
	}
	if err := l.LinkSetUp(link); err != nil {
		return fmt.Errorf("%s: %w", link.Attrs().Name, err)
	}
	return nil
}

func (l *links) routeTo(to netip.Prefix, via netip.Addr) error {
	err := l.RouteAdd(&netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()})
	if err != nil {
		return fmt.Errorf("route to %s: %w", to, err)
	}
	return nil
}

// hostSettings make a namespace forward packets, and its IPv6 addresses be of use at once.
var hostSettings = map[string]string{
	"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/all/accept_dad": "0", "ipv6/conf/default/accept_dad": "0",
}

// newNetns makes a named namespace.
func newNetns(name string) error {
	return elsewhere(func() error {
		ns, err := netns.NewNamed(name) // and enters it
		if err != nil {
			return err
		}
		defer ns.Close()
		for setting, value := range hostSettings {
			if err := os.WriteFile(filepath.Join("/proc/sys/net", setting), []byte(value), 0); err != nil {
				return err
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
}

// enterNetns moves the thread it is called on.
func enterNetns(name string) error {
	ns, err := netns.GetFromName(name)
	if err != nil {
		return err
	}
	defer ns.Close()
	return netns.Set(ns)
}

// removeNetnses removes the namespaces of a cluster.
func removeNetnses(name string) error {
	files, err := filepath.Glob("/run/netns/" + name + "*")
	errs := []error{err}
	for _, f := range files {
		if err := netns.DeleteNamed(filepath.Base(f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("namespace %s: %w", f, err))
		}
	}
	return errors.Join(errs...)
}
