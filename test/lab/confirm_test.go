package lab

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// onTrial is a tierctl that waits for a change to be confirmed.
type onTrial struct {
	t     *testing.T
	cmd   *exec.Cmd
	errs  bytes.Buffer
	ended chan error
}

func (c *cluster) try(objects, within string, args ...string) *onTrial {
	c.t.Helper()
	return c.tryOn("n1", nil, objects, within, args...)
}

// tryOn runs on a node, and over a session of the operator's if there is one: what is said is sent to him too.
func (c *cluster) tryOn(node string, session net.Conn, objects, within string, args ...string) *onTrial {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), "trial.yaml")
	fatal(c.t, os.WriteFile(file, []byte(objects), 0o600))
	o := &onTrial{t: c.t, ended: make(chan error, 1),
		cmd: exec.Command(c.tierctl.Path, append([]string{"apply", "-f", file, "--confirm-within", within, "--datastore", c.tierctl.Datastore}, args...)...)}
	o.cmd.Stderr, o.cmd.Env = &o.errs, append(os.Environ(), "SSH_CONNECTION=")
	if session != nil {
		words := strings.NewReplacer(":", " ").Replace(session.RemoteAddr().String() + " " + session.LocalAddr().String())
		o.cmd.Stderr, o.cmd.Env = io.MultiWriter(&o.errs, session), append(os.Environ(), "SSH_CONNECTION="+words)
	}
	fatal(c.t, c.nodes[node].do(o.cmd.Start))
	go func() { o.ended <- o.cmd.Wait() }()
	c.t.Cleanup(func() { _ = o.cmd.Process.Kill() }) // it may have ended
	return o
}

// status that it ends with.
func (o *onTrial) status(want int, words ...string) {
	o.t.Helper()
	select {
	case <-o.ended:
	case <-time.After(patience):
		o.t.Fatalf("it does not end")
	}
	if got := o.cmd.ProcessState.ExitCode(); got != want {
		o.t.Errorf("status %d, want %d: %s", got, want, o.errs.String())
	}
	for _, w := range words {
		if !strings.Contains(o.errs.String(), w) {
			o.t.Errorf("it does not say %q:\n%s", w, o.errs.String())
		}
	}
}

func (o *onTrial) kill() {
	o.t.Helper()
	fatal(o.t, o.cmd.Process.Kill())
	<-o.ended
}

// there waits until an object is there, or is not.
func (c *cluster) there(what string, want bool) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		_, err := c.tierctl.Run(c.t.Context(), "", append([]string{"get"}, strings.Fields(what)...)...)
		if (err == nil) == want {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: there is %v, want %v", what, err == nil, want)
		}
	}
}

// A change that cuts everybody from the host is put back by its agent: when nobody confirms it and when who made it is dead, and, when the
// agent is dead too, by the next. What is confirmed stays.
func TestConfirm(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Cluster{Nodes: small.Nodes[:1], Workloads: small.Workloads[:1], Outside: small.Outside})
	const shut = "198.51.100.9"
	c.start(threePods)
	store := strings.TrimPrefix(c.tierctl.Datastore, "bolt:")
	open := func(what string, want Observation) {
		t.Helper()
		c.sees(what, tcp(shut, "192.0.2.1", 80), want)
	}
	open("before", Arrived)

	o := c.try(shutHost, "12s")
	c.table("n1", `"eth0"`, true)
	open("on trial", Lost)
	copied, err := os.ReadFile(store)
	fatal(t, err)
	o.status(5, "in force on 1 node", "confirm it by tierctl confirm ", "was not confirmed in time")
	open("not confirmed", Arrived)
	c.there("hostendpoint n1", false)
	c.agentSays("not confirmed in time: put back as it was before")

	// A copy of the store from in between is a trial that is over.
	fatal(t, c.StopAgents())
	fatal(t, os.WriteFile(store, copied, 0o600))
	fatal(t, c.StartAgents(c.tierctl))
	c.waitFor("1")
	open("the copy", Arrived)
	c.there("hostendpoint n1", false)

	o = c.try(shutHost, "8s")
	c.table("n1", `"eth0"`, true)
	o.kill()
	open("on trial, and who made it is dead", Lost)
	c.table("n1", `"eth0"`, false)
	open("put back by the agent", Arrived)
	c.there("hostendpoint n1", false)

	o = c.try(shutHost, "6s")
	end := time.After(7 * time.Second)
	c.table("n1", `"eth0"`, true)
	o.kill()
	fatal(t, c.KillAgents())
	open("on trial, and all are dead", Lost)
	<-end
	c.there("hostendpoint n1", true)
	fatal(t, c.StartAgents(c.tierctl, "--verbose"))
	c.waitFor("1")
	open("the next agent", Arrived)
	c.there("hostendpoint n1", false)

	o = c.try(shutHost, "60s")
	c.table("n1", `"eth0"`, true)
	out, err := c.tierctl.Run(t.Context(), "", "confirm")
	fatal(t, err)
	if want := "HostEndpoint/n1 confirmed\nNetworkPolicy/a/no-81 confirmed\n"; string(out) != want {
		t.Errorf("confirm says %q, want %q", out, want)
	}
	o.status(0, "is confirmed")
	c.there("hostendpoint n1", true)
	open("confirmed", Lost)

	if _, err := c.tierctl.Run(t.Context(), "", "confirm"); err == nil || !strings.Contains(err.Error(), "nothing is on trial") {
		t.Errorf("there is nothing to confirm: %v", err)
	}
}

