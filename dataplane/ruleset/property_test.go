package ruleset_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
	"github.com/tierwall/tierwall/test/scenario"
)

func indexOf(node string, o policy.Options, objs []client.Object) *policy.Index {
	x := policy.NewIndex(node, o)
	for _, obj := range objs {
		_ = x.Set(obj) // what is not enforced as written is so in the plan and in the table alike
	}
	return x
}

func anyOptions(t *rapid.T) policy.Options {
	toHost := rapid.SampledFrom([]string{"Drop", "Accept", "Return"}).Draw(t, "to host")
	return policy.Options{Felix: v3.FelixConfigurationSpec{DefaultEndpointToHostAction: &toHost}}
}

// checks is how many random clusters each property is held against, unless -rapid.checks says otherwise.
const checks = "2000"

// flowsPerCluster makes, with checks, 200,000 pairs of a cluster and a packet.
const flowsPerCluster = 100

func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", checks); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// Two minds: Trace and the interpreted tables say the same of any flow in any cluster; and the clusters and flows are such that
// everything which can decide does.
func TestTwoMinds(t *testing.T) {
	pairs, by := 0, map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		objs, o := scenario.Cluster(t), anyOptions(t)
		worth := rapid.SampledFrom([]int{1, 2, 4, 1000}).Draw(t, "rules that are worth a map by port")
		whole := indexOf("", o, objs).Plan()
		nodes := map[string]*interpreter{}
		for _, n := range nodesOf(whole) {
			x := indexOf(n, o, objs)
			x.SetInterfaces(interfacesOf(whole, n))
			nodes[n] = newInterpreter(ruleset.CompileWorth(x.Plan(), ruleset.Options{}, worth))
		}
		for range flowsPerCluster {
			f, logged := scenario.AnyJourney(t, whole), 0
			trace := whole.Trace(f)
			for _, in := range nodes {
				in.logs = 0
			}
			if got := send(whole, nodes, f); got != trace.Verdict {
				t.Fatalf("%+v: the tables say %s, Trace says %s: %+v\n%s", f, got, trace.Verdict, trace.Steps, whole)
			}
			pairs++
			for _, in := range nodes {
				logged -= in.logs
			}
			for _, s := range trace.Steps {
				if s.Action == policy.Log {
					logged++
				}
				by[decider(&s)]++
			}
			if logged != 0 {
				t.Fatalf("%+v: the tables log %d times fewer than Trace: %+v\n%s", f, logged, trace.Steps, whole)
			}
		}
		for _, in := range nodes {
			by[led] += in.led
		}
	})
	t.Logf("%d pairs", pairs)
	for _, d := range deciders() {
		if by[d] == 0 && !t.Failed() {
			t.Errorf("nothing was decided by %s", d)
		}
		t.Logf("%8d %s", by[d], d)
	}
}

const led = "a packet is led to the rules for its port"

// decider names what a step of a trace was: a rule's action by kind, stage and direction, or what is built in.
func decider(s *policy.Step) string {
	switch {
	case s.Policy == (v3.Ref{}) && s.Tier != "":
		return fmt.Sprintf("end of tier, %s, %s %s", s.Action, s.Stage, s.Direction)
	case s.Policy == (v3.Ref{}):
		why, _, _ := strings.Cut(s.Why, ":")
		return why
	case s.Policy.Kind == "Failsafe", s.Policy.Kind == "Protection":
		return fmt.Sprintf("%s, %s %s", s.Policy.Kind, s.Stage, s.Direction)
	}
	return fmt.Sprintf("%s, %s, %s %s", s.Policy.Kind, s.Action, s.Stage, s.Direction)
}

