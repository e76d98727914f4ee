package convert

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

const (
	mostPriority = 1000
	mostName     = 100 // of a rule's
)

// item is what becomes of a policy, or of its tier's end, in tier Admin or Baseline.
type item struct {
	*entry
	part  string
	rules [2][]clusterRule
}

// clusterRule is a rule of either direction: an ingress peer is an egress peer that is never outside the cluster.
type clusterRule struct {
	name      string
	action    v1alpha2.ClusterNetworkPolicyRuleAction
	peers     []v1alpha2.ClusterNetworkPolicyEgressPeer
	protocols []v1alpha2.ClusterNetworkPolicyProtocol
}

var clusterActions = map[v3.Action]v1alpha2.ClusterNetworkPolicyRuleAction{
	v3.Allow: v1alpha2.ClusterNetworkPolicyRuleActionAccept,
	v3.Deny:  v1alpha2.ClusterNetworkPolicyRuleActionDeny,
	v3.Pass:  v1alpha2.ClusterNetworkPolicyRuleActionPass,
}

// clusterRules say what a rule says, as many as it takes; none if they cannot.
func (k *onward) clusterRules(d direction, c *clause) (out []clusterRule) {
	if c.clustered != nil {
		return nil // it says so itself
	}
	var lost losses
	for _, m := range c.matches {
		peers := lost.clusterPeers(d, c, &m)
		protocols := lost.clusterProtocols(c.at, &m.ports)
		for some := range slices.Chunk(peers, most) {
			if len(protocols) == 0 {
				out = append(out, clusterRule{action: clusterActions[c.action], peers: some})
			}
			for those := range slices.Chunk(protocols, most) {
				out = append(out, clusterRule{action: clusterActions[c.action], peers: some, protocols: those})
			}
		}
	}
	if len(lost) > 0 {
		k.loseRule(c, lost)
		return nil
	}
	for i := range out {
		if len(c.name) <= mostName {
			out[i].name = c.name
		}
	}
	return out
}

func (l *losses) clusterPeers(d direction, c *clause, m *match) (out []v1alpha2.ClusterNetworkPolicyEgressPeer) {
	var networks []v1alpha2.CIDR
	for _, p := range m.peers {
		switch {
		case p.pods != nil:
			out = append(out, clusterPods(p.pods))
		case d == ingress && p.block == nil && c.action == v3.Pass: // who is no pod is passed on by all rules
			out = append(out, clusterPods(everyPod.pods))
		case d == ingress:
			l.add(c.at+".source", "a ClusterNetworkPolicy's ingress is from pods alone, and this is from others too")
			return nil
		case p.block == nil:
			networks = append(networks, "0.0.0.0/0", "::/0")
		default:
			for _, n := range p.block.without() {
				networks = append(networks, v1alpha2.CIDR(n.String()))
			}
		}
	}
	slices.Sort(networks)
	for some := range slices.Chunk(slices.Compact(networks), most) {
		out = append(out, v1alpha2.ClusterNetworkPolicyEgressPeer{Networks: some})
	}
	return out
}

func clusterPods(c *choice) (p v1alpha2.ClusterNetworkPolicyEgressPeer) {
	namespaces := labelSelector(c.namespaces)
	if len(c.pods) == 0 {
		p.Namespaces = &namespaces
		return p
	}
	p.Pods = &v1alpha2.NamespacedPod{NamespaceSelector: namespaces, PodSelector: labelSelector(c.pods)}
	return p
}

func (l *losses) clusterProtocols(at string, p *ports) (out []v1alpha2.ClusterNetworkPolicyProtocol) {
	for _, name := range p.names {
		if p.protocol != "" {
			l.add(at+".destination.ports", "a ClusterNetworkPolicy's port %s is of every protocol", name)
		}
		out = append(out, v1alpha2.ClusterNetworkPolicyProtocol{DestinationNamedPort: name})
	}
	ranges := p.ranges
	if p.protocol != "" && len(p.names)+len(ranges) == 0 {
		ranges = [][2]int32{{1, 65535}}
	}
	for _, r := range ranges {
		port := &v1alpha2.Port{Number: r[0]}
		if r[1] > r[0] {
			port = &v1alpha2.Port{Range: &v1alpha2.PortRange{Start: r[0], End: r[1]}}
		}
		switch p.protocol {
		case corev1.ProtocolTCP:
			out = append(out, v1alpha2.ClusterNetworkPolicyProtocol{TCP: &v1alpha2.ClusterNetworkPolicyProtocolTCP{DestinationPort: port}})
		case corev1.ProtocolUDP:
			out = append(out, v1alpha2.ClusterNetworkPolicyProtocol{UDP: &v1alpha2.ClusterNetworkPolicyProtocolUDP{DestinationPort: port}})
		case corev1.ProtocolSCTP:
			out = append(out, v1alpha2.ClusterNetworkPolicyProtocol{SCTP: &v1alpha2.ClusterNetworkPolicyProtocolSCTP{DestinationPort: port}})
		}
	}
	return out
}

