package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tierwall/tierwall/apis/selector"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

// The labels that Calico gives to endpoints and sets (contract §1.9, §2.5).
const (
	labelNamespace      = "projectcalico.org/namespace"
	labelOrchestrator   = "projectcalico.org/orchestrator"
	labelServiceAccount = "projectcalico.org/serviceaccount"
	labelName           = "projectcalico.org/name"
	namespacePrefix     = "pcns."
	serviceAccountPfx   = "pcsa."
)

// member is whatever a selector can match: an endpoint, which policy can guard, or a network set.
type member struct {
	ref      v3.Ref
	endpoint bool
	closed   bool           // what it asks for makes no sense
	sources  []netip.Prefix // from which it asks to send, beside its own addresses
	node     string
	iface    string
	labels   map[string]string // its own
	profiles []string          // in order; their labels are inherited
	addrs    []netip.Addr
	nets     []netip.Prefix
	ports    []namedPort
	claims   bool        // its addresses are what it says of itself, not what its node has reported
	created  metav1.Time // the object
	in       []*liveSet  // the sets of the last plan in which it is
	found    bool        // what it inherits
	inherits []map[string]string
	like     *likeness // its labels and what it inherits, once somebody has asked
}

type namedPort struct {
	name  string
	proto uint8
	port  uint16
}

// nodeFacts are what a ClusterNetworkPolicy chooses a Node by, and what it means then. A Node is no member: no selector of
// another policy may find it.
type nodeFacts struct {
	labels selector.Map
	addrs  []netip.Addr
}

// service is what one EndpointSlice adds to a service: each of its ports at each of its addresses.
type service struct {
	namespace, name string
	ports           []protoPort
	addrs           []netip.Addr
}

type protoPort struct {
	proto uint8
	port  uint16
}

// pod gives the endpoint of a pod, or nil while it has none: not scheduled, without address, or finished
// (contract §1.9).
func pod(ref v3.Ref, o *corev1.Pod) (*member, error) {
	addrs, reported, err := podAddrs(o)
	if o.Spec.NodeName == "" || len(addrs) == 0 || finished(o) {
		return nil, err
	}
	m := &member{ref: ref, endpoint: true, node: o.Spec.NodeName, addrs: addrs, labels: map[string]string{},
		claims: !reported, created: o.CreationTimestamp}
	for k, v := range o.Labels {
		// a pod must not pass for something that its namespace or service account is
		if !strings.HasPrefix(k, namespacePrefix) && !strings.HasPrefix(k, serviceAccountPfx) {
			m.labels[k] = v
		}
	}
	if n := len(addrs); n > MaxAddrs {
		m.closed = true // at all of them
		err = errors.Join(err, fmt.Errorf("addresses: %d are more than %d: the endpoint is cut off", n, MaxAddrs))
	}
	if text := o.Annotations[annotationSources]; text != "" {
		err = errors.Join(err, m.spoofing("metadata.annotations["+annotationSources+"]", listed(text)))
	}
	m.labels[labelNamespace] = o.Namespace
	m.labels[labelOrchestrator] = "k8s"
	m.profiles = []string{"kns." + o.Namespace}
	if sa := o.Spec.ServiceAccountName; sa != "" {
		m.labels[labelServiceAccount] = sa
		m.profiles = append(m.profiles, "ksa."+o.Namespace+"."+sa)
	}
	for _, c := range slices.Concat(o.Spec.InitContainers, o.Spec.Containers) {
		for _, p := range c.Ports {
			if proto, err := protoOf(p.Protocol); err == nil && p.Name != "" && p.ContainerPort > 0 && p.ContainerPort <= 65535 {
				m.ports = append(m.ports, namedPort{p.Name, proto, uint16(p.ContainerPort)})
			}
		}
	}
	return m, errors.Join(err, m.bounded())
}

// finished pods have no address any more, though their status may still name it: it may be another's by now.
func finished(o *corev1.Pod) bool {
	given, annotated := o.Annotations[annotationPodIP]
	return o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed ||
		o.DeletionTimestamp != nil && annotated && given == ""
}

const (
	annotationPodIP   = "cni.projectcalico.org/podIP"
	annotationSources = "cni.projectcalico.org/allowedSourcePrefixes"
)

