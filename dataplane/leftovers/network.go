package leftovers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// protoFelix and protoBIRD are by whom a route was made.
const (
	protoFelix = 80
	protoBIRD  = unix.RTPROT_BIRD
)

// tunnels are Calico's devices, with their kinds. The kernel's module ipip makes tunl0 itself: it is only taken out of use.
var tunnels = []struct{ name, kind string }{{"tunl0", "ipip"}, {"vxlan.calico", "vxlan"}, {"vxlan-v6.calico", "vxlan"},
	{"wireguard.cali", "wireguard"}, {"wg-v6.cali", "wireguard"}, {"bpfin.cali", "veth"}, {"bpfout.cali", "veth"}}

const builtInTunnel = "tunl0"

var ipFamilies = []int{unix.AF_INET, unix.AF_INET6}

// remains tells whether a folder says that Calico was on this machine. It goes last.
func (s *search) remains() bool { return exists(s.path("/var/lib/calico")) }

// foundRoute is a route of Calico's.
type foundRoute struct {
	netlink.Route
	Item
}

// routes of Felix, and those of BIRD's if no BIRD runs and Calico was here: others use one too.
func (s *search) routes() (found []foundRoute, err error) {
	if !s.of(calico) {
		return nil, nil
	}
	devices, err := deviceNames()
	if err != nil {
		return nil, err
	}
	bird := !birdRuns()
	for _, family := range ipFamilies {
		all, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, err
		}
		for _, r := range all {
			dev, why := devices[r.LinkIndex], ""
			switch {
			case r.Protocol == protoFelix:
				why = "protocol 80 is Felix's"
			case r.Protocol == protoBIRD && bird && (isTunnel(dev) || s.remains()):
				why = "protocol bird, no BIRD runs here, and Calico was here"
			default:
				continue
			}
			i := Item{Owner: calico, Kind: Route, In: familyName(family), Name: routeText(r, devices), Why: why, Stays: s.holds}
			if slices.Contains(s.pods, dev) {
				i.Stays = "a pod lives behind " + dev
			}
			found = append(found, foundRoute{r, i})
		}
	}
	return found, nil
}

func findRoutes(_ context.Context, s *search) (items []Item, err error) {
	all, err := s.routes()
	for _, r := range all {
		items = append(items, r.Item)
	}
	return items, err
}

func removeRoutes(_ context.Context, s *search) error {
	all, err := s.routes()
	errs := []error{err}
	for _, r := range all {
		if r.Stays != "" {
			continue
		}
		if err := netlink.RouteDel(&r.Route); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("%s: %w", r.Name, err))
		}
	}
	return errors.Join(errs...)
}

// routeText is a route as ip route add takes it.
func routeText(r netlink.Route, devices map[int]string) string {
	var words []string
	if kind := map[int]string{unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
		unix.RTN_LOCAL: "local"}[r.Type]; kind != "" {
		words = append(words, kind)
	}
	if r.Dst == nil {
		words = append(words, "default")
	} else {
		words = append(words, r.Dst.String())
	}
	words = append(words, wayText(r.Gw, devices[r.LinkIndex], r.Type == unix.RTN_UNICAST || r.Type == unix.RTN_LOCAL, r.Flags)...)
	if r.Src != nil {
		words = append(words, "src", r.Src.String())
	}
	words = append(words, "proto", fmt.Sprint(int(r.Protocol)))
	if r.Table != unix.RT_TABLE_MAIN {
		words = append(words, "table", fmt.Sprint(r.Table))
	}
	if r.Priority != 0 {
		words = append(words, "metric", fmt.Sprint(r.Priority))
	}
	if r.Scope == netlink.SCOPE_LINK {
		words = append(words, "scope link")
	}
	for _, hop := range r.MultiPath { // ip takes whatever follows for more of them
		words = append(append(words, "nexthop"), wayText(hop.Gw, devices[hop.LinkIndex], true, hop.Flags)...)
		words = append(words, "weight", fmt.Sprint(hop.Hops+1))
	}
	return strings.Join(words, " ")
}

