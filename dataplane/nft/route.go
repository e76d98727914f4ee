package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// noWay is how the kernel says that there is no route, or an unreachable, prohibited or blackhole one.
var noWay = []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL}

// RouteTo is the interface by which the caller's network namespace sends to an address: "" when the address is its own, or when
// it knows no way to it. from, if it is valid, is an own address to send from, which may take another way.
func RouteTo(to, from netip.Addr) (string, error) {
	iface, _, err := WayTo(to, from)
	return iface, err
}

// WayTo is RouteTo, and the address that the namespace sends from there unless it is told to send from another.
func WayTo(to, from netip.Addr) (iface string, source netip.Addr, err error) {
	options := &netlink.RouteGetOptions{}
	if from.IsValid() {
		options.SrcAddr = from.AsSlice()
	}
	routes, err := netlink.RouteGetWithOptions(to.AsSlice(), options)
	switch {
	case slices.ContainsFunc(noWay, func(e error) bool { return errors.Is(err, e) }):
		return "", source, nil
	case err != nil:
		return "", source, fmt.Errorf("asking for the route to %s: %w", to, err)
	case len(routes) == 0 || routes[0].Type != unix.RTN_UNICAST:
		return "", source, nil
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", source, fmt.Errorf("asking for the interface to %s: %w", to, err)
	}
	source, _ = netip.AddrFromSlice(routes[0].Src) // the kernel always says it; if not, it is not valid
	return link.Attrs().Name, source.Unmap(), nil
}
