package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// write queues what makes the changes. What is deleted is first emptied, so that nothing names what goes. (Before kernel 6.2
// a chain cannot be deleted in the transaction that deletes the last verdict that leads to it; such a kernel refuses with
// EBUSY.)
func (c *Conn) write(s state, changes []ruleset.Change, flags nftables.TableFlags) error {
	t := &nftables.Table{Name: c.name, Family: nftables.TableFamilyINet, Flags: flags}
	if s.replace {
		c.nl.DelTable(&nftables.Table{Name: c.name, Family: nftables.TableFamilyINet})
	}
	if !s.settled() {
		c.nl.AddTable(t)
	}
	w := &writer{nl: c.nl, table: t}
	for i := range changes {
		if ch := &changes[i]; ch.Chain != nil && ch.Op == ruleset.Delete {
			c.nl.FlushChain(w.chain(ch.Chain))
		}
	}
	for i := range changes {
		if err := w.change(&changes[i]); err != nil {
			return fmt.Errorf("%s: %w", changes[i], err)
		}
	}
	return nil
}

type writer struct {
	nl    *nftables.Conn
	table *nftables.Table
}

func (w *writer) change(ch *ruleset.Change) error {
	switch {
	case ch.Set != nil:
		t := setTypes[ch.Set.Type]
		return w.members(ch, w.set(ch.Set), t.elements(ch.Set.Elems, ch.Set.Interval))
	case ch.Map != nil:
		return w.members(ch, w.vmap(ch.Map), w.entries(ch.Map))
	case ch.Op == ruleset.Delete:
		w.nl.DelChain(w.chain(ch.Chain))
	case ch.Op == ruleset.Add:
		w.nl.AddChain(w.chain(ch.Chain))
	default:
		chain := w.chain(ch.Chain)
		w.nl.FlushChain(chain)
		for i := range ch.Chain.Rules {
			r := &ch.Chain.Rules[i]
			w.nl.AddRule(&nftables.Rule{Table: w.table, Chain: chain, Exprs: exprs(r), UserData: comment(r.ID)})
		}
	}
	return nil
}

func (w *writer) members(ch *ruleset.Change, s *nftables.Set, elems []nftables.SetElement) error {
	switch {
	case ch.Within && ch.Op == ruleset.Delete:
		return w.nl.SetDeleteElements(s, elems)
	case ch.Within:
		return w.nl.SetAddElements(s, elems)
	case ch.Op == ruleset.Delete:
		w.nl.DelSet(s)
		return nil
	}
	return w.nl.AddSet(s, elems)
}

func (w *writer) set(s *ruleset.Set) *nftables.Set {
	t := setTypes[s.Type]
	out := &nftables.Set{Table: w.table, Name: s.Name, KeyType: t.key, Interval: s.Interval, Concatenation: len(t.parts) > 1,
		KeyByteOrder: byteOrder(t)}
	if !s.Interval {
		out.Size = size(len(s.Elems))
	}
	return out
}

// size of a hash set that begins with n elements: one that knows its size loads in half the time (nftables-facts §2). It is
// also the most that the set can have, so there is room to grow; when that is used up the kernel says ENFILE, and Apply makes
// the table anew. Changing the elements of a set takes room for the old and the new together.
func size(n int) uint32 {
	if n < 1000 || n > math.MaxUint32/4 {
		return 0
	}
	return uint32(n) * 4
}

func byteOrder(t setType) binaryutil.ByteOrder {
	if t.parts[0].value == ifname {
		return binaryutil.NativeEndian
	}
	return binaryutil.BigEndian
}

func (w *writer) vmap(m *ruleset.Map) *nftables.Set {
	t := setTypes[m.Type]
	return &nftables.Set{Table: w.table, Name: m.Name, KeyType: t.key, IsMap: true, DataType: nftables.TypeVerdict,
		Concatenation: len(t.parts) > 1, KeyByteOrder: byteOrder(t), Size: size(len(m.Entries))}
}

