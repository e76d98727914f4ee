package policy

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"regexp"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/apis/selector"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Settings are what the FelixConfigurations say of all packets of one node (contract §1.11.1).
type Settings struct {
	// EndpointToHost is what becomes of a workload's packet to its own host once the workload's egress policy has
	// allowed it: Deny, Allow, or Pass (left to others) (contract §4.4, defaultEndpointToHostAction).
	EndpointToHost Action
	// Reject answers what is denied, with ICMP port unreachable, instead of dropping it silently (filterDenyAction).
	Reject bool
	// KeepInvalid leaves packets that connection tracking cannot place to the policies (disableConntrackInvalidCheck).
	KeepInvalid bool
	// AnySource lets workloads that ask for it send from other addresses (workloadSourceSpoofing: Any).
	AnySource bool
	// Prefixes of the names of workloads' interfaces: one of them that belongs to no known workload is closed.
	Prefixes []string
	// Mark is the bit of the packet's mark that remembers an untracked or pre-DNAT Allow. The highest bit of the mark mask:
	// calico-node, which may run beside us under the same configuration, takes the lowest.
	Mark uint32
	// LogPrefix of Log rules, with Calico's specifiers %t %k %n %p (contract §4.10), and LogLimit, nil for none.
	LogPrefix string
	LogLimit  *LogLimit
	// Reevaluate ends connections that the policies of today would deny (design §5, establishedConnections).
	Reevaluate bool

	failsafeIn, failsafeOut []FailsafePort
	vxlanPort               uint16
	allowVXLAN, allowIPIP   bool
	logBurst                uint32
	excluded                []*regexp.Regexp // interfaces that are no host's (interfaceExclude)
}

// LogLimit is so many messages in each unit of time, and Burst more at once, for each rule.
type LogLimit struct {
	Rate    uint64
	Seconds uint32 // of the unit: 1, 60, 3600 or 86400
	Burst   uint32
}

// builtinSettings hold where no FelixConfiguration says otherwise.
func builtinSettings() Settings {
	return Settings{EndpointToHost: Deny, Prefixes: []string{"cali"}, Mark: 0x80000000, LogPrefix: "calico-packet",
		failsafeIn: defaultFailsafeIn, failsafeOut: defaultFailsafeOut, vxlanPort: 4789, logBurst: 5,
		excluded: []*regexp.Regexp{regexp.MustCompile("^kube-ipvs0$")}}
}

// config is one FelixConfiguration: for all nodes, for one, or for those that its selector selects.
type config struct {
	object *v3.FelixConfiguration
	nodes  *selector.Selector // nil where it has none
}

// setConfig keeps an object of which everything that can be read holds.
func (x *Index) setConfig(ref v3.Ref, o *v3.FelixConfiguration) error {
	c := config{object: o}
	var probe Settings
	err := probe.take(&o.Spec)
	if o.Spec.NodeSelector != "" {
		var bad error
		if c.nodes, bad = parse("spec.nodeSelector", o.Spec.NodeSelector); bad != nil {
			err = errors.Join(err, bad) // it selects no node
		}
	}
	x.configs[ref] = c
	return err
}

// settings of a node, with what the least specific says first (contract §1.11.1).
func (x *Index) settings(node string) Settings {
	s := builtinSettings()
	_ = s.take(&x.options.Base)
	for _, spec := range x.configsOf(node) {
		_ = s.take(spec) // Set has told the error
	}
	_ = s.take(&x.options.Felix)
	s.Reevaluate = x.options.Reevaluate
	return s
}

func (x *Index) configsOf(node string) (out []*v3.FelixConfigurationSpec) {
	named := func(name string) {
		if c, ok := x.configs[v3.Ref{Kind: "FelixConfiguration", Name: name}]; ok {
			out = append(out, &c.object.Spec)
		}
	}
	named("default")
	if c := x.selectedConfig(node); c != nil {
		out = append(out, &c.object.Spec)
	}
	named("node." + node)
	return out
}

// selectedConfig is the oldest of those that select the node; of one age, the first by name.
func (x *Index) selectedConfig(node string) (oldest *config) {
	labels := x.nodes[v3.Ref{Kind: "Node", Name: node}].labels
	for _, ref := range sortedRefs(x.configs) {
		c := x.configs[ref]
		if c.nodes == nil || ref.Name == "default" || strings.HasPrefix(ref.Name, "node.") || !c.nodes.Matches(labels) {
			continue
		}
		if oldest == nil || c.object.CreationTimestamp.Time.Before(oldest.object.CreationTimestamp.Time) {
			oldest = &c
		}
	}
	return oldest
}

