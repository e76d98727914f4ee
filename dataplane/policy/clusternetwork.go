package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyapi "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/tierwall/tierwall/apis/selector"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

// The words of ClusterNetworkPolicy in Calico's (contract §4.8).
var (
	clusterTiers   = map[policyapi.Tier]string{policyapi.AdminTier: "kube-admin", policyapi.BaselineTier: "kube-baseline"}
	clusterActions = map[policyapi.ClusterNetworkPolicyRuleAction]Action{
		policyapi.ClusterNetworkPolicyRuleActionAccept: Allow,
		policyapi.ClusterNetworkPolicyRuleActionDeny:   Deny,
		policyapi.ClusterNetworkPolicyRuleActionPass:   Pass,
	}
)

// setClusterNetwork takes in a policy.networking.k8s.io ClusterNetworkPolicy. It governs a direction only if it has rules for
// it (contract §4.8). Without a tier that we know it has no place in the order, and so no say.
func (x *Index) setClusterNetwork(ref v3.Ref, o *policyapi.ClusterNetworkPolicy) error {
	tier, ok := clusterTiers[o.Spec.Tier]
	if !ok {
		return fmt.Errorf("spec.tier: %q is neither Admin nor Baseline, so the policy governs nothing", o.Spec.Tier)
	}
	b := &book{ref: ref, tier: tier, order: float64(o.Spec.Priority), sets: map[string]setSpec{}}
	b.policy = Policy{Ref: ref, Tier: tier}
	b.ingress, b.egress = len(o.Spec.Ingress) > 0, len(o.Spec.Egress) > 0
	c := clusterNetwork{kubernetes{compiler{ref: ref, sets: b.sets}}}
	var errs [3]error
	b.subject, errs[0] = c.subject(&o.Spec.Subject)
	b.policy.Ingress, errs[1] = c.rules("spec.ingress", clusterIngress(o.Spec.Ingress), Ingress)
	b.policy.Egress, errs[2] = c.rules("spec.egress", clusterEgress(o.Spec.Egress), Egress)
	x.books[ref] = b
	return errors.Join(append(errs[:], b.bounded())...)
}

// clusterRule is a rule of either direction: an ingress peer is an egress peer that is never outside the cluster.
type clusterRule struct {
	name      string
	action    policyapi.ClusterNetworkPolicyRuleAction
	peers     []policyapi.ClusterNetworkPolicyEgressPeer
	protocols []policyapi.ClusterNetworkPolicyProtocol
}

func clusterIngress(in []policyapi.ClusterNetworkPolicyIngressRule) []clusterRule {
	out := make([]clusterRule, len(in))
	for i, r := range in {
		out[i] = clusterRule{name: r.Name, action: r.Action, protocols: r.Protocols}
		for _, p := range r.From {
			out[i].peers = append(out[i].peers, policyapi.ClusterNetworkPolicyEgressPeer{Namespaces: p.Namespaces, Pods: p.Pods})
		}
	}
	return out
}

func clusterEgress(in []policyapi.ClusterNetworkPolicyEgressRule) []clusterRule {
	out := make([]clusterRule, len(in))
	for i, r := range in {
		out[i] = clusterRule{r.Name, r.Action, r.To, r.Protocols}
	}
	return out
}

// clusterNetwork compiles the rules of a ClusterNetworkPolicy: one Rule for each peer and protocol, all with the index of the
// rule that the user wrote.
type clusterNetwork struct{ kubernetes }

// rules fail closed (contract §4.8): an Accept rule keeps the peers and protocols that are understood, for each of them is an
// alternative; any other rule of which something is not understood denies everything at its place.
func (c *clusterNetwork) rules(field string, in []clusterRule, d Direction) (out []Rule, err error) {
	var errs []error
	for i := range in {
		rules, err := c.rule(fmt.Sprintf("%s[%d]", field, i), &in[i], d)
		errs = append(errs, err)
		if err != nil && clusterActions[in[i].action] != Allow {
			why := strings.ReplaceAll(err.Error(), "\n", "; ")
			rules = []Rule{{Action: Deny, Families: AnyFamily, Note: fmt.Sprintf("rule %d is not understood (%s), so it denies", i, why)}}
		}
		for _, r := range rules {
			r.Index, r.Name = i, in[i].name
			out = append(out, r)
		}
	}
	return out, errors.Join(errs...)
}

