package convert

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// most rules, peers and ports that a ClusterNetworkPolicy has; of v1alpha1's kinds it is 100.
const most = 25

// baselinePriority is that of what was the only baseline policy: others can be put before it.
const baselinePriority = 1000

// FromAdmin gives the ClusterNetworkPolicy for an AdminNetworkPolicy: of tier Admin, with its priority.
func FromAdmin(o *v1alpha1.AdminNetworkPolicy) (*v1alpha2.ClusterNetworkPolicy, []Loss) {
	var a admin
	out := a.policy(&o.ObjectMeta, v1alpha2.AdminTier, o.Spec.Priority, &o.Spec.Subject, len(o.Spec.Ingress), len(o.Spec.Egress))
	for i, r := range o.Spec.Ingress {
		out.Spec.Ingress = append(out.Spec.Ingress, a.ingress(i, r.Name, string(r.Action), r.From, r.Ports))
	}
	for i, r := range o.Spec.Egress {
		out.Spec.Egress = append(out.Spec.Egress, a.egress(i, r.Name, string(r.Action), r.To, r.Ports))
	}
	return out, a.losses
}

// FromBaseline gives the ClusterNetworkPolicy for the BaselineAdminNetworkPolicy: of tier Baseline.
func FromBaseline(o *v1alpha1.BaselineAdminNetworkPolicy) (*v1alpha2.ClusterNetworkPolicy, []Loss) {
	var a admin
	out := a.policy(&o.ObjectMeta, v1alpha2.BaselineTier, baselinePriority, &o.Spec.Subject, len(o.Spec.Ingress), len(o.Spec.Egress))
	for i, r := range o.Spec.Ingress {
		out.Spec.Ingress = append(out.Spec.Ingress, a.ingress(i, r.Name, string(r.Action), r.From, r.Ports))
	}
	for i, r := range o.Spec.Egress {
		to := make([]v1alpha1.AdminNetworkPolicyEgressPeer, len(r.To))
		for j, p := range r.To {
			to[j] = v1alpha1.AdminNetworkPolicyEgressPeer{Namespaces: p.Namespaces, Pods: p.Pods, Nodes: p.Nodes, Networks: p.Networks}
		}
		out.Spec.Egress = append(out.Spec.Egress, a.egress(i, r.Name, string(r.Action), to, r.Ports))
	}
	return out, a.losses
}

type admin struct{ losses }

func (a *admin) policy(m *metav1.ObjectMeta, tier v1alpha2.Tier, priority int32, s *v1alpha1.AdminNetworkPolicySubject, ingress, egress int) *v1alpha2.ClusterNetworkPolicy {
	out := &v1alpha2.ClusterNetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha2.GroupVersion.String(), Kind: "ClusterNetworkPolicy"}, ObjectMeta: meta(m)}
	out.Spec.Tier, out.Spec.Priority = tier, priority
	out.Spec.Subject = v1alpha2.ClusterNetworkPolicySubject{Namespaces: s.Namespaces, Pods: pods(s.Pods)}
	a.few("spec.ingress", ingress)
	a.few("spec.egress", egress)
	return out
}

func (a *admin) few(at string, n int) {
	if n > most {
		a.add(at, "has %d, and a ClusterNetworkPolicy no more than %d: make two of it", n, most)
	}
}

func pods(p *v1alpha1.NamespacedPod) *v1alpha2.NamespacedPod {
	if p == nil {
		return nil
	}
	return &v1alpha2.NamespacedPod{NamespaceSelector: p.NamespaceSelector, PodSelector: p.PodSelector}
}

func (a *admin) action(at, in string) v1alpha2.ClusterNetworkPolicyRuleAction {
	switch in {
	case "Allow":
		return v1alpha2.ClusterNetworkPolicyRuleActionAccept
	case "Deny", "Pass":
		return v1alpha2.ClusterNetworkPolicyRuleAction(in)
	}
	a.add(at+".action", "%q is none of Allow, Deny and Pass", in)
	return v1alpha2.ClusterNetworkPolicyRuleActionDeny
}

