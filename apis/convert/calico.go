package convert

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tierwall/tierwall/apis/selector"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Order is where Kubernetes' policies stand in the tier default, each of them.
const Order = 1000

const orchestrator = "projectcalico.org/orchestrator"

// ToCalico gives Calico's NetworkPolicy that decides as Kubernetes' does, whatever else there is; only among policies of tier default that have the
// same order may its place be another.
func ToCalico(o *networkingv1.NetworkPolicy) (*v3.NetworkPolicy, []Loss) {
	order := float64(Order)
	out := &v3.NetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "NetworkPolicy"}, ObjectMeta: meta(&o.ObjectMeta)}
	out.Spec.Tier, out.Spec.Order = "default", &order
	var lost losses
	out.Spec.Selector = lost.pods("spec.podSelector", &o.Spec.PodSelector)
	if len(o.Spec.PolicyTypes) == 0 {
		out.Spec.Types = []v3.PolicyType{v3.PolicyTypeIngress}
		if len(o.Spec.Egress) > 0 {
			out.Spec.Types = append(out.Spec.Types, v3.PolicyTypeEgress)
		}
	}
	for _, t := range o.Spec.PolicyTypes {
		out.Spec.Types = append(out.Spec.Types, v3.PolicyType(t))
	}
	for i, r := range o.Spec.Ingress {
		out.Spec.Ingress = append(out.Spec.Ingress, lost.rules(fmt.Sprintf("spec.ingress[%d]", i), "from", r.From, r.Ports)...)
	}
	for i, r := range o.Spec.Egress {
		out.Spec.Egress = append(out.Spec.Egress, lost.rules(fmt.Sprintf("spec.egress[%d]", i), "to", r.To, r.Ports)...)
	}
	return out, lost
}

// rules are one for each protocol and peer.
func (l *losses) rules(at, far string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) (out []v3.Rule) {
	ends := []v3.EntityRule{{}}
	if len(peers) > 0 {
		ends = nil
	}
	for i := range peers {
		if e, ok := l.peer(fmt.Sprintf("%s.%s[%d]", at, far, i), &peers[i]); ok {
			ends = append(ends, e)
		}
	}
	for _, s := range l.services(at, ports) {
		for _, e := range ends {
			r := v3.Rule{Action: v3.Allow, Protocol: s.protocol}
			if far == "from" {
				r.Source, r.Destination.Ports = e, s.ports
			} else {
				r.Destination = e
				r.Destination.Ports = s.ports
			}
			out = append(out, r)
		}
	}
	return out
}

// service is a protocol with its ports; with none it is all of them, and without a protocol it is everything.
type service struct {
	protocol *intstr.IntOrString
	ports    []intstr.IntOrString
}

func (l *losses) services(at string, ports []networkingv1.NetworkPolicyPort) []service {
	if len(ports) == 0 {
		return []service{{}}
	}
	by := map[string]*service{}
	all := map[string]bool{}
	for i, p := range ports {
		name := "TCP"
		if p.Protocol != nil {
			name = string(*p.Protocol)
		}
		if by[name] == nil {
			protocol := intstr.FromString(name)
			by[name] = &service{protocol: &protocol}
		}
		switch {
		case p.Port == nil:
			all[name] = true
		case p.EndPort == nil || p.Port.Type == intstr.Int && *p.EndPort == p.Port.IntVal:
			by[name].ports = append(by[name].ports, *p.Port)
		case p.Port.Type == intstr.String || *p.EndPort < p.Port.IntVal:
			l.add(fmt.Sprintf("%s.ports[%d].endPort", at, i), "is no end of a range")
		default:
			by[name].ports = append(by[name].ports, intstr.FromString(fmt.Sprintf("%d:%d", p.Port.IntVal, *p.EndPort)))
		}
	}
	var out []service
	for _, name := range slices.Sorted(maps.Keys(by)) {
		s := *by[name]
		if all[name] {
			s.ports = nil
		} else if len(s.ports) == 0 {
			continue // none of its ports can be said: it allows nothing
		}
		out = append(out, s)
	}
	return out
}

