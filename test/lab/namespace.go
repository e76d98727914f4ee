// Package lab builds a cluster of network namespaces on one machine, hosts and pods with their real addresses, runs a real
// agent on each host, and sends real packets. It knows nothing of policy but where the endpoints are. All its namespaces are
// nameless: they, and the links in them, are gone when the process is.
package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrNoNamespaces says that this machine lets us make no network namespaces: we are not root, and unprivileged user
// namespaces are off.
var ErrNoNamespaces = errors.New("network namespaces need root or unprivileged user namespaces, and there is neither")

const inside = "TIERWALL_LAB_INSIDE"

// Enter makes sure that the process may make network namespaces. Without root it runs the same program again in a user
// namespace of its own, and ends with its exit status.
func Enter() error {
	ns, err := newNamespace("probe")
	if err == nil {
		ns.close()
		return nil
	}
	if os.Getenv(inside) != "" {
		return fmt.Errorf("%w (%v)", ErrNoNamespaces, err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	err = runRelaying(cmd)
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	}
	return fmt.Errorf("%w (%v)", ErrNoNamespaces, err)
}

// runRelaying runs a command and hands on to it the signals that ask us to end, so that it can clean up.
func runRelaying(cmd *exec.Cmd) error {
	runtime.LockOSThread() // Pdeathsig is sent when this thread ends
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s) // it may have ended
		case err := <-ended:
			return err
		}
	}
}

// namespace is a network namespace without a name.
type namespace struct {
	name string // for messages
	fd   netns.NsHandle
	link *netlink.Handle
}

func newNamespace(name string) (*namespace, error) {
	n := &namespace{name: name, fd: netns.None()}
	err := onOwnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		n.fd, err = netns.Get()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	if n.link, err = netlink.NewHandleAt(n.fd); err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	return n, n.do(n.settings)
}

// onOwnThread runs f on a thread that ends with it, so that what f does to its thread is nobody else's concern.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock
		done <- f()
	}()
	return <-done
}

// do runs f in the namespace: sockets and processes that it makes belong there.
func (n *namespace) do(f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(n.fd); err != nil {
			return fmt.Errorf("entering namespace %s: %w", n.name, err)
		}
		return f()
	})
}

// settings of every namespace: it forwards, answers for what is routed to it however that comes, and does not probe whether
// its addresses are taken.
func (n *namespace) settings() error {
	for _, s := range []string{"ipv4/ip_forward=1", "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0",
		"ipv4/conf/all/send_redirects=0", "ipv4/conf/default/send_redirects=0",
		"ipv6/conf/all/forwarding=1", "ipv6/conf/default/accept_dad=0", "ipv6/conf/all/accept_dad=0", "ipv6/conf/default/autoconf=0",
		"ipv6/conf/default/router_solicitations=0", "ipv4/icmp_ratelimit=0", "ipv6/icmp/ratelimit=0"} {
		if err := sysctl(s); err != nil {
			return fmt.Errorf("namespace %s: %w", n.name, err)
		}
	}
	// Linux checks a UDP-Lite packet's checksum with UDP's protocol number, and so takes every good one for invalid.
	if err := sysctl("netfilter/nf_conntrack_checksum=0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("namespace %s: %w", n.name, err)
	}
	lo, err := n.link.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("namespace %s: %w", n.name, err)
	}
	return n.link.LinkSetUp(lo)
}

func (n *namespace) close() {
	if n.link != nil {
		n.link.Close()
	}
	n.fd.Close()
}
