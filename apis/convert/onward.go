package convert

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Kubernetes is what Kubernetes' policies say of a whole set of objects, and what they cannot say, by whose it is.
type Kubernetes struct {
	Objects []v3.Object // what is not Calico's as it is, then policies as they are asked
	Losses  map[v3.Ref][]Loss
}

// ToKubernetes gives Kubernetes' policies that decide about pods as all these objects do together. The objects have their defaults, and must be all that
// there are: where a policy stands among the others counts, and which network sets a rule finds.
//
//	Calico's tiers           ClusterNetworkPolicy, tier Admin    NetworkPolicy             ClusterNetworkPolicy, tier Baseline
//	those before default     all, in order; their default Deny
//	default                  what must come before a Deny;       what else is allowed;     what of global policies is
//	                         what global policies allow out      that the rest is denied   not allowed out
//	those behind it                                                                        all, in order; their default Deny
//
// A NetworkPolicy has no order and denies what none of them allows, as tier default does with what nothing in it decides: so rules that allow have no
// order, but where a rule that denies comes before others. A ClusterNetworkPolicy cannot speak of who is no pod on the way in, so a global policy's ingress is
// a NetworkPolicy of each of its namespaces.
func ToKubernetes(all []v3.Object) Kubernetes {
	k := onward{losses: map[v3.Ref][]Loss{}, namespaces: map[string]*corev1.Namespace{}, tiers: map[string]*tier{
		"kube-admin":    {name: "kube-admin", order: 1000, pass: true},
		v3.DefaultTier:  {name: v3.DefaultTier, order: v3.DefaultTierOrder},
		"kube-baseline": {name: "kube-baseline", order: 10_000_000, pass: true},
	}}
	for _, o := range all {
		if n, ok := o.(*corev1.Namespace); ok {
			k.namespaces[n.Name] = n
		}
	}
	for _, o := range all {
		k.setting(o)
	}
	for _, o := range all {
		k.policy(o)
	}
	k.convert()
	return Kubernetes{append(k.others, k.written()...), k.losses}
}

// direction of packets, seen from the pods of a policy.
type direction int

const (
	ingress direction = iota
	egress
)

var directions = [...]struct{ field, far, near string }{ingress: {"spec.ingress", "source", "destination"}, egress: {"spec.egress", "destination", "source"}}

// onward is a conversion on its way.
type onward struct {
	losses     map[v3.Ref][]Loss
	namespaces map[string]*corev1.Namespace
	sets       []netset
	tiers      map[string]*tier
	others     []v3.Object

	admin, baseline []item // ClusterNetworkPolicies, in order
	names           map[v3.Ref]bool
	networks        []v3.Object
}

// tier with its policies in order.
type tier struct {
	name    string
	order   float64
	pass    bool // what none of its policies decides
	missing bool
	entries []*entry
}

// entry is a policy.
type entry struct {
	ref       v3.Ref
	meta      metav1.ObjectMeta
	order     float64
	who       choice
	home      string // the namespace of a policy that has one
	says      [2]bool
	clauses   [2][]*clause
	stays     v3.Object // it is Kubernetes' already
	clustered *v1alpha2.ClusterNetworkPolicy
}

// clause is a rule of one direction.
type clause struct {
	*entry
	at      string
	name    string
	action  v3.Action
	all     bool // it matches everything
	matches []match
	ahead   bool // it stands before all NetworkPolicies
	lost    losses
}

// everyPod is who may have ports by name, or be of a ClusterNetworkPolicy's ingress.
var everyPod = peer{pods: &choice{}}

// match is peers, each with each of the ports.
type match struct {
	peers []peer
	ports ports
}

// peer is everybody, pods, or a block of addresses.
type peer struct {
	pods  *choice
	block *block
}

// ports of a protocol; without any it is all of them, and without a protocol it is everything.
type ports struct {
	protocol corev1.Protocol
	ranges   [][2]int32
	names    []string
}

func (k *onward) lose(ref v3.Ref, then Then, field, format string, args ...any) {
	k.losses[ref] = append(k.losses[ref], Loss{field, fmt.Sprintf(format, args...), then})
}

