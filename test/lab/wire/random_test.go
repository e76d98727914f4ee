package wire

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	kernel "github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
	"github.com/tierwall/tierwall/test/scenario"
)

var (
	packetsWanted = flag.Int("packets", 25_000, "random packets to send, with workloads behind links of their own and on bridges")
	seed          = flag.Int("seed", 1, "of the first random cluster")
)

// flowsPerCluster is how many flows are drawn for a cluster; a node gets those that concern it.
const flowsPerCluster = 80

// sample is a random cluster, how its nodes are built, and flows in it.
type sample struct {
	objects []client.Object
	options policy.Options
	flows   []policy.Flow
	chance  *rand.Rand // for what is no matter of policy: where addresses are, and by which uplink packets come
}

func anySample(t *rapid.T) (s sample) {
	s.objects = scenario.Cluster(t)
	toHost := rapid.SampledFrom([]string{"Drop", "Accept", "Return"}).Draw(t, "to host")
	s.options.Felix.DefaultEndpointToHostAction = &toHost
	s.chance = rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "chance"), 0))
	plan := s.index("").Plan()
	seen := map[policy.Flow]bool{}
	for range flowsPerCluster {
		f := s.vary(scenario.AnyFlow(t, plan))
		if f.Src != f.Dst && !seen[f] {
			seen[f] = true
			s.flows = append(s.flows, f)
		}
	}
	return s
}

// otherSample is another one of the same seed.
func otherSample(t *rapid.T) sample {
	rapid.Bool().Draw(t, "other")
	return anySample(t)
}

func (s *sample) index(node string) *policy.Index {
	x := policy.NewIndex(node, s.options)
	for _, o := range s.objects {
		_ = x.Set(o) // what is not enforced as written is so in the plan and in the table alike
	}
	return x
}

// variants are protocols, ports and types that AnyFlow does not draw.
var variants = map[uint8][]policy.Flow{
	protoGRE:           {{Proto: protoGRE}, {Proto: 4}, {Proto: 50}, {Proto: 89}, {Proto: 253}},
	policy.ProtoICMP:   {{ICMPType: 15}, {ICMPType: 17}, {ICMPType: 8, ICMPCode: 7}},
	policy.ProtoICMPv6: {{ICMPType: 130}, {ICMPType: 131}, {ICMPType: 132}, {ICMPType: 133}, {ICMPType: 136}, {ICMPType: 143}},
	policy.ProtoUDP:    {{SrcPort: 68, DstPort: 67}, {SrcPort: 5000, DstPort: 53}, {SrcPort: 5000, DstPort: 4789}},
	policy.ProtoTCP:    {{SrcPort: 40000, DstPort: 22}, {SrcPort: 40000, DstPort: 179}, {SrcPort: 40000, DstPort: 10250}},
}

// vary makes one flow in four one of its protocol's variants.
func (s *sample) vary(f policy.Flow) policy.Flow {
	all := variants[f.Proto]
	if len(all) == 0 || s.chance.IntN(4) > 0 {
		return f
	}
	v := all[s.chance.IntN(len(all))]
	if f.Proto != protoGRE {
		v.Proto = f.Proto
	}
	v.Src, v.Dst = f.Src, f.Dst
	return v
}

// judge holds a node of real interfaces and tables against what policy says of it.
type judge struct {
	t       *testing.T
	node    *Node
	table   *kernel.Conn
	bridges bool // some of the workloads are on a bridge
	tally   tally
}

// tally counts what was sent.
type tally struct {
	clusters, nodes, sent, unjudged, allowed, denied int
	by                                               map[string]int // of those that are judged
	inKernel                                         time.Duration  // of sending, each packet twice
}

func newJudge(t *testing.T, bridges bool) *judge {
	j := &judge{t: t, bridges: bridges, tally: tally{by: map[string]int{}}}
	j.node = opened(t, Spec{Uplinks: twoUplinks(), Workloads: []Link{{Iface: "cali-pod-0", Bridged: bridges}}})
	err := j.node.Do(func() (err error) {
		j.table, err = kernel.Open(ruleset.DefaultTable)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.table.Close() })
	nft(t, j.node, translations())
	return j
}

func twoUplinks() []Link { return []Link{{Iface: "eth0"}, {Iface: "eth1"}} }

