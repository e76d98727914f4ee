package policy_test

import (
	"fmt"
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
		node := rapid.SampledFrom([]string{"", "n1"}).Draw(t, "node")
		straight := policy.NewIndex(node, policy.Options{})
		set(straight, want)

		detour := policy.NewIndex(node, policy.Options{})
		perhaps := func() { // what was planned before, and when, must not matter either
			switch rapid.IntRange(0, 3).Draw(t, "plan") {
			case 0:
				detour.Plan()
			case 1:
				detour.ReleaseHosts(rapid.Bool().Draw(t, "released"))
			}
		}
		for _, o := range slices.Concat(rapid.Permutation(other).Draw(t, "before"), rapid.Permutation(want).Draw(t, "order"),
			rapid.SliceOf(rapid.SampledFrom(want)).Draw(t, "again")) {
			set(detour, []client.Object{o})
			perhaps()
		}
		for _, o := range other {
			ref := v3.RefOf(o.(v3.Object))
			if !slices.ContainsFunc(want, func(w client.Object) bool { return v3.RefOf(w.(v3.Object)) == ref }) {
				detour.Delete(ref)
				perhaps()
			}
		}
		for _, released := range []bool{true, false} {
			straight.ReleaseHosts(released)
			detour.ReleaseHosts(released)
			if diff := cmp.Diff(straight.Plan().String(), detour.Plan().String()); diff != "" {
				t.Fatalf("released %t: -straight +detour:\n%s", released, diff)
			}
		}
	})
}

// While hosts are released no host endpoint guards anything, and workloads are guarded as ever.
func TestReleasedHosts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := policy.NewIndex("", policy.Options{})
		set(x, scenario.Cluster(t))
		guarded := x.Plan()
		x.ReleaseHosts(true)
		released := x.Plan()
		left := slices.DeleteFunc(slices.Clone(guarded.Endpoints), func(e policy.Endpoint) bool { return e.Host() })
		if diff := cmp.Diff(endpoints(left), endpoints(released.Endpoints)); diff != "" {
			t.Fatalf("-without host endpoints +released:\n%s", diff)
		}
	})
}

func endpoints(all []policy.Endpoint) (out []string) {
	for _, e := range all {
		out = append(out, fmt.Sprint(e.Ref, e.Guards))
	}
	return out
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

// What each node decides of its own part of a journey together is what one plan of all nodes decides, staged policies included.
func TestNodesTogetherDecideAnyJourney(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		objs := scenario.Cluster(t)
		planOf := func(node string) *policy.Plan {
			x := policy.NewIndex(node, policy.Options{})
			set(x, objs)
			return x.Plan()
		}
		whole := planOf("")
		var nodes []*policy.Plan
		for _, n := range nodesOf(whole) {
			nodes = append(nodes, planOf(n))
		}
		for range 20 {
			f := scenario.AnyJourney(t, whole)
			want := whole.Trace(f)
			verdict, staged := policy.Allow, policy.Allow
			for _, p := range nodes {
				got := p.Trace(f)
				if got.Verdict == policy.Deny {
					t.Logf("%s denies: %+v", p.Node, got.Steps)
				}
				verdict = worse(verdict, got.Verdict)
				staged = worse(staged, stagedVerdict(&got))
			}
			if verdict != want.Verdict || staged != stagedVerdict(&want) {
				t.Fatalf("%+v: the nodes say %s, staged %s; one plan says %s, staged %s: %+v\n%s", f, verdict, staged, want.Verdict, stagedVerdict(&want), want.Steps, whole)
			}
		}
	})
}

func worse(a, b policy.Action) policy.Action {
	if a == policy.Deny {
		return a
	}
	return b
}

// stagedVerdict is the verdict in force where nothing is staged.
func stagedVerdict(t *policy.Trace) policy.Action {
	if t.Staged == nil {
		return t.Verdict
	}
	return t.Staged.Verdict
}