// elements of a set. In an interval set each range is its first value and, as an element of its own, the first value behind
// it; a range that ends at the last value there is has none.
func (t setType) elements(elems []ruleset.Elem, interval bool) []nftables.SetElement {
	out := make([]nftables.SetElement, 0, len(elems))
	for _, e := range elems {
		from, to := t.bytes(e)
		out = append(out, nftables.SetElement{Key: from})
		if interval {
			if end, ok := next(to); ok {
				out = append(out, nftables.SetElement{Key: end, IntervalEnd: true})
			}
		}
	}
	return out
}

// next is b + 1 as a big number; false when there is none.
func next(b []byte) ([]byte, bool) {
	out := bytes.Clone(b)
	for i := len(out) - 1; i >= 0; i-- {
		if out[i]++; out[i] != 0 {
			return out, true
		}
	}
	return nil, false
}

func (w *writer) entries(m *ruleset.Map) []nftables.SetElement {
	t := setTypes[m.Type]
	out := make([]nftables.SetElement, 0, len(m.Entries))
	for _, e := range m.Entries {
		key, _ := t.bytes(e.Key)
		out = append(out, nftables.SetElement{Key: key, VerdictData: verdict(e.Verdict)})
	}
	return out
}

var hooks = map[string]*nftables.ChainHook{
	"prerouting": nftables.ChainHookPrerouting, "input": nftables.ChainHookInput, "forward": nftables.ChainHookForward,
	"output": nftables.ChainHookOutput, "postrouting": nftables.ChainHookPostrouting,
}

func (w *writer) chain(c *ruleset.Chain) *nftables.Chain {
	out := &nftables.Chain{Table: w.table, Name: c.Name}
	if c.Hook != "" {
		accept := nftables.ChainPolicyAccept
		out.Type, out.Hooknum, out.Policy = nftables.ChainTypeFilter, hooks[c.Hook], &accept
		out.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(c.Priority))
	}
	return out
}

var verdictKinds = map[ruleset.VerdictKind]expr.VerdictKind{
	ruleset.Accept: expr.VerdictAccept, ruleset.Drop: expr.VerdictDrop, ruleset.Return: expr.VerdictReturn,
	ruleset.Jump: expr.VerdictJump, ruleset.Goto: expr.VerdictGoto,
}

func verdict(v ruleset.Verdict) *expr.Verdict {
	return &expr.Verdict{Kind: verdictKinds[v.Kind], Chain: v.Chain}
}

func comment(id ruleset.RuleID) []byte {
	if id == "" {
		return nil
	}
	return userdata.AppendString(nil, userdata.TypeComment, string(id))
}

const logKey = 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_LEVEL

// exprs says what the rule says, as nft itself would.
func exprs(r *ruleset.Rule) []expr.Any {
	b := &ruleBuilder{}
	for i := range r.Matches {
		b.match(&r.Matches[i], r.Matches[:i])
	}
	b.statements(r)
	switch {
	case r.VMap != nil:
		b.load(r.VMap.Key, r.Matches)
		b.add(&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: r.VMap.Map})
	case r.Verdict.Kind == ruleset.Reject:
		b.add(reject(familyOf(r.Matches)))
	case r.Verdict.Kind != ruleset.Continue:
		b.add(verdict(r.Verdict))
	}
	return b.out
}

// statements are what the rule does before its verdict.
func (b *ruleBuilder) statements(r *ruleset.Rule) {
	if r.Counter {
		b.add(&expr.Counter{})
	}
	if l := r.Limit; l != nil {
		b.add(&expr.Limit{Type: expr.LimitTypePkts, Rate: l.Rate, Unit: expr.LimitTime(l.Unit), Burst: l.Burst})
	}
	if r.Log != nil {
		b.add(&expr.Log{Key: logKey, Level: expr.LogLevelInfo, Data: []byte(r.Log.Prefix)})
	}
	if r.Mark != nil {
		b.add(setMark(r.Mark)...)
	}
	if r.NoTrack {
		b.add(&expr.Notrack{})
	}
}

