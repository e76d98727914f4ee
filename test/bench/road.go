package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// road is a node that forwards between a client, which is elsewhere, and a server, which is a workload of the node:
//
//	client 192.0.2.2 ──► up0 [ node ] cali1 ──► eth0 10.65.0.1 server
//
// All three are network namespaces, and one thread has the sockets of both ends. A packet that one end sends is led through the
// node and to the other end within the same system call, on the same CPU, so the thread's own CPU time is what the packet costs.
type road struct {
	name                 string
	client, node, server netns.NsHandle
	listener             int // of TCP connections, in the server
	near, far            int // the ends of an open connection
	raw, udp             int // what sends datagrams from any port, and what receives them
	datagram             [29]byte
	port                 uint16 // from which the last datagram came
}

var (
	clientAddr = netip.MustParseAddr("192.0.2.2")
	serverAddr = netip.MustParseAddr("10.65.0.1")
)

const workloadIface = "cali1"

// build makes the namespaces and what is between them. It leaves the thread in its own namespace.
func build(name string) (*road, error) {
	r := &road{name: name}
	for _, ns := range []*netns.NsHandle{&r.client, &r.node, &r.server} {
		if err := apart(func() (err error) { *ns, err = netns.New(); return err }); err != nil {
			return nil, fmt.Errorf("a network namespace for road %s: %w", name, err)
		}
	}
	for _, l := range []struct {
		near      netns.NsHandle
		nearName  string
		nearAddr  string
		far       netns.NsHandle
		farName   string
		farAddr   string
		nearMAC   byte
		farGoesTo string // the default gateway of the far end
	}{
		{r.node, "up0", "192.0.2.1/24", r.client, "eth0", clientAddr.String() + "/24", 1, "192.0.2.1"},
		{r.node, workloadIface, "10.65.0.254/24", r.server, "eth0", serverAddr.String() + "/24", 3, "10.65.0.254"},
	} {
		near := end{l.near, l.nearName, l.nearAddr, mac(l.nearMAC), ""}
		far := end{l.far, l.farName, l.farAddr, mac(l.nearMAC + 1), l.farGoesTo}
		if err := join(near, far); err != nil {
			return nil, fmt.Errorf("road %s: link %s: %w", name, l.nearName, err)
		}
	}
	return r, r.in(r.node, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600) })
}

// end of a pair of interfaces.
type end struct {
	ns      netns.NsHandle
	name    string
	addr    string
	mac     net.HardwareAddr
	gateway string
}

func mac(n byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, n} }

func join(near, far end) error {
	h, err := netlink.NewHandleAt(near.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	a := netlink.NewLinkAttrs()
	a.Name, a.HardwareAddr = near.name, near.mac
	veth := &netlink.Veth{LinkAttrs: a, PeerName: far.name, PeerHardwareAddr: far.mac, PeerNamespace: netlink.NsFd(int(far.ns))}
	if err := h.LinkAdd(veth); err != nil {
		return err
	}
	if err := near.raise(far); err != nil {
		return err
	}
	return far.raise(near)
}

// raise an end, and tell it the hardware address of the other, so that nobody has to ask while we measure.
func (e end) raise(other end) error {
	h, err := netlink.NewHandleAt(e.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(e.name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(e.addr)
	if err != nil {
		return err
	}
	if err := h.AddrAdd(l, addr); err != nil {
		return err
	}
	if err := h.LinkSetUp(l); err != nil {
		return err
	}
	ip, _, err := net.ParseCIDR(other.addr)
	if err != nil {
		return err
	}
	told := &netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: other.mac}
	if err := h.NeighSet(told); err != nil || e.gateway == "" {
		return err
	}
	return h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(e.gateway)})
}

// apart runs f on a thread that ends with it.
func apart(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock
		done <- f()
	}()
	return <-done
}

// in runs f in a namespace.
func (r *road) in(ns netns.NsHandle, f func() error) error {
	return apart(func() error {
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("entering a namespace of road %s: %w", r.name, err)
		}
		return f()
	})
}

// forget the connections that the node knows.
func (r *road) forget() error {
	h, err := netlink.NewHandleAt(r.node, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return fmt.Errorf("forgetting the connections of road %s: %w", r.name, err)
	}
	return nil
}

// open the sockets of both ends.
func (r *road) open() error {
	err := r.in(r.server, func() (err error) {
		if r.listener, err = bound(unix.SOCK_STREAM, tcpPort); err != nil {
			return err
		}
		if err := unix.Listen(r.listener, 128); err != nil {
			return err
		}
		r.udp, err = bound(unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, udpPort)
		return err
	})
	if err != nil {
		return fmt.Errorf("the server's sockets: %w", err)
	}
	err = r.in(r.client, func() (err error) {
		if r.raw, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW); err != nil {
			return err
		}
		r.near, r.far, err = r.connect()
		return err
	})
	if err != nil {
		return fmt.Errorf("the client's sockets: %w", err)
	}
	for _, fd := range []int{r.near, r.far} {
		for _, opt := range []struct{ level, name, value int }{
			{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, {unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8 << 20}, {unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8 << 20},
		} {
			if err := unix.SetsockoptInt(fd, opt.level, opt.name, opt.value); err != nil {
				return fmt.Errorf("setting up a connection: %w", err)
			}
		}
	}
	r.datagram = udpDatagram()
	return nil
}

func bound(kind, port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind, 0)
	if err != nil {
		return 0, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: serverAddr.As4()})
}

// closeSockets lets the next rules begin with no connection.
func (r *road) closeSockets() {
	for _, fd := range []int{r.near, r.far, r.listener, r.raw, r.udp} {
		_ = unix.Close(fd)
	}
}
