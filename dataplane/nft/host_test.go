package nft_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/test/lab"
)

// host is a network namespace and a thread that stays in it. What it opens there may be used from anywhere.
type host struct {
	work chan func()
	ns   netns.NsHandle
}

func newHost(t *testing.T) *host {
	t.Helper()
	lab.Need(t, noNamespaces)
	h := &host{work: make(chan func())}
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with its namespace
		for f := range h.work {
			f()
		}
	}()
	h.do(func() {
		must(unix.Unshare(unix.CLONE_NEWNET))
		var err error
		h.ns, err = netns.Get()
		must(err)
		loopbackUp()
		for _, s := range []string{"ipv4/ip_forward=1", "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0",
			"ipv6/conf/all/forwarding=1"} {
			sysctl(s)
		}
	})
	t.Cleanup(func() {
		close(h.work)
		must(h.ns.Close())
	})
	return h
}

// do runs f on the host, and panics as it does.
func (h *host) do(f func()) {
	done := make(chan any)
	h.work <- func() {
		defer func() { done <- recover() }()
		f()
	}
	if p := <-done; p != nil {
		panic(p)
	}
}

func sysctl(setting string) {
	path, value, _ := strings.Cut(setting, "=")
	must(os.WriteFile("/proc/sys/net/"+path, []byte(value), 0o600))
}

// link is a pair of interfaces, mine here and theirs there, both up.
func (h *host) link(mine string, there *host, theirs string) {
	h.do(func() {
		a := netlink.NewLinkAttrs()
		a.Name = mine
		must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: theirs, PeerNamespace: netlink.NsFd(int(there.ns))}))
		up(mine)
	})
	there.do(func() { up(theirs) })
}

func up(name string) { must(netlink.LinkSetUp(linkOf(name))) }

func linkOf(name string) netlink.Link {
	l, err := netlink.LinkByName(name)
	must(err)
	return l
}

// own gives an interface its address, usable at once.
func own(iface, address string) {
	a, err := netlink.ParseAddr(address)
	must(err)
	a.Flags = unix.IFA_F_NODAD
	must(netlink.AddrAdd(linkOf(iface), a))
}

// route is over an interface, by way of a gateway unless that is "".
func route(iface, to, gateway string) *netlink.Route {
	p := netip.MustParsePrefix(to)
	r := &netlink.Route{LinkIndex: linkOf(iface).Attrs().Index,
		Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if gateway != "" {
		r.Gw, r.Flags = net.ParseIP(gateway), int(netlink.FLAG_ONLINK)
	} else {
		r.Scope = netlink.SCOPE_LINK
	}
	return r
}

func addRoute(r *netlink.Route) {
	if err := netlink.RouteAdd(r); err != nil {
		panic(fmt.Sprintf("%s: %v", r, err))
	}
}
