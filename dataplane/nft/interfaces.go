package nft

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// Interface is one interface of the host and the addresses on it, link-local ones left out, sorted.
type Interface struct {
	Name  string
	Addrs []netip.Addr
}

// Interfaces tells the interfaces of the caller's network namespace, sorted by name, at once and whenever they or their addresses
// change. Those without an address are left out. The channel is closed when ctx ends, or when the kernel tells no more.
func Interfaces(ctx context.Context) (<-chan []Interface, error) {
	// Subscribed before the first look: what changes in between is seen twice rather than not at all.
	updates := make(chan netlink.AddrUpdate, 64)
	if err := netlink.AddrSubscribe(updates, ctx.Done()); err != nil {
		return nil, fmt.Errorf("following the host's addresses: %w", err)
	}
	last, err := interfaces()
	if err != nil {
		return nil, err
	}
	out := make(chan []Interface, 1)
	out <- last
	go func() {
		defer close(out)
		for range updates {
			for len(updates) > 0 {
				<-updates
			}
			now, err := interfaces()
			if err != nil || reflect.DeepEqual(now, last) {
				continue // a dump that was cut short is followed by another update
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

func interfaces() ([]Interface, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	var out []Interface
	for _, l := range links {
		i := Interface{Name: l.Attrs().Name}
		for _, a := range addrs {
			ip, ok := netip.AddrFromSlice(a.IP)
			if ip = ip.Unmap(); ok && a.LinkIndex == l.Attrs().Index && !ip.IsLinkLocalUnicast() {
				i.Addrs = append(i.Addrs, ip)
			}
		}
		if len(i.Addrs) > 0 {
			slices.SortFunc(i.Addrs, netip.Addr.Compare)
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b Interface) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}
