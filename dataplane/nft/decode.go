package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
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
	flags   nftables.TableFlags // to name it with
	adopt   bool                // it is an orphan: take it over
	replace bool                // it cannot be changed into ours
}

func (c *Conn) read() (state, error) {
	t, err := c.find()
	if err != nil || t == nil {
		return state{}, err
	}
	s := state{exists: true, flags: t.Flags}
	switch {
	case c.flags == 0 || t.Flags&owned == owned:
	case t.Flags&nftables.TableFlagPersist != 0:
		s.adopt, s.flags = true, c.flags
	default: // nobody's: only a new table can have an owner that persists
		s.replace = true
	}
	s.table, err = c.decode(t)
	if errors.Is(err, errForeign) {
		s.table, s.replace, err = nil, true, nil
	}
	return s, err
}

// errForeign says that something in the table is nothing that a ruleset.Table can have.
var errForeign = errors.New("is none of ours")

func (c *Conn) decode(t *nftables.Table) (*ruleset.Table, error) {
	out := &ruleset.Table{Name: c.name}
	sets, err := c.nl.GetSets(t)
	if err != nil {
		return nil, fmt.Errorf("listing sets: %w: %w", errForeign, err)
	}
	for _, s := range sets {
		if s.Anonymous {
			continue
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
		out.Chains = append(out.Chains, *chain)
	}
	slices.SortFunc(out.Sets, func(a, b ruleset.Set) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Maps, func(a, b ruleset.Map) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Chains, func(a, b ruleset.Chain) int { return strings.Compare(a.Name, b.Name) })
	return out, err
}

// eachRule calls f for each chain of the table, with nil, and then for each of its rules in order.
func (c *Conn) eachRule(t *nftables.Table, f func(*nftables.Chain, *nftables.Rule)) error {
	all, err := c.nl.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("listing chains: %w", err)
	}
	for _, chain := range all {
		if chain.Table.Name != t.Name {
			continue
		}
		f(chain, nil)
		rules, err := c.nl.GetRules(t, chain)
		if err != nil {
			return fmt.Errorf("listing rules of chain %s: %w", chain.Name, err)
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
	elems, err := c.nl.GetSetElements(s)
	if err != nil {
		return fmt.Errorf("listing elements: %w", err)
	}
	t := setTypes[typ]
	if s.IsMap {
		m := ruleset.Map{Name: s.Name, Type: typ}
		for _, e := range elems {
			key, ok := t.elem(e.Key, e.Key)
			v, vok := decodeVerdict(e.Val)
			if !ok || !vok {
				return errForeign
			}
			m.Entries = append(m.Entries, ruleset.Entry{Key: key, Verdict: v})
		}
		slices.SortFunc(m.Entries, func(a, b ruleset.Entry) int { return a.Key.Compare(b.Key) })
		out.Maps = append(out.Maps, m)
		return nil
	}
	set := ruleset.Set{Name: s.Name, Type: typ, Interval: s.Interval}
	if set.Elems, err = t.decode(elems, s.Interval); err != nil {
		return err
	}
	slices.SortFunc(set.Elems, ruleset.Elem.Compare)
	out.Sets = append(out.Sets, set)
	return nil
}

// typeOf a set: the type of ours that has its key. Verdict maps are the only maps we have.
func typeOf(s *nftables.Set) (ruleset.Type, bool) {
	if s.IsMap && s.DataType.Name != nftables.TypeVerdict.Name || s.HasTimeout || s.Dynamic {
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
		case i+1 < len(elems) && elems[i+1].IntervalEnd:
			add(e.Key, previous(elems[i+1].Key))
		default:
			add(e.Key, bytes.Repeat([]byte{0xff}, len(e.Key)))
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

// decodeRule is the opposite of exprs. A rule that exprs would not have written is named as such, and equals none of ours.
func decodeRule(r *nftables.Rule) ruleset.Rule {
	d := &ruleReader{in: r.Exprs, rule: ruleset.Rule{ID: commentOf(r)}}
	for len(d.in) > 0 {
		if err := d.statement(); err != nil {
			return ruleset.Rule{ID: ruleset.RuleID(fmt.Sprintf("not ours: %v", err))}
		}
	}
	d.impliedFamily()
	return d.rule
}

type ruleReader struct {
	in   []expr.Any
	rule ruleset.Rule
}

func (d *ruleReader) statement() error {
	switch e := d.in[0].(type) {
	case *expr.Counter:
		d.rule.Counter = true
	case *expr.Log:
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

// comparison reads a load and what is asked of it.
func (d *ruleReader) comparison() error {
	key, n := keyAt(d.in)
	if n == 0 || len(d.in) == n {
		return fmt.Errorf("%T", d.in[0])
	}
	d.in = d.in[n:]
	m := ruleset.Match{Key: key}
	f := fields[key]
	var ok bool
	used := 1
	switch e := d.in[0].(type) {
	case *expr.Lookup:
		ok = true
		if e.IsDestRegSet {
			d.rule.VMap = &ruleset.VMap{Key: key, Map: e.SetName}
			d.in = d.in[1:]
			return nil
		}
		m.Set, m.Not = e.SetName, e.Invert
	case *expr.Range:
		m.Not = e.Op == expr.CmpOpNeq
		m.Elem, ok = f.elem(e.FromData, e.ToData)
	case *expr.Cmp:
		switch last, _ := at(d.in, 1).(*expr.Cmp); {
		case e.Op == expr.CmpOpGte && last != nil && last.Op == expr.CmpOpLte:
			used = 2
			m.Elem, ok = f.elem(e.Data, last.Data)
		case e.Op == expr.CmpOpEq || e.Op == expr.CmpOpNeq:
			m.Not = e.Op == expr.CmpOpNeq
			m.Elem, ok = f.elem(e.Data, e.Data)
		}
	case *expr.Bitwise:
		used = 2
		if c, isCmp := at(d.in, 1).(*expr.Cmp); isCmp && (c.Op == expr.CmpOpEq || c.Op == expr.CmpOpNeq) {
			m.Not = c.Op == expr.CmpOpNeq
			ok = masked(&m, f, e.Mask, c.Data)
		}
	}
	if !ok {
		return fmt.Errorf("%T of %s", d.in[0], key)
	}
	d.rule.Matches = append(d.rule.Matches, m)
	d.in = d.in[used:]
	return nil
}

func at(in []expr.Any, i int) expr.Any {
	if i < len(in) {
		return in[i]
	}
	return nil
}

// masked reads a comparison of some of the bits.
func masked(m *ruleset.Match, f field, mask, value []byte) (ok bool) {
	switch {
	case len(mask) != f.size || len(value) != f.size:
		return false
	case m.Key == ruleset.KeyCTState:
		m.Not = !m.Not
		m.Elem, ok = f.elem(mask, mask)
	case m.Key == ruleset.KeyMark:
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
		if len(in) > len(parts) && !slices.ContainsFunc([]int{0, 1, 2}, func(i int) bool { return !sameLoad(in[i], fields[parts[i].key]) }) {
			return key, len(parts)
		}
	}
	for key := range fields {
		if sameLoad(in[0], fields[key]) {
			return icmpKey(key), 1
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
	case *expr.Payload:
		want, ok := f.load.(*expr.Payload)
		return ok && have.Base == want.Base && have.Offset == want.Offset && have.Len == want.Len
	}
	return false
}

// icmpKey gives one of the two keys that are loaded the same way; impliedFamily tells which it is.
func icmpKey(k ruleset.Key) ruleset.Key {
	switch k {
	case ruleset.KeyICMPv6Type:
		return ruleset.KeyICMPType
	case ruleset.KeyICMPv6Code:
		return ruleset.KeyICMPCode
	}
	return k
}

// impliedFamily leaves out the question for the packet's family that an address implies, and tells ICMP from ICMPv6 by the
// protocol that the rule has asked for.
func (d *ruleReader) impliedFamily() {
	implied := d.rule.VMap != nil && hasFamily(d.rule.VMap.Key)
	v6 := false
	for _, m := range d.rule.Matches {
		implied = implied || hasFamily(m.Key)
		v6 = v6 || m.Key == ruleset.KeyL4Proto && m.Elem.Num == unix.IPPROTO_ICMPV6
	}
	var out []ruleset.Match
	for _, m := range d.rule.Matches {
		switch {
		case m.Key == ruleset.KeyNFProto && implied:
			continue
		case m.Key == ruleset.KeyICMPType && v6:
			m.Key = ruleset.KeyICMPv6Type
		case m.Key == ruleset.KeyICMPCode && v6:
			m.Key = ruleset.KeyICMPv6Code
		}
		out = append(out, m)
	}
	d.rule.Matches = out
}

func hasFamily(k ruleset.Key) bool {
	if parts, ok := concats[k]; ok {
		k = parts[0].key
	}
	return fields[k].family != 0
}
