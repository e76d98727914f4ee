package lint

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/tierwall/tierwall/apis/selector"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

var sprintf = fmt.Sprintf

type report = func(about v3.Ref, field, format string, args ...any)

// checks by code. A new one gets the next code; a code is never given twice.
var checks = []Check{
	{"TW001", Warning, "rule never decides: another decides otherwise before it", "Rules are asked in order, and the first that matches ends the walk: the later one is without effect.",
		"Put the narrower rule first, give its policy a smaller order, or delete it.", shadowed(false)},
	{"TW002", Info, "rule repeats what is decided before it", "A rule before it takes every packet that it matches and does the same with it.", "Delete it, if it is not meant as a reminder.", shadowed(true)},
	{"TW003", Warning, "equal orders, different actions", "Two policies of a tier have the same order and do different things with the same packets: their names decide which is asked first.",
		"Give each an order of its own.", equalOrders},
	{"TW004", Warning, "policy only logs, and so denies", "A policy that selects an endpoint makes its tier's default action count there. One that has nothing but Log rules denies everything in a tier that denies.",
		"Add a Pass rule behind the Log, or stand in a tier with defaultAction Pass.", logsOnly},
	{"TW005", Info, "policy selects nobody", "No endpoint that there is has the labels that it asks for.", "Look at its selectors for a slip of the pen; a quarantine that is empty may be meant.", selectsNobody},
	{"TW006", Warning, "selector holds for host endpoints too", "A host has no namespace and no service account, so a selector of theirs that only says what is not there holds for every host endpoint.",
		"Add all() && or a label that must be there to namespaceSelector; or has(projectcalico.org/namespace) to selector.", hitsHosts},
	{"TW007", Warning, "node ports lead past a host endpoint", "What comes to a node port is forwarded: normal policy of the host endpoint does not see it, only preDNAT and applyOnForward policy do.",
		"Guard node ports by a policy with preDNAT and applyOnForward.", nodePorts},
	{"TW008", Warning, "something is not enforced as it reads", "It is accepted, and what is in force differs from what its text may suggest: a rule of notNets of one family does not exist for the other; HTTP is not looked at.",
		"Write what is meant in a way that is in force, or take it out.", noticed},
	{"TW009", Error, "not understood", "What is not understood fails closed: an Allow matches nothing, a Deny denies everything at its place, a policy selects nobody.", "Correct the field.", notUnderstood},
	{"TW010", Warning, "egress is closed to DNS", "The endpoints may reach some peers and no port 53: names will not resolve.", "Allow UDP and TCP port 53 to the cluster's DNS.", withoutDNS},
	{"TW011", Warning, "rule of a host is for what it forwards", "A host's own packets never have this other end; the rule could match forwarded packets only, which a policy without applyOnForward does not see.",
		"Set applyOnForward: true.", withoutForward},
	{"TW012", Info, "everything is allowed from everywhere", "The rule has no criterion: whoever the policy selects is open to all, the outside included.", "Name the peers or the ports, if that is not meant.", allowsAll},
	{"TW013", Warning, "nobody has a port of this name", "A named port is what an endpoint calls so; the rule matches nothing.", "Name the port in the pods' containers, or give its number.", namedPorts},
	{"TW014", Warning, "service is unknown or has no endpoints", "A rule for a service is for its endpoints; the rule matches nothing.", "Correct the name, or create the service.", unknownServices},
	{"TW015", Info, "peer is nobody", "No endpoint or network set has the labels that the rule asks for.", "Look at the selector for a slip of the pen.", peerIsNobody},
	{"TW016", Error, "tier does not exist", "A policy whose tier nobody made stands behind all others, and its tier denies at its end.", "Create the tier, or correct its name.", missingTier},
	{"TW017", Info, "tier has no policy", "It has no say.", "Delete it, if nothing is to come.", emptyTier},
	{"TW018", Warning, "failsafe ports are switched off", "An empty list is no ports: a policy that is wrong locks everybody out of the hosts.", "Keep SSH and the API server in the list.", failsafeOff},
	{"TW019", Warning, "untracked policy without rules for answers", "Without connection tracking an answer is a packet like any other, and needs an Allow of its own in the other direction.",
		"Add the rules of the other direction, with source and destination the other way round.", untrackedAnswers},
	{"TW020", Warning, "rules of a direction that types leaves out", "They are never asked.", "Add the direction to types, or delete them.", leftOut},
	{"TW021", Warning, "host endpoint closes its interface", "As soon as it stands there the host's own packets need a policy or a profile that allows them; none does, so only failsafe ports are open.",
		"Select it by a policy, or give it the profile projectcalico-default-allow.", closedHosts},
}

