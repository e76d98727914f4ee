package policy_test

import (
	"fmt"
	"net/netip"
	"testing"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/scenario"
)

// A node's plan after a change: the cost for ten times the pods, and for ten times the policies.
func BenchmarkPlan(b *testing.B) {
	for _, size := range [][2]int{{1000, 200}, {10000, 200}, {1000, 2000}} {
		x := policy.NewIndex("n1", policy.Options{})
		for _, o := range scenario.Big(size[0], size[1]) {
			if err := x.Set(o); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprintf("pods=%d/policies=%d", size[0], size[1]), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				x.Plan()
			}
		})
	}
}

// One change in a cluster: a pod of another node comes and goes, one of the own node is relabelled, a policy is edited.
func BenchmarkChange(b *testing.B) {
	for _, pods := range []int{1000, 10000, 100000} {
		x := policy.NewIndex("n1", policy.Options{})
		for _, o := range scenario.Big(pods, 200) {
			if err := x.Set(o); err != nil {
				b.Fatal(err)
			}
		}
		x.Plan()
		other := scenario.Pod("ns1", "other", "n2", []string{"10.200.0.1", "fd00:1::1"}, map[string]string{"app": "a1", "tier": "x1"})
		b.Run(fmt.Sprintf("other pod/pods=%d", pods), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if i%2 == 0 {
					_ = x.Set(other)
				} else {
					x.Delete(v3.RefOf(other))
				}
				x.Plan()
			}
		})
		own := scenario.Pod("ns1", "own", "n1", []string{"10.200.0.2"}, map[string]string{"app": "a1"})
		b.Run(fmt.Sprintf("own pod/pods=%d", pods), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				own.Labels["app"] = fmt.Sprintf("a%d", i%3)
				_ = x.Set(own)
				x.Plan()
			}
		})
	}
}

// One flow against the plan of all nodes.
func BenchmarkTrace(b *testing.B) {
	x := policy.NewIndex("", policy.Options{})
	for _, o := range scenario.Big(1000, 200) {
		if err := x.Set(o); err != nil {
			b.Fatal(err)
		}
	}
	p := x.Plan()
	f := policy.Flow{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.1.7"), Proto: policy.ProtoTCP, SrcPort: 50000, DstPort: 80}
	b.ReportAllocs()
	for b.Loop() {
		p.Trace(f)
	}
}
