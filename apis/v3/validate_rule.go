package v3

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	apimeta "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ruleContext is where a rule stands.
type ruleContext struct {
	ingress bool
	global  bool // in an object of no namespace
}

func (v *validator) rules(at *field.Path, rules []Rule, c ruleContext) {
	for i := range rules {
		v.rule(at.Index(i), &rules[i], c)
	}
}

func (v *validator) rule(at *field.Path, r *Rule, c ruleContext) {
	proto := v.protocol(at.Child("protocol"), r.Protocol)
	v.protocol(at.Child("notProtocol"), r.NotProtocol)
	if r.Metadata != nil {
		v.errs = append(v.errs, apimeta.ValidateAnnotations(r.Metadata.Annotations, at.Child("metadata", "annotations"))...)
	}
	if r.HTTP != nil {
		v.http(at.Child("http"), r.HTTP, c)
	}
	families := &familyCheck{version: r.IPVersion}
	v.entity(at.Child("source"), &r.Source, proto, families, c)
	v.entity(at.Child("destination"), &r.Destination, proto, families, c)
	if r.Source.Services != nil {
		v.services(at.Child("source", "services"), r.Source.Services, c, c.ingress, "not allowed in egress rule source")
	}
	if r.Destination.Services != nil {
		v.services(at.Child("destination", "services"), r.Destination.Services, c, !c.ingress, "not allowed in ingress rule destination")
		if len(r.Destination.Ports)+len(r.Destination.NotPorts) > 0 {
			v.invalid(at.Child("destination", "ports"), "", "a service brings its own ports: ports and notPorts cannot stand beside it")
		}
	}
}

// protocol gives 0 for none and for one that cannot be read, about which it has complained.
func (v *validator) protocol(at *field.Path, p *intstr.IntOrString) uint8 {
	if p == nil {
		return 0
	}
	n, err := ParseProtocol(*p)
	v.check(at, p.String(), err)
	return n
}

// withPorts are the protocols whose ports rules can name (contract §3.2).
var withPorts = []uint8{protocols["TCP"], protocols["UDP"], protocols["SCTP"]}

func (v *validator) endpointProtocol(at *field.Path, p intstr.IntOrString) {
	n, err := ParseProtocol(p)
	if err == nil && (!slices.Contains(withPorts, n) || p.Type == intstr.Int || p.StrVal[0] <= '9') {
		err = errors.New("EndpointPort protocol does not support ports: expected TCP, UDP or SCTP")
	}
	v.check(at, p.String(), err)
}

// familyCheck holds that all networks of a rule are of one IP version, and of the rule's if it has one.
type familyCheck struct {
	version *int
	seen    int
}

func (f *familyCheck) check(p netip.Prefix) error {
	version := 6
	if p.Addr().Is4() {
		version = 4
	}
	if f.version != nil && *f.version != version {
		return errors.New("rule IP version doesn't match CIDR version")
	}
	if f.seen != 0 && f.seen != version {
		return errors.New("rule contains both IPv4 and IPv6 CIDRs")
	}
	f.seen = version
	return nil
}

func (v *validator) entity(at *field.Path, e *EntityRule, proto uint8, families *familyCheck, c ruleContext) {
	v.nets(at.Child("nets"), e.Nets, families, false)
	v.nets(at.Child("notNets"), e.NotNets, families, true)
	v.selector(at.Child("selector"), e.Selector)
	v.selector(at.Child("notSelector"), e.NotSelector)
	if s := v.selector(at.Child("namespaceSelector"), e.NamespaceSelector); s != nil && s.UsesGlobal() && s.String() != "global()" {
		v.invalid(at.Child("namespaceSelector"), e.NamespaceSelector, "global() must stand alone")
	}
	if e.ServiceAccounts != nil {
		v.selector(at.Child("serviceAccounts", "selector"), e.ServiceAccounts.Selector)
		for i, name := range e.ServiceAccounts.Names {
			if strings.ContainsAny(name, `'"`) || name == "" {
				v.invalid(at.Child("serviceAccounts", "names").Index(i), name, "is not the name of a service account")
			}
		}
	}
	v.ports(at.Child("ports"), e.Ports, proto)
	v.ports(at.Child("notPorts"), e.NotPorts, proto)
}

func (v *validator) nets(at *field.Path, nets []string, families *familyCheck, negated bool) {
	for i, n := range nets {
		p, ok := v.network(at.Index(i), n)
		if !ok {
			continue
		}
		v.check(at.Index(i), n, families.check(p))
		if negated && p.Bits() == 0 {
			v.invalid(at.Index(i), n, "catch-all CIDR in negation creates logical contradiction (matches no traffic)")
		}
	}
}

func (v *validator) ports(at *field.Path, ports []intstr.IntOrString, proto uint8) {
	for i, text := range ports {
		p, err := ParsePort(text)
		v.check(at.Index(i), text.String(), err)
		switch {
		case err != nil:
		case proto == 0 && p.Name == "":
			v.invalid(at.Index(i), text.String(), "rules with numeric port or port range must set protocol to TCP or UDP or SCTP")
		case proto != 0 && !slices.Contains(withPorts, proto):
			v.invalid(at.Index(i), text.String(), "rules that specify ports must set protocol to TCP or UDP or SCTP")
		}
	}
}

func (v *validator) services(at *field.Path, s *ServiceMatch, c ruleContext, allowed bool, reason string) {
	switch {
	case !allowed:
		v.invalid(at, s.Name, reason)
	case s.Name == "":
		v.errs = append(v.errs, field.Required(at.Child("name"), "must name a service"))
	case c.global && s.Namespace == "":
		v.errs = append(v.errs, field.Required(at.Child("namespace"), "must specify a namespace"))
	}
}

func (v *validator) http(at *field.Path, h *HTTPMatch, c ruleContext) {
	if !c.ingress {
		v.invalid(at, "", "HTTP match is for ingress rules only")
	}
	for i, m := range h.Methods {
		if slices.Contains(h.Methods[:i], m) {
			v.errs = append(v.errs, field.Duplicate(at.Child("methods").Index(i), m))
		}
	}
	for i, p := range h.Paths {
		at := at.Child("paths").Index(i)
		path := p.Exact + p.Prefix
		switch {
		case p.Exact != "" && p.Prefix != "":
			v.invalid(at, path, "give either exact or prefix, not both")
		case !strings.HasPrefix(path, "/"):
			v.invalid(at, path, "a path must start with /")
		case strings.ContainsAny(path, "?# \t"):
			v.invalid(at, path, "a path has no ?, no # and no blank")
		}
	}
}
