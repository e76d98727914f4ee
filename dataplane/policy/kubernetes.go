package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tierwall/tierwall/apis/selector"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

const kubernetesOrder = 1000 // of every Kubernetes NetworkPolicy in tier default (contract §4.8)

// setKubernetes takes in a networking.k8s.io NetworkPolicy. It has Allow rules only, so what cannot be understood
// matches nothing.
func (x *Index) setKubernetes(ref v3.Ref, o *networkingv1.NetworkPolicy) (err error) {
	x.books[ref], err = kubernetesBook(ref, o)
	return err
}

func kubernetesBook(ref v3.Ref, o *networkingv1.NetworkPolicy) (*book, error) {
	b := &book{ref: ref, tier: "default", order: kubernetesOrder, sets: map[string]setSpec{}}
	b.policy = Policy{Ref: ref, Tier: b.tier}
	b.ingress, b.egress = kubernetesTypes(&o.Spec)
	k := kubernetes{compiler{ref: ref, sets: b.sets}}
	subject, err := k.pods(&o.Spec.PodSelector)
	if err == nil {
		b.subject = selector.And(subject, inNamespace(ref.Namespace))
	} else {
		err = fmt.Errorf("spec.podSelector: %w", err)
	}
	errs := []error{err}
	for i, r := range o.Spec.Ingress {
		rules, err := k.rules(i, r.From, r.Ports, Ingress)
		b.policy.Ingress = append(b.policy.Ingress, rules...)
		errs = append(errs, within(fmt.Sprintf("spec.ingress[%d]", i), err))
	}
	for i, r := range o.Spec.Egress {
		rules, err := k.rules(i, r.To, r.Ports, Egress)
		b.policy.Egress = append(b.policy.Egress, rules...)
		errs = append(errs, within(fmt.Sprintf("spec.egress[%d]", i), err))
	}
	return b, some(append(errs, b.bounded()))
}

func within(field string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s.%w", field, err)
}

func kubernetesTypes(s *networkingv1.NetworkPolicySpec) (ingress, egress bool) {
	if len(s.PolicyTypes) == 0 {
		return true, len(s.Egress) > 0
	}
	return slices.Contains(s.PolicyTypes, networkingv1.PolicyTypeIngress), slices.Contains(s.PolicyTypes, networkingv1.PolicyTypeEgress)
}

// kubernetes compiles Kubernetes' rules: one Rule for each protocol and peer.
type kubernetes struct{ compiler }

func (k *kubernetes) rules(index int, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, d Direction) ([]Rule, error) {
	services, err := k.services(ports)
	errs := []error{err}
	if len(peers) == 0 {
		peers = []networkingv1.NetworkPolicyPeer{{}}
	} else if i := slices.IndexFunc(peers, emptyPeer); i >= 0 {
		errs = append(errs, fmt.Errorf("%s[%d]: names neither pods, namespaces nor addresses", farField[d], i))
		peers = slices.DeleteFunc(slices.Clone(peers), emptyPeer)
	}
	var out []Rule
	for _, s := range services {
		named := k.named(s.names, s.proto, nil)
		for i := range peers {
			r := Rule{Action: Allow, Index: index, Families: AnyFamily, Proto: s.proto}
			r.Dst.Ports, r.Dst.PortSets = s.ranges, named
			far := &r.Src
			if d == Egress {
				far = &r.Dst
			}
			if err := k.peer(&peers[i], far, &r.Families); err != nil {
				errs = append(errs, fmt.Errorf("%s[%d].%w", farField[d], i, err))
				continue
			}
			if r.Families != 0 {
				out = append(out, r)
			}
		}
	}
	return out, some(errs)
}

var farField = [...]string{Ingress: "from", Egress: "to"}

func emptyPeer(p networkingv1.NetworkPolicyPeer) bool {
	return p.PodSelector == nil && p.NamespaceSelector == nil && p.IPBlock == nil
}

// portList is all that one rule says of one protocol.
type portList struct {
	proto  uint8
	ranges []PortRange
	names  []string
	all    bool
}

// services groups ports by protocol. No ports at all means every protocol.
func (k *kubernetes) services(ports []networkingv1.NetworkPolicyPort) ([]portList, error) {
	if len(ports) == 0 {
		return []portList{{}}, nil
	}
	by := map[uint8]*portList{}
	var errs []error
	for i, p := range ports {
		if err := k.port(by, &p); err != nil {
			errs = append(errs, fmt.Errorf("ports[%d]: %w", i, err))
		}
	}
	var out []portList
	for _, l := range by {
		if l.all {
			l.ranges, l.names = nil, nil
		}
		l.ranges = mergePorts(l.ranges)
		out = append(out, *l)
	}
	slices.SortFunc(out, func(a, b portList) int { return int(a.proto) - int(b.proto) })
	return out, some(errs)
}

