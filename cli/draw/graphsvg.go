package draw

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/dataplane/reach"
)

// Measures of the picture of a graph.
const (
	lineHeight  = 17
	nodePad     = 12
	nodeGap     = 10
	groupPad    = 14
	groupGap    = 26
	columnGap   = 190
	columnTall  = 620 // a column of groups that is taller goes on in the next
	graphTop    = 96
	graphMargin = 24
	mostName    = 52
	crowd       = 2000 // arrows, of which nobody follows one by eye: they go straight and have no label
)

// rect is where something stands.
type rect struct{ x, y, w, h int }

func (r rect) meets(o rect) bool {
	return r.x < o.x+o.w && o.x < r.x+r.w && r.y < o.y+o.h && o.y < r.y+r.h
}

// layout is a graph with a place for everything: columns from the left, each group beyond those that reach it; the outside and hosts first.
type layout struct {
	*graph
	column        []int  // of groups
	boxes         []rect // of groups
	nodes         [][]rect
	width, height int
	ports         map[port]int // arrows that begin or end at each side
	used          map[port]int
	curves        []curve
	taken         []rect // where no label may be
}

// port is a side of a spot.
type port struct {
	spot
	left bool
}

// GraphSVG writes the graph of what may pass as a picture.
func GraphSVG(w io.Writer, m *reach.Matrix, title string) error {
	l := &layout{graph: graphOf(m), ports: map[port]int{}, used: map[port]int{}}
	l.rank()
	l.place()
	l.route()
	out := svg{bufio.NewWriter(w)}
	out.open(l.width, l.height, title, `
.group { fill: var(--box); stroke: var(--line); } .node { fill: var(--paper); stroke: var(--strong); }
.arrow path { fill: none; stroke-width: 1.5; } .arrow.everything path { stroke: var(--all); } .arrow.some path { stroke: var(--some); stroke-dasharray: 5 3; }
.arrow rect { fill: var(--paper); stroke: var(--line); } .arrow.everything text { fill: var(--all); } marker path { fill: context-stroke; }
.arrow:hover path { stroke-width: 3; } .arrow:hover rect { stroke: var(--strong); }
`)
	out.WriteString(`<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="9" markerHeight="9" markerUnits="userSpaceOnUse" orient="auto-start-reverse">` +
		`<path d="M0 0L10 5L0 10z"/></marker></defs>` + "\n")
	out.text(graphMargin, 40, "title", short(title, 100))
	key := "an arrow is what may pass: solid for everything, dashed for what it says"
	if l.note != "" {
		key = l.note
	}
	out.text(graphMargin, 64, "faint", short(key, 160))
	l.draw(out)
	return out.close()
}

// rank puts groups into columns by how many arrows they are from the first.
func (l *layout) rank() {
	l.column = make([]int, len(l.groups))
	first, column := []int{}, 0
	for _, kind := range []reach.EndKind{reach.Outside, reach.Host} {
		for k := range l.groups {
			if l.groups[k].kind == kind {
				l.column[k] = column
				first = append(first, k)
			}
		}
		if len(first) > column {
			column++
		}
	}
	seen := map[int]bool{}
	for _, k := range first {
		seen[k] = true
	}
	for at := column; ; at++ {
		var next []int
		for k := range l.groups {
			if !seen[k] && (at == column && !l.reachedInside(k) || l.reachedFrom(k, seen)) {
				next = append(next, k)
			}
		}
		if len(next) == 0 {
			for k := range l.groups {
				if !seen[k] {
					l.column[k] = at
				}
			}
			return
		}
		for _, k := range next {
			l.column[k], seen[k] = at, true
		}
	}
}

// reachedFrom tells whether an arrow comes from a group that is placed.
func (l *layout) reachedFrom(k int, placed map[int]bool) bool {
	return slices.ContainsFunc(l.arrows, func(a arrow) bool {
		return a.to.group == k && placed[a.from.group] || a.both && a.from.group == k && placed[a.to.group]
	})
}

// reachedInside tells whether an arrow comes from another group of workloads.
func (l *layout) reachedInside(k int) bool {
	return slices.ContainsFunc(l.arrows, func(a arrow) bool {
		return a.to.group == k && a.from.group != k && l.groups[a.from.group].kind == reach.Workload
	})
}

// place gives each group and node its rectangle.
func (l *layout) place() {
	l.boxes, l.nodes = make([]rect, len(l.groups)), make([][]rect, len(l.groups))
	for k := range l.groups {
		l.measure(k)
	}
	x, bottom, gap := graphMargin, graphTop, columnGap
	if len(l.arrows) == 0 {
		gap = groupGap
	}
	for _, column := range l.columns() {
		y, wide := graphTop, 0
		for _, k := range column {
			l.move(k, x, y)
			y += l.boxes[k].h + groupGap
			wide = max(wide, l.boxes[k].w)
		}
		x, bottom = x+wide+gap, max(bottom, y-groupGap)
	}
	l.width, l.height = max(x-gap+gap*3/5+graphMargin, 720), bottom+graphMargin
}

