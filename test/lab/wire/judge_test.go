package wire

import (
	"math/rand/v2"
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
	s := sample{objects: objects, options: policy.Options{Felix: v3.FelixConfigurationSpec{DefaultEndpointToHostAction: &accept}}, chance: rand.New(rand.NewPCG(1, 1))}
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
		if c.rule != "" && !dropBy(table, c.rule) {
			t.Fatalf("no rule accepts as %s:\n%s", c.rule, table)
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

// dropBy makes the rules that accept by that name drop.
func dropBy(table *ruleset.Table, id ruleset.RuleID) (done bool) {
	for i := range table.Chains {
		for k := range table.Chains[i].Rules {
			if r := &table.Chains[i].Rules[k]; r.ID == id && r.Verdict.Kind == ruleset.Accept {
				r.Verdict.Kind, done = ruleset.Drop, true
			}
		}
	}
	return done
}

// Of random tables with the verdict of one rule turned round, the judge sees more than one in ten, by packets that nobody chose for them.
func TestTheJudgeSeesSpoiltTables(t *testing.T) {
	j := newJudge(t, false)
	samples, spoilt, seen := rapid.Custom(anySample), 0, 0
	for i := range 100 {
		s := samples.Example(*seed + i)
		x, err := j.trialOf(&s, s.index("").Plan(), "n1")
		if err != nil {
			t.Fatal(err)
		}
		table := ruleset.Compile(x.plan, ruleset.Options{})
		if !spoil(table, s.chance) {
			continue
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
	if spoilt < 90 || 10*seen < spoilt {
		t.Errorf("%d of %d spoilt tables are seen", seen, spoilt)
	}
}

// spoil turns round one rule of a table that decides.
func spoil(table *ruleset.Table, chance *rand.Rand) bool {
	opposite := map[ruleset.VerdictKind]ruleset.VerdictKind{ruleset.Accept: ruleset.Drop, ruleset.Drop: ruleset.Accept}
	var all []*ruleset.Rule
	for i := range table.Chains {
		for k := range table.Chains[i].Rules {
			r := &table.Chains[i].Rules[k]
			if _, decides := opposite[r.Verdict.Kind]; decides && r.Counter && r.ID != "invalid ingress" && r.ID != "invalid egress" {
				all = append(all, r)
			}
		}
	}
	if len(all) == 0 {
		return false
	}
	r := all[chance.IntN(len(all))]
	r.Verdict.Kind = opposite[r.Verdict.Kind]
	return true
}
