package policy

import (
	"fmt"
	"net/netip"
	"slices"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// claims gives each address of a node to one of the workloads that claim it.
func (b *builder) claims(p *Plan) {
	holders := make(map[claim]*member, 2*len(p.Endpoints))
	again := false
	for _, m := range b.index.own() {
		if m.ref.Kind == "HostEndpoint" {
			continue
		}
		for _, a := range m.addrs {
			c := claim{m.node, a}
			have := holders[c]
			if again = again || have != nil; have == nil || m.before(have) {
				holders[c] = m
			}
		}
	}
	for i := 0; again && i < len(p.Endpoints); i++ {
		e := &p.Endpoints[i]
		e.Addrs = slices.DeleteFunc(slices.Clone(e.Addrs), func(a netip.Addr) bool {
			holder := holders[claim{e.Node, a}]
			if e.Host() || holder.ref == e.Ref {
				return false
			}
			p.Notes = append(p.Notes, Note{e.Ref, fmt.Sprintf("claims address %s, which is taken to be %s's", a, holder.ref)})
			return true
		})
	}
}

// claim is an address on a node.
type claim struct {
	node string
	addr netip.Addr
}

// stand tells behind which interfaces workloads are: alone, behind the one that the object names or those to which the addresses are
// routed; or among others, behind a bridge or an interface to which others' addresses are routed as well.
func (b *builder) stand(p *Plan) {
	first, several := map[string]v3.Ref{}, map[string]bool{}
	each := func(e *Endpoint, yield func(string)) {
		if m := b.index.members[e.Ref]; m.iface != "" {
			yield(m.iface)
		} else if e.Node == b.index.node {
			for _, a := range e.Addrs {
				if name, ok := b.peers[a]; ok {
					yield(name)
				}
			}
		}
	}
	for i := range p.Endpoints {
		if e := &p.Endpoints[i]; !e.Host() {
			each(e, func(name string) {
				if ref, ok := first[name]; ok && ref != e.Ref {
					several[name] = true
				}
				first[name] = e.Ref
			})
		}
	}
	for i := range p.Endpoints {
		if e := &p.Endpoints[i]; !e.Host() {
			e.Ifaces, e.Shared = nil, b.shared(e)
			each(e, func(name string) {
				to := &e.Ifaces
				if several[name] && e.Node == b.index.node {
					to = &e.Shared
				}
				if !slices.Contains(*to, name) {
					*to = append(*to, name)
				}
			})
		}
	}
}

// shared are the bridges behind which a workload is.
func (b *builder) shared(e *Endpoint) (out []string) {
	for i := range b.bridges {
		if f := &b.bridges[i]; e.Node == b.index.node && slices.ContainsFunc(e.Addrs, f.behind) {
			out = append(out, f.Name)
		}
	}
	return out
}
