package nft_test

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// A rule of the forward hook does not see packets between two ports of a bridge, and after BridgeFiltering it does.
func TestBridgeFiltering(t *testing.T) {
	h, a, b := newHost(t), newHost(t), newHost(t)
	h.do(func() { must(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}})) })
	for i, pod := range []*host{a, b} {
		port := []string{"port0", "port1"}[i]
		h.link(port, pod, "eth0")
		h.do(func() { must(netlink.LinkSetMaster(linkOf(port), linkOf("br0"))) })
		pod.do(func() {
			own("eth0", []string{"10.0.0.1/24", "10.0.0.2/24"}[i])
			own("eth0", []string{"fd00::1/64", "fd00::2/64"}[i])
		})
	}
	var c *nft.Conn
	udp := []ruleset.Match{{Key: ruleset.KeyL4Proto, Elem: ruleset.Elem{Num: 17}}}
	h.do(func() {
		up("br0")
		c = open()
		_, err := c.Apply(&ruleset.Table{Name: ruleset.DefaultTable, Chains: []*ruleset.Chain{{Name: "f", Hook: "forward",
			Rules: []ruleset.Rule{{Matches: udp, Verdict: ruleset.Verdict{Kind: ruleset.Drop}}}}}})
		must(err)
	})
	defer c.Close()
	settings := []string{"bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"}
	for _, test := range []struct {
		name   string
		before []string // the settings
		filter bool
		want   bool // packets arrive
	}{
		{"unfiltered", []string{"0", "0"}, false, true},
		{"filtered", []string{"0", "0"}, true, false},
		{"one was set", []string{"1", "0"}, true, false},
		{"the other was set", []string{"0", "1"}, true, false},
		{"both were set", []string{"1", "1"}, true, false},
	} {
		h.do(func() {
			for i, s := range settings {
				sysctl(s + "=" + test.before[i])
			}
			if test.filter {
				must(nft.BridgeFiltering(nft.ProcSysNet))
			}
		})
		for _, to := range []string{"10.0.0.2", "fd00::2"} {
			within := 300 * time.Millisecond
			if test.want {
				within = 10 * time.Second // the first packets wait for the neighbour's address
			}
			if got := sent(a, b, netip.MustParseAddr(to), within); got != test.want {
				t.Errorf("%s: to %s arrives: %v", test.name, to, got)
			}
		}
	}
}

// sent tells whether one of several datagrams arrives within the time.
func sent(from, to *host, at netip.Addr, within time.Duration) (arrives bool) {
	var server, sender *net.UDPConn
	address := net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 5000))
	to.do(func() {
		var err error
		server, err = net.ListenUDP("udp", address)
		must(err)
	})
	defer server.Close()
	from.do(func() {
		var err error
		sender, err = net.DialUDP("udp", nil, address)
		must(err)
	})
	defer sender.Close()
	deadline := time.Now().Add(within)
	for !arrives && time.Now().Before(deadline) {
		_, err := sender.Write([]byte("x"))
		must(err)
		must(server.SetReadDeadline(time.Now().Add(100 * time.Millisecond)))
		_, err = server.Read(make([]byte, 1))
		arrives = err == nil
	}
	return arrives
}

// Where the kernel has no bridge filter and none can be loaded, the error says what is missing and what to do.
func TestBridgeFilteringNeedsTheModule(t *testing.T) {
	inNamespace(t, func() {
		must(unix.Unshare(unix.CLONE_NEWNS))
		must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		must(unix.Mount("none", "/proc/sys/net", "tmpfs", 0, "")) // as on a kernel without the module
		if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
			panic("the settings are still there")
		}
		err := nft.BridgeFiltering(nft.ProcSysNet)
		if err == nil || !strings.Contains(err.Error(), "modprobe br_netfilter") {
			t.Errorf("without the module: %v", err)
		}
	})
}
