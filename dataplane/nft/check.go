package nft

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// The kernel's and nft's bounds.
const (
	maxName    = 127 // of a chain; sets could have more
	maxIface   = ifnameSize - 1
	maxComment = 128
	maxPrefix  = 127

	maxAddrType = unix.RTN_XRESOLVE
)

// check refuses a table that the kernel would refuse without saying which object is at fault, and one that it would take for
// another: a number cut to a byte, an interface's name cut to its buffer, a hook that does not exist.
func check(t *ruleset.Table) error {
	k := newChecker()
	if err := k.names(t); err != nil {
		return err
	}
	for i := range t.Sets {
		if err := k.set(t.Sets[i]); err != nil {
			return fmt.Errorf("set %s: %w", t.Sets[i].Name, err)
		}
	}
	for i := range t.Maps {
		if err := k.vmap(t.Maps[i]); err != nil {
			return fmt.Errorf("map %s: %w", t.Maps[i].Name, err)
		}
	}
	for i := range t.Chains {
		if err := k.chain(t.Chains[i]); err != nil {
			return fmt.Errorf("chain %s: %w", t.Chains[i].Name, err)
		}
	}
	return places(t)
}

// checker knows what can be named.
type checker struct {
	sets, maps map[string]ruleset.Type
	chains     map[string]bool
}

func newChecker() checker {
	return checker{sets: map[string]ruleset.Type{}, maps: map[string]ruleset.Type{}, chains: map[string]bool{}}
}

func (k *checker) names(t *ruleset.Table) error {
	for i := range t.Sets {
		s := t.Sets[i]
		_, again := k.sets[s.Name]
		if err := name("set", s.Name, again); err != nil {
			return err
		}
		k.sets[s.Name] = s.Type
	}
	for i := range t.Maps {
		m := t.Maps[i]
		_, again := k.maps[m.Name]
		_, taken := k.sets[m.Name]
		if err := name("map", m.Name, again || taken); err != nil {
			return err
		}
		k.maps[m.Name] = m.Type
	}
	for i := range t.Chains {
		c := t.Chains[i]
		if err := name("chain", c.Name, k.chains[c.Name]); err != nil {
			return err
		}
		k.chains[c.Name] = true
	}
	return nil
}

func name(what, n string, again bool) error {
	switch {
	case n == "" || len(n) > maxName || strings.ContainsRune(n, 0):
		return fmt.Errorf("%s %q: a name has 1 to %d bytes", what, n, maxName)
	case again:
		return fmt.Errorf("%s %s: there are two of that name", what, n)
	}
	return nil
}

func (k *checker) set(s *ruleset.Set) error {
	t, ok := setTypes[s.Type]
	if !ok {
		return fmt.Errorf("there is no type %d", s.Type)
	}
	if s.Interval && !slices.Contains([]valueKind{addr, port}, t.parts[0].value) || s.Interval && len(t.parts) > 1 {
		return fmt.Errorf("type %s has no intervals", s.Type)
	}
	var last ruleset.Elem
	first := true
	for e := range s.Elems.All() {
		if err := t.fits(e, s.Interval); err != nil {
			return err
		}
		if !first && !behind(last, e) {
			return fmt.Errorf("elements %v and %v are not sorted, or overlap", last, e)
		}
		last, first = e, false
	}
	return nil
}

// behind tells whether b begins where a has ended.
func behind(a, b ruleset.Elem) bool {
	end := a
	end.From, end.Port = a.To, a.PortTo
	begin := b
	begin.To, begin.PortTo = b.From, b.Port
	return end.Compare(begin) < 0
}

func (k *checker) vmap(m *ruleset.Map) error {
	t, ok := setTypes[m.Type]
	if !ok {
		return fmt.Errorf("there is no type %d", m.Type)
	}
	for i, e := range m.Entries {
		if err := t.fits(e.Key, false); err != nil {
			return err
		}
		if i > 0 && m.Entries[i-1].Key.Compare(e.Key) >= 0 {
			return fmt.Errorf("keys %v and %v are not sorted", m.Entries[i-1].Key, e.Key)
		}
		if e.Verdict.Kind == ruleset.Reject || e.Verdict.Kind == ruleset.Continue {
			return fmt.Errorf("a map has no verdict %q", e.Verdict)
		}
		if err := k.verdict(e.Verdict); err != nil {
			return err
		}
	}
	return nil
}

