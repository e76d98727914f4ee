package main

import (
	"fmt"
	"strings"
)

// The bits of the mark that Calico's rules talk to each other with (contract §5.8).
const (
	acceptBit  = 0x10000
	passBit    = 0x20000
	scratchBit = 0x80000
)

func bit(b int) string { return fmt.Sprintf("meta mark & %#x == %#x", b, b) }

// calicoStatic are the chains that do not depend on policy (contract §5.1 and §5.2), those of a packet that is forwarded.
var calicoStatic = map[string][]string{
	"raw-PREROUTING": {"type filter hook prerouting priority -300", "counter jump raw-cali-PREROUTING"},
	"raw-cali-PREROUTING": {
		"counter meta mark set mark & 0xffe4ffff",
		`iifname "cali*" counter meta mark set mark | 0x80000`,
		bit(scratchBit) + " counter jump raw-cali-rpf-skip",
		bit(scratchBit) + " fib saddr . mark . iif oif 0 counter drop",
		"meta mark & 0x80000 == 0 counter jump raw-cali-from-host-endpoint",
		bit(acceptBit) + " counter accept",
	},
	"raw-cali-rpf-skip": nil, "raw-cali-from-host-endpoint": nil,
	"mangle-PREROUTING": {"type filter hook prerouting priority -150", "counter jump mangle-cali-PREROUTING"},
	"mangle-cali-PREROUTING": {
		"ct state related,established counter accept",
		bit(acceptBit) + " counter accept",
		"counter jump mangle-cali-from-host-endpoint",
		bit(acceptBit) + " counter accept",
	},
	"mangle-cali-from-host-endpoint": nil,
	"nat-PREROUTING":                 {"type nat hook prerouting priority -100", "counter jump nat-cali-PREROUTING"},
	"nat-cali-PREROUTING":            {"counter jump nat-cali-fip-dnat"},
	"nat-cali-fip-dnat":              nil,
	"nat-POSTROUTING":                {"type nat hook postrouting priority 110", "counter jump nat-cali-POSTROUTING"},
	"nat-cali-POSTROUTING":           {"counter jump nat-cali-fip-snat", "counter jump nat-cali-nat-outgoing"},
	"nat-cali-fip-snat":              nil, "nat-cali-nat-outgoing": nil,
	"filter-FORWARD": {
		"type filter hook forward priority 0",
		"counter jump filter-cali-FORWARD",
		bit(acceptBit) + " counter accept",
		"counter meta mark set mark | 0x10000",
	},
	"filter-cali-FORWARD": {
		"counter meta mark set mark & 0xffe5ffff",
		"meta mark & 0x10000 == 0 counter jump filter-cali-from-hep-forward",
		`iifname "cali*" counter jump filter-cali-from-wl-dispatch`,
		`oifname "cali*" counter jump filter-cali-to-wl-dispatch`,
		"counter jump filter-cali-to-hep-forward",
		"counter jump filter-cali-cidr-block",
	},
	"filter-cali-from-hep-forward": nil, "filter-cali-to-hep-forward": nil, "filter-cali-cidr-block": nil,
	"filter-cali-from-wl-dispatch": {"iifname vmap @filter-cali-from-wl-dispatch", `counter drop comment "Unknown interface"`},
	"filter-cali-to-wl-dispatch":   {"oifname vmap @filter-cali-to-wl-dispatch", `counter drop comment "Unknown interface"`},
	"filter-cali-pri-kns.bench":    nil,
	"filter-cali-pro-kns.bench":    {"counter meta mark set mark | 0x10000"},
	"mangle-POSTROUTING":           {"type filter hook postrouting priority -150", "counter jump mangle-cali-POSTROUTING"},
	"mangle-cali-POSTROUTING": {
		bit(acceptBit) + " counter return",
		"counter meta mark set mark & 0xffe4ffff",
		"ct status dnat counter jump mangle-cali-to-host-endpoint",
		bit(acceptBit) + " counter return",
	},
	"mangle-cali-to-host-endpoint": nil,
}

// calico is the same policies in the shape of Calico's nftables mode: no group if there is but one policy.
func calico(s size) error { return program(s.calico()) }