// spoofing notes from where an endpoint asks to send. Where its node does not let it, it is cut off; so it is if the request
// cannot be read (contract §1.9).
func (m *member) spoofing(field string, texts []string) error {
	var nets []netip.Prefix
	for _, t := range texts {
		p, err := parsePrefix(strings.TrimSpace(t))
		if err != nil {
			m.closed = true
			return fmt.Errorf("%s: %w: the endpoint is cut off", field, err)
		}
		nets = append(nets, p)
	}
	m.sources = mergeNets(nets)
	return Notice(field + ": unless workloadSourceSpoofing is Any where it runs, an endpoint that asks for this is cut off")
}

// listed reads a list as JSON or with commas between.
func listed(text string) (out []string) {
	if json.Unmarshal([]byte(text), &out) == nil {
		return out
	}
	return strings.Split(text, ",")
}

// podAddrs takes the first source of addresses that has any, and tells whether that is what the pod's node has reported.
func podAddrs(o *corev1.Pod) (addrs []netip.Addr, reported bool, err error) {
	var texts []string
	for _, ip := range o.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	for _, other := range []string{o.Status.PodIP, o.Annotations["cni.projectcalico.org/podIPs"],
		o.Annotations[annotationPodIP], o.Annotations["vpc.amazonaws.com/pod-ips"]} {
		if len(texts) == 0 && other != "" {
			texts = strings.Split(other, ",")
		}
	}
	addrs, err = parseAddrs("addresses", texts)
	return addrs, len(o.Status.PodIPs) > 0 || o.Status.PodIP != "", err
}

func workload(ref v3.Ref, o *v3.WorkloadEndpoint) (*member, error) {
	addrs, err := parseAddrs("spec.ipNetworks", o.Spec.IPNetworks)
	m := &member{ref: ref, endpoint: true, node: o.Spec.Node, iface: o.Spec.InterfaceName, addrs: addrs,
		labels: map[string]string{}, profiles: o.Spec.Profiles, created: o.CreationTimestamp}
	maps.Copy(m.labels, o.Labels)
	m.labels[labelNamespace] = o.Namespace
	if o.Spec.Orchestrator != "" {
		m.labels[labelOrchestrator] = o.Spec.Orchestrator
	}
	if o.Spec.ServiceAccountName != "" {
		m.labels[labelServiceAccount] = o.Spec.ServiceAccountName
	}
	errs := []error{err}
	if len(o.Spec.AllowSpoofedSourcePrefixes) > 0 {
		errs = append(errs, m.spoofing("spec.allowSpoofedSourcePrefixes", o.Spec.AllowSpoofedSourcePrefixes))
	}
	for i, p := range o.Spec.Ports {
		proto, err := v3.ParseProtocol(p.Protocol)
		if err != nil {
			errs = append(errs, fmt.Errorf("spec.ports[%d].protocol: %w", i, err))
			continue
		}
		m.ports = append(m.ports, namedPort{p.Name, proto, uint16(p.Port)})
	}
	return m, errors.Join(append(errs, m.bounded())...)
}

func hostEndpoint(ref v3.Ref, o *v3.HostEndpoint) (*member, error) {
	addrs, err := parseAddrs("spec.expectedIPs", o.Spec.ExpectedIPs)
	m := &member{ref: ref, endpoint: true, node: o.Spec.Node, iface: o.Spec.InterfaceName, addrs: addrs,
		labels: o.Labels, profiles: o.Spec.Profiles}
	errs := []error{err}
	for i, p := range o.Spec.Ports {
		proto, err := v3.ParseProtocol(p.Protocol)
		if err != nil {
			errs = append(errs, fmt.Errorf("spec.ports[%d].protocol: %w", i, err))
			continue
		}
		m.ports = append(m.ports, namedPort{p.Name, proto, uint16(p.Port)})
	}
	return m, errors.Join(append(errs, m.bounded())...)
}

// networkSet keeps what of the nets it can read: a set only ever loses the entry that makes no sense.
func networkSet(ref v3.Ref, labels map[string]string, nets []string) (*member, error) {
	m := &member{ref: ref, labels: map[string]string{}}
	maps.Copy(m.labels, labels)
	if ref.Namespace != "" {
		m.labels[labelNamespace] = ref.Namespace
		m.profiles = []string{"kns." + ref.Namespace}
	}
	var errs []error
	for i, n := range nets {
		p, err := parsePrefix(n)
		if err != nil {
			errs = append(errs, fmt.Errorf("spec.nets[%d]: %w", i, err))
			continue
		}
		if p.IsSingleIP() {
			m.addrs = append(m.addrs, p.Addr())
		} else {
			m.nets = append(m.nets, p)
		}
	}
	if len(m.nets) > MaxNets {
		if m.nets = mergeNets(m.nets); len(m.nets) > MaxNets {
			errs = append(errs, Notice(fmt.Sprintf("spec.nets: %d networks, overlapping and adjacent ones joined, are more than %d: "+
				"they are enforced, and each change of them takes a node's kernel many seconds", len(m.nets), MaxNets)))
		}
	}
	return m, some(errs)
}

