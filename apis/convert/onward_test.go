package convert_test

import (
	"fmt"
	"regexp"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/tierwall/tierwall/apis/convert"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/reach"
	"github.com/tierwall/tierwall/test/scenario"
)

// Where nothing is lost every packet fares as before, and where something is left out none is let through that was not: between all pods, nodes and the
// outside of random clusters.
func TestKubernetesDecidesTheSame(t *testing.T) {
	exact, narrower := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		all := calicos(t)
		k := convert.ToKubernetes(all)
		worst := convert.Nothing
		for _, lost := range k.Losses {
			for _, l := range lost {
				switch {
				case l.Then == convert.Opens:
					return
				case l.Then == convert.Denies:
					worst = l.Then
				}
			}
		}
		before, after := planOf(t, all), planOf(t, k.Objects)
		for _, c := range reach.Diff(before, after, reach.Options{}) {
			if worst == convert.Denies && c.Before == policy.Allow || portZero.MatchString(c.Conns) {
				continue
			}
			t.Fatalf("%s > %s: %s: %s, was %s\nwas %v\nis %v\nlost %v\n%s\n\n%s", c.From.About, c.To.About, c.Conns, c.After, c.Before, c.WhyBefore, c.WhyAfter, k.Losses, before, after)
		}
		if worst == convert.Denies {
			narrower++
		} else {
			exact++
		}
	})
	t.Logf("%d exact, %d narrower", exact, narrower)
	if exact < 4 || narrower < 4 {
		t.Errorf("%d were exact and %d narrower: too few for a proof", exact, narrower)
	}
}

// portZero of a protocol is what a ClusterNetworkPolicy cannot say.
var portZero = regexp.MustCompile(`^((^| \| )([^|]*: )?(none|(TCP|UDP|SCTP) 0(; (TCP|UDP|SCTP) 0)*))+$`)

func planOf(t *rapid.T, all []v3.Object) *policy.Plan {
	x := policy.NewIndex("", policy.Options{})
	for _, o := range all {
		if err := x.Set(o); err != nil && !policy.OnlyNotices(err) {
			t.Fatalf("%s: %v", v3.RefOf(o), err)
		}
	}
	return x.Plan()
}

// calicos are the objects of a random cluster, but with policies that speak mostly of what Kubernetes can say.
func calicos(t *rapid.T) (out []v3.Object) {
	for _, o := range scenario.Cluster(t) {
		switch o := o.(type) {
		case *corev1.Node, *corev1.Namespace, *corev1.Pod, *networkingv1.NetworkPolicy, *v3.GlobalNetworkSet, *v3.NetworkSet:
			out = append(out, o.(v3.Object))
		case *v1alpha2.ClusterNetworkPolicy:
			if rapid.IntRange(0, 4).Draw(t, "clustered") == 0 {
				out = append(out, o)
			}
		}
	}
	pick := func(from ...string) string { return rapid.SampledFrom(from).Draw(t, "pick") }
	tiers := []string{"default", "default"}
	for _, name := range []string{"sec", "ops"} {
		if pick("tier", "none") == "none" {
			continue
		}
		order := rapid.SampledFrom([]float64{10, 20, 5000, 2_000_000}).Draw(t, "order")
		action := rapid.SampledFrom([]v3.Action{v3.Pass, v3.Pass, v3.Deny}).Draw(t, "default action")
		tiers = append(tiers, name)
		out = append(out, &v3.Tier{TypeMeta: ofCalico("Tier"), ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v3.TierSpec{Order: &order, DefaultAction: &action}})
	}
	r := rules{t}
	for i := range rapid.IntRange(1, 4).Draw(t, "policies") {
		spec := v3.PolicySpec{Tier: pick(tiers...), Selector: pick("", "all()", "app == 'a'", "app in {'b','c'}", "app != 'b'", "has(app) && env in {'a','b'}"), Ingress: r.some(), Egress: r.some()}
		if pick("ordered", "last") == "ordered" {
			order := rapid.SampledFrom([]float64{1, 500, 1000, 2000}).Draw(t, "order")
			spec.Order = &order
		}
		meta := metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i)}
		var o v3.Object = &v3.GlobalNetworkPolicy{TypeMeta: ofCalico("GlobalNetworkPolicy"), ObjectMeta: meta,
			Spec: v3.GlobalNetworkPolicySpec{PolicySpec: spec, NamespaceSelector: pick("", "all()", "env == 'a'", "projectcalico.org/name == 'ns2'")}}
		if pick("global", "namespaced") == "namespaced" {
			meta.Namespace = pick("ns1", "ns2")
			o = &v3.NetworkPolicy{TypeMeta: ofCalico("NetworkPolicy"), ObjectMeta: meta, Spec: v3.NetworkPolicySpec{PolicySpec: spec}}
		}
		v3.Default(o)
		out = append(out, o)
	}
	return out
}

