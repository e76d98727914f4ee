package scenario

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// The alphabets of random clusters are small, so that things collide: names, orders, addresses, labels and ports.
var (
	nodeNames  = []string{"n1", "n2"}
	namespaces = []string{"ns1", "ns2"}
	letters    = []string{"a", "b", "c"}
	tierNames  = []string{"default", "kube-admin", "sec", "ops", "ghost"}
	orders     = []float64{-1, 10, 10, 1000, 2000}
	selectors  = []string{"", "all()", "app == 'a'", "app != 'b'", "app in {'a','c'}", "has(app)", "!has(app)", "app == 'a' || env == 'b'",
		"projectcalico.org/namespace == 'ns1'", "role == 'node'", "env not in {'a'}", "zone == 'a'"}
	nsSelectors  = []string{"", "all()", "env == 'a'", "env != 'a'", "!has(env)", "projectcalico.org/name == 'ns2'"}
	v4nets       = []string{"10.0.0.0/30", "10.0.0.0/8", "10.0.1.0/24", "192.0.2.0/24", "0.0.0.0/0", "10.0.0.2/32", "198.51.100.0/25"}
	v6nets       = []string{"fd00::/126", "fd00::/16", "2001:db8::/32", "::/0", "fd00::2/128"}
	numbers      = []uint16{1, 53, 80, 90, 65535}
	portNames    = []string{"http", "dns"}
	protocols    = []string{"TCP", "UDP", "SCTP"}
	allProtocols = []string{"TCP", "UDP", "SCTP", "UDPLite", "ICMP", "ICMPv6", "47"}
	outside      = []string{"198.51.100.7", "198.51.100.200", "203.0.113.1", "2001:db8:9::1"}
	profileNames = []string{"first", "second", "ghost", "projectcalico-default-allow", "kns.ns1"}
)

// draw makes one cluster.
type draw struct{ *rapid.T }

func (d draw) flip(what string) bool { return rapid.Bool().Draw(d.T, what) }

func (d draw) upTo(n int, what string) int { return rapid.IntRange(0, n).Draw(d.T, what) }

func pick[E any](d draw, from []E) E { return rapid.SampledFrom(from).Draw(d.T, "pick") }

// some is a few elements, at least one, none of them twice.
func some[E comparable](d draw, from []E) []E {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(from), 1, 3, rapid.ID[E]).Draw(d.T, "some")
}

func (d draw) meta(kind, namespace, name string) (metav1.TypeMeta, metav1.ObjectMeta) {
	return metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: kind}, metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func (d draw) labels() map[string]string {
	out := map[string]string{}
	for _, k := range []string{"app", "env", "zone"} {
		if d.flip(k) {
			out[k] = pick(d, letters)
		}
	}
	return out
}

// Cluster makes the objects of a small cluster, every one of which admission accepts, with different references.
func Cluster(t *rapid.T) []client.Object {
	d := draw{t}
	var out []client.Object
	for i, n := range nodeNames {
		node := Node(n, fmt.Sprintf("192.0.2.%d", i+1), fmt.Sprintf("2001:db8::%d", i+1))
		node.Labels = d.labels()
		out = append(out, node)
	}
	for _, n := range namespaces {
		out = append(out, Namespace(n, d.labels()))
	}
	out = append(out, ServiceAccount("ns1", "robot", d.labels()))
	for i := range 1 + d.upTo(4, "pods") {
		out = append(out, d.pod(i))
	}
	add := func(most int, what string, one func(i int) client.Object) {
		for i := range d.upTo(most, what) {
			out = append(out, one(i))
		}
	}
	add(2, "workloads", d.workload)
	add(2, "hosts", d.hostEndpoint)
	add(2, "tiers", d.tier)
	add(4, "policies", d.policy)
	add(3, "global policies", d.global)
	add(3, "kubernetes policies", d.kubernetes)
	add(1, "sets", d.networkSet)
	add(2, "global sets", d.globalSet)
	add(2, "profiles", d.profile)
	add(1, "slices", d.slice)
	add(2, "host policies", d.hostPolicy)
	add(2, "cluster policies", d.cluster)
	add(3, "staged", d.staged)
	add(3, "configurations", d.config)
	return out
}