// columns of groups, each no taller than a page, in the order in which their arrows cross least.
func (l *layout) columns() (out [][]int) {
	order := make([]int, len(l.groups))
	for k := range order {
		order[k] = k
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(l.column[a], l.column[b]) })
	rankOf := make([]float64, len(l.groups))
	for len(order) > 0 {
		n := 1
		for n < len(order) && l.column[order[n]] == l.column[order[0]] {
			n++
		}
		column := order[:n]
		order = order[n:]
		want := map[int]float64{}
		for _, k := range column {
			want[k] = l.middle(k, rankOf)
		}
		slices.SortStableFunc(column, func(a, b int) int { return cmp.Compare(want[a], want[b]) })
		tall := 0
		for i, k := range column {
			rankOf[k] = float64(i+1) / float64(n+1)
			if tall == 0 || tall+l.boxes[k].h > columnTall {
				out, tall = append(out, nil), 0
			}
			out[len(out)-1] = append(out[len(out)-1], k)
			tall += l.boxes[k].h + groupGap
		}
	}
	return out
}

// middle of the groups of earlier columns that a group has arrows with.
func (l *layout) middle(k int, rankOf []float64) float64 {
	sum, n := 0.0, 0
	for _, a := range l.arrows {
		for _, pair := range [][2]int{{a.from.group, a.to.group}, {a.to.group, a.from.group}} {
			if pair[0] == k && l.column[pair[1]] < l.column[k] {
				sum, n = sum+rankOf[pair[1]], n+1
			}
		}
	}
	if n == 0 {
		return 1
	}
	return sum / float64(n)
}

// measure a group at the origin: its name and notes, and its nodes one below another.
func (l *layout) measure(k int) {
	g := &l.groups[k]
	wide, y := width(short(g.name, mostName)), groupPad+lineHeight*(1+len(g.notes))
	for _, note := range g.notes {
		wide = max(wide, width(short(note, mostName)))
	}
	for _, n := range g.nodes {
		wide = max(wide, width(short(n.about, mostName))+2*nodePad)
		for _, note := range n.notes {
			wide = max(wide, width(short(note, mostName))+2*nodePad)
		}
		h := lineHeight*(1+len(n.notes)) + nodePad
		l.nodes[k] = append(l.nodes[k], rect{groupPad, y, 0, h})
		y += h + nodeGap
	}
	for i := range l.nodes[k] {
		l.nodes[k][i].w = wide
	}
	l.boxes[k] = rect{0, 0, wide + 2*groupPad, y - nodeGap + groupPad}
}

func (l *layout) move(k, x, y int) {
	l.boxes[k].x, l.boxes[k].y = x, y
	for i := range l.nodes[k] {
		l.nodes[k][i].x += x
		l.nodes[k][i].y += y
	}
}

func (l *layout) rect(s spot) rect {
	if s.node < 0 {
		return l.boxes[s.group]
	}
	return l.nodes[s.group][s.node]
}

// sides by which an arrow leaves and comes: towards each other, and between those one above another both on the right.
func (l *layout) sides(a *arrow) (from, to port) {
	x, y := l.rect(a.from), l.rect(a.to)
	return port{a.from, y.x+y.w < x.x}, port{a.to, x.x+x.w < y.x}
}

func (l *layout) draw(out svg) {
	for _, b := range l.boxes {
		fmt.Fprintf(out, `<rect class="group" rx="9" x="%d" y="%d" width="%d" height="%d"/>`+"\n", b.x, b.y, b.w, b.h)
	}
	for i := range l.arrows {
		l.arrow(out, i)
	}
	for k := range l.groups {
		l.group(out, k)
	}
	for i := range l.arrows {
		if len(l.arrows) <= crowd {
			l.label(out, &l.arrows[i], l.curves[i])
		}
	}
}

// group's nodes, which arrows pass behind.
func (l *layout) group(out svg, k int) {
	b := l.boxes[k]
	l.taken = append(l.taken, rect{b.x, b.y, b.w, groupPad + lineHeight*(1+len(l.groups[k].notes))})
	l.lines(out, b.x+groupPad, b.y+groupPad+6, l.groups[k].name, l.groups[k].notes)
	for i, n := range l.nodes[k] {
		l.taken = append(l.taken, n)
		what := l.groups[k].nodes[i]
		fmt.Fprintf(out, `<g><title>%s</title><rect class="node" rx="6" x="%d" y="%d" width="%d" height="%d"/>`+"\n",
			xmlText(strings.Join(append([]string{what.about}, what.notes...), "; ")), n.x, n.y, n.w, n.h)
		l.lines(out, n.x+nodePad, n.y+nodePad+7, what.about, what.notes)
		fmt.Fprintln(out, "</g>")
	}
}

func (l *layout) lines(out svg, x, y int, name string, notes []string) {
	out.text(x, y, "", short(name, mostName))
	for i, note := range notes {
		out.text(x, y+lineHeight*(i+1), "faint", short(note, mostName))
	}
}

// point on the side of a spot: its arrows share the side.
func (l *layout) point(p port) (x, y int) {
	r := l.rect(p.spot)
	l.used[p]++
	x, y = r.x+r.w, r.y+r.h*l.used[p]/(l.ports[p]+1)
	if p.left {
		x = r.x
	}
	return x, y
}

