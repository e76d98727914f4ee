package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// state is what there is in the kernel under our table's name.
type state struct {
	table   *ruleset.Table
	exists  bool
	mine    bool // we own it
	adopt   bool // it is an orphan, to be taken over
	replace bool // it cannot be changed into ours

	remembered bool   // not read
	gen        uint32 // the generation that has it, where that had to be known
}

// settled tells whether the table itself is as it has to be, whatever is in it.
func (s state) settled() bool { return s.exists && !s.adopt && !s.replace }

// read what is in a table that was found, by one who makes tables with these flags.
func (c *Conn) read(t *nftables.Table, flags nftables.TableFlags) (s state, err error) {
	if t == nil {
		return state{}, nil
	}
	s = state{exists: true, mine: t.Flags&owned == owned}
	s.adopt = flags == owned && !s.mine
	// Only a new table can get an owner and persist; and one that is dormant, and filters nothing, cannot be woken and changed
	// in one transaction.
	s.replace = s.adopt && t.Flags&nftables.TableFlagPersist == 0 || t.Flags&nftables.TableFlagDormant != 0
	if s.replace {
		return s, nil
	}
	s.table, err = c.decode(t)
	if errors.Is(err, errForeign) {
		s.table, s.replace, err = nil, true, nil
	}
	return s, err
}

// decodeGeneration reads the answer to a question for the generation.
func decodeGeneration(m []byte) (gen uint32, err error) {
	if len(m) < wholeHeader {
		return 0, fmt.Errorf("reading the generation: an answer of %d bytes", len(m))
	}
	ad, err := netlink.NewAttributeDecoder(m[wholeHeader:])
	if err != nil {
		return 0, fmt.Errorf("reading the generation: %w", err)
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		if ad.Type() == unix.NFTA_GEN_ID {
			gen = ad.Uint32()
		}
	}
	if err := ad.Err(); err != nil || gen == 0 {
		return 0, errors.Join(errors.New("reading the generation: the answer has none"), err)
	}
	return gen, nil
}

// errForeign says that something in the table is nothing that a ruleset.Table can have.
var errForeign = errors.New("is none of ours")

func (c *Conn) decode(t *nftables.Table) (*ruleset.Table, error) {
	out := &ruleset.Table{Name: c.name}
	if err := c.onlyOurKinds(t); err != nil {
		return nil, err
	}
	if err := c.call("listing sets"); err != nil {
		return nil, err
	}
	sets, err := c.nl.GetSets(t)
	if err != nil {
		return nil, listing("sets", err)
	}
	for _, s := range sets {
		if s.Anonymous {
			continue // the rule that has it is none of ours
		}
		s.Table = t
		if err := c.decodeSet(out, s); err != nil {
			return nil, fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	chains := map[string]*ruleset.Chain{}
	err = c.eachRule(t, func(nc *nftables.Chain, r *nftables.Rule) {
		if chains[nc.Name] == nil {
			chains[nc.Name] = decodeChain(nc)
		}
		if r != nil {
			chains[nc.Name].Rules = append(chains[nc.Name].Rules, decodeRule(r))
		}
	})
	for _, chain := range chains {
		out.Chains = append(out.Chains, chain)
	}
	slices.SortFunc(out.Sets, func(a, b *ruleset.Set) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Maps, func(a, b *ruleset.Map) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Chains, func(a, b *ruleset.Chain) int { return strings.Compare(a.Name, b.Name) })
	return out, err
}

// listing wraps an error of the library's. Where it is none of the kernel's, there was an answer that the library does not
// know: something that we have not made.
func listing(what string, err error) error {
	var no unix.Errno
	if errors.As(err, &no) {
		return fmt.Errorf("listing %s: %w", what, err)
	}
	return fmt.Errorf("listing %s: %w: %w", what, errForeign, err)
}

// onlyOurKinds refuses a table with stateful objects or flow tables.
func (c *Conn) onlyOurKinds(t *nftables.Table) error {
	if err := c.call("listing objects"); err != nil {
		return err
	}
	objects, err := c.nl.GetNamedObjects(t)
	if err != nil {
		return listing("objects", err)
	}
	if err := c.call("listing flow tables"); err != nil {
		return err
	}
	flows, err := c.nl.ListFlowtables(t)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return listing("flow tables", err)
	}
	if len(objects)+len(flows) > 0 {
		return fmt.Errorf("a stateful object or flow table %w", errForeign)
	}
	return nil
}

// eachRule calls f for each chain of the table, with nil, and then for each of its rules in order.
func (c *Conn) eachRule(t *nftables.Table, f func(*nftables.Chain, *nftables.Rule)) error {
	if err := c.call("listing chains"); err != nil {
		return err
	}
	all, err := c.nl.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("listing chains: %w", err)
	}
	for _, chain := range all {
		if chain.Table.Name != t.Name {
			continue
		}
		f(chain, nil)
		if err := c.call("listing rules"); err != nil {
			return err
		}
		rules, err := c.nl.GetRules(t, chain)
		if err != nil {
			return listing("rules of chain "+chain.Name, err)
		}
		for _, r := range rules {
			f(chain, r)
		}
	}
	return nil
}

