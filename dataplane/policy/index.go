// Package policy decides: objects go in, an ordered Plan comes out, and Trace says what the Plan does to a packet and
// why. It knows the semantics of Calico's and Kubernetes' policies and nothing of nftables, of the store or of the
// machine. Everything here is a pure function of the objects that the Index holds, never of the order in which they came.
package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyapi "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Options are what the operator of a node says himself.
type Options struct {
	// Felix is settings from flags, files and environment (contract §1.11.1); they win over every object.
	Felix v3.FelixConfigurationSpec
	// Base is settings over which every object wins.
	Base v3.FelixConfigurationSpec
	// Reevaluate is establishedConnections: Reevaluate (design §5).
	Reevaluate bool
}

// FailsafePort is one entry of a failsafe list; Net, if valid, restricts the other end's address.
type FailsafePort struct {
	Proto uint8
	Port  uint16
	Net   netip.Prefix
}

// Index holds what the objects say, resolved as far as one object alone allows. Each map is keyed by the object that
// said it, so that to forget an object is to delete its key everywhere.
type Index struct {
	node     string
	options  Options
	tiers    map[v3.Ref]tier
	books    map[v3.Ref]*book
	profiles map[v3.Ref]*profile
	members  map[v3.Ref]*member
	services map[v3.Ref]service
	hosts    map[v3.Ref]Host
	nodes    map[v3.Ref]nodeFacts
	configs  map[v3.Ref]config
	staged   map[v3.Ref]*book
	ifaces   []Iface // what the node really has; nil when nobody said
	released bool    // host endpoints guard nothing

	last    *builder           // of the last plan
	stale   bool               // something other than a member has changed since
	slices  int                // how often an EndpointSlice has
	owned   map[v3.Ref]*member // the members that the plan guards
	ordered []*member          // the same, by Ref; nil when that has to be found anew
	asking  map[v3.Ref]bool    // the members of which settings decide whether they are closed
	changed map[v3.Ref]*member // the members that have, as they were: nil for those that were not
}

// NewIndex makes an Index whose Plan is for one node, or for every node when node is "".
func NewIndex(node string, o Options) *Index {
	return &Index{
		node: node, options: o,
		tiers: map[v3.Ref]tier{}, books: map[v3.Ref]*book{}, profiles: map[v3.Ref]*profile{},
		members: map[v3.Ref]*member{}, services: map[v3.Ref]service{}, hosts: map[v3.Ref]Host{},
		nodes: map[v3.Ref]nodeFacts{}, configs: map[v3.Ref]config{}, staged: map[v3.Ref]*book{}, changed: map[v3.Ref]*member{}, owned: map[v3.Ref]*member{}, asking: map[v3.Ref]bool{},
	}
}

