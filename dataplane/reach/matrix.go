package reach

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// Of is who can reach whom under a plan of all nodes.
func Of(p *policy.Plan, o Options) *Matrix {
	s := newSpace(o, p)
	ends := s.ends()
	m := &Matrix{Answers: []Answer{{Conns: "none", None: true}}}
	t := newTelling(s, o)
	cells := make([][]int, len(ends))
	seen, told := map[string]int{}, map[string]int{"none\n": 0}
	done := o.rows(len(ends))
	for i := range ends {
		cells[i] = make([]int, len(ends))
		for k := range ends {
			parts := t.parts(s.views[0], &ends[i], &ends[k])
			mark := mark(parts)
			at, ok := seen[mark]
			if !ok {
				a := t.answer(parts)
				text := a.Conns + "\n" + strings.Join(a.Why, "\n")
				if at, ok = told[text]; !ok {
					at = len(m.Answers)
					told[text] = at
					m.Answers = append(m.Answers, a)
				}
				seen[mark] = at
			}
			cells[i][k] = at
		}
		done()
	}
	m.fold(s, ends, cells)
	return m
}

// end is whose addresses are of the same classes.
type end struct {
	kind    EndKind
	members []v3.Ref
	classes []int
}

// ends puts endpoints, hosts and the outside together that have the same classes. Addresses that are not the same one's in all plans are
// nobody's.
func (s *space) ends() (out []end) {
	owned := map[v3.Ref][]int{}
	at := map[string]int{}
	put := func(kind EndKind, ref v3.Ref, classes []int) {
		slices.Sort(classes)
		classes = slices.Compact(classes)
		key := fmt.Sprint(kind, classes)
		i, ok := at[key]
		if !ok {
			i = len(out)
			at[key] = i
			out = append(out, end{kind: kind, classes: classes})
		}
		if kind != Outside {
			out[i].members = append(out[i].members, ref)
		}
	}
	for i := range s.points {
		switch ref := s.owner(0, i); {
		case s.points[i].strange:
		case ref == (v3.Ref{}):
			put(Outside, ref, []int{s.points[i].class})
		default:
			owned[ref] = append(owned[ref], s.points[i].class)
		}
	}
	for _, ref := range slices.SortedFunc(maps.Keys(owned), v3.Ref.Compare) {
		kind := Workload
		if ref.Kind == "Node" {
			kind = Host
		}
		put(kind, ref, owned[ref])
	}
	return out
}

// fold puts ends together that answer alike in every row and column, and tells of each who it is.
func (m *Matrix) fold(s *space, ends []end, cells [][]int) {
	f := folding{ends: ends, cells: cells, space: s}
	for i := range ends {
		f.put(i)
	}
	type row struct {
		End
		at int
	}
	var rows []row
	for i, g := range f.groups {
		rows = append(rows, row{s.about(g.ends), i})
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), strings.Compare(a.About, b.About)) })
	for _, r := range rows {
		m.Ends = append(m.Ends, r.End)
		line := make([]int, 0, len(rows))
		for _, c := range rows {
			line = append(line, f.cell(r.at, c.at))
		}
		m.Cells = append(m.Cells, line)
	}
}

type folding struct {
	space  *space
	ends   []end
	cells  [][]int
	groups []group
}

// group is ends that answer alike, and how they answer each other.
type group struct {
	first  int
	ends   []end
	within int // -1 where nobody has said yet
}

func (f *folding) put(i int) {
	for k := range f.groups {
		if g := &f.groups[k]; f.alike(g, i) {
			g.within = f.cells[i][g.first]
			g.ends = append(g.ends, f.ends[i])
			return
		}
	}
	f.groups = append(f.groups, group{i, []end{f.ends[i]}, f.within(i)})
}

// within is how different members of an end answer each other; -1 of one that is alone.
func (f *folding) within(i int) int {
	if e := &f.ends[i]; e.kind == Workload && len(e.members) == 1 && f.space.lone(e) {
		return -1
	}
	return f.cells[i][i]
}

