package churn

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/test/lab"
)

// bulk is objects that make a table great: one set of so many networks, and as many policies as it takes to fill a transaction. They say
// nothing of the packets that are sent.
func (s *site) bulk(n int) (all []client.Object) {
	var b strings.Builder
	b.WriteString("apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: bulk, labels: {zone: bulk}}\nspec:\n  nets:\n")
	for i := range 100 * n {
		fmt.Fprintf(&b, "  - 203.%d.%d.0/25\n", i>>8&255, i&255)
	}
	for i := range n {
		fmt.Fprintf(&b, `---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: bulk%d}
spec:
  tier: bulk
  order: %d
  selector: all()
  ingress: [{action: Deny, protocol: TCP, source: {selector: zone == 'bulk'}, destination: {ports: [%d, %d]}}]
  egress: [{action: Deny, protocol: UDP, destination: {nets: [203.0.%d.0/24], ports: [%d]}}]
`, i, i, 1000+s.rng.IntN(1000), 3000+i, i&255, 4000+i)
	}
	return append(s.objects("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: bulk}\nspec: {order: 1, defaultAction: Pass}"), s.objects(b.String())...)
}

// figures are what one step has cost.
type figures struct {
	name                                          string
	times                                         int
	took                                          time.Duration
	denied, through, allowed, lost, lostElsewhere uint64
}

func (f figures) String() string {
	return fmt.Sprintf("%-44s × %2d in %8s  denied %7d, through %d  allowed %7d, lost %d (without a table %d)", f.name, f.times, f.took.Round(time.Millisecond),
		f.denied, f.through, f.allowed, f.lost, f.lostElsewhere)
}

// measure what becomes of the packets while something is done, and until agents have all of it in force.
func (s *site) measure(name string, times int, control *traffic, do func(i int)) (out figures) {
	s.t.Helper()
	sent, through, _ := s.traffic.sum(true)
	allowed, _, lost := s.traffic.sum(false)
	_, _, elsewhere := control.sum(false)
	began := time.Now()
	for i := range times {
		s.traffic.does(fmt.Sprintf("%s %d", name, i))
		do(i)
	}
	out = figures{name: name, times: times, took: time.Since(began)}
	s.traffic.advance(s.t)
	out.denied, out.through, _ = s.traffic.sum(true)
	out.allowed, _, out.lost = s.traffic.sum(false)
	_, _, out.lostElsewhere = control.sum(false)
	out.denied, out.through, out.allowed, out.lost, out.lostElsewhere = out.denied-sent, out.through-through, out.allowed-allowed, out.lost-lost, out.lostElsewhere-elsewhere
	return out
}

// moves and renames give a table another form: base chains stand elsewhere, so that the kernel cannot change them into each other; all sets
// have other names.
var (
	moves   = edit{"dataplane/ruleset/compile.go", "priorityFrom       = -20", "priorityFrom       = -21"}
	renames = edit{"dataplane/ruleset/compile.go", `strings.ReplaceAll(id, ":", "-")`, `"v3-" + strings.ReplaceAll(id, ":", "-")`}
)

// become has agents of another tierctl take the place of those that run, which are asked to end.
func (s *site) become(path string) {
	s.t.Helper()
	fatal(s.t, s.StopAgents())
	s.tierctl.Path = path
	s.start()
}

