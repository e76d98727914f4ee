package lab

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
)

const deny5000 = `
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: closed}
spec:
  order: 1
  types: [Ingress]
  selector: app in {'two', 'three'}
  ingress:
  - {action: Deny, protocol: TCP, destination: {ports: [5000]}}
  - {action: Deny, protocol: UDP, destination: {ports: [5000]}}
  - {action: Allow}
`

// Connections that a new policy would deny go on where they are kept, and end in both directions where they are judged anew,
// and they alone; when the policy has gone they go on.
func TestEstablishedConnections(t *testing.T) {
	for _, reevaluate := range []bool{false, true} {
		option := map[bool]string{false: "Keep", true: "Reevaluate"}[reevaluate]
		t.Run(option, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, small)
			c.start(threePods, "--established-connections", option)
			var concerned, others []*talk
			for _, network := range []string{"tcp", "udp"} {
				for _, ends := range [][2]string{{"10.0.0.1", "10.0.0.2"}, {"10.0.0.1", "10.0.1.1"},
					{"fd00::1", "fd00::2"}, {"fd00::1", "fd00::1:1"}, {"198.51.100.9", "10.0.1.1"}, {"192.0.2.1", "10.0.1.1"}} {
					concerned = append(concerned, c.talk(network, ends[0], ends[1], 5000))
					others = append(others, c.talk(network, ends[0], ends[1], 5001))
				}
				others = append(others, c.talk(network, "10.0.0.2", "10.0.0.1", 5000), c.talk(network, "192.0.2.1", "10.0.0.2", 5000),
					c.talk(network, "192.0.2.1", "192.0.2.2", 5000), c.talk(network, "10.0.0.1", "198.51.100.9", 5000))
			}
			c.apply(deny5000)
			if reevaluate {
				c.ended(concerned...)
			} else {
				c.goesOn(concerned...)
			}
			c.goesOn(others...)
			if reevaluate {
				c.restart("--established-connections", "Reevaluate")
				c.ended(concerned...)
				c.restart()
				c.goesOn(concerned...) // what an agent before has ended is of no concern to one that keeps connections
				c.restart("--established-connections", "Reevaluate")
				c.ended(concerned...)
			}
			c.delete("globalnetworkpolicy closed")
			c.goesOn(concerned...)
			c.goesOn(others...)
		})
	}
}

// Connections to services are judged by what they are to each policy: before destination NAT by where they are sent, behind it by
// the pod and by the interface by which they really go.
func TestEstablishedConnectionsToServices(t *testing.T) {
	t.Parallel()
	c := newCluster(t, small)
	for _, node := range c.Nodes() {
		c.nft(t, node, kubeProxyNFT)
	}
	c.start(threePods+uplinks, "--established-connections", "Reevaluate")
	talks := map[string]*talk{}
	for _, f := range serviceFlows {
		pod := netip.AddrPortFrom(netip.MustParseAddr(f.pod), 8080)
		talks[f.name] = c.talkTo("tcp", f.from, netip.AddrPortFrom(netip.MustParseAddr(f.to), f.port), pod)
	}
	for _, p := range servicePolicies {
		t.Run(p.name, func(t *testing.T) {
			c := c.with(t)
			c.apply(p.policy)
			var ended, others []*talk
			for name, k := range talks {
				if slices.Contains(p.stops, name) {
					ended = append(ended, k)
				} else {
					others = append(others, k)
				}
			}
			c.ended(ended...)
			c.goesOn(others...)
		})
	}
	c.delete("globalnetworkpolicy denying")
	c.goesOn(slices.Collect(maps.Values(talks))...)
}