func field(d policy.Direction, rule int) string { return fmt.Sprintf("spec.%s[%d]", d, rule) }

func shadowed(same bool) func(*world, report) {
	return func(w *world, add report) {
		for _, s := range shadows(w.plan, w.walks) {
			kubernetes := s.Policy.Kind == v3.KindKubernetesNetworkPolicy && s.By.Kind == s.Policy.Kind && s.By != s.Policy
			if same == (s.Action == s.ByAction) && !kubernetes { // which only add up
				add(s.Policy, field(s.Direction, s.Rule), "the rule's %s never decides: %s", s.Action, &s)
			}
		}
	}
}

func equalOrders(w *world, add report) {
	order := map[v3.Ref]float64{}
	w.standings(func(_ *policy.Rank, s *policy.Standing) { order[s.Policy.Ref] = s.Order })
	for _, at := range w.walks {
		for _, t := range at.guard.Tiers {
			for i, p := range t.Policies {
				for _, q := range t.Policies[i+1:] {
					if t.Name != "" && order[p] == order[q] {
						w.conflict(p, q, at.guard.Direction, order[p], add)
					}
				}
			}
		}
	}
}

func (w *world) conflict(p, q v3.Ref, d policy.Direction, order float64, add report) {
	text := "order " + fmt.Sprint(order)
	if math.IsInf(order, 1) {
		text = "no order"
	}
	first, second := w.plan.Policy(p).Rules(d), w.plan.Policy(q).Rules(d)
	for i := range first {
		for j := range second {
			a, b := &first[i], &second[j]
			if a.Action != b.Action && a.Action != policy.Log && b.Action != policy.Log && w.overlap(a, b) {
				add(q, "spec.order", "%s has %s too, and %s rule %d (%s) and rule %d here (%s) are for some of the same packets: by its name %s comes first",
					p, text, d, a.Index, a.Action, b.Index, b.Action, p.Name)
				return
			}
		}
	}
}

func logsOnly(w *world, add report) {
	w.standings(func(r *policy.Rank, s *policy.Standing) {
		for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
			rules := s.Policy.Rules(d)
			logs := len(rules) > 0 && !slices.ContainsFunc(rules, func(r policy.Rule) bool { return r.Action != policy.Log })
			if logs && s.Guards(d) && r.Default == policy.Deny && s.Policy.Stage == policy.Normal {
				add(s.Policy.Ref, "spec."+d.String(), "has only Log rules for %s, and tier %s denies what none decides: whom it selects is closed there unless another policy of the tier allows",
					d, r.Tier)
			}
		}
	})
}

func selectsNobody(w *world, add report) {
	if len(w.plan.Endpoints) == 0 {
		return // nobody is there at all
	}
	selected := w.selected()
	noted := map[v3.Ref]bool{} // that one selects whom it has no effect on is said by another check
	for _, n := range w.plan.Notes {
		noted[n.About] = true
	}
	w.standings(func(_ *policy.Rank, s *policy.Standing) {
		if s.Subject != nil && len(selected[s.Policy.Ref]) == 0 && !noted[s.Policy.Ref] {
			add(s.Policy.Ref, "spec.selector", "selects none of %d endpoints: %s", len(w.plan.Endpoints), s.Subject)
		}
	})
}

