package scenario

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// Random clusters are of objects that admission accepts: what is found with them is found with what users can write.
func TestRandomClustersAreAdmitted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seen := map[v3.Ref]bool{}
		for _, o := range Cluster(t) {
			ref := v3.RefOf(o.(v3.Object))
			if seen[ref] {
				t.Fatalf("two objects are %s", ref)
			}
			seen[ref] = true
			m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
			if err != nil {
				t.Fatal(err)
			}
			if _, errs := store.Admit(&unstructured.Unstructured{Object: m}, nil); len(errs) > 0 {
				t.Fatalf("%s: %v", ref, errs)
			}
		}
	})
}

// The corpus has every kind that policy looks at, every action, and every criterion of a rule, at each end.
func TestEverythingHasACase(t *testing.T) {
	seen := map[string]int{}
	for _, s := range corpus(t) {
		for _, o := range s.Objects {
			seen["kind "+v3.RefOf(o.(v3.Object)).Kind]++
		}
		x, err := s.Index("")
		if err != nil {
			t.Error(err)
			continue
		}
		for _, p := range x.Plan().Policies {
			for _, rules := range [][]policy.Rule{p.Ingress, p.Egress} {
				for i := range rules {
					criteria(&rules[i], seen)
				}
			}
		}
	}
	for _, what := range wanted() {
		if seen[what] == 0 {
			t.Errorf("the corpus has no %s", what)
		}
	}
}

func wanted() (out []string) {
	for _, k := range store.Kinds() {
		switch k.Kind {
		case "Service": // is known by its slices
		case "NodeReport": // says how policy fares, and decides nothing
		case "KubeControllersConfiguration": // says what host endpoints there are to be, and decides nothing either
		default:
			out = append(out, "kind "+k.Kind)
		}
	}
	for _, a := range []policy.Action{policy.Allow, policy.Deny, policy.Pass, policy.Log} {
		out = append(out, "action "+a.String())
	}
	for _, end := range []string{"source ", "destination "} {
		for what := range sideCriteria(&policy.Side{}) {
			out = append(out, end+what)
		}
	}
	return append(out, "protocol", "not protocol", "icmp", "not icmp", "IPv4 only", "IPv6 only")
}

func criteria(r *policy.Rule, seen map[string]int) {
	seen["action "+r.Action.String()]++
	for what, is := range map[string]bool{
		"protocol": r.Proto != 0, "not protocol": r.NotProto != 0, "icmp": r.ICMP != nil, "not icmp": r.NotICMP != nil,
		"IPv4 only": r.Families == policy.IPv4, "IPv6 only": r.Families == policy.IPv6,
	} {
		if is {
			seen[what]++
		}
	}
	for end, s := range map[string]*policy.Side{"source ": &r.Src, "destination ": &r.Dst} {
		for what, n := range sideCriteria(s) {
			seen[end+what] += n
		}
	}
}

func sideCriteria(s *policy.Side) map[string]int {
	return map[string]int{
		"nets": len(s.Nets), "not nets": len(s.NotNets), "sets": len(s.Sets), "not sets": len(s.NotSets),
		"ports": len(s.Ports), "named ports": len(s.PortSets), "not ports": len(s.NotPorts), "not named ports": len(s.NotPortSets),
	}
}
