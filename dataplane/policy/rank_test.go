package policy_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/scenario"
)

// Every guard of the corpus names the policies in the order of the ranks, and each that a guard names is one of them.
func TestGuardsFollowTheRanks(t *testing.T) {
	for _, s := range scenarios(t) {
		x, err := s.Index("")
		if err != nil {
			t.Fatal(err)
		}
		place := map[string]int{}
		for _, r := range x.Ranks() {
			for _, p := range r.Policies {
				place[p.Policy.Ref.String()] = len(place)
			}
		}
		for _, e := range x.Plan().Endpoints {
			for _, g := range e.Guards {
				for _, tiers := range [][]policy.Tier{g.Tiers, g.Staged} {
					last := -1
					for _, tier := range tiers {
						for _, ref := range tier.Policies {
							at, ok := place[ref.String()]
							if tier.Name == "" {
								continue
							}
							if !ok || at < last {
								t.Errorf("%s: %s of %s is not where its rank is", s.Name, ref, e.Ref)
							}
							last = at
						}
					}
				}
			}
		}
	}
}

func TestRanks(t *testing.T) {
	x := indexOf(t, clusterOfTwo)
	order := 10.0
	for _, o := range []v3.Object{
		&v3.Tier{}, &v3.GlobalNetworkPolicy{}, &v3.StagedGlobalNetworkPolicy{}, &v3.GlobalNetworkPolicy{},
	} {
		switch o := o.(type) {
		case *v3.Tier:
			o.Name, o.Spec.Order = "first", &order
		case *v3.GlobalNetworkPolicy:
			o.Name, o.Spec.Tier, o.Spec.Selector = "a", "first", "app == 'a'"
			if len(x.Ranks()) > 0 {
				o.Name, o.Spec.Tier, o.Spec.Selector = "b", "nowhere", "nonsense"
			}
		case *v3.StagedGlobalNetworkPolicy:
			o.Name, o.Spec.Tier, o.Spec.Order = "a", "first", &order
		}
		_ = x.Set(o) // the second is not understood
	}
	var have []string
	for _, r := range x.Ranks() {
		have = append(have, fmt.Sprint(r.Tier, " ", r.Order, " ", r.Missing, " ", r.Default))
		for _, p := range r.Policies {
			have = append(have, fmt.Sprint("  ", p.Policy.Ref, " ", p.Order, " ", p.Policy.Staged, " ", p.Subject != nil, " ", p.Guards(policy.Ingress), p.Guards(policy.Egress)))
		}
	}
	want := []string{
		"first 10 false Deny",
		"  StagedGlobalNetworkPolicy/a 10 true true true false",
		"  GlobalNetworkPolicy/a +Inf false true true false",
		"nowhere 0 true Deny",
		"  GlobalNetworkPolicy/b " + fmt.Sprint(math.Inf(1)) + " false false true false",
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("-want +have:\n%s", diff)
	}
}

// The members of a set are those whose addresses and networks it holds.
func TestMembersOf(t *testing.T) {
	x := indexOf(t, clusterOfTwo)
	objs, err := scenario.Short("pod client/idle n1 10.0.1.9 app=z")
	if err != nil {
		t.Fatal(err)
	}
	feed := &v3.GlobalNetworkSet{Spec: v3.NetworkSetSpec{Nets: []string{"192.0.2.0/24"}}}
	feed.Name, feed.Labels = "feed", map[string]string{"app": "a"}
	p := &v3.GlobalNetworkPolicy{}
	p.Name, p.Spec.Ingress = "p", []v3.Rule{{Action: v3.Allow, Source: v3.EntityRule{Selector: "app == 'a'"}}}
	for _, o := range append(objs, feed, p) {
		if err := x.Set(o); err != nil {
			t.Fatal(err)
		}
	}
	plan := x.Plan()
	if len(plan.Sets) != 1 {
		t.Fatalf("%d sets", len(plan.Sets))
	}
	if have := fmt.Sprint(x.MembersOf(plan.Sets[0].ID)); have != "[GlobalNetworkSet/feed Pod/client/a]" {
		t.Errorf("members %s", have)
	}
	if have := x.MembersOf("nobody's"); len(have) > 0 {
		t.Errorf("members %v", have)
	}
	if v, _ := x.Labels(v3.Ref{Kind: "Pod", Namespace: "client", Name: "a"}).Get("pcns.team"); v != "blue" {
		t.Errorf("pcns.team is %q", v)
	}
	if x.Labels(v3.Ref{Kind: "Pod", Namespace: "client", Name: "nobody"}) != nil {
		t.Error("nobody has labels")
	}
}