func hitsHosts(w *world, add report) {
	w.standings(func(_ *policy.Rank, s *policy.Standing) {
		g, ok := w.objects[s.Policy.Ref].(*v3.GlobalNetworkPolicy)
		if !ok || s.Subject == nil || s.Policy.Stage != policy.Normal {
			return
		}
		for _, f := range []struct{ name, text string }{{"namespaceSelector", g.Spec.NamespaceSelector}, {"serviceAccountSelector", g.Spec.ServiceAccountSelector}} {
			own, err := selector.Parse(f.text)
			if f.text == "" || err != nil || !own.ReplaceAll(selector.Has("-")).Matches(selector.Map{}) {
				continue // it asks for something that no host has
			}
			if hosts := w.hostsThat(s.Subject); len(hosts) > 0 {
				add(s.Policy.Ref, "spec."+f.name, "%s holds for hosts too, and so selects %s", f.text, strings.Join(hosts, ", "))
			} else if s.Subject.Matches(selector.Map{}) {
				add(s.Policy.Ref, "spec."+f.name, "%s holds for hosts too: it selects every host endpoint", f.text)
			}
		}
	})
}

func (w *world) hostsThat(s *selector.Selector) (out []string) {
	for _, e := range w.plan.Endpoints {
		if e.Host() && s.Matches(w.index.Labels(e.Ref)) {
			out = append(out, e.Ref.String())
		}
	}
	return out
}

func nodePorts(w *world, add report) {
	var ports []string
	for _, ref := range w.refs {
		if s, ok := w.objects[ref].(*corev1.Service); ok {
			for _, p := range s.Spec.Ports {
				if p.NodePort > 0 {
					ports = append(ports, fmt.Sprintf("%d (%s/%s)", p.NodePort, s.Namespace, s.Name))
				}
			}
		}
	}
	if len(ports) == 0 {
		return
	}
	for _, e := range w.plan.Endpoints {
		guarded := slices.ContainsFunc(e.Guards, func(g policy.Guard) bool {
			return g.Direction == policy.Ingress && (g.Stage == policy.PreDNAT || g.Stage == policy.Forward)
		})
		if e.Host() && !guarded {
			add(e.Ref, "spec", "no preDNAT or applyOnForward policy selects it: node ports %s are reachable past it", strings.Join(ports, ", "))
		}
	}
}

func noticed(w *world, add report) {
	for _, ref := range w.refs {
		for _, n := range policy.Notices(w.errs[ref]) {
			at, text := fieldOf(n.Error())
			add(ref, at, "%s", text)
		}
	}
	for _, n := range w.plan.Notes {
		if strings.HasSuffix(n.About.Kind, "NetworkPolicy") {
			add(n.About, "spec", "%s", n.Text)
		}
	}
}

func notUnderstood(w *world, add report) {
	for _, ref := range w.refs {
		if policy.OnlyNotices(w.errs[ref]) {
			continue
		}
		notices := map[string]bool{}
		for _, n := range policy.Notices(w.errs[ref]) {
			notices[n.Error()] = true
		}
		for _, line := range strings.Split(strings.TrimPrefix(w.errs[ref].Error(), ref.String()+": "), "\n") {
			if !notices[line] {
				at, text := fieldOf(line)
				add(ref, at, "%s", text)
			}
		}
	}
}

// fieldOf splits "field: text".
func fieldOf(line string) (at, text string) {
	at, text, ok := strings.Cut(line, ": ")
	if !ok || strings.Contains(at, " ") {
		return "", line
	}
	return at, text
}

func withoutDNS(w *world, add report) {
	for _, at := range w.walks {
		if at.host || at.guard.Direction != policy.Egress {
			continue
		}
		dns := false // a tier before may allow it
		for _, t := range at.guard.Tiers {
			opens := false
			for _, ref := range t.Policies {
				for _, r := range w.plan.Policy(ref).Egress {
					lets := t.Name != "" && (r.Action == policy.Allow || r.Action == policy.Pass)
					opens, dns = opens || lets, dns || lets && w.maybeDNS(&r)
				}
			}
			if t.Name != "" && t.Default == policy.Deny && opens && !dns {
				add(t.Policies[0], "spec.egress", "whom it selects may send only to some peers, and nothing in tier %s allows UDP or TCP port 53", t.Name)
			}
		}
	}
}

