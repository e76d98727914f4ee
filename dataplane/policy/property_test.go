package policy_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/scenario"
)

// State, not history: in whatever order objects come, however often, and whatever was there before, an equal plan comes out.
func TestStateNotHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want, other := scenario.Cluster(t), scenario.Cluster(t)
		straight := policy.NewIndex("", policy.Options{})
		set(straight, want)

		detour := policy.NewIndex("", policy.Options{})
		set(detour, rapid.Permutation(other).Draw(t, "before"))
		detour.Plan() // what was planned before must not matter either
		set(detour, rapid.Permutation(want).Draw(t, "order"))
		set(detour, rapid.SliceOf(rapid.SampledFrom(want)).Draw(t, "again"))
		for _, o := range other {
			ref := v3.RefOf(o.(v3.Object))
			if !slices.ContainsFunc(want, func(w client.Object) bool { return v3.RefOf(w.(v3.Object)) == ref }) {
				detour.Delete(ref)
			}
		}
		if diff := cmp.Diff(straight.Plan().String(), detour.Plan().String()); diff != "" {
			t.Fatalf("-straight +detour:\n%s", diff)
		}
	})
}

func set(x *policy.Index, objs []client.Object) {
	for _, o := range objs {
		_ = x.Set(o) // the same is refused in every order
	}
}

// A trace says who decided: what it names guards the end in that tier, and a denied flow has exactly one denial.
func TestTraceNamesWhatDecides(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := policy.NewIndex("", policy.Options{})
		set(x, scenario.Cluster(t))
		p := x.Plan()
		for range 10 {
			got := p.Trace(scenario.AnyFlow(t, p))
			denials := 0
			for _, j := range []*policy.Judgement{got.Egress, got.Ingress} {
				if j == nil {
					continue
				}
				if j.Verdict == policy.Deny {
					denials++
				}
				if j.Why == "" || j.Policy != (v3.Ref{}) && p.Policy(j.Policy) == nil {
					t.Fatalf("%+v", j)
				}
			}
			if (got.Verdict == policy.Deny) != (denials == 1) {
				t.Fatalf("verdict %s with %d denials: %+v", got.Verdict, denials, got)
			}
		}
	})
}
