package draw

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tierwall/tierwall/dataplane/reach"
)

// svgStyle is what the SVG pictures share: dark where the reader's page is.
const svgStyle = `
svg { --paper: #fff; --ink: #1a1f27; --faint: #5c6673; --line: #e1e5ea; --strong: #b8c0ca; --box: #f6f7f9;
  --all: #1b5fc1; --all-tint: #dde9fb; --some: #9a5b00; --some-tint: #fdeecf; --none: #8b95a1; background: var(--paper); }
@media (prefers-color-scheme: dark) { svg { --paper: #171c23; --ink: #e4e8ee; --faint: #98a3b1; --line: #262d37; --strong: #465160; --box: #1d232c;
  --all: #7fb2ff; --all-tint: #1b2f4d; --some: #f2b64c; --some-tint: #3d2e11; --none: #66717e; } }
text { font: 13px system-ui, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; fill: var(--ink); }
text.title { font-size: 18px; font-weight: 650; }
text.faint { fill: var(--faint); font-size: 12px; }
text.conns { font: 11px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: var(--some); }
.paper { fill: var(--paper); }
.line { stroke: var(--line); fill: none; }
.strong { stroke: var(--strong); fill: none; }
`

// svg writes a picture's parts.
type svg struct{ *bufio.Writer }

func (s svg) open(width, height int, title, style string) {
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" role="img">`+"\n", width, height)
	fmt.Fprintf(s, "<title>%s</title>\n<style>%s%s</style>\n", xmlText(title), svgStyle, style)
	fmt.Fprintf(s, `<rect class="paper" width="%d" height="%d"/>`+"\n", width, height)
}

func (s svg) text(x, y int, class, text string) {
	fmt.Fprintf(s, `<text x="%d" y="%d" class="%s">%s</text>`+"\n", x, y, class, xmlText(text))
}

func (s svg) close() error {
	fmt.Fprintln(s, "</svg>")
	if err := s.Flush(); err != nil {
		return fmt.Errorf("writing the picture: %w", err)
	}
	return nil
}

// xmlText is text as XML may hold it: what XML has no way to say, and what would turn the direction of the text around it, is shown as �.
func xmlText(text string) string { return xmlEscapes.Replace(plain(text)) }

var xmlEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#39;")

// plain text is one line that every reader shows as it is.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '�'
		}
		return r
	}, text)
}

// short is text of so many characters at most.
func short(text string, most int) string {
	r := []rune(text)
	if len(r) <= most {
		return text
	}
	return string(r[:most-1]) + "…"
}

// width of text in pixels, about: a reader's font is not known here.
func width(text string) int { return utf8.RuneCountInString(text)*72/10 + 1 }

// sheet is where things stand in the picture of a matrix.
type sheet struct {
	*reach.Matrix
	wide                     bool // cells have room for text
	left, top, w, h, measure int
}

// mostWide is how many ends a matrix may have whose cells say in words what passes.
const mostWide = 14

// SVG writes the matrix as a picture. With few ends each cell says what passes; with many it shows whether all, some or nothing does, and a reader that
// can says the rest when it is pointed at.
func SVG(w io.Writer, m *reach.Matrix, title string) error {
	s := sheet{Matrix: m, wide: len(m.Ends) <= mostWide, w: 18, h: 18, measure: 120}
	for i := range m.Ends {
		s.measure = max(s.measure, min(width(short(m.Ends[i].About, 44)), 320))
	}
	if s.wide {
		s.w, s.h = 118, 34
	}
	s.left, s.top = 24+s.measure+14, 96+max(s.measure*7/10, 40)
	out := svg{bufio.NewWriter(w)}
	out.open(s.left+s.w*len(m.Ends)+max(24, s.measure*7/10), s.top+s.h*len(m.Ends)+24, title, `
.everything-tint { fill: var(--all-tint); } .some-tint { fill: var(--some-tint); }
.everything { fill: var(--all); } .some { fill: var(--some); } .nothing { stroke: var(--none); stroke-width: 1.6; }
.ring { fill: none; stroke: var(--some); stroke-width: 1.6; }
`)
	out.text(24, 40, "title", short(title, 100))
	s.legend(out)
	for i := range m.Ends {
		s.row(out, i)
	}
	for j := range m.Ends {
		s.heading(out, j)
	}
	return out.close()
}

func (s *sheet) legend(out svg) {
	x := 30
	for _, v := range []verdict{everything, something, nothing} {
		text := v.class() + " passes"
		v.mark(out, x, 64)
		out.text(x+14, 68, "faint", text)
		x += 34 + width(text)
	}
	out.text(x+6, 68, "faint", "rows are sources, columns destinations")
}