func decodeChain(c *nftables.Chain) *ruleset.Chain {
	out := &ruleset.Chain{Name: c.Name}
	if c.Hooknum == nil {
		return out
	}
	out.Hook = fmt.Sprintf("number %d", *c.Hooknum)
	for name, h := range hooks {
		if *h == *c.Hooknum {
			out.Hook = name
		}
	}
	if c.Priority != nil {
		out.Priority = int(*c.Priority)
	}
	if c.Type != nftables.ChainTypeFilter || c.Policy == nil || *c.Policy != nftables.ChainPolicyAccept {
		out.Hook = fmt.Sprintf("%s of type %s", out.Hook, c.Type) // none that we would want
	}
	return out
}

func (c *Conn) decodeSet(out *ruleset.Table, s *nftables.Set) error {
	typ, ok := typeOf(s)
	if !ok {
		return errForeign
	}
	if err := c.call("listing elements"); err != nil {
		return err
	}
	elems, err := c.nl.GetSetElements(s)
	if err != nil {
		return listing("elements", err)
	}
	t := setTypes[typ]
	if s.IsMap {
		m := ruleset.Map{Name: s.Name, Type: typ}
		m.Entries, err = t.decodeEntries(elems)
		out.Maps = append(out.Maps, &m)
		return err
	}
	set := ruleset.Set{Name: s.Name, Type: typ, Interval: s.Interval}
	have, err := t.decode(elems, s.Interval)
	if err != nil {
		return err
	}
	slices.SortFunc(have, ruleset.Elem.Compare)
	set.Elems = ruleset.ElemsOf(have...)
	out.Sets = append(out.Sets, &set)
	return nil
}

func (t setType) decodeEntries(elems []nftables.SetElement) (out []ruleset.Entry, err error) {
	for _, e := range elems {
		key, ok := t.elem(e.Key, e.Key)
		v, vok := decodeVerdict(e.Val)
		if !ok || !vok {
			return nil, errForeign
		}
		out = append(out, ruleset.Entry{Key: key, Verdict: v})
	}
	slices.SortFunc(out, func(a, b ruleset.Entry) int { return a.Key.Compare(b.Key) })
	return out, nil
}

// typeOf a set: the type of ours that has its key. Verdict maps are the only maps we have.
func typeOf(s *nftables.Set) (ruleset.Type, bool) {
	if s.IsMap && (s.DataType.Name != nftables.TypeVerdict.Name || s.Interval) || s.HasTimeout || s.Dynamic || s.Interval && s.Concatenation {
		return 0, false
	}
	for typ, t := range setTypes {
		if t.key.Name == s.KeyType.Name {
			return typ, true
		}
	}
	return 0, false
}

// decode is the opposite of elements. An end belongs to the last beginning before it.
func (t setType) decode(elems []nftables.SetElement, interval bool) (out []ruleset.Elem, err error) {
	add := func(from, to []byte) {
		e, ok := t.elem(from, to)
		if !ok {
			err = errForeign
		}
		out = append(out, e)
	}
	if !interval {
		for _, e := range elems {
			add(e.Key, e.Key)
		}
		return out, err
	}
	slices.SortFunc(elems, func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		if a.IntervalEnd { // one range ends where the next begins
			return -1
		}
		return 1
	})
	for i, e := range elems {
		switch {
		case e.IntervalEnd:
		case i+1 == len(elems):
			add(e.Key, bytes.Repeat([]byte{0xff}, len(e.Key)))
		case elems[i+1].IntervalEnd:
			add(e.Key, previous(elems[i+1].Key))
		default:
			err = errForeign
		}
	}
	return out, err
}

// previous is b - 1 as a big number.
func previous(b []byte) []byte {
	out := bytes.Clone(b)
	for i := len(out) - 1; i >= 0; i-- {
		if out[i]--; out[i] != 0xff {
			break
		}
	}
	return out
}

// decodeVerdict reads the attributes of a verdict in a map's element, which the library leaves as they are.
func decodeVerdict(b []byte) (ruleset.Verdict, bool) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return ruleset.Verdict{}, false
	}
	ad.ByteOrder = binary.BigEndian
	var v expr.Verdict
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_VERDICT_CODE:
			v.Kind = expr.VerdictKind(int32(ad.Uint32()))
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = ad.String()
		}
	}
	return verdictOf(&v)
}

