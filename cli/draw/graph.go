package draw

import (
	"cmp"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/dataplane/reach"
)

// graph is a matrix as nodes and arrows. What is the same for many is said once: an end that all may reach says so itself, and an arrow between
// groups stands for those between their ends. Read together, notes and arrows say neither more nor less than the matrix.
type graph struct {
	groups []group
	arrows []arrow
	note   string // where there is nothing else to say
}

// group of ends: outside, hosts, or a namespace.
type group struct {
	name  string
	kind  reach.EndKind
	nodes []node
	notes []string
}

type node struct {
	end   int
	about string
	notes []string
}

// spot is a node, or with node -1 a whole group.
type spot struct{ group, node int }

type arrow struct {
	from, to spot
	answer   *reach.Answer
	both     bool // the same the other way
}

// graphing is a graph that is being made.
type graphing struct {
	*reach.Matrix
	graph
	spots []spot   // of ends
	drawn [][]bool // which cells are said
}

func graphOf(m *reach.Matrix) *graph {
	g := &graphing{Matrix: m, spots: make([]spot, len(m.Ends))}
	g.group()
	for range m.Ends {
		g.drawn = append(g.drawn, make([]bool, len(m.Ends)))
	}
	for i := range m.Ends {
		for j := range m.Ends { // what is outside on both ends passes by
			g.drawn[i][j] = i == j || g.outside(i) && g.outside(j)
		}
		if a := g.answer(i, i); len(m.Ends[i].Members) > 1 && !a.None {
			g.say(i, "among themselves", a)
		}
	}
	if !g.nothingElse() {
		g.wide()
		g.narrow()
	}
	g.mutual()
	return &g.graph
}

func (g *graphing) answer(i, j int) *reach.Answer { return &g.Answers[g.Cells[i][j]] }

// group ends: the outside, hosts, then namespaces by name; ends of several namespaces last.
func (g *graphing) group() {
	order := make([]int, len(g.Ends))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(groupKey(&g.Ends[a]), groupKey(&g.Ends[b])) })
	key := func(k int) string { return groupKey(&g.Ends[order[k]]) }
	for k, i := range order {
		if k == 0 || key(k) != key(k-1) {
			g.groups = append(g.groups, group{name: groupName(&g.Ends[i]), kind: g.Ends[i].Kind})
		}
		last := &g.groups[len(g.groups)-1]
		g.spots[i] = spot{len(g.groups) - 1, len(last.nodes)}
		last.nodes = append(last.nodes, node{end: i, about: g.Ends[i].About})
	}
}

func groupKey(e *reach.End) string {
	switch {
	case e.Kind == reach.Outside:
		return "0"
	case e.Kind == reach.Host:
		return "1"
	case e.Namespace == "":
		return "3"
	}
	return "2" + e.Namespace
}

func groupName(e *reach.End) string {
	switch {
	case e.Kind == reach.Outside:
		return "outside"
	case e.Kind == reach.Host:
		return "hosts"
	case e.Namespace == "":
		return "several namespaces"
	}
	return e.Namespace
}

// say something of an end at its node.
func (g *graphing) say(i int, what string, a *reach.Answer) {
	n := &g.groups[g.spots[i].group].nodes[g.spots[i].node]
	n.notes = append(n.notes, what+": "+a.Conns)
}

// nothingElse tells whether all ends may reach all others alike, and says so.
func (g *graphing) nothingElse() bool {
	all := make([]int, len(g.Ends))
	for i := range all {
		all[i] = i
	}
	a, ok := g.alike(all, all)
	switch {
	case !ok:
		return false
	case a.None:
		g.note = "no end can reach another"
	default:
		g.note = "every end can reach every other: " + a.Conns
	}
	return true
}

// alike is the answer that all of some ends have to all of others. One that is said already and lets everything pass takes nothing from that.
func (g *graphing) alike(from, to []int) (a *reach.Answer, ok bool) {
	for _, i := range from {
		for _, j := range to {
			b := g.answer(i, j)
			switch {
			case i == j || g.outside(i) && g.outside(j) || g.drawn[i][j] && b.All:
			case a == nil:
				a = b
			case a.Conns != b.Conns:
				return nil, false
			}
		}
	}
	return a, a != nil
}

// draw an answer from some ends to others, where that says something that is not said already.
func (g *graphing) draw(from, to []int) bool {
	a, ok := g.alike(from, to)
	if !ok || a.None {
		return false
	}
	fresh := false
	for _, i := range from {
		for _, j := range to {
			fresh = fresh || !g.drawn[i][j]
			g.drawn[i][j] = true
		}
	}
	return fresh
}