func (c *clusterNetwork) rule(at string, in *clusterRule, d Direction) (out []Rule, err error) {
	action, ok := clusterActions[in.action]
	if !ok {
		return nil, fmt.Errorf("%s.action: %q is none of Accept, Deny and Pass", at, in.action)
	}
	peers, perr := c.peers(at+"."+farField[d], in.peers)
	lists, lerr := c.protocols(at+".protocols", in.protocols)
	errs := []error{perr, lerr}
	for _, l := range lists {
		for _, p := range peers {
			if p.portless && len(l.names) > 0 {
				errs = append(errs, fmt.Errorf("%s.protocols: networks and nodes have no named ports", at))
				continue
			}
			r := Rule{Action: action, Families: p.families, Proto: l.proto}
			if d == Ingress {
				r.Src = p.side
			} else {
				r.Dst = p.side
			}
			r.Dst.Ports, r.Dst.PortSets = l.ranges, c.named(l.names, l.proto, nil)
			out = append(out, r)
		}
	}
	return out, errors.Join(errs...)
}

// clusterPeer is one peer, resolved.
type clusterPeer struct {
	side     Side
	families Families
	portless bool // nobody names ports of it
}

// peers must be there: a rule for nobody would be one for everybody.
func (c *clusterNetwork) peers(at string, in []policyapi.ClusterNetworkPolicyEgressPeer) (out []clusterPeer, err error) {
	if len(in) == 0 {
		return nil, fmt.Errorf("%s: needs a peer", at)
	}
	var errs []error
	for i := range in {
		p, err := c.peer(fmt.Sprintf("%s[%d]", at, i), &in[i])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, p)
	}
	return out, errors.Join(errs...)
}

// peer is just one of its fields. With none it was written for a later version of the API than ours.
func (c *clusterNetwork) peer(at string, in *policyapi.ClusterNetworkPolicyEgressPeer) (clusterPeer, error) {
	n := count(in.Namespaces != nil, in.Pods != nil, in.Nodes != nil, in.Networks != nil, in.DomainNames != nil)
	p := clusterPeer{families: AnyFamily}
	switch {
	case n != 1:
		return p, fmt.Errorf("%s: needs just one of namespaces, pods, nodes, networks and domainNames", at)
	case in.DomainNames != nil:
		return p, fmt.Errorf("%s.domainNames: a packet has no name, only addresses", at)
	case in.Networks != nil:
		return c.networks(at+".networks", in.Networks)
	case in.Nodes != nil:
		return c.nodes(at+".nodes", in.Nodes)
	}
	sel, err := c.podsOf(at, in.Namespaces, in.Pods)
	if err != nil {
		return p, err
	}
	p.side.Sets = []string{c.selected(sel)}
	return p, nil
}

func count(there ...bool) (n int) {
	for _, yes := range there {
		if yes {
			n++
		}
	}
	return n
}

func (c *clusterNetwork) networks(at string, in []policyapi.CIDR) (p clusterPeer, err error) {
	if len(in) == 0 {
		return p, fmt.Errorf("%s: needs a network", at)
	}
	var texts []string
	for _, n := range in {
		texts = append(texts, string(n))
	}
	p = clusterPeer{families: AnyFamily, portless: true}
	if p.side.Nets, err = c.nets(texts, &p.families); err != nil {
		return p, fmt.Errorf("%s: %w", at, err)
	}
	return p, nil
}

// nodes are a peer by their own addresses, which are not those of host endpoints.
func (c *clusterNetwork) nodes(at string, in *metav1.LabelSelector) (clusterPeer, error) {
	p := clusterPeer{families: AnyFamily, portless: true}
	sel, err := validSelector(at, in)
	if err != nil {
		return p, err
	}
	if sel == nil {
		sel = selector.All()
	}
	about := "nodes " + sel.String()
	p.side.Sets = []string{c.add(setSpec{id: hashID("nodes:", about), about: about, nodes: sel})}
	return p, nil
}

func (c *clusterNetwork) subject(in *policyapi.ClusterNetworkPolicySubject) (*selector.Selector, error) {
	if count(in.Namespaces != nil, in.Pods != nil) != 1 {
		return nil, errors.New("spec.subject: needs just one of namespaces and pods")
	}
	return c.podsOf("spec.subject", in.Namespaces, in.Pods)
}