// deciders are all that there are.
func deciders() (out []string) {
	places := []string{"normal ingress", "normal egress", "untracked ingress", "untracked egress", "preDNAT ingress", "forward ingress", "forward egress"}
	for _, p := range places {
		for _, a := range []string{"Allow", "Deny", "Pass", "Log", "None"} {
			out = append(out, "GlobalNetworkPolicy, "+a+", "+p)
		}
		early := strings.HasPrefix(p, "untracked") || strings.HasPrefix(p, "preDNAT")
		if out = append(out, "end of tier, Pass, "+p); !early {
			out = append(out, "end of tier, Deny, "+p)
		}
		if !strings.HasPrefix(p, "forward") {
			out = append(out, "Failsafe, "+p)
		}
	}
	for _, d := range []string{"ingress", "egress"} {
		for _, a := range []string{"Allow", "Deny", "Pass", "Log", "None"} {
			out = append(out, "NetworkPolicy, "+a+", normal "+d, "Profile, "+a+", normal "+d)
			if a != "Log" {
				out = append(out, "KubernetesClusterNetworkPolicy, "+a+", normal "+d)
			}
		}
		out = append(out, "KubernetesNetworkPolicy, Allow, normal "+d, "KubernetesNetworkPolicy, None, normal "+d)
	}
	return append(out, "Protection, normal egress", "no policy and no profile decided", "a host may always reach its own workloads",
		"a packet to itself never leaves the workload", "a workload may send only from its own addresses",
		"a workload's traffic to its own host", "IPv6 neighbour discovery with the own host is always allowed",
		"untracked or pre-DNAT policy has allowed it", led, "interface cali1 is for workloads, and this is none that is known",
		"interface azv1 is for workloads, and this is none that is known")
}

// Equal plans give equal tables, whatever the order in which the objects came.
func TestCompileIsDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		objs := scenario.Cluster(t)
		one := ruleset.Compile(indexOf("n1", policy.Options{}, objs).Plan(), ruleset.Options{})
		slices.Reverse(objs)
		two := ruleset.Compile(indexOf("n1", policy.Options{}, objs).Plan(), ruleset.Options{})
		if diff := cmp.Diff(one.String(), two.String()); diff != "" {
			t.Fatal(diff)
		}
		if changes := ruleset.Diff(one, two); len(changes) > 0 {
			t.Fatalf("equal tables differ: %v", changes)
		}
	})
}

