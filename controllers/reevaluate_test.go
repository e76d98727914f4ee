package controllers

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
)

var addr = netip.MustParseAddr

const bit = 0x80000000

// judgeOf is of a node n1 with two uplinks, a pod that is closed for port 80 of TCP, and a host endpoint on one uplink that lets
// nothing out by it to port 80, be it the host's own or passing.
func judgeOf(t *testing.T) *judge {
	t.Helper()
	web := intstr.FromInt32(80)
	tcp := intstr.FromString("TCP")
	denying := []v3.Rule{
		{Action: "Deny", Protocol: &tcp, Destination: v3.EntityRule{Ports: []intstr.IntOrString{web}}}, {Action: "Allow"}}
	closed, through := &v3.GlobalNetworkPolicy{}, &v3.GlobalNetworkPolicy{}
	closed.Name, through.Name = "closed", "through"
	closed.Spec.Selector, closed.Spec.Types, closed.Spec.Ingress = "app == 'web'", []v3.PolicyType{"Ingress"}, denying
	through.Spec.Selector, through.Spec.Types, through.Spec.Egress = "host == 'yes'", []v3.PolicyType{"Egress"}, denying
	through.Spec.ApplyOnForward = true
	host := &v3.HostEndpoint{ObjectMeta: metav1.ObjectMeta{Name: "h", Labels: map[string]string{"host": "yes"}}}
	host.Spec.Node, host.Spec.InterfaceName, host.Spec.Profiles = "n1", "eth0", []string{"projectcalico-default-allow"}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", Labels: map[string]string{"app": "web"}}}
	pod.Spec.NodeName, pod.Status.PodIPs = "n1", []corev1.PodIP{{IP: "10.0.0.1"}}
	x := policy.NewIndex("n1", policy.Options{Reevaluate: true})
	for _, o := range []metav1.Object{closed, through, host, pod, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}}} {
		if err := x.Set(o); err != nil {
			t.Fatal(err)
		}
	}
	// sorted by name, as the kernel's are: the first is not the one that leads elsewhere
	x.SetInterfaces([]policy.Iface{{Name: "cali1", Peers: []netip.Addr{addr("10.0.0.1")}},
		{Name: "eth0", Addrs: []netip.Addr{addr("192.0.2.1")}}, {Name: "eth1", Addrs: []netip.Addr{addr("192.0.3.1")}},
		{Name: "lo", Addrs: []netip.Addr{addr("127.0.0.1"), addr("::1")}}})
	way := func(to, _ netip.Addr) (string, error) {
		if to.IsLoopback() || to == addr("203.0.113.1") {
			return "", nil
		}
		if netip.MustParsePrefix("192.0.3.0/24").Contains(to) {
			return "eth1", nil
		}
		return "eth0", nil
	}
	return &judge{plan: x.Plan(), node: "n1", bit: bit, way: way}
}

func connection(proto uint8, src, dst string) nft.Connection {
	from, to := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return nft.Connection{Proto: proto, Src: from.Addr(), SrcPort: from.Port(), Dst: to.Addr(), DstPort: to.Port(),
		ReplySrc: to.Addr(), ReplySrcPort: to.Port(), ReplyDst: from.Addr(), ReplyDstPort: from.Port()}
}

func translated(c nft.Connection, to string) nft.Connection {
	at := netip.MustParseAddrPort(to)
	c.ReplySrc, c.ReplySrcPort = at.Addr(), at.Port()
	return c
}

// The plan is asked what it says of each connection's first packet as it passed this node.
func TestConnectionsAreJudged(t *testing.T) {
	j := judgeOf(t)
	expected := connection(6, "192.0.2.9:4000", "10.0.0.1:80")
	expected.Expected = true
	for _, test := range []struct {
		name string
		c    nft.Connection
		ends bool
	}{
		{"to the pod", connection(6, "192.0.2.9:4000", "10.0.0.1:80"), true},
		{"to its other port", connection(6, "192.0.2.9:4000", "10.0.0.1:81"), false},
		{"by another protocol", connection(17, "192.0.2.9:4000", "10.0.0.1:80"), false},
		{"from another node's host", connection(6, "192.0.3.9:4000", "10.0.0.1:80"), true},
		{"from its own host", connection(6, "192.0.2.1:4000", "10.0.0.1:80"), false},
		{"from the pod, by the guarded uplink", connection(6, "10.0.0.1:4000", "192.0.2.9:80"), true},
		{"from the pod, by the other", connection(6, "10.0.0.1:4000", "192.0.3.9:80"), false},
		{"from the host, by the guarded uplink", connection(6, "192.0.2.1:4000", "192.0.2.9:80"), true},
		{"from the host, by the other", connection(6, "192.0.3.1:4000", "192.0.3.9:80"), false},
		{"from the host to itself", connection(6, "192.0.2.1:4000", "192.0.2.1:80"), false},
		{"by loopback", connection(6, "127.0.0.1:4000", "127.0.0.1:80"), false},
		{"by loopback, IPv6", connection(6, "[::1]:4000", "[::1]:80"), false},
		{"by loopback, to what is on no interface", connection(6, "127.0.0.1:4000", "127.0.0.53:80"), false},
		{"from where no route leads", connection(6, "203.0.113.1:4000", "10.0.0.1:80"), false},
		{"between others, by the guarded uplink", connection(6, "192.0.3.9:4000", "198.51.100.1:80"), true},
		{"between others, by the other", connection(6, "198.51.100.1:4000", "192.0.3.9:80"), false},
		{"a service of the pod", translated(connection(6, "192.0.2.9:4000", "10.96.0.1:443"), "10.0.0.1:80"), true},
		{"a node port of the pod", translated(connection(6, "192.0.2.9:4000", "192.0.2.1:80"), "10.0.0.1:8080"), false},
		{"a node port of another node's pod", translated(connection(6, "192.0.3.9:4000", "192.0.3.1:30080"), "10.0.1.1:80"), true},
		{"the host's to a service", translated(connection(6, "192.0.2.1:4000", "10.96.0.1:443"), "10.0.1.1:80"), true},
		{"the pod's to itself by a service", translated(connection(6, "10.0.0.1:4000", "10.96.0.1:443"), "10.0.0.1:80"), true},
		{"that another has brought about", expected, false},
		{"to everybody", connection(17, "192.0.2.9:4000", "224.0.0.251:80"), false},
		{"on a link", connection(6, "[fe80::1]:4000", "[fe80::2]:80"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, marked := range []bool{false, true} {
				c, want := test.c, []mark(nil)
				if c.Mark = 0x4000; marked {
					c.Mark |= bit
				}
				_, whole, _ := j.flow(&c)
				switch touched := judged(&c) && whole; {
				case test.ends && !marked:
					want = []mark{{c, bit}}
				case !test.ends && marked && touched:
					want = []mark{{c, 0}}
				}
				have, err := j.marks([]nft.Connection{c})
				if err != nil {
					t.Fatal(err)
				}
				sameAddr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
				if diff := cmp.Diff(want, have, cmp.AllowUnexported(mark{}), sameAddr); diff != "" {
					t.Errorf("marked %v: -want +have\n%s", marked, diff)
				}
			}
		})
	}
}