func (d draw) pod(i int) client.Object {
	var addrs []string
	if d.flip("v4") {
		addrs = append(addrs, fmt.Sprintf("10.0.%d.%d", i%2, i+1))
	}
	if len(addrs) == 0 || d.flip("v6") {
		addrs = append(addrs, fmt.Sprintf("fd00::%d", i+1))
	}
	p := Pod(pick(d, namespaces), fmt.Sprintf("pod-%d", i), pick(d, nodeNames), addrs, d.labels())
	if d.flip("account") {
		p.Spec.ServiceAccountName = "robot"
	}
	for _, name := range portNames {
		if d.flip(name) {
			p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{
				Name: name, ContainerPort: int32(pick(d, numbers)), Protocol: corev1.Protocol(pick(d, protocols))})
		}
	}
	d.sources(p)
	return p
}

func (d draw) workload(i int) client.Object {
	w := &v3.WorkloadEndpoint{}
	w.TypeMeta, w.ObjectMeta = d.meta("WorkloadEndpoint", pick(d, namespaces), fmt.Sprintf("vm-%d", i))
	w.Labels = d.labels()
	w.Spec.Node, w.Spec.InterfaceName = pick(d, nodeNames), fmt.Sprintf("tap%d", i)
	w.Spec.IPNetworks = []string{fmt.Sprintf("10.0.0.%d/32", 20+i), fmt.Sprintf("fd00::%d/128", 20+i)}
	w.Spec.Profiles = some(d, profileNames)
	if d.flip("port") {
		w.Spec.Ports = []v3.WorkloadEndpointPort{{Name: pick(d, portNames), Protocol: intstr.FromString(pick(d, protocols)), Port: int32(pick(d, numbers))}}
	}
	return w
}

func (d draw) hostEndpoint(i int) client.Object {
	h := &v3.HostEndpoint{}
	h.TypeMeta, h.ObjectMeta = d.meta("HostEndpoint", "", fmt.Sprintf("hep-%d", i))
	h.Labels = d.labels()
	h.Labels["role"] = "node"
	n := d.upTo(len(nodeNames)-1, "node")
	h.Spec.Node = nodeNames[n]
	h.Spec.InterfaceName = pick(d, []string{"eth0", "eth1", "*", ""})
	for _, a := range []string{fmt.Sprintf("192.0.2.%d", n+1), fmt.Sprintf("2001:db8::%d", n+1)} {
		if d.flip("expected") {
			h.Spec.ExpectedIPs = append(h.Spec.ExpectedIPs, a)
		}
	}
	if h.Spec.InterfaceName == "" && len(h.Spec.ExpectedIPs) == 0 {
		h.Spec.ExpectedIPs = []string{fmt.Sprintf("192.0.2.%d", n+1)}
	}
	if d.flip("port") {
		h.Spec.Ports = []v3.EndpointPort{{Name: pick(d, portNames), Protocol: intstr.FromString(pick(d, protocols)), Port: int32(pick(d, numbers))}}
	}
	if d.flip("profile") {
		h.Spec.Profiles = some(d, profileNames)
	}
	return h
}

func (d draw) tier(i int) client.Object {
	o := &v3.Tier{}
	o.TypeMeta, o.ObjectMeta = d.meta("Tier", "", []string{"sec", "ops"}[i])
	if d.flip("order") {
		order := pick(d, orders)
		o.Spec.Order = &order
	}
	action := pick(d, []v3.Action{v3.Deny, v3.Pass})
	o.Spec.DefaultAction = &action
	v3.Default(o)
	return o
}

