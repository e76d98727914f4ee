package lab

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// What is tested here is the agent as it runs: a process on each node, told by tierctl, judged by packets.

var binaries string // where buildTierctl puts what it builds; gone when the tests are

var buildTierctl = sync.OnceValues(func() (path string, err error) {
	if binaries, err = os.MkdirTemp("", "tierctl-"); err != nil {
		return "", err
	}
	path = filepath.Join(binaries, "tierctl")
	if out, err := exec.Command("go", "build", "-o", path, "../../cli").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building tierctl: %w\n%s", err, out)
	}
	return path, nil
})

// cluster is a lab with a store that tests write to.
type cluster struct {
	*Lab
	t       *testing.T
	tierctl Tierctl
	port    uint16 // the last that a probe was sent from
}

func newCluster(t *testing.T, c Cluster) *cluster {
	t.Helper()
	needNamespaces(t)
	path, err := buildTierctl()
	fatal(t, err)
	store := "bolt:" + filepath.Join(t.TempDir(), "store.db")
	return &cluster{Lab: built(t, c), t: t, port: 30000, tierctl: Tierctl{Path: path, Datastore: store}}
}

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const patience = 30 * time.Second // with what is to come; what is not to come is waited for no longer than soon

// start runs the agents, which have then programmed what is in the store.
func (c *cluster) start(objects string, args ...string) {
	c.t.Helper()
	revision := c.write(objects, "apply", "-f", "-")
	fatal(c.t, c.StartAgents(c.tierctl, args...))
	c.waitFor(revision)
}

// restart has other agents take over from those that run.
func (c *cluster) restart(args ...string) {
	c.t.Helper()
	fatal(c.t, c.KillAgents())
	fatal(c.t, c.StartAgents(c.tierctl, args...))
	c.waitFor("1")
}

func (c *cluster) write(stdin string, args ...string) (revision string) {
	c.t.Helper()
	revision, err := c.tierctl.Write(c.t.Context(), stdin, args...)
	fatal(c.t, err)
	return revision
}

func (c *cluster) apply(objects string) {
	c.t.Helper()
	c.waitFor(c.write(objects, "apply", "-f", "-"))
}

func (c *cluster) delete(words string) {
	c.t.Helper()
	c.waitFor(c.write("", append([]string{"delete"}, strings.Fields(words)...)...))
}

func (c *cluster) waitFor(revision string) {
	c.t.Helper()
	ctx, stop := context.WithTimeout(c.t.Context(), patience)
	defer stop()
	fatal(c.t, c.WaitFor(ctx, revision))
}

// sees tells what becomes of a flow, which is a connection of its own.
func (c *cluster) sees(what string, f policy.Flow, want Observation) {
	c.t.Helper()
	wait := soon
	if want == Arrived {
		wait = patience
	}
	c.port++
	f.SrcPort = c.port
	seen, err := c.Send(c.t.Context(), []policy.Flow{f}, wait)
	fatal(c.t, err)
	if seen[0] != want {
		c.t.Errorf("%s: %s: %s, want %s", what, text(f), seen[0], want)
	}
}

func tcp(src, dst string, port uint16) policy.Flow {
	return policy.Flow{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Proto: policy.ProtoTCP, DstPort: port}
}

// on runs a command on a node.
func (c *cluster) on(node string, command ...string) string {
	c.t.Helper()
	return c.in(c.nodes[node], command...)
}

func (c *cluster) in(ns *namespace, command ...string) string {
	c.t.Helper()
	var out []byte
	fatal(c.t, ns.do(func() (err error) {
		if out, err = exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			err = fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, out)
		}
		return err
	}))
	return string(out)
}

const threePods = `
apiVersion: v1
kind: Namespace
metadata: {name: a}
---
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: a, labels: {app: one}}
spec: {nodeName: n1, containers: [{name: c, image: example}]}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: two, namespace: a, labels: {app: two}}
spec: {nodeName: n1, containers: [{name: c, image: example}]}
status: {podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: three, namespace: a, labels: {app: three}}
spec: {nodeName: n2, containers: [{name: c, image: example}]}
status: {podIP: 10.0.1.1, podIPs: [{ip: 10.0.1.1}, {ip: "fd00::1:1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: "2001:db8::1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}, {type: InternalIP, address: "2001:db8::2"}]}
---
`

// talk is a connection that stays open, and what its two ends do.
type talk struct {
	name      string
	near, far net.Conn
	said      byte // the last word
}

// talk begins a connection; both ends have heard each other then.
func (c *cluster) talk(network, from, to string, port uint16) *talk {
	c.t.Helper()
	at := netip.AddrPortFrom(netip.MustParseAddr(to), port)
	return c.talkTo(network, from, at, at)
}

// talkTo sends to one place and expects it to arrive at another.
func (c *cluster) talkTo(network, from string, to, at netip.AddrPort) *talk {
	c.t.Helper()
	k := &talk{name: fmt.Sprintf("%s from %s to %s", network, from, to)}
	src := netip.AddrPortFrom(netip.MustParseAddr(from), 0)
	near, far := c.owner[src.Addr()], c.owner[at.Addr()]
	if network == "udp" {
		k.near = c.dial(near, "udp", src, to)
		k.far = c.dial(far, "udp", at, netip.MustParseAddrPort(k.near.LocalAddr().String()))
	} else {
		var l net.Listener
		fatal(c.t, far.do(func() (err error) { l, err = net.Listen("tcp", at.String()); return err }))
		defer l.Close()
		k.near = c.dial(near, "tcp", src, to)
		var err error
		k.far, err = l.Accept()
		fatal(c.t, err)
	}
	c.t.Cleanup(func() { _, _ = k.near.Close(), k.far.Close() })
	c.goesOn(k)
	return k
}

func (c *cluster) dial(ns *namespace, network string, from, to netip.AddrPort) (k net.Conn) {
	c.t.Helper()
	d := net.Dialer{Timeout: patience, FallbackDelay: -1, Control: shareAddress, LocalAddr: net.TCPAddrFromAddrPort(from)}
	if network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(from)
	}
	fatal(c.t, ns.do(func() (err error) { k, err = d.Dial(network, to.String()); return err }))
	return k
}

// hears tells whether a new word comes over within the time. It is said again and again, as packets may be lost.
func (k *talk) hears(from, to net.Conn, within time.Duration) bool {
	k.said++
	word, b := []byte{k.said}, make([]byte, 1500)
	for deadline := time.Now().Add(within); time.Now().Before(deadline); {
		if _, err := from.Write(word); err != nil && !refused(err) {
			return false
		}
		_ = to.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if n, err := to.Read(b); err == nil && bytes.Contains(b[:n], word) {
			return true
		}
	}
	return false
}

func (c *cluster) goesOn(talks ...*talk) {
	c.t.Helper()
	c.each(talks, "has ended", func(k *talk) bool { return k.hears(k.near, k.far, patience) && k.hears(k.far, k.near, patience) })
}

// ended tells those that do not end in both directions.
func (c *cluster) ended(talks ...*talk) {
	c.t.Helper()
	c.each(talks, "goes on", func(k *talk) bool { return !k.hears(k.near, k.far, soon) && !k.hears(k.far, k.near, soon) })
}

func (c *cluster) each(talks []*talk, otherwise string, want func(*talk) bool) {
	c.t.Helper()
	var all sync.WaitGroup
	for _, k := range talks {
		all.Go(func() {
			if !want(k) {
				c.t.Errorf("%s %s", k.name, otherwise)
			}
		})
	}
	all.Wait()
}
