package draw_test

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/tierwall/tierwall/cli/draw"
)

func TestFilterInTheBrowser(t *testing.T) {
	b := open(t, small(), "The shop", "")
	b.want("title", `document.title + "|" + document.querySelector("h1").textContent`, "The shop|The shop")
	b.want("all counts", counts, "21 8 35")
	b.want("summary", `document.getElementById("count").textContent`, "8 sources × 8 destinations")

	b.fill("from", "SHOP -front")
	b.want("sources by words", sources, "shop/api, shop/db")
	b.want("hash of words", hash, "#from=SHOP+-front")
	b.click("#swap")
	b.want("swapped", sources+`+"|"+`+destinations, "dev/toolbox, dns/coredns-a and 1 more, shop/api, shop/db, shop/front and 2 more, node-1, 0.0.0.0/0 but 2 networks, "+
		"203.0.113.0/28|shop/api, shop/db")
	b.click("#clear")
	b.until(`location.hash === ""`)
	b.want("cleared", counts, "21 8 35")

	b.fill("from", "8.0.0.0/7")
	b.want("by a network", sources, "0.0.0.0/0 but 2 networks")
	b.fill("from", "coredns-b")
	b.want("by a member", sources, "dns/coredns-a and 1 more")
	b.fill("from", "no such end")
	b.want("nothing is left", `document.querySelector(".empty").textContent`, "No cell is left by this filter.")
	b.fill("from", "")
	b.eval(`{ const s = document.getElementById("from-ns"); s.value = "shop"; s.dispatchEvent(new Event("input", {bubbles: true})); }`)
	b.eval(`{ const s = document.getElementById("to-kind"); s.value = "host"; s.dispatchEvent(new Event("input", {bubbles: true})); }`)
	b.want("by namespace and kind", sources+`+"|"+`+destinations, "shop/api, shop/db, shop/front and 2 more|node-1")
}

func TestShowInTheBrowser(t *testing.T) {
	b := open(t, small(), "The shop", "")
	for _, c := range []struct{ show, port, sources, destinations, counts string }{
		{"some", "", "dns/coredns-a and 1 more, shop/api, shop/front and 2 more, 0.0.0.0/0 but 2 networks, 203.0.113.0/28",
			"dns/coredns-a and 1 more, shop/api, shop/db, shop/front and 2 more, node-1, 0.0.0.0/0 but 2 networks", "21 8 35"},
		{"all", "tcp 443", "dev/toolbox, dns/coredns-a and 1 more, shop/api, shop/db, shop/front and 2 more, node-1, 0.0.0.0/0 but 2 networks, 203.0.113.0/28", "", "23 0 41"},
		{"some", "udp", "dns/coredns-a and 1 more, shop/api, shop/front and 2 more", "dns/coredns-a and 1 more, shop/api, node-1", "21 4 39"},
		{"all", "udp 5007", "", "", "22 0 42"},
		{"all", "5432", "", "", "22 0 42"},
		{"none", "icmp", "", "", "21 0 43"},
	} {
		b.fill("port", c.port)
		b.click(`input[value="` + c.show + `"] + span`)
		b.want(c.show+" of "+c.port+": counts", counts, c.counts)
		if c.sources != "" {
			b.want(c.show+" of "+c.port+": sources", sources, c.sources)
		}
		if c.destinations != "" {
			b.want(c.show+" of "+c.port+": destinations", destinations, c.destinations)
		}
		b.want("cells of another kind are pale", `[...document.querySelectorAll(".cell:not(.away)")].every(e => e.classList.contains("`+c.show+`"))`, "true")
	}
}

func TestCellInTheBrowser(t *testing.T) {
	b := open(t, small(), "The shop", "")
	b.contains("before", why, "A row is a source")
	b.click(`[aria-label="shop/api to shop/db: TCP 5432"]`)
	b.want("looked at", lookedAt, "shop/api to shop/db: TCP 5432")
	for _, part := range []string{"shop/api to shop/db", "Some passes", "TCP 5432", "shop/rules (NetworkPolicy): rule 0 allows TCP 5432", "The other way: none", "Pod/shop/db"} {
		b.contains("why", why, part)
	}
	b.want("hash", hash, "#source=shop%2Fapi&destination=shop%2Fdb")
	b.click("#why button")
	b.want("the other way", lookedAt, "shop/db to shop/api: none")
	b.contains("the other way", why, "Nothing passes")
	b.click(`.source[title="node-1"]`)
	b.contains("an end", why, "everything with 8, something with 0, nothing with 0")
}

