package draw_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/tierwall/tierwall/cli/draw"
	"github.com/tierwall/tierwall/dataplane/reach"
)

// browser is a chromium that all tests of a run share. Where there is none a test is left out, or fails where CI=true.
var browser = sync.OnceValues(func() (context.Context, error) {
	if _, err := exec.LookPath("chromium"); err != nil {
		return nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.WindowSize(1360, 800))
	allocator, _ := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	closeBrowser = cancel
	return ctx, chromedp.Do(ctx)
})

var closeBrowser = func() {}

func TestMain(m *testing.M) {
	status := m.Run()
	closeBrowser()
	os.Exit(status)
}

// tab is a page in the browser, with what it complained of and what it asked the network for.
type tab struct {
	*testing.T
	ctx        context.Context
	mu         sync.Mutex
	complaints []string
	asked      []string
}

// open a matrix's page at a hash.
func open(t *testing.T, m *reach.Matrix, title, hash string) *tab {
	t.Helper()
	path := filepath.Join(t.TempDir(), "matrix.html")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := draw.HTML(f, m, title); err != nil {
		t.Fatal(err)
	}
	return openFile(t, path, hash)
}

func openFile(t *testing.T, path, hash string) *tab {
	t.Helper()
	shared, err := browser()
	switch {
	case errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") != "true":
		t.Skipf("left out, for there is no browser here: %v", err)
	case err != nil:
		t.Fatal(err)
	}
	ctx, cancel := chromedp.NewContext(shared)
	t.Cleanup(cancel)
	b := &tab{T: t, ctx: ctx}
	b.run() // which makes the tab
	ctx, cancel = context.WithTimeout(ctx, time.Minute)
	t.Cleanup(cancel)
	b.ctx = ctx
	if err := chromedp.Listen(ctx, b.listen); err != nil {
		t.Fatal(err)
	}
	call(b, network.Enable, network.EnableParams{})
	b.run(chromedp.EmulateViewport(1360, 800), chromedp.Navigate("file://"+path+hash))
	t.Cleanup(b.quiet)
	return b
}

func (b *tab) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, fmt.Sprint("exception: ", e.ExceptionDetails.Text, " ", e.ExceptionDetails.Exception.Description))
	case *runtime.EventConsoleAPICalled:
		b.complaints = append(b.complaints, fmt.Sprint("console: ", e.Type))
	case *log.EventEntryAdded:
		b.complaints = append(b.complaints, e.Entry.Text)
	case *network.EventRequestWillBeSent:
		b.asked = append(b.asked, e.Request.URL)
	}
}

// quiet is what a page must have been: nothing asked for but itself, and nothing in its console.
func (b *tab) quiet() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.complaints) > 0 {
		b.Errorf("in the console: %q", b.complaints)
	}
	if len(b.asked) != 1 {
		b.Errorf("it loaded %d things, and is one file: %.200q", len(b.asked), b.asked)
	}
}

func (b *tab) run(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.Fatal(err)
	}
}

// call a command of the protocol.
func call[P, R any](b *tab, command cdp.Command[P, R], params P) R {
	b.Helper()
	out, err := chromedp.Call(b.ctx, command, params)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

// eval gives what a script gives, as text.
func (b *tab) eval(script string) string {
	b.Helper()
	out, err := chromedp.Run(b.ctx, chromedp.Evaluate[any](script))
	if err != nil {
		b.Fatalf("%s: %v", script, err)
	}
	return fmt.Sprint(out)
}

// until a script gives true.
func (b *tab) until(script string) {
	b.Helper()
	if _, err := chromedp.Run(b.ctx, chromedp.Poll[bool](script)); err != nil {
		b.Fatalf("%s: %v", script, err)
	}
}

func (b *tab) want(what, script, want string) {
	b.Helper()
	if have := b.eval(script); have != want {
		b.Errorf("%s: %q, want %q", what, have, want)
	}
}

func (b *tab) contains(what, script, want string) {
	b.Helper()
	if have := b.eval(script); !strings.Contains(have, want) {
		b.Errorf("%s: %q, want %q in it", what, have, want)
	}
}

// fill a field of the filter as a person does.
func (b *tab) fill(id, text string) {
	b.Helper()
	b.eval(fmt.Sprintf(`document.getElementById(%q).focus(); document.getElementById(%[1]q).select()`, id))
	b.press(kb.Backspace, text)
}

func (b *tab) press(keys ...string) {
	b.Helper()
	for _, k := range keys {
		b.run(chromedp.KeyEvent(k))
	}
}

// click what a CSS selector finds first.
func (b *tab) click(selector string) {
	b.Helper()
	b.run(chromedp.Click(chromedp.CSS(selector)))
}

// Scripts that look at the page.
const (
	sources      = `[...document.querySelectorAll(".source")].map(e => e.textContent).join(", ")`
	destinations = `[...document.querySelectorAll(".column")].map(e => e.textContent).join(", ")`
	counts       = `["all", "some", "none"].map(n => document.getElementById("count-" + n).textContent).join(" ")`
	lookedAt     = `document.querySelector(".cell.at")?.getAttribute("aria-label") ?? "nothing"`
	why          = `document.getElementById("why").innerText`
	hash         = `location.hash`
)

func hashOf(pairs ...string) string {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return "#" + v.Encode()
}
