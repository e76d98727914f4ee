package convert_test

import (
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/apis/convert"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/scenario"
)

// Whatever else there is, a packet's verdict is the same where Kubernetes' policies are Calico's instead, and where these are Kubernetes' again.
func TestConvertedDecidesTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plans := [3]*policy.Index{}
		for i := range plans {
			plans[i] = policy.NewIndex("", policy.Options{})
		}
		for _, o := range scenario.Cluster(t) {
			as := [3]client.Object{o, o, o}
			switch o := o.(type) {
			case *v3.NetworkPolicy, *v3.StagedNetworkPolicy, *v3.StagedKubernetesNetworkPolicy: // of a converted one's name
				continue
			case *v3.GlobalNetworkPolicy:
				if o.Spec.Order != nil && *o.Spec.Order == convert.Order { // whose place among its equals may be another
					continue
				}
			case *networkingv1.NetworkPolicy:
				there, lost := convert.ToCalico(o)
				if len(lost) > 0 {
					t.Fatalf("%s: %v", o.Name, lost)
				}
				if back := convert.ToKubernetes([]v3.Object{there}); len(back.Losses) == 0 {
					as[2] = back.Objects[0].(client.Object)
				}
				as[1] = there
			}
			for i := range plans {
				if err := plans[i].Set(as[i]); err != nil && !policy.OnlyNotices(err) {
					t.Fatalf("%d: %v", i, err)
				}
			}
		}
		want := plans[0].Plan()
		for range 30 {
			f := scenario.AnyFlow(t, want)
			verdict := want.Trace(f).Verdict
			for i, x := range plans[1:] {
				if got := x.Plan().Trace(f).Verdict; got != verdict {
					t.Fatalf("%+v: %s, converted (%d) %s\n%s\n%s", f, verdict, i, got, want, x.Plan())
				}
			}
		}
	})
}
