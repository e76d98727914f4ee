package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// transaction is what makes the changes. What is deleted is first emptied, so that nothing names what goes. (Before
// kernel 6.2 a chain cannot be deleted in the transaction that deletes the last verdict that leads to it; such a kernel refuses with
// EBUSY.)
func (c *Conn) transaction(s state, changes []ruleset.Change, flags nftables.TableFlags, gen uint32) *batch {
	w := &writer{newBatch(gen), c.name}
	if s.replace {
		w.deleteTable()
	}
	if !s.settled() {
		w.addTable(flags)
	}
	for i := range changes {
		if ch := &changes[i]; ch.Chain != nil && ch.Op == ruleset.Delete {
			w.flushChain(ch)
		}
	}
	for i := range changes {
		w.change(&changes[i])
	}
	return w.batch
}

// writer writes what is of one table.
type writer struct {
	*batch
	table string
}

const create = unix.NLM_F_CREATE

func (w *writer) deleteTable() {
	w.add(unix.NFT_MSG_DELTABLE, 0, subject{})
	w.text(unix.NFTA_TABLE_NAME, w.table)
	w.end()
}

func (w *writer) addTable(flags nftables.TableFlags) {
	w.add(unix.NFT_MSG_NEWTABLE, create, subject{})
	w.text(unix.NFTA_TABLE_NAME, w.table)
	w.u32(unix.NFTA_TABLE_FLAGS, uint32(flags))
	w.end()
}

func (w *writer) change(ch *ruleset.Change) {
	switch {
	case ch.Set != nil:
		w.set(ch)
	case ch.Map != nil:
		w.vmap(ch)
	case ch.Op == ruleset.Delete:
		w.named(unix.NFT_MSG_DELCHAIN, ch, ch.Chain.Name)
	case ch.Op == ruleset.Add:
		w.addChain(ch)
	default:
		w.flushChain(ch)
		for i := range ch.Chain.Rules {
			w.rule(ch, i)
		}
	}
}

// named is a message of the table's and an object's name. In messages of every kind of object these are the first two attributes
// (a chain's name is the third).
func (w *writer) named(typ uint16, ch *ruleset.Change, name string) {
	w.add(typ, 0, subject{change: ch})
	w.text(unix.NFTA_SET_TABLE, w.table)
	w.text(nameAttr[typ], name)
	w.end()
}

var nameAttr = map[uint16]uint16{unix.NFT_MSG_DELCHAIN: unix.NFTA_CHAIN_NAME, unix.NFT_MSG_DELSET: unix.NFTA_SET_NAME, unix.NFT_MSG_DELRULE: unix.NFTA_RULE_CHAIN}

// flushChain deletes all rules of the chain.
func (w *writer) flushChain(ch *ruleset.Change) { w.named(unix.NFT_MSG_DELRULE, ch, ch.Chain.Name) }

func (w *writer) addChain(ch *ruleset.Change) {
	w.add(unix.NFT_MSG_NEWCHAIN, create, subject{change: ch})
	w.text(unix.NFTA_CHAIN_TABLE, w.table)
	w.text(unix.NFTA_CHAIN_NAME, ch.Chain.Name)
	if h := hooks[ch.Chain.Hook]; h != nil {
		hook := w.nest(unix.NFTA_CHAIN_HOOK)
		w.u32(unix.NFTA_HOOK_HOOKNUM, uint32(*h))
		w.u32(unix.NFTA_HOOK_PRIORITY, uint32(int32(ch.Chain.Priority)))
		w.close(hook)
		w.u32(unix.NFTA_CHAIN_POLICY, uint32(nftables.ChainPolicyAccept))
		w.text(unix.NFTA_CHAIN_TYPE, string(nftables.ChainTypeFilter))
	}
	w.end()
}

func (w *writer) rule(ch *ruleset.Change, i int) {
	r := &ch.Chain.Rules[i]
	w.add(unix.NFT_MSG_NEWRULE, create|unix.NLM_F_APPEND, subject{ch, i + 1})
	w.text(unix.NFTA_RULE_TABLE, w.table)
	w.text(unix.NFTA_RULE_CHAIN, ch.Chain.Name)
	list := w.nest(unix.NFTA_RULE_EXPRESSIONS)
	for _, e := range exprs(r) {
		w.expr(e)
	}
	w.close(list)
	if r.ID != "" {
		w.bytes(unix.NFTA_RULE_USERDATA, comment(r.ID)...)
	}
	w.end()
}

