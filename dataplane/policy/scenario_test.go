package policy_test

import (
	"flag"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/scenario"
)

func scenarios(t testing.TB) []scenario.Scenario {
	t.Helper()
	all, err := scenario.Load("../../test/scenarios")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 60 {
		t.Fatalf("the corpus has %d scenarios", len(all))
	}
	return all
}

// Every flow of the corpus gets its verdict, from what the scenario says decides.
func TestScenarios(t *testing.T) {
	for _, s := range scenarios(t) {
		t.Run(s.Name, func(t *testing.T) {
			x, err := s.Index("")
			if err != nil {
				t.Fatal(err)
			}
			p := x.Plan()
			for _, f := range s.Flows {
				flow, err := x.Flow(f.Spec)
				if err != nil {
					t.Fatalf("line %d: %v", f.Line, err)
				}
				got := p.Trace(flow)
				if have := inForce(got); f.Staged != policy.None && have.Verdict != f.Staged {
					t.Errorf("%s\nwith what is staged %s: %+v", f.Text, have.Verdict, have.Steps)
				}
				if got.Verdict != f.Verdict {
					t.Errorf("%s\nhave %s: %+v", f.Text, got.Verdict, got.Steps)
				} else if len(f.By) > 0 {
					if diff := cmp.Diff(f.By, by(got, f.By[0])); diff != "" {
						t.Errorf("%s\n-want +have:\n%s", f.Text, diff)
					}
				}
			}
		})
	}
}

// inForce is what would be if the staged policies were enforced; where none makes another list it is what is.
func inForce(t policy.Trace) *policy.Outcome {
	if t.Staged != nil {
		return t.Staged
	}
	return &t.Outcome
}

var update = flag.Bool("update", false, "rewrite the plans of the corpus")

// The plans that the corpus shows are what comes out, word for word.
func TestScenarioPlans(t *testing.T) {
	shown := 0
	for _, s := range scenarios(t) {
		plans := map[string]string{}
		for node, want := range s.Plans {
			x, err := s.Index(node)
			if err != nil {
				t.Fatal(err)
			}
			shown++
			plans[node] = x.Plan().String()
			if diff := cmp.Diff(want, plans[node]); diff != "" && !*update {
				t.Errorf("%s, node %s: -want +have:\n%s", s.Name, node, diff)
			}
		}
		if *update && len(plans) > 0 {
			if err := s.Update("plan.", plans); err != nil {
				t.Fatal(err)
			}
		}
	}
	if shown < 5 {
		t.Errorf("the corpus shows %d plans", shown)
	}
}

// by is what decided in a direction, in the words of a scenario.
func by(got policy.Trace, direction string) []string {
	j := got.Ingress
	if direction == "egress" {
		j = got.Egress
	}
	if j == nil {
		return []string{direction, "not", "judged", ""}
	}
	out := []string{direction, "-", "-", "-"}
	if j.Tier != "" {
		out[1] = j.Tier
	}
	if j.Policy != (v3.Ref{}) {
		out[2] = j.Policy.String()
	}
	if j.Rule >= 0 {
		out[3] = strconv.Itoa(j.Rule)
	}
	return out
}

// A node judges only its own endpoints, and what all nodes judge together is what one plan of all nodes does.
func TestNodesTogetherDecideAsOne(t *testing.T) {
	for _, s := range scenarios(t) {
		all, err := s.Index("")
		if err != nil {
			t.Fatal(err)
		}
		whole := all.Plan()
		for _, f := range s.Flows {
			flow, err := all.Flow(f.Spec)
			if err != nil {
				t.Fatal(err)
			}
			verdict := policy.Allow
			for _, h := range nodesOf(whole) {
				x, err := s.Index(h)
				if err != nil {
					t.Fatal(err)
				}
				if x.Plan().Trace(flow).Verdict == policy.Deny {
					verdict = policy.Deny
				}
			}
			if want := whole.Trace(flow).Verdict; verdict != want {
				t.Errorf("%s: %s: all nodes %s, one plan %s", s.Name, f.Text, verdict, want)
			}
		}
	}
}

func nodesOf(p *policy.Plan) (names []string) {
	seen := map[string]bool{}
	for _, e := range p.Endpoints {
		seen[e.Node] = true
	}
	for _, h := range p.Hosts {
		seen[h.Name] = true
	}
	for n := range seen {
		names = append(names, n)
	}
	return names
}
