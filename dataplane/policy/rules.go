package policy

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tierwall/tierwall/apis/selector"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

// compiler turns the rules of one object into Rules, and collects the sets that they name.
type compiler struct {
	ref     v3.Ref
	sets    map[string]setSpec
	notices []Notice // of the rule that is being compiled
}

// setSpec is what selects a set's members.
type setSpec struct {
	id      string
	about   string
	sel     *selector.Selector // nil: every member
	names   []string           // named ports …
	proto   uint8              // … of this protocol, 0 any
	service v3.Ref             // or the endpoints of a service …
	ports   bool               // … with their ports
	nodes   *selector.Selector // or the addresses of Nodes
}

// Notice is an error that only tells: what it is about is enforced as written, and may not do what its author thinks.
type Notice string

func (n Notice) Error() string { return string(n) }

// OnlyNotices tells whether there is nothing in an error of Set that is not enforced as written.
func OnlyNotices(err error) bool {
	_, only := notices(err)
	return only
}

// Notices are those in an error of Set.
func Notices(err error) []Notice {
	all, _ := notices(err)
	return all
}

func notices(err error) (all []Notice, only bool) {
	switch e := err.(type) {
	case nil:
		return nil, true
	case Notice:
		return []Notice{e}, true
	case interface{ Unwrap() []error }:
		only = true
		for _, part := range e.Unwrap() {
			more, also := notices(part)
			all, only = append(all, more...), only && also
		}
		return all, only
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return notices(inner)
		}
	}
	return nil, false
}

func (c *compiler) notice(text string) { c.notices = append(c.notices, Notice(text)) }

// rules compiles a list. A rule that cannot be understood fails closed: an Allow or Log rule matches nothing, any other
// denies everything at its place (design §5).
func (c *compiler) rules(field string, in []v3.Rule, d Direction) (out []Rule, err error) {
	var errs []error
	for i := range in {
		c.notices = nil
		r, err := c.rule(&in[i], d)
		for _, n := range c.notices {
			errs = append(errs, Notice(fmt.Sprintf("%s[%d].%s", field, i, n)))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s[%d]%w", field, i, err))
			if in[i].Action == v3.Allow || in[i].Action == v3.Log {
				continue
			}
			r = Rule{Action: Deny, Families: AnyFamily, Note: fmt.Sprintf("rule %d is not understood (%v), so it denies", i, err)}
		}
		r.Index = i
		if r.Families != 0 { // a rule of no family exists for no packet (contract §3.5)
			out = append(out, r)
		}
	}
	return out, errors.Join(errs...)
}

var actions = map[v3.Action]Action{v3.Allow: Allow, v3.Deny: Deny, v3.Pass: Pass, v3.Log: Log}

func (c *compiler) rule(in *v3.Rule, d Direction) (r Rule, err error) {
	fail := func(field string, err error) (Rule, error) { return Rule{}, fmt.Errorf(".%s: %w", field, err) }
	var ok bool
	if r.Action, ok = actions[in.Action]; !ok {
		return fail("action", fmt.Errorf("%q is none of Allow, Deny, Pass and Log", in.Action))
	}
	if in.Metadata != nil {
		r.Name = in.Metadata.Annotations["name"]
	}
	if r.Families, err = families(in.IPVersion); err != nil {
		return fail("ipVersion", err)
	}
	if r.Proto, err = protocol(in.Protocol); err != nil {
		return fail("protocol", err)
	}
	if r.NotProto, err = protocol(in.NotProtocol); err != nil {
		return fail("notProtocol", err)
	}
	if r.ICMP, err = icmp(in.ICMP); err != nil {
		return fail("icmp", err)
	}
	if r.NotICMP, err = icmp(in.NotICMP); err != nil {
		return fail("notICMP", err)
	}
	if r.ICMP != nil && r.Proto != ProtoICMP && r.Proto != ProtoICMPv6 {
		return fail("icmp", errors.New("needs protocol ICMP or ICMPv6"))
	}
	if in.HTTP != nil && r.Action != Allow { // an Allow's HTTP match is L4 only in a kernel (contract §3.3); more would be refused
		return fail("http", errors.New("is for Allow rules only"))
	}
	if in.HTTP != nil {
		c.notice("http: only addresses, protocol and ports are enforced: every request on them is allowed")
	}
	if r.Src, err = c.side(&in.Source, &r, d == Ingress, false); err != nil {
		return fail("source", err)
	}
	if r.Dst, err = c.side(&in.Destination, &r, false, d == Egress); err != nil {
		return fail("destination", err)
	}
	c.oneFamily(in, &r)
	return r, nil
}

