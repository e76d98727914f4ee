package v3

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var interfaceName = regexp.MustCompile(`^(\*|[a-zA-Z0-9_.-]{1,15})$`)

func (v *validator) hostEndpoint(at *field.Path, s *HostEndpointSpec) {
	if s.InterfaceName != "" && !interfaceName.MatchString(s.InterfaceName) {
		v.invalid(at.Child("interfaceName"), s.InterfaceName, "expected the name of one interface, or * alone for all of them")
	}
	for i, ip := range s.ExpectedIPs {
		v.address(at.Child("expectedIPs").Index(i), ip, "expected an address without prefix length")
	}
	v.profiles(at.Child("profiles"), s.Profiles)
	for i, p := range s.Ports {
		at := at.Child("ports").Index(i)
		v.portName(at.Child("name"), p.Name)
		v.endpointProtocol(at.Child("protocol"), p.Protocol)
	}
}

func (v *validator) profiles(at *field.Path, names []string) {
	for i, name := range names {
		for _, reason := range validation.IsDNS1123Subdomain(name) {
			v.invalid(at.Index(i), name, reason)
		}
	}
}

func (v *validator) portName(at *field.Path, name string) {
	if !portName.MatchString(name) {
		v.invalid(at, name, "expected letters, digits, '_', '.' and '-'")
	}
}

// labelsToApply takes what Calico derives from a namespace's or a service account's labels with a prefix before the label's own.
func (v *validator) labelsToApply(at *field.Path, labels map[string]string) {
	own := make(map[string]string, len(labels))
	for key, value := range labels {
		own[strings.TrimPrefix(strings.TrimPrefix(key, "pcns."), "pcsa.")] = value
	}
	v.errs = append(v.errs, metav1validation.ValidateLabels(own, at)...)
}

var hardwareAddress = regexp.MustCompile(`^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$`)

func (v *validator) workloadEndpoint(at *field.Path, s *WorkloadEndpointSpec) {
	if s.InterfaceName != "" && (s.InterfaceName == "*" || !interfaceName.MatchString(s.InterfaceName)) {
		v.invalid(at.Child("interfaceName"), s.InterfaceName, "expected the name of one interface")
	}
	if s.MAC != "" && !hardwareAddress.MatchString(s.MAC) {
		v.invalid(at.Child("mac"), s.MAC, "expected a hardware address, such as 02:00:00:00:00:01")
	}
	own := v.workloadAddresses(at.Child("ipNetworks"), s.IPNetworks)
	for i, nat := range s.IPNATs {
		v.nat(at.Child("ipNATs").Index(i), nat, own)
	}
	v.gateway(at.Child("ipv4Gateway"), s.IPv4Gateway, netip.Addr.Is4, "expected an IPv4 address")
	v.gateway(at.Child("ipv6Gateway"), s.IPv6Gateway, netip.Addr.Is6, "expected an IPv6 address")
	for i, n := range s.AllowSpoofedSourcePrefixes {
		v.network(at.Child("allowSpoofedSourcePrefixes").Index(i), n)
	}
	v.profiles(at.Child("profiles"), s.Profiles)
	for i, p := range s.Ports {
		v.workloadPort(at.Child("ports").Index(i), p)
	}
}

// workloadAddresses gives the addresses that it could read.
func (v *validator) workloadAddresses(at *field.Path, networks []string) (own []netip.Addr) {
	for i, n := range networks {
		a, err := netip.ParseAddr(n)
		if p, bad := netip.ParsePrefix(n); bad == nil {
			a, err = p.Addr(), nil
			if !p.IsSingleIP() {
				v.invalid(at.Index(i), n, "expected one address: prefix length 32 for IPv4, 128 for IPv6")
				continue
			}
		}
		if err != nil || a.Zone() != "" || a.Is4In6() {
			v.invalid(at.Index(i), n, "expected an address, perhaps with its full prefix length")
			continue
		}
		own = append(own, a)
	}
	return own
}

func (v *validator) nat(at *field.Path, nat IPNAT, own []netip.Addr) {
	v.address(at.Child("externalIP"), nat.ExternalIP, "expected an address")
	v.address(at.Child("internalIP"), nat.InternalIP, "expected an address")
	internal, err := netip.ParseAddr(nat.InternalIP)
	if err == nil && !slices.Contains(own, internal) {
		v.invalid(at.Child("internalIP"), nat.InternalIP, "expected one of the workload's own addresses, ipNetworks")
	}
	external, errExternal := netip.ParseAddr(nat.ExternalIP)
	if err == nil && errExternal == nil && internal.Is4() != external.Is4() {
		v.invalid(at.Child("externalIP"), nat.ExternalIP, "expected an address of the same IP version as internalIP")
	}
}

func (v *validator) gateway(at *field.Path, text string, family func(netip.Addr) bool, reason string) {
	if text == "" {
		return
	}
	if a, err := netip.ParseAddr(text); err != nil || a.Is4In6() || !family(a) {
		v.invalid(at, text, reason)
	}
}

func (v *validator) workloadPort(at *field.Path, p WorkloadEndpointPort) {
	if p.Name != "" {
		v.portName(at.Child("name"), p.Name)
	}
	if p.HostIP != "" {
		v.address(at.Child("hostIP"), p.HostIP, "expected an address of the host")
	}
	v.endpointProtocol(at.Child("protocol"), p.Protocol)
}