func (d draw) spec() v3.PolicySpec {
	s := v3.PolicySpec{Tier: pick(d, tierNames), Selector: pick(d, selectors)}
	if d.upTo(5, "accounts") == 0 {
		s.ServiceAccountSelector = pick(d, selectors[:4])
	}
	if d.flip("order") {
		order := pick(d, orders)
		s.Order = &order
	}
	for range d.upTo(3, "ingress") {
		s.Ingress = append(s.Ingress, d.ruleOr(func(r *v3.Rule) { r.Source.Services = &v3.ServiceMatch{Name: "web", Namespace: "ns1"} }))
	}
	for range d.upTo(2, "egress") {
		s.Egress = append(s.Egress, d.ruleOr(func(r *v3.Rule) { r.Destination.Services = &v3.ServiceMatch{Name: "web", Namespace: "ns1"} }))
	}
	if d.flip("types") {
		s.Types = []v3.PolicyType{v3.PolicyTypeIngress, v3.PolicyTypeEgress}
	}
	return s
}

func (d draw) policy(i int) client.Object {
	o := &v3.NetworkPolicy{}
	o.TypeMeta, o.ObjectMeta = d.meta("NetworkPolicy", namespaces[i%2], letters[i/2])
	o.Spec.PolicySpec = d.spec()
	v3.Default(o)
	return o
}

func (d draw) global(i int) client.Object {
	o := &v3.GlobalNetworkPolicy{}
	o.TypeMeta, o.ObjectMeta = d.meta("GlobalNetworkPolicy", "", letters[i%3])
	o.Spec.PolicySpec = d.spec()
	o.Spec.NamespaceSelector = pick(d, nsSelectors)
	v3.Default(o)
	return o
}

// ruleOr is a rule, or now and then one about a service.
func (d draw) ruleOr(service func(*v3.Rule)) v3.Rule {
	if d.upTo(7, "service") > 0 {
		return d.rule()
	}
	r := v3.Rule{Action: pick(d, []v3.Action{v3.Allow, v3.Deny})}
	service(&r)
	return r
}

// rule is one that admission accepts: no rule mixes families, and ports come with a protocol that has them. Most ask little, so
// that many match.
func (d draw) rule() v3.Rule {
	r := d.fullRule()
	if d.upTo(2, "any source") > 0 {
		r.Source = v3.EntityRule{}
	}
	if d.upTo(2, "any destination") > 0 {
		r.Destination = v3.EntityRule{}
	}
	return r
}

func (d draw) fullRule() v3.Rule {
	r := v3.Rule{Action: pick(d, []v3.Action{v3.Allow, v3.Deny, v3.Pass, v3.Log})}
	nets := pick(d, [][]string{v4nets, v6nets})
	switch d.upTo(6, "match") {
	case 6: // ports by name need no protocol
		r.Source, r.Destination = d.entity(nets, false), d.entity(nets, false)
		for _, list := range []*[]intstr.IntOrString{&r.Source.Ports, &r.Source.NotPorts, &r.Destination.Ports, &r.Destination.NotPorts} {
			if d.upTo(3, "named") == 0 {
				*list = []intstr.IntOrString{intstr.FromString(pick(d, portNames))}
			}
		}
		return r
	case 0, 1:
		proto := intstr.FromString(pick(d, protocols))
		r.Protocol = &proto
		r.Source, r.Destination = d.entity(nets, true), d.entity(nets, true)
		return r
	case 2:
		proto := intstr.FromString(pick(d, allProtocols))
		if d.flip("not") {
			r.NotProtocol = &proto
		} else {
			r.Protocol = &proto
		}
	case 3:
		d.icmp(&r, nets)
	case 4:
		version := 4
		if len(nets) == len(v6nets) {
			version = 6
		}
		r.IPVersion = &version
	}
	r.Source, r.Destination = d.entity(nets, false), d.entity(nets, false)
	return r
}

