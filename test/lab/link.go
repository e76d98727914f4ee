package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sysctl writes one setting, "ipv4/ip_forward=1", of the namespace of the calling thread.
func sysctl(setting string) error {
	path, value, _ := strings.Cut(setting, "=")
	if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0o600); err != nil {
		return fmt.Errorf("setting %s: %w", setting, err)
	}
	return nil
}

// ends are the addresses of the two ends of a link, that nearer to the fabric and that farther from it. They are known on that
// link alone, so all links of a layer have the same.
type ends struct{ near4, far4, near6, far6 netip.Addr }

func linkLocal(n int) ends {
	v4 := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{169, 254, 255, byte(i)}) }
	v6 := func(i int) netip.Addr { return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: byte(i)}) }
	return ends{v4(n), v4(n + 1), v6(n), v6(n + 1)}
}

var fabricLinks, workloadLinks = linkLocal(1), linkLocal(3)

// join makes a link: nearName in near, farName in far.
func (e ends) join(near *namespace, nearName string, far *namespace, farName string) error {
	fail := func(err error) error { return fmt.Errorf("linking %s to %s: %w", near.name, far.name, err) }
	a := netlink.NewLinkAttrs()
	a.Name, a.Namespace = nearName, netlink.NsFd(int(near.fd))
	veth := &netlink.Veth{LinkAttrs: a, PeerName: farName, PeerNamespace: netlink.NsFd(int(far.fd))}
	if err := near.link.LinkAdd(veth); err != nil {
		return fail(err)
	}
	for _, end := range []struct {
		n      *namespace
		name   string
		v4, v6 netip.Addr
	}{{near, nearName, e.near4, e.near6}, {far, farName, e.far4, e.far6}} {
		link, err := end.n.link.LinkByName(end.name)
		if err != nil {
			return fail(err)
		}
		if err := end.n.link.LinkSetUp(link); err != nil {
			return fail(err)
		}
		for _, a := range []netip.Addr{end.v4, end.v6} {
			if err := end.n.addAddr(link, a); err != nil {
				return fail(err)
			}
		}
	}
	return nil
}

func (n *namespace) addAddr(link netlink.Link, a netip.Addr) error {
	scope := int(netlink.SCOPE_UNIVERSE)
	length := a.BitLen()
	if a.IsLinkLocalUnicast() {
		scope = int(netlink.SCOPE_LINK)
		if a.Is6() {
			length = 64
		}
	}
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, length)), Scope: scope}
	if a.Is6() {
		addr.Flags = ifaFlagNoDAD
	}
	if err := n.link.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("address %s in %s: %w", a, n.name, err)
	}
	return nil
}

const ifaFlagNoDAD = 0x02 // IFA_F_NODAD

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// own gives addresses to an interface.
func (n *namespace) own(iface string, addrs []netip.Addr) error {
	link, err := n.link.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("interface %s of %s: %w", iface, n.name, err)
	}
	for _, a := range addrs {
		if err := n.addAddr(link, a); err != nil {
			return err
		}
	}
	return nil
}

// route sends packets for an address, or for everything when it is not valid, over a link. via is the other end of it, or not
// valid when the address itself is there. table 0 is the main one.
func (n *namespace) route(iface string, to netip.Prefix, via netip.Addr, table int) error {
	link, err := n.link.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("interface %s of %s: %w", iface, n.name, err)
	}
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(to), Table: table}
	if via.IsValid() {
		r.Gw = via.AsSlice()
		r.Flags = int(netlink.FLAG_ONLINK)
	} else {
		r.Scope = netlink.SCOPE_LINK
	}
	if err := n.link.RouteReplace(r); err != nil {
		return fmt.Errorf("route to %s over %s of %s: %w", to, iface, n.name, err)
	}
	return nil
}

// uplink sends everything over a link to its near end.
func (e ends) uplink(n *namespace, iface string, table int) error {
	if err := n.route(iface, netip.MustParsePrefix("0.0.0.0/0"), e.near4, table); err != nil {
		return err
	}
	return n.route(iface, netip.MustParsePrefix("::/0"), e.near6, table)
}

// turned is the link as seen from its other end.
func (e ends) turned() ends { return ends{e.far4, e.near4, e.far6, e.near6} }

// toFar gives the route to an address that is behind the far end of a link.
func (e ends) toFar(n *namespace, iface string, a netip.Addr) error {
	via := e.far4
	if a.Is6() {
		via = e.far6
	}
	return n.route(iface, netip.PrefixFrom(a, a.BitLen()), via, 0)
}

// from makes packets with a source address that the main table has only its default route for take a table of their own.
func (n *namespace) from(a netip.Addr, table int) error {
	family := netlink.FAMILY_V4
	if a.Is6() {
		family = netlink.FAMILY_V6
	}
	main, own := netlink.NewRule(), netlink.NewRule()
	main.Family, main.Priority, main.Table, main.SuppressPrefixlen = family, 100, mainTable, 0
	own.Family, own.Priority, own.Table, own.Src = family, 200, table, ipNet(netip.PrefixFrom(a, a.BitLen()))
	for _, rule := range []*netlink.Rule{main, own} {
		if err := n.link.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("rule for packets from %s in %s: %w", a, n.name, err)
		}
	}
	return nil
}

const mainTable = 254
