package store

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	policyapi "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// What the CRD of ClusterNetworkPolicy v1alpha2 allows.
const (
	maxClusterRules    = 25 // and peers, protocols, networks, names
	maxClusterPriority = 1000
	maxRuleName        = 100
	maxPort            = 65535
)

// clusterNetworkPolicy asks what the CRD of ClusterNetworkPolicy v1alpha2 asks. raw is the spec before it was decoded: there
// alone a field that is missing differs from one that is empty, and an empty podSelector means every pod.
func (v *kubernetesValidator) clusterNetworkPolicy(at *field.Path, s *policyapi.ClusterNetworkPolicySpec, raw any) {
	v.required(at, raw)
	v.among(at.Child("tier"), string(s.Tier), string(policyapi.AdminTier), string(policyapi.BaselineTier))
	if s.Priority < 0 || s.Priority > maxClusterPriority {
		v.invalid(at.Child("priority"), s.Priority, fmt.Sprintf("must be from 0 to %d", maxClusterPriority))
	}
	v.oneOf(at.Child("subject"), map[string]bool{"namespaces": s.Subject.Namespaces != nil, "pods": s.Subject.Pods != nil})
	v.selector(at.Child("subject", "namespaces"), s.Subject.Namespaces)
	v.pods(at.Child("subject", "pods"), s.Subject.Pods)
	v.count(at.Child("ingress"), len(s.Ingress), 0)
	for i, r := range s.Ingress {
		v.ingressRule(at.Child("ingress").Index(i), &r)
	}
	v.count(at.Child("egress"), len(s.Egress), 0)
	for i, r := range s.Egress {
		v.egressRule(at.Child("egress").Index(i), &r)
	}
}

// required asks for what decoding would fill in with something that means more than nothing.
func (v *kubernetesValidator) required(at *field.Path, raw any) {
	if spec, _ := raw.(map[string]any); spec["priority"] == nil {
		v.errs = append(v.errs, field.Required(at.Child("priority"), ""))
	}
	v.podSelectors(at, raw)
}

func (v *kubernetesValidator) podSelectors(at *field.Path, raw any) {
	switch r := raw.(type) {
	case []any:
		for i, e := range r {
			v.podSelectors(at.Index(i), e)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(r)) {
			if pods, ok := r[key].(map[string]any); ok && key == "pods" && pods["podSelector"] == nil {
				v.errs = append(v.errs, field.Required(at.Child("pods", "podSelector"), "{} selects every pod"))
			}
			v.podSelectors(at.Child(key), r[key])
		}
	}
}

func (v *kubernetesValidator) ingressRule(at *field.Path, r *policyapi.ClusterNetworkPolicyIngressRule) {
	v.ruleHead(at, r.Name, r.Action)
	v.count(at.Child("from"), len(r.From), 1)
	for i, p := range r.From {
		at := at.Child("from").Index(i)
		v.oneOf(at, map[string]bool{"namespaces": p.Namespaces != nil, "pods": p.Pods != nil})
		v.selector(at.Child("namespaces"), p.Namespaces)
		v.pods(at.Child("pods"), p.Pods)
	}
	v.protocols(at.Child("protocols"), r.Protocols)
}

func (v *kubernetesValidator) egressRule(at *field.Path, r *policyapi.ClusterNetworkPolicyEgressRule) {
	v.ruleHead(at, r.Name, r.Action)
	v.count(at.Child("to"), len(r.To), 1)
	outside := false
	for i, p := range r.To {
		v.egressPeer(at.Child("to").Index(i), &p)
		outside = outside || p.Nodes != nil || p.Networks != nil || p.DomainNames != nil
	}
	v.protocols(at.Child("protocols"), r.Protocols)
	named := func(p policyapi.ClusterNetworkPolicyProtocol) bool { return p.DestinationNamedPort != "" }
	if outside && slices.ContainsFunc(r.Protocols, named) {
		v.errs = append(v.errs, field.Forbidden(at.Child("protocols"), "networks, nodes and domainNames have no named ports"))
	}
}