func ofCalico(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: kind}
}

type rules struct{ *rapid.T }

func (t rules) some() (out []v3.Rule) {
	for range rapid.IntRange(0, 2).Draw(t.T, "rules") {
		out = append(out, t.one())
	}
	return out
}

func (t rules) one() v3.Rule {
	r := v3.Rule{Action: rapid.SampledFrom([]v3.Action{v3.Allow, v3.Allow, v3.Allow, v3.Deny, v3.Pass}).Draw(t.T, "action")}
	if rapid.Bool().Draw(t.T, "protocol") {
		protocol := intstr.FromString(rapid.SampledFrom([]string{"TCP", "UDP"}).Draw(t.T, "protocol"))
		r.Protocol = &protocol
		r.Destination.Ports = rapid.SliceOfN(rapid.SampledFrom([]intstr.IntOrString{intstr.FromInt32(80), intstr.FromString("53:90"), intstr.FromString("http")}), 0, 2).Draw(t.T, "ports")
	}
	end := rapid.SampledFrom([]v3.EntityRule{{}, {Selector: "app == 'a'"}, {NamespaceSelector: "env == 'a'"}, {Selector: "!has(app)", NamespaceSelector: "all()"},
		{Selector: "zone == 'a'"}, {NamespaceSelector: "global()"}, {Nets: []string{"10.0.0.0/8"}, NotNets: []string{"10.0.0.0/30"}}, {NotNets: []string{"198.51.100.0/25"}},
		{Nets: []string{"fd00::/16"}}}).Draw(t.T, "end")
	ports := r.Destination.Ports
	if rapid.Bool().Draw(t.T, "source") {
		r.Source = end
	} else {
		r.Destination = end
		r.Destination.Ports = ports
	}
	return r
}