// Set takes in an object, in place of what it said before. An error tells what of the object cannot be enforced as it
// is written; that part fails closed (design: an Allow or Log rule matches nothing, a Deny or Pass rule denies
// everything at its place, a policy whose own selector is not understood selects nothing) and the rest holds.
// Objects of kinds that have no bearing on policy are ignored.
func (x *Index) Set(obj metav1.Object) error {
	ref := v3.Ref{Namespace: obj.GetNamespace(), Name: obj.GetName()}
	var set func() error
	switch o := obj.(type) {
	case *v3.Tier:
		ref.Kind, set = "Tier", func() error { x.tiers[ref] = tierOf(o); return nil }
	case *v3.NetworkPolicy:
		ref.Kind, set = "NetworkPolicy", func() error { return x.setBook(ref, specOf(&o.Spec)) }
	case *v3.GlobalNetworkPolicy:
		ref.Kind, set = "GlobalNetworkPolicy", func() error { return x.setBook(ref, globalSpec(&o.Spec)) }
	case *v3.StagedNetworkPolicy:
		ref.Kind, set = "StagedNetworkPolicy", func() error { return x.setStaged(ref, o.Spec.StagedAction, specOf(&o.Spec.NetworkPolicySpec)) }
	case *v3.StagedGlobalNetworkPolicy:
		ref.Kind, set = "StagedGlobalNetworkPolicy", func() error {
			return x.setStaged(ref, o.Spec.StagedAction, globalSpec(&o.Spec.GlobalNetworkPolicySpec))
		}
	case *v3.StagedKubernetesNetworkPolicy:
		ref.Kind, set = "StagedKubernetesNetworkPolicy", func() error { return x.setStagedKubernetes(ref, o) }
	case *networkingv1.NetworkPolicy:
		ref.Kind, set = v3.KindKubernetesNetworkPolicy, func() error { return x.setKubernetes(ref, o) }
	case *policyapi.ClusterNetworkPolicy:
		ref.Kind, set = v3.KindKubernetesClusterNetworkPolicy, func() error { return x.setClusterNetwork(ref, o) }
	case *v3.Profile:
		ref.Kind, set = "Profile", func() error { return x.setProfile(ref, o) }
	case *corev1.Namespace:
		ref.Kind, set = "Namespace", func() error { x.profiles[ref] = namespaceProfile(o); return nil }
	case *corev1.ServiceAccount:
		ref.Kind, set = "ServiceAccount", func() error { x.profiles[ref] = serviceAccountProfile(o); return nil }
	case *corev1.Pod:
		ref.Kind, set = "Pod", func() error { return x.setPod(ref, o) }
	case *v3.WorkloadEndpoint:
		ref.Kind, set = "WorkloadEndpoint", func() error { return x.setMember(workload(ref, o)) }
	case *v3.HostEndpoint:
		ref.Kind, set = "HostEndpoint", func() error { return x.setHostEndpoint(ref, o) }
	case *v3.GlobalNetworkSet:
		ref.Kind, set = "GlobalNetworkSet", func() error { return x.setMember(networkSet(ref, o.Labels, o.Spec.Nets)) }
	case *v3.NetworkSet:
		ref.Kind, set = "NetworkSet", func() error { return x.setMember(networkSet(ref, o.Labels, o.Spec.Nets)) }
	case *corev1.Node:
		ref.Kind, set = "Node", func() error { return x.setNode(ref, o) }
	case *v3.FelixConfiguration:
		ref.Kind, set = "FelixConfiguration", func() error { return x.setConfig(ref, o) }
	case *discoveryv1.EndpointSlice:
		ref.Kind, set = "EndpointSlice", func() error { return x.setSlice(ref, o) }
	default:
		return nil
	}
	before := x.said(ref)
	x.forget(ref)
	err := set()
	x.note(ref, before)
	if err != nil {
		return fmt.Errorf("%s: %w", ref, err)
	}
	return nil
}

// Delete forgets an object.
func (x *Index) Delete(ref v3.Ref) {
	before := x.said(ref)
	x.forget(ref)
	x.note(ref, before)
}

// said is what an object says of nodes, namespaces and members: those are often written again without a change that matters here.
type said struct {
	member  *member
	profile *profile
	host    Host
	node    nodeFacts
	others  bool // it says something else as well
}

func (x *Index) said(ref v3.Ref) said {
	s := said{member: x.members[ref], profile: x.profiles[ref], host: x.hosts[ref], node: x.nodes[ref]}
	for _, there := range []bool{has(x.tiers, ref), has(x.books, ref), has(x.configs, ref), has(x.staged, ref)} {
		s.others = s.others || there
	}
	return s
}

func has[K comparable, V any](in map[K]V, ref K) bool {
	_, ok := in[ref]
	return ok
}

