package policy_test

import (
	"fmt"
	"strings"
	"testing"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// As many networks as there may be are taken without a word, and so are more that join; beyond that the author is told, and they are
// enforced all the same. Single addresses are no networks.
func TestManyNetworks(t *testing.T) {
	every := func(step int) (nets []string) { // /28s, each step of them
		for i := range policy.MaxNets + 1 {
			a := i * step * 16
			nets = append(nets, fmt.Sprintf("%d.%d.%d.%d/28", a>>24, a>>16&255, a>>8&255, a&255))
		}
		return nets
	}
	x := policy.NewIndex("n1", policy.Options{})
	s := &v3.GlobalNetworkSet{}
	s.Name, s.Labels = "many", map[string]string{"a": "b"}
	for _, c := range []struct {
		says string
		nets []string
		told bool
	}{
		{"as many as there may be", every(2)[1:], false},
		{"more that join", every(1), false},
		{"one more", every(2), true},
	} {
		s.Spec.Nets = c.nets
		err := x.Set(s)
		if told := err != nil && strings.Contains(err.Error(), "1000001 networks"); told != c.told || !policy.OnlyNotices(err) {
			t.Errorf("%s: %v", c.says, err)
		}
	}
	p := &v3.GlobalNetworkPolicy{}
	p.Name, p.Spec.Ingress = "p", []v3.Rule{{Action: v3.Allow, Source: v3.EntityRule{Selector: "a == 'b'"}}}
	h := &v3.HostEndpoint{}
	h.Name, h.Spec.Node, h.Spec.InterfaceName = "h", "n1", "eth0"
	other := s.DeepCopy()
	other.Name, other.Spec.Nets = "other", []string{"203.0.113.0/28", "198.51.100.1/32"}
	_, _, _ = x.Set(p), x.Set(h), x.Set(other)
	plan := x.Plan()
	if sets := plan.Sets; len(sets) != 1 || len(sets[0].Nets) < policy.MaxNets+1 {
		t.Errorf("%d sets", len(sets))
	}
	if len(plan.Notes) != 2 || plan.Notes[0].About.Name != "many" || plan.Notes[1].About.Name != "other" {
		t.Errorf("of sets with many networks together: %v", plan.Notes)
	}
	s.Spec.Nets = nil
	_ = x.Set(s)
	if notes := x.Plan().Notes; len(notes) != 0 {
		t.Errorf("there are few again: %v", notes)
	}
}
