package wire

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrNoBridgeFilter says that packets on a bridge meet no rule on this machine, and that we may not change it.
var ErrNoBridgeFilter = errors.New("the kernel module br_netfilter is not loaded")

// namespace is a network namespace without a name: it is gone when nobody holds it.
type namespace struct {
	name string // for messages
	fd   netns.NsHandle
	link *netlink.Handle
}

// The settings of the namespaces. The node forwards whatever comes, wherever it comes from; the outside does nothing at all.
var (
	ofNode = []string{"ipv4/ip_forward=1", "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0",
		"ipv4/conf/all/send_redirects=0", "ipv4/conf/default/send_redirects=0", "ipv6/conf/all/forwarding=1",
		"ipv6/conf/all/accept_dad=0", "ipv6/conf/default/accept_dad=0", "ipv6/conf/default/autoconf=0",
		"ipv6/conf/default/router_solicitations=0"}
	ofOutside = []string{"ipv4/ip_forward=0", "ipv6/conf/all/disable_ipv6=1", "ipv6/conf/default/disable_ipv6=1"}
	// Linux checks a UDP-Lite packet's checksum with UDP's protocol number, and so takes every good one for invalid.
	ofTracking = []string{"netfilter/nf_conntrack_checksum=0"}
	ofBridges  = []string{"bridge/bridge-nf-call-iptables=1", "bridge/bridge-nf-call-ip6tables=1"}
)

func newNamespace(name string, settings []string) (*namespace, error) {
	n := &namespace{name: name, fd: netns.None()}
	err := onOwnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		n.fd, err = netns.Get()
		return err
	})
	if err == nil {
		n.link, err = netlink.NewHandleAt(n.fd)
	}
	if err == nil {
		err = n.set(settings)
	}
	if err == nil {
		err = n.up("lo")
	}
	if err != nil {
		n.close()
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	return n, nil
}

// onOwnThread runs f on a thread that ends with it, so that what f does to its thread is nobody else's concern.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock
		done <- f()
	}()
	return <-done
}

// do runs f in the namespace: sockets that it makes belong there.
func (n *namespace) do(f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(n.fd); err != nil {
			return fmt.Errorf("entering namespace %s: %w", n.name, err)
		}
		return f()
	})
}

// set writes settings, "ipv4/ip_forward=1".
func (n *namespace) set(settings []string) error {
	return n.do(func() error {
		for _, s := range settings {
			path, value, _ := strings.Cut(s, "=")
			if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0o600); err != nil {
				return fmt.Errorf("setting %s: %w", s, err)
			}
		}
		return nil
	})
}

func (n *namespace) up(iface string) error {
	l, err := n.link.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", iface, err)
	}
	if err := n.link.LinkSetUp(l); err != nil {
		return fmt.Errorf("interface %s up: %w", iface, err)
	}
	return nil
}

func (n *namespace) close() {
	if n.link != nil {
		n.link.Close()
	}
	if n.fd.IsOpen() {
		n.fd.Close()
	}
}