func (a *admin) ingress(i int, name, action string, from []v1alpha1.AdminNetworkPolicyIngressPeer, ports *[]v1alpha1.AdminNetworkPolicyPort) (r v1alpha2.ClusterNetworkPolicyIngressRule) {
	at := fmt.Sprintf("spec.ingress[%d]", i)
	r.Name, r.Action, r.Protocols = name, a.action(at, action), a.protocols(at, ports)
	a.few(at+".from", len(from))
	for _, p := range from {
		r.From = append(r.From, v1alpha2.ClusterNetworkPolicyIngressPeer{Namespaces: p.Namespaces, Pods: pods(p.Pods)})
	}
	return r
}

func (a *admin) egress(i int, name, action string, to []v1alpha1.AdminNetworkPolicyEgressPeer, ports *[]v1alpha1.AdminNetworkPolicyPort) (r v1alpha2.ClusterNetworkPolicyEgressRule) {
	at := fmt.Sprintf("spec.egress[%d]", i)
	r.Name, r.Action, r.Protocols = name, a.action(at, action), a.protocols(at, ports)
	a.few(at+".to", len(to))
	for j, p := range to {
		peer := v1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: p.Namespaces, Pods: pods(p.Pods), Nodes: p.Nodes}
		for _, n := range p.Networks {
			peer.Networks = append(peer.Networks, v1alpha2.CIDR(n))
		}
		for _, n := range p.DomainNames {
			peer.DomainNames = append(peer.DomainNames, v1alpha2.DomainName(n))
		}
		if portless := p.Nodes != nil || len(p.Networks) > 0 || len(p.DomainNames) > 0; portless && named(r.Protocols) {
			a.add(fmt.Sprintf("%s.to[%d]", at, j), "a ClusterNetworkPolicy has no named ports of nodes, networks or domain names: put them into a rule of their own")
		}
		r.To = append(r.To, peer)
	}
	return r
}

func named(all []v1alpha2.ClusterNetworkPolicyProtocol) bool {
	for _, p := range all {
		if p.DestinationNamedPort != "" {
			return true
		}
	}
	return false
}

func (a *admin) protocols(at string, in *[]v1alpha1.AdminNetworkPolicyPort) (out []v1alpha2.ClusterNetworkPolicyProtocol) {
	if in == nil {
		return nil
	}
	a.few(at+".ports", len(*in))
	if len(*in) == 0 {
		a.add(at+".ports", "an empty list says nothing: leave it out for all ports")
	}
	for i, p := range *in {
		field := fmt.Sprintf("%s.ports[%d]", at, i)
		switch {
		case p.NamedPort != nil:
			out = append(out, v1alpha2.ClusterNetworkPolicyProtocol{DestinationNamedPort: *p.NamedPort})
		case p.PortNumber != nil:
			out = append(out, a.protocol(field, p.PortNumber.Protocol, &v1alpha2.Port{Number: p.PortNumber.Port}))
		case p.PortRange != nil && p.PortRange.Start == p.PortRange.End:
			out = append(out, a.protocol(field, p.PortRange.Protocol, &v1alpha2.Port{Number: p.PortRange.Start}))
		case p.PortRange != nil:
			out = append(out, a.protocol(field, p.PortRange.Protocol, &v1alpha2.Port{Range: &v1alpha2.PortRange{Start: p.PortRange.Start, End: p.PortRange.End}}))
		default:
			a.add(field, "needs one of portNumber, portRange and namedPort")
		}
	}
	return out
}

func (a *admin) protocol(at string, name corev1.Protocol, port *v1alpha2.Port) (p v1alpha2.ClusterNetworkPolicyProtocol) {
	switch name {
	case corev1.ProtocolTCP, "":
		p.TCP = &v1alpha2.ClusterNetworkPolicyProtocolTCP{DestinationPort: port}
	case corev1.ProtocolUDP:
		p.UDP = &v1alpha2.ClusterNetworkPolicyProtocolUDP{DestinationPort: port}
	case corev1.ProtocolSCTP:
		p.SCTP = &v1alpha2.ClusterNetworkPolicyProtocolSCTP{DestinationPort: port}
	default:
		a.add(at, "%s is none of TCP, UDP and SCTP", name)
	}
	return p
}