// podsOf selects the pods of namespaces, or some of them. Pods only: neither a host endpoint nor a network set is one, though
// "no namespace with such a label" would be true of both.
func (c *clusterNetwork) podsOf(at string, all *metav1.LabelSelector, some *policyapi.NamespacedPod) (*selector.Selector, error) {
	own, namespaces, field := &metav1.LabelSelector{}, all, at+".namespaces"
	if some != nil {
		own, namespaces, field = &some.PodSelector, &some.NamespaceSelector, at+".pods.namespaceSelector"
	}
	if _, err := validSelector(at+".pods.podSelector", own); err != nil {
		return nil, err
	}
	in, err := validSelector(field, namespaces)
	if err != nil {
		return nil, err
	}
	pods, err := c.pods(own)
	return selector.And(pods, ofNamespaces(selector.And(in, selector.All()))), err
}

// validSelector is nil for the empty selector. It refuses what is no label or lacks its values: such a criterion would match
// nothing or everything, and a Deny that matches nothing is open.
func validSelector(at string, s *metav1.LabelSelector) (*selector.Selector, error) {
	if _, err := metav1.LabelSelectorAsSelector(s); err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	out, err := labelSelector(s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return out, nil
}

// protocols groups the ports by protocol, with names, which are of any protocol, as a group of their own. Protocols that are
// not given mean every protocol; a list of none is not understood.
func (c *clusterNetwork) protocols(at string, in []policyapi.ClusterNetworkPolicyProtocol) ([]portList, error) {
	switch {
	case in == nil:
		return []portList{{}}, nil
	case len(in) == 0:
		return nil, fmt.Errorf("%s: needs a protocol", at)
	}
	var lists []portList
	var errs []error
	for i := range in {
		l, err := c.protocol(fmt.Sprintf("%s[%d]", at, i), &in[i])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		lists = append(lists, l)
	}
	return grouped(lists), errors.Join(errs...)
}

// grouped joins the lists of each protocol.
func grouped(in []portList) (out []portList) {
	slices.SortStableFunc(in, func(a, b portList) int { return int(a.proto) - int(b.proto) })
	for _, l := range in {
		if n := len(out); n > 0 && out[n-1].proto == l.proto {
			l.ranges, l.names = append(out[n-1].ranges, l.ranges...), append(out[n-1].names, l.names...)
			out = out[:n-1]
		}
		l.ranges = mergePorts(l.ranges)
		out = append(out, l)
	}
	return out
}

func (c *clusterNetwork) protocol(at string, in *policyapi.ClusterNetworkPolicyProtocol) (l portList, err error) {
	if count(in.TCP != nil, in.UDP != nil, in.SCTP != nil, in.DestinationNamedPort != "") != 1 {
		return l, fmt.Errorf("%s: needs just one of tcp, udp, sctp and destinationNamedPort", at)
	}
	var port *policyapi.Port
	switch {
	case in.TCP != nil:
		l.proto, port, at = ProtoTCP, in.TCP.DestinationPort, at+".tcp"
	case in.UDP != nil:
		l.proto, port, at = ProtoUDP, in.UDP.DestinationPort, at+".udp"
	case in.SCTP != nil:
		l.proto, port, at = ProtoSCTP, in.SCTP.DestinationPort, at+".sctp"
	default:
		l.names = []string{in.DestinationNamedPort}
		return l, nil
	}
	r, err := destinationPort(port)
	if err != nil {
		return l, fmt.Errorf("%s.destinationPort: %w", at, err)
	}
	l.ranges = []PortRange{r}
	return l, nil
}

// destinationPort must be there: a protocol that asks for something else asks for what we do not know.
func destinationPort(p *policyapi.Port) (PortRange, error) {
	if p == nil || count(p.Number != 0, p.Range != nil) != 1 {
		return PortRange{}, errors.New("needs just one of number and range")
	}
	first, last := p.Number, p.Number
	if p.Range != nil {
		first, last = p.Range.Start, p.Range.End
	}
	if first < 1 || last > 65535 || last < first {
		return PortRange{}, fmt.Errorf("%d to %d is not a range of ports", first, last)
	}
	return PortRange{uint16(first), uint16(last)}, nil
}