func (w *writer) set(ch *ruleset.Change) {
	s := ch.Set
	t := setTypes[s.Type]
	if !ch.Within && ch.Op == ruleset.Delete {
		w.named(unix.NFT_MSG_DELSET, ch, s.Name)
		return
	}
	if !ch.Within {
		flags, room := uint32(0), size(s.Elems.Len())
		if s.Interval {
			flags, room = unix.NFT_SET_INTERVAL, 0
		}
		w.addSet(ch, s.Name, t, flags, room)
	}
	l := w.elements(ch, s.Name)
	for e := range s.Elems.All() {
		l.add(t, &e, s.Interval)
	}
	l.end()
}

func (w *writer) vmap(ch *ruleset.Change) {
	m := ch.Map
	t := setTypes[m.Type]
	if !ch.Within && ch.Op == ruleset.Delete {
		w.named(unix.NFT_MSG_DELSET, ch, m.Name)
		return
	}
	if !ch.Within {
		w.addSet(ch, m.Name, t, unix.NFT_SET_MAP, size(len(m.Entries)))
	}
	l := w.elements(ch, m.Name)
	for i := range m.Entries {
		l.entry(t, &m.Entries[i])
	}
	l.end()
}

// What the libraries have no names for: of a set's flags, of its description, and of the notes that nft leaves for itself.
const (
	setConcat = 0x80 // NFT_SET_CONCAT

	descConcat = 2 // NFTA_SET_DESC_CONCAT: the fields, each with its length
	fieldLen   = 1 // NFTA_SET_FIELD_LEN

	nativeOrder, networkOrder = 1, 2 // in which nft prints the key
)

func (w *writer) addSet(ch *ruleset.Change, name string, t setType, flags, room uint32) {
	order := uint32(networkOrder)
	if t.parts[0].value == ifname && flags&unix.NFT_SET_INTERVAL == 0 {
		order = nativeOrder
	}
	if len(t.parts) > 1 {
		flags |= setConcat
	}
	w.add(unix.NFT_MSG_NEWSET, create, subject{change: ch})
	w.text(unix.NFTA_SET_TABLE, w.table)
	w.text(unix.NFTA_SET_NAME, name)
	w.u32(unix.NFTA_SET_FLAGS, flags)
	w.u32(unix.NFTA_SET_KEY_TYPE, t.key.GetNFTMagic())
	w.u32(unix.NFTA_SET_KEY_LEN, t.key.Bytes)
	w.u32(unix.NFTA_SET_ID, uint32(len(w.about))) // any number that no other set of the transaction has
	if flags&unix.NFT_SET_MAP != 0 {
		w.u32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		w.u32(unix.NFTA_SET_DATA_LEN, nftables.TypeVerdict.Bytes)
	}
	w.describe(t, room)
	w.bytes(unix.NFTA_SET_USERDATA, userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, order)...)
	w.end()
}

// describe how many elements there will be, and what a concatenation is of: without that the kernel would not be asked, but nft
// could not list it.
func (w *writer) describe(t setType, room uint32) {
	if room == 0 && len(t.parts) == 1 {
		return
	}
	desc := w.nest(unix.NFTA_SET_DESC)
	if room > 0 {
		w.u32(unix.NFTA_SET_DESC_SIZE, room)
	}
	if len(t.parts) > 1 {
		concat := w.nest(descConcat)
		for _, f := range t.parts {
			field := w.nest(unix.NFTA_LIST_ELEM)
			w.u32(fieldLen, uint32(f.size))
			w.close(field)
		}
		w.close(concat)
	}
	w.close(desc)
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

// elements of one set, to be added or deleted, in as many messages as they take: an attribute has at most 64 KiB.
type elements struct {
	w        *writer
	ch       *ruleset.Change
	set      string
	open     bool
	list     int // where the list begins
	from, to [maxKey]byte
}

const (
	maxKey  = 32
	maxList = 60_000 // and an element has at most some hundred bytes
)

func (w *writer) elements(ch *ruleset.Change, set string) *elements {
	return &elements{w: w, ch: ch, set: set}
}

// begin an element, and a message where there is none with room.
func (l *elements) begin() (at int) {
	w := l.w
	if l.open && len(w.buf)-l.list > maxList {
		l.end()
	}
	if !l.open {
		typ, flags := uint16(unix.NFT_MSG_NEWSETELEM), uint16(create)
		if l.ch.Op == ruleset.Delete {
			typ, flags = unix.NFT_MSG_DELSETELEM, 0
		}
		w.add(typ, flags, subject{change: l.ch})
		w.text(unix.NFTA_SET_ELEM_LIST_TABLE, w.table)
		w.text(unix.NFTA_SET_ELEM_LIST_SET, l.set)
		l.list, l.open = w.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS), true
	}
	return w.nest(unix.NFTA_LIST_ELEM)
}

func (l *elements) end() {
	if l.open {
		l.w.close(l.list)
		l.w.end()
		l.open = false
	}
}

