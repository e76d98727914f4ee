package v3

import (
	"fmt"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// kubernetes asks of a staged Kubernetes policy what the API server would ask of the policy that it stages and the schema does
// not: a policy that cannot be taken over is not worth evaluating.
func (v *validator) kubernetes(at *field.Path, s *StagedKubernetesNetworkPolicySpec) {
	v.labels(at.Child("podSelector"), &s.PodSelector)
	for i, r := range s.Ingress {
		v.kubernetesRule(at.Child("ingress").Index(i), "from", r.From, r.Ports)
	}
	for i, r := range s.Egress {
		v.kubernetesRule(at.Child("egress").Index(i), "to", r.To, r.Ports)
	}
}

func (v *validator) kubernetesRule(at *field.Path, peersField string, peers []networkingv1.NetworkPolicyPeer, ports []KubernetesPort) {
	for i := range peers {
		v.peer(at.Child(peersField).Index(i), &peers[i])
	}
	for i := range ports {
		v.kubernetesPort(at.Child("ports").Index(i), &ports[i])
	}
}

func (v *validator) labels(at *field.Path, s *metav1.LabelSelector) {
	v.errs = append(v.errs, metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, at)...)
}

func (v *validator) peer(at *field.Path, p *networkingv1.NetworkPolicyPeer) {
	selects := p.PodSelector != nil || p.NamespaceSelector != nil
	switch {
	case p.IPBlock != nil && selects:
		v.errs = append(v.errs, field.Forbidden(at, "ipBlock goes with neither podSelector nor namespaceSelector"))
	case p.IPBlock != nil:
		v.ipBlock(at.Child("ipBlock"), p.IPBlock)
	case !selects:
		v.errs = append(v.errs, field.Required(at, "a peer needs ipBlock, podSelector or namespaceSelector"))
	}
	if p.PodSelector != nil {
		v.labels(at.Child("podSelector"), p.PodSelector)
	}
	if p.NamespaceSelector != nil {
		v.labels(at.Child("namespaceSelector"), p.NamespaceSelector)
	}
}

// ipBlock may have host bits, as Kubernetes' own may.
func (v *validator) ipBlock(at *field.Path, b *networkingv1.IPBlock) {
	outer, ok := v.block(at.Child("cidr"), b.CIDR)
	if !ok {
		return
	}
	for i, text := range b.Except {
		at := at.Child("except").Index(i)
		if inner, ok := v.block(at, text); ok && (inner.Bits() <= outer.Bits() || !outer.Contains(inner.Addr())) {
			v.invalid(at, text, "must lie within "+b.CIDR+" and be smaller")
		}
	}
}

func (v *validator) block(at *field.Path, text string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		v.invalid(at, text, "expected a network in CIDR form, such as 10.0.0.0/8 or fd00::/64")
		return p, false
	}
	return p.Masked(), true
}

func (v *validator) kubernetesPort(at *field.Path, p *KubernetesPort) {
	numeric := p.Port != nil && p.Port.Type == intstr.Int
	if p.Port != nil && !numeric {
		for _, reason := range validation.IsValidPortName(p.Port.StrVal) {
			v.invalid(at.Child("port"), p.Port.StrVal, reason)
		}
	}
	switch {
	case p.EndPort == nil:
	case !numeric:
		v.errs = append(v.errs, field.Forbidden(at.Child("endPort"), "endPort needs a numeric port"))
	case *p.EndPort < p.Port.IntVal:
		v.invalid(at.Child("endPort"), *p.EndPort, fmt.Sprintf("must not be less than the port, %d", p.Port.IntVal))
	}
}
