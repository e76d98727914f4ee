package lab

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierwall/tierwall/dataplane/nft"
)

// others are what other programs have on a node: tables of nft's, with sets, and what iptables makes of both kinds.
const others = `
table inet filter {
	set seen { type ipv4_addr; flags timeout; timeout 1h; elements = { 192.0.2.99 }; }
	chain input { type filter hook input priority 0; policy accept; tcp dport 22 counter accept comment "console"; }
}
table ip6 mine { chain c { type filter hook forward priority 10; ip6 saddr 2001:db8:9::/48 drop; }; }
table bridge mine { chain c { type filter hook forward priority 0; ether type arp accept; }; }
`

const othersIPTables = `*filter
:MINE - [0:0]
-A INPUT -p tcp -m tcp --dport 2222 -j ACCEPT
-A FORWARD -j MINE
-A MINE -m conntrack --ctstate INVALID -j DROP
COMMIT
`

// inventory is what a node has that an agent may change. Counters are others' own.
var inventory = []string{
	"nft --stateless list ruleset", "iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save",
	"find /proc/sys/net/bridge /proc/sys/net/netfilter /proc/sys/net/ipv4 /proc/sys/net/ipv6 -type f ! -name '*count' ! -name 'nf_conntrack_max' -readable -print -exec cat {} + 2>/dev/null || true",
	"ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; ip link | sed 's/ state .*//'",
	"conntrack -L -o extended 2>/dev/null | grep -o 'mark=.*' | sort | uniq -c || true",
}

func (c *cluster) inventory(node string) (out []string) {
	c.t.Helper()
	for _, command := range inventory {
		if name := strings.Fields(command)[0]; strings.HasSuffix(name, "-save") {
			if _, err := exec.LookPath(name); err != nil {
				continue
			}
			command += " | sed '/^#/d; s/ \\[[0-9:]*\\]$//'" // when it was saved; what policies have counted
		}
		out = append(out, command+":\n"+c.on(node, "sh", "-c", command))
	}
	return out
}

// marked is how many connections of a node have a mark.
func (c *cluster) marked(node string) (n int) {
	c.t.Helper()
	fatal(c.t, c.nodes[node].do(func() error {
		connections, err := nft.Connections()
		for _, k := range connections {
			if k.Mark != 0 {
				n++
			}
		}
		return err
	}))
	return n
}

// When the table is taken away the node is as it was, byte for byte, whatever became of the agents in between: others' tables, the settings
// that were changed for bridges, and the marks of connections.
func TestUninstallLeavesTheNodeAsItWas(t *testing.T) {
	for _, was := range []string{"0", "1"} {
		t.Run("bridge-nf-call "+was, func(t *testing.T) {
			t.Parallel()
			needProgram(t, "iptables-nft-restore")
			c := newCluster(t, oneNode)
			c.bridge("n1", "br0")
			c.bridgeFiltering(was)
			c.nft(t, "n1", others)
			c.on("n1", "sh", "-c", "printf '%s' '"+othersIPTables+"' | iptables-nft-restore --noflush && printf '%s' '"+othersIPTables+"' | ip6tables-nft-restore --noflush")
			if _, err := exec.LookPath("iptables-legacy-restore"); err == nil {
				c.on("n1", "sh", "-c", "printf '%s' '"+othersIPTables+"' | iptables-legacy-restore --noflush || true") // where the kernel has it still
			}
			before := c.inventory("n1")
			c.start(threePods, "--established-connections", "Reevaluate")
			k := c.talk("tcp", "198.51.100.9", "10.0.0.2", 5000)
			c.apply(deny5000)
			c.ended(k)
			c.restart("--established-connections", "Reevaluate") // killed: the table alone remembers
			c.ended(k)
			if !c.isFiltered() || c.marked("n1") == 0 {
				t.Errorf("nothing was changed: there is nothing to put back; %d connections are marked", c.marked("n1"))
			}
			fatal(t, c.StopAgents())
			c.on("n1", c.tierctl.Path, "agent", "--remove", "--node", "n1", "--datastore", c.tierctl.Datastore)
			after := c.inventory("n1")
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("the node is not as it was:\n%s", diff)
			}
			if n := c.marked("n1"); n > 0 {
				t.Errorf("%d connections are marked", n)
			}
			c.goesOn(k)
		})
	}
}