// The changes that Diff gives, made one after the other, make one table of the other, and none of them names what is not there.
func TestDiffLeadsThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have := ruleset.Compile(indexOf("n1", policy.Options{}, scenario.Cluster(t)).Plan(), ruleset.Options{})
		want := ruleset.Compile(indexOf("n1", anyOptions(t), scenario.Cluster(t)).Plan(), ruleset.Options{})
		for i, c := range want.Chains {
			if c.Hook != "" && rapid.Bool().Draw(t, "moves") {
				elsewhere := *c
				elsewhere.Priority--
				want.Chains[i] = &elsewhere
			}
		}
		m := newMachine(t, have)
		m.makeAll(ruleset.Diff(have, want))
		if diff := cmp.Diff(want.String(), m.table(want.Name).String()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// machine holds a table as the kernel does, and refuses what the kernel refuses.
type machine struct {
	*rapid.T
	sets   map[string]*ruleset.Set
	maps   map[string]*ruleset.Map
	chains map[string]*ruleset.Chain
}

func newMachine(t *rapid.T, have *ruleset.Table) *machine {
	m := &machine{t, map[string]*ruleset.Set{}, map[string]*ruleset.Map{}, map[string]*ruleset.Chain{}}
	for _, s := range have.Sets {
		own := *s
		m.sets[s.Name] = &own
	}
	for _, x := range have.Maps {
		m.maps[x.Name] = &ruleset.Map{Name: x.Name, Type: x.Type, Entries: slices.Clone(x.Entries)}
	}
	for _, c := range have.Chains {
		own := *c
		m.chains[c.Name] = &own
	}
	return m
}

// makeAll first empties the chains that go, as whoever writes to the kernel must.
func (m *machine) makeAll(changes []ruleset.Change) {
	for _, c := range changes {
		if c.Chain != nil && c.Op == ruleset.Delete {
			m.chains[c.Chain.Name].Rules = nil
		}
	}
	for _, c := range changes {
		m.make(c)
	}
}

func (m *machine) make(c ruleset.Change) {
	switch {
	case c.Set != nil:
		m.set(c)
	case c.Map != nil:
		m.vmap(c)
	default:
		m.chain(c)
	}
}

func (m *machine) set(c ruleset.Change) {
	have := m.sets[c.Set.Name]
	switch {
	case c.Op == ruleset.Add && !c.Within:
		if have != nil {
			m.Fatalf("%s: it is there", c)
		}
		s := *c.Set
		m.sets[s.Name] = &s
	case have == nil:
		m.Fatalf("%s: it is not there", c)
	case c.Op == ruleset.Delete && !c.Within:
		m.unnamed(c.Set.Name)
		delete(m.sets, c.Set.Name)
	case c.Op == ruleset.Add:
		for e := range c.Set.Elems.All() {
			if have.Elems.Has(e) {
				m.Fatalf("%s: element %v is there", c, e)
			}
			have.Elems = ruleset.ElemsOf(slices.SortedFunc(slices.Values(append(slices.Clone(have.Elems.Slice()), e)), ruleset.Elem.Compare)...)
		}
	default:
		for e := range c.Set.Elems.All() {
			if !have.Elems.Has(e) {
				m.Fatalf("%s: element %v is not there", c, e)
			}
			have.Elems = ruleset.ElemsOf(slices.DeleteFunc(slices.Clone(have.Elems.Slice()), func(o ruleset.Elem) bool { return o == e })...)
		}
	}
}

func (m *machine) vmap(c ruleset.Change) {
	have := m.maps[c.Map.Name]
	switch {
	case c.Op == ruleset.Add && !c.Within:
		if have != nil {
			m.Fatalf("%s: it is there", c)
		}
		x := *c.Map
		x.Entries = slices.Clone(x.Entries)
		m.maps[x.Name] = &x
	case have == nil:
		m.Fatalf("%s: it is not there", c)
	case c.Op == ruleset.Delete && !c.Within:
		m.unnamed(c.Map.Name)
		delete(m.maps, c.Map.Name)
	case c.Op == ruleset.Add:
		have.Entries = append(have.Entries, c.Map.Entries...)
	default:
		for _, e := range c.Map.Entries {
			i := slices.Index(have.Entries, e)
			if i < 0 {
				m.Fatalf("%s: entry %v is not there", c, e)
			}
			have.Entries = slices.Delete(have.Entries, i, i+1)
		}
	}
	for _, x := range m.maps {
		for _, e := range x.Entries {
			m.hasChain(c, e.Verdict)
		}
	}
}

func (m *machine) chain(c ruleset.Change) {
	have := m.chains[c.Chain.Name]
	switch c.Op {
	case ruleset.Add:
		if have != nil {
			m.Fatalf("%s: it is there", c)
		}
		chain := *c.Chain
		m.chains[chain.Name] = &chain
	case ruleset.Replace:
		have.Rules = c.Chain.Rules
		for _, r := range have.Rules {
			m.hasChain(c, r.Verdict)
		}
	default:
		delete(m.chains, c.Chain.Name)
	}
}

func (m *machine) hasChain(c ruleset.Change, v ruleset.Verdict) {
	if v.Chain != "" && m.chains[v.Chain] == nil {
		m.Fatalf("%s: chain %s is not there", c, v.Chain)
	}
}

// unnamed makes sure that no rule names a set or a map.
func (m *machine) unnamed(name string) {
	for _, c := range m.chains {
		for _, r := range c.Rules {
			if r.VMap != nil && r.VMap.Map == name || slices.ContainsFunc(r.Matches, func(x ruleset.Match) bool { return x.Set == name }) {
				m.Fatalf("%s goes, and chain %s names it", name, c.Name)
			}
		}
	}
}

func (m *machine) table(name string) *ruleset.Table {
	t := &ruleset.Table{Name: name}
	for _, k := range slices.Sorted(maps.Keys(m.sets)) {
		t.Sets = append(t.Sets, m.sets[k])
	}
	for _, k := range slices.Sorted(maps.Keys(m.maps)) {
		x := m.maps[k]
		slices.SortFunc(x.Entries, func(a, b ruleset.Entry) int { return a.Key.Compare(b.Key) })
		t.Maps = append(t.Maps, x)
	}
	for _, k := range slices.Sorted(maps.Keys(m.chains)) {
		t.Chains = append(t.Chains, m.chains[k])
	}
	return t
}

// A burst of no packets is one, for 0 is five to the kernel.
func TestNoBurst(t *testing.T) {
	limit, burst := "1/day", 0
	o := policy.Options{Felix: v3.FelixConfigurationSpec{LogActionRateLimit: &limit, LogActionRateLimitBurst: &burst}}
	g := &v3.GlobalNetworkPolicy{}
	g.Name, g.Spec.Ingress = "g", []v3.Rule{{Action: v3.Log}}
	objs := []client.Object{g, scenario.Pod("ns1", "p", "n1", []string{"10.0.0.1"}, nil)}
	text := ruleset.Compile(indexOf("n1", o, objs).Plan(), ruleset.Options{}).String()
	if !strings.Contains(text, "limit rate 1/day burst 1 packets") {
		t.Error(text)
	}
}
