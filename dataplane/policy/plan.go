package policy

import (
	"net/netip"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Plan is what one node has to enforce (or, for node "", what every node has to), fully resolved and in order: no
// selector, no name of a port, no default is left to be decided. Equal objects give equal plans, in whatever order
// they came. A Plan is read-only.
type Plan struct {
	Node      string     // "" for the plan of all nodes
	Endpoints []Endpoint // by Ref
	Policies  []Policy   // all that a guard names, by Ref
	Sets      []*Set     // all that a rule names, by ID
	Hosts     []Host     // by name

	// Notes are what about the objects together is not as their authors may think.
	Notes []Note

	// Settings of each node that the plan is for.
	Settings map[string]Settings

	where  *places  // shared by plans of the same endpoints and hosts
	staged bool     // some guard has a staged list
	rules  *edition // of all but the sets
}

// edition is one state of what a plan has besides its sets: those that share it are alike.
type edition struct{ _ byte }

// Note says of an object what its author may not think.
type Note struct {
	About v3.Ref
	Text  string
}

func (n Note) String() string { return n.About.String() + " " + n.Text }

// Host is a node, the addresses that are its own, and its interfaces, the one that leads elsewhere first.
type Host struct {
	Name   string
	Addrs  []netip.Addr
	Ifaces []Iface
}

// Endpoint is something that policy guards: a workload, or a host's interface.
type Endpoint struct {
	Ref     v3.Ref // WorkloadEndpoint, Pod or HostEndpoint
	Node    string
	Ifaces  []string       // the host's interfaces behind or on which it stands; "*" is any other; of a pod they may not be known
	Shared  []string       // of a workload: the interfaces behind which it is among others, as behind a bridge
	Addrs   []netip.Addr   // the endpoint's own addresses, sorted
	Sources []netip.Prefix // other addresses that it may send from; merged and sorted
	// Guards are by Stage and Direction; what has no guard is not judged there.
	Guards []Guard
}

// Host tells whether the endpoint is a host's own interface rather than a workload.
func (e *Endpoint) Host() bool { return e.Ref.Kind == "HostEndpoint" }

// Guard is everything that judges one endpoint's packets at one place, as one ordered list. Failsafe ports and
// profiles are tiers of their own here, so that a guard is walked one way only:
//
//	for each tier, for each of its policies, for each rule that matches:
//	    Allow or Deny ends the walk, Pass goes to the next tier, Log goes on
//	at the end of a tier its Default: Deny or Allow ends the walk, Pass goes to the next tier
//
// A walk that ends in no verdict leaves the packet to whatever judges it next.
type Guard struct {
	Stage     Stage
	Direction Direction
	Tiers     []Tier // none: nothing is judged here

	// Staged is the tiers as they would be if the staged policies were in force, where that is another list; it is never
	// enforced (contract §4.9). HasStaged tells an empty list from none.
	Staged    []Tier
	HasStaged bool
}

// Tier is an ordered list of policies and what happens to a packet that none of them decides.
type Tier struct {
	Name     string // "" for what is no tier to the user: failsafe ports, profiles, the final deny
	Policies []v3.Ref
	Default  Action // Deny, Pass or Allow
}

// Policy is the rules of one policy, profile or failsafe list.
type Policy struct {
	Ref             v3.Ref
	Tier            string
	Stage           Stage // Untracked or PreDNAT for what only stands there, Normal for all else
	Staged          bool  // only staged lists name it
	Ingress, Egress []Rule
}

// Rules of one direction.
func (p *Policy) Rules(d Direction) []Rule {
	if d == Ingress {
		return p.Ingress
	}
	return p.Egress
}

// HasPass tells whether a rule of that direction passes to the next tier.
func (p *Policy) HasPass(d Direction) bool {
	for _, r := range p.Rules(d) {
		if r.Action == Pass {
			return true
		}
	}
	return false
}

// Rule is one rule, resolved. Every criterion that is present must hold; an absent one is the zero value.
type Rule struct {
	Action   Action
	Index    int    // of the rule in the object that the user wrote
	Name     string // the user's name for it, or ""
	Note     string // why it differs from what the user wrote: "not understood: …"
	Families Families
	Proto    uint8 // IP protocol number, 0 any
	NotProto uint8
	ICMP     *ICMP
	NotICMP  *ICMP
	Src, Dst Side
}

// ICMP is a type and perhaps a code, of ICMP in IPv4 or ICMPv6 in IPv6.
type ICMP struct {
	Type uint8
	Code int16 // -1 any
}

// Side is what a rule asks of one end of the packet.
type Side struct {
	Nets        []netip.Prefix // in one of them; merged and sorted
	NotNets     []netip.Prefix // in none of them
	Sets        []string       // in every one of these sets of addresses
	NotSets     []string       // in none of these
	Ports       []PortRange    // in one of these, or …
	PortSets    []string       // … address, protocol and port in one of these sets
	NotPorts    []PortRange    // in none of these
	NotPortSets []string       // nor these
}

// PortRange is inclusive at both ends.
type PortRange struct{ Min, Max uint16 }

// Set is addresses, or ports on addresses, that come and go while the rules that name it stay.
type Set struct {
	ID      string             // stable: derived from what selects the members
	About   string             // the same for people: the selector, the named port or the service
	Addrs   Sorted[netip.Addr] // single addresses
	Nets    []netip.Prefix     // networks, merged and sorted
	Ports   Sorted[AddrPort]   // of a set of ports
	OfPorts bool               // a set of ports, even if empty
	Staged  bool               // only staged policies name it
}

// AddrPort is one port of one endpoint.
type AddrPort struct {
	Addr  netip.Addr
	Proto uint8
	Port  uint16
}

// Families is a set of address families.
type Families uint8

// The address families.
const (
	IPv4 Families = 1 << iota
	IPv6
	AnyFamily = IPv4 | IPv6
)

// FamilyOf an address.
func FamilyOf(a netip.Addr) Families {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Action is what a rule does (contract §4.2).
type Action uint8

// The actions. None is for "no verdict".
const (
	None Action = iota
	Allow
	Deny
	Pass
	Log
)

var actionNames = [...]string{None: "None", Allow: "Allow", Deny: "Deny", Pass: "Pass", Log: "Log"}

func (a Action) String() string { return actionNames[a] }

// Direction is seen from the endpoint.
type Direction uint8

// The directions.
const (
	Ingress Direction = iota
	Egress
)

var directionNames = [...]string{Ingress: "ingress", Egress: "egress"}

func (d Direction) String() string { return directionNames[d] }

// Stage is where on a packet's way a guard stands (contract §4.3).
type Stage uint8

// The stages. A packet meets Untracked, PreDNAT, then Forward or, where it ends or begins, Normal; a workload has Normal only.
const (
	Normal Stage = iota
	Untracked
	PreDNAT
	Forward
)

var stageNames = [...]string{Normal: "normal", Untracked: "untracked", PreDNAT: "preDNAT", Forward: "forward"}

func (s Stage) String() string { return stageNames[s] }

// The IP protocol numbers that policy knows by name.
const (
	ProtoICMP    = 1
	ProtoTCP     = 6
	ProtoUDP     = 17
	ProtoICMPv6  = 58
	ProtoSCTP    = 132
	ProtoUDPLite = 136
)

// HasPorts tells whether packets of an IP protocol carry ports that policy can match.
func HasPorts(proto uint8) bool {
	return proto == ProtoTCP || proto == ProtoUDP || proto == ProtoSCTP || proto == ProtoUDPLite
}

// SameRules tells at once whether two plans are alike in all but the members of their sets: the one was made from the other, or both
// from a third, by changes that touch nothing else. Others may be alike all the same.
func (p *Plan) SameRules(o *Plan) bool {
	return p.Node == o.Node && p.rules != nil && p.rules == o.rules
}
