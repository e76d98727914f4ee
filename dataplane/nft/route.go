package nft

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RouteTo is the interface by which the caller's network namespace sends to an address: "" when the address is its own, or when it
// knows no way to it. from, if it is valid, is an own address to send from, which may take another way.
func RouteTo(to, from netip.Addr) (string, error) {
	options := &netlink.RouteGetOptions{}
	if from.IsValid() {
		options.SrcAddr = from.AsSlice()
	}
	routes, err := netlink.RouteGetWithOptions(to.AsSlice(), options)
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
		return "", nil // no route, an unreachable, prohibited or blackhole one
	case err != nil:
		return "", fmt.Errorf("asking for the route to %s: %w", to, err)
	case len(routes) == 0 || routes[0].Type != unix.RTN_UNICAST:
		return "", nil
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", fmt.Errorf("asking for the interface to %s: %w", to, err)
	}
	return link.Attrs().Name, nil
}