func (k *kubernetes) port(by map[uint8]*portList, p *networkingv1.NetworkPolicyPort) error {
	proto := uint8(ProtoTCP)
	if p.Protocol != nil {
		var err error
		if proto, err = protoOf(*p.Protocol); err != nil {
			return err
		}
	}
	entry := portList{proto: proto}
	switch {
	case p.Port == nil:
		entry.all = true
	case p.Port.StrVal != "":
		if p.EndPort != nil {
			return errors.New("endPort needs a numeric port")
		}
		entry.names = []string{p.Port.StrVal}
	default:
		last := p.Port.IntVal
		if p.EndPort != nil {
			last = *p.EndPort
		}
		if p.Port.IntVal < 1 || last > 65535 || last < p.Port.IntVal {
			return fmt.Errorf("%d to %d is not a range of ports", p.Port.IntVal, last)
		}
		entry.ranges = []PortRange{{uint16(p.Port.IntVal), uint16(last)}}
	}
	if by[proto] == nil {
		by[proto] = &portList{proto: proto}
	}
	l := by[proto]
	l.all, l.ranges, l.names = l.all || entry.all, append(l.ranges, entry.ranges...), append(l.names, entry.names...)
	return nil
}

func (k *kubernetes) peer(p *networkingv1.NetworkPolicyPeer, far *Side, f *Families) error {
	if emptyPeer(*p) {
		return nil
	}
	if p.IPBlock != nil {
		return k.ipBlock(p.IPBlock, far, f)
	}
	var pods, namespaces *selector.Selector
	var err error
	if p.PodSelector != nil {
		if pods, err = k.pods(p.PodSelector); err != nil {
			return fmt.Errorf("podSelector: %w", err)
		}
	}
	if p.NamespaceSelector != nil {
		if namespaces, err = labelSelector(p.NamespaceSelector); err != nil {
			return fmt.Errorf("namespaceSelector: %w", err)
		}
		namespaces = ofNamespaces(selector.And(namespaces, selector.All()))
	} else {
		namespaces = inNamespace(k.ref.Namespace)
	}
	far.Sets = []string{k.selected(selector.And(pods, namespaces))}
	return nil
}

func (k *kubernetes) ipBlock(b *networkingv1.IPBlock, far *Side, f *Families) error {
	block, err := parsePrefix(b.CIDR)
	if err != nil {
		return fmt.Errorf("ipBlock.cidr: %w", err)
	}
	far.Nets = []netip.Prefix{block}
	*f = FamilyOf(block.Addr())
	if far.NotNets, err = k.nets(b.Except, f); err != nil {
		return fmt.Errorf("ipBlock.except: %w", err)
	}
	for _, n := range far.NotNets {
		if n.Bits() == 0 {
			*f = 0
		}
	}
	return nil
}

// pods selects pods only: what else has labels is not Kubernetes'.
func (k *kubernetes) pods(s *metav1.LabelSelector) (*selector.Selector, error) {
	labels, err := labelSelector(s)
	return selector.And(selector.Equals(labelOrchestrator, "k8s"), labels), err
}

// labelSelector gives nil for the empty selector, which asks for nothing. matchLabels come first, sorted (contract §4.8).
func labelSelector(s *metav1.LabelSelector) (*selector.Selector, error) {
	var out []*selector.Selector
	for _, k := range sortedKeys(s.MatchLabels) {
		out = append(out, selector.Equals(k, s.MatchLabels[k]))
	}
	for i, e := range s.MatchExpressions {
		one, ok := labelOperators[e.Operator]
		if !ok {
			return nil, fmt.Errorf("matchExpressions[%d].operator: %q is none of In, NotIn, Exists and DoesNotExist", i, e.Operator)
		}
		out = append(out, one(e.Key, e.Values))
	}
	return selector.And(out...), nil
}

var labelOperators = map[metav1.LabelSelectorOperator]func(key string, values []string) *selector.Selector{
	metav1.LabelSelectorOpIn:           func(k string, v []string) *selector.Selector { return selector.In(k, v...) },
	metav1.LabelSelectorOpNotIn:        func(k string, v []string) *selector.Selector { return selector.NotIn(k, v...) },
	metav1.LabelSelectorOpExists:       func(k string, _ []string) *selector.Selector { return selector.Has(k) },
	metav1.LabelSelectorOpDoesNotExist: func(k string, _ []string) *selector.Selector { return selector.Not(selector.Has(k)) },
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, strings.Compare)
	return keys
}
