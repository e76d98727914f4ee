package policy_test

import (
	"fmt"
	"net/netip"
	"testing"

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