func (l *losses) peer(at string, p *networkingv1.NetworkPolicyPeer) (e v3.EntityRule, ok bool) {
	switch {
	case p.IPBlock != nil:
		return v3.EntityRule{Nets: []string{p.IPBlock.CIDR}, NotNets: p.IPBlock.Except}, true
	case p.PodSelector == nil && p.NamespaceSelector == nil:
		l.add(at, "names neither pods, namespaces nor addresses")
		return e, false
	}
	if p.PodSelector != nil {
		e.Selector = l.pods(at+".podSelector", p.PodSelector)
	}
	if p.NamespaceSelector != nil {
		e.NamespaceSelector = l.labels(at+".namespaceSelector", p.NamespaceSelector)
		if e.NamespaceSelector == "" {
			e.NamespaceSelector = "all()"
		} else if p.PodSelector == nil && !asksFor(p.NamespaceSelector) {
			e.Selector = inSomeNamespace
		}
	}
	return e, true
}

// inSomeNamespace leaves hosts out, which have none of the labels that a namespace must not have.
const inSomeNamespace = "has(projectcalico.org/namespace)"

// asksFor tells whether there is a label that must be there.
func asksFor(s *metav1.LabelSelector) bool {
	return len(s.MatchLabels) > 0 || slices.ContainsFunc(s.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
		return e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpExists
	})
}

// pods only: what else has labels is not Kubernetes'.
func (l *losses) pods(at string, s *metav1.LabelSelector) string {
	own := fmt.Sprintf("%s == 'k8s'", orchestrator)
	if text := l.labels(at, s); text != "" {
		return own + " && " + text
	}
	return own
}

// labels in Calico's language; "" asks for nothing.
func (l *losses) labels(at string, s *metav1.LabelSelector) string {
	var terms []string
	for _, k := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		terms = append(terms, selector.Equals(k, s.MatchLabels[k]).String())
	}
	for i, e := range s.MatchExpressions {
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			terms = append(terms, selector.In(e.Key, e.Values...).String())
		case metav1.LabelSelectorOpNotIn:
			terms = append(terms, selector.NotIn(e.Key, e.Values...).String())
		case metav1.LabelSelectorOpExists:
			terms = append(terms, selector.Has(e.Key).String())
		case metav1.LabelSelectorOpDoesNotExist:
			terms = append(terms, selector.Not(selector.Has(e.Key)).String())
		default:
			l.add(fmt.Sprintf("%s.matchExpressions[%d].operator", at, i), "%q is none of In, NotIn, Exists and DoesNotExist", e.Operator)
		}
	}
	return strings.ReplaceAll(strings.Join(terms, " && "), `"`, "'")
}

// ToKubernetes gives Kubernetes' NetworkPolicy for Calico's, of pods: what else has labels, a network set or a host's workload, it never selects. It
// stands where all of them do, at order 1000 of tier default.
func ToKubernetes(o *v3.NetworkPolicy) (*networkingv1.NetworkPolicy, []Loss) {
	out := &networkingv1.NetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"}, ObjectMeta: meta(&o.ObjectMeta)}
	delete(out.Labels, v3.LabelTier)
	var lost losses
	if o.Spec.Tier != "" && o.Spec.Tier != "default" {
		lost.add("spec.tier", "Kubernetes has no tiers")
	}
	if o.Spec.Order != nil && *o.Spec.Order != Order {
		lost.add("spec.order", "Kubernetes has no order: its policies all have %d", Order)
	}
	if o.Spec.ServiceAccountSelector != "" {
		lost.add("spec.serviceAccountSelector", "Kubernetes selects by pods' labels alone")
	}
	if s := lost.selector("spec.selector", o.Spec.Selector); s != nil {
		out.Spec.PodSelector = *s
	}
	for _, t := range o.Spec.Types {
		out.Spec.PolicyTypes = append(out.Spec.PolicyTypes, networkingv1.PolicyType(t))
	}
	for i, r := range withoutLastDeny(o.Spec.Ingress) {
		at := fmt.Sprintf("spec.ingress[%d]", i)
		if peers, ports, ok := lost.rule(at, &r, &r.Source, &r.Destination, "source", "destination", true); ok {
			out.Spec.Ingress = append(out.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: peers, Ports: ports})
		}
	}
	for i, r := range withoutLastDeny(o.Spec.Egress) {
		at := fmt.Sprintf("spec.egress[%d]", i)
		if peers, ports, ok := lost.rule(at, &r, &r.Destination, &r.Source, "destination", "source", false); ok {
			out.Spec.Egress = append(out.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: peers, Ports: ports})
		}
	}
	return out, lost
}

