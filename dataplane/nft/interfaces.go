package nft

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	events "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Interface is one interface of the host. Addresses are sorted, link-local ones left out.
type Interface struct {
	Name  string
	Addrs []netip.Addr // on the interface
	// Peers are those to which the host has a route of the single address, out of the interface and over no gateway: the way in
	// which a host knows the interface of a pod that it routes to.
	Peers []netip.Addr
	// Nets are the networks that its own addresses are in: who has another address of one is behind the interface.
	Nets   []netip.Prefix
	Bridge bool
	Uplink bool // a default route leads over it
}

// Interfaces tells the interfaces of the caller's network namespace, sorted by name, at once and whenever they, their addresses
// or the routes over them change. Those without any address, but for bridges, are left out. The channel is closed when ctx ends,
// or when the kernel tells no more.
func Interfaces(ctx context.Context) (<-chan []Interface, error) {
	// Subscribed before the first look: what changes in between is seen twice rather than not at all.
	changes, err := hostChanges(ctx)
	if err != nil {
		return nil, err
	}
	look, err := netlink.NewHandle(unix.NETLINK_ROUTE) // of the caller's namespace, whichever thread uses it
	if err != nil {
		return nil, fmt.Errorf("connecting to list interfaces: %w", err)
	}
	last, err := interfaces(look)
	if err != nil {
		look.Close()
		return nil, err
	}
	out := make(chan []Interface, 1)
	out <- last
	go func() {
		defer close(out)
		defer look.Close()
		for range changes {
			now, err := interfaces(look)
			if err != nil || reflect.DeepEqual(now, last) {
				continue // a dump that was cut short is followed by another change
			}
			last = now
			select {
			case out <- now:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// hostChanges tells that there has been a change, and not which: many are told as one. When the kernel had more to tell than
// there was room for, one is told to be sure.
func hostChanges(ctx context.Context) (<-chan struct{}, error) {
	nl, err := events.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("connecting to follow the host's interfaces: %w", err)
	}
	for _, group := range []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE} {
		if err := nl.JoinGroup(group); err != nil {
			return nil, errors.Join(fmt.Errorf("following the host's interfaces: %w", err), nl.Close())
		}
	}
	context.AfterFunc(ctx, func() { _ = nl.Close() })
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		for {
			messages, err := nl.Receive()
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			if err == nil && !slices.ContainsFunc(messages, matters) {
				continue
			}
			select {
			case out <- struct{}{}:
			default: // it has not been heard yet
			}
		}
	}()
	return out, nil
}

// matters tells whether a message may be of something that an Interface shows. Of routes only those of a single address and of all are:
// a router may change thousands of others.
func matters(m events.Message) bool {
	if m.Header.Type != unix.RTM_NEWROUTE && m.Header.Type != unix.RTM_DELROUTE {
		return true
	}
	if len(m.Data) < unix.SizeofRtMsg {
		return false
	}
	family, length := m.Data[0], m.Data[1]
	return length == 0 || family == unix.AF_INET && length == 32 || family == unix.AF_INET6 && length == 128
}

// interfaces are listed first and routes last: the kernel gives no list of interfaces while it takes one down, and its routes with
// it.
func interfaces(look *netlink.Handle) ([]Interface, error) {
	links, err := look.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	addrs, err := look.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	own, nets := map[int][]netip.Addr{}, map[int][]netip.Prefix{}
	for _, a := range addrs {
		put(own, a.LinkIndex, a.IP)
		putNet(nets, a.LinkIndex, a.IPNet)
	}
	peers, uplinks, err := routes(look)
	if err != nil {
		return nil, err
	}
	var out []Interface
	for _, l := range links {
		at := l.Attrs().Index
		i := Interface{Name: l.Attrs().Name, Addrs: sorted(own[at]), Peers: sorted(peers[at]), Nets: nets[at],
			Bridge: l.Type() == "bridge", Uplink: uplinks[at]}
		if i.Bridge || len(i.Addrs)+len(i.Peers) > 0 {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b Interface) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// routes gives the addresses of routes to single ones, by the index of the interface, and the interfaces of default routes. The
// routes are those of all tables, for some clusters keep their pods' in tables of their own.
func routes(look *netlink.Handle) (peers map[int][]netip.Addr, uplinks map[int]bool, err error) {
	peers, uplinks = map[int][]netip.Addr{}, map[int]bool{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
		err := look.RouteListFilteredIter(family, all, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			switch {
			case r.Type != unix.RTN_UNICAST:
			case ofAll(r.Dst):
				uplinks[r.LinkIndex] = true
				for _, hop := range r.MultiPath {
					uplinks[hop.LinkIndex] = true
				}
			case ofOneAddress(r.Dst) && r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0:
				put(peers, r.LinkIndex, r.Dst.IP)
			}
			return true
		})
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, nil, fmt.Errorf("listing routes: %w", err)
		}
	}
	return peers, uplinks, nil
}

func ofAll(n *net.IPNet) bool {
	if n == nil {
		return true
	}
	ones, _ := n.Mask.Size()
	return ones == 0
}

func ofOneAddress(n *net.IPNet) bool {
	if n == nil {
		return false
	}
	ones, bits := n.Mask.Size()
	return bits > 0 && ones == bits
}

func put(to map[int][]netip.Addr, index int, ip net.IP) {
	if a, ok := netip.AddrFromSlice(ip); ok && !a.Unmap().IsLinkLocalUnicast() {
		to[index] = append(to[index], a.Unmap())
	}
}

func putNet(to map[int][]netip.Prefix, index int, n *net.IPNet) {
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if ok && ones < bits && !a.Unmap().IsLinkLocalUnicast() {
		to[index] = append(to[index], netip.PrefixFrom(a.Unmap(), ones).Masked())
	}
}

// sorted addresses, once each.
func sorted(a []netip.Addr) []netip.Addr {
	slices.SortFunc(a, netip.Addr.Compare)
	return slices.Compact(a)
}
