package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// original is a flow as it is sent, before a node translates where it goes.
func original(f policy.Flow) policy.Flow {
	if f.OrigDst.IsValid() {
		f.Dst, f.DstPort = f.OrigDst, f.OrigDstPort
	}
	return f
}

// translated is a flow as it arrives.
func translated(f policy.Flow) policy.Flow {
	if f.Masquerade.IsValid() {
		f.Src = f.Masquerade
	}
	return f
}

func reversed(f policy.Flow) policy.Flow {
	f.Src, f.Dst, f.SrcPort, f.DstPort = f.Dst, f.Src, f.DstPort, f.SrcPort
	return f
}

// Run runs a shell command on a node.
func (l *Lab) Run(ctx context.Context, node, command string) error {
	ns := l.nodes[node]
	if ns == nil {
		return fmt.Errorf("the lab has no node %q", node)
	}
	return ns.do(func() error {
		if out, err := exec.CommandContext(ctx, "sh", "-c", command).CombinedOutput(); err != nil {
			return fmt.Errorf("on node %s: %s: %w\n%s", node, command, err, out)
		}
		return nil
	})
}

// ifaceAt is an interface of a node.
type ifaceAt struct{ node, name string }

// site is where a namespace is linked to: a node, or the fabric itself when it is outside.
type site struct {
	node  string
	ports []string // the fabric's, one for each uplink
}

func (l *Lab) siteOf(ns *namespace) site {
	if port, ok := l.outside[ns]; ok {
		return site{ports: []string{port}}
	}
	return site{l.home[ns], l.portsOf(l.home[ns])}
}

func (l *Lab) portsOf(node string) (ports []string) {
	i := l.index[node]
	for j := range l.uplinks[node] {
		ports = append(ports, fabricPort(i, j))
	}
	return ports
}

// sender is who sends a flow: who is behind the interface by which it comes in where that is a workload's, an outsider where it
// comes to a node from elsewhere with an address of that node, else who has its source. lies tells whether it sends from an address that is not its own.
func (l *Lab) sender(f policy.Flow) (ns *namespace, lies bool, err error) {
	owner, err := l.ownerOf(f.Src)
	if err != nil {
		return nil, false, err
	}
	node := f.Via
	if to := l.owner[f.Dst]; node == "" && to != nil {
		node = l.home[to]
	}
	if behind := l.behind[ifaceAt{node, f.InIface}]; behind != nil {
		return behind, behind != owner, nil
	}
	if l.home[owner] == node && slices.Contains(l.uplinks[node], f.InIface) {
		return l.outsider, true, nil
	}
	return owner, false, nil
}

// receiver is to whom a flow comes: who is behind the interface by which it is to go out where that is a workload's, else who has
// its destination.
func (l *Lab) receiver(f policy.Flow) (*namespace, error) {
	node := f.Via
	if from := l.owner[f.Src]; node == "" && from != nil {
		node = l.home[from]
	}
	if behind := l.behind[ifaceAt{node, f.OutIface}]; behind != nil {
		return behind, nil
	}
	return l.ownerOf(f.Dst)
}

func (l *Lab) ownerOf(a netip.Addr) (*namespace, error) {
	ns := l.owner[a]
	if ns == nil {
		return nil, fmt.Errorf("nobody in the lab has the address %s", a)
	}
	return ns, nil
}

// errNoWay says that the lab cannot lead a flow as it says, or that it would pass no node: both its ends are with the same outsiders.
var errNoWay = errors.New("no such way")

// steer leads a flow the way that it names, by nodes and interfaces, where its destination alone would not; and its answers back
// the same way.
func (l *Lab) steer(f policy.Flow) error {
	sender, _, err := l.sender(f)
	if err != nil {
		return err
	}
	to, err := l.receiver(f)
	if err != nil {
		return err
	}
	if sender == to && l.outside[to] != "" && f.Src != f.Dst {
		return errNoWay
	}
	if !f.OrigDst.IsValid() && f.Via == "" && f.InIface == "" && f.OutIface == "" {
		return nil
	}
	begin, end := l.siteOf(sender), l.siteOf(to)
	through := f.Via
	if f.OrigDst.IsValid() {
		through = cmp.Or(through, f.NATNode)
	}
	if err := l.steerIn(f, begin, cmp.Or(through, end.node)); err != nil {
		return err
	}
	if through != "" && through != begin.node && through != end.node && !f.Masquerade.IsValid() {
		if err := l.lead(reversed(f), end, through, 0); err != nil {
			return err
		}
	}
	return l.steerOut(f, cmp.Or(f.Via, begin.node))
}

// steerIn leads a flow from where it begins to the interface of a node by which it is to come in.
func (l *Lab) steerIn(f policy.Flow, begin site, node string) error {
	at := slices.Index(l.uplinks[node], f.InIface)
	switch {
	case node == "", node == begin.node:
		return nil // to nobody's node; over its own link, or from the host itself
	case f.InIface == "":
		at = 0
	case at < 0:
		return fmt.Errorf("%w: %s has no uplink %s", errNoWay, node, f.InIface)
	}
	return l.lead(original(f), begin, node, at)
}

// steerOut has a node send a flow by one of its interfaces.
func (l *Lab) steerOut(f policy.Flow, node string) error {
	behind, links, table := l.behind[ifaceAt{node, f.OutIface}], fabricLinks, 0
	switch at := slices.Index(l.uplinks[node], f.OutIface); {
	case f.OutIface == "", f.OutIface == "lo", behind != nil && behind == l.owner[f.Dst]:
		return nil // it goes there by itself
	case at >= 0:
		table = 200 + at
	case behind != nil:
		table, links = 300+slices.Index(l.all, behind), workloadLinks.turned()
	default:
		return fmt.Errorf("%w: %s has no interface %s", errNoWay, node, f.OutIface)
	}
	ns := l.nodes[node]
	if err := links.uplink(ns, f.OutIface, table); err != nil {
		return err
	}
	return ns.routeBy(f, "", table)
}

// lead has the fabric lead a flow that comes from somewhere to an uplink of a node.
func (l *Lab) lead(f policy.Flow, from site, node string, uplink int) error {
	if uplink >= len(l.uplinks[node]) {
		return fmt.Errorf("%w: the lab has no node %q", errNoWay, node)
	}
	port, table := fabricPort(l.index[node], uplink), 1000+16*l.index[node]+uplink
	if err := fabricLinks.turned().uplink(l.fabric, port, table); err != nil {
		return err
	}
	for _, p := range from.ports {
		if err := l.fabric.routeBy(f, p, table); err != nil {
			return err
		}
	}
	return nil
}

// routeBy makes packets of a flow that come in by an interface, or by any, take a table.
func (n *namespace) routeBy(f policy.Flow, iif string, table int) error {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.IifName, r.IPProto = netlink.FAMILY_V4, 50, table, iif, int(f.Proto)
	if f.Src.Is6() {
		r.Family = netlink.FAMILY_V6
	}
	r.Src, r.Dst = ipNet(netip.PrefixFrom(f.Src, f.Src.BitLen())), ipNet(netip.PrefixFrom(f.Dst, f.Dst.BitLen()))
	if policy.HasPorts(f.Proto) {
		r.Sport, r.Dport = netlink.NewRulePortRange(f.SrcPort, f.SrcPort), netlink.NewRulePortRange(f.DstPort, f.DstPort)
	}
	if err := n.link.RuleAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("leading %s in %s: %w", text(f), n.name, err)
	}
	return nil
}
