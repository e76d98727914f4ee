package wire

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
	"github.com/tierwall/tierwall/test/scenario"
)

const twoPods = `
namespace ns1
node n1 192.0.2.1
pod ns1/client n1 10.0.0.1
pod ns1/server n1 10.0.0.2
`

// A table with one wrong rule is told from the right one, by exactly the packets that it is wrong about.
func TestTheJudgeSeesOneWrongRule(t *testing.T) {
	objects, err := scenario.Short(twoPods)
	if err != nil {
		t.Fatal(err)
	}
	j := newJudge(t, false)
	accept := "Accept"
	s := sample{objects: objects, options: policy.Options{Felix: v3.FelixConfigurationSpec{DefaultEndpointToHostAction: &accept}},
		chance: rand.New(rand.NewPCG(1, 1))}
	ends := addrs("10.0.0.1", "10.0.0.2", "192.0.2.1", "198.51.100.7")
	for _, src := range ends {
		for _, dst := range ends {
			s.flows = append(s.flows, policy.Flow{Src: src, Dst: dst, Proto: policy.ProtoTCP, SrcPort: 5000, DstPort: 80})
		}
	}
	x, err := j.trialOf(&s, s.index("").Plan(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rule  ruleset.RuleID // that drops
		wrong int
	}{
		{"", 0},
		{"pro/kns.ns1 ingress 0", 4}, // what the pods get from each other and from outside; their host always reaches them
		{"pro/kns.ns1 egress 0", 6},  // what they send to each other, to the host and outside
		{"defaultEndpointToHostAction", 2},
	} {
		table := ruleset.Compile(x.plan, ruleset.Options{})
		if turn := deciding(table)[c.rule]; c.rule != "" && !turn.round() {
			t.Fatalf("no rule decides as %s:\n%s", c.rule, table)
		}
		wrong, err := j.try(&x, table)
		if err != nil {
			t.Fatal(err)
		}
		if len(wrong) != c.wrong {
			t.Errorf("%q drops: %d packets are seen to be wrong, want %d: %q", c.rule, len(wrong), c.wrong, wrong)
		}
	}
}

// rules are those of a table that decide under one name.
type rules []*ruleset.Rule

func deciding(table *ruleset.Table) map[ruleset.RuleID]rules {
	out := map[ruleset.RuleID]rules{}
	for i := range table.Chains {
		for k := range table.Chains[i].Rules {
			r := &table.Chains[i].Rules[k]
			if _, decides := opposite[r.Verdict.Kind]; decides && r.ID != "" {
				out[r.ID] = append(out[r.ID], r)
			}
		}
	}
	return out
}

var opposite = map[ruleset.VerdictKind]ruleset.VerdictKind{
	ruleset.Accept: ruleset.Drop, ruleset.Drop: ruleset.Accept, ruleset.Reject: ruleset.Accept,
}

// round turns round what rules decide.
func (r rules) round() bool {
	for _, rule := range r {
		rule.Verdict.Kind = opposite[rule.Verdict.Kind]
	}
	return len(r) > 0
}

// Of random tables in which one rule that has met packets decides the opposite, most are seen, by packets that nobody chose for
// them. In the others it makes no difference: what the rule lets through is refused behind it.
func TestTheJudgeSeesSpoiltTables(t *testing.T) {
	j := newJudge(t, false)
	samples, spoilt, seen := rapid.Custom(anySample), 0, 0
	for i := range 60 {
		s := samples.Example(*seed + i)
		x, err := j.trialOf(&s, s.index("").Plan(), "n1")
		if err != nil {
			t.Fatal(err)
		}
		table := ruleset.Compile(x.plan, ruleset.Options{})
		if wrong, err := j.try(&x, table); err != nil || len(wrong) > 0 {
			t.Fatalf("seed %d: the right table: %v %v", *seed+i, err, wrong)
		}
		turn, err := j.met(table, s.chance)
		if err != nil {
			t.Fatal(err)
		}
		if !turn.round() {
			continue // no rule has met a packet
		}
		wrong, err := j.try(&x, table)
		if err != nil {
			t.Fatal(err)
		}
		if spoilt++; len(wrong) > 0 {
			seen++
		}
	}
	t.Logf("%d of %d spoilt tables are seen", seen, spoilt)
	if spoilt < 30 || 2*seen < spoilt {
		t.Errorf("only %d of %d spoilt tables are seen", seen, spoilt)
	}
}

// met is any rule that the kernel says has met packets.
func (j *judge) met(table *ruleset.Table, chance *rand.Rand) (rules, error) {
	counts, err := j.table.Counters()
	if err != nil {
		return nil, err
	}
	all := deciding(table)
	maps.DeleteFunc(all, func(id ruleset.RuleID, _ rules) bool { return counts[id].Packets == 0 })
	if len(all) == 0 {
		return nil, nil
	}
	names := slices.Sorted(maps.Keys(all))
	return all[names[chance.IntN(len(names))]], nil
}
