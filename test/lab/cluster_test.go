package lab

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

func pod(name, node string, hostNetwork bool, ips ...string) *corev1.Pod {
	p := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name},
		Spec:       corev1.PodSpec{NodeName: node, HostNetwork: hostNetwork},
	}
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return p
}

// A cluster is what the objects say of it, whatever else they are there for; and flows bring the rest of the world.
func TestClusterOf(t *testing.T) {
	node := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeHostName, Address: "n1"}}
	host := &v3.HostEndpoint{TypeMeta: metav1.TypeMeta{APIVersion: "projectcalico.org/v3", Kind: "HostEndpoint"}, ObjectMeta: metav1.ObjectMeta{Name: "h"}}
	host.Spec.Node, host.Spec.InterfaceName, host.Spec.ExpectedIPs = "n2", "ens5", []string{"192.0.2.2", "2001:db8::2"}
	workload := &v3.WorkloadEndpoint{TypeMeta: metav1.TypeMeta{APIVersion: "projectcalico.org/v3", Kind: "WorkloadEndpoint"}, ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: "w"}}
	workload.Spec.Node, workload.Spec.InterfaceName, workload.Spec.IPNetworks = "n3", "tap7", []string{"10.0.3.1/32"}
	objects := []client.Object{
		node, host, workload,
		pod("one", "n1", false, "10.0.0.1", "fd00::1"),
		pod("host", "n1", true, "192.0.2.1"),
		pod("pending", "n1", false),
	}
	index := policy.NewIndex("", policy.Options{})
	for _, o := range objects {
		if err := index.Set(o); err != nil {
			t.Fatal(err)
		}
	}
	at := netip.MustParseAddr
	flows := []policy.Flow{
		{Src: at("10.0.0.1"), Dst: at("198.51.100.1")}, {Src: at("198.51.100.1"), Dst: at("192.0.2.1")},
		{Src: at("10.0.0.1"), Dst: at("224.0.0.1")}, {Src: at("2001:db8:f::1"), Dst: at("fd00::1")},
	}
	want := Cluster{
		Nodes: []Node{
			{"n1", []Uplink{{"eth0", addrs("192.0.2.1")}}},
			{"n2", []Uplink{{"ens5", addrs("192.0.2.2", "2001:db8::2")}}},
			{"n3", []Uplink{{"eth0", nil}}},
		},
		Workloads: []Workload{
			{Name: "a/one", Node: "n1", Addrs: addrs("10.0.0.1", "fd00::1")},
			{Name: "b/w", Node: "n3", Iface: "tap7", Addrs: addrs("10.0.3.1")},
		},
		Outside: addrs("198.51.100.1", "2001:db8:f::1"),
	}
	have := ClusterOf(index.Plan(), flows)
	for i := range have.Workloads { // what the plan says a pod's interface is called is what the lab calls it by itself
		if w := &have.Workloads[i]; w.Iface == ifaceOf(w.Name) {
			w.Iface = ""
		}
	}
	if diff := cmp.Diff(want, have, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// The sums are sha1sum's, of namespace.name.
func TestIfaceOf(t *testing.T) {
	for workload, want := range map[string]string{"default/nginx": "calic440f455693", "kube-system/coredns-0": "cali8c346e38bf4"} {
		if have := ifaceOf(workload); have != want {
			t.Errorf("%s: %s, want %s", workload, have, want)
		}
	}
}