// setting takes in what policies refer to, and what is no policy.
func (k *onward) setting(o v3.Object) {
	ref := v3.RefOf(o)
	switch o := o.(type) {
	case *v3.Tier:
		t := &tier{name: o.Name, order: v3.DefaultTierOrder}
		if o.Spec.Order != nil {
			t.order = *o.Spec.Order
		}
		t.pass = o.Spec.DefaultAction != nil && *o.Spec.DefaultAction == v3.Pass
		k.tiers[o.Name] = t
	case *v3.GlobalNetworkSet:
		k.sets = append(k.sets, newNetset(o, o.Spec.Nets, k.namespaces))
	case *v3.NetworkSet:
		k.sets = append(k.sets, newNetset(o, o.Spec.Nets, k.namespaces))
	case *v3.GlobalNetworkPolicy, *v3.NetworkPolicy, *networkingv1.NetworkPolicy, *v1alpha2.ClusterNetworkPolicy:
	case *v3.StagedGlobalNetworkPolicy, *v3.StagedNetworkPolicy, *v3.StagedKubernetesNetworkPolicy:
		k.lose(ref, Nothing, "kind", "Kubernetes has no staged policies")
	case *v3.HostEndpoint:
		k.lose(ref, Opens, "kind", "Kubernetes has no policies for hosts: nothing would guard this one")
	case *v3.WorkloadEndpoint:
		k.lose(ref, Opens, "kind", "Kubernetes' policies are for pods alone: nothing would guard this one")
	default:
		if o.GetObjectKind().GroupVersionKind().Group == v3.GroupVersion.Group {
			k.lose(ref, Differs, "kind", "Kubernetes has no %s", ref.Kind)
			return
		}
		k.others = append(k.others, o)
	}
}

// policy takes one into its tier.
func (k *onward) policy(o v3.Object) {
	switch o := o.(type) {
	case *v3.NetworkPolicy:
		k.enter(&entry{ref: v3.RefOf(o), meta: o.ObjectMeta, home: o.Namespace}, &o.Spec.PolicySpec, "")
	case *v3.GlobalNetworkPolicy:
		ref := v3.RefOf(o)
		for _, f := range []struct {
			name string
			said bool
		}{{"doNotTrack", o.Spec.DoNotTrack}, {"preDNAT", o.Spec.PreDNAT}, {"applyOnForward", o.Spec.ApplyOnForward && !o.Spec.DoNotTrack && !o.Spec.PreDNAT}} {
			if f.said {
				k.lose(ref, Opens, "spec."+f.name, "is for hosts, and Kubernetes has no policies for them")
			}
		}
		if !o.Spec.DoNotTrack && !o.Spec.PreDNAT { // which are nothing to pods
			k.enter(&entry{ref: ref, meta: o.ObjectMeta}, &o.Spec.PolicySpec, o.Spec.NamespaceSelector)
		}
	case *networkingv1.NetworkPolicy:
		there, _ := ToCalico(o)
		k.enter(&entry{ref: v3.RefOf(o), home: o.Namespace, stays: o}, &there.Spec.PolicySpec, "")
	case *v1alpha2.ClusterNetworkPolicy:
		name := map[v1alpha2.Tier]string{v1alpha2.AdminTier: "kube-admin", v1alpha2.BaselineTier: "kube-baseline"}[o.Spec.Tier]
		e := &entry{ref: v3.RefOf(o), order: float64(o.Spec.Priority), clustered: o, says: [2]bool{len(o.Spec.Ingress) > 0, len(o.Spec.Egress) > 0}}
		if k.tiers[name] == nil {
			k.lose(e.ref, Opens, "spec.tier", "%q is neither Admin nor Baseline", o.Spec.Tier)
			return
		}
		for i, r := range o.Spec.Ingress {
			e.clauses[ingress] = append(e.clauses[ingress], &clause{entry: e, at: fmt.Sprintf("spec.ingress[%d]", i), action: v3.Action(r.Action)})
		}
		for i, r := range o.Spec.Egress {
			e.clauses[egress] = append(e.clauses[egress], &clause{entry: e, at: fmt.Sprintf("spec.egress[%d]", i), action: v3.Action(r.Action)})
		}
		k.tiers[name].entries = append(k.tiers[name].entries, e)
	}
}

