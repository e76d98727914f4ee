package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
	policyapi "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/scenario"
)

const clusterOfTwo = `
node n1 192.0.2.1
node n2 192.0.2.2
namespace client team=blue
namespace server team=red
pod client/a n1 10.0.1.1,fd00::1:1 app=a
pod server/b n2 10.0.2.1,fd00::2:1 app=b port:web/TCP/80
`

func indexOf(t require, short string) *policy.Index {
	t.Helper()
	objs, err := scenario.Short(short)
	if err != nil {
		t.Fatal(err)
	}
	x := policy.NewIndex("", policy.Options{})
	for _, o := range objs {
		if err := x.Set(o); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

// require is what tests and rapid's tests have in common here.
type require interface {
	Helper()
	Fatal(args ...any)
}

func verdict(t require, x *policy.Index, from, to string, port uint16) policy.Trace {
	t.Helper()
	f, err := x.Flow(policy.FlowSpec{From: from, To: to, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	return x.Plan().Trace(f)
}

type (
	egressRule = policyapi.ClusterNetworkPolicyEgressRule
	egressPeer = policyapi.ClusterNetworkPolicyEgressPeer
	protocol   = policyapi.ClusterNetworkPolicyProtocol
	tcp        = policyapi.ClusterNetworkPolicyProtocolTCP
	labels     = metav1.LabelSelector
)

func tcpPort(n int32) protocol {
	return protocol{TCP: &tcp{DestinationPort: &policyapi.Port{Number: n}}}
}

func anywhere() egressPeer { return egressPeer{Networks: []policyapi.CIDR{"0.0.0.0/0", "::/0"}} }

func blue() *labels { return &labels{MatchLabels: map[string]string{"team": "blue"}} }

func clusterPolicy(rules ...egressRule) *policyapi.ClusterNetworkPolicy {
	p := &policyapi.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
	p.Spec.Tier, p.Spec.Priority, p.Spec.Egress = policyapi.AdminTier, 5, rules
	p.Spec.Subject.Namespaces = blue()
	return p
}

func badLabels(op metav1.LabelSelectorOperator, values ...string) *labels {
	return &labels{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: op, Values: values}}}
}

// What the API server refuses and a store may hold all the same, or what a later version of the API may say: the last peer or
// the last protocol of a rule for TCP 80 to 10.0.2.0/24.
var clusterFaults = map[string]struct {
	field    string
	peer     *egressPeer
	protocol *protocol
}{
	"no field of a peer":     {"spec.egress[1].to[1]", &egressPeer{}, nil},
	"two fields of a peer":   {"spec.egress[1].to[1]", &egressPeer{Namespaces: blue(), Nodes: blue()}, nil},
	"no network":             {"spec.egress[1].to[1].networks", &egressPeer{Networks: []policyapi.CIDR{}}, nil},
	"network":                {"spec.egress[1].to[1].networks", &egressPeer{Networks: []policyapi.CIDR{"203.0.113.0/33"}}, nil},
	"one network of two":     {"spec.egress[1].to[1].networks", &egressPeer{Networks: []policyapi.CIDR{"10.0.2.0/24", "x"}}, nil},
	"IPv4 in IPv6":           {"spec.egress[1].to[1].networks", &egressPeer{Networks: []policyapi.CIDR{"::ffff:10.0.0.0/104"}}, nil},
	"domain name":            {"spec.egress[1].to[1].domainNames", &egressPeer{DomainNames: []policyapi.DomainName{"example.com"}}, nil},
	"operator":               {"spec.egress[1].to[1].namespaces", &egressPeer{Namespaces: badLabels("Like", "x")}, nil},
	"In without values":      {"spec.egress[1].to[1].namespaces", &egressPeer{Namespaces: badLabels(metav1.LabelSelectorOpIn)}, nil},
	"NotIn without values":   {"spec.egress[1].to[1].nodes", &egressPeer{Nodes: badLabels(metav1.LabelSelectorOpNotIn)}, nil},
	"value of no label":      {"spec.egress[1].to[1].nodes", &egressPeer{Nodes: &labels{MatchLabels: map[string]string{"a": "b 'c"}}}, nil},
	"Exists with values":     {"spec.egress[1].to[1].pods.podSelector", &egressPeer{Pods: &policyapi.NamespacedPod{PodSelector: *badLabels("Exists", "x")}}, nil},
	"namespaces of pods":     {"spec.egress[1].to[1].pods.namespaceSelector", &egressPeer{Pods: &policyapi.NamespacedPod{NamespaceSelector: *badLabels("x")}}, nil},
	"no field of a protocol": {"spec.egress[1].protocols[1]", nil, &protocol{}},
	"two protocols in one":   {"spec.egress[1].protocols[1]", nil, &protocol{TCP: tcpPort(81).TCP, DestinationNamedPort: "web"}},
	"protocol without port":  {"spec.egress[1].protocols[1].tcp.destinationPort", nil, &protocol{TCP: &tcp{}}},
	"port without number":    {"spec.egress[1].protocols[1].tcp.destinationPort", nil, &protocol{TCP: &tcp{DestinationPort: &policyapi.Port{}}}},
	"port too large":         {"spec.egress[1].protocols[1].udp.destinationPort", nil, &protocol{UDP: &policyapi.ClusterNetworkPolicyProtocolUDP{DestinationPort: &policyapi.Port{Number: 65536}}}},
	"range reversed":         {"spec.egress[1].protocols[1].sctp.destinationPort", nil, &protocol{SCTP: &policyapi.ClusterNetworkPolicyProtocolSCTP{DestinationPort: &policyapi.Port{Range: &policyapi.PortRange{Start: 9, End: 8}}}}},
	"number and range":       {"spec.egress[1].protocols[1].tcp.destinationPort", nil, &protocol{TCP: &tcp{DestinationPort: &policyapi.Port{Number: 1, Range: &policyapi.PortRange{Start: 8, End: 9}}}}},
	"named port of networks": {"spec.egress[1].protocols", nil, &protocol{DestinationNamedPort: "web"}},
}

// A rule of which one peer or one protocol is not understood: Accept keeps the others and nothing more, Deny and Pass deny
// everything at their place, and in no case is the rule before touched (contract §4.8).
func TestClusterNetworkPolicyFailsClosed(t *testing.T) {
	for name, fault := range clusterFaults {
		for action, others := range map[policyapi.ClusterNetworkPolicyRuleAction]policy.Action{"Accept": policy.Allow, "Deny": policy.Deny, "Pass": policy.Deny} {
			t.Run(name+" "+string(action), func(t *testing.T) {
				bad := egressRule{Name: "bad", Action: action, To: []egressPeer{{Networks: []policyapi.CIDR{"10.0.2.0/24"}}}, Protocols: []protocol{tcpPort(80)}}
				if fault.peer != nil {
					bad.To = append(bad.To, *fault.peer)
				} else {
					bad.Protocols = append(bad.Protocols, *fault.protocol)
				}
				x := indexOf(t, clusterOfTwo)
				first := egressRule{Action: "Accept", To: []egressPeer{anywhere()}, Protocols: []protocol{tcpPort(1)}}
				last := egressRule{Action: "Accept", To: []egressPeer{anywhere()}, Protocols: []protocol{tcpPort(2)}}
				err := x.Set(clusterPolicy(first, bad, last))
				if err == nil || !strings.Contains(err.Error(), fault.field+":") || !strings.Contains(err.Error(), "KubernetesClusterNetworkPolicy/p") {
					t.Fatalf("want an error that names %s, have %v", fault.field, err)
				}
				behind := policy.Allow
				if others == policy.Deny {
					behind = policy.Deny
				}
				for port, want := range map[uint16]policy.Action{1: policy.Allow, 80: others, 2: behind} {
					if got := verdict(t, x, "client/a", "server/b", port); got.Verdict != want {
						t.Errorf("port %d: want %s, have %+v", port, want, got.Steps)
					}
				}
				if got := verdict(t, x, "client/a", "203.0.113.7", 80).Egress; others == policy.Deny && (got.Verdict != policy.Deny || got.Rule != 1) ||
					others == policy.Allow && got.Policy.Kind != "Profile" {
					t.Errorf("outside: %+v", got)
				}
			})
		}
	}
}

// Rules of which nothing at all is understood.
func TestClusterNetworkPolicyRuleOfNothing(t *testing.T) {
	for name, c := range map[string]struct {
		rule  egressRule
		field string
		want  policy.Action
	}{
		"unknown action":             {egressRule{Action: "Allow", To: []egressPeer{anywhere()}}, "spec.egress[0].action", policy.Deny},
		"no action":                  {egressRule{To: []egressPeer{{Nodes: blue()}}}, "spec.egress[0].action", policy.Deny},
		"accept nobody":              {egressRule{Action: "Accept"}, "spec.egress[0].to", policy.Allow},
		"deny nobody":                {egressRule{Action: "Deny"}, "spec.egress[0].to", policy.Deny},
		"pass nobody":                {egressRule{Action: "Pass"}, "spec.egress[0].to", policy.Deny},
		"accept no protocol":         {egressRule{Action: "Accept", To: []egressPeer{anywhere()}, Protocols: []protocol{}}, "spec.egress[0].protocols", policy.Allow},
		"deny no protocol":           {egressRule{Action: "Deny", To: []egressPeer{{Nodes: blue()}}, Protocols: []protocol{}}, "spec.egress[0].protocols", policy.Deny},
		"accept an unknown protocol": {egressRule{Action: "Accept", To: []egressPeer{anywhere()}, Protocols: []protocol{{}}}, "spec.egress[0].protocols[0]", policy.Allow},
	} {
		t.Run(name, func(t *testing.T) {
			x := indexOf(t, clusterOfTwo)
			if err := x.Set(clusterPolicy(c.rule)); err == nil || !strings.Contains(err.Error(), c.field+":") {
				t.Fatalf("want an error that names %s, have %v", c.field, err)
			}
			got := verdict(t, x, "client/a", "server/b", 80)
			if got.Verdict != c.want || c.want == policy.Allow && got.Egress.Policy.Kind != "Profile" {
				t.Errorf("want %s, have %+v", c.want, got.Steps)
			}
		})
	}
}

// Whom a policy governs and in which tier it stands must be understood, or it governs nobody.
func TestClusterNetworkPolicyWithoutSubject(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(s *policyapi.ClusterNetworkPolicySpec)
		field string
	}{
		"no subject":         {func(s *policyapi.ClusterNetworkPolicySpec) { s.Subject.Namespaces = nil }, "spec.subject:"},
		"two subjects":       {func(s *policyapi.ClusterNetworkPolicySpec) { s.Subject.Pods = &policyapi.NamespacedPod{} }, "spec.subject:"},
		"subject's operator": {func(s *policyapi.ClusterNetworkPolicySpec) { s.Subject.Namespaces = badLabels("x") }, "spec.subject.namespaces:"},
		"subject's values":   {func(s *policyapi.ClusterNetworkPolicySpec) { s.Subject.Namespaces = badLabels("NotIn") }, "spec.subject.namespaces:"},
		"no tier":            {func(s *policyapi.ClusterNetworkPolicySpec) { s.Tier = "" }, "spec.tier:"},
		"another tier":       {func(s *policyapi.ClusterNetworkPolicySpec) { s.Tier = "kube-admin" }, "spec.tier:"},
	} {
		t.Run(name, func(t *testing.T) {
			x := indexOf(t, clusterOfTwo)
			before := x.Plan().String()
			p := clusterPolicy(egressRule{Action: "Deny", To: []egressPeer{anywhere()}})
			c.spoil(&p.Spec)
			if err := x.Set(p); err == nil || !strings.Contains(err.Error(), c.field) {
				t.Fatalf("want an error that names %s, have %v", c.field, err)
			}
			if diff := cmp.Diff(before, x.Plan().String()); diff != "" {
				t.Errorf("-before +after:\n%s", diff)
			}
		})
	}
}

// The rule's own name says which one decided; of a rule that is not understood the reason is said instead, on one line.
func TestClusterNetworkPolicySaysWhy(t *testing.T) {
	x := indexOf(t, clusterOfTwo)
	rules := []egressRule{{Name: "no telnet", Action: "Deny", To: []egressPeer{anywhere()}, Protocols: []protocol{tcpPort(23)}},
		{Name: "broken", Action: "Pass", To: []egressPeer{{}, {DomainNames: []policyapi.DomainName{"a.b"}}}}}
	if err := x.Set(clusterPolicy(rules...)); err == nil {
		t.Fatal("nothing is said about the second rule")
	}
	if why := verdict(t, x, "client/a", "server/b", 23).Egress.Why; !strings.Contains(why, "no telnet") {
		t.Errorf("have %q", why)
	}
	why := verdict(t, x, "client/a", "server/b", 24).Egress.Why
	if strings.Contains(why, "\n") || !strings.Contains(why, "to[0]") || !strings.Contains(why, "to[1].domainNames") {
		t.Errorf("have %q", why)
	}
}

// A Node that gets a label, another address, or goes, changes a set's members; the set and the rule stay what they are.
func TestClusterNetworkPolicyNodesComeAndGo(t *testing.T) {
	x := indexOf(t, clusterOfTwo)
	if err := x.Set(clusterPolicy(egressRule{Action: "Deny", To: []egressPeer{{Nodes: &labels{MatchLabels: map[string]string{"role": "db"}}}}})); err != nil {
		t.Fatal(err)
	}
	rule := x.Plan().Policies
	node := scenario.Node("n2", "192.0.2.2", "2001:db8::2")
	members := func(want ...string) {
		t.Helper()
		p := x.Plan()
		if diff := cmp.Diff(want, p.Sets[0].Members()); len(p.Sets) != 1 || diff != "" {
			t.Errorf("-want +have:\n%s", diff)
		}
		if diff := cmp.Diff(texts(rule), texts(p.Policies)); diff != "" {
			t.Errorf("the rules changed:\n%s", diff)
		}
	}
	set := func(n *corev1.Node) {
		t.Helper()
		if err := x.Set(n.DeepCopy()); err != nil {
			t.Fatal(err)
		}
	}
	members([]string{}...)
	node.Labels = map[string]string{"role": "db"}
	set(node)
	members("192.0.2.2", "2001:db8::2")
	node.Status.Addresses = node.Status.Addresses[1:]
	set(node)
	members("2001:db8::2")
	node.Labels["role"] = "web"
	set(node)
	members([]string{}...)
	node.Labels["role"] = "db"
	set(node)
	x.Delete(v3.Ref{Kind: "Node", Name: "n2"})
	members([]string{}...)
}

func texts(policies []policy.Policy) (out []string) {
	for i := range policies {
		out = append(out, policies[i].String())
	}
	return out
}

// A ClusterNetworkPolicy that accepts what a NetworkPolicy allows, and denies the rest, decides as that NetworkPolicy does.
func TestClusterNetworkPolicyDecidesAsNetworkPolicy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cluster := clusterOfTwo + "pod client/c n2 10.0.2.3,fd00::2:3 app=c\nnamespace third\npod third/t n1 10.0.1.4 app=a\n"
		kube, clusterwide := indexOf(t, cluster), indexOf(t, cluster)
		np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "client", Name: "p"}}
		np.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
		var rules []egressRule
		for range rapid.IntRange(0, 3).Draw(t, "rules") {
			a, b := sameRule(t)
			np.Spec.Egress, rules = append(np.Spec.Egress, a), append(rules, b)
		}
		rules = append(rules, egressRule{Action: "Deny", To: []egressPeer{anywhere()}})
		if err := kube.Set(np); err != nil {
			t.Fatal(err)
		}
		if err := clusterwide.Set(clusterPolicy(rules...)); err != nil {
			t.Fatal(err)
		}
		want, have := kube.Plan(), clusterwide.Plan()
		for range 20 {
			f := scenario.AnyFlow(t, want)
			if a, b := want.Trace(f), have.Trace(f); a.Verdict != b.Verdict {
				t.Fatalf("%+v: NetworkPolicy %+v, ClusterNetworkPolicy %+v", f, a.Steps, b.Steps)
			}
		}
	})
}