// A ClusterNetworkPolicy has so many rules, peers and networks, and a tier of them so many priorities: more of them say the rest, while there is room.
func TestMany(t *testing.T) {
	order := float64(10)
	tier := &v3.Tier{TypeMeta: ofCalico("Tier"), ObjectMeta: metav1.ObjectMeta{Name: "sec"}, Spec: v3.TierSpec{Order: &order}}
	tier.Spec.DefaultAction = new(v3.Action)
	*tier.Spec.DefaultAction = v3.Pass
	policy := func(name string, rules int) v3.Object {
		o := &v3.GlobalNetworkPolicy{TypeMeta: ofCalico("GlobalNetworkPolicy"), ObjectMeta: metav1.ObjectMeta{Name: name}}
		o.Spec.Tier = "sec"
		for i := range rules {
			o.Spec.Egress = append(o.Spec.Egress, v3.Rule{Action: v3.Deny, Destination: v3.EntityRule{Nets: []string{fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)}}})
		}
		v3.Default(o)
		return o
	}
	long := policy("long", 1)
	for i := range 700 {
		long.(*v3.GlobalNetworkPolicy).Spec.Egress[0].Destination.Nets = append(long.(*v3.GlobalNetworkPolicy).Spec.Egress[0].Destination.Nets, fmt.Sprintf("172.16.%d.%d/32", i/256, i%256))
	}
	k := convert.ToKubernetes([]v3.Object{tier, policy("a", 60), long})
	if len(k.Objects) != 4 || len(k.Losses) > 0 {
		t.Fatalf("%d objects, %v", len(k.Objects), k.Losses)
	}
	for i, o := range k.Objects {
		p := o.(*v1alpha2.ClusterNetworkPolicy)
		if int(p.Spec.Priority) != 10*(i+1) || len(p.Spec.Egress) != []int{25, 25, 10, 2}[i] {
			t.Errorf("%s has priority %d and %d rules", p.Name, p.Spec.Priority, len(p.Spec.Egress))
		}
		for _, r := range p.Spec.Egress {
			for _, to := range r.To {
				if len(r.To) > 25 || len(to.Networks) > 25 {
					t.Errorf("%s has %d peers, one of %d networks", p.Name, len(r.To), len(to.Networks))
				}
			}
		}
	}
	all := []v3.Object{tier}
	for i := range 1001 {
		all = append(all, policy(fmt.Sprintf("p%d", i), 1))
	}
	if k := convert.ToKubernetes(all); len(k.Losses) != 1 || len(convert.ToKubernetes(all[:1001]).Losses) != 0 {
		t.Errorf("of 1,001 policies: %v", k.Losses)
	}
}

// A rule for nobody is none: without peers it would be for everybody. And what a rule may find is asked of namespaces that are known.
func TestNetworkSetsAreFound(t *testing.T) {
	set := &v3.NetworkSet{TypeMeta: ofCalico("NetworkSet"), ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: "s"}, Spec: v3.NetworkSetSpec{Nets: []string{"192.0.2.0/24"}}}
	empty := &v3.GlobalNetworkSet{TypeMeta: ofCalico("GlobalNetworkSet"), ObjectMeta: metav1.ObjectMeta{Name: "e"}}
	known := scenario.Namespace("b", map[string]string{"env": "b"})
	for name, c := range map[string]struct {
		of     string
		beside []v3.Object
		peers  int
		lost   []convert.Then
	}{
		"an empty set":              {"global()", []v3.Object{empty}, 0, []convert.Then{convert.Frozen}},
		"no set":                    {"global()", nil, 0, []convert.Then{convert.Denies}},
		"of a namespace":            {"env == 'b'", []v3.Object{set, known}, 2, []convert.Then{convert.Frozen}},
		"of another":                {"env == 'c'", []v3.Object{set, known}, 1, nil},
		"of one that is not known":  {"env == 'b'", []v3.Object{set}, 0, []convert.Then{convert.Denies}},
		"of one by its name":        {"projectcalico.org/name == 'b'", []v3.Object{set}, 2, []convert.Then{convert.Frozen}},
		"of one by Kubernetes' own": {"kubernetes.io/metadata.name == 'b'", []v3.Object{set}, 2, []convert.Then{convert.Frozen}},
	} {
		o := &v3.NetworkPolicy{TypeMeta: ofCalico("NetworkPolicy"), ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}}
		o.Spec.Ingress = []v3.Rule{{Action: v3.Allow, Source: v3.EntityRule{NamespaceSelector: c.of}}}
		v3.Default(o)
		k := convert.ToKubernetes(append([]v3.Object{o}, c.beside...))
		p := k.Objects[len(k.Objects)-1].(*networkingv1.NetworkPolicy)
		peers := 0
		for _, r := range p.Spec.Ingress {
			if len(r.From) == 0 {
				t.Errorf("%s: it is for everybody", name)
			}
			peers += len(r.From)
		}
		var lost []convert.Then
		for _, l := range k.Losses[v3.RefOf(o)] {
			lost = append(lost, l.Then)
		}
		if peers != c.peers || !slices.Equal(lost, c.lost) {
			t.Errorf("%s: %d peers, %v lost", name, peers, k.Losses)
		}
	}
}