// written are the policies in the order in which they are asked; NetworkPolicies have none.
func (k *onward) written() []v3.Object {
	slices.SortFunc(k.networks, func(a, b v3.Object) int { return v3.RefOf(a).Compare(v3.RefOf(b)) })
	return slices.Concat(k.clusters(v1alpha2.AdminTier, k.admin), k.networks, k.clusters(v1alpha2.BaselineTier, k.baseline))
}

// clusters are the ClusterNetworkPolicies of a tier. Those that were there keep their priorities while there are no others.
func (k *onward) clusters(tier v1alpha2.Tier, items []item) (out []v3.Object) {
	var all []*v1alpha2.ClusterNetworkPolicy
	ours := false
	for _, i := range items {
		if i.clustered != nil {
			all = append(all, i.clustered.DeepCopy())
			continue
		}
		parts := i.clusters()
		ours = ours || len(parts) > 0
		for _, p := range parts {
			p.Spec.Tier = tier
			k.rename(p)
		}
		all = append(all, parts...)
	}
	step := mostPriority / max(len(all), 1)
	if step = min(step, 10); ours && step == 0 {
		k.lose(items[len(items)-1].ref, Opens, "spec.order", "it would be %d ClusterNetworkPolicies of tier %s, and they have no more than %d priorities", len(all), tier, mostPriority)
	}
	for i, p := range all {
		if ours {
			p.Spec.Priority = int32((i + 1) * step)
		}
		out = append(out, p)
	}
	return out
}

// clusters are as many as hold the rules.
func (i *item) clusters() (out []*v1alpha2.ClusterNetworkPolicy) {
	in, to := slices.Collect(slices.Chunk(i.rules[ingress], most)), slices.Collect(slices.Chunk(i.rules[egress], most))
	for n := range max(len(in), len(to)) {
		p := &v1alpha2.ClusterNetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha2.GroupVersion.String(), Kind: "ClusterNetworkPolicy"}, ObjectMeta: meta(&i.meta)}
		delete(p.Labels, v3.LabelTier)
		p.Name, p.Namespace = i.ref.Name, ""
		if i.ref.Namespace != "" {
			p.Name = i.ref.Namespace + "." + i.ref.Name
		}
		if i.part != "" {
			p.Name += "." + i.part
		}
		who := clusterPods(&i.who)
		p.Spec.Subject = v1alpha2.ClusterNetworkPolicySubject{Namespaces: who.Namespaces, Pods: who.Pods}
		if n < len(in) {
			for _, r := range in[n] {
				one := v1alpha2.ClusterNetworkPolicyIngressRule{Name: r.name, Action: r.action, Protocols: r.protocols}
				for _, peer := range r.peers {
					one.From = append(one.From, v1alpha2.ClusterNetworkPolicyIngressPeer{Namespaces: peer.Namespaces, Pods: peer.Pods})
				}
				p.Spec.Ingress = append(p.Spec.Ingress, one)
			}
		}
		if n < len(to) {
			for _, r := range to[n] {
				p.Spec.Egress = append(p.Spec.Egress, v1alpha2.ClusterNetworkPolicyEgressRule{Name: r.name, Action: r.action, To: r.peers, Protocols: r.protocols})
			}
		}
		out = append(out, p)
	}
	return out
}

// rename an object that has another's name.
func (k *onward) rename(o v3.Object) {
	if k.names == nil {
		k.names = map[v3.Ref]bool{}
		for _, t := range k.tiers {
			for _, e := range t.entries {
				if e.stays != nil || e.clustered != nil {
					k.names[e.ref] = true
				}
			}
		}
	}
	name := o.GetName()
	for n := 2; k.names[v3.RefOf(o)]; n++ {
		o.SetName(fmt.Sprintf("%s-%d", name, n))
	}
	k.names[v3.RefOf(o)] = true
}