// trial is one node of a cluster: its plan, and the packets that concern it.
type trial struct {
	spec    Spec
	plan    *policy.Plan
	packets []Packet
	arrive  []Fate // where each goes that nothing stops
}

// specOf a node: its two uplinks have its addresses in any way, and each workload has a link or a port of the bridge.
func (j *judge) specOf(s *sample, whole *policy.Plan, node string) (out Spec) {
	out.Uplinks = twoUplinks()
	for _, h := range whole.Hosts {
		if h.Name != node {
			continue
		}
		for _, a := range h.Addrs {
			u := &out.Uplinks[s.chance.IntN(2)]
			u.Addrs = append(u.Addrs, a)
		}
	}
	for i := range whole.Endpoints {
		e := &whole.Endpoints[i]
		if e.Host() || e.Node != node {
			continue
		}
		w := Link{Iface: "cali-" + e.Ref.Name, Addrs: e.Addrs, Bridged: j.bridges && s.chance.IntN(4) > 0}
		if len(e.Ifaces) > 0 {
			w.Iface = e.Ifaces[0]
		}
		out.Workloads = append(out.Workloads, w)
	}
	return out
}

// trialOf makes the node and says what is to be sent.
func (j *judge) trialOf(s *sample, whole *policy.Plan, node string) (trial, error) {
	t := trial{spec: j.specOf(s, whole, node)}
	if err := j.node.Become(t.spec); err != nil {
		return t, err
	}
	index := s.index(node)
	ifaces, err := j.interfaces()
	if err != nil {
		return t, err
	}
	index.SetInterfaces(ifaces)
	t.plan = index.Plan()
	w := whereabouts(node, t.spec, s.chance)
	for _, f := range s.flows {
		if p, fate, ok := w.packet(f); ok {
			t.packets, t.arrive = append(t.packets, p), append(t.arrive, fate)
		}
	}
	return t, nil
}

// interfaces are those that the agent would tell its index.
func (j *judge) interfaces() (out []policy.Iface, err error) {
	ctx, stop := context.WithCancel(j.t.Context())
	defer stop()
	err = j.node.Do(func() error {
		now, err := kernel.Interfaces(ctx)
		if err != nil {
			return err
		}
		for _, f := range <-now {
			out = append(out, policy.Iface{Name: f.Name, Addrs: f.Addrs, Peers: f.Peers, Nets: f.Nets,
				Shared: f.Bridge, Uplink: f.Uplink || !f.Bridge && len(f.Nets) > 0})
		}
		return nil
	})
	return out, err
}

// place is where an address of a node is.
type place struct {
	link string // "" the host itself
	by   string // the interface by which routing knows it
}

// where is everything around one node.
type where struct {
	node   string
	at     map[netip.Addr]place
	wires  []place // the two uplinks, then the workloads
	chance *rand.Rand
}

func whereabouts(node string, s Spec, chance *rand.Rand) *where {
	w := &where{node: node, at: map[netip.Addr]place{}, chance: chance}
	for _, u := range s.Uplinks {
		w.wires = append(w.wires, place{u.Iface, u.Iface})
		for _, a := range u.Addrs {
			w.at[a] = place{}
		}
	}
	for _, l := range s.Workloads {
		p := place{l.Iface, l.Iface}
		if l.Bridged {
			p.by = Bridge
		}
		w.wires = append(w.wires, p)
		for _, a := range l.Addrs {
			w.at[a] = p
		}
	}
	return w
}

func (w *where) oneIn(n int) bool { return w.chance.IntN(n) == 0 }

// packet is a flow as the node sees it, and where it goes; none if the node does not, or if it only passes, of which few are of
// interest. One packet in ten comes from where its source is not.
func (w *where) packet(f policy.Flow) (Packet, Fate, bool) {
	from, fromHere := w.at[f.Src]
	to, toHere := w.at[f.Dst]
	lies := w.oneIn(10) && !(fromHere && from.link == "") // the kernel itself refuses its own IPv4 addresses from elsewhere
	switch {
	case lies:
		from = w.wires[w.chance.IntN(len(w.wires))]
	case !fromHere && !toHere && !w.oneIn(8), fromHere && from == to && from.link != "":
		return Packet{}, "", false
	case !fromHere:
		from = w.wires[w.chance.IntN(2)]
	}
	f.Via, f.InIface, f.OutIface = w.node, from.by, to.by
	if from.link != "" && w.oneIn(4) {
		w.translate(&f)
	}
	fate := Out(to.link)
	switch {
	case !toHere:
		f.OutIface, fate = "eth0", Out("eth0")
	case to.link == "":
		fate = Local
	}
	return Packet{f, from.link}, fate, true
}

