package ruleset_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
	"github.com/tierwall/tierwall/test/scenario"
)

// One who remembers the last plan expresses the next as one does who knows no other, and the changes that he gives lead there,
// whatever has come and gone between.
func TestCompilerRemembers(t *testing.T) {
	moved, whole := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		there := scenario.Cluster(t)
		coming := slices.Concat(scenario.Cluster(t), pods(there), edits(there))
		x := indexOf("n1", policy.Options{}, there)
		c := ruleset.NewCompiler(ruleset.Options{})
		last := &ruleset.Table{Name: ruleset.DefaultTable}
		var plan *policy.Plan
		for range rapid.IntRange(1, 6).Draw(t, "plans") {
			for range rapid.IntRange(0, 3).Draw(t, "changes") {
				o := rapid.SampledFrom(coming).Draw(t, "object")
				if rapid.Bool().Draw(t, "it goes") {
					x.Delete(v3.RefOf(o.(v3.Object)))
				} else {
					_ = x.Set(o)
				}
			}
			next := x.Plan()
			switch {
			case plan == nil:
			case next.SameRules(plan):
				moved++
			default:
				whole++
			}
			plan = next
			have, changes := c.Compile(plan)
			want := ruleset.Compile(plan, ruleset.Options{})
			if diff := cmp.Diff(want.String(), have.String()); diff != "" {
				t.Fatalf("-anew +after the last plan:\n%s", diff)
			}
			m := newMachine(t, last)
			m.makeAll(changes)
			if diff := cmp.Diff(want.String(), m.table(want.Name).String()); diff != "" {
				t.Fatalf("the changes %v lead elsewhere (-want +have):\n%s", changes, diff)
			}
			if !slices.EqualFunc(changes, ruleset.Diff(last, want), func(a, b ruleset.Change) bool { return a.String() == b.String() }) {
				t.Fatalf("the changes are %v, the difference %v", changes, ruleset.Diff(last, want))
			}
			last = have
		}
	})
	if moved < 100 || whole < 100 {
		t.Errorf("%d plans differed from the last in their sets alone, %d in more", moved, whole)
	}
	t.Logf("%d plans differed from the last in their sets alone, %d in more", moved, whole)
}

// edits change one thing of what is there: the rules of one direction, whether a set has networks, how denials are said.
func edits(objs []client.Object) (out []client.Object) {
	for _, o := range objs {
		switch o := o.DeepCopyObject().(type) {
		case *v3.GlobalNetworkPolicy:
			o.Spec.Egress = append(o.Spec.Egress, v3.Rule{Action: v3.Deny})
			out = append(out, o)
		case *v3.NetworkPolicy:
			o.Spec.Egress = append(o.Spec.Egress, v3.Rule{Action: v3.Deny})
			out = append(out, o)
		case *v3.GlobalNetworkSet:
			none, one := o, o.DeepCopy()
			none.Spec.Nets, one.Spec.Nets = nil, []string{"198.51.100.0/24"}
			out = append(out, none, one)
		}
	}
	reject := "Reject"
	f := &v3.FelixConfiguration{}
	f.SetGroupVersionKind(v3.GroupVersion.WithKind("FelixConfiguration"))
	f.Name, f.Spec.NFTablesFilterDenyAction = "default", &reject
	return append(out, f)
}

// pods are others' pods with other labels, which move sets alone.
func pods(objs []client.Object) (out []client.Object) {
	for _, o := range objs {
		if p, ok := o.(*corev1.Pod); ok && p.Spec.NodeName != "n1" {
			other := p.DeepCopy()
			other.Labels = map[string]string{"app": "a", "role": "db"}
			out = append(out, p, other)
		}
	}
	return out
}