func (k *onward) enter(e *entry, s *v3.PolicySpec, of string) {
	e.order = math.Inf(1)
	if s.Order != nil {
		e.order = *s.Order
	}
	var lost losses
	e.who = lost.choose("spec", e.home, s.Selector, of)
	if s.ServiceAccountSelector != "" {
		lost.add("spec.serviceAccountSelector", "Kubernetes selects by pods' labels alone")
	}
	for _, l := range lost {
		k.lose(e.ref, Opens, l.Field, "%s", l.Why)
	}
	for _, t := range s.Types {
		e.says[map[v3.PolicyType]direction{v3.PolicyTypeIngress: ingress, v3.PolicyTypeEgress: egress}[t]] = true
	}
	for d, rules := range [2][]v3.Rule{s.Ingress, s.Egress} {
		for i := range rules {
			if e.says[d] {
				k.clause(e, direction(d), i, &rules[i])
			}
		}
	}
	name := cmp.Or(s.Tier, v3.DefaultTier)
	if k.tiers[name] == nil {
		k.tiers[name] = &tier{name: name, order: math.Inf(1), missing: true}
	}
	if k.tiers[name].missing {
		k.lose(e.ref, Opens, "spec.tier", "the Tier %s is not among the objects: where it stands is not known", name)
	}
	k.tiers[name].entries = append(k.tiers[name].entries, e)
}

// clause is a rule, if Kubernetes has words for it. One of which something cannot be said is lost as a whole: without a criterion it would be about more.
func (k *onward) clause(e *entry, d direction, i int, r *v3.Rule) {
	c := &clause{entry: e, at: fmt.Sprintf("%s[%d]", directions[d].field, i), action: r.Action, all: matchesAll(r)}
	if e.stays != nil {
		c.at = directions[d].field // what it is made of is not what people wrote
	}
	if r.Metadata != nil {
		c.name = r.Metadata.Annotations["name"]
	}
	if r.Action == v3.Log {
		k.lose(e.ref, Nothing, c.at+".action", "Kubernetes' policies do not log")
		return
	}
	far, near := &r.Source, &r.Destination
	if d == egress {
		far, near = near, far
	}
	var lost losses
	for _, f := range []struct {
		name string
		said bool
	}{{"notProtocol", r.NotProtocol != nil}, {"icmp", r.ICMP != nil}, {"notICMP", r.NotICMP != nil}, {"http", r.HTTP != nil}} {
		if f.said {
			lost.add(c.at+"."+f.name, "Kubernetes' rules have no such criterion")
		}
	}
	for _, end := range []struct {
		e     *v3.EntityRule
		name  string
		known []string
	}{{far, directions[d].far, []string{"nets", "notNets", "selector", "namespaceSelector"}}, {near, directions[d].near, nil}} {
		for _, f := range said(end.e) {
			if !slices.Contains(end.known, f) && (f != "ports" || end.e != &r.Destination) {
				lost.add(c.at+"."+end.name+"."+f, "Kubernetes' rules have no such criterion")
			}
		}
	}
	p := lost.ports(c.at, r.Protocol, r.Destination.Ports)
	if d == egress && len(p.names) > 0 && (len(far.Nets)+len(far.NotNets) > 0 || r.IPVersion != nil) {
		lost.add(c.at+".destination.ports", "Kubernetes' addresses have no ports by name")
	}
	c.matches = parted(d, k.peers(&lost, c, d, far, r.IPVersion), p)
	if c.lost = lost; len(lost) == 0 || e.stays != nil { // which says it itself
		e.clauses[d] = append(e.clauses[d], c)
	} else {
		k.loseRule(c, lost)
	}
}

// loseRule says what becomes of a rule that cannot be said.
func (k *onward) loseRule(c *clause, lost losses) {
	then := Opens
	if c.action == v3.Allow {
		then = Denies
	}
	for _, l := range lost {
		k.lose(c.ref, then, l.Field, "%s", l.Why)
	}
}