// backends are addresses of random clusters; each is behind a service and behind a port of every node.
var backends = addrs("10.0.0.1", "10.0.1.2", "10.0.0.3", "10.0.1.4", "10.0.0.5", "10.0.0.20", "10.0.0.21",
	"fd00::1", "fd00::2", "fd00::3", "fd00::4", "fd00::5", "fd00::20", "fd00::21",
	"192.0.2.1", "192.0.2.2", "198.51.100.7", "2001:db8::1", "2001:db8::2", "2001:db8:9::1")

const (
	nodePorts  = 30000 // the first
	targetPort = 80    // of all of them
)

func serviceOf(backend int) netip.Addr {
	if backends[backend].Is4() {
		return netip.AddrFrom4([4]byte{172, 16, 0, byte(backend)})
	}
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x99, 15: byte(backend)})
}

// translations do what kube-proxy does, at its priority.
func translations() string {
	var b strings.Builder
	b.WriteString("table inet services {\nchain c {\ntype nat hook prerouting priority -100\n")
	for i, a := range backends {
		family, target := "ip", a.String()
		if a.Is6() {
			family, target = "ip6", "["+target+"]"
		}
		fmt.Fprintf(&b, "meta l4proto { tcp, udp } %s daddr %s dnat %s to %s\n", family, serviceOf(i), family, target)
		fmt.Fprintf(&b, "meta nfproto %s fib daddr type local tcp dport %d dnat %s to %s:%d\n",
			map[string]string{"ip": "ipv4", "ip6": "ipv6"}[family], nodePorts+i, family, target, targetPort)
	}
	b.WriteString("}\n}\n")
	return b.String()
}

// translate makes a flow to a backend one to its service, or to a port of the node.
func (w *where) translate(f *policy.Flow) {
	i := slices.Index(backends, f.Dst)
	if i < 0 || f.Proto != policy.ProtoTCP && f.Proto != policy.ProtoUDP {
		return
	}
	f.OrigDst, f.OrigDstPort = serviceOf(i), f.DstPort
	if f.DstPort != targetPort || f.Proto != policy.ProtoTCP {
		return
	}
	for _, a := range backends {
		if p, here := w.at[a]; here && p.link == "" && a.Is4() == f.Dst.Is4() {
			f.OrigDst, f.OrigDstPort = a, uint16(nodePorts+i)
		}
	}
}

// try judges a node's table, and gives what is wrong.
func (j *judge) try(t *trial, table *ruleset.Table) ([]string, error) {
	if err := j.table.Delete(); err != nil {
		return nil, err
	}
	// What does not arrive without a table says nothing about one.
	free, err := j.send(t.packets)
	if err != nil {
		return nil, err
	}
	if _, err := j.table.Apply(table); err != nil {
		return nil, err
	}
	seen, err := j.send(t.packets)
	if err != nil {
		return nil, err
	}
	return j.compare(t, free, seen), nil
}

func (j *judge) send(packets []Packet) ([]Fate, error) {
	start := time.Now()
	defer func() { j.tally.inKernel += time.Since(start) }()
	return j.node.Send(packets)
}

func (j *judge) compare(t *trial, free, seen []Fate) (wrong []string) {
	for i, p := range t.packets {
		j.tally.sent++
		trace, want := t.plan.Trace(p.Flow), t.arrive[i]
		if free[i] != want || p.OrigDst.IsValid() && untracked(trace) {
			j.tally.unjudged++
			continue
		}
		if trace.Verdict == policy.Deny {
			want = Lost
		}
		j.tally.count(p, want, trace)
		if seen[i] != want {
			wrong = append(wrong, fmt.Sprintf("%+v: it is %s, and should be %s:\n%s", p, seen[i], want, steps(trace)))
		}
	}
	return wrong
}

// untracked tells whether an untracked policy has allowed a flow: then nothing translates it.
func untracked(t policy.Trace) bool {
	return slices.ContainsFunc(t.Steps, func(s policy.Step) bool { return s.Stage == policy.Untracked && s.Action == policy.Allow })
}

