package ruleset

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// Options of Compile.
type Options struct {
	Table string // the table's name; "" means DefaultTable
	// Found is what the host's settings were before they were changed for the table, as sysctl.conf says it, sorted. The table remembers it
	// for whoever takes it away: in a chain that no packet sees.
	Found []string
}

// FoundChain is the chain whose rules' comments are what Options had as Found.
const FoundChain = "found"

// DefaultTable is the name of the agent's table.
const DefaultTable = "tierwall"

// The priorities of our base chains within a hook. Ours come before the filter chains of others (0), and at the same hook a
// workload's egress before the other end's ingress, with what a host endpoint says of forwarded packets around both. An accept
// ends only the base chain in which it is said.
const (
	priorityRaw        = -300 // before connection tracking
	priorityMangle     = -150 // before destination NAT, and before source NAT
	priorityForwardIn  = -25
	priorityFrom       = -20
	priorityTo         = -15
	priorityForwardOut = -10
)

// whole expresses a plan from the rules up; only guards whose policies the last plan had as well, and sets, are taken from there. See
// dataplane/README.md for the packet's way through the table.
func (k *Compiler) whole(p *policy.Plan) *Table {
	c := &compiler{Compiler: k, objects: newObjects(), made: newObjects(), plan: p, settings: p.Settings[p.Node],
		any: map[string]Verdict{}, guarded: map[string]bool{}, used: map[string]bool{}, portSets: map[portList]string{}}
	k.moving.follow(p.Sets)
	if !maps.Equal(k.hasNets, k.moving.hasNets) || !reflect.DeepEqual(k.settings, c.settings) { // by which all rules are made
		k.hasNets, k.settings = k.moving.hasNets, c.settings
		k.guards.stale()
	}
	c.endpoints()
	c.baseChains()
	c.keep()
	c.remember()
	sets, verdicts, chains := c.finished()
	return &Table{Name: cmp.Or(k.options.Table, DefaultTable), Sets: merge(merge(k.moving.list, k.guards.sets.list, setName), sets, setName),
		Maps: merge(k.guards.maps.list, verdicts, mapName), Chains: merge(k.guards.chains.list, chains, chainName)}
}

func (c *compiler) remember() {
	if len(c.options.Found) == 0 {
		return
	}
	found := &Chain{Name: FoundChain}
	for _, f := range c.options.Found {
		found.Rules = append(found.Rules, Rule{ID: RuleID(f), Verdict: Verdict{Kind: Return}})
	}
	c.chains[FoundChain] = found
}

// compiler is one Table in the making.
type compiler struct {
	*Compiler
	*objects          // what is being made: of the base chains, or of a guard
	made     *objects // of guards
	plan     *policy.Plan
	settings policy.Settings
	any      map[string]Verdict // by base chain: to the guard of the host endpoint for all interfaces
	guarded  map[string]bool    // the base chains at which a host endpoint guards
	used     map[string]bool    // the guards, by name
	fresh    []*policy.Guard    // that are made anew
	named    int                // guards whose names were asked for
	portSets map[portList]string
}

func setName(s *Set) string     { return s.Name }
func mapName(m *Map) string     { return m.Name }
func chainName(c *Chain) string { return c.Name }

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
	ifaceAddr            Type
	saddr, daddr         Key
	saddrPort, daddrPort Key
	iifSAddr             Key
	icmp                 uint8
	icmpType, icmpCode   Key
}

var families = []family{
	{policy.IPv4, "4", netip.MustParsePrefix("0.0.0.0/0"), 2, TypeIPv4, TypeIPv4Port, TypeIfaceIPv4,
		KeyIPSAddr, KeyIPDAddr, KeyIPSAddrPort, KeyIPDAddrPort, KeyIIFNameIPSAddr,
		policy.ProtoICMP, KeyICMPType, KeyICMPCode},
	{policy.IPv6, "6", netip.MustParsePrefix("::/0"), 10, TypeIPv6, TypeIPv6Port, TypeIfaceIPv6,
		KeyIP6SAddr, KeyIP6DAddr, KeyIP6SAddrPort, KeyIP6DAddrPort, KeyIIFNameIP6SAddr,
		policy.ProtoICMPv6, KeyICMPv6Type, KeyICMPv6Code},
}

func (f *family) index() int {
	if f.bit == policy.IPv4 {
		return 0
	}
	return 1
}

func (f *family) has(a netip.Addr) bool { return policy.FamilyOf(a) == f.bit }