// parted are peers and ports that go together: addresses have no ports by name.
func parted(d direction, peers []peer, p ports) (out []match) {
	if len(peers) == 0 { // who is found by a selector now: nobody
		return nil
	}
	if d == ingress || len(p.names) == 0 {
		return []match{{peers, p}}
	}
	var pods, addresses []peer
	for _, peer := range peers {
		switch {
		case peer.pods != nil:
			pods = append(pods, peer)
		case peer.block != nil:
			addresses = append(addresses, peer)
		default:
			pods, addresses = append(pods, everyPod), append(addresses, peer)
		}
	}
	if len(pods) > 0 {
		out = append(out, match{pods, p})
	}
	if len(addresses) > 0 && len(p.ranges) > 0 {
		out = append(out, match{addresses, ports{p.protocol, p.ranges, nil}})
	}
	return out
}

func (l *losses) ports(at string, protocol *intstr.IntOrString, in []intstr.IntOrString) (out ports) {
	if protocol != nil {
		out.protocol = corev1.Protocol(strings.ToUpper(protocol.String()))
		if name, ok := map[corev1.Protocol]corev1.Protocol{"6": corev1.ProtocolTCP, "17": corev1.ProtocolUDP, "132": corev1.ProtocolSCTP}[out.protocol]; ok {
			out.protocol = name
		}
		if !slices.Contains(protocols, out.protocol) {
			l.add(at+".protocol", "Kubernetes knows TCP, UDP and SCTP, and not %s", protocol.String())
		}
	}
	for i, port := range in {
		var first, last int32
		switch {
		case port.Type == intstr.Int:
			first, last = port.IntVal, port.IntVal
		case scanned(port.StrVal, "%d:%d", &first, &last):
		case scanned(port.StrVal, "%d", &first):
			last = first
		default:
			out.names = append(out.names, port.StrVal)
			continue
		}
		if first < 1 || last < first || last > math.MaxUint16 {
			l.add(fmt.Sprintf("%s.destination.ports[%d]", at, i), "%s is no port", port.String())
		}
		out.ranges = append(out.ranges, [2]int32{first, last})
	}
	return out
}

var protocols = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}

// scanned tells whether a text is all of a form.
func scanned(text, form string, into ...any) bool {
	var rest string
	n, _ := fmt.Sscanf(text, form+"%s", append(slices.Clone(into), &rest)...)
	return n == len(into) && rest == ""
}

var everywhere = map[int]netip.Prefix{4: netip.MustParsePrefix("0.0.0.0/0"), 6: netip.MustParsePrefix("::/0")}

func (k *onward) peers(lost *losses, c *clause, d direction, far *v3.EntityRule, version *int) (out []peer) {
	at := c.at + "." + directions[d].far
	chosen, addressed := far.Selector != "" || far.NamespaceSelector != "", len(far.Nets)+len(far.NotNets) > 0
	switch {
	case chosen && addressed:
		lost.add(at+".nets", "Kubernetes has pods or addresses, and not pods with addresses")
		return nil
	case chosen && version != nil:
		lost.add(c.at+".ipVersion", "Kubernetes has pods with all their addresses")
		return nil
	case addressed:
		for _, b := range lost.blocks(at, far) {
			out = append(out, peer{block: &b})
		}
		return out
	case version != nil:
		return []peer{{block: &block{cidr: everywhere[*version]}}}
	case !chosen:
		return []peer{{}}
	}
	return k.chosen(lost, at, c.entry, far)
}