// fits refuses an element that has not exactly the values that the type is of.
func (t setType) fits(e ruleset.Elem, interval bool) error {
	if strings.Contains(e.Iface, "*") {
		return fmt.Errorf("%q: a set has whole interface names, without a star", e.Iface)
	}
	if len(t.parts) == 1 {
		return t.parts[0].fits(e, interval)
	}
	rest := e
	for _, f := range t.parts {
		if f.value == number { // of a concatenation is the protocol
			rest.Proto = 0
			continue
		}
		if err := f.fits(f.take(&rest), false); err != nil {
			return err
		}
	}
	if rest != (ruleset.Elem{}) {
		return fmt.Errorf("%+v has more than a value of %s", e, t.key.Name)
	}
	return nil
}

// take the values of the field out of the element.
func (f field) take(e *ruleset.Elem) (own ruleset.Elem) {
	switch f.value {
	case addr:
		own.From, own.To, e.From, e.To = e.From, e.To, netip.Addr{}, netip.Addr{}
	case port:
		own.Port, own.PortTo, e.Port, e.PortTo = e.Port, e.PortTo, 0, 0
	case ifname:
		own.Iface, e.Iface = e.Iface, ""
	default:
		own.Num, e.Num = e.Num, 0
	}
	return own
}

func (f field) fits(e ruleset.Elem, ranges bool) error {
	ok, single := true, true
	switch f.value {
	case addr:
		ok = f.isAddr(e.From) && f.isAddr(e.To) && e.From.Compare(e.To) <= 0
		single = e.From == e.To
	case port:
		ok, single = e.Port <= e.PortTo, e.Port == e.PortTo
	case ifname:
		ok = e.Iface != "" && len(e.Iface) <= maxIface && !strings.ContainsRune(e.Iface, 0) && starEnds(e.Iface)
	case number:
		ok = e.Num <= math.MaxUint8
	}
	rest := e
	if f.take(&rest); !ok || rest != (ruleset.Elem{}) || !single && !ranges {
		return fmt.Errorf("%+v is no value of %s", e, valueWords[f.value])
	}
	return nil
}

// starEnds tells whether a star, if there is one, is behind all the rest. Alone it would ask nothing.
func starEnds(name string) bool {
	at := strings.IndexByte(name, '*')
	return at < 0 || at > 0 && at == len(name)-1
}

func (f field) isAddr(a netip.Addr) bool { return a.BitLen() == f.size*8 && a.Zone() == "" }

var valueWords = [...]string{number: "one byte", native: "four bytes", addr: "addresses of that family", port: "ports",
	ifname: fmt.Sprintf("interface names, of 1 to %d bytes with a star at most as the last of several,", maxIface)}

func (k *checker) verdict(v ruleset.Verdict) error {
	_, ok := verdictKinds[v.Kind]
	leads := v.Kind == ruleset.Jump || v.Kind == ruleset.Goto
	switch {
	case !ok && v.Kind != ruleset.Reject && v.Kind != ruleset.Continue:
		return fmt.Errorf("there is no verdict %d", v.Kind)
	case leads && !k.chains[v.Chain]:
		return fmt.Errorf("%s: there is no such chain", v)
	case !leads && v.Chain != "":
		return fmt.Errorf("%s leads nowhere", v)
	}
	return nil
}

func (k *checker) chain(c *ruleset.Chain) error {
	if c.Hook != "" && hooks[c.Hook] == nil {
		return fmt.Errorf("there is no hook %q", c.Hook)
	}
	if c.Priority < math.MinInt32 || c.Priority > math.MaxInt32 || c.Hook == "" && c.Priority != 0 {
		return fmt.Errorf("it cannot have priority %d", c.Priority)
	}
	for i := range c.Rules {
		if err := k.rule(&c.Rules[i]); err != nil {
			return fmt.Errorf("rule %d (%s): %w", i+1, c.Rules[i].ID, err)
		}
	}
	return nil
}

func (k *checker) rule(r *ruleset.Rule) error {
	if len(r.ID) > maxComment || strings.ContainsRune(string(r.ID), 0) {
		return fmt.Errorf("a comment has at most %d bytes", maxComment)
	}
	for i := range r.Matches {
		if err := k.match(&r.Matches[i]); err != nil {
			return err
		}
	}
	if err := statements(r); err != nil {
		return err
	}
	if r.VMap != nil {
		return k.lookup(r)
	}
	return k.verdict(r.Verdict)
}

// statements are what the rule does before its verdict.
func statements(r *ruleset.Rule) error {
	if r.Log != nil && (r.Log.Prefix == "" || len(r.Log.Prefix) > maxPrefix || strings.ContainsRune(r.Log.Prefix, 0)) {
		return fmt.Errorf("a log prefix has 1 to %d bytes", maxPrefix)
	}
	if r.Mark != nil && (r.Mark.Set == 0) == (r.Mark.Clear == 0) {
		return fmt.Errorf("a mark is changed by setting bits or by clearing some, not by %+v", *r.Mark)
	}
	if r.Limit == nil {
		return nil
	}
	return limit(r.Limit)
}