// noSSH leaves a host no failsafe ports, and lets in no more than the last words say.
const noSSH = `
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {failsafeInboundHostPorts: [], failsafeOutboundHostPorts: []}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n1, labels: {host: n1}}
spec: {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: hosts}
spec: {selector: host == 'n1', %s}
`

// What cuts the operator's own session, or what he wants to be reached, is put back at once; so is what no agent takes up.
func TestConfirmTests(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Cluster{Nodes: small.Nodes[:1], Workloads: small.Workloads[:1], Outside: small.Outside})
	c.try(fmt.Sprintf(noSSH, "ingress: [{action: Allow}]"), "6s").status(4, "does tierctl agent run here?", "everything is put back as it was")
	c.there("hostendpoint n1", false)
	c.start(threePods)
	const (
		tracked   = "ingress: [{action: Allow, protocol: TCP, destination: {ports: [%d]}}], egress: [{action: Allow}]"
		untracked = "doNotTrack: true, applyOnForward: true, " + tracked
	)
	session := c.talkTo("tcp", "198.51.100.9", netip.MustParseAddrPort("192.0.2.1:22"), netip.MustParseAddrPort("192.0.2.1:22"))
	go func() { _, _ = io.Copy(io.Discard, session.near) }() // until the session is closed
	for _, n := range []struct {
		rules  string
		status int
		says   string
	}{
		{fmt.Sprintf(tracked, 80), 4, "your SSH session could not be opened again from 198.51.100.9 to 192.0.2.1:22: denied at HostEndpoint/n1"},
		{fmt.Sprintf(untracked, 22), 5, "another like it would be let in by the plan; it answers"},
		{"doNotTrack: true, applyOnForward: true, types: [Ingress, Egress], ingress: [{action: Allow}], egress: [{action: Deny}]", 4, "its answers are denied"},
		{fmt.Sprintf(tracked, 22), 5, "another like it would be let in by the plan; it answers"},
	} {
		o := c.tryOn("n1", session.far, fmt.Sprintf(noSSH, n.rules), "5s")
		o.status(n.status, n.says)
		c.there("hostendpoint n1", false)
	}
}

// A target is reached by a connection of its own, before and after.
func TestConfirmChecks(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Cluster{Nodes: small.Nodes[:1], Workloads: small.Workloads[:1], Outside: small.Outside})
	c.start(threePods)
	var l net.Listener
	fatal(t, c.owner[netip.MustParseAddr("198.51.100.9")].do(func() (err error) { l, err = net.Listen("tcp", "198.51.100.9:7000"); return err }))
	defer l.Close()
	o := c.tryOn("n1", nil, shutHost, "30s", "--check", "tcp:198.51.100.9:7001")
	o.status(4, "nothing was written: 198.51.100.9:7001 cannot be reached even before the change")
	c.there("hostendpoint n1", false)
	const egress = "types: [Egress], egress: [{action: Allow, protocol: TCP, destination: {ports: [%d]}}]"
	c.tryOn("n1", nil, fmt.Sprintf(noSSH, fmt.Sprintf(egress, 80)), "30s", "--check", "tcp:198.51.100.9:7000").
		status(4, "198.51.100.9:7000 cannot be reached any more", "everything is put back as it was")
	c.there("hostendpoint n1", false)
	c.tryOn("n1", nil, fmt.Sprintf(noSSH, fmt.Sprintf(egress, 7000)), "5s", "--check", "tcp:198.51.100.9:7000").
		status(5, "198.51.100.9:7000 can be reached by a new connection", "no SSH session to test")
}