// oneFamily tells of a rule that "not in these networks" takes away from a family of which the list names none (contract §3.5).
func (c *compiler) oneFamily(in *v3.Rule, r *Rule) {
	if in.IPVersion != nil || len(r.Src.Nets)+len(r.Dst.Nets) > 0 || r.Families == AnyFamily || r.Families == 0 {
		return
	}
	field := "source"
	if len(r.Dst.NotNets) > 0 {
		field = "destination"
	}
	c.notice(field + ".notNets: names networks of one family only, so the rule does not exist for the other")
}

func families(version *int) (Families, error) {
	switch {
	case version == nil:
		return AnyFamily, nil
	case *version == 4:
		return IPv4, nil
	case *version == 6:
		return IPv6, nil
	}
	return 0, fmt.Errorf("%d is neither 4 nor 6", *version)
}

func protocol(p *intstr.IntOrString) (uint8, error) {
	if p == nil {
		return 0, nil
	}
	return v3.ParseProtocol(*p)
}

func icmp(in *v3.ICMPFields) (*ICMP, error) {
	if in == nil || in.Type == nil && in.Code == nil {
		return nil, nil
	}
	if in.Type == nil {
		return nil, errors.New("a code needs a type")
	}
	if *in.Type < 0 || *in.Type > 255 || in.Code != nil && (*in.Code < 0 || *in.Code > 255) {
		return nil, errors.New("type and code are 0 to 255")
	}
	out := &ICMP{Type: uint8(*in.Type), Code: -1}
	if in.Code != nil {
		out.Code = int16(*in.Code)
	}
	return out, nil
}

// side compiles one end, narrowing the rule's families to those for which it exists. A service may stand where
// serviceAddrs (the source of ingress) or servicePorts (the destination of egress) says so (contract §3.4).
func (c *compiler) side(in *v3.EntityRule, r *Rule, serviceAddrs, servicePorts bool) (s Side, err error) {
	if s.Nets, err = c.nets(in.Nets, &r.Families); err != nil {
		return s, fmt.Errorf("nets: %w", err)
	}
	if s.NotNets, err = c.nets(in.NotNets, &r.Families); err != nil {
		return s, fmt.Errorf("notNets: %w", err)
	}
	for _, n := range s.NotNets {
		if n.Bits() == 0 { // "not everywhere" can hold for no packet
			r.Families &^= FamilyOf(n.Addr())
		}
	}
	pos, neg, err := c.peer(in)
	if err != nil {
		return s, err
	}
	switch {
	case pos != nil && neg != nil:
		pos = selector.And(pos, selector.Not(neg))
		fallthrough
	case pos != nil:
		s.Sets = append(s.Sets, c.selected(pos))
	case neg != nil:
		s.NotSets = append(s.NotSets, c.selected(neg))
	}
	if s.Ports, s.PortSets, err = c.ports(in.Ports, r.Proto, pos); err != nil {
		return s, fmt.Errorf("ports: %w", err)
	}
	if s.NotPorts, s.NotPortSets, err = c.ports(in.NotPorts, r.Proto, pos); err != nil {
		return s, fmt.Errorf("notPorts: %w", err)
	}
	if in.Services != nil {
		if !serviceAddrs && !servicePorts {
			return s, errors.New("services: stand only in the source of ingress rules and the destination of egress rules")
		}
		id, err := c.service(in.Services, servicePorts)
		if err != nil {
			return s, fmt.Errorf("services: %w", err)
		}
		if servicePorts {
			s.PortSets = append(s.PortSets, id)
		} else {
			s.Sets = append(s.Sets, id)
		}
	}
	return s, nil
}