func (f *folding) alike(g *group, i int) bool {
	k := g.first
	x := f.cells[i][k]
	if f.ends[i].kind != f.ends[k].kind || f.space.families(&f.ends[i]) != f.space.families(&f.ends[k]) || x != f.cells[k][i] {
		return false
	}
	for _, w := range []int{g.within, f.within(i)} {
		if w >= 0 && w != x {
			return false
		}
	}
	for c := range f.ends {
		if c != i && c != k && (f.cells[i][c] != f.cells[k][c] || f.cells[c][i] != f.cells[c][k]) {
			return false
		}
	}
	return true
}

func (f *folding) cell(a, b int) int {
	if g := &f.groups[a]; a == b && g.within >= 0 {
		return g.within
	}
	return f.cells[f.groups[a].first][f.groups[b].first]
}

// lone tells whether an end has no two addresses between which packets are asked anything.
func (s *space) lone(e *end) bool {
	for _, a := range e.classes {
		for _, b := range e.classes {
			if s.classes[a].family == s.classes[b].family && len(s.pairs(a, b)) > 0 {
				return false
			}
		}
	}
	return true
}

func (s *space) families(e *end) (f policy.Families) {
	for _, c := range e.classes {
		f |= s.classes[c].family
	}
	return f
}

// about is one End of several ends.
func (s *space) about(ends []end) End {
	out := End{Kind: ends[0].kind}
	var nets netipx.IPSetBuilder
	for _, e := range ends {
		out.Members = append(out.Members, e.members...)
		for _, c := range e.classes {
			for _, i := range s.classes[c].points {
				if e.kind == Outside {
					nets.AddRange(netipx.IPRangeFrom(s.points[i].first, s.points[i].last))
				}
			}
		}
	}
	slices.SortFunc(out.Members, v3.Ref.Compare)
	if out.Kind == Outside {
		set, err := nets.IPSet()
		if err != nil {
			return out
		}
		out.Nets, out.About = set.Prefixes(), aboutNets(set)
		return out
	}
	first := out.Members[0]
	_, out.About, _ = strings.Cut(first.String(), "/")
	if n := len(out.Members) - 1; n > 0 {
		out.About += fmt.Sprintf(" and %d more", n)
	}
	out.Namespace = first.Namespace
	for _, r := range out.Members {
		if r.Namespace != out.Namespace {
			out.Namespace = ""
		}
	}
	return out
}

// aboutNets says it with the fewest words: the networks, or the whole family but some.
func aboutNets(set *netipx.IPSet) string {
	nets := set.Prefixes()
	whole := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if nets[0].Addr().Is6() {
		whole = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	var rest netipx.IPSetBuilder
	rest.AddPrefix(whole)
	rest.RemoveSet(set)
	switch others, err := rest.IPSet(); {
	case len(nets) <= 2:
		return texts(nets)
	case err == nil && len(others.Ranges()) < len(set.Ranges())+2 && len(others.Prefixes()) <= 3:
		return fmt.Sprintf("%s but %s", whole, texts(others.Prefixes()))
	case err == nil && larger(set, others):
		return fmt.Sprintf("%s but %d networks", whole, len(others.Prefixes()))
	}
	return fmt.Sprintf("%s and %d more", nets[0], len(nets)-1)
}

// larger tells whether a set has the larger network.
func larger(a, b *netipx.IPSet) bool {
	least := func(s *netipx.IPSet) int {
		bits := 128
		for _, n := range s.Prefixes() {
			bits = min(bits, n.Bits())
		}
		return bits
	}
	return least(a) <= least(b)
}

func texts(nets []netip.Prefix) string {
	var out []string
	for _, n := range nets {
		if n.IsSingleIP() {
			out = append(out, n.Addr().String())
		} else {
			out = append(out, n.String())
		}
	}
	return strings.Join(out, ", ")
}
