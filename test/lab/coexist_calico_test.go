package lab

import (
	"regexp"
	"strings"
	"testing"
)

// What calico-node programs on node n1 where Calico has no policy, only its CNI plugin's pods: each interface of a pod has chains that let
// by what its namespace's profile allows, which is everything, and what comes from or goes to an interface that is called so and is
// nobody's is dropped. IFACE is the pod's. It marks what it has accepted, which our own mark must not be taken for.
const calicoIPTables = `*raw
:cali-PREROUTING - [0:0]
:cali-OUTPUT - [0:0]
:cali-from-host-endpoint - [0:0]
-I PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
-I OUTPUT -m comment --comment "cali:tVnHkvAo15HuiPy0" -j cali-OUTPUT
-A cali-PREROUTING -j MARK --set-xmark 0x0/0x1b0000
-A cali-PREROUTING -i cali+ -j MARK --set-xmark 0x80000/0x80000
-A cali-PREROUTING -m mark --mark 0x80000/0x80000 -m rpfilter --validmark --invert -j DROP
-A cali-PREROUTING -m mark --mark 0x0/0x80000 -j cali-from-host-endpoint
-A cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-OUTPUT -j MARK --set-xmark 0x0/0x1b0000
COMMIT
*mangle
:cali-PREROUTING - [0:0]
:cali-POSTROUTING - [0:0]
:cali-from-host-endpoint - [0:0]
:cali-to-host-endpoint - [0:0]
-I PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
-I POSTROUTING -m comment --comment "cali:O3lYWMrLQYEMJtB5" -j cali-POSTROUTING
-A cali-PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-PREROUTING -j cali-from-host-endpoint
-A cali-POSTROUTING -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-POSTROUTING -j MARK --set-xmark 0x0/0x1b0000
-A cali-POSTROUTING -m conntrack --ctstate DNAT -j cali-to-host-endpoint
COMMIT
*filter
:cali-INPUT - [0:0]
:cali-FORWARD - [0:0]
:cali-OUTPUT - [0:0]
:cali-wl-to-host - [0:0]
:cali-from-wl-dispatch - [0:0]
:cali-to-wl-dispatch - [0:0]
:cali-from-hep-forward - [0:0]
:cali-fw-IFACE - [0:0]
:cali-tw-IFACE - [0:0]
:cali-pri-kns.a - [0:0]
:cali-pro-kns.a - [0:0]
-I INPUT -m comment --comment "cali:Cz_u1IQiXIMmKD4c" -j cali-INPUT
-I FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
-I OUTPUT -m comment --comment "cali:tVnHkvAo15HuiPy0" -j cali-OUTPUT
-A FORWARD -m comment --comment "cali:S93hcgKJrXEqnTfs" -m mark --mark 0x10000/0x10000 -j ACCEPT
-A FORWARD -m comment --comment "cali:mp77cMpurHhyjLrM" -j MARK --set-xmark 0x10000/0x10000
-A cali-FORWARD -j MARK --set-xmark 0x0/0x1a0000
-A cali-FORWARD -m mark --mark 0x0/0x10000 -j cali-from-hep-forward
-A cali-FORWARD -i cali+ -j cali-from-wl-dispatch
-A cali-FORWARD -o cali+ -j cali-to-wl-dispatch
-A cali-INPUT -i cali+ -g cali-wl-to-host
-A cali-INPUT -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-INPUT -j MARK --set-xmark 0x0/0x1b0000
-A cali-OUTPUT -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-wl-to-host -j cali-from-wl-dispatch
-A cali-wl-to-host -j ACCEPT
-A cali-from-wl-dispatch -i IFACE -g cali-fw-IFACE
-A cali-from-wl-dispatch -j DROP
-A cali-to-wl-dispatch -o IFACE -g cali-tw-IFACE
-A cali-to-wl-dispatch -j DROP
-A cali-fw-IFACE -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-fw-IFACE -m conntrack --ctstate INVALID -j DROP
-A cali-fw-IFACE -j MARK --set-xmark 0x0/0x30000
-A cali-fw-IFACE -j cali-pro-kns.a
-A cali-fw-IFACE -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-fw-IFACE -j DROP
-A cali-tw-IFACE -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-tw-IFACE -m conntrack --ctstate INVALID -j DROP
-A cali-tw-IFACE -j MARK --set-xmark 0x0/0x30000
-A cali-tw-IFACE -j cali-pri-kns.a
-A cali-tw-IFACE -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-tw-IFACE -j DROP
-A cali-pri-kns.a -j MARK --set-xmark 0x10000/0x10000
-A cali-pro-kns.a -j MARK --set-xmark 0x10000/0x10000
COMMIT
`