// nets merges a list; a list without a member of a family takes the rule away from that family (contract §3.5).
func (c *compiler) nets(in []string, f *Families) ([]netip.Prefix, error) {
	if len(in) == 0 {
		return nil, nil
	}
	var have Families
	var out []netip.Prefix
	for _, t := range in {
		p, err := parsePrefix(t)
		if err != nil {
			return nil, err
		}
		have |= FamilyOf(p.Addr())
		out = append(out, p)
	}
	*f &= have
	return mergeNets(out), nil
}

func mergeNets(in []netip.Prefix) []netip.Prefix {
	var b netipx.IPSetBuilder
	for _, p := range in {
		b.AddPrefix(p)
	}
	set, err := b.IPSet()
	if err != nil { // only for invalid prefixes, and parsePrefix makes none
		return in
	}
	return set.Prefixes()
}

// ports compiles a list of numbers, ranges and names. Named ports are looked up on the endpoints that the side's positive
// selector selects, for a negated list too (contract §2.7).
func (c *compiler) ports(in []intstr.IntOrString, proto uint8, pos *selector.Selector) (ranges []PortRange, sets []string, err error) {
	var names []string
	for _, text := range in {
		p, err := v3.ParsePort(text)
		switch {
		case err != nil:
			return nil, nil, err
		case proto != 0 && (!HasPorts(proto) || proto == ProtoUDPLite), proto == 0 && p.Name == "":
			return nil, nil, fmt.Errorf("%s needs protocol TCP, UDP or SCTP", text.String())
		case p.Name != "":
			names = append(names, p.Name)
		default:
			ranges = append(ranges, PortRange{p.Min, p.Max})
		}
	}
	return mergePorts(ranges), c.named(names, proto, pos), nil
}

func (c *compiler) add(s setSpec) string {
	c.sets[s.id] = s
	return s.id
}

func (c *compiler) selected(sel *selector.Selector) string {
	return c.add(setSpec{id: sel.ID(), about: sel.String(), sel: sel})
}

// named is the ports of all the names in one set: a rule with many at both ends is still one rule.
func (c *compiler) named(names []string, proto uint8, sel *selector.Selector) (sets []string) {
	if len(names) == 0 {
		return nil
	}
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	about := fmt.Sprintf("port %s of protocol %d", strings.Join(names, ","), proto)
	if sel != nil {
		about += " on " + sel.String()
	}
	return []string{c.add(setSpec{id: hashID("n:", about), about: about, sel: sel, names: names, proto: proto})}
}

func (c *compiler) service(in *v3.ServiceMatch, ports bool) (string, error) {
	ref := v3.Ref{Kind: "Service", Namespace: in.Namespace, Name: in.Name}
	if ref.Namespace == "" {
		ref.Namespace = c.ref.Namespace // the policy's own (design §5)
	}
	if ref.Namespace == "" || ref.Name == "" {
		return "", errors.New("must give a name and, in a global policy, a namespace")
	}
	about, kind := "service "+ref.Namespace+"/"+ref.Name, "svcnoport:"
	if ports {
		kind = "svc:"
	}
	return c.add(setSpec{id: hashID(kind, about), about: about, service: ref, ports: ports}), nil
}

// hashID makes an identifier that is stable and safe in the name of a set.
func hashID(prefix, text string) string {
	sum := sha256.Sum224([]byte(prefix + text))
	return prefix + base64.RawURLEncoding.EncodeToString(sum[:])
}

var shortKinds = map[string]string{"NetworkPolicy": "np", "GlobalNetworkPolicy": "gnp", "Profile": "pro",
	"StagedNetworkPolicy": "snp", "StagedGlobalNetworkPolicy": "sgnp", "StagedKubernetesNetworkPolicy": "sknp",
	v3.KindKubernetesNetworkPolicy: "knp", v3.KindKubernetesClusterNetworkPolicy: "kcnp", "Failsafe": "failsafe", "Protection": "protection"}

// ShortKind is Calico's short name of a policy kind (contract §4.10).
func ShortKind(kind string) string { return shortKinds[kind] }
