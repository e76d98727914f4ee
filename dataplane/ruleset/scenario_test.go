package ruleset_test

import (
	"flag"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
	"github.com/tierwall/tierwall/test/scenario"
)

var update = flag.Bool("update", false, "rewrite the tables of the corpus")

func scenarios(t testing.TB) []scenario.Scenario {
	t.Helper()
	all, err := scenario.Load("../../test/scenarios")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// The tables that the corpus shows are what Compile makes, byte for byte.
func TestScenarioTables(t *testing.T) {
	shown := 0
	for _, s := range scenarios(t) {
		tables := map[string]string{}
		for node, want := range s.Tables {
			x, err := s.Index(node)
			if err != nil {
				t.Fatal(err)
			}
			shown++
			tables[node] = ruleset.Compile(x.Plan(), ruleset.Options{}).String()
			if diff := cmp.Diff(want, tables[node]); diff != "" && !*update {
				t.Errorf("%s, node %s: -want +have:\n%s", s.Name, node, diff)
			}
		}
		if *update && len(tables) > 0 {
			if err := s.Update("table.", tables); err != nil {
				t.Fatal(err)
			}
		}
	}
	if shown < 5 {
		t.Errorf("the corpus shows %d tables", shown)
	}
}

// The tables of all nodes do to every flow of the corpus what the scenario says.
func TestScenarioVerdicts(t *testing.T) {
	for _, s := range scenarios(t) {
		all, err := s.Index("")
		if err != nil {
			t.Fatal(err)
		}
		whole := all.Plan()
		nodes := map[string]*interpreter{}
		for _, n := range nodesOf(whole) {
			x, err := s.Index(n)
			if err != nil {
				t.Fatal(err)
			}
			nodes[n] = newInterpreter(ruleset.Compile(x.Plan(), ruleset.Options{}))
		}
		for _, f := range s.Flows {
			flow, err := all.Flow(f.Spec)
			if err != nil {
				t.Fatal(err)
			}
			if got := send(whole, nodes, flow); got != f.Verdict {
				t.Errorf("%s: %s: the tables say %s", s.Name, f.Text, got)
			}
		}
	}
}

func nodesOf(p *policy.Plan) (names []string) {
	for _, e := range p.Endpoints {
		names = append(names, e.Node)
	}
	for _, h := range p.Hosts {
		names = append(names, h.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// send leads a flow's first packet through the hooks of the nodes on its way.
func send(p *policy.Plan, nodes map[string]*interpreter, f policy.Flow) policy.Action {
	src, dst := whereIs(p, f.Src), whereIs(p, f.Dst)
	verdict := map[bool]policy.Action{true: policy.Allow, false: policy.Deny}
	if f.Src == f.Dst && src.workload {
		return policy.Allow // it stays in the workload's own network namespace
	}
	new := packet{Flow: f, ctstate: ruleset.CTNew}
	if f.Proto == policy.ProtoICMPv6 && slices.Contains([]uint8{130, 131, 132, 133, 134, 135, 136}, f.ICMPType) {
		new.ctstate = ruleset.CTUntracked
	}
	hook := func(node, hook, iif, oif string) bool {
		in := nodes[node]
		if in == nil {
			return true
		}
		pkt := new
		pkt.iif, pkt.oif = iif, oif
		return in.hook(hook, pkt)
	}
	sameNode := src.node != "" && src.node == dst.node
	// out of the source: by the interface that has its address, or the host's first one
	out := "eth0"
	switch {
	case sameNode && !dst.workload && !src.workload:
		out = "lo"
	case sameNode:
		out = dst.iface
	case !src.workload:
		out = src.iface
	}
	switch {
	case src.node == "":
	case src.workload && sameNode && !dst.workload:
		return verdict[hook(src.node, "input", src.iface, "")]
	case src.workload:
		if !hook(src.node, "forward", src.iface, out) {
			return policy.Deny
		}
	case !hook(src.node, "output", "", out):
		return policy.Deny
	}
	// into the destination
	switch {
	case dst.node == "" || sameNode && (src.workload || dst.workload):
		return policy.Allow
	case dst.workload:
		return verdict[hook(dst.node, "forward", "eth0", dst.iface)]
	case sameNode:
		return verdict[hook(dst.node, "input", "lo", "")]
	}
	return verdict[hook(dst.node, "input", dst.iface, "")]
}

// end is where an address is.
type end struct {
	node, iface string
	workload    bool
}

func whereIs(p *policy.Plan, a netip.Addr) end {
	if e := p.Workload(a); e != nil {
		iface := "cali-" + e.Ref.Namespace + "." + e.Ref.Name
		if len(e.Ifaces) > 0 {
			iface = e.Ifaces[0]
		}
		return end{e.Node, iface, true}
	}
	if h := p.Host(a); h != nil {
		return end{node: h.Name, iface: h.Iface(a)}
	}
	return end{}
}