// Whatever becomes of the agents, no denied packet comes through, no allowed one is lost, and connections live: they are killed, also while
// they program a great table; end and start again; are upgraded and rolled back, also to one whose chains stand elsewhere, and whose sets
// have other names.
func TestUpgrade(t *testing.T) {
	lab.Need(t, noNamespaces)
	first := tierctl(t, "-ldflags", "-X github.com/tierwall/tierwall/cli/early.Version=v1.0.0")
	s := newSite(t, first)
	second := tierctl(t, "-ldflags", "-X github.com/tierwall/tierwall/cli/early.Version=v1.1.0")
	moved, renamed := altered(t, []edit{moves}, "-ldflags", "-X github.com/tierwall/tierwall/cli/early.Version=v2.0.0"), altered(t, []edit{renames}, "-ldflags", "-X github.com/tierwall/tierwall/cli/early.Version=v3.0.0")
	control := unguarded(t)
	bulk := s.bulk(40)
	upgrade := func(to, has string) func(int) {
		return func(int) {
			s.become(to)
			for _, node := range s.Nodes() {
				if err := s.Run(t.Context(), node, fmt.Sprintf("nft list table inet tierwall | grep -q -e '%s'", has)); err != nil {
					t.Errorf("%s has no table with %q: %v", node, has, err)
				}
			}
			s.become(first)
		}
	}
	var all []figures
	for _, step := range []struct {
		name  string
		times int
		do    func(int)
	}{
		{"kill -9, and another starts", 20, func(int) { fatal(t, s.KillAgents()); s.start() }},
		{"kill -9 while a great table is programmed", 20, func(i int) {
			if i%2 == 0 {
				s.write(bulk, nil)
			} else {
				s.write(nil, bulk)
			}
			s.moment(250 * time.Millisecond)
			fatal(t, s.KillAgents())
			fatal(t, s.StartAgents(s.tierctl))
			s.moment(250 * time.Millisecond)
			fatal(t, s.KillAgents())
			s.start()
		}},
		{"SIGTERM, and another starts", 5, func(int) { s.become(first) }},
		{"upgrade to another version, and back", 5, upgrade(second, "chain")},
		{"upgrade that moves base chains, and back", 5, upgrade(moved, "priority -21")},
		{"upgrade that renames all sets, and back", 5, upgrade(renamed, "-v3-")},
	} {
		all = append(all, s.measure(step.name, step.times, control, step.do))
	}
	fatal(t, errors.Join(s.traffic.end(), control.end()))
	for _, f := range all {
		t.Log(f)
	}
	t.Logf("\n%s%s", s.traffic, control)
	for _, complaint := range s.traffic.verdict(control) {
		t.Error(complaint)
	}
}

// Two agents on each node, whose tables differ, do not fight: the first has the table, the second says so and waits, and takes over when the
// first has ended. It is so where the kernel gives the table an owner, and where it does not.
func TestTwoAgentsOnANode(t *testing.T) {
	lab.Need(t, noNamespaces)
	for _, c := range []struct {
		kernel string
		edits  []edit
	}{{"a kernel that knows owners", nil}, {"an older kernel", []edit{noOwner}}} {
		t.Run(c.kernel, func(t *testing.T) {
			s := newSite(t, altered(t, c.edits))
			control := unguarded(t)
			before := s.tables()
			s.tierctl.Path = altered(t, append(c.edits, moves), "-ldflags", "-X github.com/tierwall/tierwall/cli/early.Version=second")
			s.traffic.does("a second agent starts")
			fatal(t, s.StartAgents(s.tierctl))
			s.words("another agent runs on this node and has its table")
			report := s.report()
			for range 3 {
				s.traffic.advance(t)
			}
			if now := s.tables(); now != before {
				t.Errorf("the tables were\n%s\nand are\n%s", before, now)
			}
			if now := s.report(); now.ResourceVersion != report.ResourceVersion || now.Status.AgentVersion == "second" {
				t.Errorf("the report has changed from %+v to %+v", report, now)
			}
			s.traffic.does("the first agent ends")
			began := time.Now()
			fatal(t, s.StopFirst(len(s.Nodes())))
			s.words("this one has taken over")
			t.Logf("the second has taken over after %v", time.Since(began).Round(time.Millisecond))
			s.swap()
			s.wait()
			s.traffic.until(t, "the second does not report", func() bool { return s.report().Status.AgentVersion == "second" })
			fatal(t, errors.Join(s.traffic.end(), control.end()))
			for _, complaint := range s.traffic.verdict(control) {
				t.Error(complaint)
			}
		})
	}
}

// words are said by one agent on each node.
func (s *site) words(words string) {
	s.t.Helper()
	ctx, stop := context.WithTimeout(s.t.Context(), *patience)
	defer stop()
	fatal(s.t, s.WaitForWords(ctx, len(s.Nodes()), words))
}

// tables of all nodes, with the handles that change when something is made anew.
func (s *site) tables() string {
	s.t.Helper()
	var b strings.Builder
	for i, node := range s.Nodes() {
		fatal(s.t, s.At(cluster.Nodes[i].Uplinks[0].Addrs[0], func() error {
			out, err := exec.CommandContext(s.t.Context(), "nft", "--stateless", "--handle", "list", "table", "inet", "tierwall").CombinedOutput()
			fmt.Fprintf(&b, "%s: %s", node, out)
			return err
		}))
	}
	return b.String()
}

// report of the first node.
func (s *site) report() *v1alpha1.NodeReport {
	s.t.Helper()
	o, err := s.store.Get(s.t.Context(), v3.Ref{Kind: "NodeReport", Name: s.Nodes()[0]})
	fatal(s.t, err)
	return o.(*v1alpha1.NodeReport)
}