// chosen are pods, and the addresses of network sets with such labels: as they are now, for Kubernetes has no network sets.
func (k *onward) chosen(lost *losses, at string, e *entry, far *v3.EntityRule) (out []peer) {
	global := strings.TrimSpace(far.NamespaceSelector) == "global()"
	if !global {
		c := lost.choose(at, e.home, far.Selector, far.NamespaceSelector)
		out = append(out, peer{pods: &c})
	}
	by := at + ".selector"
	if far.Selector == "" {
		by = at + ".namespaceSelector"
	}
	var found []string
	for _, s := range k.sets {
		if s.lone && asksNamespaces(far.NamespaceSelector) {
			lost.add(at+".namespaceSelector", "whether it finds %s is not known: the Namespace is not among the objects", s.ref)
		}
		if !s.isFound(far, e.home) {
			continue
		}
		if e.stays != nil { // Calico lets a namespaceSelector alone find them
			k.lose(e.ref, Denies, at, "finds %s, and in Kubernetes pods alone", s.ref)
			continue
		}
		found = append(found, s.ref.String())
		for _, p := range lost.prefixes(by, s.nets) {
			out = append(out, peer{block: &block{cidr: p}})
		}
	}
	switch {
	case len(found) > 0:
		k.lose(e.ref, Frozen, by, "has the networks of %s", strings.Join(found, ", "))
	case global:
		lost.add(at+".namespaceSelector", "no network set among the objects is found, and Kubernetes has none")
	case len(k.sets) == 0 && e.home == "" && far.NamespaceSelector == "" && e.stays == nil:
		k.lose(e.ref, Frozen, by, "finds pods alone: there is no network set among the objects")
	}
	return out
}

// overlaps tells whether there may be a pod that both are for.
func (e *entry) overlaps(o *entry) bool {
	return !apart(e.who.namespaces, o.who.namespaces) && !apart(e.who.pods, o.who.pods)
}

// covers tells whether all pods that another is for are this one's, as far as one can say without asking them.
func (e *entry) covers(o *entry) bool {
	return e.clustered == nil && o.clustered == nil && (len(e.who.namespaces)+len(e.who.pods) == 0 ||
		reflect.DeepEqual(e.who.namespaces, o.who.namespaces) && reflect.DeepEqual(e.who.pods, o.who.pods))
}

// convert puts every tier where it goes.
func (k *onward) convert() {
	all := slices.SortedFunc(maps.Values(k.tiers), func(a, b *tier) int { return cmp.Or(cmp.Compare(a.order, b.order), strings.Compare(a.name, b.name)) })
	for _, t := range all {
		slices.SortFunc(t.entries, func(a, b *entry) int { return cmp.Or(cmp.Compare(a.order, b.order), strings.Compare(a.key(), b.key())) })
	}
	at := slices.IndexFunc(all, func(t *tier) bool { return t.name == v3.DefaultTier })
	var behind behind
	for _, t := range slices.Backward(all[at+1:]) {
		k.baseline = append(k.tier(t, v1alpha2.BaselineTier, &behind), k.baseline...)
	}
	ends, ahead := k.defaultTier(all[at], &behind)
	k.baseline = append(ends, k.baseline...)
	k.admin = ahead
	behind = [2][]*entry{}
	for _, i := range ahead {
		behind.note(i)
	}
	for _, t := range slices.Backward(all[:at]) {
		k.admin = append(k.tier(t, v1alpha2.AdminTier, &behind), k.admin...)
	}
}

// key is how policies of one order are sorted (contract §4.1).
func (e *entry) key() string { return e.ref.Name + "/" + e.ref.Namespace + "/" + e.ref.Kind }

// behind are policies that a rule which passes would skip, were it said with Kubernetes' Pass: that skips all of Admin, or of Baseline.
type behind [2][]*entry

func (b *behind) note(i item) {
	for d := range b {
		if len(i.rules[d]) > 0 || i.clustered != nil && i.says[d] {
			b[d] = append(b[d], i.entry)
		}
	}
}