// setMark keeps the other bits of the packet's mark: mark & ^(Set|Clear) ^ Set.
func setMark(m *ruleset.SetMark) []expr.Any {
	native := binary.NativeEndian.AppendUint32
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(nil, ^(m.Set | m.Clear)), Xor: native(nil, m.Set)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}
}

// reject with "port unreachable", as the packet's family says it, where the rule tells the family.
func reject(family uint32) *expr.Reject {
	switch family {
	case unix.NFPROTO_IPV4:
		return &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3}
	case unix.NFPROTO_IPV6:
		return &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 4}
	}
	return &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}
}

type ruleBuilder struct{ out []expr.Any }

func (b *ruleBuilder) add(e ...expr.Any) { b.out = append(b.out, e...) }

// load puts a key into register 1, or a concatenation into registers from 1 on, once what was asked before makes it sure that
// the packet has it.
func (b *ruleBuilder) load(k ruleset.Key, before []ruleset.Match) {
	if family := addrFamily(k); family != 0 && family != familyOf(before) {
		b.add(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(family)}})
	}
	parts, ok := concats[k]
	if !ok {
		parts = []part{{k, 1}}
	}
	for _, p := range parts {
		b.add(fields[p.key].loadInto(p.register))
	}
}

func (b *ruleBuilder) match(m *ruleset.Match, before []ruleset.Match) {
	b.load(m.Key, before)
	if m.Set != "" {
		b.add(&expr.Lookup{SourceRegister: 1, SetName: m.Set, Invert: m.Not})
		return
	}
	b.add(compare(m)...)
}

// compare register 1 with the match's value.
func compare(m *ruleset.Match) []expr.Any {
	f := fields[m.Key]
	from, to := f.bytes(m.Elem)
	mask, isPrefix := maskOf(from, to)
	switch {
	case m.Key == ruleset.KeyCTState, m.Key == ruleset.KeyCTStatus: // one of the bits is set, or none
		return []expr.Any{masked(from), &expr.Cmp{Op: op(!m.Not), Register: 1, Data: make([]byte, f.size)}}
	case m.Key == ruleset.KeyMark, m.Key == ruleset.KeyCTMark:
		mask, _ := f.bytes(ruleset.Elem{Num: m.Elem.Mask})
		return []expr.Any{masked(mask), &expr.Cmp{Op: op(m.Not), Register: 1, Data: from}}
	case bytes.Equal(from, to):
		return []expr.Any{&expr.Cmp{Op: op(m.Not), Register: 1, Data: from}}
	case f.value == addr && isPrefix:
		return []expr.Any{masked(mask), &expr.Cmp{Op: op(m.Not), Register: 1, Data: from}}
	case m.Not:
		return []expr.Any{&expr.Range{Op: expr.CmpOpNeq, Register: 1, FromData: from, ToData: to}}
	}
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: from}, &expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: to}}
}

// masked clears what is not in the mask in register 1.
func masked(mask []byte) expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))}
}

func op(not bool) expr.CmpOp {
	if not {
		return expr.CmpOpNeq
	}
	return expr.CmpOpEq
}

// maskOf the network that is exactly from..to, if there is one: the bits that differ are all the last ones, 0 in from and 1
// in to.
func maskOf(from, to []byte) ([]byte, bool) {
	mask := make([]byte, len(from))
	free := false
	for i := range from {
		for bit := byte(0x80); bit != 0; bit >>= 1 {
			a, b := from[i]&bit != 0, to[i]&bit != 0
			switch {
			case !free && a == b:
				mask[i] |= bit
			case !a && b:
				free = true
			default:
				return nil, false
			}
		}
	}
	return mask, true
}
