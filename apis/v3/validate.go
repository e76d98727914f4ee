package v3

import (
	"net/netip"
	"reflect"
	"regexp"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tierwall/tierwall/apis/selector"
)

// Validate says what the schema cannot: selectors, ports and protocols, networks, names (contract §1.2, §3, §10.3). It asks for
// an object that the schema let through and that Default has seen. An empty list means that the object is sound.
func Validate(obj metav1.Object) field.ErrorList {
	v := &validator{}
	spec := field.NewPath("spec")
	switch o := obj.(type) {
	case *NetworkPolicy:
		v.policyName(o.Name, namespacedNames)
		v.policy(spec, &o.Spec.PolicySpec, false)
	case *GlobalNetworkPolicy:
		v.policyName(o.Name, globalNames)
		v.global(spec, &o.Spec)
	case *StagedNetworkPolicy:
		v.policyName(o.Name, namespacedNames)
		v.policy(spec, &o.Spec.PolicySpec, false)
		v.staged(spec, o.Spec.StagedAction, o.Spec, StagedNetworkPolicySpec{StagedAction: StagedActionDelete,
			NetworkPolicySpec: NetworkPolicySpec{PolicySpec{Tier: o.Spec.Tier}}})
	case *StagedGlobalNetworkPolicy:
		v.policyName(o.Name, globalNames)
		v.global(spec, &o.Spec.GlobalNetworkPolicySpec)
		v.staged(spec, o.Spec.StagedAction, o.Spec, StagedGlobalNetworkPolicySpec{StagedAction: StagedActionDelete,
			GlobalNetworkPolicySpec: GlobalNetworkPolicySpec{PolicySpec: PolicySpec{Tier: o.Spec.Tier}}})
	case *StagedKubernetesNetworkPolicy:
		v.staged(spec, o.Spec.StagedAction, o.Spec, StagedKubernetesNetworkPolicySpec{StagedAction: StagedActionDelete})
		v.kubernetes(spec, &o.Spec)
	case *GlobalNetworkSet:
		v.networkSet(o.Labels, o.Spec.Nets)
	case *NetworkSet:
		v.networkSet(o.Labels, o.Spec.Nets)
	case *HostEndpoint:
		v.hostEndpoint(spec, &o.Spec)
	case *WorkloadEndpoint:
		v.workloadEndpoint(spec, &o.Spec)
	case *Profile:
		v.labelsToApply(spec.Child("labelsToApply"), o.Spec.LabelsToApply)
		v.rules(spec.Child("ingress"), o.Spec.Ingress, ruleContext{ingress: true, global: true})
		v.rules(spec.Child("egress"), o.Spec.Egress, ruleContext{global: true})
	case *FelixConfiguration:
		v.felix(spec, &o.Spec)
	case *KubeControllersConfiguration:
		v.theOne(o.Name)
		v.controllers(spec, &o.Spec)
	}
	return v.errs
}

// validator gathers what is wrong with one object.
type validator struct{ errs field.ErrorList }

func (v *validator) invalid(at *field.Path, value any, reason string) {
	v.errs = append(v.errs, field.Invalid(at, value, reason))
}

func (v *validator) check(at *field.Path, value any, err error) {
	if err != nil {
		v.invalid(at, value, err.Error())
	}
}

const label = `[a-z0-9]([-a-z0-9]*[a-z0-9])?`

var (
	globalNames     = regexp.MustCompile(`^` + label + `(\.` + label + `)?$`)
	namespacedNames = regexp.MustCompile(globalNames.String() + `|^(knp|ossg)\.default\.` + label + `(\.` + label + `)*$`)
)

// policyName is one label or two with a dot between; a namespaced policy may also be called as Calico calls those that it
// derives (contract §1.2).
func (v *validator) policyName(name string, may *regexp.Regexp) {
	if !may.MatchString(name) {
		v.invalid(field.NewPath("metadata", "name"), name,
			"a policy's name is a label, or two with a dot between: lower case letters, digits and '-'")
	}
}

func (v *validator) global(at *field.Path, s *GlobalNetworkPolicySpec) {
	v.policy(at, &s.PolicySpec, true)
	v.selector(at.Child("namespaceSelector"), s.NamespaceSelector)
}

func (v *validator) policy(at *field.Path, s *PolicySpec, global bool) {
	v.selector(at.Child("selector"), s.Selector)
	v.selector(at.Child("serviceAccountSelector"), s.ServiceAccountSelector)
	v.rules(at.Child("ingress"), s.Ingress, ruleContext{ingress: true, global: global})
	v.rules(at.Child("egress"), s.Egress, ruleContext{global: global})
}

// staged holds that a policy which stages a deletion says nothing else (contract §1.6).
func (v *validator) staged(at *field.Path, action StagedAction, have, only any) {
	if action == StagedActionDelete && !reflect.DeepEqual(have, only) {
		v.invalid(at, action, "Spec fields, except Tier, should all be zero-value if stagedAction is Delete")
	}
}

func (v *validator) selector(at *field.Path, text string) *selector.Selector {
	s, err := selector.Parse(text)
	v.check(at, text, err)
	return s
}

func (v *validator) networkSet(labels map[string]string, nets []string) {
	if _, ok := labels["projectcalico.org/namespace"]; ok {
		v.invalid(field.NewPath("metadata", "labels"), "projectcalico.org/namespace", "projectcalico.org/namespace is not a valid label name")
	}
	for i, n := range nets {
		if _, err := netip.ParsePrefix(n); err != nil {
			v.address(field.NewPath("spec", "nets").Index(i), n, "expected a network in CIDR form or an address")
		} else {
			v.plain(field.NewPath("spec", "nets").Index(i), n)
		}
	}
}

func (v *validator) address(at *field.Path, text, reason string) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		v.invalid(at, text, reason)
	}
}

// plain refuses the IPv4 addresses that are written as IPv6: no packet carries one.
func (v *validator) plain(at *field.Path, text string) {
	if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4In6() {
		v.invalid(at, text, "an IPv4 network must be written as IPv4")
	}
}

// network is a CIDR without host bits.
func (v *validator) network(at *field.Path, text string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		v.invalid(at, text, "expected a network in CIDR form, such as 10.0.0.0/8 or fd00::/64 (invalid CIDR)")
	case p.Addr().Is4In6():
		v.plain(at, text)
	case p != p.Masked():
		v.invalid(at, text, "has bits behind its prefix length; did you mean "+p.Masked().String()+"?")
	default:
		return p, true
	}
	return p, false
}
