package ruleset_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
	"github.com/tierwall/tierwall/test/scenario"
)

// Maps by port change nothing: a packet meets the same verdict, and the same rules count it in the same order, as without them.
func TestPortsChangeNothing(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		objs := []client.Object{scenario.Namespace("ns", map[string]string{}), scenario.Pod("ns", "p", "n1", []string{"10.9.0.1"}, map[string]string{})}
		for i := range rapid.IntRange(1, 6).Draw(t, "policies") {
			objs = append(objs, portPolicy(t, i))
		}
		x := indexOf("n1", policy.Options{}, objs)
		x.SetInterfaces([]policy.Iface{{Name: "cali1", Peers: []netip.Addr{netip.MustParseAddr("10.9.0.1")}}})
		plain := newInterpreter(ruleset.CompileWorth(x.Plan(), ruleset.Options{}, 1000))
		mapped := newInterpreter(ruleset.CompileWorth(x.Plan(), ruleset.Options{}, rapid.IntRange(1, 6).Draw(t, "worth")))
		for _, p := range portPackets {
			want, have := plain.walk(p), mapped.walk(p)
			if diff := cmp.Diff(want, have); diff != "" {
				t.Fatalf("%+v: -without maps +with them:\n%s", p.Flow, diff)
			}
		}
		seen["packets led"] += mapped.led
		for name := range mapped.chains {
			seen[shapeOf(name)]++
		}
	})
	for _, what := range []string{"packets led", "chain of several policies", "chain of one policy for a port", "chain of a later run of one"} {
		if t.Logf("%d %s", seen[what], what); seen[what] == 0 && !t.Failed() {
			t.Errorf("there was no %s", what)
		}
	}
}

// shapeOf a chain by its name.
func shapeOf(name string) string {
	var policy, proto string
	var port, run int
	if n, _ := fmt.Sscanf(name, "gnp/%2s/ingress/%3s-%d/%d", &policy, &proto, &port, &run); n == 4 {
		return "chain of a later run of one"
	} else if n == 3 {
		return "chain of one policy for a port"
	}
	if len(name) > 6 && name[:6] == "ports/" {
		return "chain of several policies"
	}
	return "other"
}

// portPackets are to ports that the policies name, to their neighbours, and to none.
var portPackets = func() (out []packet) {
	for _, proto := range []uint8{policy.ProtoTCP, policy.ProtoUDP, policy.ProtoICMP} {
		for _, port := range []uint16{0, 80, 81, 82, 443, 1000, 1001} {
			for _, src := range []string{"192.0.2.1", "198.51.100.1"} {
				f := policy.Flow{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr("10.9.0.1"), Proto: proto, SrcPort: 5, DstPort: port}
				out = append(out, packet{Flow: f, iif: "up0", oif: "cali1", ctstate: ruleset.CTNew})
			}
		}
	}
	return out
}()

// walk gives the rules that count a packet on its way through the forward hook, and what becomes of it.
func (in *interpreter) walk(p packet) []string {
	in.hits = nil
	out := []string{fmt.Sprint("goes on: ", in.hook("forward", anywhere, &p))}
	for _, id := range in.hits {
		out = append(out, string(id))
	}
	return out
}

// portPolicy has rules most of which name ports.
func portPolicy(t *rapid.T, i int) client.Object {
	o := &v3.GlobalNetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "GlobalNetworkPolicy"}}
	order := float64(i)
	o.Name, o.Spec.Order, o.Spec.Types = fmt.Sprintf("p%d", i), &order, []v3.PolicyType{v3.PolicyTypeIngress}
	for range rapid.IntRange(1, 6).Draw(t, "rules") {
		r := v3.Rule{Action: rapid.SampledFrom([]v3.Action{v3.Allow, v3.Deny, v3.Log, v3.Log, v3.Log, v3.Pass}[:6-i%2]).Draw(t, "action")}
		if rapid.IntRange(0, 5).Draw(t, "ports") > 0 {
			proto := intstr.FromString(rapid.SampledFrom([]string{"TCP", "UDP"}).Draw(t, "protocol"))
			r.Protocol, r.Destination.Ports = &proto, portLists[rapid.IntRange(0, len(portLists)-1).Draw(t, "which")]
		}
		if rapid.Bool().Draw(t, "source") {
			r.Source.Nets = []string{"192.0.2.0/24"}
		}
		o.Spec.Ingress = append(o.Spec.Ingress, r)
	}
	v3.Default(o)
	return o
}

