package store

import (
	"fmt"
	"os"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// What it costs to open a file of ten thousand policies, to get one of them, to name them all and to list them all: each also as a multiple of reading the
// file's bytes in the same run.
func BenchmarkBolt(b *testing.B) {
	s := manyPolicies(b, 10000)
	info, err := os.Stat(s.path)
	must(b, err)
	var floor time.Duration
	for range 5 {
		begin := time.Now()
		_, err := os.ReadFile(s.path)
		must(b, err)
		if took := time.Since(begin); floor == 0 || took < floor {
			floor = took
		}
	}
	for _, row := range []struct {
		name string
		f    func() error
	}{
		{"open", func() error { return s.view(b.Context(), func(*Tx) error { return nil }) }},
		{"get", func() error {
			_, err := s.Get(b.Context(), v3.Ref{Kind: "GlobalNetworkPolicy", Name: "policy-5000"})
			return err
		}},
		{"names", func() error { _, err := s.Names(b.Context(), "GlobalNetworkPolicy", ""); return err }},
		{"list", func() error { _, err := s.List(b.Context(), "GlobalNetworkPolicy", ""); return err }},
	} {
		b.Run(row.name, func(b *testing.B) {
			for b.Loop() {
				must(b, row.f())
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(floor), "×read")
			b.ReportMetric(float64(info.Size())/(1<<20), "MiB")
		})
	}
}

// manyPolicies is a store of n policies: the first is admitted, and the others are its copies.
func manyPolicies(t testing.TB, n int) *Bolt {
	s := newStore(t)
	_, err := s.transact(t.Context(), func(tx *Tx) error {
		p := policyIn("", "policy-0")
		p.Spec.Ingress = []v3.Rule{
			{Action: v3.Allow, Protocol: new(intstr.FromString("TCP")), Source: v3.EntityRule{Selector: "role == 'front'"},
				Destination: v3.EntityRule{Ports: []intstr.IntOrString{intstr.FromInt32(80), intstr.FromString("8000:8100")}}},
			{Action: v3.Deny, Source: v3.EntityRule{Nets: []string{"10.0.0.0/8"}}},
		}
		first, err := tx.Create(p)
		for i := 1; i < n && err == nil; i++ {
			next := first.DeepCopyObject().(client.Object)
			next.SetName(fmt.Sprintf("policy-%d", i))
			_, err = tx.write(v3.RefOf(next.(v3.Object)), next)
		}
		return err
	})
	must(t, err)
	return s
}