func TestKeysInTheBrowser(t *testing.T) {
	b := open(t, small(), "The shop", "")
	b.press("/")
	b.want("slash", `document.activeElement.id`, "from")
	b.fill("from", "")
	b.run(chromedp.Focus(chromedp.CSS("#grid")))
	for _, c := range []struct{ key, want string }{
		{kb.ArrowDown, "dev/toolbox to dev/toolbox: all"},
		{kb.ArrowRight, "dev/toolbox to dns/coredns-a and 1 more: all"},
		{kb.ArrowDown, "dns/coredns-a and 1 more to dns/coredns-a and 1 more: none"},
		{kb.End, "dns/coredns-a and 1 more to 203.0.113.0/28: none"},
		{kb.ArrowRight, "dns/coredns-a and 1 more to 203.0.113.0/28: none"},
		{kb.PageDown, "203.0.113.0/28 to 203.0.113.0/28: none"},
		{kb.Home, "203.0.113.0/28 to dev/toolbox: all"},
		{kb.ArrowUp, "0.0.0.0/0 but 2 networks to dev/toolbox: all"},
	} {
		b.press(c.key)
		b.want("key", lookedAt, c.want)
		b.want("the grid says which", `document.getElementById(document.getElementById("grid").getAttribute("aria-activedescendant")).getAttribute("aria-label")`, c.want)
	}
	b.press(kb.Escape)
	b.want("let go", lookedAt+`+location.hash`, "nothing")
}

func TestHashInTheBrowser(t *testing.T) {
	b := open(t, small(), "The shop", hashOf("from", "shop", "to-ns", "shop", "port", "tcp 5432", "show", "all", "source", "shop/api", "destination", "shop/db"))
	b.want("sources", sources+`+"|"+`+destinations, "shop/api|shop/db")
	b.want("looked at", lookedAt, "shop/api to shop/db: TCP 5432")
	b.contains("judged", why, "Everything passes of tcp 5432")
	b.eval(`location.hash = "#to=front"`)
	b.until(`document.querySelectorAll(".column").length === 1`)
	b.want("another hash", destinations+`+document.getElementById("from").value`, "shop/front and 2 more")
}

// Whoever names objects says nothing to the browser, and the console is as empty as with others.
func TestHostileNamesInTheBrowser(t *testing.T) {
	b := open(t, evil(), hostile, "")
	b.want("script", `document.querySelectorAll("script").length + " " + document.querySelectorAll("img").length`, "2 0")
	if have := b.eval(`document.title`); strings.Contains(have, "owned") && !strings.Contains(have, "<script>") {
		t.Errorf("a name has set the title: %q", have)
	}
	b.click(`.line:nth-child(2) .cell`)
	b.contains("shown as it is", `document.getElementById("why").textContent`, "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>")
	b.want("nothing was made of it", `document.querySelectorAll("main script, main img").length`, "0")
}

