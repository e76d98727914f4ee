package v3

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"
)

// setting is a field of FelixConfigurationSpec that bears on policy: those that the environment may say.
type setting struct {
	name  string
	at    func(*FelixConfigurationSpec) any
	words []string // what the field may say, in normal form; any case of it is taken, as Calico's schema does
}

var settings = []setting{
	{"defaultEndpointToHostAction", func(s *FelixConfigurationSpec) any { return &s.DefaultEndpointToHostAction }, []string{"Drop", "Accept", "Return"}},
	{"nftablesFilterAllowAction", func(s *FelixConfigurationSpec) any { return &s.NFTablesFilterAllowAction }, []string{"Accept", "Return"}},
	{"nftablesFilterDenyAction", func(s *FelixConfigurationSpec) any { return &s.NFTablesFilterDenyAction }, []string{"Drop", "Reject"}},
	{"nftablesMangleAllowAction", func(s *FelixConfigurationSpec) any { return &s.NFTablesMangleAllowAction }, []string{"Accept", "Return"}},
	{"nftablesMarkMask", func(s *FelixConfigurationSpec) any { return &s.NFTablesMarkMask }, nil},
	{"iptablesFilterAllowAction", func(s *FelixConfigurationSpec) any { return &s.IptablesFilterAllowAction }, []string{"Accept", "Return"}},
	{"iptablesFilterDenyAction", func(s *FelixConfigurationSpec) any { return &s.IptablesFilterDenyAction }, []string{"Drop", "Reject"}},
	{"iptablesMangleAllowAction", func(s *FelixConfigurationSpec) any { return &s.IptablesMangleAllowAction }, []string{"Accept", "Return"}},
	{"iptablesMarkMask", func(s *FelixConfigurationSpec) any { return &s.IptablesMarkMask }, nil},
	{"interfacePrefix", func(s *FelixConfigurationSpec) any { return &s.InterfacePrefix }, nil},
	{"interfaceExclude", func(s *FelixConfigurationSpec) any { return &s.InterfaceExclude }, nil},
	{"failsafeInboundHostPorts", func(s *FelixConfigurationSpec) any { return &s.FailsafeInboundHostPorts }, nil},
	{"failsafeOutboundHostPorts", func(s *FelixConfigurationSpec) any { return &s.FailsafeOutboundHostPorts }, nil},
	{"kubeNodePortRanges", func(s *FelixConfigurationSpec) any { return &s.KubeNodePortRanges }, nil},
	{"disableConntrackInvalidCheck", func(s *FelixConfigurationSpec) any { return &s.DisableConntrackInvalidCheck }, nil},
	{"workloadSourceSpoofing", func(s *FelixConfigurationSpec) any { return &s.WorkloadSourceSpoofing }, []string{"Disabled", "Any"}},
	{"allowVXLANPacketsFromWorkloads", func(s *FelixConfigurationSpec) any { return &s.AllowVXLANPacketsFromWorkloads }, nil},
	{"allowIPIPPacketsFromWorkloads", func(s *FelixConfigurationSpec) any { return &s.AllowIPIPPacketsFromWorkloads }, nil},
	{"vxlanPort", func(s *FelixConfigurationSpec) any { return &s.VXLANPort }, nil},
	{"vxlanEnabled", func(s *FelixConfigurationSpec) any { return &s.VXLANEnabled }, nil},
	{"serviceLoopPrevention", func(s *FelixConfigurationSpec) any { return &s.ServiceLoopPrevention }, []string{"Drop", "Reject", "Disabled"}},
	{"logPrefix", func(s *FelixConfigurationSpec) any { return &s.LogPrefix }, nil},
	{"logActionRateLimit", func(s *FelixConfigurationSpec) any { return &s.LogActionRateLimit }, nil},
	{"logActionRateLimitBurst", func(s *FelixConfigurationSpec) any { return &s.LogActionRateLimitBurst }, nil},
	{"ipv6Support", func(s *FelixConfigurationSpec) any { return &s.IPv6Support }, nil},
}

// normal writes each setting in one form: words in their own case, and a setting that says nothing is not there.
func (s *FelixConfigurationSpec) normal() {
	for _, f := range settings {
		text, ok := f.at(s).(**string)
		if !ok || *text == nil {
			continue
		}
		if **text == "" {
			*text = nil
			continue
		}
		if i := slices.IndexFunc(f.words, func(w string) bool { return strings.EqualFold(w, **text) }); i >= 0 {
			word := f.words[i]
			*text = &word
		}
	}
}

// variable is the name by which the environment says the setting.
func (f setting) variable() string { return "FELIX_" + strings.ToUpper(f.name) }

// FromEnv takes over the settings that the environment says, FELIX_<NAME> in capitals, in place of what s says (contract
// §1.11.1). An empty variable says nothing. On an error, which names each variable that is wrong, s is as it was.
func (s *FelixConfigurationSpec) FromEnv(lookup func(string) (string, bool)) error {
	var said FelixConfigurationSpec
	var errs []error
	for _, f := range settings {
		text, ok := lookup(f.variable())
		if !ok || strings.TrimSpace(text) == "" {
			continue
		}
		if err := f.parse(&said, strings.TrimSpace(text)); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.variable(), err))
		}
	}
	said.normal()
	if errs = append(errs, said.wrong()...); len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, f := range settings {
		if from := reflect.ValueOf(f.at(&said)).Elem(); !from.IsNil() {
			reflect.ValueOf(f.at(s)).Elem().Set(from)
		}
	}
	return nil
}