// sameRule is one rule in the words of both.
func sameRule(t *rapid.T) (networkingv1.NetworkPolicyEgressRule, egressRule) {
	var a networkingv1.NetworkPolicyEgressRule
	b := egressRule{Action: "Accept"}
	for range rapid.IntRange(1, 3).Draw(t, "peers") {
		if rapid.Bool().Draw(t, "network") {
			n := rapid.SampledFrom([]string{"10.0.2.0/24", "fd00::/16", "198.51.100.0/25", "0.0.0.0/0"}).Draw(t, "net")
			a.To = append(a.To, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: n}})
			b.To = append(b.To, egressPeer{Networks: []policyapi.CIDR{policyapi.CIDR(n)}})
			continue
		}
		pods, namespaces := anyLabels(t, "app", "a", "c"), anyLabels(t, "team", "red", "blue")
		a.To = append(a.To, networkingv1.NetworkPolicyPeer{PodSelector: pods, NamespaceSelector: namespaces})
		b.To = append(b.To, egressPeer{Pods: &policyapi.NamespacedPod{PodSelector: *pods, NamespaceSelector: *namespaces}})
	}
	for range rapid.IntRange(0, 2).Draw(t, "protocols") {
		first := rapid.SampledFrom([]int32{1, 53, 80}).Draw(t, "port")
		last := first + rapid.Int32Range(0, 10).Draw(t, "more")
		tcp, number := corev1.ProtocolTCP, intstr.FromInt32(first)
		a.Ports = append(a.Ports, networkingv1.NetworkPolicyPort{Protocol: &tcp, Port: &number, EndPort: &last})
		p := tcpPort(first)
		if last > first {
			p.TCP.DestinationPort = &policyapi.Port{Range: &policyapi.PortRange{Start: first, End: last}}
		}
		b.Protocols = append(b.Protocols, p)
	}
	return a, b
}

func anyLabels(t *rapid.T, key string, values ...string) *labels {
	v := rapid.SampledFrom(values).Draw(t, key)
	return rapid.SampledFrom([]*labels{
		{},
		{MatchLabels: map[string]string{key: v}},
		{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: metav1.LabelSelectorOpNotIn, Values: []string{v}}}},
		{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: metav1.LabelSelectorOpDoesNotExist}}},
	}).Draw(t, key+" selector")
}