// The page's own policy holds: a script that stands in it is not run, and nothing is loaded.
func TestPolicyInTheBrowser(t *testing.T) {
	var text bytes.Buffer
	if err := draw.HTML(&text, small(), "The shop"); err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/matrix.html"
	if err := os.WriteFile(path, []byte(strings.Replace(text.String(), "</body>", "<script>document.title = 'owned'</script></body>", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	b := openFile(t, path, "")
	b.want("title", `document.title`, "The shop")
	b.want("fetch", `fetch("file:///etc/hostname").then(() => "loaded", () => "refused")`, "map[]")
	b.until(`true`)
	b.mu.Lock()
	if len(b.complaints) < 1 || !strings.Contains(strings.Join(b.complaints, "\n"), "Content Security Policy") {
		t.Errorf("no complaint of the page's policy: %q", b.complaints)
	}
	b.complaints, b.asked = nil, b.asked[:1]
	b.mu.Unlock()
}

func TestThousandEndsInTheBrowser(t *testing.T) {
	for _, n := range []int{200, 1000} {
		var size counter
		m := big(n)
		if err := draw.HTML(&size, m, "Many"); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		b := open(t, m, "Many", "")
		took := time.Since(begin)
		elements := b.eval(`document.querySelectorAll("#sheet *").length`)
		scripted := b.eval(`Math.round(performance.getEntriesByType("navigation")[0].domComplete)`)
		filtered := b.eval(`{ const t = performance.now(); const p = document.getElementById("port"); p.value = "tcp 443"; p.dispatchEvent(new Event("input", {bubbles: true})); Math.round(performance.now() - t) }`)
		t.Logf("%d ends: %d bytes, opened in %v (%s ms by the page's own clock), filtered in %s ms, %s elements", n, size, took, scripted, filtered, elements)
		if size > 8<<20 || took > 30*time.Second {
			t.Errorf("%d ends are %d bytes and took %v", n, size, took)
		}
		b.run(chromedp.Focus(chromedp.CSS("#grid")), chromedp.KeyEvent(kb.End, chromedp.KeyModifiers(kb.ModifierCtrl)))
		last := m.Ends[n-1].About
		b.contains("the last cell", lookedAt, last+" to "+last)
		b.contains("the last row is on the screen", sources, last)
		b.want("its heading stays", `(() => { const g = document.getElementById("grid").getBoundingClientRect(), h = document.querySelector(".head").getBoundingClientRect(),
			s = document.querySelector(".source").getBoundingClientRect(); return [Math.round(h.top - g.top), Math.round(s.left - g.left)].join() })()`, "1,1")
	}
}

func TestLightAndDarkInTheBrowser(t *testing.T) {
	b := open(t, small(), "The shop", "")
	scheme := func(name string) {
		call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}})
	}
	// contrast of the least legible text against what is behind it, as WCAG counts it
	const contrast = `(() => {
		const rgb = c => c.match(/[\d.]+/g).map(Number), lum = c => { const [r, g, b] = rgb(c).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
			return .2126 * r + .7152 * g + .0722 * b };
		const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if ((rgb(c)[3] ?? 1) === 1) return c } return "rgb(255,255,255)" };
		let least = 21;
		for (const e of document.querySelectorAll("h1, p, legend, li, button, .source span, .column span, .cell span, .mark:not(.none), kbd")) {
			if (!e.textContent && !e.matches(".mark") || e.closest("noscript, #many")) continue;
			const a = lum(getComputedStyle(e).color), b = lum(behind(e.matches(".mark") ? e.parentElement : e));
			least = Math.min(least, (Math.max(a, b) + .05) / (Math.min(a, b) + .05));
		}
		return least >= 4.5 ? "legible" : least;
	})()`
	paper := map[string]string{}
	for _, name := range []string{"light", "dark"} {
		scheme(name)
		paper[name] = b.eval(`getComputedStyle(document.body).backgroundColor`)
		b.want(name, contrast, "legible")
	}
	if paper["light"] == paper["dark"] {
		t.Errorf("dark is as light: %v", paper)
	}
	b.want("marks differ without colour", `new Set(["all", "some", "none"].map(n => { const s = getComputedStyle(document.querySelector(".cell .mark." + n));
		return [s.borderRadius, s.backgroundImage.replace(/rgba?\([^)]*\)/g, ""), s.backgroundColor === s.color].join() })).size`, "3")
}

// On paper there is the whole table, and no filter.
func TestPrintInTheBrowser(t *testing.T) {
	b := open(t, big(60), "Many", "")
	paper, err := chromedp.Run(b.ctx, chromedp.PrintToPDF(chromedp.PDFLandscape(), chromedp.PDFPrintBackground()))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(paper, []byte("%PDF")) {
		t.Errorf("no PDF: %.20q", paper)
	}
	b.eval(`dispatchEvent(new Event("beforeprint"))`)
	b.want("cells", `document.querySelectorAll(".cell").length`, "3600")
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: "print"})
	b.want("filter", `getComputedStyle(document.getElementById("filter")).display`, "none")
}

// counter counts what is written.
type counter int

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }
