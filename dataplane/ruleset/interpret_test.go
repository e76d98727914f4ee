package ruleset_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// packet is the first packet of a connection at one hook.
type packet struct {
	policy.Flow
	iif, oif string
	ctstate  uint32
	mark     uint32
	made     bool // by the host itself
	dnat     bool // its destination has been translated here
}

// interpreter does to packets what the kernel does with a table, as far as our tables go. It shares no code with Compile:
// what nft's words mean comes from nft(8).
type interpreter struct {
	sets   map[string]*ruleset.Set
	maps   map[string]*ruleset.Map
	chains map[string]*ruleset.Chain
	base   []*ruleset.Chain // by priority
	hits   []ruleset.RuleID // rules that counted the packet, in order
	logs   int              // how often the packet was logged
	led    int              // how often a packet was led to the rules for its port
}

func newInterpreter(t *ruleset.Table) *interpreter {
	in := &interpreter{sets: map[string]*ruleset.Set{}, maps: map[string]*ruleset.Map{}, chains: map[string]*ruleset.Chain{}}
	for i := range t.Sets {
		in.sets[t.Sets[i].Name] = t.Sets[i]
	}
	for i := range t.Maps {
		in.maps[t.Maps[i].Name] = t.Maps[i]
	}
	for i := range t.Chains {
		c := t.Chains[i]
		in.chains[c.Name] = c
		if c.Hook != "" {
			in.base = append(in.base, c)
		}
	}
	slices.SortStableFunc(in.base, func(a, b *ruleset.Chain) int { return a.Priority - b.Priority })
	return in
}

// hook sends a packet through the base chains of a hook with certain priorities; it gives whether the packet goes on.
func (in *interpreter) hook(hook string, priorities func(int) bool, p *packet) bool {
	for _, c := range in.base {
		if c.Hook == hook && priorities(c.Priority) {
			if v := in.chain(c, p, 0); v == ruleset.Drop || v == ruleset.Reject {
				return false
			}
		}
	}
	return true
}

// chain gives Accept or Drop, or Continue at its end and on return.
func (in *interpreter) chain(c *ruleset.Chain, p *packet, depth int) ruleset.VerdictKind {
	if depth > 16 {
		panic("the kernel allows 16 levels of jumps: " + c.Name)
	}
	for _, r := range c.Rules {
		if !in.matches(r, p) {
			continue
		}
		in.effects(&r, p)
		v := r.Verdict
		if r.VMap != nil {
			if v = in.lookup(r.VMap, p); v.Kind == ruleset.Continue {
				continue
			}
		}
		switch v.Kind {
		case ruleset.Continue:
		case ruleset.Return:
			return ruleset.Continue
		case ruleset.Jump:
			if v := in.chain(in.target(v), p, depth+1); v != ruleset.Continue {
				return v
			}
		case ruleset.Goto:
			return in.chain(in.target(v), p, depth+1)
		default:
			return v.Kind
		}
	}
	return ruleset.Continue
}

// effects is what a rule does to what it matches, before its verdict. A limit never runs out here.
func (in *interpreter) effects(r *ruleset.Rule, p *packet) {
	if r.Counter {
		in.hits = append(in.hits, r.ID)
	}
	if r.Log != nil {
		in.logs++
	}
	if r.Mark != nil {
		p.mark = p.mark&^r.Mark.Clear | r.Mark.Set
	}
	if r.NoTrack {
		p.ctstate = ruleset.CTUntracked
	}
}

func (in *interpreter) target(v ruleset.Verdict) *ruleset.Chain {
	c := in.chains[v.Chain]
	if c == nil {
		panic("no chain " + v.Chain)
	}
	return c
}

func (in *interpreter) lookup(l *ruleset.VMap, p *packet) ruleset.Verdict {
	m := in.maps[l.Map]
	if m == nil {
		panic("no map " + l.Map)
	}
	f, ok := in.field(l.Key, p)
	if !ok {
		return ruleset.Verdict{}
	}
	for _, e := range m.Entries {
		if within(e.Key, f) {
			if l.Key == ruleset.KeyProtoDPort {
				in.led++
			}
			return e.Verdict
		}
	}
	return ruleset.Verdict{}
}

func (in *interpreter) matches(r ruleset.Rule, p *packet) bool {
	for _, m := range r.Matches {
		f, ok := in.field(m.Key, p)
		if !ok { // the packet has no such field: a comparison, negated or not, is not reached
			return false
		}
		if in.compare(m, f) == m.Not {
			return false
		}
	}
	return true
}