func verdictOf(v *expr.Verdict) (ruleset.Verdict, bool) {
	for ours, theirs := range verdictKinds {
		if theirs == v.Kind {
			return ruleset.Verdict{Kind: ours, Chain: v.Chain}, true
		}
	}
	return ruleset.Verdict{}, false
}

func commentOf(r *nftables.Rule) ruleset.RuleID {
	text, _ := userdata.GetString(r.UserData, userdata.TypeComment)
	return ruleset.RuleID(text)
}

func counted(r *nftables.Rule) (Count, bool) {
	for _, e := range r.Exprs {
		if n, ok := e.(*expr.Counter); ok {
			return Count{n.Packets, n.Bytes}, true
		}
	}
	return Count{}, false
}

// decodeRule is the opposite of exprs. A rule that exprs would not have written just so is named as such, and equals none of
// ours: that it reads like one of ours is not enough, for the library leaves out what it does not know.
func decodeRule(r *nftables.Rule) ruleset.Rule {
	d := &ruleReader{in: r.Exprs, rule: ruleset.Rule{ID: commentOf(r)}}
	for len(d.in) > 0 {
		if err := d.statement(); err != nil {
			return notOurs(err)
		}
	}
	if again := exprs(&d.rule); !sameExprs(again, r.Exprs) {
		return notOurs(fmt.Errorf("we would write %s in another way", &d.rule))
	}
	return d.rule
}

func notOurs(err error) ruleset.Rule {
	return ruleset.Rule{ID: ruleset.RuleID(fmt.Sprintf("not ours: %v", err))}
}

// sameExprs compares all but what counters have counted.
func sameExprs(a, b []expr.Any) bool {
	return slices.EqualFunc(a, b, func(x, y expr.Any) bool {
		if _, ok := x.(*expr.Counter); ok {
			_, ok = y.(*expr.Counter)
			return ok
		}
		return reflect.DeepEqual(x, y)
	})
}

type ruleReader struct {
	in    []expr.Any
	rule  ruleset.Rule
	fixed int // so many matches stand before a statement, and are not implied by what stands behind it
}

func (d *ruleReader) statement() error {
	if m, ok := readSetMark(d.in); ok {
		d.rule.Mark, d.fixed, d.in = m, len(d.rule.Matches), d.in[3:]
		return nil
	}
	switch e := d.in[0].(type) {
	case *expr.Counter:
		d.rule.Counter, d.fixed = true, len(d.rule.Matches)
	case *expr.Limit:
		d.fixed = len(d.rule.Matches)
		d.rule.Limit = &ruleset.Limit{Rate: e.Rate, Unit: ruleset.Unit(e.Unit), Burst: e.Burst}
	case *expr.Notrack:
		d.rule.NoTrack, d.fixed = true, len(d.rule.Matches)
	case *expr.Log:
		d.fixed = len(d.rule.Matches)
		d.rule.Log = &ruleset.LogStmt{Prefix: string(e.Data)}
		if e.Key != logKey || e.Level != expr.LogLevelInfo {
			return fmt.Errorf("another log statement")
		}
	case *expr.Reject:
		d.rule.Verdict = ruleset.Verdict{Kind: ruleset.Reject}
	case *expr.Verdict:
		v, ok := verdictOf(e)
		if !ok {
			return fmt.Errorf("verdict %d", e.Kind)
		}
		d.rule.Verdict = v
	default:
		return d.comparison()
	}
	d.in = d.in[1:]
	return nil
}

// readSetMark is the opposite of setMark.
func readSetMark(in []expr.Any) (*ruleset.SetMark, bool) {
	b, ok := at(in, 1).(*expr.Bitwise)
	store, stores := at(in, 2).(*expr.Meta)
	if !ok || !stores || !store.SourceRegister || len(b.Mask) != 4 || len(b.Xor) != 4 {
		return nil, false
	}
	m := &ruleset.SetMark{Set: binary.NativeEndian.Uint32(b.Xor)}
	if m.Set == 0 {
		m.Clear = ^binary.NativeEndian.Uint32(b.Mask)
	}
	return m, true
}

