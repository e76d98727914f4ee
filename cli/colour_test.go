package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
)

// Who decides on colours, from the first to the last.
func TestColours(t *testing.T) {
	for _, c := range []struct {
		name     string
		args     string
		env      string // NAME=VALUE
		terminal bool
		want     bool
	}{
		{"a terminal", "", "", true, true},
		{"none", "", "", false, false},
		{"NO_COLOR", "", "NO_COLOR=1", true, false},
		{"TERM", "", "TERM=dumb", true, false},
		{"CLICOLOR_FORCE", "", "CLICOLOR_FORCE=1", false, true},
		{"CLICOLOR_FORCE is off", "", "CLICOLOR_FORCE=0", false, false},
		{"always", "--color always", "NO_COLOR=1", false, true},
		{"never", "--color=never", "CLICOLOR_FORCE=1", true, false},
		{"auto", "--color auto", "", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range []string{"NO_COLOR", "CLICOLOR_FORCE"} {
				t.Setenv(name, "")
			}
			t.Setenv("TERM", "xterm")
			if name, value, ok := strings.Cut(c.env, "="); ok {
				t.Setenv(name, value)
			}
			var out bytes.Buffer
			var w io.Writer = &out
			screen := out.String
			if c.terminal {
				w, screen = terminal(t)
			}
			run(t.Context(), append(strings.Fields(c.args), "get", "nonsense"), nil, w, w)
			have := screen()
			if got := strings.HasPrefix(have, "\x1b[31mtierctl:\x1b[0m "); got != c.want || !c.want && strings.Contains(have, "\x1b") {
				t.Errorf("%q", have)
			}
		})
	}
}

// What an object says is not coloured, even if it looks like what paint makes, but for the word that no object can know.
func TestOnlyPaintColours(t *testing.T) {
	var out bytes.Buffer
	w := &printable{Writer: &out, colours: true}
	fmt.Fprintf(w, "%s \x1b[32mAllow\x1b[0m \x1bABCDEFGHIJKLMNOPQRSTUVWXYZ[32mAllow", paint(w, red, "Deny\x1b[32m"))
	want := "\x1b[31mDeny\\x1b[32m\x1b[0m \\x1b[32mAllow\\x1b[0m \\x1bABCDEFGHIJKLMNOPQRSTUVWXYZ[32mAllow"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

var painted = regexp.MustCompile("\x1b\\[[0-9]+m")

// What commands paint is what they say without colours, column below column.
func TestCommandsPaint(t *testing.T) {
	datastore := "bolt:" + t.TempDir() + "/store.db"
	shop, err := os.ReadFile("../config/samples/shop.yaml")
	if err != nil {
		t.Fatal(err)
	}
	applyText(t, datastore, string(shop))
	for args, want := range map[string]string{
		"status":                   "\x1b[31mNot as it should be:\x1b[0m",
		"matrix":                   "\x1b[32mall\x1b[0m",
		"lint --severity error":    "\x1b[39minfo\x1b[0m TW005",
		"lint -o table":            "\x1b[39mSEVERITY\x1b[0m",
		"explain endpoint shop/db": "[0] \x1b[32mAllow\x1b[0m from pods",
		"diff -f new.yaml":         "\x1b[32m+  order: 7\x1b[0m",
		"what-if -f new.yaml":      "\x1b[31mDeny\x1b[0m, was \x1b[32mAllow\x1b[0m",
		"trace --from shop/web --to shop/db --port 22": "\x1b[31mDeny\x1b[0m\n",
	} {
		t.Run(args, func(t *testing.T) {
			words := append(strings.Fields(strings.ReplaceAll(args, "new.yaml", "-")), "--datastore", datastore)
			said := func(when string) string {
				in := strings.NewReader("apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: closed}\nspec: {order: 7, types: [Ingress, Egress]}\n")
				var out strings.Builder
				run(t.Context(), append([]string{"--color", when}, words...), in, &out, io.Discard)
				return out.String()
			}
			have, plainly := said("always"), said("never")
			if !strings.Contains(have, want) {
				t.Errorf("%q has no %q", have, want)
			}
			if painted.ReplaceAllString(have, "") != plainly || strings.Contains(plainly, "\x1b") {
				t.Errorf("with colours:\n%s\nwithout:\n%s", have, plainly)
			}
		})
	}
}