func (d draw) icmp(r *v3.Rule, nets []string) {
	proto, types := intstr.FromString("ICMP"), []int{8, 13}
	if len(nets) == len(v6nets) {
		proto, types = intstr.FromString("ICMPv6"), []int{128, 135}
	}
	kind, code := pick(d, types), d.upTo(1, "code")
	fields := &v3.ICMPFields{Type: &kind}
	if d.flip("code") {
		fields.Code = &code
	}
	switch d.upTo(2, "icmp") {
	case 0:
		r.Protocol, r.ICMP = &proto, fields
	case 1:
		r.Protocol, r.NotICMP = &proto, fields
	default:
		r.NotICMP = fields
	}
}

func (d draw) entity(nets []string, ports bool) (e v3.EntityRule) {
	if d.flip("selectors") {
		e.Selector = pick(d, selectors)
		e.NamespaceSelector = pick(d, append([]string{"global()"}, nsSelectors...))
	}
	if d.upTo(3, "notSelector") == 0 {
		e.NotSelector = pick(d, selectors)
	}
	if d.upTo(3, "nets") == 0 {
		e.Nets = some(d, nets)
	}
	if d.upTo(4, "notNets") == 0 {
		for _, n := range some(d, nets) {
			if n != "0.0.0.0/0" && n != "::/0" {
				e.NotNets = append(e.NotNets, n)
			}
		}
	}
	if d.upTo(5, "accounts") == 0 {
		e.ServiceAccounts = &v3.ServiceAccountMatch{Names: []string{"robot"}, Selector: pick(d, selectors[:4])}
	}
	if ports {
		e.Ports = d.ports()
		if d.upTo(3, "notPorts") == 0 {
			e.NotPorts = d.ports()
		}
	}
	return e
}

func (d draw) ports() (out []intstr.IntOrString) {
	for range d.upTo(2, "ports") {
		switch d.upTo(2, "port") {
		case 0:
			out = append(out, intstr.FromString(pick(d, portNames)))
		case 1:
			out = append(out, intstr.FromInt32(int32(pick(d, numbers))))
		default:
			a, b := pick(d, numbers), pick(d, numbers)
			out = append(out, intstr.FromString(fmt.Sprintf("%d:%d", min(a, b), max(a, b))))
		}
	}
	return out
}

func (d draw) kubernetes(i int) client.Object {
	o := &networkingv1.NetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}}
	o.Namespace, o.Name = namespaces[i%2], letters[i]
	o.Spec.PodSelector = d.labelSelector()
	for range d.upTo(2, "ingress") {
		o.Spec.Ingress = append(o.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: d.peers(), Ports: d.kubernetesPorts()})
	}
	for range d.upTo(1, "egress") {
		o.Spec.Egress = append(o.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: d.peers(), Ports: d.kubernetesPorts()})
	}
	return o
}

func (d draw) labelSelector() metav1.LabelSelector {
	switch d.upTo(3, "label selector") {
	case 0:
		return metav1.LabelSelector{}
	case 1:
		return metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(d, letters)}}
	}
	op := pick(d, []metav1.LabelSelectorOperator{metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist})
	r := metav1.LabelSelectorRequirement{Key: pick(d, []string{"app", "env"}), Operator: op}
	if op == metav1.LabelSelectorOpIn || op == metav1.LabelSelectorOpNotIn {
		r.Values = some(d, letters)
	}
	return metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{r}}
}

func (d draw) peers() (out []networkingv1.NetworkPolicyPeer) {
	for range d.upTo(2, "peers") {
		var p networkingv1.NetworkPolicyPeer
		a, b := d.labelSelector(), d.labelSelector()
		switch d.upTo(3, "peer") {
		case 0:
			p.IPBlock = &networkingv1.IPBlock{CIDR: "10.0.0.0/8", Except: []string{"10.0.1.0/24"}}
		case 1:
			p.PodSelector = &a
		case 2:
			p.NamespaceSelector = &a
		default:
			p.PodSelector, p.NamespaceSelector = &a, &b
		}
		out = append(out, p)
	}
	return out
}