// mark draws a verdict around a point.
func (v verdict) mark(b io.Writer, x, y int) {
	switch v {
	case everything:
		fmt.Fprintf(b, `<circle class="everything" cx="%d" cy="%d" r="5.5"/>`, x, y)
	case something:
		fmt.Fprintf(b, `<circle class="ring" cx="%d" cy="%d" r="4.7"/><path class="some" d="M%[1]d %[2]dm0 -4.7a4.7 4.7 0 0 0 0 9.4z"/>`, x, y)
	default:
		fmt.Fprintf(b, `<path class="nothing" d="M%d %dh6"/>`, x-3, y)
	}
}

// mostTold is how many ends a matrix may have whose cells are told apart by what passes, and not only by whether all, some or nothing does.
const mostTold = 200

// row of a source: its name, and runs of equal cells, so that a large matrix is no larger than what it says.
func (s *sheet) row(out svg, i int) {
	y := s.top + i*s.h
	out.text(24, y+s.h/2+4, "", short(s.Ends[i].About, 44))
	fmt.Fprintf(out, `<path class="%s" d="M24 %dH%d"/>`+"\n", s.border(i), y, s.left+s.w*len(s.Ends))
	for j := 0; j < len(s.Ends); {
		n := 1
		for j+n < len(s.Ends) && s.alike(s.Cells[i][j+n], s.Cells[i][j]) {
			n++
		}
		s.run(out, i, j, n)
		j += n
	}
}

func (s *sheet) alike(a, b int) bool {
	return a == b || len(s.Ends) > mostTold && verdictOf(&s.Answers[a]) == verdictOf(&s.Answers[b])
}

func (s *sheet) run(out svg, i, j, n int) {
	a := &s.Answers[s.Cells[i][j]]
	v := verdictOf(a)
	if v == nothing && !s.wide {
		return
	}
	x, y := s.left+j*s.w, s.top+i*s.h
	out.WriteString("<g>")
	if len(s.Ends) <= mostTold {
		to := s.Ends[j].About
		if n > 1 {
			to += fmt.Sprintf(" and %d more to its right", n-1)
		}
		fmt.Fprintf(out, `<title>%s to %s: %s</title>`, xmlText(s.Ends[i].About), xmlText(to), xmlText(a.Conns))
	}
	if v != nothing {
		fmt.Fprintf(out, `<rect class="%s-tint" x="%d" y="%d" width="%d" height="%d"/>`, v.class(), x, y, s.w*n, s.h)
	}
	if s.wide {
		for k := range n {
			s.cell(out, a, v, x+k*s.w, y)
		}
	} else {
		s.narrow(out, v, x, y, n)
	}
	fmt.Fprintln(out, "</g>")
}

// narrow cells of a run: a bar where everything passes, a corner each where some does.
func (s *sheet) narrow(out svg, v verdict, x, y, n int) {
	if v == everything {
		fmt.Fprintf(out, `<rect class="everything" x="%d" y="%d" width="%d" height="%d"/>`, x+4, y+4, s.w*n-8, s.h-8)
		return
	}
	corner := fmt.Sprintf("v%dh-%[1]dz", s.h-8)
	fmt.Fprintf(out, `<path class="some" d="M%d %d%s%s"/>`, x+s.w-4, y+4, corner, strings.Repeat(fmt.Sprintf("m%d 0%s", s.w, corner), n-1))
}

func (s *sheet) cell(out svg, a *reach.Answer, v verdict, x, y int) {
	v.mark(out, x+14, y+s.h/2)
	if v != something {
		return
	}
	parts := strings.SplitN(plain(a.Conns), "; ", 2)
	at := y + s.h/2 + 4
	if len(parts) > 1 {
		at -= 6
	}
	for k, p := range parts {
		out.text(x+25, at+k*13, "conns", short(p, 13))
	}
}

// border above an end is strong where a kind or a namespace begins.
func (s *sheet) border(i int) string {
	if i == 0 || s.Ends[i].Kind != s.Ends[i-1].Kind || s.Ends[i].Namespace != s.Ends[i-1].Namespace {
		return "strong"
	}
	return "line"
}

func (s *sheet) heading(out svg, j int) {
	x := s.left + j*s.w
	bottom := s.top + s.h*len(s.Ends)
	fmt.Fprintf(out, `<path class="%s" d="M%d %dV%d"/>`, s.border(j), x, s.top-6, bottom)
	fmt.Fprintf(out, `<text transform="translate(%d %d) rotate(-45)">%s</text>`+"\n", x+s.w/2+2, s.top-8, xmlText(short(s.Ends[j].About, 44)))
}
