package lab

import (
	"context"
	"net/netip"
	"strings"
	"testing"
)

// table waits until the table of a node has, or has no more, some text.
func (c *cluster) table(node, text string, has bool) {
	c.t.Helper()
	ctx, stop := context.WithTimeout(c.t.Context(), patience)
	defer stop()
	for table := ""; ctx.Err() == nil; {
		if table = c.on(node, "nft", "list", "table", "inet", "tierwall"); strings.Contains(table, text) == has {
			return
		}
	}
	c.t.Fatalf("the table of %s: %q is there: %v", node, text, !has)
}

// impersonate sends from what is another's address. Nothing comes back to who does that.
func (c *cluster) impersonate(what, who, whom, to string, want Observation) {
	c.t.Helper()
	a := netip.MustParseAddr(whom)
	honest, liar := c.owner[a], c.owner[netip.MustParseAddr(who)]
	fatal(c.t, liar.own("eth0", addrs(whom)))
	c.owner[a] = liar
	c.sees(what, tcp(whom, to, 80), want)
	c.owner[a] = honest
	c.in(liar, "ip", "address", "del", netip.PrefixFrom(a, a.BitLen()).String(), "dev", "eth0")
}

// Pods behind interfaces of which no object speaks, as the ptp plugin makes them, are known by their routes: they can send from
// their own addresses only.
func TestRoutedPodsAreKnownByTheirRoutes(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Cluster{Nodes: small.Nodes, Workloads: []Workload{
		{Name: "a/one", Node: "n1", Iface: "veth1", Addrs: addrs("10.0.0.1", "fd00::1", "10.0.0.9", "fd00::9")},
		{Name: "a/two", Node: "n1", Iface: "veth2", Addrs: addrs("10.0.0.2", "fd00::2")},
		{Name: "a/three", Node: "n2", Iface: "veth1", Addrs: addrs("10.0.1.1", "fd00::1:1")},
	}})
	c.impersonate("without an agent", "10.0.0.1", "10.0.0.2", "10.0.1.1", Unanswered)
	c.start(threePods)
	for _, ends := range [][2]string{{"10.0.0.1", "10.0.1.1"}, {"fd00::1", "fd00::1:1"}, {"10.0.0.1", "10.0.0.2"}, {"10.0.0.2", "10.0.0.1"}} {
		c.sees("from its own address", tcp(ends[0], ends[1], 80), Arrived)
	}
	for _, ends := range [][2]string{{"10.0.0.9", "10.0.1.1"}, {"fd00::9", "fd00::1:1"}, {"10.0.0.9", "10.0.0.2"}, {"10.0.0.9", "192.0.2.1"}} {
		c.sees("from an address that is not its own", tcp(ends[0], ends[1], 80), Lost)
	}
	c.impersonate("from another pod's address", "10.0.0.1", "10.0.0.2", "10.0.1.1", Lost)
	c.impersonate("from another pod's address", "fd00::1", "fd00::2", "fd00::1:1", Lost)

	// The agent follows the routes.
	c.on("n1", "ip", "route", "del", "10.0.0.2/32", "dev", "veth2")
	c.on("n1", "ip", "-6", "route", "del", "fd00::2/128", "dev", "veth2")
	c.table("n1", `"veth2"`, false)
	c.on("n1", "ip", "route", "add", "10.0.0.2/32", "dev", "veth2")
	c.table("n1", `"veth2"`, true)
	c.sees("when its route is back", tcp("10.0.0.2", "10.0.1.1", 80), Arrived)
	c.impersonate("from another pod's address", "10.0.0.2", "10.0.0.1", "10.0.1.1", Lost)
}

const strangerPod = `
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: a}
spec: {nodeName: n1, containers: [{name: c, image: example}]}
status: {podIP: 10.0.0.5, podIPs: [{ip: 10.0.0.5}, {ip: "fd00::5"}]}
`

// An interface that is a workload's by its name is closed in both directions until it is known whose it is, and again when its
// pod has gone.
func TestUnknownInterfaces(t *testing.T) {
	withStranger := small
	withStranger.Workloads = append([]Workload{{Name: "a/stranger", Node: "n1", Addrs: addrs("10.0.0.5", "fd00::5")}}, small.Workloads...)
	c := newCluster(t, withStranger)
	flows := [][2]string{{"10.0.0.5", "10.0.0.1"}, {"10.0.0.1", "10.0.0.5"}, {"10.0.0.5", "198.51.100.9"}, {"198.51.100.9", "10.0.0.5"},
		{"fd00::5", "fd00::1:1"}, {"fd00::1:1", "fd00::5"}}
	see := func(what string, want Observation) {
		t.Helper()
		for _, ends := range flows {
			c.sees(what, tcp(ends[0], ends[1], 80), want)
		}
	}
	see("without an agent", Arrived)
	c.start(threePods)
	see("nobody's interface", Lost)
	c.sees("nobody's interface, to the host", tcp("10.0.0.5", "192.0.2.1", 80), Lost)
	c.sees("somebody's interface", tcp("10.0.0.1", "10.0.1.1", 80), Arrived)
	c.apply(strangerPod)
	see("its pod has come", Arrived)
	c.delete("pod stranger -n a")
	see("its pod has gone", Lost)
}
