// Package reach says who can reach whom under a plan. It tries no packets one by one: it parts all packets into classes that no rule
// tells apart, and asks the rules about whole classes at once, so that its answer holds for every packet there is. Plan.Trace is its judge
// in tests, and shares no code with it.
package reach

import (
	"net/netip"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// EndKind is what kind of end an End is.
type EndKind uint8

// The kinds of ends.
const (
	Workload EndKind = iota // pods and workload endpoints
	Host                    // a node, guarded by host endpoints or not
	Outside                 // addresses that are nobody's whom the plan knows
)

func (k EndKind) String() string { return [...]string{"workload", "host", "outside"}[k] }

// End is what the plan treats alike as a source and as a destination: endpoints with the same guards that are in the same sets, or a part of
// the outside.
type End struct {
	Kind    EndKind
	Members []v3.Ref       // of Workload: endpoints, sorted; of Host: Nodes or host endpoints
	Nets    []netip.Prefix // of Outside: its networks, merged and sorted
	// About says which end it is, for people: namespace/name of its one member, or of its first and how many more there are; "0.0.0.0/0
	// but 4 networks".
	About string
	// Namespace is that of all members, or "" where there is none or more than one.
	Namespace string
}

// Matrix is who can reach whom. A row is a source, a column a destination.
type Matrix struct {
	Ends    []End    // workloads, hosts, the outside; in each, by About
	Answers []Answer // what cells say; each different answer once, the first is "nothing"
	Cells   [][]int  // by source, by destination: index of the Answer
}

// Answer is what may pass from one end to another.
type Answer struct {
	Conns string // for people and CSV: "all", "none", or as "TCP 80,443,8000-8080; UDP 53; ICMP"
	All   bool   // every packet passes
	None  bool   // no packet passes
	// Why names what decided, of egress and then of ingress, in the order of the rules: the policies that allow and the one, the
	// tier's default or the profile that denies the rest. As "default.deny (GlobalNetworkPolicy): rule 0 denies".
	Why []string
}

// Options of a question.
type Options struct {
	Staged bool   // as if the staged policies were in force
	Proto  uint8  // only packets of this protocol; 0 for all
	Port   uint16 // only those to this port; 0 for all

	Rows func(rows int) (done func()) // is told how many rows there are to compute, and each that is done; or nil
}

func (o *Options) rows(n int) (done func()) {
	if o.Rows == nil {
		return func() {}
	}
	return o.Rows(n)
}