// maybeDNS tells whether a rule may match a packet to port 53 of somebody.
func (w *world) maybeDNS(r *policy.Rule) bool {
	named := slices.ContainsFunc(r.Dst.PortSets, func(id string) bool {
		for p := range w.plan.Set(id).Ports.All() {
			if p.Port == 53 {
				return true
			}
		}
		return false
	})
	port := policy.Side{Ports: []policy.PortRange{{Min: 53, Max: 53}}}
	return r.ICMP == nil && (r.Proto == 0 || r.Proto == policy.ProtoUDP || r.Proto == policy.ProtoTCP) && (named || rangesMeet(&r.Dst, &port))
}

func withoutForward(w *world, add report) {
	selected := w.selected()
	w.standings(func(_ *policy.Rank, s *policy.Standing) {
		subjects := selected[s.Policy.Ref]
		if s.Forward || s.Policy.Stage != policy.Normal || len(subjects) == 0 || slices.ContainsFunc(subjects, func(e *policy.Endpoint) bool { return !e.Host() }) {
			return
		}
		for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
			for _, r := range s.Policy.Rules(d) {
				own, word := &r.Dst, "destination"
				if d == policy.Egress {
					own, word = &r.Src, "source"
				}
				if len(own.Nets)+len(own.Sets) > 0 && !w.ownAddr(subjects, own, r.Families) {
					add(s.Policy.Ref, field(d, r.Index)+"."+word, "no address of the hosts that the policy selects is such a %s", word)
				}
			}
		}
	})
}

// ownAddr tells whether a side may be one of the hosts themselves.
func (w *world) ownAddr(hosts []*policy.Endpoint, s *policy.Side, f policy.Families) bool {
	in := w.addrs(s, f)
	for _, e := range hosts {
		for _, h := range w.plan.Hosts {
			for _, a := range h.Addrs {
				if h.Name == e.Node && in.Contains(a) {
					return true
				}
			}
		}
	}
	return false
}

func allowsAll(w *world, add report) {
	w.standings(func(_ *policy.Rank, s *policy.Standing) {
		for _, r := range s.Policy.Ingress {
			bare := r
			if slices.ContainsFunc(r.Src.Nets, func(n netip.Prefix) bool { return n.Bits() == 0 }) {
				bare.Src.Nets, bare.Families = nil, policy.AnyFamily
			}
			bare.Index, bare.Name = 0, ""
			if bare.String() == "0 Allow" && s.Policy.Stage == policy.Normal {
				add(s.Policy.Ref, field(policy.Ingress, r.Index), "allows every packet from everywhere")
			}
		}
	})
}

// sets calls for each set that an end of a rule names.
func (w *world) sets(do func(ref v3.Ref, at string, set *policy.Set)) {
	w.standings(func(_ *policy.Rank, s *policy.Standing) {
		for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
			for _, r := range s.Policy.Rules(d) {
				for word, side := range map[string]*policy.Side{"source": &r.Src, "destination": &r.Dst} {
					if _, ok := w.objects[s.Policy.Ref].(*networkingv1.NetworkPolicy); ok {
						word = ""
					}
					for _, id := range slices.Concat(side.Sets, side.PortSets) {
						if set := w.plan.Set(id); set != nil {
							do(s.Policy.Ref, strings.TrimSuffix(field(d, r.Index)+"."+word, "."), set)
						}
					}
				}
			}
		}
	})
}

func namedPorts(w *world, add report) {
	w.sets(func(ref v3.Ref, at string, set *policy.Set) {
		if set.OfPorts && set.Ports.Len() == 0 && strings.HasPrefix(set.ID, "n:") {
			add(ref, at, "%s: no endpoint has it", set.About)
		}
	})
}

func unknownServices(w *world, add report) {
	w.sets(func(ref v3.Ref, at string, set *policy.Set) {
		if strings.HasPrefix(set.ID, "svc") && set.Ports.Len()+set.Addrs.Len() == 0 {
			add(ref, at, "%s has no endpoints", set.About)
		}
	})
}

