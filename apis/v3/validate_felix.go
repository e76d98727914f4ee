package v3

import (
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// felix says what is wrong with settings, all of it: those of the environment no schema has seen.
func (v *validator) felix(at *field.Path, s *FelixConfigurationSpec) {
	v.selector(at.Child("nodeSelector"), s.NodeSelector)
	v.settingWords(at, s)
	v.markMask(at.Child("nftablesMarkMask"), s.NFTablesMarkMask)
	v.markMask(at.Child("iptablesMarkMask"), s.IptablesMarkMask)
	v.interfaces(at, s)
	v.failsafePorts(at.Child("failsafeInboundHostPorts"), s.FailsafeInboundHostPorts)
	v.failsafePorts(at.Child("failsafeOutboundHostPorts"), s.FailsafeOutboundHostPorts)
	v.nodePorts(at.Child("kubeNodePortRanges"), s.KubeNodePortRanges)
	v.logging(at, s)
	if s.VXLANPort != nil && *s.VXLANPort == 0 {
		v.invalid(at.Child("vxlanPort"), 0, noPortZero)
	}
	v.duration(at.Child("nftablesRefreshInterval"), s.NFTablesRefreshInterval)
	v.duration(at.Child("iptablesRefreshInterval"), s.IptablesRefreshInterval)
	v.duration(at.Child("ipsetsRefreshInterval"), s.IpsetsRefreshInterval)
	v.duration(at.Child("flowLogsFlushInterval"), s.FlowLogsFlushInterval)
	v.duration(at.Child("dataplaneWatchdogTimeout"), s.DataplaneWatchdogTimeout)
	v.misspelt(at, s)
}

func (v *validator) settingWords(at *field.Path, s *FelixConfigurationSpec) {
	for _, f := range settings {
		text, ok := f.at(s).(**string)
		if ok && *text != nil && f.words != nil && !slices.Contains(f.words, **text) {
			v.errs = append(v.errs, field.NotSupported(at.Child(f.name), **text, f.words))
		}
	}
}

func (v *validator) markMask(at *field.Path, mask *uint32) {
	if mask != nil && bits.OnesCount32(*mask) < 2 {
		v.invalid(at, *mask, "needs at least two bits")
	}
}

var (
	interfacePrefixes = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,15}(,[a-zA-Z0-9_-]{1,15})*$`)
	excludedInterface = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,15}$`)
)

func (v *validator) interfaces(at *field.Path, s *FelixConfigurationSpec) {
	if p := s.InterfacePrefix; p != nil && !interfacePrefixes.MatchString(*p) {
		v.invalid(at.Child("interfacePrefix"), *p, "expected what interface names begin with, at most 15 letters, digits, '_' and '-', or several with commas between")
	}
	if s.InterfaceExclude != nil {
		for name := range strings.SplitSeq(*s.InterfaceExclude, ",") {
			v.excluded(at.Child("interfaceExclude"), name)
		}
	}
	if p := s.NFTablesFlowTableDataIfacePattern; p != nil {
		_, err := regexp.Compile(*p)
		v.check(at.Child("nftablesFlowTableDataIfacePattern"), *p, err)
	}
}

func (v *validator) excluded(at *field.Path, name string) {
	pattern, begun := strings.CutPrefix(name, "/")
	pattern, ended := strings.CutSuffix(pattern, "/")
	switch {
	case begun && ended && pattern != "":
		_, err := regexp.Compile(pattern)
		v.check(at, name, err)
	case !excludedInterface.MatchString(name):
		v.invalid(at, name, "expected the name of an interface, or a regular expression between slashes")
	}
}

func (v *validator) failsafePorts(at *field.Path, ports *[]ProtoPort) {
	if ports == nil {
		return
	}
	for i, p := range *ports {
		_, err := p.proto()
		v.check(at.Index(i).Child("protocol"), p.Protocol, err)
		if p.Port == 0 {
			v.invalid(at.Index(i).Child("port"), p.Port, noPortZero)
		}
		_, err = p.far()
		v.check(at.Index(i).Child("net"), p.Net, err)
	}
}

// noPortZero is the complaint about the one number of 16 bits that is no port.
const noPortZero = "port numbers must be between 1 and 65535"

// maxNodePortRanges is what Calico's rules can match at once.
const maxNodePortRanges = 7