var portLists = func() (out [][]intstr.IntOrString) {
	for _, list := range [][]string{{"80"}, {"80", "443"}, {"80:82"}, {"81", "1000:1001"}, {"1:65535"}, nil} {
		var ports []intstr.IntOrString
		for _, p := range list {
			ports = append(ports, intstr.Parse(p))
		}
		out = append(out, ports)
	}
	return slices.Clip(out)
}()

// A pod that comes or goes elsewhere touches elements of sets, and no chain.
func TestPodsChangeSetsOnly(t *testing.T) {
	objs := scenario.Big(500, 60)
	table := func(objs []client.Object) *ruleset.Table {
		return ruleset.CompileWorth(indexOf("n1", policy.Options{}, objs).Plan(), ruleset.Options{}, 1)
	}
	before := table(objs)
	pod := scenario.Pod("ns1", "new", "n2", []string{"10.200.0.1"}, map[string]string{"app": "a1", "tier": "x1"})
	changes := ruleset.Diff(before, table(append(slices.Clone(objs), pod)))
	for _, c := range changes {
		if c.Set == nil || !c.Within {
			t.Errorf("%s", c)
		}
	}
	if len(changes) == 0 {
		t.Error("the pod is in no set")
	}
	if !slices.ContainsFunc(before.Maps, func(m *ruleset.Map) bool { return m.Type == ruleset.TypeProtoPort }) {
		t.Error("the table has no map by port")
	}
}

// What somebody writes who wants the table to be large: it has as many rules as the policy has, and not each once for each of its ports;
// and of many ports each once, not once for each endpoint.
func TestPortsDoNotMultiply(t *testing.T) {
	objs := []client.Object{scenario.Namespace("ns", map[string]string{})}
	for i := range 20 { // each with a policy of its own, so that no two have a guard in common
		app := map[string]string{"app": fmt.Sprint("a", i)}
		objs = append(objs, scenario.Pod("ns", fmt.Sprint("p", i), "n1", []string{fmt.Sprintf("10.9.0.%d", i+1)}, app))
		own := &v3.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("own-", i)}}
		own.Spec.Selector, own.Spec.Ingress = fmt.Sprintf("app == 'a%d'", i), []v3.Rule{{Action: v3.Deny, Source: v3.EntityRule{Nets: []string{"192.0.2.0/24"}}}}
		objs = append(objs, own)
	}
	tcp := intstr.FromString("TCP")
	size := func(rules int, ports func(rule int) []intstr.IntOrString) (n int) {
		p := &v3.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "large"}}
		for i := range rules {
			p.Spec.Ingress = append(p.Spec.Ingress, v3.Rule{Action: v3.Allow, Protocol: &tcp, Destination: v3.EntityRule{Ports: ports(i)},
				Source: v3.EntityRule{Nets: []string{fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)}}})
		}
		table := ruleset.Compile(indexOf("n1", policy.Options{}, append(slices.Clone(objs), p)).Plan(), ruleset.Options{})
		for _, c := range table.Chains {
			n += len(c.Rules)
		}
		for _, m := range table.Maps {
			n += len(m.Entries)
		}
		return n
	}
	const rules = 5000
	same := func(int) (out []intstr.IntOrString) {
		for p := range 16 {
			out = append(out, intstr.FromInt32(int32(1+2*p)))
		}
		return out
	}
	if n := size(rules, same); n > 2*rules {
		t.Errorf("%d rules of the same 16 ports are %d rules and entries", rules, n)
	}
	other := func(rule int) []intstr.IntOrString { return []intstr.IntOrString{intstr.FromInt32(int32(1 + rule))} }
	if n := size(rules, other); n > 4*rules {
		t.Errorf("%d rules of a port each are %d rules and entries", rules, n)
	}
}