// tier is one before or behind tier default, with its end.
func (k *onward) tier(t *tier, to v1alpha2.Tier, b *behind) (out []item) {
	var ends [2][]*entry
	for _, e := range t.entries {
		for d := range e.says {
			decided := func(by *entry) bool {
				return by.covers(e) && slices.ContainsFunc(by.clauses[d], func(c *clause) bool { return c.all })
			}
			if e.says[d] && !t.pass && !slices.ContainsFunc(t.entries, decided) {
				ends[d] = append(ends[d], e)
			}
		}
	}
	for at, e := range t.entries {
		i := item{entry: e}
		for d, clauses := range e.clauses {
			for n, c := range clauses {
				over := c.overlaps
				last := n == len(clauses)-1 && !slices.ContainsFunc(t.entries[at+1:], func(l *entry) bool { return len(l.clauses[d]) > 0 && over(l) })
				if c.action == v3.Pass && !k.passes(c, to, last && !slices.ContainsFunc(ends[d], over), b[d]) {
					continue
				}
				i.rules[d] = append(i.rules[d], k.clusterRules(direction(d), c)...)
			}
		}
		out = append(out, i)
	}
	for _, e := range ends[ingress] {
		k.lose(e.ref, Opens, "spec.tier", "what nothing in tier %s decides is denied there, and a ClusterNetworkPolicy cannot deny ingress from who is no pod: "+
			"let the policy end with a rule that allows or passes all", t.name)
	}
	for _, e := range ends[egress] {
		if !slices.ContainsFunc(out, func(i item) bool { return i.part != "" && i.covers(e) }) {
			out = append(out, k.end(e))
		}
	}
	for _, i := range out {
		b.note(i)
	}
	return out
}

// passes tells whether a rule that passes is to be said. The last one need not be: packets go on as if nothing matched.
func (k *onward) passes(c *clause, to v1alpha2.Tier, last bool, behind []*entry) bool {
	if last && c.clustered == nil {
		return false
	}
	if i := slices.IndexFunc(behind, c.overlaps); i >= 0 {
		k.lose(c.ref, Opens, c.at+".action", "Kubernetes' Pass goes to behind tier %s, and what it passes must be asked of %s first", to, behind[i].ref)
		return false
	}
	return true
}

// end denies all egress.
func (k *onward) end(e *entry) item {
	i := item{entry: e, part: "end"}
	i.rules[egress] = k.clusterRules(egress, &clause{entry: e, at: "spec.tier", action: v3.Deny, matches: []match{{peers: []peer{{}}}}})
	return i
}

// defaultTier is where NetworkPolicies stand.
func (k *onward) defaultTier(t *tier, b *behind) (ends, ahead []item) {
	rules := map[*entry]*[2][]clusterRule{}
	for d := range directions {
		d := direction(d)
		var all []*clause
		for _, e := range t.entries {
			if e.says[d] {
				all = append(all, e.clauses[d]...)
			}
		}
		k.order(d, all, b[d])
		for _, c := range all {
			if c.ahead {
				if rules[c.entry] == nil {
					rules[c.entry] = &[2][]clusterRule{}
				}
				k.loseRule(c, c.lost)
				rules[c.entry][d] = append(rules[c.entry][d], k.clusterRules(d, c)...)
			}
		}
	}
	for _, e := range t.entries {
		if rules[e] != nil {
			ahead = append(ahead, item{entry: e, rules: *rules[e]})
		}
		k.network(e)
		if e.says[egress] && e.byCluster(egress) && !slices.ContainsFunc(ends, func(i item) bool { return i.covers(e) }) {
			ends = append(ends, k.end(e))
		}
	}
	return ends, ahead
}

// byCluster tells whether what a policy of tier default says of a direction is a ClusterNetworkPolicy's.
func (e *entry) byCluster(d direction) bool {
	_, named := e.who.names()
	return d == egress && e.home == "" && !named
}

// order tells which rules of tier default must stand before all NetworkPolicies: those that deny what a later one may allow, and those that allow
// what such a one denies.
func (k *onward) order(d direction, all []*clause, behind []*entry) {
	for i, c := range slices.Backward(all) {
		if c.action == v3.Pass {
			c.action = v3.Allow // as the profile of its namespace does
			if n := slices.IndexFunc(behind, c.overlaps); n >= 0 {
				k.lose(c.ref, Opens, c.at+".action", "Kubernetes' policies pass nothing on, and %s may deny what this passes", behind[n].ref)
			}
		}
		later := func(by func(*clause) bool) bool {
			return slices.ContainsFunc(all[i+1:], func(l *clause) bool { return l.overlaps(c.entry) && by(l) })
		}
		if c.action == v3.Allow {
			c.ahead = c.byCluster(d) || later(func(l *clause) bool { return l.action == v3.Deny && l.ahead })
		} else {
			c.ahead = later(func(l *clause) bool { return l.action == v3.Allow })
		}
	}
}