// The same as it is in its nftables mode.
const calicoNFT = `
table ip calico {
	map filter-cali-from-wl-dispatch { type ifname : verdict; elements = { "IFACE" : goto filter-cali-fw-IFACE } }
	map filter-cali-to-wl-dispatch { type ifname : verdict; elements = { "IFACE" : goto filter-cali-tw-IFACE } }
	chain filter-cali-pri-kns.a { meta mark set mark or 0x10000; }
	chain filter-cali-fw-IFACE {
		ct state established,related accept
		ct state invalid drop
		meta mark set mark & 0xfffcffff
		jump filter-cali-pri-kns.a
		meta mark & 0x10000 == 0x10000 return
		drop
	}
	chain filter-cali-tw-IFACE {
		ct state established,related accept
		ct state invalid drop
		meta mark set mark & 0xfffcffff
		jump filter-cali-pri-kns.a
		meta mark & 0x10000 == 0x10000 return
		drop
	}
	chain filter-cali-from-wl-dispatch { iifname vmap @filter-cali-from-wl-dispatch; counter drop comment "cali:abcdefghijklmnop; Unknown interface"; }
	chain filter-cali-to-wl-dispatch { oifname vmap @filter-cali-to-wl-dispatch; counter drop comment "cali:abcdefghijklmnop; Unknown interface"; }
	chain filter-cali-FORWARD {
		meta mark set mark & 0xffe5ffff
		iifname "cali*" jump filter-cali-from-wl-dispatch
		oifname "cali*" jump filter-cali-to-wl-dispatch
	}
	chain filter-FORWARD {
		type filter hook forward priority 0;
		jump filter-cali-FORWARD
		meta mark & 0x10000 == 0x10000 accept
		meta mark set mark or 0x10000
	}
	chain filter-cali-wl-to-host { jump filter-cali-from-wl-dispatch; accept; }
	chain filter-INPUT {
		type filter hook input priority 0;
		iifname "cali*" goto filter-cali-wl-to-host
		meta mark & 0x10000 == 0x10000 accept
		meta mark set mark & 0xffe4ffff
	}
	chain raw-PREROUTING {
		type filter hook prerouting priority -300;
		meta mark set mark & 0xffe4ffff
		iifname "cali*" meta mark set mark or 0x80000
		meta mark & 0x80000 == 0x80000 fib saddr . mark . iif oif 0 drop
		meta mark & 0x10000 == 0x10000 accept
	}
	chain raw-OUTPUT { type filter hook output priority -300; meta mark set mark & 0xffe4ffff; }
	chain mangle-PREROUTING {
		type filter hook prerouting priority -150;
		ct state established,related accept
		meta mark & 0x10000 == 0x10000 accept
	}
	chain mangle-POSTROUTING {
		type filter hook postrouting priority -150;
		meta mark & 0x10000 == 0x10000 return
		meta mark set mark & 0xffe4ffff
	}
}
`