func (v *validator) nodePorts(at *field.Path, ranges *[]intstr.IntOrString) {
	if ranges == nil {
		return
	}
	if len(*ranges) > maxNodePortRanges {
		v.errs = append(v.errs, field.TooMany(at, len(*ranges), maxNodePortRanges))
	}
	for i, r := range *ranges {
		p, err := ParsePort(r)
		if err == nil && p.Name != "" {
			err = errors.New("expected a port number or a range such as 30000:32767")
		}
		v.check(at.Index(i), r.String(), err)
	}
}

var logPrefix = regexp.MustCompile(`^[a-zA-Z0-9%: /_-]*$`)

func (v *validator) logging(at *field.Path, s *FelixConfigurationSpec) {
	if s.LogPrefix != nil && !logPrefix.MatchString(*s.LogPrefix) {
		v.invalid(at.Child("logPrefix"), *s.LogPrefix, "expected letters, digits, blanks and any of %:/_-")
	}
	if s.LogActionRateLimit != nil {
		_, _, err := ParseRateLimit(*s.LogActionRateLimit)
		v.check(at.Child("logActionRateLimit"), *s.LogActionRateLimit, err)
	}
	if b := s.LogActionRateLimitBurst; b != nil && (*b < 0 || *b > 9999) {
		v.invalid(at.Child("logActionRateLimitBurst"), *b, "expected a number from 0 to 9999")
	}
}

func (v *validator) duration(at *field.Path, d *Duration) {
	if d != nil {
		_, err := d.Parse()
		v.check(at, *d, err)
	}
}

// misspelt tells of fields that are known but for their case. Nothing reads them, and he who wrote them thinks otherwise.
func (v *validator) misspelt(at *field.Path, s *FelixConfigurationSpec) {
	for _, name := range slices.Sorted(maps.Keys(s.Unknown)) {
		for known := range felixNames {
			if strings.EqualFold(name, known) {
				v.errs = append(v.errs, field.Forbidden(at.Child(name), "unknown field; did you mean "+known+"?"))
			}
		}
	}
}

// Parse reads a length of time; no text is none at all.
func (d Duration) Parse() (out metav1.Duration, err error) {
	if d == "" {
		return out, nil
	}
	if err := out.UnmarshalJSON([]byte(strconv.Quote(string(d)))); err != nil || out.Duration < 0 {
		return metav1.Duration{}, fmt.Errorf("%q is no length of time: expected one such as 90s, 1m30s or 0.5s", string(d))
	}
	return out, nil
}

var (
	rateLimit  = regexp.MustCompile(`^([1-9][0-9]{0,3})/(second|minute|hour|day)$`)
	rateSecond = map[string]uint32{"second": 1, "minute": 60, "hour": 3600, "day": 86400}
)

// ParseRateLimit reads a rate such as 10/minute: 10 in 60 seconds (contract §1.11.1, logActionRateLimit).
func ParseRateLimit(text string) (n uint64, seconds uint32, err error) {
	m := rateLimit.FindStringSubmatch(text)
	if m == nil {
		return 0, 0, fmt.Errorf("%q is no rate: expected a number from 1 to 9999, a slash, and second, minute, hour or day", text)
	}
	n, err = strconv.ParseUint(m[1], 10, 64)
	return n, rateSecond[m[2]], err
}

// Parse reads an entry of the failsafe lists; no protocol is TCP, and no network gives a prefix that is not valid (contract
// §4.5).
func (p ProtoPort) Parse() (proto uint8, port uint16, net netip.Prefix, err error) {
	if proto, err = p.proto(); err != nil {
		return 0, 0, netip.Prefix{}, err
	}
	if p.Port == 0 {
		return 0, 0, netip.Prefix{}, errors.New(noPortZero)
	}
	if net, err = p.far(); err != nil {
		return 0, 0, netip.Prefix{}, err
	}
	return proto, p.Port, net, nil
}

func (p ProtoPort) proto() (uint8, error) {
	switch strings.ToUpper(p.Protocol) {
	case "", "TCP":
		return protocols["TCP"], nil
	case "UDP":
		return protocols["UDP"], nil
	}
	return 0, fmt.Errorf("%q is neither TCP nor UDP", p.Protocol)
}

// far is the network at the far end. An address alone is the network of just that address, as Calico reads it.
func (p ProtoPort) far() (netip.Prefix, error) {
	if p.Net == "" {
		return netip.Prefix{}, nil
	}
	net, err := netip.ParsePrefix(p.Net)
	if addr, bad := netip.ParseAddr(p.Net); bad == nil && addr.Zone() == "" {
		net, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is no network: expected one in CIDR form, such as 10.0.0.0/8 or fd00::/64", p.Net)
	case net.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q: an IPv4 network must be written as IPv4", p.Net)
	}
	return net.Masked(), nil
}
