package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	"github.com/tierwall/tierwall/controllers"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// selfTest is what must still work once a change is in force.
type selfTest struct {
	targets []string            // HOST:PORT that must be reached
	session netip.AddrPort      // of the operator, at his end; not valid when there is none
	server  netip.AddrPort      // and at ours
	cut     map[string][]string // what nodes said before of being cut off
}

// answerIn is how long a target may take to answer.
const answerIn = 3 * time.Second

// newSelfTest looks what works before the change.
func newSelfTest(c *cli.Context, s store.Store) (*selfTest, error) {
	t := &selfTest{cut: map[string][]string{}}
	var err error
	if t.targets, err = checkTargets(c); err != nil {
		return nil, err
	}
	if at, err := connect(c); err == nil && at.kind == kubeDatastore {
		config, err := at.cluster()
		if err != nil {
			return nil, err
		}
		if server := hostPort(config.Host); server != "" {
			t.targets = append(t.targets, server)
		}
	}
	for _, target := range t.targets {
		if err := reachable(c.Context, target); err != nil {
			return nil, statusError{fmt.Errorf("%s cannot be reached even before the change: %w", target, err), exitRefused}
		}
	}
	t.session, t.server = sshSession()
	before, err := reports(c.Context, s)
	if err != nil && !errors.Is(err, store.ErrNoStore) {
		return nil, err
	}
	for _, r := range before {
		t.cut[r.Name] = controllers.CutOff(r)
	}
	return t, nil
}

// hostPort of an API server's address.
func hostPort(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return ""
	}
	if u.Port() != "" {
		return u.Host
	}
	return net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
}

func reachable(ctx context.Context, target string) error {
	d := net.Dialer{Timeout: answerIn}
	conn, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return err
	}
	return conn.Close()
}

// run it, now that the change is in force; the error is why the change is to be put back.
func (t *selfTest) run(c *cli.Context, reports []*v1alpha1.NodeReport) error {
	since := time.Now()
	fmt.Fprintf(c.App.ErrWriter, "in force on %s\n", counted(len(reports), "node"))
	for _, r := range reports {
		for _, cut := range controllers.CutOff(r) {
			if !slices.Contains(t.cut[r.Name], cut) {
				return errors.New(cut)
			}
		}
	}
	for _, target := range t.targets {
		if err := reachable(c.Context, target); err != nil {
			return fmt.Errorf("%s cannot be reached any more: %w", target, err)
		}
		fmt.Fprintf(c.App.ErrWriter, "%s can be reached by a new connection\n", target)
	}
	if !t.session.IsValid() {
		fmt.Fprintln(c.App.ErrWriter, "no SSH session to test: SSH_CONNECTION is not set here")
		return nil
	}
	said, err := t.ssh(c, since, reports)
	if err == nil {
		fmt.Fprintf(c.App.ErrWriter, "your SSH session from %s: %s\n", t.session, said)
	}
	return err
}

// ssh tests the operator's own session: whether one like it could be opened now, by what the plan says, and whether it lives, by what the
// kernel says of its socket.
func (t *selfTest) ssh(c *cli.Context, since time.Time, reports []*v1alpha1.NodeReport) (said string, err error) {
	interfaces, err := interfacesHere(c.Context)
	if err != nil {
		return "", err
	}
	if !slices.ContainsFunc(interfaces, func(f nft.Interface) bool { return slices.Contains(f.Addrs, t.server.Addr()) }) {
		return fmt.Sprintf("it ends at %s, which is not this host's: not tested", t.server), nil
	}
	node := nodeHere(reports)
	if node == "" {
		return "which of the nodes that report is this host is not known (NODE_NAME): not tested", nil
	}
	iface, err := nft.RouteTo(t.session.Addr(), t.server.Addr())
	if err != nil {
		return "", err
	}
	if iface == "" {
		return "it comes from this host itself: no policy is asked", nil
	}
	if err := judge(c, node, interfaces, iface, t.session, t.server); err != nil {
		return "", fmt.Errorf("your SSH session could not be opened again from %s to %s: %w", t.session.Addr(), t.server, err)
	}
	alive, err := lives(c.Context, since, t.server, t.session)
	return "another like it would be let in by the plan; " + alive, err
}

// judge whether a plan lets a connection in, and its answers out.
func judge(c *cli.Context, node string, interfaces []nft.Interface, iface string, from, to netip.AddrPort) error {
	objs, err := storedObjects(c)
	if err != nil {
		return err
	}
	options, err := policyOptions(c)
	if err != nil {
		return err
	}
	x := policy.NewIndex(node, options)
	for _, o := range objs {
		_ = x.Set(o) // what cannot be enforced as written the agent says, and the plan is as it is
	}
	ifaces := make([]policy.Iface, len(interfaces))
	for i, f := range interfaces {
		ifaces[i] = policy.Iface{Name: f.Name, Addrs: f.Addrs, Peers: f.Peers, Nets: f.Nets, Shared: f.Bridge, Uplink: f.Uplink || !f.Bridge && len(f.Nets) > 0}
	}
	x.SetInterfaces(ifaces)
	plan := x.Plan()
	in := plan.Trace(policy.Flow{Src: from.Addr(), Dst: to.Addr(), Proto: policy.ProtoTCP, SrcPort: from.Port(), DstPort: to.Port(), InIface: iface})
	if in.Verdict == policy.Deny {
		return errors.New(why(in.Ingress))
	}
	if !slices.ContainsFunc(in.Steps, func(s policy.Step) bool { return s.Stage == policy.Untracked && s.Action == policy.Allow }) {
		return nil // answers of a connection that is tracked pass
	}
	out := plan.Trace(policy.Flow{Src: to.Addr(), Dst: from.Addr(), Proto: policy.ProtoTCP, SrcPort: to.Port(), DstPort: from.Port(), OutIface: iface})
	if out.Verdict == policy.Deny {
		return fmt.Errorf("its answers are denied: %s", why(out.Egress))
	}
	return nil
}

