package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tierwall/tierwall/controllers/store"
)

// worked is what a command says whose 20 steps take 100 ms each, and which warns in the middle and fails at the end.
func worked(t *testing.T, errs io.Writer, how string) {
	synctest.Test(t, func(t *testing.T) {
		app := newApp(nil, io.Discard, errs)
		app.Commands = []*cli.Command{{Name: "work", Action: func(c *cli.Context) error {
			w := progress(c, "working", 20)
			defer w.end()
			for i := range 20 {
				time.Sleep(100 * time.Millisecond)
				if w.step(); i == 9 {
					fmt.Fprintln(errs, "warning: half is done")
				}
			}
			return nil
		}}}
		if err := app.Run([]string{"tierctl", "--progress", how, "work"}); err != nil {
			t.Error(err)
		}
	})
}

func TestProgress(t *testing.T) {
	for how, want := range map[string]string{
		"auto":  "warning: half is done\n", // not a terminal
		"none":  "warning: half is done\n",
		"plain": "working: 20\nwarning: half is done\nworking: 20 of 20 in 2s\n",
		"json": `{"doing":"working","done":0,"end":false,"of":20}
{"doing":"working","done":10,"end":false,"of":20}
warning: half is done
{"doing":"working","done":20,"end":false,"of":20}
{"doing":"working","done":20,"end":true,"of":20}
`,
	} {
		var errs bytes.Buffer
		if worked(t, &printable{Writer: &errs}, how); errs.String() != want {
			t.Errorf("%s: %q, want %q", how, errs.String(), want)
		}
	}
	if err := newApp(nil, io.Discard, io.Discard).Run([]string{"tierctl", "--progress", "loud", "version"}); statusOf(err) != exitUsage {
		t.Errorf("--progress loud: %v", err)
	}
}

// On a terminal a bar is drawn over the one before, a warning does not stand behind one, and none is left.
func TestBar(t *testing.T) {
	file, screen := terminal(t)
	worked(t, &printable{Writer: file}, "auto")
	text := screen()
	if want := "working [" + strings.Repeat("=", 15) + strings.Repeat(" ", 15) + "] 10/20 1s left"; !strings.Contains(text, want) {
		t.Errorf("%q has no %q", text, want)
	}
	// what a terminal does with it: \r and erase
	left := regexp.MustCompile(`(?m)[^\n]*\r\x1b\[K`).ReplaceAllString(text, "")
	if left != "warning: half is done\n" {
		t.Errorf("on the screen is %q", left)
	}
}

// Who works long says how far it is, and only on standard error.
func TestCommandsShowProgress(t *testing.T) {
	dir := t.TempDir()
	says := func(in, want string, args ...string) string {
		t.Helper()
		var out, errs strings.Builder
		status := run(t.Context(), append([]string{"--progress", "plain", "--datastore", "bolt:" + dir + "/store.db"}, args...), strings.NewReader(in), &out, &errs)
		if !strings.Contains(errs.String(), "\n"+want+" in ") || strings.Contains(out.String(), want) {
			t.Errorf("%v: exit status %d: %q has no %q", args, status, errs.String(), want)
		}
		return out.String()
	}
	policy := strings.ReplaceAll(gnpNamed, "%", "a")
	says(policy, "apply: 1 of 1", "apply", "-f", "-")
	says(policy, "comparing: 4 of 4", "matrix")
	says(policy, "comparing: 4 of 4", "what-if", "-f", "-")
	run(t.Context(), []string{"datastore", "migrate", "lock", "--datastore", "bolt:" + dir + "/store.db"}, nil, io.Discard, io.Discard)
	kinds := len(store.Kinds())
	all := says("", fmt.Sprintf("exporting kinds: %d of %d", kinds, kinds), "datastore", "migrate", "export")
	n := strings.Count(all, "---\n")
	dir = t.TempDir()
	says(all, fmt.Sprintf("importing: %d of %d", n, n), "datastore", "migrate", "import", "-f", "-")
}

// On a terminal, of a real command: nothing of it is left when it has ended.
func TestBarOfACommand(t *testing.T) {
	var many strings.Builder
	for i := range 3000 {
		many.WriteString("---\n" + strings.ReplaceAll(gnpNamed, "%", fmt.Sprintf("a%d", i)))
	}
	file, screen := terminal(t)
	status := run(t.Context(), []string{"apply", "-f", "-", "--datastore", "bolt:" + t.TempDir() + "/store.db"}, strings.NewReader(many.String()), io.Discard, file)
	text := screen()
	left := regexp.MustCompile(`(?m)[^\n]*\r\x1b\[K`).ReplaceAllString(text, "")
	if status != exitOK || !strings.Contains(text, "/3000 ") || strings.Contains(left, "/3000") {
		t.Errorf("exit status %d: %q; at the end %q", status, text, left)
	}
}