func (v *kubernetesValidator) egressPeer(at *field.Path, p *policyapi.ClusterNetworkPolicyEgressPeer) {
	v.oneOf(at, map[string]bool{"namespaces": p.Namespaces != nil, "pods": p.Pods != nil, "nodes": p.Nodes != nil,
		"networks": p.Networks != nil, "domainNames": p.DomainNames != nil})
	v.selector(at.Child("namespaces"), p.Namespaces)
	v.pods(at.Child("pods"), p.Pods)
	v.selector(at.Child("nodes"), p.Nodes)
	if p.Networks != nil {
		v.count(at.Child("networks"), len(p.Networks), 1)
	}
	for i, n := range p.Networks {
		if _, err := netip.ParsePrefix(string(n)); err != nil {
			v.invalid(at.Child("networks").Index(i), n, "is not a network in CIDR form, e.g. 10.0.0.0/8")
		}
	}
	if p.DomainNames != nil {
		v.count(at.Child("domainNames"), len(p.DomainNames), 1)
	}
}

func (v *kubernetesValidator) ruleHead(at *field.Path, name string, action policyapi.ClusterNetworkPolicyRuleAction) {
	if len(name) > maxRuleName {
		v.errs = append(v.errs, field.TooLong(at.Child("name"), name, maxRuleName))
	}
	v.among(at.Child("action"), string(action), string(policyapi.ClusterNetworkPolicyRuleActionAccept),
		string(policyapi.ClusterNetworkPolicyRuleActionDeny), string(policyapi.ClusterNetworkPolicyRuleActionPass))
}

func (v *kubernetesValidator) protocols(at *field.Path, all []policyapi.ClusterNetworkPolicyProtocol) {
	if all != nil {
		v.count(at, len(all), 1)
	}
	for i, p := range all {
		at := at.Index(i)
		v.oneOf(at, map[string]bool{"tcp": p.TCP != nil, "udp": p.UDP != nil, "sctp": p.SCTP != nil, "destinationNamedPort": p.DestinationNamedPort != ""})
		switch {
		case p.TCP != nil:
			v.destinationPort(at.Child("tcp", "destinationPort"), p.TCP.DestinationPort)
		case p.UDP != nil:
			v.destinationPort(at.Child("udp", "destinationPort"), p.UDP.DestinationPort)
		case p.SCTP != nil:
			v.destinationPort(at.Child("sctp", "destinationPort"), p.SCTP.DestinationPort)
		}
	}
}

func (v *kubernetesValidator) destinationPort(at *field.Path, p *policyapi.Port) {
	if p == nil {
		v.errs = append(v.errs, field.Required(at, "a protocol needs a port"))
		return
	}
	v.oneOf(at, map[string]bool{"number": p.Number != 0, "range": p.Range != nil})
	if p.Number < 0 || p.Number > maxPort {
		v.invalid(at.Child("number"), p.Number, fmt.Sprintf("must be from 1 to %d", maxPort))
	}
	if r := p.Range; r != nil && (r.Start < 1 || r.End > maxPort || r.Start >= r.End) {
		v.invalid(at.Child("range"), fmt.Sprintf("%d-%d", r.Start, r.End), fmt.Sprintf("must be within 1 and %d, and start below end", maxPort))
	}
}

func (v *kubernetesValidator) pods(at *field.Path, p *policyapi.NamespacedPod) {
	if p != nil {
		v.selector(at.Child("namespaceSelector"), &p.NamespaceSelector)
		v.selector(at.Child("podSelector"), &p.PodSelector)
	}
}

func (v *kubernetesValidator) selector(at *field.Path, s *metav1.LabelSelector) {
	v.errs = append(v.errs, metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, at)...)
}

func (v *kubernetesValidator) among(at *field.Path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		v.errs = append(v.errs, field.NotSupported(at, value, allowed))
	}
}

// oneOf asks that just one of the fields is there.
func (v *kubernetesValidator) oneOf(at *field.Path, there map[string]bool) {
	n := 0
	for _, yes := range there {
		if yes {
			n++
		}
	}
	if n != 1 {
		v.invalid(at, field.OmitValueType{}, fmt.Sprintf("needs just one of %q", slices.Sorted(maps.Keys(there))))
	}
}

func (v *kubernetesValidator) count(at *field.Path, n, least int) {
	switch {
	case n < least:
		v.errs = append(v.errs, field.Required(at, "must not be empty"))
	case n > maxClusterRules:
		v.errs = append(v.errs, field.TooMany(at, n, maxClusterRules))
	}
}