// The names of a plan's set in a family: single addresses are a hash, networks are intervals, which cost more to change
// (nftables-facts §3), and ports of addresses are a third kind.
func addrSet(f *family, id string) string { return "addr" + f.digit + "-" + safe(id) }
func netSet(f *family, id string) string  { return "net" + f.digit + "-" + safe(id) }
func portSet(f *family, id string) string { return "port" + f.digit + "-" + safe(id) }

func safe(id string) string { return strings.ReplaceAll(id, ":", "-") }

func netElems(f *family, nets []netip.Prefix) (out []Elem) {
	for _, n := range nets {
		if f.has(n.Addr()) {
			out = append(out, netElem(n))
		}
	}
	return joinRanges(out)
}

// place is where a host endpoint guards.
type place struct {
	stage     policy.Stage
	direction policy.Direction
}

// hostChains are the base chains of the places, each with a map of the same name by interface.
var hostChains = map[place]string{
	{policy.Untracked, policy.Ingress}: "untracked-in", {policy.Untracked, policy.Egress}: "untracked-out",
	{policy.PreDNAT, policy.Ingress}: "pre-dnat",
	{policy.Forward, policy.Ingress}: "forward-in", {policy.Forward, policy.Egress}: "forward-out",
	{policy.Normal, policy.Ingress}: "to-host", {policy.Normal, policy.Egress}: "from-host",
}

// translated is the base chain of a host's own packets whose destination was translated: only behind routing is it known where
// they go out.
const translated = "from-host-translated"

// endpoints makes the maps that lead a packet to the guard of its endpoint, and the chains of the guards.
func (c *compiler) endpoints() {
	for _, m := range []string{"from-workload-iface", "to-workload-iface"} {
		c.newMap(m, TypeIface)
	}
	for _, f := range families {
		for _, m := range []string{"from-workload", "to-workload"} {
			c.newMap(m+f.digit, f.addr)
		}
		c.set("workload"+f.digit, f.addr, false)
	}
	c.set("workload-iface", TypeIface, false)
	for i := range c.plan.Endpoints {
		if e := &c.plan.Endpoints[i]; e.Host() {
			c.hostGuards(e)
		} else {
			c.workload(e)
		}
	}
	for i := range c.plan.Endpoints {
		if e := &c.plan.Endpoints[i]; e.Host() {
			c.exempt(e)
		}
	}
}

func (c *compiler) hostGuards(e *policy.Endpoint) {
	for i := range e.Guards {
		g := &e.Guards[i]
		if len(g.Tiers) == 0 {
			continue
		}
		chain, m := hostChains[place{g.Stage, g.Direction}], c.denying()
		if g.Stage == policy.Untracked || g.Stage == policy.PreDNAT { // where Deny always drops (contract §4.3)
			m = dropping
		}
		c.hostGuard(e, chain, c.guard(g, m))
		if chain == "from-host" { // the kernel refuses Reject behind routing
			c.hostGuard(e, translated, c.guard(g, dropping))
		}
	}
}

func (c *compiler) hostGuard(e *policy.Endpoint, chain, guard string) {
	c.guarded[chain] = true
	for _, iface := range e.Ifaces {
		if iface == "*" {
			c.any[chain] = Verdict{Goto, guard}
			continue
		}
		c.ifaceMap(chain+"-iface").add(Elem{Iface: iface}, Verdict{Goto, guard})
	}
}

// exempt keeps the interfaces of an endpoint that guards nothing at a place from the guard for all interfaces.
func (c *compiler) exempt(e *policy.Endpoint) {
	for chain := range c.any {
		for _, iface := range e.Ifaces {
			if iface != "*" {
				c.ifaceMap(chain+"-iface").add(Elem{Iface: iface}, Verdict{Kind: Accept})
			}
		}
	}
}

// workload leads packets of a workload to its guards: by interface where that is known and, if the packet comes by another one, a
// bridge for example, by address. Of several workloads that claim one the first has it, as in policy.Plan.
func (c *compiler) workload(e *policy.Endpoint) {
	for i := range e.Guards {
		g := &e.Guards[i]
		name, to := workloadMaps[g.Direction], Verdict{Goto, c.guard(g, c.denying())}
		for _, iface := range e.Ifaces {
			c.maps[name+"-iface"].add(Elem{Iface: iface}, to)
		}
		for _, a := range e.Addrs {
			c.maps[name+digit(a)].add(Elem{From: a, To: a}, to)
		}
	}
	c.whereabouts(e)
}

