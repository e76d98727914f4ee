package v3

import (
	"errors"
	"net/netip"
	"regexp"

	apimeta "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// theOne refuses an object that nobody would ask for.
func (v *validator) theOne(name string) {
	if name != DefaultConfiguration {
		v.invalid(field.NewPath("metadata", "name"), name, "there is but one KubeControllersConfiguration, of the name default")
	}
}

func (v *validator) controllers(at *field.Path, s *KubeControllersConfigurationSpec) {
	v.period(at.Child("etcdV3CompactionPeriod"), s.EtcdV3CompactionPeriod)
	at = at.Child("controllers")
	for _, c := range []struct {
		name   string
		config *PeriodicControllerConfig
	}{
		{"policy", s.Controllers.Policy}, {"workloadEndpoint", s.Controllers.WorkloadEndpoint},
		{"serviceAccount", s.Controllers.ServiceAccount}, {"namespace", s.Controllers.Namespace},
	} {
		if c.config != nil {
			v.period(at.Child(c.name, "reconcilerPeriod"), c.config.ReconcilerPeriod)
		}
	}
	if n := s.Controllers.Node; n != nil {
		at := at.Child("node")
		v.period(at.Child("reconcilerPeriod"), n.ReconcilerPeriod)
		v.period(at.Child("leakGracePeriod"), n.LeakGracePeriod)
		if n.HostEndpoint != nil {
			v.templates(at.Child("hostEndpoint", "templates"), n.HostEndpoint.Templates)
		}
	}
}

// templates have names of their own: host endpoints are called by them.
func (v *validator) templates(at *field.Path, all []Template) {
	seen := map[string]bool{}
	for i := range all {
		t, at := &all[i], at.Index(i)
		if seen[t.GenerateName] {
			v.errs = append(v.errs, field.Duplicate(at.Child("generateName"), t.GenerateName))
		}
		seen[t.GenerateName] = true
		v.template(at, t)
	}
}

func (v *validator) period(at *field.Path, p *Period) {
	if p != nil {
		_, err := p.Parse()
		v.check(at, *p, err)
	}
}

func (v *validator) template(at *field.Path, t *Template) {
	for _, reason := range validation.IsDNS1123Subdomain(t.GenerateName) {
		v.invalid(at.Child("generateName"), t.GenerateName, reason)
	}
	if len(t.InterfaceCIDRs) == 0 && t.InterfacePattern == "" {
		v.errs = append(v.errs, field.Required(at.Child("interfaceCIDRs"), "at least one of interfaceCIDRs or interfacePattern must be specified"))
	}
	for i, text := range t.InterfaceCIDRs {
		_, err := ParseInterfaceCIDR(text)
		v.check(at.Child("interfaceCIDRs").Index(i), text, err)
	}
	_, err := regexp.Compile(t.InterfacePattern)
	v.check(at.Child("interfacePattern"), t.InterfacePattern, err)
	v.selector(at.Child("nodeSelector"), t.NodeSelector)
	v.errs = append(v.errs, metav1validation.ValidateLabels(t.Labels, at.Child("labels"))...)
	v.errs = append(v.errs, apimeta.ValidateAnnotations(t.Annotations, at.Child("annotations"))...)
}

// ParseInterfaceCIDR reads a network of a Template. Bits behind its prefix length do not count, as Calico has it.
func ParseInterfaceCIDR(text string) (netip.Prefix, error) {
	net, err := netip.ParsePrefix(text)
	if err != nil || net.Addr().Is4In6() {
		return netip.Prefix{}, errors.New("expected a network in CIDR form, such as 10.0.0.0/8 or fd00::/64")
	}
	return net.Masked(), nil
}