var units = []ruleset.Unit{ruleset.Second, ruleset.Minute, ruleset.Hour, ruleset.Day}

// limit refuses what the kernel cannot count: it keeps time in nanoseconds, of which each packet costs so many, and a burst saves
// up so many times that cost, in 64 bits.
func limit(l *ruleset.Limit) error {
	if !slices.Contains(units, l.Unit) {
		return fmt.Errorf("a limit for each %d seconds: the units are %d", l.Unit, units)
	}
	unit := uint64(l.Unit) * 1e9
	if l.Rate < 1 || l.Rate > unit || l.Burst < 1 || unit/l.Rate > math.MaxInt64/uint64(l.Burst) {
		return fmt.Errorf("a limit of %d packets each %d seconds and a burst of %d is out of bounds", l.Rate, l.Unit, l.Burst)
	}
	return nil
}

// lookup in a verdict map.
func (k *checker) lookup(r *ruleset.Rule) error {
	if r.Verdict != (ruleset.Verdict{}) {
		return fmt.Errorf("both a map and %s", r.Verdict)
	}
	if t, ok := k.maps[r.VMap.Map]; !ok || !holds(t, r.VMap.Key) {
		return fmt.Errorf("%s vmap @%s: there is no such map of that type", keyName(r.VMap.Key), r.VMap.Map)
	}
	if proto := icmpProtocols[r.VMap.Key]; proto != 0 && protocolOf(r.Matches) != proto {
		return fmt.Errorf("%s vmap @%s: the rule does not ask for protocol %d before", r.VMap.Key, r.VMap.Map, proto)
	}
	return nil
}

func (k *checker) match(m *ruleset.Match) error {
	f, single := fields[m.Key]
	switch {
	case m.Set != "" && m.Elem != ruleset.Elem{}:
		return fmt.Errorf("%s: both a set and a value", keyName(m.Key))
	case m.Set != "":
		if t, ok := k.sets[m.Set]; !ok || !holds(t, m.Key) {
			return fmt.Errorf("%s @%s: there is no such set of that type", keyName(m.Key), m.Set)
		}
		return nil
	case !single:
		return fmt.Errorf("%s compares with sets only", keyName(m.Key))
	}
	e := m.Elem
	switch m.Key {
	case ruleset.KeyCTState, ruleset.KeyCTStatus:
		if e.Num == 0 {
			return fmt.Errorf("no bit of %s", m.Key)
		}
	case ruleset.KeyMark, ruleset.KeyCTMark:
		if e.Num&^e.Mask != 0 {
			return fmt.Errorf("no mark under mask %#x is %#x", e.Mask, e.Num)
		}
		e.Mask = 0
	case ruleset.KeySAddrType:
		if e.Num > maxAddrType {
			return fmt.Errorf("there is no type %d of addresses", e.Num)
		}
	}
	if err := f.fits(e, true); err != nil {
		return fmt.Errorf("%s: %w", m.Key, err)
	}
	return nil
}

// keyName is a key's words, if it has any.
func keyName(k ruleset.Key) string {
	if int(k) < ruleset.AllKeys {
		return k.String()
	}
	return fmt.Sprintf("key %d", k)
}

// holds tells whether a set of the type has values that the key can have.
func holds(t ruleset.Type, k ruleset.Key) bool {
	switch k {
	case ruleset.KeyIIFName, ruleset.KeyOIFName:
		return t == ruleset.TypeIface
	case ruleset.KeyIPSAddr, ruleset.KeyIPDAddr:
		return t == ruleset.TypeIPv4
	case ruleset.KeyIP6SAddr, ruleset.KeyIP6DAddr:
		return t == ruleset.TypeIPv6
	case ruleset.KeySPort, ruleset.KeyDPort:
		return t == ruleset.TypePort
	case ruleset.KeyIPSAddrPort, ruleset.KeyIPDAddrPort:
		return t == ruleset.TypeIPv4Port
	case ruleset.KeyIP6SAddrPort, ruleset.KeyIP6DAddrPort:
		return t == ruleset.TypeIPv6Port
	case ruleset.KeyIIFNameIPSAddr:
		return t == ruleset.TypeIfaceIPv4
	case ruleset.KeyIIFNameIP6SAddr:
		return t == ruleset.TypeIfaceIPv6
	case ruleset.KeyProtoDPort:
		return t == ruleset.TypeProtoPort
	case ruleset.KeyICMPType:
		return t == ruleset.TypeICMP
	case ruleset.KeyICMPv6Type:
		return t == ruleset.TypeICMPv6
	}
	return false
}
