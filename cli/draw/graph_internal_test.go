package draw

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tierwall/tierwall/dataplane/reach"
)

// What notes and arrows say together is the matrix, no more and no less.
func TestGraphSaysTheMatrix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := randomMatrix(t)
		g := graphOf(m)
		said := sayings{m: m, cells: map[[2]int]map[string]bool{}}
		said.read(g)
		for i := range m.Ends {
			for j := range m.Ends {
				want, have := m.Answers[m.Cells[i][j]].Conns, said.at(i, j)
				if i != j && !(m.Ends[i].Kind == reach.Outside && m.Ends[j].Kind == reach.Outside) && want != have {
					t.Fatalf("%s to %s: the graph says %s, the matrix %s\n%+v", m.Ends[i].About, m.Ends[j].About, have, want, g)
				}
			}
		}
	})
}

func randomMatrix(t *rapid.T) *reach.Matrix {
	m := &reach.Matrix{Answers: []reach.Answer{{Conns: "none", None: true}, {Conns: "all", All: true}, {Conns: "TCP 1"}, {Conns: "TCP 2"}}}
	n := rapid.IntRange(0, 9).Draw(t, "ends")
	for i := range n {
		kind := reach.EndKind(rapid.IntRange(0, 2).Draw(t, "kind"))
		e := reach.End{Kind: kind, About: fmt.Sprintf("end%d", i)}
		if kind == reach.Workload {
			e.Namespace = rapid.SampledFrom([]string{"a", "b", ""}).Draw(t, "namespace")
		}
		m.Ends = append(m.Ends, e)
	}
	usual := rapid.SliceOfN(rapid.IntRange(0, 3), n, n).Draw(t, "usual")
	for range n {
		row := make([]int, n)
		for j := range row {
			row[j] = usual[j]
			if rapid.IntRange(0, 4).Draw(t, "odd") == 0 {
				row[j] = rapid.IntRange(0, 3).Draw(t, "answer")
			}
		}
		m.Cells = append(m.Cells, row)
	}
	return m
}

// sayings of a graph, as one reads it.
type sayings struct {
	m     *reach.Matrix
	cells map[[2]int]map[string]bool
}

func (s *sayings) at(i, j int) string {
	says := s.cells[[2]int{i, j}]
	switch {
	case says["all"]: // and whatever else
		return "all"
	case len(says) == 0:
		return "none"
	}
	var out []string
	for text := range says {
		out = append(out, text)
	}
	return strings.Join(out, " and ")
}

func (s *sayings) say(from, to []int, conns string) {
	for _, i := range from {
		for _, j := range to {
			if i == j {
				continue
			}
			c := [2]int{i, j}
			if s.cells[c] == nil {
				s.cells[c] = map[string]bool{}
			}
			s.cells[c][conns] = true
		}
	}
}

func (s *sayings) read(g *graph) {
	every := s.of(circles[0].has, "")
	if _, conns, ok := strings.Cut(g.note, "every other: "); ok {
		s.say(every, every, conns)
	}
	for _, k := range g.groups {
		for _, note := range k.notes {
			_, conns, _ := strings.Cut(note, "among themselves: ")
			s.say(k.ends(), k.ends(), conns)
		}
		for _, n := range k.nodes {
			for _, note := range n.notes {
				what, conns, _ := strings.Cut(note, ": ")
				for _, c := range circles {
					if but, ok := strings.CutPrefix(what, "open to "+c.name); ok {
						s.say(s.of(c.has, but), []int{n.end}, conns)
					}
					if but, ok := strings.CutPrefix(what, "reaches "+c.name); ok {
						s.say([]int{n.end}, s.of(c.has, but), conns)
					}
				}
			}
		}
	}
	ends := func(p spot) []int {
		if p.node < 0 {
			return g.groups[p.group].ends()
		}
		return []int{g.groups[p.group].nodes[p.node].end}
	}
	for _, a := range g.arrows {
		s.say(ends(a.from), ends(a.to), a.answer.Conns)
		if a.both {
			s.say(ends(a.to), ends(a.from), a.answer.Conns)
		}
	}
}

// of a circle, the ends that are not named behind " but ".
func (s *sayings) of(has func(reach.EndKind) bool, text string) (out []int) {
	names := strings.Split(strings.TrimPrefix(text, " but "), ", ")
	for i := range s.m.Ends {
		named := !has(s.m.Ends[i].Kind)
		for _, n := range names {
			named = named || n == s.m.Ends[i].About
		}
		if !named {
			out = append(out, i)
		}
	}
	return out
}