// note sees what the next plan has to do about an object that was set or deleted.
func (x *Index) note(ref v3.Ref, was said) {
	now := x.said(ref)
	if now.member != nil && len(now.member.sources) > 0 {
		x.asking[ref] = true
	} else {
		delete(x.asking, ref)
	}
	if ref.Kind == "EndpointSlice" {
		x.slices++
	}
	if was.member != nil || now.member != nil {
		x.noteMember(ref, was.member, now.member)
	}
	if !reflect.DeepEqual(was.profile, now.profile) {
		x.stale = true
		x.noteHeirs(was.profile)
		x.noteHeirs(now.profile)
	}
	if was.others || now.others || !reflect.DeepEqual(was.host, now.host) || !reflect.DeepEqual(was.node, now.node) {
		x.stale = true
		x.noteAsking()
	}
}

func (x *Index) noteMember(ref v3.Ref, was, now *member) {
	if was != nil && now != nil && was.says(now) {
		x.members[ref] = was // with what is known of it
		return
	}
	if ref.Kind == "HostEndpoint" || ifaceOf(was) != ifaceOf(now) { // no host endpoint stands on a workload's interface
		x.stale = true
	}
	if _, ok := x.changed[ref]; !ok {
		x.changed[ref] = was
	}
	x.keep(ref)
}

func ifaceOf(m *member) string {
	if m == nil {
		return ""
	}
	return m.iface
}

// noteHeirs are the members that inherit a profile's labels.
func (x *Index) noteHeirs(p *profile) {
	if p == nil {
		return
	}
	for ref, m := range x.members {
		if slices.Contains(m.profiles, p.name) {
			x.again(ref, m)
		}
	}
}

// noteAsking are those of which settings decide whether they are closed.
func (x *Index) noteAsking() {
	for ref := range x.asking {
		x.again(ref, x.members[ref])
	}
}

// again has a member looked at again though it says the same. It is then another member, so that nothing built of it is kept.
func (x *Index) again(ref v3.Ref, m *member) {
	if _, ok := x.changed[ref]; ok {
		return
	}
	same := *m
	same.in, same.found, same.inherits, same.like = nil, false, nil, nil
	x.members[ref], x.changed[ref] = &same, m
	x.keep(ref)
}

func (x *Index) forget(ref v3.Ref) {
	delete(x.tiers, ref)
	delete(x.books, ref)
	delete(x.profiles, ref)
	delete(x.members, ref)
	delete(x.services, ref)
	delete(x.hosts, ref)
	delete(x.nodes, ref)
	delete(x.configs, ref)
	delete(x.staged, ref)
}

// setMember keeps what could be read of a member beside the error about the rest.
func (x *Index) setMember(m *member, err error) error {
	if m != nil {
		x.members[m.ref] = m
	}
	return err
}

func (x *Index) setPod(ref v3.Ref, o *corev1.Pod) error {
	if o.Spec.HostNetwork { // the pod is its host: only host endpoint policy applies (contract §4.4)
		addrs, _, err := podAddrs(o)
		if o.Spec.NodeName != "" && len(addrs) > 0 {
			x.hosts[ref] = Host{Name: o.Spec.NodeName, Addrs: addrs}
		}
		return err
	}
	return x.setMember(pod(ref, o))
}

func (x *Index) setHostEndpoint(ref v3.Ref, o *v3.HostEndpoint) error {
	m, err := hostEndpoint(ref, o)
	x.hosts[ref] = Host{Name: o.Spec.Node, Addrs: m.addrs}
	return errors.Join(err, x.setMember(m, nil))
}

func (x *Index) setNode(ref v3.Ref, o *corev1.Node) error {
	h := Host{Name: o.Name}
	var errs []error
	for _, a := range o.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		addr, err := parseAddr(a.Address)
		if err != nil {
			errs = append(errs, fmt.Errorf("status.addresses: %w", err))
			continue
		}
		h.Addrs = append(h.Addrs, addr)
	}
	x.hosts[ref], x.nodes[ref] = h, nodeFacts{labels: o.Labels, addrs: h.Addrs}
	return errors.Join(errs...)
}
