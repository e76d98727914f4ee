package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// agent is a process of tierctl agent on one node.
type agent struct {
	node string
	cmd  *exec.Cmd

	mu       sync.Mutex
	log      []string      // its last lines
	revision int           // that it has programmed
	changed  chan struct{} // closed and renewed when it has said something, or has ended
	ended    bool
}

// StartAgents runs one agent on each node. args go to each of them.
func (l *Lab) StartAgents(t Tierctl, args ...string) error {
	for _, node := range l.Nodes() {
		cmd := exec.Command(t.Path, append([]string{"agent", "--node", node, "--datastore", t.Datastore, "--verbose"}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		stderr, err := cmd.StderrPipe()
		if err != nil {
			return fmt.Errorf("agent of node %s: %w", node, err)
		}
		a := &agent{node: node, cmd: cmd, changed: make(chan struct{})}
		// Pdeathsig is sent when the thread that started the process ends: that thread must live as long as the lab.
		started := make(chan error, 2) // of which one is read
		go func() {
			started <- l.nodes[node].do(func() error {
				if err := cmd.Start(); err != nil {
					return err
				}
				started <- nil
				a.read(stderr)
				return nil
			})
		}()
		if err := <-started; err != nil {
			return fmt.Errorf("agent of node %s: %w", node, err)
		}
		l.agents = append(l.agents, a)
	}
	return nil
}

// read follows the agent's log until the agent ends.
func (a *agent) read(log io.Reader) {
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 16<<20) // an agent whose log is not read to the end would stand still
	for lines.Scan() {
		var l struct{ Msg, Revision string }
		_ = json.Unmarshal(lines.Bytes(), &l) // a line that is no JSON programs nothing
		if l.Msg == "changed" {
			continue
		}
		a.mu.Lock()
		a.log = append(a.log, lines.Text())
		if len(a.log) > 20 {
			a.log = a.log[1:]
		}
		if n, err := strconv.Atoi(l.Revision); err == nil && (l.Msg == "programmed" || l.Msg == "nothing new") {
			a.revision = n
		}
		close(a.changed)
		a.changed = make(chan struct{})
		a.mu.Unlock()
	}
	_ = a.cmd.Wait()
	a.mu.Lock()
	a.ended = true
	close(a.changed)
	a.changed = make(chan struct{})
	a.mu.Unlock()
}

// WaitFor waits until every agent has programmed a revision of the store.
func (l *Lab) WaitFor(ctx context.Context, revision string) error {
	n, err := strconv.Atoi(revision)
	if err != nil {
		return fmt.Errorf("revision %q is no number", revision)
	}
	for _, a := range l.agents {
		if err := a.waitFor(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// WaitForWords waits until so many agents have said something lately.
func (l *Lab) WaitForWords(ctx context.Context, n int, words string) error {
	var logs []string
	for _, a := range l.agents {
		if n > 0 && a.says(ctx, words) {
			n--
		}
		a.mu.Lock()
		logs = append(logs, a.node+":\n  "+strings.Join(a.log, "\n  "))
		a.mu.Unlock()
	}
	if n > 0 {
		return fmt.Errorf("%d more agents should have said %q; their logs:\n%s", n, words, strings.Join(logs, "\n"))
	}
	return nil
}

// says waits until the agent has said something, or ctx ends.
func (a *agent) says(ctx context.Context, words string) bool {
	for {
		a.mu.Lock()
		changed, log := a.changed, strings.Join(a.log, "\n")
		a.mu.Unlock()
		if strings.Contains(log, words) {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func (a *agent) waitFor(ctx context.Context, revision int) error {
	for {
		a.mu.Lock()
		have, ended, changed, log := a.revision, a.ended, a.changed, strings.Join(a.log, "\n  ")
		a.mu.Unlock()
		switch {
		case ended: // whatever it has programmed: nobody keeps it up to date
			return fmt.Errorf("the agent of node %s has ended; its log:\n  %s", a.node, log)
		case have >= revision:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("the agent of node %s has programmed revision %d, not %d: %w; its log:\n  %s", a.node, have, revision, ctx.Err(), log)
		}
	}
}

// stop asks the agent to end, and makes it end when it does not.
func (a *agent) stop() error {
	_ = a.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	deadline := time.After(5 * time.Second)
	for {
		a.mu.Lock()
		ended, changed := a.ended, a.changed
		a.mu.Unlock()
		if ended {
			return nil
		}
		select {
		case <-changed:
		case <-deadline:
			return a.cmd.Process.Kill()
		}
	}
}
