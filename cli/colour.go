package main

import (
	"crypto/rand"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// colour of a word on a terminal, as ECMA-48 numbers them.
type colour string

const (
	plain  colour = ""
	normal colour = "39" // as wide as the others: where one cell of a column is painted, all are, for a tabwriter counts what nobody sees
	bold   colour = "1"
	faint  colour = "2"
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
)

const escape = '\x1b'

// ours is what an escape of ours has behind it on its way to printable, which takes it away: no object can know it.
var ours = sync.OnceValue(func() []byte { return []byte(rand.Text()) })

// paint gives text in a colour where w has colours, and plain elsewhere. Painted text is wider than it looks: pad it first, or paint all of its column.
func paint(w io.Writer, k colour, text string) string {
	if p, ok := w.(*printable); !ok || !p.colours || k == plain {
		return text
	}
	begin := string(escape) + string(ours()) + "["
	return begin + string(k) + "m" + text + begin + "0m"
}

// paintVerdict gives an action, padded or not, in its own colour.
func paintVerdict(w io.Writer, action string) string {
	return paint(w, map[string]colour{"Allow": green, "Deny": red}[strings.TrimSpace(action)], action)
}

// colourFlag is of the whole program. It decides before any command runs; coloured has decided for what is said until then.
func colourFlag() cli.Flag {
	return &cli.StringFlag{Name: "color", Value: "auto", Usage: "`WHEN` words are coloured: always, never, or auto, on a terminal where neither NO_COLOR " +
		"nor TERM=dumb is set, or where CLICOLOR_FORCE is",
		Action: func(c *cli.Context, when string) error {
			for _, w := range []io.Writer{c.App.Writer, c.App.ErrWriter} {
				p, ok := w.(*printable)
				switch {
				case when != "always" && when != "never" && when != "auto":
					return usagef("--color %q is none of auto, always and never", when)
				case ok && when != "auto":
					p.colours = when == "always"
				}
			}
			return nil
		}}
}

// coloured tells whether w has colours when no flag says so.
func coloured(w io.Writer) bool {
	switch force := os.Getenv("CLICOLOR_FORCE"); {
	case os.Getenv("NO_COLOR") != "":
		return false
	case force != "" && force != "0":
		return true
	}
	return os.Getenv("TERM") != "dumb" && isTerminal(w)
}

// isTerminal tells whether somebody looks at what is written.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