// network gives the NetworkPolicies of a policy of tier default: one in each of its namespaces.
func (k *onward) network(e *entry) {
	if e.stays != nil {
		k.networks = append(k.networks, e.stays)
		return
	}
	says := [2]bool{e.says[ingress], e.says[egress] && !e.byCluster(egress)}
	if says == [2]bool{} {
		return
	}
	for _, home := range k.namespacesOf(e) {
		out := &networkingv1.NetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"}, ObjectMeta: meta(&e.meta)}
		delete(out.Labels, v3.LabelTier)
		out.Namespace = home
		k.rename(out)
		out.Spec.PodSelector = labelSelector(e.who.pods)
		if says[ingress] {
			out.Spec.PolicyTypes = append(out.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
		}
		if says[egress] {
			out.Spec.PolicyTypes = append(out.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
		for d, clauses := range e.clauses {
			for _, c := range clauses {
				if !says[d] || c.ahead || c.action != v3.Allow {
					continue
				}
				for _, m := range c.matches {
					peers, ports := m.networkPeers(home), m.ports.network()
					if d == int(ingress) {
						out.Spec.Ingress = append(out.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: peers, Ports: ports})
					} else {
						out.Spec.Egress = append(out.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: peers, Ports: ports})
					}
				}
			}
		}
		k.networks = append(k.networks, out)
	}
}

// namespacesOf a policy of tier default.
func (k *onward) namespacesOf(e *entry) (out []string) {
	if e.home != "" {
		return []string{e.home}
	}
	if names, ok := e.who.names(); ok {
		return names
	}
	if len(k.namespaces) == 0 {
		k.lose(e.ref, Opens, "spec.namespaceSelector", "a NetworkPolicy is of one namespace, and the Namespaces are not among the objects")
		return nil
	}
	of := labelSelector(e.who.namespaces)
	s, err := metav1.LabelSelectorAsSelector(&of)
	if err != nil {
		k.lose(e.ref, Opens, "spec.namespaceSelector", "%v", err)
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(k.namespaces)) {
		own := labels.Merge(k.namespaces[name].Labels, labels.Set{corev1.LabelMetadataName: name})
		if s.Matches(own) {
			out = append(out, name)
		}
	}
	k.lose(e.ref, Frozen, "spec.namespaceSelector", "is a NetworkPolicy in each of %d namespaces: one that is made later has none", len(out))
	return out
}

func (m *match) networkPeers(home string) (out []networkingv1.NetworkPolicyPeer) {
	for _, p := range m.peers {
		switch {
		case p.block != nil:
			b := &networkingv1.IPBlock{CIDR: p.block.cidr.String()}
			for _, not := range p.block.except {
				b.Except = append(b.Except, not.String())
			}
			out = append(out, networkingv1.NetworkPolicyPeer{IPBlock: b})
		case p.pods != nil:
			namespaces, pods := labelSelector(p.pods.namespaces), labelSelector(p.pods.pods)
			one := networkingv1.NetworkPolicyPeer{PodSelector: &pods, NamespaceSelector: &namespaces}
			if p.pods.in(home) {
				one.NamespaceSelector = nil
			} else if len(p.pods.pods) == 0 && !p.pods.alone {
				one.PodSelector = nil
			}
			out = append(out, one)
		default:
			return nil // everybody
		}
	}
	return out
}

func (p *ports) network() (out []networkingv1.NetworkPolicyPort) {
	all := []corev1.Protocol{p.protocol}
	if p.protocol == "" {
		if len(p.names) == 0 {
			return nil
		}
		all = protocols
	}
	for _, protocol := range all {
		if len(p.ranges)+len(p.names) == 0 {
			out = append(out, networkingv1.NetworkPolicyPort{Protocol: &protocol})
		}
		for _, r := range p.ranges {
			first := intstr.FromInt32(r[0])
			one := networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &first}
			if r[1] > r[0] {
				one.EndPort = &r[1]
			}
			out = append(out, one)
		}
		for _, name := range p.names {
			port := intstr.FromString(name)
			out = append(out, networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &port})
		}
	}
	return out
}