// add an element. In an interval set each range is its first value and, as an element of its own, the first value behind it; a range
// that ends at the last value there is has none.
func (l *elements) add(t setType, e *ruleset.Elem, interval bool) {
	from, to := t.appendBytes(l.from[:0], l.to[:0], e)
	at := l.begin()
	l.w.value(unix.NFTA_SET_ELEM_KEY, from)
	l.w.close(at)
	if !interval || !increment(to) {
		return
	}
	at = l.begin()
	l.w.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	l.w.value(unix.NFTA_SET_ELEM_KEY, to)
	l.w.close(at)
}

func (l *elements) entry(t setType, e *ruleset.Entry) {
	from, _ := t.appendBytes(l.from[:0], l.to[:0], &e.Key)
	at := l.begin()
	l.w.value(unix.NFTA_SET_ELEM_KEY, from)
	l.w.verdict(unix.NFTA_SET_ELEM_DATA, verdict(e.Verdict))
	l.w.close(at)
}

// increment makes b one more, as a big number; false when there is no such number.
func increment(b []byte) bool {
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			return true
		}
	}
	return false
}

var hooks = map[string]*nftables.ChainHook{
	"prerouting": nftables.ChainHookPrerouting, "input": nftables.ChainHookInput, "forward": nftables.ChainHookForward,
	"output": nftables.ChainHookOutput, "postrouting": nftables.ChainHookPostrouting,
}

// expr writes an expression. Those that nearly all rules are made of are written here, the others by the library, which takes several
// times as long.
func (b *batch) expr(e expr.Any) {
	at := b.nest(unix.NFTA_LIST_ELEM)
	defer b.close(at)
	switch e := e.(type) {
	case *expr.Counter:
		data := b.kind("counter")
		b.u64(unix.NFTA_COUNTER_BYTES, 0)
		b.u64(unix.NFTA_COUNTER_PACKETS, 0)
		b.close(data)
	case *expr.Meta:
		data := b.kind("meta")
		b.u32(unix.NFTA_META_KEY, uint32(e.Key))
		register := uint16(unix.NFTA_META_DREG)
		if e.SourceRegister {
			register = unix.NFTA_META_SREG
		}
		b.u32(register, e.Register)
		b.close(data)
	case *expr.Payload:
		data := b.kind("payload")
		b.u32(unix.NFTA_PAYLOAD_DREG, e.DestRegister)
		b.u32(unix.NFTA_PAYLOAD_BASE, uint32(e.Base))
		b.u32(unix.NFTA_PAYLOAD_OFFSET, e.Offset)
		b.u32(unix.NFTA_PAYLOAD_LEN, e.Len)
		b.close(data)
	case *expr.Cmp:
		data := b.kind("cmp")
		b.u32(unix.NFTA_CMP_SREG, e.Register)
		b.u32(unix.NFTA_CMP_OP, uint32(e.Op))
		b.value(unix.NFTA_CMP_DATA, e.Data)
		b.close(data)
	case *expr.Lookup:
		data := b.kind("lookup")
		b.lookup(e)
		b.close(data)
	case *expr.Verdict:
		data := b.kind("immediate")
		b.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		b.verdict(unix.NFTA_IMMEDIATE_DATA, e)
		b.close(data)
	default:
		b.byLibrary(e)
	}
}

// kind begins an expression of that name, and its data.
func (b *batch) kind(name string) (data int) {
	b.text(unix.NFTA_EXPR_NAME, name)
	return b.nest(unix.NFTA_EXPR_DATA)
}

func (b *batch) lookup(e *expr.Lookup) {
	b.text(unix.NFTA_LOOKUP_SET, e.SetName)
	b.u32(unix.NFTA_LOOKUP_SREG, e.SourceRegister)
	if e.IsDestRegSet {
		b.u32(unix.NFTA_LOOKUP_DREG, e.DestRegister)
	}
	if e.Invert {
		b.u32(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)
	}
}

func (b *batch) verdict(typ uint16, v *expr.Verdict) {
	data := b.nest(typ)
	verdict := b.nest(unix.NFTA_DATA_VERDICT)
	b.u32(unix.NFTA_VERDICT_CODE, uint32(v.Kind))
	if v.Chain != "" {
		b.text(unix.NFTA_VERDICT_CHAIN, v.Chain)
	}
	b.close(verdict)
	b.close(data)
}

func (b *batch) byLibrary(e expr.Any) {
	text, err := expr.Marshal(unix.NFPROTO_INET, e)
	b.buf = append(b.buf, text...)
	if b.failed == nil && err != nil {
		b.failed = fmt.Errorf("%s: %w", b.about[len(b.about)-1], err)
	}
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