func (y *tally) count(p Packet, want Fate, t policy.Trace) {
	y.allowed++
	if want == Lost {
		y.allowed--
		y.denied++
	}
	family, way := "IPv4", "forwarded"
	if p.Src.Is6() {
		family = "IPv6"
	}
	switch {
	case p.OrigDst.IsValid():
		way = "translated"
	case p.In == "":
		way = "from the host"
	case want == Local || p.OutIface == "":
		way = "to the host"
	case p.InIface == Bridge && p.OutIface == Bridge:
		way = "on the bridge"
	}
	name := policy.ProtoName(p.Proto)
	if strings.Trim(name, "0123456789") == "" {
		name = "others"
	}
	for _, what := range []string{family, name, way} {
		y.by[what]++
	}
	for _, s := range t.Steps {
		if s.Endpoint.Kind == "HostEndpoint" && (s.Action == policy.Allow || s.Action == policy.Deny) {
			y.by[fmt.Sprintf("host endpoint's %s %s", s.Stage, s.Action)]++
		}
	}
}

func (y *tally) String() string {
	var by []string
	for _, k := range slices.Sorted(maps.Keys(y.by)) {
		by = append(by, fmt.Sprintf("%s %d", k, y.by[k]))
	}
	return fmt.Sprintf("%d clusters, %d nodes, %d packets: %d allowed, %d denied, %d not judged; %s; the kernel took %.0f a second",
		y.clusters, y.nodes, y.sent, y.allowed, y.denied, y.unjudged, strings.Join(by, ", "), 2*float64(y.sent)/y.inKernel.Seconds())
}

func steps(t policy.Trace) string {
	var b strings.Builder
	for _, s := range t.Steps {
		fmt.Fprintf(&b, "  %s %s, tier %s, %s rule %d: %s: %s\n", s.Endpoint, s.Direction, s.Tier, s.Policy, s.Rule, s.Action, s.Why)
	}
	return b.String()
}

func yamlOf(objects []client.Object) string {
	var b strings.Builder
	for _, o := range objects {
		text, err := yaml.Marshal(o)
		if err != nil {
			text = []byte(err.Error())
		}
		fmt.Fprintf(&b, "---\n%s", text)
	}
	return b.String()
}

// cluster judges all nodes of a cluster.
func (j *judge) cluster(s *sample) (wrong []string, err error) {
	whole := s.index("").Plan()
	j.tally.clusters++
	for _, node := range s.index("").Nodes() {
		t, err := j.trialOf(s, whole, node)
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", node, err)
		}
		j.tally.nodes++
		w, err := j.try(&t, ruleset.Compile(t.plan, ruleset.Options{}))
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", node, err)
		}
		for _, text := range w {
			wrong = append(wrong, fmt.Sprintf("node %s %+v: %s", node, t.spec, text))
		}
	}
	return wrong, nil
}

// enough clusters with a fault are shown.
const enough = 3

// Any cluster, any flow, on every node: what becomes of the packet is what policy says.
func TestRandomPackets(t *testing.T) {
	for _, c := range []struct {
		name    string
		bridges bool
		samples *rapid.Generator[sample]
	}{
		{"routed", false, rapid.Custom(anySample)},
		{"bridged", true, rapid.Custom(otherSample)},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := newJudge(t, c.bridges)
			start, faulty := time.Now(), 0
			for i := *seed; j.tally.sent < *packetsWanted/2 && faulty < enough; i++ {
				s := c.samples.Example(i)
				wrong, err := j.cluster(&s)
				switch {
				case err != nil:
					t.Fatalf("seed %d: %v\n%s", i, err, yamlOf(s.objects))
				case len(wrong) > 0:
					faulty++
					t.Errorf("seed %d, to host %s: %d packets\n%s\n%s",
						i, *s.options.Felix.DefaultEndpointToHostAction, len(wrong), strings.Join(wrong[:min(3, len(wrong))], "\n"),
						yamlOf(s.objects))
				}
			}
			t.Logf("%s; %.1fs in all", &j.tally, time.Since(start).Seconds())
			if 10*j.tally.unjudged > j.tally.sent {
				t.Errorf("%d of %d packets are not judged", j.tally.unjudged, j.tally.sent)
			}
		})
	}
}
