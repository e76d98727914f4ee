package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// Feature is something of the kernel's nftables that our tables use.
type Feature struct {
	Name     string
	Since    string // the first kernel that has it
	For      string // what we need it for
	Optional bool   // we can do without it, as For says
	Missing  error  // what this kernel has against it; nil when it is present
}

// Features asks the kernel for all that our tables use: it makes a small table of each in a network namespace that is gone
// afterwards, so that nothing of the host's is touched. An error says that no such namespace can be made.
func Features() ([]Feature, error) {
	done := make(chan error)
	var out []Feature
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			out = probeAll()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return nil, fmt.Errorf("making a network namespace in which to try the kernel: %w", err)
	}
	return out, nil
}

// Lacking names the features that are missing and cannot be done without, with the kernel that has them; nil when there are none.
func Lacking(features []Feature) error {
	var all []error
	for _, f := range features {
		if f.Missing != nil && !f.Optional {
			all = append(all, fmt.Errorf("the kernel has no %s, which %s needs: it is there since %s: %w", f.Name, f.For, f.Since, f.Missing))
		}
	}
	return errors.Join(all...)
}

// probe is a feature and tables that need it; the kernel has it if each can be made of the one before.
type probe struct {
	Feature
	flags  nftables.TableFlags
	tables []*ruleset.Table
}

const probeTable = "tierwall-probe"

func probeAll() (out []Feature) {
	for _, p := range probes() {
		p.Missing = p.try()
		out = append(out, p.Feature)
	}
	return out
}

// try the feature; an error says what the kernel has against it.
func (p *probe) try() (err error) {
	c, err := Open(probeTable)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	c.flags = p.flags
	for _, t := range p.tables {
		if _, err := c.Apply(t); err != nil {
			return err
		}
	}
	if c.flags != p.flags {
		return fmt.Errorf("a table cannot have these flags: %w", unix.EOPNOTSUPP)
	}
	return c.Delete()
}

// rule makes tables of one chain of one rule.
func (p probe) rule(hook string, priority int, r ruleset.Rule) probe {
	p.tables = []*ruleset.Table{{Name: probeTable, Chains: []*ruleset.Chain{{Name: "probe", Hook: hook, Priority: priority, Rules: []ruleset.Rule{r}}}}}
	return p
}

// does is a forwarded packet's rule.
func (p probe) does(r ruleset.Rule) probe { return p.rule("forward", 0, r) }

// asks is a rule that asks a packet for a field.
func (p probe) asks(m ruleset.Match) probe {
	return p.rule("prerouting", 0, ruleset.Rule{Matches: []ruleset.Match{m}, Counter: true})
}

// set makes tables of one set.
func (p probe) set(s ruleset.Set) probe {
	s.Name = "probe"
	p.tables = []*ruleset.Table{{Name: probeTable, Sets: []*ruleset.Set{&s}}}
	return p
}

// maps makes a table of a chain that looks into a map, which leads to another chain, and then others.
func (p probe) maps(key ruleset.Elem, then ...*ruleset.Table) probe {
	goes := ruleset.Entry{Key: key, Verdict: ruleset.Verdict{Kind: ruleset.Goto, Chain: "target"}}
	p = p.does(ruleset.Rule{VMap: &ruleset.VMap{Key: ruleset.KeyIPSAddr, Map: "probe"}})
	p.tables[0].Maps = []*ruleset.Map{{Name: "probe", Type: ruleset.TypeIPv4, Entries: []ruleset.Entry{goes}}}
	p.tables[0].Chains = append(p.tables[0].Chains, &ruleset.Chain{Name: "target"})
	p.tables = append(p.tables, then...)
	return p
}

func feature(name, since, what string) probe {
	return probe{Feature: Feature{Name: name, Since: since, For: what}}
}

// probes are all features. The first is that there are nftables at all.
func probes() []probe {
	a, b := netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom4([4]byte{192, 0, 2, 9})
	one, several := ruleset.Elem{From: a, To: a}, ruleset.Elem{From: a, To: b}
	port := ruleset.Elem{From: a, To: a, Proto: unix.IPPROTO_TCP, Port: 1, PortTo: 1}
	empty := &ruleset.Table{Name: probeTable}
	owner := feature("tables that have an owner and persist", "6.9", "keeping others off; without it the table is watched and repaired")
	owner.Optional, owner.flags, owner.tables = true, owned, []*ruleset.Table{empty}
	return []probe{
		feature("nf_tables of family inet", "3.14", "everything").does(ruleset.Rule{Counter: true}),
		feature("sets", "3.14", "selectors").set(ruleset.Set{Type: ruleset.TypeIPv4, Elems: ruleset.ElemsOf(one)}),
		feature("sets of intervals", "3.14", "networks").set(ruleset.Set{Type: ruleset.TypeIPv4, Interval: true, Elems: ruleset.ElemsOf(several)}),
		feature("sets of concatenations", "5.6", "named ports, services").set(ruleset.Set{Type: ruleset.TypeIPv4Port, Elems: ruleset.ElemsOf(port)}),
		feature("verdict maps", "3.14", "finding an endpoint's policies").maps(one),
		feature("a map and its chain deleted at once", "6.2", "endpoints that go").maps(one, empty),
		feature("ct state", "3.14", "connections that are open").asks(ruleset.Match{Key: ruleset.KeyCTState, Elem: ruleset.Elem{Num: ruleset.CTEstablished}}),
		feature("ct mark", "3.14", "establishedConnections: Reevaluate").asks(ruleset.Match{Key: ruleset.KeyCTMark, Elem: ruleset.Elem{Num: 1, Mask: 1}}),
		feature("ct status", "3.14", "translated connections").asks(ruleset.Match{Key: ruleset.KeyCTStatus, Elem: ruleset.Elem{Num: ruleset.CTStatusDNAT}}),
		feature("fib type", "4.10", "sources that are the host's own").asks(ruleset.Match{Key: ruleset.KeySAddrType, Elem: ruleset.Elem{Num: ruleset.AddrLocal}}),
		feature("range", "4.9", "notPorts of a range").asks(ruleset.Match{Key: ruleset.KeyDPort, Not: true, Elem: ruleset.Elem{Port: 1, PortTo: 2}}),
		feature("meta mark set", "3.14", "preDNAT and doNotTrack policies").does(ruleset.Rule{Mark: &ruleset.SetMark{Set: 1}}),
		feature("notrack", "4.9", "doNotTrack policies").rule("prerouting", -300, ruleset.Rule{NoTrack: true}),
		feature("log", "3.17", "action Log").does(ruleset.Rule{Log: &ruleset.LogStmt{Prefix: "probe"}}),
		feature("limit with burst", "4.3", "logActionRateLimit").does(ruleset.Rule{Limit: &ruleset.Limit{Rate: 1, Unit: ruleset.Second, Burst: 1}, Counter: true}),
		feature("reject of family inet", "3.18", "nftablesFilterDenyAction: Reject").does(ruleset.Rule{Verdict: ruleset.Verdict{Kind: ruleset.Reject}}),
		owner,
	}
}
