package convert

import (
	"fmt"
	"maps"
	"slices"
	"strings"

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
		} else if p.PodSelector == nil {
			e.Selector = inSomeNamespace
		}
	}
	return e, true
}

// inSomeNamespace leaves hosts out: they have none of the labels that a namespace must not have, and may inherit others.
const inSomeNamespace = "has(projectcalico.org/namespace)"

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
