package ruleset_test

import (
	"flag"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	v3 "github.com/tierwall/tierwall/apis/v3"
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
			x.SetInterfaces(interfacesOf(whole, n))
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

// interfacesOf a node are those of which the objects speak and, as an agent finds them, one to each other workload.
func interfacesOf(p *policy.Plan, node string) (out []policy.Iface) {
	for _, h := range p.Hosts {
		if h.Name == node {
			out = slices.Clone(h.Ifaces)
		}
	}
	for _, e := range p.Endpoints {
		if e.Node == node && !e.Host() && len(e.Ifaces) == 0 {
			out = append(out, policy.Iface{Name: nameless(e.Ref), Peers: e.Addrs})
		}
	}
	return out
}

// nameless is the interface of a workload of which no object gives the name.
func nameless(ref v3.Ref) string { return "pod-" + ref.Namespace + "." + ref.Name }

// send leads a flow's first packet through the hooks of the nodes on its way, as Linux would, and gives what becomes of it.
func send(p *policy.Plan, nodes map[string]*interpreter, f policy.Flow) policy.Action {
	r := route{nodes: nodes, src: whereIs(p, f.Src), dst: whereIs(p, f.Dst)}
	if f.Src == f.Dst && r.src.workload && !f.OrigDst.IsValid() && f.Via == "" {
		return policy.Allow // it stays in the workload's own network namespace
	}
	if f.Dst.IsLoopback() && r.src.node != "" && !r.src.workload {
		r.dst = end{node: r.src.node, iface: "lo"}
	}
	if f.Via != "" && f.InIface != "" {
		r.src = end{} // whoever it says it is from, it comes in by that interface
	}
	r.packet(f)
	if r.all(p, f) {
		return policy.Allow
	}
	return policy.Deny
}

// route is a packet on its way through the nodes.
type route struct {
	nodes      map[string]*interpreter
	src, dst   end
	pkt        packet
	orig, seen netip.AddrPort // its destination before and after translation
	behind     netip.Addr     // its source behind the node that translates
	nat        string         // that node; "" the first one
}

func (r *route) packet(f policy.Flow) {
	r.pkt = packet{Flow: f, ctstate: ruleset.CTNew}
	if f.Proto == policy.ProtoICMPv6 && slices.Contains([]uint8{130, 131, 132, 133, 134, 135, 136}, f.ICMPType) {
		r.pkt.ctstate = ruleset.CTUntracked
	}
	r.seen = netip.AddrPortFrom(f.Dst, f.DstPort)
	r.orig, r.behind, r.nat = r.seen, f.Src, f.NATNode
	if r.nat == "" {
		r.nat = f.Via
	}
	if f.OrigDst.IsValid() {
		r.orig = netip.AddrPortFrom(f.OrigDst, f.OrigDstPort)
	}
	if f.Masquerade.IsValid() {
		r.behind = f.Masquerade
	}
	r.to(r.orig)
}

func (r *route) to(a netip.AddrPort) { r.pkt.Dst, r.pkt.DstPort = a.Addr(), a.Port() }

// translates tells whether the node changes the destination, and does it.
func (r *route) translate(node string) {
	if r.nat == "" || r.nat == node {
		r.nat = node
		r.to(r.seen)
		r.pkt.dnat = r.orig != r.seen
	}
}

// leave is behind the node's hooks: the packet's source is translated, and the next node knows nothing of it.
func (r *route) leave(node string) {
	if r.nat == node {
		r.pkt.Src = r.behind
	}
	r.pkt.mark, r.pkt.dnat = 0, false
}

// all is the nodes one after the other.
func (r *route) all(p *policy.Plan, f policy.Flow) bool {
	last := r.src.node
	if onLink := f.Dst.IsMulticast() || f.Dst.IsLinkLocalUnicast() || f.Dst.String() == "255.255.255.255"; onLink {
		switch {
		case f.Via != "" && f.InIface != "":
			return r.input(f.Via, f.InIface)
		case r.src.workload:
			return r.input(r.src.node, r.src.iface)
		}
	}
	given := func(node, iface string, atEnd bool) string {
		if f.Via == node || f.Via == "" && atEnd {
			return iface
		}
		return ""
	}
	uplink := func(node string) string {
		i := slices.IndexFunc(p.Hosts, func(h policy.Host) bool { return h.Name == node })
		if i < 0 || len(p.Hosts[i].Ifaces) == 0 {
			return ""
		}
		return p.Hosts[i].Ifaces[0].Name
	}
	direct := r.src.node == r.dst.node && (f.Via == "" || f.Via == r.src.node)
	sameHost := r.src.node != "" && !r.src.workload && !r.dst.workload && direct
	if r.src.node != "" {
		own := direct
		out := or(given(r.src.node, f.OutIface, true), uplink(r.src.node))
		if !r.src.workload {
			out = or(given(r.src.node, f.OutIface, true), r.src.iface)
		}
		first := out
		if sent := whereIs(p, r.orig.Addr()); sent.node == r.src.node || r.orig.Addr().IsLoopback() {
			first = "lo"
			if sent.workload {
				first = sent.iface
			}
		}
		switch {
		case sameHost:
			out = "lo"
		case own && (r.dst.workload || !r.src.workload):
			out = r.dst.iface
		}
		ok := false
		switch {
		case !r.src.workload:
			ok = r.output(r.src.node, first, out)
		case own && !r.dst.workload:
			return r.input(r.src.node, r.src.iface)
		default:
			ok = r.forward(r.src.node, r.src.iface, out)
		}
		if !ok {
			return false
		}
		r.leave(r.src.node)
	}
	if f.Via != "" && f.Via != last && f.Via != r.dst.node {
		if !r.forward(f.Via, or(f.InIface, uplink(f.Via)), or(f.OutIface, uplink(f.Via))) {
			return false
		}
		r.leave(f.Via)
		last = f.Via
	}
	switch in := or(given(r.dst.node, f.InIface, true), uplink(r.dst.node)); {
	case sameHost:
		return r.input(r.dst.node, "lo")
	case r.dst.node == "" || r.dst.node == last:
		return true
	case r.dst.workload:
		return r.forward(r.dst.node, in, or(given(r.dst.node, f.OutIface, false), r.dst.iface))
	default:
		return r.input(r.dst.node, or(given(r.dst.node, f.InIface, true), r.dst.iface))
	}
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// hooks passes hooks of a node in turn; a node without a table lets everything pass.
func (r *route) hook(node, hook string, priorities func(int) bool, iif, oif string) bool {
	in := r.nodes[node]
	if in == nil {
		return true
	}
	r.pkt.iif, r.pkt.oif = iif, oif
	return in.hook(hook, priorities, &r.pkt)
}

const dstnat = -100

func beforeNAT(priority int) bool { return priority < dstnat }
func behindNAT(priority int) bool { return priority > dstnat }
func anywhere(int) bool           { return true }

func (r *route) prerouting(node, iif string) bool {
	r.pkt.made = false
	ok := r.hook(node, "prerouting", beforeNAT, iif, "")
	r.translate(node)
	return ok && r.hook(node, "prerouting", behindNAT, iif, "")
}

func (r *route) forward(node, iif, oif string) bool {
	return r.prerouting(node, iif) && r.hook(node, "forward", anywhere, iif, oif) && r.hook(node, "postrouting", anywhere, iif, oif)
}

func (r *route) input(node, iif string) bool {
	return r.prerouting(node, iif) && r.hook(node, "input", anywhere, iif, "")
}

// output: a translated packet is routed anew, but the hook goes on with the interface of before.
func (r *route) output(node, first, out string) bool {
	r.pkt.made = true
	ok := r.hook(node, "output", beforeNAT, "", first)
	r.translate(node)
	return ok && r.hook(node, "output", behindNAT, "", first) && r.hook(node, "postrouting", anywhere, "", out)
}

// end is where an address is.
type end struct {
	node, iface string
	workload    bool
}

func whereIs(p *policy.Plan, a netip.Addr) end {
	if e := p.Workload(a); e != nil {
		iface := nameless(e.Ref)
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