// route finds a curve for each arrow, from the top down, so that those of one side do not cross there.
func (l *layout) route() {
	slices.SortStableFunc(l.arrows, func(a, b arrow) int {
		return cmp.Or(cmp.Compare(l.rect(a.from).y, l.rect(b.from).y), cmp.Compare(l.rect(a.to).y, l.rect(b.to).y), cmp.Compare(l.rect(a.to).x, l.rect(b.to).x))
	})
	for i := range l.arrows {
		from, to := l.sides(&l.arrows[i])
		l.ports[from]++
		l.ports[to]++
	}
	for i := range l.arrows {
		c := l.curve(&l.arrows[i])
		for t := 0.; t < 1; t += .05 {
			_, y := c.at(t)
			l.height = max(l.height, y+graphMargin)
		}
		l.curves = append(l.curves, c)
	}
}

// curve of an arrow, which goes around nodes that stand between, where a bow is enough for that.
func (l *layout) curve(a *arrow) curve {
	from, to := l.sides(a)
	x0, y0 := l.point(from)
	x3, y3 := l.point(to)
	bend := max(abs(x3-x0)/2, 60)
	if from.left == to.left {
		bend = 70 + abs(y3-y0)/6
	}
	c := curve{x0, y0, x0 + bend, y0, x3 + bend, y3, x3, y3}
	if from.left {
		c.x1 = x0 - bend
	}
	if to.left {
		c.x2 = x3 - bend
	}
	if len(l.arrows) > crowd {
		return c
	}
	for _, bow := range []int{0, 50, -50, 100, -100, 160, 220, 300} {
		d := c
		d.y1, d.y2 = c.y1+bow, c.y2+bow
		if !l.meetsNode(d, a) {
			return d
		}
	}
	return c
}

func (l *layout) meetsNode(c curve, a *arrow) bool {
	for t := .02; t < 1; t += .02 {
		x, y := c.at(t)
		if y < graphTop-20 {
			return true
		}
		for k := range l.nodes {
			for i, n := range l.nodes[k] {
				if k != a.from.group && k != a.to.group && n.meets(rect{x, y - 4, 1, 8}) || n.meets(rect{x, y, 1, 1}) && (spot{k, i}) != a.from && (spot{k, i}) != a.to {
					return true
				}
			}
		}
	}
	return false
}

// arrow is drawn along its curve.
func (l *layout) arrow(out svg, i int) {
	a, c, start := &l.arrows[i], l.curves[i], ""
	if a.both {
		start = ` marker-start="url(#head)"`
	}
	fmt.Fprintf(out, `<g class="arrow %s">%s<path d="M%d %dC%d %d %d %d %d %d" marker-end="url(#head)"%s/></g>`+"\n", verdictOf(a.answer).class(), l.about(a),
		c.x0, c.y0, c.x1, c.y1, c.x2, c.y2, c.x3, c.y3, start)
}

func (l *layout) about(a *arrow) string {
	return fmt.Sprintf("<title>%s to %s: %s</title>", xmlText(l.name(a.from)), xmlText(l.name(a.to)), xmlText(a.answer.Conns))
}

// label of an arrow, somewhere along it where there is nothing yet; where there is no such place who points at the arrow is told.
func (l *layout) label(out svg, a *arrow, c curve) {
	text := short(plain(a.answer.Conns), 28)
	w := len([]rune(text))*66/10 + 13
	for _, t := range []float64{.5, .42, .58, .34, .66, .26, .74, .18, .82} {
		for _, aside := range []int{0, w/2 - 10, 10 - w/2} {
			x, y := c.at(t)
			r := rect{x - w/2 + aside, y - 8, w, 17}
			if slices.ContainsFunc(l.taken, r.meets) {
				continue
			}
			l.taken = append(l.taken, r)
			fmt.Fprintf(out, `<g class="arrow %s">%s<rect rx="5" x="%d" y="%d" width="%d" height="%d"/>`, verdictOf(a.answer).class(), l.about(a), r.x, r.y, r.w, r.h)
			fmt.Fprintf(out, `<text class="conns" x="%d" y="%d">%s</text></g>`+"\n", r.x+6, r.y+12, xmlText(text))
			return
		}
	}
}

func (l *layout) name(s spot) string {
	if s.node < 0 {
		return "all of " + l.groups[s.group].name
	}
	return l.groups[s.group].nodes[s.node].about
}

// curve is Bézier's of four points.
type curve struct{ x0, y0, x1, y1, x2, y2, x3, y3 int }

func (c curve) at(t float64) (x, y int) {
	u := 1 - t
	at := func(a, b, d, e int) int {
		return int(u*u*u*float64(a) + 3*u*u*t*float64(b) + 3*u*t*t*float64(d) + t*t*t*float64(e))
	}
	return at(c.x0, c.x1, c.x2, c.x3), at(c.y0, c.y1, c.y2, c.y3)
}

func abs(n int) int { return max(n, -n) }
