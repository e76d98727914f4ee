package kube

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
)

// start starts a process that is to live as long as the cluster.
func (c *Cluster) start(at *place, name, command string, args ...string) error {
	_, err := c.begin(at, name, command, args...)
	return err
}

// process is to live until it is stopped, or as long as the cluster.
type process struct {
	cmd     *exec.Cmd
	stopped atomic.Bool // by us
	ended   chan struct{}
}

// begin starts a process. When it ends though nobody has stopped it, everything that waits for the cluster fails, with the end of its
// log. A terminal's Ctrl-C is not for it.
func (c *Cluster) begin(at *place, name, command string, args ...string) (*process, error) {
	file := filepath.Join(c.dir, name+".log")
	log, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(command, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(environment(), "PATH="+c.runtime+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, UseCgroupFD: true, CgroupFD: int(c.cgroup.Fd())}
	if err := at.do(cmd.Start); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	c.running.Store(name, p)
	c.processes.Go(func() {
		_ = cmd.Wait() // ProcessState says more
		close(p.ended)
		if !p.stopped.Load() {
			c.fail(fmt.Errorf("%s has ended: %v; its log:\n%s", name, cmd.ProcessState, tail(file)))
		}
	})
	return p, nil
}

// stop asks a process to end, and waits until it has.
func (p *process) stop() {
	p.stopped.Store(true)
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	<-p.ended
}

// kill a process, as a power cut does, and wait until it has ended. It may be started again.
func (c *Cluster) kill(name string) error {
	v, ok := c.running.Load(name)
	if !ok {
		return fmt.Errorf("%s was never started", name)
	}
	p := v.(*process)
	p.stopped.Store(true)
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("killing %s: %w", name, err)
	}
	<-p.ended
	return nil
}

// environment is ours, but no proxy is asked for what is on the same switch.
func environment() []string { return append(os.Environ(), "NO_PROXY=*", "no_proxy=*") }

// tail is the end of a log.
func tail(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-20):], "\n  ")
}

// inside is a command that the caller starts, in namespaces that files stand for. It ends with the cluster, at the latest.
func (c *Cluster) inside(ctx context.Context, namespaces []string, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", slices.Concat(namespaces, []string{"--", name}, args)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(c.cgroup.Fd())}
	return cmd
}
