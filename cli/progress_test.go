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
