package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func felix(name, spec string) string {
	return fmt.Sprintf("apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: %s}\nspec: {%s}\n", name, spec)
}

const loggedDeny = `
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: closed, namespace: a}
spec:
  selector: app == 'two'
  types: [Ingress]
  ingress:
  - {action: Log}
  - {action: Deny}
`

// answer is what a client is told within some time when it asks for a connection.
func (c *cluster) answer(from, to string, port uint16, wait time.Duration) string {
	c.t.Helper()
	err := c.owner[netip.MustParseAddr(from)].do(func() error {
		d := net.Dialer{Timeout: wait, FallbackDelay: -1, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		k, err := d.Dial("tcp", net.JoinHostPort(to, fmt.Sprint(port)))
		if err == nil {
			err = k.Close()
		}
		return err
	})
	switch {
	case err == nil:
		return "connected"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case os.IsTimeout(err):
		return "nothing"
	}
	return err.Error()
}

// What the FelixConfigurations say holds for an agent that runs, the one of its node before the one for all.
func TestFelixConfigurationOfARunningAgent(t *testing.T) {
	t.Parallel()
	c := newCluster(t, small)
	c.start(threePods + loggedDeny)
	toHost := func(what string, one, three Observation) {
		t.Helper()
		c.sees(what, tcp("10.0.0.1", "192.0.2.1", 80), one)
		c.sees(what, tcp("fd00::1:1", "2001:db8::2", 80), three)
	}
	toHost("without configuration", Lost, Lost)
	c.apply(felix("default", "defaultEndpointToHostAction: Accept"))
	toHost("accept", Arrived, Arrived)
	c.apply(felix("node.n2", "defaultEndpointToHostAction: Drop"))
	toHost("accept, but for one node", Arrived, Lost)
	c.delete("felixconfiguration default node.n2")
	toHost("without configuration again", Lost, Lost)

	answers := func(what, want string) {
		t.Helper()
		wait := map[string]time.Duration{"nothing": soon, "refused": patience}[want]
		for _, ends := range [][2]string{{"10.0.0.1", "10.0.0.2"}, {"fd00::1", "fd00::2"}} {
			if have := c.answer(ends[0], ends[1], 80, wait); have != want {
				t.Errorf("%s: to %s: %s, want %s", what, ends[1], have, want)
			}
		}
	}
	answers("drop", "nothing")
	c.apply(felix("default", "nftablesFilterDenyAction: Reject"))
	answers("reject", "refused")
	c.apply(felix("default", "nftablesFilterDenyAction: Drop"))
	answers("drop again", "nothing")

	c.table("n1", `log prefix "calico-packet: "`, true)
	c.apply(felix("default", `logPrefix: "tw %k %n", logActionRateLimit: 10/minute, logActionRateLimitBurst: 7`))
	c.table("n1", `limit rate 10/minute burst 7 packets log prefix "tw np closed: "`, true)

	c.sees("an interface of another name", tcp("10.0.0.1", "10.0.1.1", 80), Arrived)
	c.apply(felix("default", `interfacePrefix: "tap,cali"`))
	c.delete("pod two -n a") // which is behind tap0
	c.sees("an interface of another name", tcp("10.0.0.1", "10.0.0.2", 80), Lost)
	c.apply(felix("default", `interfacePrefix: cali`))
	c.sees("no workload's interface", tcp("10.0.0.1", "10.0.0.2", 80), Arrived)
}

// What the agent's environment says wins over every object, and what its flags say as well.
func TestFelixVariablesWin(t *testing.T) {
	for name, c := range map[string]struct{ env, args []string }{
		"variable": {env: []string{"FELIX_DEFAULTENDPOINTTOHOSTACTION=Accept", "FELIX_LOGPREFIX=of the node"}},
		"flag":     {args: []string{"--default-endpoint-to-host-action", "Accept"}, env: []string{"FELIX_LOGPREFIX=of the node"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, e := range c.env {
				key, value, _ := strings.Cut(e, "=")
				t.Setenv(key, value)
			}
			l := newCluster(t, small)
			l.start(threePods+loggedDeny+"---\n"+felix("default", "defaultEndpointToHostAction: Drop, logPrefix: of all nodes")+"---\n"+
				felix("node.n1", "defaultEndpointToHostAction: Drop, logPrefix: of its object"), c.args...)
			l.sees("to its own host", tcp("10.0.0.1", "192.0.2.1", 80), Arrived)
			l.table("n1", `log prefix "of the node: "`, true)
		})
	}
}
