package ruleset

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// Options of Compile.
type Options struct {
	Table string // the table's name; "" means DefaultTable
}

// DefaultTable is the name of the agent's table.
const DefaultTable = "tierwall"

// The priorities of our base chains within a hook. Ours come before the filter chains of others (0), and at the same hook a
// workload's egress before the other end's ingress. An accept ends only the base chain in which it is said.
const (
	priorityFrom = -20
	priorityTo   = -15
)

// Compile expresses a plan. Equal plans give equal tables. See dataplane/README.md for the packet's way through it.
func Compile(p *policy.Plan, o Options) *Table {
	c := &compiler{plan: p, sets: map[string]*Set{}, maps: map[string]*Map{}, chains: map[string]*Chain{}}
	c.planSets()
	c.endpoints()
	c.baseChains()
	t := &Table{Name: cmp.Or(o.Table, DefaultTable)}
	for _, name := range sortedNames(c.sets) {
		t.Sets = append(t.Sets, c.sets[name].sorted())
	}
	for _, name := range sortedNames(c.maps) {
		t.Maps = append(t.Maps, c.maps[name].sorted())
	}
	for _, name := range sortedNames(c.chains) {
		t.Chains = append(t.Chains, *c.chains[name])
	}
	return t
}

// compiler is one Table in the making.
type compiler struct {
	plan   *policy.Plan
	sets   map[string]*Set
	maps   map[string]*Map
	chains map[string]*Chain
	any    [2]string // the guard chain of the host endpoint for all interfaces, by direction
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// hash names something by its content.
func hash(content any) string {
	sum := sha256.Sum256([]byte(fmt.Sprintf("%v", content)))
	return hex.EncodeToString(sum[:10])
}

// family is how the two address families differ in nft.
type family struct {
	bit                  policy.Families
	digit                string
	all                  netip.Prefix
	nfproto              uint32
	addr, port           Type
	saddr, daddr         Key
	saddrPort, daddrPort Key
	icmp                 uint8
	icmpType, icmpCode   Key
}

var families = []family{
	{policy.IPv4, "4", netip.MustParsePrefix("0.0.0.0/0"), 2, TypeIPv4, TypeIPv4Port, KeyIPSAddr, KeyIPDAddr, KeyIPSAddrPort, KeyIPDAddrPort,
		policy.ProtoICMP, KeyICMPType, KeyICMPCode},
	{policy.IPv6, "6", netip.MustParsePrefix("::/0"), 10, TypeIPv6, TypeIPv6Port, KeyIP6SAddr, KeyIP6DAddr, KeyIP6SAddrPort, KeyIP6DAddrPort,
		policy.ProtoICMPv6, KeyICMPv6Type, KeyICMPv6Code},
}

func (f *family) has(a netip.Addr) bool { return policy.FamilyOf(a) == f.bit }

// set returns the set of that name, empty if it is new.
func (c *compiler) set(name string, t Type, interval bool) *Set {
	if c.sets[name] == nil {
		c.sets[name] = &Set{Name: name, Type: t, Interval: interval}
	}
	return c.sets[name]
}

// The names of a plan's set in a family: single addresses are a hash, networks are intervals, which cost more to change
// (nftables-facts §3), and ports of addresses are a third kind.
func addrSet(f *family, id string) string { return "addr" + f.digit + "-" + safe(id) }
func netSet(f *family, id string) string  { return "net" + f.digit + "-" + safe(id) }
func portSet(f *family, id string) string { return "port" + f.digit + "-" + safe(id) }

func safe(id string) string { return strings.ReplaceAll(id, ":", "-") }

// planSets makes the sets that move while rules stay. A set of addresses always has its hashes, even empty, so that a pod's
// coming and going touches no rule; it has intervals only while a network set is among its members.
func (c *compiler) planSets() {
	for i := range c.plan.Sets {
		s := &c.plan.Sets[i]
		for j := range families {
			f := &families[j]
			if s.OfPorts {
				set := c.set(portSet(f, s.ID), f.port, false)
				for _, p := range s.Ports {
					if f.has(p.Addr) {
						set.Elems = append(set.Elems, Elem{From: p.Addr, To: p.Addr, Proto: p.Proto, Port: p.Port, PortTo: p.Port})
					}
				}
				continue
			}
			set := c.set(addrSet(f, s.ID), f.addr, false)
			for _, a := range s.Addrs {
				if f.has(a) {
					set.Elems = append(set.Elems, Elem{From: a, To: a})
				}
			}
			if nets := c.netElems(f, s.Nets); len(nets) > 0 {
				c.set(netSet(f, s.ID), f.addr, true).Elems = nets
			}
		}
	}
}

func (c *compiler) netElems(f *family, nets []netip.Prefix) (out []Elem) {
	for _, n := range nets {
		if f.has(n.Addr()) {
			out = append(out, netElem(n))
		}
	}
	return joinRanges(out)
}

// endpoints makes the maps that lead a packet to the guard of its endpoint, and the chains of the guards.
func (c *compiler) endpoints() {
	for _, m := range []string{"from-workload-iface", "to-workload-iface", "from-host-iface", "to-host-iface"} {
		c.maps[m] = &Map{Name: m, Type: TypeIface}
	}
	for _, f := range families {
		for _, m := range []string{"from-workload", "to-workload"} {
			c.maps[m+f.digit] = &Map{Name: m + f.digit, Type: f.addr}
		}
		c.set("workload"+f.digit, f.addr, false)
	}
	c.set("workload-iface", TypeIface, false)
	for i := range c.plan.Endpoints {
		e := &c.plan.Endpoints[i]
		for j := range e.Guards {
			if g := &e.Guards[j]; g.Stage == policy.Normal {
				c.dispatch(e, g.Direction, c.guard(g))
			}
		}
		if !e.Host() {
			c.workload(e)
		}
	}
}

// dispatch leads packets of an endpoint to its guard: by interface where it is known and, a workload's, by address. Of
// several workloads that claim one the first has it, as in policy.Plan.
func (c *compiler) dispatch(e *policy.Endpoint, d policy.Direction, guard string) {
	name := mapNames[d]["workload"]
	if e.Host() {
		name = mapNames[d]["host"]
	}
	to := Verdict{Goto, guard}
	for _, iface := range e.Ifaces {
		if iface == "*" {
			c.any[d] = guard
			continue
		}
		c.maps[name+"-iface"].add(Elem{Iface: iface}, to)
	}
	if e.Host() {
		return
	}
	for _, a := range e.Addrs {
		c.maps[name+digit(a)].add(Elem{From: a, To: a}, to)
	}
}

var mapNames = [...]map[string]string{
	policy.Ingress: {"workload": "to-workload", "host": "to-host"},
	policy.Egress:  {"workload": "from-workload", "host": "from-host"},
}

func digit(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

// workload notes what belongs to local workloads, for the chains between them and their host.
func (c *compiler) workload(e *policy.Endpoint) {
	for _, iface := range e.Ifaces {
		c.sets["workload-iface"].Elems = append(c.sets["workload-iface"].Elems, Elem{Iface: iface})
	}
	for _, a := range e.Addrs {
		s := c.sets["workload"+digit(a)]
		s.Elems = append(s.Elems, Elem{From: a, To: a})
	}
}

// guard makes the chain of a guard, once for all endpoints that have the same tiers with the same policies.
func (c *compiler) guard(g *policy.Guard) string {
	name := "guard/" + g.Direction.String() + "/" + hash(g.Tiers)
	if c.chains[name] != nil {
		return name
	}
	chain := &Chain{Name: name}
	c.chains[name] = chain
	chain.Rules = append(chain.Rules, Rule{ID: "invalid " + RuleID(g.Direction.String()), Counter: true, Verdict: Verdict{Kind: Drop},
		Matches: []Match{{Key: KeyCTState, Elem: Elem{Num: CTInvalid}}}})
	for i := range g.Tiers {
		t := &g.Tiers[i]
		if c.tierPasses(t, g.Direction) {
			chain.Rules = append(chain.Rules, Rule{Verdict: Verdict{Jump, c.tierChain(t, g.Direction)}})
		} else {
			chain.Rules = append(chain.Rules, c.tier(t, g.Direction)...)
		}
		if t.Default != policy.Pass && !c.tierPasses(t, g.Direction) {
			break // nothing goes on behind it
		}
	}
	return name
}

func (c *compiler) tierPasses(t *policy.Tier, d policy.Direction) bool {
	for _, ref := range t.Policies {
		if c.plan.Policy(ref).HasPass(d) {
			return true
		}
	}
	return false
}

// tierChain makes a chain of a tier that a Pass can leave: there Pass is return.
func (c *compiler) tierChain(t *policy.Tier, d policy.Direction) string {
	name := "tier/" + d.String() + "/" + hash(*t)
	if c.chains[name] == nil {
		c.chains[name] = &Chain{Name: name, Rules: c.tier(t, d)}
	}
	return name
}

// tier is the tier's policies and its default action. A policy with a Pass rule stands in the tier's own chain, since only
// there return leaves the tier; every other policy is one chain for all.
func (c *compiler) tier(t *policy.Tier, d policy.Direction) (out []Rule) {
	for _, ref := range t.Policies {
		p := c.plan.Policy(ref)
		switch {
		case len(p.Rules(d)) == 0:
		case p.HasPass(d):
			out = append(out, c.policyRules(p, d)...)
		default:
			out = append(out, Rule{Verdict: Verdict{Jump, c.policyChain(p, d)}})
		}
	}
	if v, ok := defaults[t.Default]; ok {
		out = append(out, Rule{ID: endOfTier(t, d), Counter: true, Verdict: Verdict{Kind: v}})
	}
	return out
}

var defaults = map[policy.Action]VerdictKind{policy.Deny: Drop, policy.Allow: Accept}

func endOfTier(t *policy.Tier, d policy.Direction) RuleID {
	if t.Name == "" {
		return RuleID("no policy or profile " + d.String())
	}
	return ruleID("end of tier "+t.Name, d.String())
}

func (c *compiler) policyChain(p *policy.Policy, d policy.Direction) string {
	name := chainName(p) + "/" + d.String()
	if c.chains[name] == nil {
		c.chains[name] = &Chain{Name: name, Rules: c.policyRules(p, d)}
	}
	return name
}

const (
	maxChainName = 127 - len("/ingress")
	maxComment   = 128
)

// chainName is short kind, namespace and name, as users know the policy; cut with a hash when nft could not hold it.
func chainName(p *policy.Policy) string {
	r := p.Ref
	name := policy.ShortKind(r.Kind) + "/" + r.Name
	if r.Namespace != "" {
		name = policy.ShortKind(r.Kind) + "/" + r.Namespace + "/" + r.Name
	}
	return cut(name, maxChainName)
}

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	h := "_" + hash(s) // no name of an object has a "_"
	return s[:most-len(h)] + h
}

func ruleID(what, rest string) RuleID {
	return RuleID(cut(what, maxComment-1-len(rest)) + " " + rest)
}

func (c *compiler) policyRules(p *policy.Policy, d policy.Direction) (out []Rule) {
	for i := range p.Rules(d) {
		r := &p.Rules(d)[i]
		id := ruleID(chainName(p), fmt.Sprintf("%s %d", d, r.Index))
		for _, matches := range c.ways(r) {
			rule := Rule{ID: id, Matches: matches, Counter: true, Verdict: Verdict{Kind: verdicts[r.Action]}}
			if r.Action == policy.Log {
				rule.Log = &LogStmt{Prefix: r.Prefix}
			}
			out = append(out, rule)
		}
	}
	return out
}

// verdicts of the actions. Pass leaves the tier's chain; Log goes on.
var verdicts = map[policy.Action]VerdictKind{policy.Allow: Accept, policy.Deny: Drop, policy.Pass: Return, policy.Log: Continue}

func (m *Map) add(key Elem, v Verdict) {
	if !slices.ContainsFunc(m.Entries, func(e Entry) bool { return e.Key == key }) {
		m.Entries = append(m.Entries, Entry{key, v})
	}
}

func (m *Map) sorted() Map {
	slices.SortFunc(m.Entries, func(a, b Entry) int { return a.Key.Compare(b.Key) })
	return *m
}

func (s *Set) sorted() Set {
	slices.SortFunc(s.Elems, Elem.Compare)
	s.Elems = slices.Compact(s.Elems)
	return *s
}

// Compare orders elements as they are printed.
func (e Elem) Compare(o Elem) int {
	return cmp.Or(e.From.Compare(o.From), e.To.Compare(o.To), cmp.Compare(e.Proto, o.Proto), cmp.Compare(e.Port, o.Port),
		cmp.Compare(e.PortTo, o.PortTo), strings.Compare(e.Iface, o.Iface), cmp.Compare(e.Num, o.Num))
}