// withoutLastDeny of everything, which is what becomes of the rest anyhow.
func withoutLastDeny(rules []v3.Rule) []v3.Rule {
	if n := len(rules); n > 0 && rules[n-1].Action == v3.Deny && matchesAll(&rules[n-1]) {
		return rules[:n-1]
	}
	return rules
}

func matchesAll(r *v3.Rule) bool {
	return r.IPVersion == nil && r.Protocol == nil && r.NotProtocol == nil && r.ICMP == nil && r.NotICMP == nil && r.HTTP == nil &&
		len(said(&r.Source)) == 0 && len(said(&r.Destination)) == 0
}

// said are the fields of an end that ask for something.
func said(e *v3.EntityRule) (out []string) {
	for _, f := range []struct {
		name string
		said bool
	}{{"nets", len(e.Nets) > 0}, {"notNets", len(e.NotNets) > 0}, {"selector", e.Selector != ""}, {"notSelector", e.NotSelector != ""},
		{"namespaceSelector", e.NamespaceSelector != ""}, {"services", e.Services != nil}, {"ports", len(e.Ports) > 0},
		{"notPorts", len(e.NotPorts) > 0}, {"serviceAccounts", e.ServiceAccounts != nil}} {
		if f.said {
			out = append(out, f.name)
		}
	}
	return out
}

// rule says what it allows to or from whom. One that cannot be said is left out as a whole: without a criterion it would allow more.
func (l *losses) rule(at string, r *v3.Rule, far, near *v3.EntityRule, farField, nearField string, nearPorts bool) (peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, ok bool) {
	before := len(*l)
	if r.Action != v3.Allow {
		l.add(at+".action", "Kubernetes' rules only allow: there is no %s", r.Action)
	}
	for _, f := range []struct {
		name string
		said bool
	}{{"ipVersion", r.IPVersion != nil}, {"notProtocol", r.NotProtocol != nil}, {"icmp", r.ICMP != nil}, {"notICMP", r.NotICMP != nil}, {"http", r.HTTP != nil}} {
		if f.said {
			l.add(at+"."+f.name, "Kubernetes' rules have no such criterion")
		}
	}
	target, field := far, farField
	if nearPorts {
		target, field = near, nearField
	}
	for _, end := range []struct {
		e     *v3.EntityRule
		name  string
		known []string
	}{{far, farField, []string{"nets", "notNets", "selector", "namespaceSelector"}}, {near, nearField, nil}} {
		for _, f := range said(end.e) {
			if !slices.Contains(end.known, f) && (f != "ports" || end.e != target) {
				l.add(at+"."+end.name+"."+f, "Kubernetes' rules have no such criterion")
			}
		}
	}
	ports = l.ports(at, field, r.Protocol, target.Ports)
	peers = l.peers(at+"."+farField, far)
	return peers, ports, len(*l) == before
}

func (l *losses) ports(at, field string, protocol *intstr.IntOrString, in []intstr.IntOrString) (out []networkingv1.NetworkPolicyPort) {
	if protocol == nil {
		return nil
	}
	p := corev1.Protocol(strings.ToUpper(protocol.String()))
	if number, ok := map[string]corev1.Protocol{"6": corev1.ProtocolTCP, "17": corev1.ProtocolUDP, "132": corev1.ProtocolSCTP}[string(p)]; ok {
		p = number
	}
	if p != corev1.ProtocolTCP && p != corev1.ProtocolUDP && p != corev1.ProtocolSCTP {
		l.add(at+".protocol", "Kubernetes knows TCP, UDP and SCTP, and not %s", protocol.String())
		return nil
	}
	if len(in) == 0 {
		return []networkingv1.NetworkPolicyPort{{Protocol: &p}}
	}
	for i, port := range in {
		one := networkingv1.NetworkPolicyPort{Protocol: &p, Port: &in[i]}
		var first, last int32
		if n, err := fmt.Sscanf(port.String(), "%d:%d", &first, &last); err == nil && n == 2 {
			number := intstr.FromInt32(first)
			one.Port, one.EndPort = &number, &last
		} else if n, err := fmt.Sscanf(port.String(), "%d", &first); err == nil && n == 1 {
			number := intstr.FromInt32(first)
			one.Port = &number
		}
		if one.Port.Type == intstr.Int && one.Port.IntVal == 0 {
			l.add(fmt.Sprintf("%s.%s.ports[%d]", at, field, i), "Kubernetes has no port 0")
		}
		out = append(out, one)
	}
	return out
}

