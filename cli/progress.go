package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// progressFlag is of the whole program.
func progressFlag() cli.Flag {
	return &cli.StringFlag{Name: "progress", Value: "auto", Usage: "`HOW` long work says on standard error how far it is: plain, a line when it begins and one when it ends; " +
		"json, an object a line each second; none; or auto, a bar on a terminal and none elsewhere",
		Action: func(_ *cli.Context, how string) error {
			if _, ok := progressKinds[how]; !ok && how != "auto" {
				return usagef("--progress %q is none of auto, plain, json and none", how)
			}
			return nil
		}}
}

// work is what takes long enough to be asked how far it is:
//
//	w := progress(c, "applying", len(objects))
//	defer w.end()
//	for … {
//		…
//		w.step()
//	}
type work struct {
	doing        string
	done, of     int
	begun, shown time.Time
	show         progressKind
	errs         io.Writer
}

// progressKind shows work; end is whether there is no more to come.
type progressKind struct {
	every time.Duration
	show  func(w *work, end bool)
}

var progressKinds = map[string]progressKind{
	"bar":   {100 * time.Millisecond, (*work).bar},
	"plain": {1 << 62, (*work).plain},
	"json":  {time.Second, (*work).json},
	"none":  {1 << 62, func(*work, bool) {}},
}

// progress begins work of so many steps.
func progress(c *cli.Context, doing string, steps int) *work {
	how := c.String("progress")
	if p, ok := c.App.ErrWriter.(*printable); how == "auto" || how == "" {
		how = "none"
		if ok && isTerminal(p.Writer) {
			how = "bar"
		}
	}
	w := &work{doing: doing, of: steps, begun: time.Now(), show: progressKinds[how], errs: c.App.ErrWriter}
	w.shown = w.begun
	if how == "plain" || how == "json" {
		w.show.show(w, false)
	}
	return w
}

// step says that one more is done.
func (w *work) step() {
	w.done++
	if now := time.Now(); now.Sub(w.shown) >= w.show.every {
		w.shown = now
		w.show.show(w, false)
	}
}

// end says that no more will be done. A bar goes away.
func (w *work) end() { w.show.show(w, true) }

func (w *work) plain(end bool) {
	if end {
		fmt.Fprintf(w.errs, "%s: %d of %d in %s\n", w.doing, w.done, w.of, time.Since(w.begun).Round(10*time.Millisecond))
	} else {
		fmt.Fprintf(w.errs, "%s: %d\n", w.doing, w.of)
	}
}

func (w *work) json(end bool) {
	line, _ := json.Marshal(map[string]any{"doing": w.doing, "done": w.done, "of": w.of, "end": end})
	fmt.Fprintf(w.errs, "%s\n", line)
}

const barWidth = 30

// bar draws over the bar before, past printable, which takes it away before anything else is written there.
func (w *work) bar(end bool) {
	p := w.errs.(*printable)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
	if end || w.of == 0 {
		return
	}
	full := min(w.done, w.of) * barWidth / w.of
	left := ""
	if w.done > 0 {
		left = (time.Since(w.begun) * time.Duration(w.of-w.done) / time.Duration(w.done)).Round(time.Second).String() + " left"
	}
	p.bar = true
	fmt.Fprintf(p.Writer, "%s [%s%s] %d/%d %s", shown([]byte(w.doing)), strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), w.done, w.of, left)
}