// take changes what the spec speaks of. A field that makes no sense changes nothing, and the error names it.
func (s *Settings) take(in *v3.FelixConfigurationSpec) error {
	set(&s.KeepInvalid, in.DisableConntrackInvalidCheck)
	set(&s.LogPrefix, in.LogPrefix)
	set(&s.allowVXLAN, in.AllowVXLANPacketsFromWorkloads)
	set(&s.allowIPIP, in.AllowIPIPPacketsFromWorkloads)
	set(&s.vxlanPort, in.VXLANPort)
	if v := in.WorkloadSourceSpoofing; v != nil {
		s.AnySource = strings.EqualFold(*v, "Any")
	}
	if v := in.InterfacePrefix; v != nil {
		s.Prefixes = strings.Split(*v, ",")
	}
	if v := cmp.Or(in.NFTablesMarkMask, in.IptablesMarkMask); v != nil && *v != 0 {
		s.Mark = 1 << (bits.Len32(*v) - 1)
	}
	return errors.Join(s.takeToHost(in), s.takeDeny(in), s.takeLimit(in), s.takeExcluded(in),
		takePorts("failsafeInboundHostPorts", in.FailsafeInboundHostPorts, &s.failsafeIn),
		takePorts("failsafeOutboundHostPorts", in.FailsafeOutboundHostPorts, &s.failsafeOut))
}

func (s *Settings) takeToHost(in *v3.FelixConfigurationSpec) error {
	if in.DefaultEndpointToHostAction == nil {
		return nil
	}
	a, ok := ToHostActions[strings.ToLower(*in.DefaultEndpointToHostAction)]
	if !ok {
		return fmt.Errorf("spec.defaultEndpointToHostAction: %q is none of Drop, Accept and Return", *in.DefaultEndpointToHostAction)
	}
	s.EndpointToHost = a
	return nil
}

func (s *Settings) takeLimit(in *v3.FelixConfigurationSpec) error {
	if in.LogActionRateLimitBurst != nil && *in.LogActionRateLimitBurst >= 0 {
		s.logBurst = uint32(*in.LogActionRateLimitBurst)
	}
	if in.LogActionRateLimit != nil {
		n, seconds, err := v3.ParseRateLimit(*in.LogActionRateLimit)
		if err != nil {
			return fmt.Errorf("spec.logActionRateLimit: %w", err)
		}
		s.LogLimit = &LogLimit{Rate: n, Seconds: seconds}
	}
	if s.LogLimit != nil {
		s.LogLimit = &LogLimit{s.LogLimit.Rate, s.LogLimit.Seconds, s.logBurst}
	}
	return nil
}

// takeExcluded reads names and, between slashes, regular expressions.
func (s *Settings) takeExcluded(in *v3.FelixConfigurationSpec) error {
	if in.InterfaceExclude == nil {
		return nil
	}
	out := []*regexp.Regexp{}
	for _, text := range strings.Split(*in.InterfaceExclude, ",") {
		text = strings.TrimSpace(text)
		if inner, ok := strings.CutPrefix(text, "/"); ok && strings.HasSuffix(inner, "/") {
			text = strings.TrimSuffix(inner, "/")
		} else {
			text = "^" + regexp.QuoteMeta(text) + "$"
		}
		r, err := regexp.Compile(text)
		if err != nil {
			return fmt.Errorf("spec.interfaceExclude: %w", err)
		}
		out = append(out, r)
	}
	s.excluded = out
	return nil
}

// ofWorkloads tells whether an interface is a workload's by its name.
func (s *Settings) ofWorkloads(iface string) bool {
	return slices.ContainsFunc(s.Prefixes, func(p string) bool { return p != "" && strings.HasPrefix(iface, p) })
}

func (s *Settings) excludes(iface string) bool {
	return slices.ContainsFunc(s.excluded, func(r *regexp.Regexp) bool { return r.MatchString(iface) })
}

// ToHostActions are the words of defaultEndpointToHostAction, in small letters.
var ToHostActions = map[string]Action{"drop": Deny, "accept": Allow, "return": Pass}

// takeDeny prefers the field that speaks of nftables.
func (s *Settings) takeDeny(in *v3.FelixConfigurationSpec) error {
	v := cmp.Or(in.NFTablesFilterDenyAction, in.IptablesFilterDenyAction)
	switch {
	case v == nil:
	case strings.EqualFold(*v, "Drop"), strings.EqualFold(*v, "Reject"):
		s.Reject = strings.EqualFold(*v, "Reject")
	default:
		return fmt.Errorf("spec.nftablesFilterDenyAction: %q is neither Drop nor Reject", *v)
	}
	return nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// takePorts replaces a failsafe list by what the object says, even by nothing. A list with an entry that makes no sense is left
// as it was: to lose an entry could lock people out.
func takePorts(field string, from *[]v3.ProtoPort, to *[]FailsafePort) error {
	if from == nil {
		return nil
	}
	out := []FailsafePort{}
	for i, p := range *from {
		proto, port, net, err := p.Parse()
		if err != nil {
			return fmt.Errorf("spec.%s[%d]: %w", field, i, err)
		}
		out = append(out, FailsafePort{proto, port, net})
	}
	*to = out
	return nil
}

// Log gives the prefix of a policy's messages: the specifiers filled in, cut to what nft takes (contract §4.10).
func (s *Settings) Log(p *Policy) string {
	const most = 127
	path := p.Ref.Name
	if p.Ref.Namespace != "" {
		path = p.Ref.Namespace + "/" + p.Ref.Name
	}
	words := strings.NewReplacer("%t", p.Tier, "%k", ShortKind(p.Ref.Kind), "%n", p.Ref.Name, "%p", path)
	prefix := words.Replace(s.LogPrefix) + ": "
	if len(prefix) > most {
		prefix = prefix[:most]
	}
	return prefix
}