// wayText is where a route leads to.
func wayText(via net.IP, dev string, byDevice bool, flags int) (words []string) {
	if via != nil {
		words = append(words, "via", via.String())
	}
	if dev != "" && byDevice {
		words = append(words, "dev", dev)
	}
	if flags&int(netlink.FLAG_ONLINK) != 0 {
		words = append(words, "onlink")
	}
	return words
}

func deviceNames() (map[int]string, error) {
	links, err := netlink.LinkList()
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, err
}

func isTunnel(name string) bool {
	for _, t := range tunnels {
		if t.name == name {
			return true
		}
	}
	return false
}

func familyName(family int) string {
	if family == unix.AF_INET6 {
		return "ip6"
	}
	return "ip"
}

// wireguardPriority is that of the rule by which Felix leads to the table of its WireGuard's routes what WireGuard has not sent itself.
const wireguardPriority = 99

// foundRule is an ip rule of Calico's.
type foundRule struct {
	netlink.Rule
	Item
}

// ipRules that lead to a table in which nothing is but Felix's.
func (s *search) ipRules() (found []foundRule, err error) {
	if !s.of(calico) {
		return nil, nil
	}
	for _, family := range ipFamilies {
		all, err := netlink.RuleList(family)
		if err != nil {
			return nil, err
		}
		for _, r := range all {
			if r.Table >= unix.RT_TABLE_COMPAT && r.Table <= unix.RT_TABLE_LOCAL || r.Table == unix.RT_TABLE_UNSPEC {
				continue
			}
			routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: r.Table}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return nil, err
			}
			others := slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Protocol != protoFelix })
			wireguards := r.Priority == wireguardPriority && r.Invert && r.Mark != 0
			if others || len(routes) == 0 && !wireguards {
				continue
			}
			why := fmt.Sprintf("table %d has nothing but Felix's routes", r.Table)
			if len(routes) == 0 {
				why = "it is as Felix makes it for WireGuard, and leads nowhere"
			}
			r.Family = family
			found = append(found, foundRule{r, Item{Owner: calico, Kind: IPRule, In: familyName(family), Name: ruleText(r), Why: why, Stays: s.holds}})
		}
	}
	return found, nil
}

// ruleText is a rule as ip rule add takes it.
func ruleText(r netlink.Rule) string {
	var words []string
	if r.Invert {
		words = append(words, "not")
	}
	words = append(words, "from", netText(r.Src))
	if r.Dst != nil {
		words = append(words, "to", netText(r.Dst))
	}
	if r.IifName != "" {
		words = append(words, "iif", r.IifName)
	}
	if r.Mark != 0 {
		mark := fmt.Sprintf("%#x", r.Mark)
		if r.Mask != nil {
			mark += fmt.Sprintf("/%#x", *r.Mask)
		}
		words = append(words, "fwmark", mark)
	}
	return strings.Join(append(words, "table", fmt.Sprint(r.Table), "priority", fmt.Sprint(r.Priority)), " ")
}

func netText(n *net.IPNet) string {
	if n == nil {
		return "all"
	}
	return n.String()
}

func findIPRules(_ context.Context, s *search) (items []Item, err error) {
	all, err := s.ipRules()
	for _, r := range all {
		items = append(items, r.Item)
	}
	return items, err
}

func removeIPRules(_ context.Context, s *search) error {
	all, err := s.ipRules()
	errs := []error{err}
	for _, r := range all {
		if r.Stays != "" {
			continue
		}
		if err := netlink.RuleDel(&r.Rule); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("%s: %w", r.Name, err))
		}
	}
	return errors.Join(errs...)
}

