package lab

import (
	"strings"
	"testing"
)

// hostPolicy denies port 6000 of node n1's first uplink, and nothing else there.
const hostPolicy = uplinks + `
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: host}
spec: {selector: uplink == 'first', types: [Ingress], ingress: [{action: Deny, protocol: TCP, destination: {ports: [6000]}}, {action: Allow}]}
---
`

// bus is a system bus on which everybody may do everything.
const bus = `
	mkdir /run/dbus
	cat >/run/bus.conf <<'END'
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>
END
`

// openZones let pods through firewalld by their addresses, and ports 6000 and 6001 to the host. A zone alone lets packets of its sources in:
// what comes from elsewhere and is forwarded to them needs a policy.
const openZones = `
	mkdir -p /etc/firewalld/zones /etc/firewalld/policies
	cat >/etc/firewalld/zones/pods.xml <<'END'
<zone target="ACCEPT"><source address="10.0.0.0/16"/><source address="fd00::/64"/><forward/></zone>
END
	cat >/etc/firewalld/policies/to-pods.xml <<'END'
<policy target="ACCEPT"><ingress-zone name="ANY"/><egress-zone name="pods"/></policy>
END
	cat >/etc/firewalld/policies/from-pods.xml <<'END'
<policy target="ACCEPT"><ingress-zone name="pods"/><egress-zone name="ANY"/></policy>
END
	cat >/etc/firewalld/zones/public.xml <<'END'
<zone><service name="ssh"/><port port="6000-6001" protocol="tcp"/><forward/></zone>
END
`

// A packet passes only where both firewalld and our policy let it, and neither touches the other's rules: whichever was there first, when
// firewalld loads its rules anew, starts or stops.
func TestFirewalld(t *testing.T) {
	t.Parallel()
	c := newCluster(t, small)
	c.start(threePods + deny5000 + "---" + hostPolicy)
	ours := c.ours("n1")
	pods := func(denied, allowed Observation) []tryout {
		return []tryout{
			{"to a pod, denied by policy", "10.0.1.1", "10.0.0.2", 5000, denied}, {"to a pod", "10.0.1.1", "10.0.0.2", 5001, allowed},
			{"to a pod, denied by policy", "fd00::1:1", "fd00::2", 5000, denied}, {"to a pod", "fd00::1:1", "fd00::2", 5001, allowed},
			{"from a pod", "10.0.0.1", "198.51.100.9", 5000, allowed}, {"between pods", "10.0.0.1", "10.0.0.2", 5001, allowed},
		}
	}
	host := func(policy, zone Observation) []tryout {
		return []tryout{
			{"to the host, denied by policy alone", "198.51.100.9", "192.0.2.1", 6000, policy}, {"to the host", "198.51.100.9", "192.0.2.1", 6001, Arrived},
			{"to the host, denied by the zone alone", "198.51.100.9", "192.0.2.1", 7000, zone},
		}
	}
	c.tries("without firewalld", append(pods(Lost, Arrived), host(Lost, Arrived)...)...)

	g := c.guest("n1", bus+"writable /etc/firewalld\n", "firewalld", "dbus-daemon")
	g.daemon("bus", "dbus-daemon --config-file=/run/bus.conf --nofork --nopidfile", "[ -S /run/dbus/system_bus_socket ]")
	firewalld := func() { g.daemon("firewalld", "firewalld --nofork --nopid", "firewall-cmd --state") }
	firewalld()
	c.tries("firewalld as it is installed", pods(Lost, Lost)...)
	g.run(openZones + "firewall-cmd --reload")
	theirs := c.others("n1")
	both := func(when string) {
		t.Helper()
		c.tries(when, append(pods(Lost, Arrived), host(Lost, Lost)...)...)
		c.undisturbed(when+": our table", ours, c.ours("n1"))
		c.undisturbed(when+": others' tables", theirs, c.others("n1"))
	}
	both("with its zones")
	talk := c.talk("tcp", "10.0.1.1", "10.0.0.2", 5002)
	for _, reload := range []string{"--reload", "--complete-reload"} {
		g.run("firewall-cmd " + reload)
		c.goesOn(talk)
		both(reload)
	}
	c.delete("globalnetworkpolicy host")
	c.apply(hostPolicy)
	both("when a policy has changed")

	fatal(t, c.KillAgents())
	g.end("firewalld")
	c.tries("neither runs", append(pods(Lost, Arrived), host(Lost, Arrived)...)...) // our table stays, and filters
	firewalld()
	both("firewalld has begun, the agent not")
	c.restart()
	both("the agent has begun after it")
	g.end("firewalld")
	c.tries("firewalld has ended", append(pods(Lost, Arrived), host(Lost, Arrived)...)...)
	c.undisturbed("firewalld has ended: our table", ours, c.ours("n1"))
}

// What else is said to a node's firewall by those who manage it, each by its own program: whatever that does to its own rules and flushes
// of others', our table is as it was, and what it denies never passes.
func TestFlushes(t *testing.T) {
	t.Parallel()
	c := newCluster(t, small)
	c.start(threePods + deny5000)
	ours := c.ours("n1")
	g := c.guest("n1", `
		writable /etc/ufw
		writable /etc/default
		cp /usr/share/ufw/iptables/*.rules /usr/share/ufw/ufw.conf /usr/share/ufw/*.init /etc/ufw/
		[ -e /etc/nftables.conf ]`, "ufw", "iptables", "nftables")
	unit := func(what string) string { // of nftables.service
		return strings.TrimSpace(g.run("sed -n 's/^" + what + "=//p' /lib/systemd/system/nftables.service"))
	}
	for _, step := range []struct {
		command string
		allowed Observation
	}{
		{"ufw --force enable", Lost}, // it forwards nothing
		{"ufw route allow proto tcp to any port 5001", Arrived},
		{"ufw reload", Arrived},
		{"ufw --force reset", Arrived},
		{unit("ExecStart"), Arrived}, {unit("ExecReload"), Arrived}, {unit("ExecStop"), Arrived},
		{"iptables -P FORWARD DROP", Lost},
		{"iptables -F FORWARD", Lost}, // the policy stays
		{"printf '*filter\n:FORWARD ACCEPT\nCOMMIT\n' | iptables-restore", Arrived},
		{"iptables -F; iptables -X; iptables -t nat -F; iptables -t raw -F; iptables -t mangle -F", Arrived},
		{"nft flush ruleset", Arrived},
		{"! nft delete table inet tierwall", Arrived}, // it may not
	} {
		g.run(step.command)
		c.tries(step.command, tryout{"denied by policy", "10.0.1.1", "10.0.0.2", 5000, Lost}, tryout{"allowed by policy", "10.0.1.1", "10.0.0.2", 5001, step.allowed},
			tryout{"denied by policy", "fd00::1:1", "fd00::2", 5000, Lost})
		c.undisturbed(step.command+": our table", ours, c.ours("n1"))
	}
	fatal(t, c.KillAgents())
	g.run("nft flush ruleset")
	denied := tryout{"denied by policy", "10.0.1.1", "10.0.0.2", 5000, Arrived}
	c.tries("flushed when no agent runs", denied)
	c.restart()
	denied.want = Lost
	c.tries("the next agent", denied)
	c.undisturbed("our table", ours, c.ours("n1"))
}
