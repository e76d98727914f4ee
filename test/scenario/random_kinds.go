package scenario

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	policyapi "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// hostPolicy is one that stands at a stage of host endpoints other than the normal one.
func (d draw) hostPolicy(i int) client.Object {
	o := &v3.GlobalNetworkPolicy{}
	o.TypeMeta, o.ObjectMeta = d.meta("GlobalNetworkPolicy", "", fmt.Sprintf("host-%d", i))
	o.Spec = d.hostSpec()
	v3.Default(o)
	return o
}

func (d draw) hostSpec() (s v3.GlobalNetworkPolicySpec) {
	s.PolicySpec = d.spec()
	s.Selector = pick(d, []string{"role == 'node'", "role == 'node'", "all()", "!has(projectcalico.org/namespace)", "app == 'a'"})
	s.ApplyOnForward = true
	switch d.upTo(2, "stage") {
	case 0:
		s.DoNotTrack = true
	case 1:
		s.PreDNAT, s.Egress, s.Types = true, nil, nil
	}
	return s
}

// staged is a staged policy of each kind, often with the name of one in force.
func (d draw) staged(i int) client.Object {
	deletes := d.upTo(3, "deletes") == 0
	action := pick(d, []v3.StagedAction{v3.StagedActionSet, v3.StagedActionSet, "Learn", "Ignore"})
	if deletes {
		action = v3.StagedActionDelete
	}
	var out client.Object
	switch i {
	case 0:
		s := &v3.StagedNetworkPolicy{}
		s.TypeMeta, s.ObjectMeta = d.meta("StagedNetworkPolicy", pick(d, namespaces), pick(d, letters))
		if s.Spec.StagedAction = action; !deletes {
			s.Spec.PolicySpec = d.spec()
		}
		out = s
	case 1:
		s := &v3.StagedGlobalNetworkPolicy{}
		s.TypeMeta, s.ObjectMeta = d.meta("StagedGlobalNetworkPolicy", "", pick(d, []string{"a", "b", "host-0"}))
		if s.Spec.StagedAction = action; !deletes {
			s.Spec.GlobalNetworkPolicySpec = d.global(0).(*v3.GlobalNetworkPolicy).Spec
			if d.flip("at a stage") {
				s.Spec.GlobalNetworkPolicySpec = d.hostSpec()
			}
		}
		out = s
	default:
		s := &v3.StagedKubernetesNetworkPolicy{}
		s.TypeMeta, s.ObjectMeta = d.meta("StagedKubernetesNetworkPolicy", pick(d, namespaces), pick(d, letters))
		if s.Spec.StagedAction = action; !deletes {
			s.Spec.PodSelector = d.labelSelector()
			for range d.upTo(2, "rules") {
				s.Spec.Ingress = append(s.Spec.Ingress, v3.KubernetesIngressRule{From: d.peers()})
			}
		}
		out = s
	}
	v3.Default(out)
	return out
}

// config is settings of all nodes, of one, or of those with a label.
func (d draw) config(i int) client.Object {
	o := &v3.FelixConfiguration{}
	o.TypeMeta, o.ObjectMeta = d.meta("FelixConfiguration", "", []string{"default", "node.n1", "some"}[i])
	if o.Name == "some" {
		o.Spec.NodeSelector = "zone == 'a'"
		o.CreationTimestamp = metav1.NewTime(time.Unix(int64(d.upTo(3, "age")), 0))
	}
	maybe(d, &o.Spec.DefaultEndpointToHostAction, "Drop", "Accept", "Return")
	maybe(d, &o.Spec.NFTablesFilterDenyAction, "Drop", "Reject")
	maybe(d, &o.Spec.WorkloadSourceSpoofing, "Any", "Disabled")
	maybe(d, &o.Spec.AllowVXLANPacketsFromWorkloads, true, false)
	maybe(d, &o.Spec.AllowIPIPPacketsFromWorkloads, true, false)
	maybe(d, &o.Spec.DisableConntrackInvalidCheck, true, false)
	maybe(d, &o.Spec.VXLANPort, 53, 4789)
	maybe(d, &o.Spec.NFTablesMarkMask, 0xffff0000, 0x00300000)
	maybe(d, &o.Spec.InterfacePrefix, "cali", "azv,cali", "tap")
	maybe(d, &o.Spec.LogActionRateLimit, "10/second", "1/day")
	maybe(d, &o.Spec.LogPrefix, "%t %k", "x")
	for _, list := range []**[]v3.ProtoPort{&o.Spec.FailsafeInboundHostPorts, &o.Spec.FailsafeOutboundHostPorts} {
		if d.flip("failsafe") {
			ports := d.failsafe()
			*list = &ports
		}
	}
	v3.Default(o)
	return o
}

func maybe[T any](d draw, field **T, values ...T) {
	if d.upTo(2, "said") == 0 {
		v := pick(d, values)
		*field = &v
	}
}

func (d draw) failsafe() []v3.ProtoPort {
	out := []v3.ProtoPort{}
	for range d.upTo(2, "ports") {
		p := v3.ProtoPort{Protocol: pick(d, []string{"TCP", "UDP"}), Port: pick(d, numbers)}
		if d.flip("net") {
			p.Net = pick(d, []string{"198.51.100.0/25", "2001:db8::/32", "10.0.0.0/8"})
		}
		out = append(out, p)
	}
	return out
}