// interfaces of Calico's. A pod's never is one, whether it lives or not.
func (s *search) interfaces() (links []netlink.Link, items []Item, err error) {
	if !s.of(calico) {
		return nil, nil, nil
	}
	for _, t := range tunnels {
		link, err := netlink.LinkByName(t.name)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("interface %s: %w", t.name, err)
		}
		if link.Type() != t.kind {
			continue
		}
		i := Item{Owner: calico, Kind: Interface, Name: t.name, Why: "of kind " + t.kind + ", and called as Calico calls its own", Stays: s.holds}
		if t.name == builtInTunnel {
			was, err := s.usedBuiltIn(link)
			if err != nil {
				return nil, nil, err
			}
			if !was {
				continue
			}
			i.Why = "Calico was here and it is up: it is set down, without its addresses, and stays as the kernel makes it"
		}
		links, items = append(links, link), append(items, i)
	}
	return links, items, nil
}

// usedBuiltIn tells whether Calico has put the kernel's own tunnel to use: others do so too.
func (s *search) usedBuiltIn(link netlink.Link) (bool, error) {
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{LinkIndex: link.Attrs().Index}, netlink.RT_FILTER_OIF)
	if err != nil {
		return false, err
	}
	calicos := s.remains() || slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Protocol == protoFelix || r.Protocol == protoBIRD })
	addresses, err := netlink.AddrList(link, unix.AF_INET)
	return calicos && (len(addresses) > 0 || link.Attrs().RawFlags&unix.IFF_UP != 0), err
}

func findInterfaces(_ context.Context, s *search) ([]Item, error) {
	_, items, err := s.interfaces()
	return items, err
}

func removeInterfaces(_ context.Context, s *search) error {
	links, items, err := s.interfaces()
	errs := []error{err}
	for n, link := range links {
		if items[n].Stays != "" {
			continue
		}
		remove := netlink.LinkDel
		if items[n].Name == builtInTunnel {
			remove = takeOutOfUse
		}
		if err := remove(link); err != nil && !errors.Is(err, unix.ENODEV) { // the other end of a pair goes with it
			errs = append(errs, fmt.Errorf("%s: %w", items[n].Name, err))
		}
	}
	return errors.Join(errs...)
}

// takeOutOfUse sets an interface down last: until then its routes tell whose it was.
func takeOutOfUse(link netlink.Link) error {
	addresses, err := netlink.AddrList(link, unix.AF_INET)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return err
		}
	}
	return netlink.LinkSetDown(link)
}

// deviceLines of a script make a device as it is now, or say who does.
func deviceLines(name string) (lines []string, err error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	a := link.Attrs()
	switch v, ok := link.(*netlink.Vxlan); {
	case ok:
		words := fmt.Sprintf("ip link add %s address %s mtu %d type vxlan id %d dstport %d", name, a.HardwareAddr, a.MTU, v.VxlanId, v.Port)
		if v.SrcAddr != nil {
			words += " local " + v.SrcAddr.String()
		}
		if parent, err := netlink.LinkByIndex(v.VtepDevIndex); v.VtepDevIndex != 0 && err == nil {
			words += " dev " + parent.Attrs().Name
		}
		if !v.Learning {
			words += " nolearning"
		}
		lines = append(lines, fmt.Sprintf("ip link show %s >/dev/null 2>&1 || %s || lost interface %s", name, words, name))
	case name != builtInTunnel:
		return []string{"lost interface " + name + ": calico-node makes it when it starts"}, nil
	}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	for _, address := range addresses {
		if address.Scope != int(netlink.SCOPE_LINK) { // the kernel gives those itself
			lines = append(lines, fmt.Sprintf("ip address replace %s dev %s || lost address %s", address.IPNet, name, address.IPNet))
		}
	}
	if a.Flags&net.FlagUp != 0 {
		lines = append(lines, fmt.Sprintf("ip link set %s mtu %d up || lost interface %s", name, a.MTU, name))
	}
	return lines, err
}