// comparison reads a load and what is asked of it.
func (d *ruleReader) comparison() error {
	key, n := keyAt(d.in)
	if n == 0 || len(d.in) == n {
		return fmt.Errorf("%T", d.in[0])
	}
	d.in = d.in[n:]
	if len(d.rule.Matches) > d.fixed {
		d.rule.Matches = withoutImplied(d.rule.Matches, key)
	}
	key = d.icmpKey(key)
	if l, ok := d.in[0].(*expr.Lookup); ok && l.IsDestRegSet {
		d.rule.VMap = &ruleset.VMap{Key: key, Map: l.SetName}
		d.in = d.in[1:]
		return nil
	}
	m := ruleset.Match{Key: key}
	used := readValue(&m, d.in)
	if used == 0 {
		return fmt.Errorf("%T of %s", d.in[0], key)
	}
	d.rule.Matches = append(d.rule.Matches, m)
	d.in = d.in[used:]
	return nil
}

// readValue is the opposite of compare, and of a lookup in a set. It gives how many expressions it has read; 0 when they are none
// of ours.
func readValue(m *ruleset.Match, in []expr.Any) int {
	f := fields[m.Key]
	second, _ := at(in, 1).(*expr.Cmp)
	ok, used := false, 1
	switch e := in[0].(type) {
	case *expr.Lookup:
		m.Set, m.Not, ok = e.SetName, e.Invert, true
	case *expr.Range:
		m.Not = e.Op == expr.CmpOpNeq
		m.Elem, ok = f.elem(e.FromData, e.ToData)
	case *expr.Cmp:
		to := e.Data
		if e.Op == expr.CmpOpGte && second != nil {
			to, used = second.Data, 2
		}
		m.Not = e.Op == expr.CmpOpNeq
		m.Elem, ok = f.elem(e.Data, to)
	case *expr.Bitwise:
		if second != nil {
			m.Not, used = second.Op == expr.CmpOpNeq, 2
			ok = readMasked(m, f, e.Mask, second.Data)
		}
	}
	if !ok {
		return 0
	}
	return used
}

func at(in []expr.Any, i int) expr.Any {
	if i < len(in) {
		return in[i]
	}
	return nil
}

// readMasked reads a comparison of some of the bits.
func readMasked(m *ruleset.Match, f field, mask, value []byte) (ok bool) {
	switch {
	case len(mask) != f.size || len(value) != f.size:
		return false
	case m.Key == ruleset.KeyCTState, m.Key == ruleset.KeyCTStatus:
		m.Not = !m.Not
		m.Elem, ok = f.elem(mask, mask)
	case m.Key == ruleset.KeyMark, m.Key == ruleset.KeyCTMark:
		m.Elem, ok = f.elem(value, value)
		m.Elem.Mask = binary.NativeEndian.Uint32(mask)
	case f.value == addr:
		to := bytes.Clone(value)
		for i := range to {
			to[i] |= ^mask[i]
		}
		m.Elem, ok = f.elem(value, to)
	}
	return ok
}

// keyAt finds the key that the expressions load, and how many expressions that takes; 0 when it is none of ours.
func keyAt(in []expr.Any) (ruleset.Key, int) {
	for key, parts := range concats {
		loads := func(e expr.Any, p part) bool { return sameLoad(e, fields[p.key]) }
		if len(in) > len(parts) && slices.EqualFunc(in[:len(parts)], parts, loads) {
			return key, len(parts)
		}
	}
	for key := range fields {
		if sameLoad(in[0], fields[key]) {
			return key, 1
		}
	}
	return 0, 0
}

func sameLoad(e expr.Any, f field) bool {
	switch have := e.(type) {
	case *expr.Meta:
		want, ok := f.load.(*expr.Meta)
		return ok && !have.SourceRegister && have.Key == want.Key
	case *expr.Ct:
		want, ok := f.load.(*expr.Ct)
		return ok && !have.SourceRegister && have.Key == want.Key
	case *expr.Fib:
		want, ok := f.load.(*expr.Fib)
		return ok && have.FlagSADDR == want.FlagSADDR && have.ResultADDRTYPE == want.ResultADDRTYPE
	case *expr.Payload:
		want, ok := f.load.(*expr.Payload)
		return ok && have.Base == want.Base && have.Offset == want.Offset && have.Len == want.Len
	}
	return false
}

// icmpKey tells ICMPv6 from ICMP, whose fields are loaded the same way, by the protocol that the rule has asked for.
func (d *ruleReader) icmpKey(k ruleset.Key) ruleset.Key {
	if icmpProtocols[k] == 0 {
		return k
	}
	v6 := protocolOf(d.rule.Matches) == unix.IPPROTO_ICMPV6
	code := k == ruleset.KeyICMPCode || k == ruleset.KeyICMPv6Code
	switch {
	case v6 && code:
		return ruleset.KeyICMPv6Code
	case v6:
		return ruleset.KeyICMPv6Type
	case code:
		return ruleset.KeyICMPCode
	}
	return ruleset.KeyICMPType
}