func peerIsNobody(w *world, add report) {
	w.sets(func(ref v3.Ref, at string, set *policy.Set) {
		if strings.HasPrefix(set.ID, "s:") && set.Addrs.Len()+len(set.Nets) == 0 {
			add(ref, at, "%s finds nobody", set.About)
		}
	})
}

func missingTier(w *world, add report) {
	w.standings(func(r *policy.Rank, s *policy.Standing) {
		if r.Missing {
			add(s.Policy.Ref, "spec.tier", "tier %s does not exist", r.Tier)
		}
	})
}

func emptyTier(w *world, add report) {
	used := map[string]bool{"default": true, "kube-admin": true, "kube-baseline": true}
	for _, r := range w.ranks {
		used[r.Tier] = true
	}
	for _, ref := range w.refs {
		if ref.Kind == "Tier" && !used[ref.Name] {
			add(ref, "metadata.name", "no policy is in tier %s", ref.Name)
		}
	}
}

func failsafeOff(w *world, add report) {
	for _, ref := range w.refs {
		if o, ok := w.objects[ref].(*v3.FelixConfiguration); ok {
			if l := o.Spec.FailsafeInboundHostPorts; l != nil && len(*l) == 0 {
				add(ref, "spec.failsafeInboundHostPorts", "no inbound port of a host stays open whatever policy says")
			}
			if l := o.Spec.FailsafeOutboundHostPorts; l != nil && len(*l) == 0 {
				add(ref, "spec.failsafeOutboundHostPorts", "no outbound port of a host stays open whatever policy says")
			}
		}
	}
}

func untrackedAnswers(w *world, add report) {
	for i := range w.plan.Endpoints {
		e := &w.plan.Endpoints[i]
		var allowing [2][]v3.Ref
		for _, g := range e.Guards {
			for _, t := range g.Tiers {
				for _, ref := range t.Policies {
					allows := slices.ContainsFunc(w.plan.Policy(ref).Rules(g.Direction), func(r policy.Rule) bool { return r.Action == policy.Allow })
					if g.Stage == policy.Untracked && t.Name != "" && allows {
						allowing[g.Direction] = append(allowing[g.Direction], ref)
					}
				}
			}
		}
		for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
			if len(allowing[1-d]) == 0 {
				for _, ref := range allowing[d] {
					add(ref, "spec."+d.String(), "allows %s at %s, and no untracked policy allows any %s there", d, e.Ref, 1-d)
				}
			}
		}
	}
}

func leftOut(w *world, add report) {
	for _, ref := range w.refs {
		var s *v3.PolicySpec
		switch o := w.objects[ref].(type) {
		case *v3.NetworkPolicy:
			s = &o.Spec.PolicySpec
		case *v3.GlobalNetworkPolicy:
			s = &o.Spec.PolicySpec
		case *v3.StagedNetworkPolicy:
			s = &o.Spec.PolicySpec
		case *v3.StagedGlobalNetworkPolicy:
			s = &o.Spec.PolicySpec
		default:
			continue
		}
		for _, k := range []struct {
			t     v3.PolicyType
			field string
			n     int
		}{{v3.PolicyTypeIngress, "ingress", len(s.Ingress)}, {v3.PolicyTypeEgress, "egress", len(s.Egress)}} {
			if len(s.Types) > 0 && k.n > 0 && !slices.Contains(s.Types, k.t) {
				add(ref, "spec."+k.field, "has %d rules, and types does not have %s", k.n, k.t)
			}
		}
	}
}

func closedHosts(w *world, add report) {
	for _, e := range w.plan.Endpoints {
		for _, g := range e.Guards {
			opens := slices.ContainsFunc(g.Tiers, func(t policy.Tier) bool {
				return t.Name != "" || len(t.Policies) > 0 && t.Policies[0].Kind == "Profile"
			})
			if e.Host() && g.Stage == policy.Normal && !opens {
				add(e.Ref, "spec", "no policy selects it for %s, and it has no profile", g.Direction)
			}
		}
	}
}