func (l *losses) peers(at string, e *v3.EntityRule) (out []networkingv1.NetworkPolicyPeer) {
	chosen := e.Selector != "" || e.NamespaceSelector != ""
	if chosen && len(e.Nets)+len(e.NotNets) > 0 {
		l.add(at+".nets", "Kubernetes has pods or addresses, and not pods with addresses")
		return nil
	}
	if !chosen {
		return l.blocks(at, e)
	}
	var p networkingv1.NetworkPolicyPeer
	if e.Selector != "" && (e.NamespaceSelector == "" || e.Selector != inSomeNamespace) {
		p.PodSelector = l.selector(at+".selector", e.Selector)
	}
	if e.NamespaceSelector != "" {
		p.NamespaceSelector = l.selector(at+".namespaceSelector", e.NamespaceSelector)
	}
	return []networkingv1.NetworkPolicyPeer{p}
}

// selector is Kubernetes' form of one that is a list of terms.
func (l *losses) selector(at, text string) *metav1.LabelSelector {
	out := &metav1.LabelSelector{}
	s, err := selector.Parse(text)
	if err != nil {
		l.add(at, "%v", err)
		return out
	}
	terms, ok := s.Terms()
	if !ok {
		l.add(at, "Kubernetes' selectors are lists of labels, each with values that it has or has not: %s is none", text)
		return out
	}
	for _, t := range terms {
		switch {
		case t.Label == orchestrator && !t.Not && slices.Equal(t.Values, []string{"k8s"}):
			continue // as all pods have
		case t.Label == "projectcalico.org/name" && strings.HasSuffix(at, "namespaceSelector"):
			t.Label = corev1.LabelMetadataName
		case strings.HasPrefix(t.Label, "projectcalico.org/"):
			l.add(at, "%s is no label of a pod's or a namespace's own", t.Label)
		}
		operator := map[bool]metav1.LabelSelectorOperator{true: metav1.LabelSelectorOpIn, false: metav1.LabelSelectorOpExists}[len(t.Values) > 0]
		if t.Not {
			operator = map[bool]metav1.LabelSelectorOperator{true: metav1.LabelSelectorOpNotIn, false: metav1.LabelSelectorOpDoesNotExist}[len(t.Values) > 0]
		}
		if had, twice := out.MatchLabels[t.Label]; !t.Not && len(t.Values) == 1 && (!twice || had == t.Values[0]) {
			if out.MatchLabels == nil {
				out.MatchLabels = map[string]string{}
			}
			out.MatchLabels[t.Label] = t.Values[0]
			continue
		}
		out.MatchExpressions = append(out.MatchExpressions, metav1.LabelSelectorRequirement{Key: t.Label, Operator: operator, Values: t.Values})
	}
	return out
}

// blocks are the addresses of an end that names no labels. What is excepted must be within: what is beside it excepts nothing, and what is
// around it leaves nothing.
func (l *losses) blocks(at string, e *v3.EntityRule) (out []networkingv1.NetworkPolicyPeer) {
	nets := e.Nets
	if len(nets) == 0 && len(e.NotNets) > 0 { // of the family of what is excepted alone
		nets = []string{"0.0.0.0/0"}
		if strings.Contains(e.NotNets[0], ":") {
			nets = []string{"::/0"}
		}
	}
	for i, text := range nets {
		block, err := prefix(text)
		if err != nil {
			l.add(fmt.Sprintf("%s.nets[%d]", at, i), "%v", err)
			continue
		}
		b := &networkingv1.IPBlock{CIDR: block.String()}
		covered := false
		for j, text := range e.NotNets {
			not, err := prefix(text)
			switch {
			case err != nil:
				l.add(fmt.Sprintf("%s.notNets[%d]", at, j), "%v", err)
			case not.Addr().Is4() != block.Addr().Is4() || not.Bits() <= block.Bits() && not.Contains(block.Addr()):
				covered = true
			case block.Contains(not.Addr()):
				b.Except = append(b.Except, not.String())
			}
		}
		if !covered {
			out = append(out, networkingv1.NetworkPolicyPeer{IPBlock: b})
		}
	}
	if len(nets) > 0 && len(out) == 0 {
		l.add(at+".notNets", "it leaves nobody, and Kubernetes has no peer that is nobody")
	}
	return out
}

func prefix(text string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}