func why(j *policy.Judgement) string {
	if j == nil {
		return "denied"
	}
	return fmt.Sprintf("denied at %s: %s", j.Endpoint, j.Why)
}

// lives tells what the kernel says of a connection: whether what was sent over it since, as this command's words,
// was answered.
func lives(ctx context.Context, since time.Time, local, remote netip.AddrPort) (said string, err error) {
	ctx, stop := context.WithTimeout(ctx, answerIn)
	defer stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		info, err := socket(local, remote)
		switch {
		case err != nil || info == nil:
			return "the kernel does not tell of its socket here", nil
		case info.Unacked == 0 && time.Duration(info.Last_ack_recv)*time.Millisecond < time.Since(since):
			return "it answers", nil
		}
		select {
		case <-look.C:
			continue
		case <-ctx.Done():
		}
		if info.Unacked > 0 && info.Retransmits > 0 {
			return "", fmt.Errorf("your SSH session from %s does not answer any more", remote)
		}
		return "nothing was sent over it meanwhile", nil
	}
}

// socket is what the kernel knows of a connection of this network namespace, or nil.
func socket(local, remote netip.AddrPort) (*netlink.TCPInfo, error) {
	family := uint8(unix.AF_INET6) // to which those to IPv4 belong that a server of both has accepted
	for _, f := range []uint8{unix.AF_INET, family} {
		all, err := netlink.SocketDiagTCPInfo(f)
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			if s.InetDiagMsg != nil && at(s.InetDiagMsg.ID.Source, s.InetDiagMsg.ID.SourcePort) == local &&
				at(s.InetDiagMsg.ID.Destination, s.InetDiagMsg.ID.DestinationPort) == remote {
				return s.TCPInfo, nil
			}
		}
	}
	return nil, nil
}

func at(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// interfacesHere as the agent would be told of them now.
func interfacesHere(ctx context.Context) ([]nft.Interface, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	told, err := nft.Interfaces(ctx)
	if err != nil {
		return nil, err
	}
	return <-told, nil
}

// nodeHere is this host's name among those that report: what NODE_NAME says, or the host, or the only one.
func nodeHere(reports []*v1alpha1.NodeReport) string {
	host, _ := hostname()
	for _, name := range []string{os.Getenv("NODE_NAME"), host} {
		if slices.ContainsFunc(reports, func(r *v1alpha1.NodeReport) bool { return r.Name == name }) {
			return name
		}
	}
	if len(reports) == 1 {
		return reports[0].Name
	}
	return ""
}

// sshSession is the session that this command is typed in, by SSH_CONNECTION: its own or, for sudo takes that away, that of a process that
// it descends from.
func sshSession() (client, server netip.AddrPort) {
	for pid, text := os.Getpid(), os.Getenv("SSH_CONNECTION"); ; {
		if client, server, ok := sshConnection(text); ok {
			return client, server
		}
		if pid = parent(pid); pid <= 1 {
			return client, server
		}
		text = variable(pid, "SSH_CONNECTION=")
	}
}

// sshConnection reads "ADDRESS PORT ADDRESS PORT".
func sshConnection(text string) (client, server netip.AddrPort, ok bool) {
	words := strings.Fields(text)
	if len(words) != 4 {
		return client, server, false
	}
	client, err := netip.ParseAddrPort(net.JoinHostPort(words[0], words[1]))
	server, err2 := netip.ParseAddrPort(net.JoinHostPort(words[2], words[3]))
	client, server = netip.AddrPortFrom(client.Addr().Unmap(), client.Port()), netip.AddrPortFrom(server.Addr().Unmap(), server.Port())
	return client, server, err == nil && err2 == nil
}

// parent of a process; 0 where that cannot be read.
func parent(pid int) int {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	_, rest, ok := bytes.Cut(text, []byte(") ")) // its name may have anything in it but is followed by this
	fields := bytes.Fields(rest)
	if err != nil || !ok || len(fields) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(string(fields[1])) // of the kernel's
	return n
}

func variable(pid int, name string) string {
	text, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ")) // what cannot be read says nothing
	for _, v := range strings.Split(string(text), "\x00") {
		if value, ok := strings.CutPrefix(v, name); ok {
			return value
		}
	}
	return ""
}
