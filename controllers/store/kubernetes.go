package store

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	policyapi "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// validateKubernetes asks of Kubernetes objects what an API server would have asked, as far as policy depends on it. u is the
// object before it was decoded.
func validateKubernetes(obj client.Object, u *unstructured.Unstructured) field.ErrorList {
	v := &kubernetesValidator{}
	spec := field.NewPath("spec")
	switch o := obj.(type) {
	case *networkingv1.NetworkPolicy:
		v.networkPolicy(spec, &o.Spec)
	case *policyapi.ClusterNetworkPolicy:
		v.clusterNetworkPolicy(spec, &o.Spec, u.Object["spec"])
	case *corev1.Pod:
		v.pod(o)
	case *discoveryv1.EndpointSlice:
		v.endpointSlice(o)
	case *corev1.Node:
		for i, a := range o.Status.Addresses {
			if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
				v.addr(field.NewPath("status", "addresses").Index(i).Child("address"), a.Address)
			}
		}
	}
	return v.errs
}

type kubernetesValidator struct{ errs field.ErrorList }

func (v *kubernetesValidator) invalid(at *field.Path, value any, reason string) {
	v.errs = append(v.errs, field.Invalid(at, value, reason))
}

func (v *kubernetesValidator) addr(at *field.Path, text string) {
	if _, err := netip.ParseAddr(text); err != nil {
		v.invalid(at, text, "is not an IP address")
	}
}

func (v *kubernetesValidator) pod(o *corev1.Pod) {
	for i, ip := range o.Status.PodIPs {
		v.addr(field.NewPath("status", "podIPs").Index(i).Child("ip"), ip.IP)
	}
	if o.Status.PodIP != "" {
		v.addr(field.NewPath("status", "podIP"), o.Status.PodIP)
	}
}

func (v *kubernetesValidator) endpointSlice(o *discoveryv1.EndpointSlice) {
	if o.AddressType == discoveryv1.AddressTypeFQDN {
		return
	}
	v.among(field.NewPath("addressType"), string(o.AddressType), string(discoveryv1.AddressTypeIPv4), string(discoveryv1.AddressTypeIPv6),
		string(discoveryv1.AddressTypeFQDN))
	for i, e := range o.Endpoints {
		for j, text := range e.Addresses {
			at := field.NewPath("endpoints").Index(i).Child("addresses").Index(j)
			addr, err := netip.ParseAddr(text)
			if err != nil || addr.Is4() != (o.AddressType == discoveryv1.AddressTypeIPv4) {
				v.invalid(at, text, "is not an address of type "+string(o.AddressType))
			}
		}
	}
}

func (v *kubernetesValidator) networkPolicy(at *field.Path, s *networkingv1.NetworkPolicySpec) {
	v.errs = append(v.errs, metav1validation.ValidateLabelSelector(&s.PodSelector, metav1validation.LabelSelectorValidationOptions{}, at.Child("podSelector"))...)
	for i, r := range s.Ingress {
		v.rule(at.Child("ingress").Index(i), "from", r.From, r.Ports)
	}
	for i, r := range s.Egress {
		v.rule(at.Child("egress").Index(i), "to", r.To, r.Ports)
	}
	if len(s.PolicyTypes) > 2 {
		v.errs = append(v.errs, field.TooMany(at.Child("policyTypes"), len(s.PolicyTypes), 2))
	}
	for i, t := range s.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			v.errs = append(v.errs, field.NotSupported(at.Child("policyTypes").Index(i), t,
				[]networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}))
		}
	}
}

func (v *kubernetesValidator) rule(at *field.Path, peersField string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
	for i, p := range peers {
		v.peer(at.Child(peersField).Index(i), &p)
	}
	for i, p := range ports {
		v.port(at.Child("ports").Index(i), &p)
	}
}

func (v *kubernetesValidator) peer(at *field.Path, p *networkingv1.NetworkPolicyPeer) {
	options := metav1validation.LabelSelectorValidationOptions{}
	switch {
	case p.IPBlock != nil && (p.PodSelector != nil || p.NamespaceSelector != nil):
		v.errs = append(v.errs, field.Forbidden(at, "ipBlock goes with neither podSelector nor namespaceSelector"))
	case p.IPBlock != nil:
		v.ipBlock(at.Child("ipBlock"), p.IPBlock)
	case p.PodSelector == nil && p.NamespaceSelector == nil:
		v.errs = append(v.errs, field.Required(at, "a peer needs ipBlock, podSelector or namespaceSelector"))
	}
	if p.PodSelector != nil {
		v.errs = append(v.errs, metav1validation.ValidateLabelSelector(p.PodSelector, options, at.Child("podSelector"))...)
	}
	if p.NamespaceSelector != nil {
		v.errs = append(v.errs, metav1validation.ValidateLabelSelector(p.NamespaceSelector, options, at.Child("namespaceSelector"))...)
	}
}

func (v *kubernetesValidator) ipBlock(at *field.Path, b *networkingv1.IPBlock) {
	outer, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		v.invalid(at.Child("cidr"), b.CIDR, "is not a network in CIDR form, e.g. 10.0.0.0/8")
		return
	}
	for i, e := range b.Except {
		inner, err := netip.ParsePrefix(e)
		switch {
		case err != nil:
			v.invalid(at.Child("except").Index(i), e, "is not a network in CIDR form, e.g. 10.1.0.0/16")
		case inner.Bits() <= outer.Bits() || !outer.Masked().Contains(inner.Addr()):
			v.invalid(at.Child("except").Index(i), e, "must lie within "+b.CIDR)
		}
	}
}

func (v *kubernetesValidator) port(at *field.Path, p *networkingv1.NetworkPolicyPort) {
	if p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP && *p.Protocol != corev1.ProtocolUDP && *p.Protocol != corev1.ProtocolSCTP {
		v.errs = append(v.errs, field.NotSupported(at.Child("protocol"), *p.Protocol, []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}))
	}
	var messages []string
	switch {
	case p.Port == nil:
	case p.Port.Type == intstr.Int:
		messages = validation.IsValidPortNum(p.Port.IntValue())
	default:
		messages = validation.IsValidPortName(p.Port.StrVal)
	}
	for _, m := range messages {
		v.invalid(at.Child("port"), p.Port.String(), m)
	}
	if p.EndPort == nil {
		return
	}
	switch end := *p.EndPort; {
	case p.Port == nil || p.Port.Type == intstr.String:
		v.errs = append(v.errs, field.Forbidden(at.Child("endPort"), "endPort needs a numeric port"))
	case int32(p.Port.IntValue()) > end || end > 65535:
		v.invalid(at.Child("endPort"), end, fmt.Sprintf("must be from %d, the port, to 65535", p.Port.IntValue()))
	}
}
