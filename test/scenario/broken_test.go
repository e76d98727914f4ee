package scenario

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// What is not understood fails closed, in exactly the way that design §5 says, and the index tells of it.
func TestBrokenPoliciesFailClosed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fault, broken, means := Broken(t)
		if broken == nil {
			t.Skip("no policy has rules")
		}
		have, told := indexed(broken)
		want, _ := indexed(means)
		if !told {
			t.Fatalf("%s: the index took it without a word", fault)
		}
		for range 20 {
			f := AnyFlow(t, want)
			if h, w := have.Trace(f), want.Trace(f); h.Verdict != w.Verdict {
				t.Fatalf("%s: %+v\nhave %s: %+v\nwant %s: %+v", fault, f, h.Verdict, h.Steps, w.Verdict, w.Steps)
			}
		}
	})
}

func indexed(objs []client.Object) (p *policy.Plan, told bool) {
	x := policy.NewIndex("", policy.Options{})
	for _, o := range objs {
		told = x.Set(o) != nil || told
	}
	return x.Plan(), told
}

// Admission refuses every fault, so that only an older or a foreign writer can have stored it.
func TestBrokenPoliciesAreNotAdmitted(t *testing.T) {
	for name, breakIt := range ruleFaults {
		p := sample()
		breakIt(&p.Spec.Ingress[0])
		refused(t, name, p)
	}
	for name, breakIt := range policyFaults {
		p := sample()
		breakIt(&p.Spec.PolicySpec)
		refused(t, name, p)
	}
	if errs := admit(t, sample()); errs != "" {
		t.Errorf("the sample itself: %s", errs)
	}
}

func sample() *v3.GlobalNetworkPolicy {
	p := &v3.GlobalNetworkPolicy{}
	p.APIVersion, p.Kind, p.Name = v3.GroupVersion.String(), "GlobalNetworkPolicy", "p"
	p.Spec.Ingress = []v3.Rule{{Action: v3.Deny}}
	v3.Default(p)
	return p
}

func refused(t *testing.T, fault string, o client.Object) {
	t.Helper()
	if admit(t, o) == "" {
		t.Errorf("%s is admitted", fault)
	}
}

func admit(t *testing.T, o client.Object) string {
	t.Helper()
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, errs := store.Admit(&unstructured.Unstructured{Object: m}, nil); len(errs) > 0 {
		return errs.ToAggregate().Error()
	}
	return ""
}
