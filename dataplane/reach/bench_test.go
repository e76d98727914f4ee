package reach

import (
	"testing"

	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/scenario"
)

// Who can reach whom of 1,000 pods under 500 policies.
func BenchmarkMatrix(b *testing.B) {
	x := policy.NewIndex("", policy.Options{})
	for _, o := range scenario.Big(1000, 500) {
		if err := x.Set(o); err != nil {
			b.Fatal(err)
		}
	}
	p := x.Plan()
	b.ReportAllocs()
	var m *Matrix
	for b.Loop() {
		m = Of(p, Options{})
	}
	b.ReportMetric(float64(len(m.Ends)), "ends")
}
