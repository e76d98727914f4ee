package main

import (
	"flag"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tierwall/tierwall/controllers/store"
)

// Who sits at a terminal is asked there, and what he typed before he was asked is no answer; nobody else is.
func TestConfirmAsks(t *testing.T) {
	trial := &trying{Trial: store.NewTrial("me", time.Minute)}
	for typed, keep := range map[string]bool{"\n": true, "yes\n": true, "no\n": false, "what?\n": false} {
		master, file := openTerminal(t)
		if _, err := master.WriteString("no\nyes\n"); err != nil {
			t.Fatal(err)
		}
		answer, how := trial.ask(cli.NewContext(&cli.App{Reader: file}, flag.NewFlagSet("", 0), nil))
		if answer == nil || !strings.HasPrefix(how, "press Enter to keep it") {
			t.Fatalf("nobody is asked: %s", how)
		}
		if _, err := master.WriteString(typed); err != nil {
			t.Fatal(err)
		}
		if got := <-answer; got != keep {
			t.Errorf("%q: %v", typed, got)
		}
		file.Close()
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, in := range []io.Reader{null, strings.NewReader("\n")} {
		if answer, how := trial.ask(cli.NewContext(&cli.App{Reader: in}, flag.NewFlagSet("", 0), nil)); answer != nil || how != "confirm it by tierctl confirm "+trial.ID {
			t.Errorf("who sits at no terminal is asked: %s", how)
		}
	}
}

// The session is this command's, or that of a process that it descends from.
func TestSSHConnection(t *testing.T) {
	for text, want := range map[string]string{
		"198.51.100.9 40000 192.0.2.1 22":          "198.51.100.9:40000 192.0.2.1:22",
		"2001:db8::9 40000 2001:db8::1 22":         "[2001:db8::9]:40000 [2001:db8::1]:22",
		"::ffff:198.51.100.9 1 ::ffff:192.0.2.1 2": "198.51.100.9:1 192.0.2.1:2",
		"198.51.100.9 40000 192.0.2.1":             "",
		"a b c d":                                  "",
		"198.51.100.9 400000 192.0.2.1 22":         "",
	} {
		client, server, ok := sshConnection(text)
		if got := client.String() + " " + server.String(); ok != (want != "") || ok && got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
	t.Setenv("SSH_CONNECTION", "198.51.100.9 40000 192.0.2.1 22")
	if client, _ := sshSession(); client != netip.MustParseAddrPort("198.51.100.9:40000") {
		t.Errorf("the session is %s", client)
	}
	if got := parent(os.Getpid()); got != os.Getppid() {
		t.Errorf("the parent is %d, and not %d", got, os.Getppid())
	}
}

// An API server's address says its port, or its scheme does.
func TestHostPort(t *testing.T) {
	for address, want := range map[string]string{"https://192.0.2.1": "192.0.2.1:443", "http://[2001:db8::1]": "[2001:db8::1]:80", "https://api:6443/x": "api:6443", "nonsense": ""} {
		if got := hostPort(address); got != want {
			t.Errorf("%s: %q", address, got)
		}
	}
}