// cluster is a ClusterNetworkPolicy.
func (d draw) cluster(i int) client.Object {
	o := &policyapi.ClusterNetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: "policy.networking.k8s.io/v1alpha2", Kind: "ClusterNetworkPolicy"}}
	o.Name = letters[i]
	o.Spec.Tier = pick(d, []policyapi.Tier{policyapi.AdminTier, policyapi.BaselineTier})
	o.Spec.Priority = pick(d, []int32{0, 10, 1000})
	some := d.labelSelector()
	if o.Spec.Subject.Namespaces = &some; d.flip("pods") {
		o.Spec.Subject = policyapi.ClusterNetworkPolicySubject{Pods: d.namespacedPod()}
	}
	actions := []policyapi.ClusterNetworkPolicyRuleAction{policyapi.ClusterNetworkPolicyRuleActionAccept,
		policyapi.ClusterNetworkPolicyRuleActionDeny, policyapi.ClusterNetworkPolicyRuleActionPass}
	for range d.upTo(2, "ingress") {
		p := d.clusterPeer(1)
		o.Spec.Ingress = append(o.Spec.Ingress, policyapi.ClusterNetworkPolicyIngressRule{Action: pick(d, actions),
			From:      []policyapi.ClusterNetworkPolicyIngressPeer{{Namespaces: p.Namespaces, Pods: p.Pods}},
			Protocols: d.clusterProtocols(true)})
	}
	for range d.upTo(2, "egress") {
		p := d.clusterPeer(3)
		pods := p.Namespaces != nil || p.Pods != nil
		o.Spec.Egress = append(o.Spec.Egress, policyapi.ClusterNetworkPolicyEgressRule{Action: pick(d, actions),
			To: []policyapi.ClusterNetworkPolicyEgressPeer{p}, Protocols: d.clusterProtocols(pods)})
	}
	return o
}

func (d draw) namespacedPod() *policyapi.NamespacedPod {
	return &policyapi.NamespacedPod{NamespaceSelector: d.labelSelector(), PodSelector: d.labelSelector()}
}

func (d draw) clusterPeer(kinds int) (p policyapi.ClusterNetworkPolicyEgressPeer) {
	some := d.labelSelector()
	switch d.upTo(kinds, "peer") {
	case 0:
		p.Namespaces = &some
	case 1:
		p.Pods = d.namespacedPod()
	case 2:
		p.Nodes = &some
	default:
		for _, n := range d.nets() {
			p.Networks = append(p.Networks, policyapi.CIDR(n))
		}
	}
	return p
}

func (d draw) clusterProtocols(named bool) (out []policyapi.ClusterNetworkPolicyProtocol) {
	for range d.upTo(2, "protocols") {
		var p policyapi.ClusterNetworkPolicyProtocol
		port := &policyapi.Port{Number: int32(pick(d, numbers))}
		if d.flip("range") {
			port = &policyapi.Port{Range: &policyapi.PortRange{Start: 50, End: 60}}
		}
		switch d.upTo(3, "protocol") {
		case 0:
			p.TCP = &policyapi.ClusterNetworkPolicyProtocolTCP{DestinationPort: port}
		case 1:
			p.UDP = &policyapi.ClusterNetworkPolicyProtocolUDP{DestinationPort: port}
		case 2:
			p.SCTP = &policyapi.ClusterNetworkPolicyProtocolSCTP{DestinationPort: port}
		default:
			if !named {
				continue
			}
			p.DestinationNamedPort = pick(d, portNames)
		}
		out = append(out, p)
	}
	return out
}

// sources makes a pod ask to send from other addresses.
func (d draw) sources(p *corev1.Pod) {
	if d.upTo(7, "sources") == 0 {
		p.Annotations = map[string]string{"cni.projectcalico.org/allowedSourcePrefixes": `["198.51.100.0/25","2001:db8:9::/48"]`}
	}
}

// AnyJourney is a flow that may be translated on its way, pass a node, and come in by an interface that says more than its source.
func AnyJourney(t *rapid.T, p *policy.Plan) policy.Flow {
	d, f := draw{t}, AnyFlow(t, p)
	if d.flip("plain") {
		return f
	}
	from := nodeOf(p, f.Src)
	if f.Via = pick(d, append([]string{""}, nodeNames...)); f.Via != "" {
		f.InIface = pick(d, []string{"", "eth0", "eth1", "tap0", "tap1", "cali1", "azv1"})
	}
	if f.InIface != "" {
		f.OutIface = pick(d, []string{"", "eth0", "eth1"})
	}
	d.translate(&f, p)
	if f.InIface == "" && from != "" && f.Via != from && !f.OrigDst.IsValid() {
		f.Via = "" // only a node that it is sent to is on its way
	}
	return f
}

// translate sends a flow to a service, or to a port of the node that knows where it leads.
func (d draw) translate(f *policy.Flow, p *policy.Plan) {
	from, to := nodeOf(p, f.Src), nodeOf(p, f.Dst)
	at := cmp.Or(f.Via, from, to)
	host := slices.IndexFunc(p.Hosts, func(h policy.Host) bool { return h.Name == at })
	if host < 0 || !policy.HasPorts(f.Proto) || !d.flip("translated") {
		return
	}
	own := sameFamily(p.Hosts[host].Addrs, f.Src)
	f.NATNode = at
	f.OrigDst, f.OrigDstPort = pick(d, append(own, sameFamily(serviceAddrs, f.Src)...)), pick(d, numbers)
	if at != to && len(own) > 0 && d.flip("masquerade") {
		f.Masquerade = own[0]
	}
}

var serviceAddrs = []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd96::1")}

func nodeOf(p *policy.Plan, a netip.Addr) string {
	if e := p.Workload(a); e != nil {
		return e.Node
	}
	if h := p.Host(a); h != nil {
		return h.Name
	}
	return ""
}

func sameFamily(from []netip.Addr, as netip.Addr) (out []netip.Addr) {
	for _, a := range from {
		if a.Is4() == as.Is4() {
			out = append(out, a)
		}
	}
	return out
}