// wrong is what Validate says, with variables in place of fields.
func (s *FelixConfigurationSpec) wrong() (errs []error) {
	v := &validator{}
	v.felix(nil, s)
	for _, e := range v.errs {
		name, _, _ := strings.Cut(e.Field, "[")
		errs = append(errs, fmt.Errorf("%s: %s", setting{name: name}.variable(), e.ErrorBody()))
	}
	return errs
}

// parse reads the environment's form of the setting.
func (f setting) parse(s *FelixConfigurationSpec, text string) error {
	switch at := f.at(s).(type) {
	case **string:
		*at = &text
	case **bool:
		return put(at, text, parseBool)
	case **uint16:
		return put(at, text, parseUint[uint16](10, 16))
	case **uint32:
		return put(at, text, parseUint[uint32](0, 32)) // a mask is often written 0xff000000
	case **int:
		return put(at, text, parseUint[int](10, 31))
	case **[]ProtoPort:
		return put(at, text, someFailsafePorts)
	case **[]intstr.IntOrString:
		return put(at, text, parseRanges)
	default:
		return fmt.Errorf("a setting of type %T cannot be read", at)
	}
	return nil
}

func put[T any](to **T, text string, parse func(string) (T, error)) error {
	value, err := parse(text)
	if err == nil {
		*to = &value
	}
	return err
}

func parseBool(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "true", "yes", "y", "t", "1":
		return true, nil
	case "false", "no", "n", "f", "0":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", text)
}

func parseUint[T ~uint16 | ~uint32 | ~int](base, bits int) func(string) (T, error) {
	return func(text string) (T, error) {
		n, err := strconv.ParseUint(text, base, bits)
		if err != nil {
			return 0, fmt.Errorf("%q is no number from 0 to %d", text, uint64(1)<<bits-1)
		}
		return T(n), nil
	}
}

// someFailsafePorts refuses commas without ports: that is neither a list nor none, and would close what keeps the host open.
func someFailsafePorts(text string) ([]ProtoPort, error) {
	ports, err := ParseFailsafePorts(text)
	if err == nil && ports == nil {
		err = fmt.Errorf("%q has no ports: expected ports with commas between, or none", text)
	}
	return ports, err
}

func parseRanges(text string) (out []intstr.IntOrString, err error) {
	for r := range strings.SplitSeq(text, ",") {
		out = append(out, intstr.FromString(strings.TrimSpace(r)))
	}
	return out, nil
}

// ParseFailsafePorts reads a list of ports as the environment says it, such as tcp:22,udp:[fd00::/8]:53 (contract §1.11.1, §10.6).
// A port alone is TCP; none is a list that is empty, and an empty text is no list at all.
func ParseFailsafePorts(text string) ([]ProtoPort, error) {
	if strings.EqualFold(strings.TrimSpace(text), "none") {
		return []ProtoPort{}, nil
	}
	var out []ProtoPort
	for entry := range strings.SplitSeq(text, ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		p, err := parseFailsafePort(entry)
		if err != nil {
			return nil, fmt.Errorf("port %q: %w", entry, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// failsafePort is port, protocol:port, or protocol:network:port with brackets around an IPv6 network.
var failsafePort = regexp.MustCompile(`^(?:([^:\[\]]+):(?:(?:([^:\[\]]+)|\[([^\[\]]+)\]):)?)?([0-9]+)$`)

func parseFailsafePort(entry string) (ProtoPort, error) {
	m := failsafePort.FindStringSubmatch(entry)
	if m == nil {
		return ProtoPort{}, errors.New("expected port, protocol:port or protocol:network:port, with an IPv6 network in brackets")
	}
	n, err := parseUint[uint16](10, 16)(m[4])
	if err != nil {
		return ProtoPort{}, err
	}
	p := ProtoPort{Protocol: cmp.Or(strings.ToLower(m[1]), "tcp"), Net: m[2] + m[3], Port: n}
	if _, _, _, err := p.Parse(); err != nil {
		return ProtoPort{}, err
	}
	return p, nil
}

// FelixVariables are those of an agent's variables that bear on policy, each as NAME=VALUE, in the order of their names.
func FelixVariables(env map[string]string) (out []string) {
	for _, f := range settings {
		if text, ok := env[f.variable()]; ok && strings.TrimSpace(text) != "" {
			out = append(out, f.variable()+"="+text)
		}
	}
	slices.Sort(out)
	return out
}

// Unused are the fields of the spec that are set and change nothing here, in the order of their names.
func (s *FelixConfigurationSpec) Unused() []string {
	used := map[string]bool{"nodeSelector": true}
	for _, f := range settings {
		used[f.name] = true
	}
	return unused(s, used)
}

// unused are the fields of a spec, in JSON, that are not among the used ones.
func unused(spec any, used map[string]bool) (out []string) {
	text, err := json.Marshal(spec)
	if err != nil {
		return nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(text, &fields) != nil {
		return nil
	}
	for name := range fields {
		if !used[name] {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