// MaxNets is how many networks one set may have before its author is warned. The kernel works through all of a set's networks whenever
// one of them changes; single addresses do not count.
const MaxNets = 1_000_000

// setSlice takes in the endpoints of a service, ready or not (contract §3.4).
func (x *Index) setSlice(ref v3.Ref, o *discoveryv1.EndpointSlice) error {
	s := service{namespace: o.Namespace, name: o.Labels[discoveryv1.LabelServiceName]}
	if s.name == "" || o.AddressType == discoveryv1.AddressTypeFQDN {
		return nil
	}
	var errs []error
	for _, p := range o.Ports {
		if p.Port == nil {
			continue
		}
		proto, err := uint8(ProtoTCP), error(nil)
		if p.Protocol != nil {
			proto, err = protoOf(*p.Protocol)
		}
		errs = append(errs, err)
		if err == nil && *p.Port >= 1 && *p.Port <= 65535 {
			s.ports = append(s.ports, protoPort{proto, uint16(*p.Port)})
		}
	}
	for _, e := range o.Endpoints {
		addrs, err := parseAddrs("endpoints", e.Addresses)
		errs = append(errs, err)
		s.addrs = append(s.addrs, addrs...)
	}
	if n := len(s.ports) * len(s.addrs); n > MaxPorts {
		s.ports = nil
		errs = append(errs, fmt.Errorf("ports: %d ports at each of %d addresses are more than %d together: rules for this service's ports do not match them",
			n/len(s.addrs), len(s.addrs), MaxPorts))
	}
	x.services[ref] = s
	return some(errs)
}

func protoOf(p corev1.Protocol) (uint8, error) {
	if p == "" {
		return ProtoTCP, nil
	}
	return v3.ParseProtocol(intstr.FromString(string(p)))
}

func parseAddrs(what string, texts []string) (addrs []netip.Addr, err error) {
	var errs []error
	for i, t := range texts {
		a, err := parseAddr(strings.TrimSpace(t))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s[%d]: %w", what, i, err))
			continue
		}
		addrs = append(addrs, a)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), some(errs)
}

// parseAddr reads one address, perhaps with the full prefix length behind it.
func parseAddr(t string) (netip.Addr, error) {
	p, err := parsePrefix(t)
	if err != nil {
		return netip.Addr{}, err
	}
	if !p.IsSingleIP() {
		return netip.Addr{}, fmt.Errorf("%q is a network, not an address", t)
	}
	return p.Addr(), nil
}

// parsePrefix reads a network or an address; host bits are masked off. Zones and IPv4 mapped into IPv6 have no meaning
// to a packet filter and are refused.
func parsePrefix(t string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(t)
	if err != nil {
		a, aerr := netip.ParseAddr(t)
		if aerr != nil {
			return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network in CIDR form", t)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Zone() != "" || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not a plain IPv4 or IPv6 address", t)
	}
	return p.Masked(), nil
}

// says tells whether another reading of the object says the same.
func (m *member) says(o *member) bool {
	return m.ref == o.ref && m.endpoint == o.endpoint && m.closed == o.closed && m.node == o.node && m.iface == o.iface &&
		maps.Equal(m.labels, o.labels) && slices.Equal(m.profiles, o.profiles) && slices.Equal(m.sources, o.sources) &&
		slices.Equal(m.addrs, o.addrs) && slices.Equal(m.nets, o.nets) && slices.Equal(m.ports, o.ports) && m.claims == o.claims && m.created.Time.Equal(o.created.Time)
}

// before tells which of two workloads of a node has an address that both claim: what a node has reported goes before what a pod
// says of itself, and the younger before the older, whose end may not have been seen yet.
func (m *member) before(o *member) bool {
	switch {
	case m.claims != o.claims:
		return !m.claims
	case !m.created.Time.Equal(o.created.Time):
		return o.created.Before(&m.created)
	}
	return m.ref.Compare(o.ref) < 0
}
