package main

import (
	"fmt"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	policyapi "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// ruleText is one rule as its author wrote it, in words.
type ruleText struct{ action, name, text string }

// rulesInWords are the rules of a policy in one direction, by their index in the object.
func rulesInWords(o client.Object, d policy.Direction) []ruleText {
	pick := func(in, out []v3.Rule) []ruleText { return inWords(ofDirection(d, in, out), calicoRule) }
	switch o := o.(type) {
	case *v3.NetworkPolicy:
		return pick(o.Spec.Ingress, o.Spec.Egress)
	case *v3.GlobalNetworkPolicy:
		return pick(o.Spec.Ingress, o.Spec.Egress)
	case *v3.StagedNetworkPolicy:
		return pick(o.Spec.Ingress, o.Spec.Egress)
	case *v3.StagedGlobalNetworkPolicy:
		return pick(o.Spec.Ingress, o.Spec.Egress)
	case *v3.Profile:
		return pick(o.Spec.Ingress, o.Spec.Egress)
	case *networkingv1.NetworkPolicy:
		return kubernetesRules(&o.Spec, d)
	case *v3.StagedKubernetesNetworkPolicy:
		spec := o.Spec.NetworkPolicySpec()
		return kubernetesRules(&spec, d)
	case *policyapi.ClusterNetworkPolicy:
		if d == policy.Ingress {
			return inWords(o.Spec.Ingress, clusterIngressRule)
		}
		return inWords(o.Spec.Egress, clusterEgressRule)
	}
	return nil
}

func ofDirection[T any](d policy.Direction, in, out T) T {
	if d == policy.Ingress {
		return in
	}
	return out
}

func inWords[T any](in []T, f func(*T) ruleText) []ruleText {
	out := make([]ruleText, len(in))
	for i := range in {
		out[i] = f(&in[i])
	}
	return out
}

// phrase is words with blanks between; what is empty is left out.
type phrase []string

func (p *phrase) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// some adds items of a list behind a word, if there are any.
func (p *phrase) some(word string, items []string) {
	if len(items) > 0 {
		p.add("%s%s", word, strings.Join(items, ","))
	}
}

// rule is the phrase behind an action; without a criterion the rule is for every packet.
func (p phrase) rule(action, name string) ruleText {
	if len(p) == 0 {
		p = phrase{"everything"}
	}
	return ruleText{action, name, strings.Join(p, " ")}
}

func calicoRule(r *v3.Rule) ruleText {
	var p phrase
	if r.IPVersion != nil {
		p.add("IPv%d", *r.IPVersion)
	}
	if r.Protocol != nil {
		p.add("%s", r.Protocol.String())
	}
	if r.NotProtocol != nil {
		p.add("not %s", r.NotProtocol.String())
	}
	p = append(p, icmpWords("", r.ICMP)...)
	p = append(p, icmpWords("not ", r.NotICMP)...)
	p = append(p, sideWords("from", &r.Source)...)
	p = append(p, sideWords("to", &r.Destination)...)
	if r.HTTP != nil {
		p.add("(its HTTP match is not enforced)")
	}
	name := ""
	if r.Metadata != nil {
		name = r.Metadata.Annotations["name"]
	}
	return p.rule(string(r.Action), name)
}

func icmpWords(not string, f *v3.ICMPFields) (p phrase) {
	if f == nil || f.Type == nil {
		return nil
	}
	p.add("%stype %d", not, *f.Type)
	if f.Code != nil {
		p.add("code %d", *f.Code)
	}
	return p
}

func sideWords(end string, e *v3.EntityRule) phrase {
	var p phrase
	p.some("", e.Nets)
	p.some("not ", e.NotNets)
	if e.Selector != "" {
		p.add("%s", e.Selector)
	}
	if e.NotSelector != "" {
		p.add("not (%s)", e.NotSelector)
	}
	switch e.NamespaceSelector {
	case "":
	case "global()":
		p.add("in no namespace")
	default:
		p.add("in namespaces %s", e.NamespaceSelector)
	}
	if s := e.Services; s != nil {
		p.add("service %s", strings.TrimPrefix(s.Namespace+"/"+s.Name, "/"))
	}
	if s := e.ServiceAccounts; s != nil {
		p.some("service account ", s.Names)
		if s.Selector != "" {
			p.add("service accounts %s", s.Selector)
		}
	}
	p.some(portWord(e.Ports), texts(e.Ports))
	p.some("not "+portWord(e.NotPorts), texts(e.NotPorts))
	if len(p) > 0 {
		p = append(phrase{end}, p...)
	}
	return p
}

func portWord[T any](ports []T) string {
	if len(ports) == 1 {
		return "port "
	}
	return "ports "
}

func texts(ports []intstr.IntOrString) (out []string) {
	for _, p := range ports {
		out = append(out, p.String())
	}
	return out
}

func kubernetesRules(s *networkingv1.NetworkPolicySpec, d policy.Direction) (out []ruleText) {
	one := func(end string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
		var p phrase
		if len(peers) > 0 {
			p.add("%s %s", end, alternatives(peers, kubernetesPeer))
		}
		if len(ports) > 0 {
			p.add("to %s", alternatives(ports, kubernetesPort))
		}
		out = append(out, p.rule("Allow", ""))
	}
	if d == policy.Ingress {
		for _, r := range s.Ingress {
			one("from", r.From, r.Ports)
		}
	} else {
		for _, r := range s.Egress {
			one("to", r.To, r.Ports)
		}
	}
	return out
}

func alternatives[T any](in []T, f func(*T) string) string {
	var out []string
	for i := range in {
		out = append(out, f(&in[i]))
	}
	return strings.Join(out, " or ")
}

func kubernetesPeer(p *networkingv1.NetworkPolicyPeer) string {
	if p.IPBlock != nil {
		words := phrase{p.IPBlock.CIDR}
		words.some("not ", p.IPBlock.Except)
		return strings.Join(words, " ")
	}
	return podWords(p.PodSelector, p.NamespaceSelector)
}

func podWords(pods, namespaces *metav1.LabelSelector) string {
	words := phrase{"all pods"}
	if pods != nil && len(pods.MatchLabels)+len(pods.MatchExpressions) > 0 {
		words = phrase{"pods " + metav1.FormatLabelSelector(pods)}
	}
	switch {
	case namespaces == nil:
	case len(namespaces.MatchLabels)+len(namespaces.MatchExpressions) == 0:
		words.add("in any namespace")
	default:
		words.add("in namespaces %s", metav1.FormatLabelSelector(namespaces))
	}
	return strings.Join(words, " ")
}

func kubernetesPort(p *networkingv1.NetworkPolicyPort) string {
	proto := "TCP"
	if p.Protocol != nil {
		proto = string(*p.Protocol)
	}
	switch {
	case p.Port == nil:
		return proto
	case p.EndPort != nil:
		return fmt.Sprintf("%s %s-%d", proto, p.Port.String(), *p.EndPort)
	}
	return proto + " " + p.Port.String()
}

func clusterIngressRule(r *policyapi.ClusterNetworkPolicyIngressRule) ruleText {
	var p phrase
	p.add("from %s", alternatives(r.From, func(p *policyapi.ClusterNetworkPolicyIngressPeer) string { return clusterPods(p.Namespaces, p.Pods) }))
	p = append(p, clusterProtocols(r.Protocols)...)
	return p.rule(string(r.Action), r.Name)
}

func clusterEgressRule(r *policyapi.ClusterNetworkPolicyEgressRule) ruleText {
	var p phrase
	p.add("to %s", alternatives(r.To, clusterPeer))
	p = append(p, clusterProtocols(r.Protocols)...)
	return p.rule(string(r.Action), r.Name)
}

func clusterPeer(p *policyapi.ClusterNetworkPolicyEgressPeer) string {
	var words phrase
	switch {
	case p.Nodes != nil:
		return "nodes " + metav1.FormatLabelSelector(p.Nodes)
	case p.Networks != nil:
		for _, n := range p.Networks {
			words = append(words, string(n))
		}
		return strings.Join(words, ",")
	case p.DomainNames != nil:
		return fmt.Sprintf("domain names %v", p.DomainNames)
	}
	return clusterPods(p.Namespaces, p.Pods)
}

func clusterPods(namespaces *metav1.LabelSelector, pods *policyapi.NamespacedPod) string {
	if pods != nil {
		return podWords(&pods.PodSelector, &pods.NamespaceSelector)
	}
	return podWords(nil, namespaces)
}

func clusterProtocols(all []policyapi.ClusterNetworkPolicyProtocol) (p phrase) {
	if len(all) > 0 {
		p.add("by %s", alternatives(all, clusterProtocol))
	}
	return p
}

func clusterProtocol(p *policyapi.ClusterNetworkPolicyProtocol) string {
	port := func(proto string, to *policyapi.Port) string {
		switch {
		case to == nil:
			return proto
		case to.Range != nil:
			return fmt.Sprintf("%s %d-%d", proto, to.Range.Start, to.Range.End)
		}
		return fmt.Sprintf("%s %d", proto, to.Number)
	}
	switch {
	case p.TCP != nil:
		return port("TCP", p.TCP.DestinationPort)
	case p.UDP != nil:
		return port("UDP", p.UDP.DestinationPort)
	case p.SCTP != nil:
		return port("SCTP", p.SCTP.DestinationPort)
	}
	return "port " + p.DestinationNamedPort
}
