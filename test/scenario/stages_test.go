package scenario

import (
	"testing"

	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// Some flow of the corpus meets each action of a rule, and each end of a tier, at every stage in every direction (contract §4.3).
func TestEveryActionAtEveryStage(t *testing.T) {
	seen := map[string]int{}
	for _, s := range corpus(t) {
		x, err := s.Index("")
		if err != nil {
			t.Fatal(err)
		}
		p := x.Plan()
		for _, f := range s.Flows {
			flow, err := x.Flow(f.Spec)
			if err != nil {
				t.Fatalf("%s: %s: %v", s.Name, f.Text, err)
			}
			for _, step := range p.Trace(flow).Steps {
				seen[met(&step)]++
			}
		}
	}
	for _, what := range meetings() {
		if seen[what] == 0 {
			t.Errorf("the corpus has no %s", what)
		}
	}
}

// met says what a user's policy or tier did; "" of anything else.
func met(s *policy.Step) string {
	who := "workload"
	if s.Endpoint.Kind == "HostEndpoint" {
		who = "host"
	}
	at := who + " " + s.Stage.String() + " " + s.Direction.String() + " "
	switch {
	case s.Tier == "" || s.Action == policy.None:
		return ""
	case s.Rule < 0:
		return at + "end of a tier: " + s.Action.String()
	}
	return at + s.Action.String()
}

// meetings are all that there can be: pre-DNAT is ingress only, and there and before connections are known a tier's end passes.
func meetings() (out []string) {
	add := func(who string, s policy.Stage, d policy.Direction, ends ...policy.Action) {
		at := who + " " + s.String() + " " + d.String() + " "
		for _, a := range []policy.Action{policy.Allow, policy.Deny, policy.Pass, policy.Log} {
			out = append(out, at+a.String())
		}
		for _, a := range ends {
			out = append(out, at+"end of a tier: "+a.String())
		}
	}
	for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
		add("workload", policy.Normal, d, policy.Deny, policy.Pass)
		for s := policy.Normal; s <= policy.Forward; s++ {
			switch {
			case s == policy.PreDNAT && d == policy.Egress:
			case s == policy.PreDNAT || s == policy.Untracked:
				add("host", s, d, policy.Pass)
			default:
				add("host", s, d, policy.Deny, policy.Pass)
			}
		}
	}
	return out
}

const conntrack = -200 // the priority of the kernel's hook behind which connections are known

// A change of policy does not cut what is connected: wherever connections are known, the packets of one are accepted before
// anything can refuse them (contract §10.5 #17, §4.6).
func TestConnectionsAreKept(t *testing.T) {
	for _, s := range corpus(t) {
		all, err := s.Index("")
		if err != nil {
			t.Fatal(err)
		}
		for _, node := range all.Nodes() {
			x, err := s.Index(node)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range ruleset.Compile(x.Plan(), ruleset.Options{}).Chains {
				if c.Hook != "" && c.Priority > conntrack && !keeps(c.Rules) {
					t.Errorf("%s: node %s: chain %s can refuse packets of a connection", s.Name, node, c.Name)
				}
			}
		}
	}
}

// keeps tells whether the first rule that decides anything accepts what is established or related.
func keeps(rules []ruleset.Rule) bool {
	known := ruleset.Match{Key: ruleset.KeyCTState, Elem: ruleset.Elem{Num: ruleset.CTEstablished | ruleset.CTRelated}}
	for _, r := range rules {
		if r.VMap != nil || r.Verdict.Kind != ruleset.Continue {
			return r.Verdict.Kind == ruleset.Accept && len(r.Matches) == 1 && r.Matches[0] == known
		}
	}
	return false
}