var workloadMaps = [...]string{policy.Ingress: "to-workload", policy.Egress: "from-workload"}

func digit(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

// whereabouts notes what belongs to local workloads, for the chains between them and their host, and from where they may send.
func (c *compiler) whereabouts(e *policy.Endpoint) {
	add := func(name string, t Type, el Elem) {
		s := c.set(name, t, false)
		s.gathered = append(s.gathered, el)
	}
	for _, iface := range e.Ifaces {
		add("workload-iface", TypeIface, Elem{Iface: iface})
		for _, a := range e.Addrs {
			f := familyOf(a)
			add("workload-source"+f.digit, f.ifaceAddr, Elem{Iface: iface, From: a, To: a})
		}
	}
	for _, iface := range e.Shared {
		add("workload-bridge", TypeIface, Elem{Iface: iface})
		for _, a := range e.Addrs {
			f := familyOf(a)
			add("workload-shared"+f.digit, f.ifaceAddr, Elem{Iface: iface, From: a, To: a})
		}
	}
	for _, a := range e.Addrs {
		add("workload"+digit(a), familyOf(a).addr, Elem{From: a, To: a})
	}
}

func familyOf(a netip.Addr) *family {
	if a.Is4() {
		return &families[0]
	}
	return &families[1]
}

// mode is how a guard says no, and what its chains are called then.
type mode struct {
	suffix string
	deny   VerdictKind
}

var dropping = mode{suffixes[0], Drop}

var suffixes = [...]string{"", "/reject"}

func (c *compiler) denying() mode {
	if c.settings.Reject {
		return mode{suffixes[1], Reject}
	}
	return dropping
}

// guard makes the chain of a guard, once for all endpoints that have the same tiers with the same policies.
func (c *compiler) guard(g *policy.Guard, m mode) string {
	name := c.guardName(g, m)
	if c.used[name] {
		return name
	}
	if c.used[name] = true; c.guardKept(name) {
		return name
	}
	c.fresh = append(c.fresh, g)
	defer func(outer *objects) { c.objects = outer }(c.objects)
	c.objects = c.made
	chain := &Chain{Name: name}
	c.chains[name] = chain
	if g.Stage != policy.Untracked && !c.settings.KeepInvalid {
		chain.Rules = append(chain.Rules, Rule{ID: "invalid " + RuleID(g.Direction.String()), Counter: true, Verdict: Verdict{Kind: Drop},
			Matches: []Match{{Key: KeyCTState, Elem: Elem{Num: CTInvalid}}}})
	}
	for i := range g.Tiers {
		t := &g.Tiers[i]
		if c.tierPasses(t, g.Direction) {
			chain.Rules = append(chain.Rules, Rule{Verdict: Verdict{Jump, c.tierChain(t, g.Direction, m)}})
		} else {
			chain.Rules = append(chain.Rules, c.tier(fmt.Sprintf("%s/%d", name, i), t, g.Direction, m)...)
		}
		if t.Default != policy.Pass && !c.tierPasses(t, g.Direction) {
			break // nothing goes on behind it
		}
	}
	return name
}

// guardName names a guard by its tiers; those that the last plan had as well are not looked at.
func (c *compiler) guardName(g *policy.Guard, m mode) string {
	at := guardKey{&g.Tiers[0], g.Direction}
	known, ok := c.names[at]
	if !ok || len(known.tiers) != len(g.Tiers) {
		known = guardName{g.Tiers, "guard/" + g.Direction.String() + "/" + hash(g.Tiers)}
		c.names[at] = known
	}
	c.named++
	return known.name + m.suffix
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
func (c *compiler) tierChain(t *policy.Tier, d policy.Direction, m mode) string {
	name := "tier/" + d.String() + "/" + hash(*t) + m.suffix
	if c.chains[name] == nil {
		c.chains[name] = &Chain{Name: name, Rules: c.tier(name, t, d, m)}
	}
	return name
}

// tier is the tier's policies and its default action. A policy with a Pass rule stands in the tier's own chain, since only
// there return leaves the tier; every other policy has chains that are for all. owner is where the tier stands.
func (c *compiler) tier(owner string, t *policy.Tier, d policy.Direction, m mode) []Rule {
	var steps []step
	for _, ref := range t.Policies {
		p := c.plan.Policy(ref)
		switch {
		case len(p.Rules(d)) == 0:
		case p.HasPass(d):
			steps = append(steps, step{rules: func() []Rule { return c.policyRules(p, d, m) }})
		default:
			steps = append(steps, c.policyStep(p, d, m))
		}
	}
	out := c.byPort(c.policySteps(owner, steps))
	if t.Default != policy.Pass {
		out = append(out, Rule{ID: endOfTier(t, d), Counter: true, Verdict: m.verdict(t.Default)})
	}
	return out
}

// verdict of an action. Pass leaves the tier's chain; Log goes on.
func (m mode) verdict(a policy.Action) Verdict {
	return Verdict{Kind: map[policy.Action]VerdictKind{
		policy.Allow: Accept, policy.Deny: m.deny, policy.Pass: Return, policy.Log: Continue}[a]}
}

func endOfTier(t *policy.Tier, d policy.Direction) RuleID {
	if t.Name == "" {
		return RuleID("no policy or profile " + d.String())
	}
	return ruleID("end of tier "+t.Name, d.String())
}

func (c *compiler) policyChain(p *policy.Policy, d policy.Direction, m mode) string {
	name := policyName(p) + "/" + d.String() + m.suffix
	if c.chains[name] == nil {
		c.chains[name] = &Chain{Name: name, Rules: c.byPort(c.ruleSteps(p, d, m))}
	}
	return name
}

const (
	maxChainName = 127 - len("/ingress/udplite-65535/reject/99999")
	maxComment   = 128
)

// policyName is short kind, namespace and name, as users know the policy; cut with a hash when nft could not hold it.
func policyName(p *policy.Policy) string {
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

func (c *compiler) policyRules(p *policy.Policy, d policy.Direction, m mode) (out []Rule) {
	for i := range p.Rules(d) {
		out = append(out, c.rule(p, i, d, m)...)
	}
	return out
}

// rule i of a policy, in each way in which it can match.
func (c *compiler) rule(p *policy.Policy, i int, d policy.Direction, m mode) (out []Rule) {
	r := &p.Rules(d)[i]
	rule := c.effect(p, r, m)
	rule.ID = ruleID(policyName(p), fmt.Sprintf("%s %d", d, r.Index))
	if rule.Limit != nil {
		rule = c.limited(rule)
	}
	for _, matches := range c.ways(r) {
		rule.Matches = matches
		out = append(out, rule)
	}
	return out
}

// effect is what a rule does to what it matches. An Allow before connections are known is remembered in the packet's mark, and an
// untracked one keeps the packet out of connection tracking (contract §4.3); a denial there is always silent.
func (c *compiler) effect(p *policy.Policy, r *policy.Rule, m mode) Rule {
	if p.Stage != policy.Normal {
		m = dropping
	}
	out := Rule{Counter: true, Verdict: m.verdict(r.Action)}
	switch {
	case r.Action == policy.Log:
		out.Log, out.Limit = &LogStmt{Prefix: c.settings.Log(p)}, c.logLimit()
	case r.Action == policy.Allow && p.Stage != policy.Normal:
		out.Mark, out.NoTrack = &SetMark{Set: c.settings.Mark}, p.Stage == policy.Untracked
	}
	return out
}

// limited puts the limit of a rule into a chain of its own, so that all the ways in which the rule can match share it.
func (c *compiler) limited(r Rule) Rule {
	name := "log/" + cut(strings.ReplaceAll(string(r.ID), " ", "/"), maxChainName-len("log/"))
	c.chains[name] = &Chain{Name: name, Rules: []Rule{{Limit: r.Limit, Log: r.Log}}}
	r.Limit, r.Log, r.Verdict = nil, nil, Verdict{Jump, name}
	return r
}

func (c *compiler) logLimit() *Limit {
	if c.settings.LogLimit == nil {
		return nil
	}
	return &Limit{c.settings.LogLimit.Rate, Unit(c.settings.LogLimit.Seconds), max(c.settings.LogLimit.Burst, 1)} // to the kernel 0 is 5
}

// Compare orders elements as they are printed.
func (e Elem) Compare(o Elem) int {
	if c := e.From.Compare(o.From); c != 0 {
		return c
	}
	if c := strings.Compare(e.Iface, o.Iface); c != 0 {
		return c
	}
	return cmp.Or(e.To.Compare(o.To), cmp.Compare(e.Proto, o.Proto), cmp.Compare(e.Port, o.Port),
		cmp.Compare(e.PortTo, o.PortTo), cmp.Compare(e.Num, o.Num))
}
