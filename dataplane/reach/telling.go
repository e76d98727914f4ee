package reach

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// telling puts outcomes into words.
type telling struct {
	*space
	counts map[policy.Families]bits // the packets that the question is about
}

func newTelling(s *space, o Options) *telling {
	t := &telling{space: s, counts: map[policy.Families]bits{}}
	all := s.none()
	for _, f := range []policy.Families{policy.IPv4, policy.IPv6} {
		t.counts[f] = s.real(f)
		if o.Proto != 0 {
			t.counts[f].keep(s.proto(o.Proto))
		}
		if o.Port != 0 {
			port := s.none()
			s.ranges(port, number, []policy.PortRange{{Min: o.Port, Max: o.Port}})
			t.counts[f].keep(port)
		}
		all.add(t.counts[f])
	}
	t.counts[policy.AnyFamily] = all
	return t
}

// part is what becomes of the packets between two classes whose nodes are one, or two.
type part struct {
	family   policy.Families
	same     bool
	src, dst int // classes
	*outcome
}

// parts of what becomes of packets from one end to another under one of the plans.
func (t *telling) parts(v *view, from, to *end) (out []part) {
	for _, a := range from.classes {
		for _, b := range to.classes {
			if t.classes[a].family != t.classes[b].family {
				continue
			}
			for _, p := range t.pairs(a, b) {
				out = append(out, part{t.classes[a].family, v.together(p), a, b, v.outcome(p)})
			}
		}
	}
	if len(out) == 0 && from == to {
		out = append(out, part{t.families(from), true, 0, 0, v.toItself()})
	}
	return out
}

// together tells whether two points are on one node.
func (v *view) together(p pair) bool { return v.nodes[p.src] != "" && v.nodes[p.src] == v.nodes[p.dst] }

// mark is equal of parts that are told alike.
func mark(parts []part) string {
	var b []byte
	for i := range parts {
		p := &parts[i]
		b = append(b, byte(p.family))
		if p.same {
			b = append(b, 's')
		}
		b = binary.AppendVarint(b, int64(p.id))
		if i > 0 && p.family == parts[i-1].family && p.same == parts[i-1].same && p.id != parts[i-1].id { // it may be told by its addresses
			b = binary.AppendVarint(binary.AppendVarint(b, int64(p.src)), int64(p.dst))
		}
	}
	return string(b)
}

// labels are what answers are told apart by, where they have to be: the fewest that do.
var labels = []func(t *telling, p *part) string{
	func(*telling, *part) string { return "" },
	func(_ *telling, p *part) string { return familyText(p) },
	func(_ *telling, p *part) string { return nodeText(p) },
	func(_ *telling, p *part) string { return familyText(p) + " " + nodeText(p) },
	func(t *telling, p *part) string {
		return t.points[t.classes[p.src].points[0]].first.String() + " to " + t.points[t.classes[p.dst].points[0]].first.String() + " " + nodeText(p)
	},
}

func familyText(p *part) string {
	if p.family == policy.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

func nodeText(p *part) string {
	if p.same {
		return "on one node"
	}
	return "between nodes"
}

// told is parts under one label.
type told struct {
	label        string
	what, counts bits
}

// answer tells what passes, and why.
func (t *telling) answer(parts []part) Answer {
	if len(parts) == 0 {
		return Answer{Conns: "none", None: true}
	}
	a := Answer{Conns: t.conns(parts), All: true, None: true, Why: t.why(parts, nil)}
	for i := range parts {
		counts := t.counts[parts[i].family]
		a.None = a.None && !parts[i].allowed.meets(counts)
		a.All = a.All && counts.not(parts[i].allowed).empty()
	}
	return a
}

func (t *telling) conns(parts []part) string {
	for _, label := range labels {
		if by, ok := t.by(parts, label); ok {
			var out []string
			for _, b := range by {
				text := t.text(b.what, b.counts)
				if b.label != "" {
					text = strings.TrimSpace(b.label) + ": " + text
				}
				out = append(out, text)
			}
			return strings.Join(out, " | ")
		}
	}
	return ""
}

// by puts parts under labels; it is not ok if two of one label differ in packets that both have.
func (t *telling) by(parts []part, label func(*telling, *part) string) (out []told, ok bool) {
	for i := range parts {
		p := &parts[i]
		l, counts := label(t, p), t.counts[p.family]
		what := p.allowed.and(counts)
		k := slices.IndexFunc(out, func(b told) bool { return b.label == l })
		if k < 0 {
			out = append(out, told{l, what, slices.Clone(counts)})
			continue
		}
		both := counts.and(out[k].counts)
		if !slices.Equal(what.and(both), out[k].what.and(both)) {
			return nil, false
		}
		out[k].what.add(what)
		out[k].counts.add(counts)
	}
	return out, true
}

// why is who decided, in the order of the way: of all packets, or of some.
func (t *telling) why(parts []part, of bits) (out []string) {
	for i := range parts {
		p := &parts[i]
		counts := t.counts[p.family]
		if of != nil {
			counts = counts.and(of)
		}
		for _, d := range p.parts {
			if text := p.view.deciders[d.by].String(); d.what.meets(counts) && !slices.Contains(out, text) {
				out = append(out, text)
			}
		}
	}
	return out
}
