package policy

import "net/netip"

// places is where addresses and hosts are in a plan.
type places struct {
	byAddr  map[netip.Addr]*Endpoint // workloads; an address that several claim is the first one's, by Ref
	bridges map[string]bool          // the interfaces of the plan's node behind which workloads are among others
	*sites
}

// sites are the hosts of all plans that one builder makes.
type sites struct {
	hosts  map[netip.Addr]*Host
	byName map[string]*Host
}

func placesOf(endpoints []Endpoint, hosts *sites) *places {
	w := &places{make(map[netip.Addr]*Endpoint, 2*len(endpoints)), map[string]bool{}, hosts}
	for i := range endpoints {
		e := &endpoints[i]
		for _, iface := range e.Shared {
			w.bridges[iface] = true
		}
		for _, a := range e.Addrs {
			if w.byAddr[a] == nil && !e.Host() {
				w.byAddr[a] = e
			}
		}
	}
	return w
}

func sitesOf(hosts []Host) *sites {
	w := &sites{map[netip.Addr]*Host{}, make(map[string]*Host, len(hosts))}
	for i := range hosts {
		w.byName[hosts[i].Name] = &hosts[i]
		for _, a := range hosts[i].Addrs {
			if w.hosts[a] == nil {
				w.hosts[a] = &hosts[i]
			}
		}
	}
	return w
}
