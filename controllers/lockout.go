package controllers

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// lockout looks whether a plan cuts its node from the API servers of its cluster. Policy is enforced all the same, as Calico does; but
// connections that are open stay, and over them whoever wrote it is told: by a note of the node's report, which becomes an Event.
type lockout struct {
	servers map[v3.Ref][]netip.AddrPort
	notes   []policy.Note
}

// take notes where the API servers are: service kubernetes has them as endpoints.
func (l *lockout) take(e store.Event) {
	if e.Ref.Kind != "EndpointSlice" || e.Ref.Namespace != "default" {
		return
	}
	delete(l.servers, e.Ref)
	slice, ok := e.Object.(*discoveryv1.EndpointSlice)
	if !ok || e.Type != store.Put || slice.Labels[discoveryv1.LabelServiceName] != "kubernetes" {
		return
	}
	var at []netip.AddrPort
	for _, endpoint := range slice.Endpoints {
		for _, text := range endpoint.Addresses {
			a, err := netip.ParseAddr(text)
			for _, p := range slice.Ports {
				if err == nil && p.Port != nil {
					at = append(at, netip.AddrPortFrom(a, uint16(*p.Port)))
				}
			}
		}
	}
	if l.servers == nil {
		l.servers = map[v3.Ref][]netip.AddrPort{}
	}
	l.servers[e.Ref] = at
}

// look at a plan of a node.
func (l *lockout) look(plan *policy.Plan) {
	l.notes = nil
	if !slices.ContainsFunc(plan.Endpoints, func(e policy.Endpoint) bool { return e.Host() }) {
		return
	}
	for _, ref := range slices.SortedFunc(maps.Keys(l.servers), v3.Ref.Compare) {
		for _, at := range l.servers[ref] {
			l.notes = append(l.notes, cutFrom(plan, at)...)
		}
	}
}

// cutsNode is how its notes begin.
const cutsNode = "cuts node "

// cutFrom tells what of a plan keeps its node from asking a server for a connection: the policy that denies it, or those of which none allows
// it, or else the host endpoint, which no policy selects.
func cutFrom(plan *policy.Plan, server netip.AddrPort) (notes []policy.Note) {
	iface, source, err := nft.WayTo(server.Addr(), netip.Addr{})
	if err != nil || iface == "" || !source.IsValid() { // the node's own, or no policy keeps it
		return nil
	}
	t := plan.Trace(policy.Flow{Src: source, Dst: server.Addr(), Proto: policy.ProtoTCP, SrcPort: 49152, DstPort: server.Port(), OutIface: iface})
	if t.Egress == nil || t.Egress.Verdict != policy.Deny {
		return nil
	}
	for _, about := range deniers(plan, t.Egress) {
		notes = append(notes, policy.Note{About: about, Text: fmt.Sprintf(cutsNode+"%s from its API server %s by %s: what is open stays, and when that ends the node hears "+
			"of no policy any more (at the node: tierctl agent --rescue)", plan.Node, server, t.Egress.Endpoint)})
	}
	return notes
}

func deniers(plan *policy.Plan, j *policy.Judgement) []v3.Ref {
	if j.Policy != (v3.Ref{}) {
		return []v3.Ref{j.Policy}
	}
	for _, e := range plan.Endpoints {
		for _, g := range e.Guards {
			for _, t := range g.Tiers {
				if e.Ref == j.Endpoint && g.Stage == j.Stage && g.Direction == policy.Egress && t.Name == j.Tier && t.Name != "" {
					return t.Policies
				}
			}
		}
	}
	return []v3.Ref{j.Endpoint}
}