func (in *interpreter) compare(m ruleset.Match, f ruleset.Elem) bool {
	switch {
	case m.Key == ruleset.KeyCTState, m.Key == ruleset.KeyCTStatus:
		return f.Num&m.Elem.Num != 0
	case m.Key == ruleset.KeyMark, m.Key == ruleset.KeyCTMark:
		return f.Num&m.Elem.Mask == m.Elem.Num
	case m.Set == "":
		return within(m.Elem, f)
	}
	s := in.sets[m.Set]
	if s == nil {
		panic("no set " + m.Set)
	}
	return slices.ContainsFunc(s.Elems.Slice(), func(e ruleset.Elem) bool { return within(e, f) })
}

// within tells whether a packet's field is the element, or in its range.
func within(e, f ruleset.Elem) bool {
	prefix, star := strings.CutSuffix(e.Iface, "*")
	return (e.Iface == f.Iface || star && strings.HasPrefix(f.Iface, prefix)) && e.Num == f.Num && e.Proto == f.Proto &&
		e.From.Compare(f.From) <= 0 && f.From.Compare(e.To) <= 0 &&
		e.Port <= f.Port && f.Port <= e.PortTo
}

// field reads a field of the packet; false when it has none.
func (in *interpreter) field(k ruleset.Key, p *packet) (ruleset.Elem, bool) {
	v4 := p.Src.Is4()
	ports := policy.HasPorts(p.Proto)
	addr := func(a netip.Addr, is4 bool) (ruleset.Elem, bool) {
		return ruleset.Elem{From: a, To: a}, v4 == is4
	}
	port := func(n uint16) (ruleset.Elem, bool) { return ruleset.Elem{Port: n, PortTo: n}, ports }
	addrPort := func(a netip.Addr, n uint16, is4 bool) (ruleset.Elem, bool) {
		return ruleset.Elem{From: a, To: a, Proto: p.Proto, Port: n, PortTo: n}, ports && v4 == is4
	}
	num := func(n uint32, ok bool) (ruleset.Elem, bool) { return ruleset.Elem{Num: n}, ok }
	switch k {
	case ruleset.KeyIIFName:
		return ruleset.Elem{Iface: p.iif}, p.iif != ""
	case ruleset.KeyOIFName:
		return ruleset.Elem{Iface: p.oif}, p.oif != ""
	case ruleset.KeyNFProto:
		if v4 {
			return num(2, true)
		}
		return num(10, true)
	case ruleset.KeyL4Proto:
		return num(uint32(p.Proto), true)
	case ruleset.KeyIPSAddr:
		return addr(p.Src, true)
	case ruleset.KeyIPDAddr:
		return addr(p.Dst, true)
	case ruleset.KeyIP6SAddr:
		return addr(p.Src, false)
	case ruleset.KeyIP6DAddr:
		return addr(p.Dst, false)
	case ruleset.KeySPort:
		return port(p.SrcPort)
	case ruleset.KeyDPort:
		return port(p.DstPort)
	case ruleset.KeyIPSAddrPort:
		return addrPort(p.Src, p.SrcPort, true)
	case ruleset.KeyIPDAddrPort:
		return addrPort(p.Dst, p.DstPort, true)
	case ruleset.KeyIP6SAddrPort:
		return addrPort(p.Src, p.SrcPort, false)
	case ruleset.KeyIP6DAddrPort:
		return addrPort(p.Dst, p.DstPort, false)
	case ruleset.KeyProtoDPort:
		return ruleset.Elem{Proto: p.Proto, Port: p.DstPort, PortTo: p.DstPort}, ports
	case ruleset.KeyICMPType:
		return num(uint32(p.ICMPType), v4 && p.Proto == policy.ProtoICMP)
	case ruleset.KeyICMPCode:
		return num(uint32(p.ICMPCode), v4 && p.Proto == policy.ProtoICMP)
	case ruleset.KeyICMPv6Type:
		return num(uint32(p.ICMPType), !v4 && p.Proto == policy.ProtoICMPv6)
	case ruleset.KeyICMPv6Code:
		return num(uint32(p.ICMPCode), !v4 && p.Proto == policy.ProtoICMPv6)
	case ruleset.KeyCTState:
		return num(p.ctstate, true)
	case ruleset.KeyMark:
		return num(p.mark, true)
	case ruleset.KeyCTMark: // an untracked packet has no connection
		return num(0, p.ctstate != ruleset.CTUntracked)
	case ruleset.KeyCTStatus:
		if p.dnat {
			return num(ruleset.CTStatusDNAT, true)
		}
		return num(0, p.ctstate != ruleset.CTUntracked)
	case ruleset.KeySAddrType:
		if p.made {
			return num(ruleset.AddrLocal, true)
		}
		return num(1, true)
	case ruleset.KeyIIFNameIPSAddr:
		return ruleset.Elem{Iface: p.iif, From: p.Src, To: p.Src}, v4
	case ruleset.KeyIIFNameIP6SAddr:
		return ruleset.Elem{Iface: p.iif, From: p.Src, To: p.Src}, !v4
	}
	panic(fmt.Sprintf("no key %d", k))
}