// calicoPod makes a pod's link as Calico's CNI plugin does: the node has no address on it, and answers for that of the pod's gateway.
func (c *cluster) calicoPod(node, pod, address string) (iface string) {
	c.t.Helper()
	iface = ifaceOf(pod)
	ns := c.owner[addrs(address)[0]]
	c.on(node, "ip", "-4", "address", "flush", "dev", iface)
	c.on(node, "ip", "route", "replace", address+"/32", "dev", iface, "scope", "link")
	c.on(node, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/"+iface+"/proxy_arp; echo 0 >/proc/sys/net/ipv4/neigh/"+iface+"/proxy_delay")
	c.in(ns, "ip", "-4", "address", "flush", "dev", "eth0", "scope", "link")
	c.in(ns, "ip", "route", "replace", "169.254.1.1", "dev", "eth0", "scope", "link")
	c.in(ns, "ip", "route", "replace", "default", "via", "169.254.1.1", "dev", "eth0")
	return iface
}

// Host endpoint policies whose verdicts must be remembered, by a mark, past calico-node's rules.
const remembered = uplinks + `
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: cali-untracked}
spec:
  {order: 1, selector: uplink == 'first', doNotTrack: true, applyOnForward: true, types: [Ingress, Egress],
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [7000]}}], egress: [{action: Allow, protocol: TCP, source: {ports: [7000]}}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: cali-predna}
spec: {order: 2, selector: uplink == 'first', preDNAT: true, applyOnForward: true, types: [Ingress], ingress: [{action: Allow, protocol: TCP, destination: {ports: [7001]}}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: cali-later}
spec: {order: 3, selector: uplink == 'first', applyOnForward: true, types: [Ingress], ingress: [{action: Deny, protocol: TCP, destination: {ports: ['7000:7002']}}, {action: Allow}]}
---
`

// Where Calico's CNI plugin makes the network and calico-node runs without policy, ours holds, whichever of the two was there first; and a
// drop of calico-node's is final, whatever we allow.
func TestCalicoNetworking(t *testing.T) {
	t.Parallel()
	for _, form := range []struct{ name, program, rules, drop string }{
		{"iptables", "iptables-restore --noflush", calicoIPTables, "iptables -I cali-tw-IFACE -p tcp --dport 5001 -j DROP"},
		{"legacy iptables", "iptables-legacy-restore --noflush", calicoIPTables, "iptables-legacy -I cali-tw-IFACE -p tcp --dport 5001 -j DROP"},
		{"nftables", "nft -f -", calicoNFT, "nft insert rule ip calico filter-cali-tw-IFACE tcp dport 5001 drop"},
	} {
		for _, first := range []bool{true, false} {
			t.Run(form.name+map[bool]string{true: ", there first", false: ", comes later"}[first], func(t *testing.T) {
				t.Parallel()
				needProgram(t, strings.Fields(form.program)[0])
				c := newCluster(t, small)
				iface := c.calicoPod("n1", "a/one", "10.0.0.1")
				words := func(s string) string { return strings.ReplaceAll(s, "IFACE", iface) }
				program := func() { c.on("n1", "sh", "-c", form.program+" <<'END'\n"+words(form.rules)+"END\n") }
				if first {
					program()
				}
				c.start(threePods + strings.Replace(deny5000, "'two'", "'one'", 1) + "---" + remembered)
				if first {
					c.agentSays("Calico has rules for pods' interfaces")
				} else {
					program()
				}
				ours := c.ours("n1")
				c.tries("beside calico-node",
					tryout{"denied by policy", "10.0.1.1", "10.0.0.1", 5000, Lost}, tryout{"allowed by policy", "10.0.1.1", "10.0.0.1", 5001, Arrived},
					tryout{"from the pod", "10.0.0.1", "198.51.100.9", 5000, Arrived}, tryout{"between pods", "10.0.0.1", "10.0.0.2", 5000, Arrived},
					tryout{"untracked", "198.51.100.9", "192.0.2.1", 7000, Arrived}, tryout{"allowed before DNAT, to a pod", "198.51.100.9", "10.0.0.1", 7001, Arrived},
					tryout{"allowed before DNAT, to the host", "198.51.100.9", "192.0.2.1", 7001, Arrived},
					tryout{"denied at the host's endpoint", "198.51.100.9", "10.0.0.1", 7002, Lost}, tryout{"and to the host", "198.51.100.9", "192.0.2.1", 7002, Lost})
				c.on("n1", "sh", "-c", words(form.drop))
				c.tries("Calico's own policy drops", tryout{"allowed by ours", "10.0.1.1", "10.0.0.1", 5001, Lost}, tryout{"not its concern", "10.0.1.1", "10.0.0.1", 5002, Arrived})
				c.undisturbed("our table", ours, c.ours("n1"))
				if names := regexp.MustCompile(`(?m)^\s*(chain|set|map) cali.*|comment "(cali|felix)[^"]*`).FindAllString(ours, -1); len(names) > 0 {
					t.Errorf("calico-node would take for its own, and remove, %q", names)
				}
			})
		}
	}
}