func (d draw) kubernetesPorts() (out []networkingv1.NetworkPolicyPort) {
	for range d.upTo(2, "ports") {
		proto := corev1.Protocol(pick(d, protocols))
		p := networkingv1.NetworkPolicyPort{Protocol: &proto}
		switch port := intstr.FromInt32(int32(pick(d, numbers))); d.upTo(3, "port") {
		case 0:
		case 1:
			port = intstr.FromString(pick(d, portNames))
			p.Port = &port
		case 2:
			end := int32(65535)
			p.Port, p.EndPort = &port, &end
		default:
			p.Port = &port
		}
		out = append(out, p)
	}
	return out
}

func (d draw) nets() []string {
	return append(some(d, v4nets), pick(d, v6nets))
}

func (d draw) networkSet(i int) client.Object {
	o := &v3.NetworkSet{}
	o.TypeMeta, o.ObjectMeta = d.meta("NetworkSet", namespaces[i], "nets")
	o.Labels, o.Spec.Nets = d.labels(), d.nets()
	return o
}

func (d draw) globalSet(i int) client.Object {
	o := &v3.GlobalNetworkSet{}
	o.TypeMeta, o.ObjectMeta = d.meta("GlobalNetworkSet", "", letters[i])
	o.Labels, o.Spec.Nets = d.labels(), d.nets()
	return o
}

func (d draw) profile(i int) client.Object {
	o := &v3.Profile{}
	o.TypeMeta, o.ObjectMeta = d.meta("Profile", "", profileNames[i])
	o.Spec.LabelsToApply = d.labels()
	for range d.upTo(2, "rules") {
		o.Spec.Ingress, o.Spec.Egress = append(o.Spec.Ingress, d.rule()), append(o.Spec.Egress, d.rule())
	}
	return o
}

func (d draw) slice(int) client.Object {
	port, proto := int32(pick(d, numbers)), corev1.Protocol(pick(d, protocols))
	o := &discoveryv1.EndpointSlice{TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}}
	o.Namespace, o.Name, o.Labels = "ns1", "web-1", map[string]string{discoveryv1.LabelServiceName: "web"}
	o.AddressType = discoveryv1.AddressTypeIPv4
	o.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1", "198.51.100.7"}}}
	o.Ports = []discoveryv1.EndpointPort{{Port: &port, Protocol: &proto}}
	return o
}

// AnyFlow is between two addresses of one family that a plan knows, or outsiders.
func AnyFlow(t *rapid.T, p *policy.Plan) policy.Flow {
	d := draw{t}
	f := policy.Flow{Src: pick(d, addresses(p))}
	var same []netip.Addr
	for _, a := range addresses(p) {
		if a.Is4() == f.Src.Is4() {
			same = append(same, a)
		}
	}
	f.Dst = pick(d, same)
	f.Proto = pick(d, []uint8{policy.ProtoTCP, policy.ProtoTCP, policy.ProtoUDP, policy.ProtoSCTP, policy.ProtoUDPLite, policy.ProtoICMP, 47})
	switch {
	case policy.HasPorts(f.Proto):
		f.SrcPort, f.DstPort = pick(d, numbers), pick(d, numbers)
	case f.Proto == policy.ProtoICMP && f.Src.Is6():
		f.Proto, f.ICMPType, f.ICMPCode = policy.ProtoICMPv6, pick(d, []uint8{128, 135, 134}), pick(d, []uint8{0, 1})
	case f.Proto == policy.ProtoICMP:
		f.ICMPType, f.ICMPCode = pick(d, []uint8{8, 13}), pick(d, []uint8{0, 1})
	}
	return f
}

func addresses(p *policy.Plan) (out []netip.Addr) {
	for _, e := range p.Endpoints {
		out = append(out, e.Addrs...)
	}
	for _, h := range p.Hosts {
		out = append(out, h.Addrs...)
	}
	for _, a := range outside {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}
