package ruleset

import (
	"net/netip"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// baseChains are where packets come in. Those of workloads and of the host itself are always there; the others are while some
// host endpoint guards at their place.
func (c *compiler) baseChains() {
	c.neighbourDiscovery()
	toHost := Verdict{Kind: Accept} // Allow and Pass: our table has no more to say of it (contract §4.4)
	if c.settings.EndpointToHost == policy.Deny {
		toHost.Kind = Drop // whatever the deny action is: the setting says Drop
	}
	c.chains["workload-to-host"] = &Chain{Name: "workload-to-host", Rules: []Rule{
		discoveryRule(),
		{ID: "defaultEndpointToHostAction", Counter: true, Verdict: toHost},
	}}
	c.early()
	c.forwarding()
	c.local()
}

func (c *compiler) base(name, hook string, priority int, parts ...[]Rule) {
	b := &Chain{Name: name, Hook: hook, Priority: priority}
	for _, p := range parts {
		b.Rules = append(b.Rules, p...)
	}
	if len(b.Rules) > 0 {
		c.chains[name] = b
	}
}

// early is what comes before connections are known, and before destination NAT. The mark is cleared first, for it is read later:
// who sends a packet must not set it.
func (c *compiler) early() {
	c.base("raw-in", "prerouting", priorityRaw, c.unmark(c.marksIn()), c.sources(), c.hostLookups("untracked-in", KeyIIFName))
	c.base("raw-out", "output", priorityRaw, c.unmark(c.marksOut()), c.hostLookups("untracked-out", KeyOIFName))
	if c.guarded["pre-dnat"] {
		c.base("pre-dnat", "prerouting", priorityMangle, []Rule{established}, c.marked(c.marksIn()), c.hostLookups("pre-dnat", KeyIIFName))
	}
}

func (c *compiler) marksIn() bool  { return c.guarded["untracked-in"] || c.guarded["pre-dnat"] }
func (c *compiler) marksOut() bool { return c.guarded["untracked-out"] }

func (c *compiler) unmark(used bool) []Rule {
	if !used {
		return nil
	}
	return []Rule{{Mark: &SetMark{Clear: c.settings.Mark}}}
}

// marked lets by what an untracked or pre-DNAT policy has allowed.
func (c *compiler) marked(used bool) []Rule {
	if !used {
		return nil
	}
	return []Rule{{Matches: []Match{{Key: KeyMark, Elem: Elem{Num: c.settings.Mark, Mask: c.settings.Mark}}}, Verdict: Verdict{Kind: Accept}}}
}

// forwarding is what comes between the ways in and out of packets that pass.
func (c *compiler) forwarding() {
	if c.guarded["forward-in"] {
		c.base("forward-in", "forward", priorityForwardIn, []Rule{established}, c.marked(c.marksIn()), c.hostLookups("forward-in", KeyIIFName))
	}
	c.base("from-workload", "forward", priorityFrom, c.ended(), []Rule{established},
		c.lookups("from-workload", KeyIIFName, saddrs))
	c.base("to-workload", "forward", priorityTo, []Rule{established},
		c.lookups("to-workload", KeyOIFName, daddrs))
	if c.guarded["forward-out"] {
		c.base("forward-out", "forward", priorityForwardOut, []Rule{established}, c.hostLookups("forward-out", KeyOIFName))
	}
}

// local is what is for the host itself, and what it sends.
func (c *compiler) local() {
	c.base("from-workload-to-host", "input", priorityFrom, c.ended(), []Rule{established, discoveryRule()},
		c.lookups("from-workload", KeyIIFName, saddrs))
	c.base("to-host", "input", priorityTo, []Rule{established}, c.fromWorkloads(),
		c.marked(c.marksIn()), c.hostLookups("to-host", KeyIIFName))
	toWorkload := c.toWorkloads()
	dnat := Match{Key: KeyCTStatus, Elem: Elem{Num: CTStatusDNAT}}
	accept := func(m Match) []Rule { return []Rule{{Matches: []Match{m}, Verdict: Verdict{Kind: Accept}}} }
	if !c.guarded["from-host"] {
		c.base("from-host", "output", priorityTo, c.ended())
		return
	}
	c.base("from-host", "output", priorityTo, c.ended(), []Rule{established}, toWorkload, c.marked(c.marksOut()), accept(dnat),
		c.hostLookups("from-host", KeyOIFName))
	dnat.Not = true
	// an untracked packet has no ct status to ask for, and no translation
	untracked := Match{Key: KeyCTState, Elem: Elem{Num: CTUntracked}}
	c.base(translated, "postrouting", priorityMangle, []Rule{established}, accept(untracked), accept(dnat),
		accept(Match{Key: KeySAddrType, Not: true, Elem: Elem{Num: AddrLocal}}), toWorkload, c.marked(c.marksOut()),
		c.hostLookups(translated, KeyOIFName))
}

// established lets the packets of an accepted connection by (contract §4.6).
var established = Rule{Matches: []Match{{Key: KeyCTState, Elem: Elem{Num: CTEstablished | CTRelated}}}, Verdict: Verdict{Kind: Accept}}

// ended stops connections that the agent has marked because the policies of today would deny them.
func (c *compiler) ended() []Rule {
	if !c.settings.Reevaluate {
		return nil
	}
	return []Rule{{ID: "ended connection", Counter: true, Verdict: Verdict{Kind: Drop},
		Matches: []Match{{Key: KeyCTMark, Elem: Elem{Num: c.settings.Mark, Mask: c.settings.Mark}}}}}
}

// unknown closes the interfaces whose names say that a workload is behind them, when none that is known is (contract §4.7).
func (c *compiler) unknown(iface Key) (out []Rule) {
	for _, p := range c.settings.Prefixes {
		if p != "" {
			out = append(out, Rule{ID: "unknown interface", Counter: true, Verdict: Verdict{Kind: c.denying().deny},
				Matches: []Match{{Key: iface, Elem: beginning(p)}}})
		}
	}
	return out
}

// beginning is every name that begins so. With the longest name that there is only this one does.
func beginning(prefix string) Elem {
	const longest = 15
	if len(prefix) >= longest {
		return Elem{Iface: prefix}
	}
	return Elem{Iface: prefix + "*"}
}

// sources refuses what a workload sends from an address that is not its own, where its interface is known (contract §4.7). What
// cannot be forwarded anyway goes on to its host's policy.
func (c *compiler) sources() []Rule {
	if len(c.sets["workload-iface"].gathered) == 0 {
		return nil
	}
	chain := &Chain{Name: "workload-source"}
	accept := func(matches ...Match) {
		chain.Rules = append(chain.Rules, Rule{Matches: matches, Verdict: Verdict{Kind: Accept}})
	}
	for i := range families {
		f := &families[i]
		name := "workload-source" + f.digit
		c.set(name, f.ifaceAddr, false)
		accept(Match{Key: f.iifSAddr, Set: name})
	}
	c.otherSources(accept)
	accept(Match{Key: KeyIP6SAddr, Elem: netElem(netip.MustParsePrefix("fe80::/10"))})
	accept(Match{Key: KeyIP6SAddr, Elem: netElem(netip.MustParsePrefix("::/128"))})
	accept(Match{Key: KeyIPSAddr, Elem: netElem(netip.MustParsePrefix("0.0.0.0/32"))},
		Match{Key: KeyIPDAddr, Elem: netElem(netip.MustParsePrefix("255.255.255.255/32"))})
	chain.Rules = append(chain.Rules, Rule{ID: "source of workload", Counter: true, Verdict: Verdict{Kind: c.denying().deny}})
	c.chains[chain.Name] = chain
	return []Rule{{Matches: []Match{{Key: KeyIIFName, Set: "workload-iface"}}, Verdict: Verdict{Goto, chain.Name}}}
}

// otherSources are those that single workloads ask for and may use.
func (c *compiler) otherSources(accept func(...Match)) {
	for i := range c.plan.Endpoints {
		e := &c.plan.Endpoints[i]
		for _, iface := range e.Ifaces {
			for j := range families {
				f := &families[j]
				if nets := netElems(f, e.Sources); len(nets) > 0 {
					accept(Match{Key: KeyIIFName, Elem: Elem{Iface: iface}}, c.match(f.saddr, f.addr, "nets"+f.digit, nets, false))
				}
			}
		}
	}
}

func saddrs(f *family) Key { return f.saddr }
func daddrs(f *family) Key { return f.daddr }

// lookups lead a packet to the guard of its workload. An address decides only behind an interface that is no workload's by name. On a
// bridge of workloads those exchange neighbour discovery, and who is none that is known is refused: he may have given himself an
// address, or send from that of the link.
func (c *compiler) lookups(name string, iface Key, addr func(*family) Key) []Rule {
	out := append([]Rule{{VMap: &VMap{iface, name + "-iface"}}}, c.unknown(iface)...)
	for i := range families {
		out = append(out, Rule{VMap: &VMap{addr(&families[i]), name + families[i].digit}})
	}
	if c.sets["workload-bridge"] == nil {
		return out
	}
	behind := Match{Key: iface, Set: "workload-bridge"}
	neighbours := discoveryRule()
	neighbours.Matches = append([]Match{behind}, neighbours.Matches...)
	return append(append([]Rule{neighbours}, out...), Rule{ID: "unknown behind bridge", Counter: true,
		Verdict: Verdict{Kind: c.denying().deny}, Matches: []Match{behind}})
}

// fromWorkloads leads packets from local workloads to what becomes of them at their host. Where only the address says that one is
// from a workload, what that allows still meets the policy of the host: an address is easily written.
func (c *compiler) fromWorkloads() []Rule {
	to := Verdict{Goto, "workload-to-host"}
	out := []Rule{{Matches: []Match{{Key: KeyIIFName, Set: "workload-iface"}}, Verdict: to}}
	for i := range families {
		f := &families[i]
		if name := "workload-shared" + f.digit; c.sets[name] != nil {
			out = append(out, Rule{Matches: []Match{{Key: f.iifSAddr, Set: name}}, Verdict: to})
		}
	}
	if c.settings.EndpointToHost != policy.Deny {
		return out
	}
	for i := range families {
		f := &families[i]
		out = append(out, Rule{Matches: []Match{{Key: f.saddr, Set: "workload" + f.digit}}, Verdict: to})
	}
	return out
}

// toWorkloads lets a host reach its own workloads, and whatever is behind an interface that is one's by its name (contract §4.4).
func (c *compiler) toWorkloads() []Rule {
	accept := func(m Match) Rule { return Rule{Matches: []Match{m}, Verdict: Verdict{Kind: Accept}} }
	out := []Rule{accept(Match{Key: KeyOIFName, Set: "workload-iface"})}
	for i := range families {
		f := &families[i]
		out = append(out, accept(Match{Key: f.daddr, Set: "workload" + f.digit}))
	}
	for _, p := range c.settings.Prefixes {
		if p != "" {
			out = append(out, accept(Match{Key: KeyOIFName, Elem: beginning(p)}))
		}
	}
	return out
}

// hostLookups lead a packet to the guard of the host endpoint on its interface, or of the one for all interfaces.
func (c *compiler) hostLookups(chain string, iface Key) (out []Rule) {
	if name := chain + "-iface"; c.maps[name] != nil {
		out = append(out, Rule{VMap: &VMap{iface, name}})
	}
	if v, ok := c.any[chain]; ok {
		out = append(out, Rule{Verdict: v})
	}
	return out
}

// neighbourDiscovery is the ICMPv6 types that a workload and its host exchange whatever policy says (contract §4.6).
func (c *compiler) neighbourDiscovery() {
	s := c.set("neighbour-discovery", TypeICMPv6, false)
	for _, t := range policy.NeighbourDiscovery {
		s.gathered = append(s.gathered, Elem{Num: uint32(t)})
	}
}

func discoveryRule() Rule {
	return Rule{Verdict: Verdict{Kind: Accept}, Matches: []Match{
		{Key: KeyNFProto, Elem: Elem{Num: 10}},
		{Key: KeyL4Proto, Elem: Elem{Num: policy.ProtoICMPv6}},
		{Key: KeyICMPv6Type, Set: "neighbour-discovery"},
	}}
}
