package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

// roles are what the test's own program plays when a test starts it as another.
var roles = map[string]func(){
	"agent": func() { // that programs revisions 3 and 12, and ends when it is asked
		fmt.Fprintln(os.Stderr, "no JSON, but\n"+`{"msg":"programmed","revision":"none"}`)
		fmt.Fprintln(os.Stderr, `{"msg":"`+strings.Repeat("long ", 50_000)+`"}`)
		fmt.Fprintln(os.Stderr, `{"msg":"programmed","revision":"3"}`+"\n"+`{"msg":"watching","revision":"99"}`+"\n"+`{"msg":"programmed","revision":"12","changes":4}`)
		waitForEnd()
	},
	"broken agent": func() {
		fmt.Fprintln(os.Stderr, `{"msg":"programmed","revision":"12"}`+"\nno more")
		os.Exit(1)
	},
	"cleaner": func() { // that has to clean up when it ends
		end := make(chan os.Signal, 1)
		signal.Notify(end, syscall.SIGTERM)
		fmt.Println("ready")
		fmt.Println("cleaned up after", <-end)
		os.Exit(7)
	},
}

func waitForEnd() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
}

func withAgents(t *testing.T, role string) *Lab {
	needNamespaces(t)
	t.Setenv("LAB_TEST_ROLE", role)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := built(t, small)
	if err := l.StartAgents(Tierctl{Path: self, Datastore: "bolt:none"}); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestWaitFor(t *testing.T) {
	l := withAgents(t, "agent")
	for _, c := range []struct{ revision, want string }{
		{"3", ""}, {"12", ""}, {"13", "has programmed revision 12, not 13"}, {"many", "is no number"},
	} {
		patience := time.Minute
		if c.revision == "13" {
			patience = 100 * time.Millisecond
		}
		ctx, stop := context.WithTimeout(t.Context(), patience)
		err := l.WaitFor(ctx, c.revision)
		stop()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("revision %s: %v, want %q", c.revision, err, c.want)
		}
	}
	if n := len(l.agents); n != len(small.Nodes) {
		t.Errorf("%d agents", n)
	}
	agents := l.agents
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for _, a := range agents {
		if err := a.cmd.Process.Signal(syscall.Signal(0)); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("the agent of %s lives on: %v", a.node, err)
		}
	}
}

// An agent that ends is no agent, whatever it had programmed before; its log is shown.
func TestWaitForTheDead(t *testing.T) {
	l := withAgents(t, "broken agent")
	for _, a := range l.agents {
		a.waitEnded(t)
	}
	err := l.WaitFor(t.Context(), "12")
	if err == nil || !strings.Contains(err.Error(), "the agent of node n1 has ended") || !strings.Contains(err.Error(), "no more") {
		t.Error(err)
	}
}

func (a *agent) waitEnded(t *testing.T) {
	for {
		a.mu.Lock()
		ended, changed := a.ended, a.changed
		a.mu.Unlock()
		if ended {
			return
		}
		select {
		case <-changed:
		case <-time.After(time.Minute):
			t.Fatalf("the agent of %s does not end", a.node)
		}
	}
}

func TestAgentsThatCannotStart(t *testing.T) {
	needNamespaces(t)
	l := built(t, small)
	if err := l.StartAgents(Tierctl{Path: "/nonexistent/tierctl"}); err == nil || !strings.Contains(err.Error(), "agent of node n1") {
		t.Error(err)
	}
	l.nodes["n1"].fd.Close()
	if err := l.StartAgents(Tierctl{Path: "/bin/true"}); err == nil || !strings.Contains(err.Error(), "entering namespace node n1") {
		t.Error(err)
	}
}

// Who ends the outer process of two ends the inner one, which cleans up first.
func TestSignalsAreRelayed(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	read, write := io.Pipe()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "LAB_TEST_ROLE=cleaner")
	cmd.Stdout = write
	ended := make(chan error, 1)
	go func() {
		ended <- runRelaying(cmd)
		write.Close()
	}()
	if _, err := io.ReadFull(read, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(read)
	if err != nil || string(said) != "cleaned up after terminated\n" {
		t.Errorf("%q, %v", said, err)
	}
	var exit *exec.ExitError
	if err := <-ended; !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("it ended with %v", err)
	}
}