// circles are whom a note may speak of at once.
var circles = []struct {
	name string
	has  func(reach.EndKind) bool
}{
	{"all", func(reach.EndKind) bool { return true }},
	{"workloads", func(k reach.EndKind) bool { return k == reach.Workload }},
	{"the outside", func(k reach.EndKind) bool { return k == reach.Outside }},
}

// wide says what is the same for all others of a circle, or for all but one or two, at the end itself.
func (g *graphing) wide() {
	if len(g.Ends) < 4 { // arrows are as plain
		return
	}
	for i := range g.Ends {
		one := []int{i}
		for _, circle := range circles {
			others := []int{}
			for j := range g.Ends {
				if j != i && circle.has(g.Ends[j].Kind) && !(g.outside(i) && g.outside(j)) {
					others = append(others, j)
				}
			}
			if most, rest := usual(others, func(j int) string { return g.answer(j, i).Conns }); g.draw(most, one) {
				g.say(i, "open to "+circle.name+g.but(rest), g.answer(most[0], i))
			}
			if most, rest := usual(others, func(j int) string { return g.answer(i, j).Conns }); g.draw(one, most) {
				g.say(i, "reaches "+circle.name+g.but(rest), g.answer(i, most[0]))
			}
		}
	}
}

func (g *graphing) outside(i int) bool { return g.Ends[i].Kind == reach.Outside }

// usual are those who say what most say, and the rest: few, or there is no such thing.
func usual(ends []int, says func(int) string) (most, rest []int) {
	count, best := map[string]int{}, ""
	for _, j := range ends {
		text := says(j)
		if count[text]++; count[text] > count[best] {
			best = text
		}
	}
	if few := len(ends) - count[best]; few > 2 || count[best] < few+2 {
		return nil, nil
	}
	for _, j := range ends {
		if says(j) == best {
			most = append(most, j)
		} else {
			rest = append(rest, j)
		}
	}
	return most, rest
}

func (g *graphing) but(rest []int) string {
	var names []string
	for _, i := range rest {
		names = append(names, g.Ends[i].About)
	}
	if names == nil {
		return ""
	}
	return " but " + strings.Join(names, ", ")
}

// narrow draws arrows, those first that say most: between groups, between a group and an end, between ends.
func (g *graphing) narrow() {
	for f := range g.groups {
		for t := range g.groups {
			from, to := g.groups[f].ends(), g.groups[t].ends()
			switch a, ok := g.alike(from, to); {
			case !ok || len(from) == 1 && len(to) == 1 || !g.draw(from, to):
			case f == t:
				g.groups[f].notes = append(g.groups[f].notes, "among themselves: "+a.Conns)
			default:
				g.arrow(g.whole(f), g.whole(t), a)
			}
		}
	}
	for i := range g.Ends {
		for k := range g.groups {
			g.between([]int{i}, g.groups[k].ends(), g.spots[i], spot{k, -1})
			g.between(g.groups[k].ends(), []int{i}, spot{k, -1}, g.spots[i])
		}
	}
	for i := range g.Ends {
		for j := range g.Ends {
			if a := g.answer(i, j); !g.drawn[i][j] && !a.None {
				g.arrow(g.spots[i], g.spots[j], a)
			}
		}
	}
}

// between an end and a group of several that it is not of.
func (g *graphing) between(from, to []int, f, t spot) {
	if f.group == t.group || len(from) == 1 && len(to) == 1 {
		return
	}
	if a, ok := g.alike(from, to); ok && g.draw(from, to) {
		g.arrow(f, t, a)
	}
}

// whole group, which is its node where it has but one.
func (g *graphing) whole(k int) spot {
	if len(g.groups[k].nodes) == 1 {
		return spot{k, 0}
	}
	return spot{k, -1}
}

func (k *group) ends() (out []int) {
	for _, n := range k.nodes {
		out = append(out, n.end)
	}
	return out
}

func (g *graphing) arrow(from, to spot, a *reach.Answer) {
	g.arrows = append(g.arrows, arrow{from: from, to: to, answer: a})
}

// mutual arrows become one of two heads; and all are put in order.
func (g *graphing) mutual() {
	slices.SortStableFunc(g.arrows, func(a, b arrow) int {
		return cmp.Or(cmp.Compare(a.from.group, b.from.group), cmp.Compare(a.from.node, b.from.node), cmp.Compare(a.to.group, b.to.group), cmp.Compare(a.to.node, b.to.node))
	})
	var out []arrow
	at := map[[2]spot]int{}
	for _, a := range g.arrows {
		if k, ok := at[[2]spot{a.to, a.from}]; ok && out[k].answer.Conns == a.answer.Conns {
			out[k].both = true
			continue
		}
		at[[2]spot{a.from, a.to}] = len(out)
		out = append(out, a)
	}
	g.arrows = out
}
