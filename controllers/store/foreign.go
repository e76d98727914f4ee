package store

import (
	"fmt"
	"slices"
	"strings"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// foreignKind is a kind of Calico's that no store of ours holds, with the names that users type.
type foreignKind struct {
	Kind    string
	Names   []string
	instead string
}

const (
	addresses = "Tierwall does policy, and leaves pods' addresses to the CNI plugin: use its own tools, calicoctl where that is Calico's"
	routes    = "Tierwall does policy, and leaves routes to the CNI plugin: use its own tools, calicoctl where that is Calico's"
	nodes     = "what Tierwall's nodes do is in NodeReports: tierctl get nodereport, tierctl version"
)

var foreignKinds = []foreignKind{
	{"IPPool", []string{"ippool", "ippools", "ipp", "ipps", "pool", "pools"}, addresses},
	{"IPReservation", []string{"ipreservation", "ipreservations", "ipres", "iprs"}, addresses},
	{"IPAMConfiguration", []string{"ipamconfiguration", "ipamconfigurations", "ipamconfig", "ipamconfigs"}, addresses},
	{"IPAMConfig", nil, addresses},
	{"IPAMBlock", []string{"ipamblock", "ipamblocks"}, addresses},
	{"IPAMHandle", []string{"ipamhandle", "ipamhandles"}, addresses},
	{"BlockAffinity", []string{"blockaffinity", "blockaffinities", "affinity", "affinities"}, addresses},
	{"BGPConfiguration", []string{"bgpconfiguration", "bgpconfigurations", "bgpconfig", "bgpconfigs"}, routes},
	{"BGPPeer", []string{"bgppeer", "bgppeers", "bgpp", "bgpps", "bp", "bps"}, routes},
	{"BGPFilter", []string{"bgpfilter", "bgpfilters"}, routes},
	{"ClusterInformation", []string{"clusterinformation", "clusterinformations", "clusterinfo", "clusterinfos"}, nodes},
	{"CalicoNodeStatus", []string{"caliconodestatus", "caliconodestatuses"}, nodes},
}

// foreignError says of a kind of Calico's whose it is, and what to use.
type foreignError struct{ error }

// foreign looks for a kind of Calico's by any of its names, or by that of a list of it.
func foreign(name string) error {
	low := strings.TrimSuffix(strings.ToLower(name), "list")
	for _, k := range foreignKinds {
		if low == strings.ToLower(k.Kind) || slices.Contains(k.Names, low) {
			return foreignError{fmt.Errorf("%s: there is no %s here: %s", name, k.Kind, k.instead)}
		}
	}
	return nil
}

// Foreign tells whether a kind is one of Calico's that has nothing of policy, and that no store of ours holds.
func Foreign(kind string) bool { return foreign(kind) != nil }

// foreignNode is Calico's Node, which is about addresses and routes; Kubernetes' is one of ours.
func foreignNode(apiVersion, kind string) error {
	if (kind == "Node" || kind == "NodeList") && apiVersion == v3.GroupVersion.String() {
		return foreignError{fmt.Errorf("there is no %s of %s here, Kubernetes' is in v1: %s", kind, apiVersion, routes)}
	}
	return nil
}

// Holds tells whether a cluster has objects of the kind that are ours to write; others are its own, or it derives them.
func (k *Kube) Holds(kind string) bool {
	known := refKind(kind)
	return known != nil && known.HasCRD() && !known.standalone()
}
