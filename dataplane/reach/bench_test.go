package reach

import (
	"slices"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/test/scenario"
)

// Who can reach whom of 1,000 pods under 500 policies.
func BenchmarkMatrix(b *testing.B) {
	p := planOf(b, scenario.Big(1000, 500)...)
	b.ReportAllocs()
	var m *Matrix
	for b.Loop() {
		m = Of(p, Options{})
	}
	b.ReportMetric(float64(len(m.Ends)), "ends")
}

// Which packets fare otherwise when one of 500 policies goes, or one more denies something to everybody.
func BenchmarkDiff(b *testing.B) {
	objs := scenario.Big(1000, 500)
	deny := &v3.GlobalNetworkPolicy{}
	if err := yaml.UnmarshalStrict([]byte(`
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: deny}
spec: {tier: default, order: 0.5, selector: all(), types: [Ingress], ingress: [{action: Deny, protocol: TCP, destination: {ports: [80]}}, {action: Pass}]}`), deny); err != nil {
		b.Fatal(err)
	}
	isPolicy := func(o client.Object) bool { _, is := o.(*v3.GlobalNetworkPolicy); return is }
	at := slices.IndexFunc(objs, isPolicy)
	if at < 0 {
		b.Fatal("there is no policy to take away")
	}
	for name, after := range map[string][]client.Object{
		"less": slices.Delete(slices.Clone(objs), at, at+1),
		"more": append(slices.Clone(objs), deny),
	} {
		b.Run(name, func(b *testing.B) {
			was, is := planOf(b, objs...), planOf(b, after...)
			b.ReportAllocs()
			var changes []Change
			for b.Loop() {
				changes = Diff(was, is, Options{})
			}
			b.ReportMetric(float64(len(changes)), "changes")
		})
	}
}
