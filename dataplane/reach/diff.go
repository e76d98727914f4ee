package reach

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// Change is what two plans decide otherwise about packets from one end to another, or an endpoint that only one of them knows.
type Change struct {
	From, To      End
	Conns         string        // which packets, as Answer says it
	Before, After policy.Action // Allow or Deny
	// WhyBefore and WhyAfter are what decides about these packets, as Answer says it.
	WhyBefore, WhyAfter []string
	// Only is "before" or "after" of an endpoint, in From, that only that plan knows, or knows so; nothing else is said of it.
	Only string
}

// Diff is every change of a verdict between two plans of all nodes, about all packets between ends that both know: when it is empty the two
// let the same pass.
func Diff(before, after *policy.Plan, o Options) []Change {
	s := newSpace(o, before, after)
	c := comparing{telling: newTelling(s, o), ends: s.ends(), known: map[string]int{"": 0}, changes: [][]Change{nil}}
	cells := make([][]int, len(c.ends))
	done := o.rows(len(c.ends))
	for i := range c.ends {
		cells[i] = make([]int, len(c.ends))
		for k := range c.ends {
			cells[i][k] = c.cell(&c.ends[i], &c.ends[k])
		}
		done()
	}
	var m Matrix
	m.fold(s, c.ends, cells)
	out := s.strangers()
	for i, row := range m.Cells {
		for k, at := range row {
			for _, change := range c.changes[at] {
				change.From, change.To = m.Ends[i], m.Ends[k]
				out = append(out, change)
			}
		}
	}
	return out
}

// comparing tells cells of changes apart by their numbers; 0 is no change.
type comparing struct {
	*telling
	ends    []end
	known   map[string]int
	changes [][]Change
}

func (c *comparing) cell(from, to *end) int {
	was, is := c.parts(c.views[0], from, to), c.parts(c.views[1], from, to)
	changed := false
	for i := range was {
		counts := c.counts[was[i].family]
		changed = changed || !slices.Equal(was[i].allowed.and(counts), is[i].allowed.and(counts))
	}
	if !changed {
		return 0
	}
	changes := append(c.lost(was, is, policy.Allow, policy.Deny), c.lost(is, was, policy.Deny, policy.Allow)...)
	text := fmt.Sprint(changes)
	at, ok := c.known[text]
	if !ok {
		at = len(c.changes)
		c.known[text] = at
		c.changes = append(c.changes, changes)
	}
	return at
}

// lost is what the first parts let pass and the second do not.
func (c *comparing) lost(with, without []part, before, after policy.Action) []Change {
	var lost []part
	var whyWith, whyWithout []string
	for i := range with {
		p := with[i]
		o := *p.outcome
		o.allowed = p.allowed.not(without[i].allowed).and(c.counts[p.family])
		p.outcome = &o
		lost = append(lost, p)
		whyWith = join(whyWith, c.why(with[i:i+1], o.allowed))
		whyWithout = join(whyWithout, c.why(without[i:i+1], o.allowed))
	}
	if !slices.ContainsFunc(lost, func(p part) bool { return !p.allowed.empty() }) {
		return nil
	}
	if before == policy.Deny {
		whyWith, whyWithout = whyWithout, whyWith
	}
	return []Change{{Conns: c.conns(lost), Before: before, After: after, WhyBefore: whyWith, WhyAfter: whyWithout}}
}

func join(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

// strangers are the endpoints and hosts of which some address is not theirs in both plans.
func (s *space) strangers() (out []Change) {
	for k, only := range []string{"before", "after"} {
		addrs := map[v3.Ref][]string{}
		for i := range s.points {
			if o := s.owner(k, i); s.points[i].strange && o != (v3.Ref{}) {
				addrs[o] = append(addrs[o], s.points[i].first.String())
			}
		}
		for ref, addrs := range addrs {
			e := End{Kind: Workload, Members: []v3.Ref{ref}, Namespace: ref.Namespace}
			if ref.Kind == "Node" {
				e.Kind = Host
			}
			_, name, _ := strings.Cut(ref.String(), "/")
			e.About = name + " " + strings.Join(addrs, ",")
			out = append(out, Change{From: e, Only: only})
		}
	}
	slices.SortFunc(out, func(a, b Change) int {
		return cmp.Or(a.From.Members[0].Compare(b.From.Members[0]), -strings.Compare(a.Only, b.Only))
	})
	return out
}

// owner of a point in one of the plans: a workload, a node, or nobody.
func (s *space) owner(view, point int) v3.Ref {
	p, a := s.views[view].plan, s.points[point].first
	if e := p.Workload(a); e != nil {
		return e.Ref
	}
	if h := p.Host(a); h != nil {
		return v3.Ref{Kind: "Node", Name: h.Name}
	}
	return v3.Ref{}
}