func (s size) calico() string {
	c := calicoText{chains: map[string][]string{}}
	for name, rules := range calicoStatic {
		c.chains[name] = rules
	}
	inbound := "filter-cali-gi-group"
	if s.Policies == 1 {
		inbound = c.policy(s, 0)
	} else {
		c.chains[inbound] = c.group(s)
	}
	for i := range s.Endpoints {
		iface, _ := workload(i)
		c.chains["filter-cali-tw-"+iface] = toWorkload(inbound)
		c.chains["filter-cali-fw-"+iface] = fromWorkload
	}
	return c.text(s)
}

type calicoText struct{ chains map[string][]string }

// group of policies (contract §5.6): after every fifth it returns if there is a verdict; between, each is asked only if there is none.
func (c *calicoText) group(s size) (out []string) {
	for p := range s.Policies {
		switch name := c.policy(s, p); {
		case p%5 == 0 && p > 0:
			out = append(out, "meta mark & 0x30000 != 0 counter return", "counter jump "+name)
		case p == 0:
			out = append(out, "counter jump "+name)
		default:
			out = append(out, "meta mark & 0x30000 == 0 counter jump "+name)
		}
	}
	return out
}

// policy (contract §5.7): what matches sets a mark, and a mark returns; behind the last rule nothing is left to return from.
func (c *calicoText) policy(s size, p int) string {
	name := fmt.Sprintf("filter-cali-pi-np/bench/policy%02d", p)
	for i := range rulesEach {
		a := s.rule(p, i)
		c.chains[name] = append(c.chains[name],
			fmt.Sprintf("meta l4proto %s ip saddr @cali40s-role%d %s dport { %d } counter meta mark set mark | 0x10000", a.proto, a.role, a.proto, a.port))
		if i < rulesEach-1 {
			c.chains[name] = append(c.chains[name], bit(acceptBit)+" counter return")
		}
	}
	return name
}

// toWorkload and fromWorkload are the endpoint's own chains (contract §5.5).
func toWorkload(inbound string) []string {
	return []string{
		"ct state related,established counter accept",
		"ct state invalid counter drop",
		"counter meta mark set mark & 0xfffcffff",
		`counter meta mark set mark & 0xfffdffff comment "Start of tier default"`,
		"meta mark & 0x20000 == 0 counter jump " + inbound,
		bit(acceptBit) + " counter return",
		`meta mark & 0x20000 == 0 counter drop comment "End of tier default. Drop if no policies passed packet"`,
		"counter jump filter-cali-pri-kns.bench",
		bit(acceptBit) + " counter return",
		`counter drop comment "Drop if no profiles matched"`,
	}
}

var fromWorkload = []string{
	"ct state related,established counter accept",
	"ct state invalid counter drop",
	"counter meta mark set mark & 0xfffcffff",
	"meta l4proto udp udp dport 4789 counter drop",
	"meta l4proto ipencap counter drop",
	"counter jump filter-cali-pro-kns.bench",
	bit(acceptBit) + " counter return",
	`counter drop comment "Drop if no profiles matched"`,
}

func (c *calicoText) text(s size) string {
	var b strings.Builder
	b.WriteString("table ip calico {\n")
	for role := range roles {
		var all []string
		for _, a := range addrs(role) {
			all = append(all, a.String())
		}
		fmt.Fprintf(&b, "set cali40s-role%d { type ipv4_addr; flags interval; elements = { %s } }\n", role, strings.Join(all, ", "))
	}
	for _, d := range [][2]string{{"from", "fw"}, {"to", "tw"}} {
		var all []string
		for i := range s.Endpoints {
			iface, _ := workload(i)
			all = append(all, fmt.Sprintf("%q : goto filter-cali-%s-%s", iface, d[1], iface))
		}
		fmt.Fprintf(&b, "map filter-cali-%s-wl-dispatch { type ifname : verdict; elements = { %s } }\n", d[0], strings.Join(all, ", "))
	}
	for name, rules := range c.chains {
		fmt.Fprintf(&b, "chain %s {\n%s\n}\n", name, strings.Join(rules, "\n"))
	}
	b.WriteString("}\n")
	return b.String()
}
