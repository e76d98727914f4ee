package controllers

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/test/kube"
)

// autoNode is a node with labels, with annotations of Calico, and with internal addresses.
func autoNode(name string, labels, calico map[string]string, internal ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	for key, value := range calico {
		metav1.SetMetaDataAnnotation(&n.ObjectMeta, "projectcalico.org/"+key, value)
	}
	for _, a := range internal {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

// autoLine is a host endpoint on one line, without what all automatic ones have in common.
func autoLine(h *v3.HostEndpoint) string {
	labels := maps.Clone(h.Labels)
	delete(labels, labelCreatedBy)
	for key := range labels {
		if strings.HasPrefix(key, "kubernetes.io/") || strings.HasPrefix(key, "beta.kubernetes.io/") {
			delete(labels, key)
		}
	}
	text := fmt.Sprintf("%s: %s %q %s", h.Name, h.Spec.Node, h.Spec.InterfaceName, strings.Join(h.Spec.ExpectedIPs, ","))
	for _, m := range []map[string]string{labels, h.Annotations} {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			text += " " + key + "=" + m[key]
		}
	}
	return text
}

type autoIfaces = map[string][]netip.Addr

func ips(texts ...string) (out []netip.Addr) {
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

// Contract §1.11.2: which host endpoints a node should have.
func TestAutoHostEndpoints(t *testing.T) {
	long := strings.Repeat("n", 250)
	on := func(templates ...v3.Template) *v3.AutoHostEndpointConfig {
		return &v3.AutoHostEndpointConfig{AutoCreate: v3.ControllerEnabled, Templates: templates}
	}
	only := func(templates ...v3.Template) *v3.AutoHostEndpointConfig {
		c := on(templates...)
		c.CreateDefaultHostEndpoint = v3.ControllerDisabled
		return c
	}
	in := func(name string, nets ...string) v3.Template {
		return v3.Template{GenerateName: name, InterfaceCIDRs: nets}
	}
	at := func(name, pattern string, nets ...string) v3.Template {
		return v3.Template{GenerateName: name, InterfacePattern: pattern, InterfaceCIDRs: nets}
	}
	zone := map[string]string{"zone": "a", "role": "db"}
	for _, c := range []struct {
		says   string
		node   *corev1.Node
		config *v3.AutoHostEndpointConfig
		ifaces autoIfaces
		want   []string
		err    string // "" for none
	}{
		{"no settings", autoNode("n", nil, nil, "10.0.0.1"), nil, nil, nil, ""},
		{"disabled if not given", autoNode("n", nil, nil, "10.0.0.1"), &v3.AutoHostEndpointConfig{Templates: []v3.Template{in("t", "10.0.0.0/8")}}, nil, nil, ""},
		{"disabled", autoNode("n", nil, nil, "10.0.0.1"), &v3.AutoHostEndpointConfig{AutoCreate: v3.ControllerDisabled}, nil, nil, ""},
		{"one of all interfaces", autoNode("n", zone, nil, "10.0.0.1"), on(), nil, []string{`n-auto-hep: n "*" 10.0.0.1 role=db zone=a`}, ""},
		{"a node without addresses", autoNode("n", nil, nil), on(), nil, []string{`n-auto-hep: n "*" `}, ""},
		{"none of all interfaces", autoNode("n", nil, nil, "10.0.0.1"), only(), nil, nil, ""},
		{"addresses of each kind, sorted, once", autoNode("n", nil, map[string]string{"IPv4Address": "10.0.0.1/24", "IPv6Address": "fd00::1/64",
			"IPv4IPIPTunnelAddr": "192.168.0.1", "IPv4VXLANTunnelAddr": "192.168.0.2", "IPv6VXLANTunnelAddr": "fd01::2", "IPv4WireguardInterfaceAddr": "192.168.0.3",
			"IPv6WireguardInterfaceAddr": "fd01::3", "ASNumber": "65000"}, "fd00::1", "10.0.0.9", "10.0.0.1", "10.0.0.10"), on(), autoIfaces{"eth0": ips("10.0.0.1", "172.16.0.1")},
			[]string{`n-auto-hep: n "*" 10.0.0.1,10.0.0.9,10.0.0.10,172.16.0.1,192.168.0.1,192.168.0.2,192.168.0.3,fd00::1,fd01::2,fd01::3`}, ""},
		{"only internal addresses", func() *corev1.Node {
			n := autoNode("n", nil, nil, "10.0.0.1")
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "192.0.2.1"},
				corev1.NodeAddress{Type: corev1.NodeHostName, Address: "n"})
			return n
		}(), on(), nil, []string{`n-auto-hep: n "*" 10.0.0.1`}, ""},
		{"addresses that every node has", autoNode("n", nil, nil), on(), autoIfaces{"lo": ips("127.0.0.1", "::1"), "eth0": ips("10.0.0.1", "fe80::1")},
			[]string{`n-auto-hep: n "*" 10.0.0.1`}, ""},
		{"what is no address is said", autoNode("n", nil, map[string]string{"IPv4Address": "none"}, "10.0.0.1"), on(), nil,
			[]string{`n-auto-hep: n "*" 10.0.0.1`}, `annotation projectcalico.org/IPv4Address: "none" is no address of a node`},

		{"a template's networks", autoNode("n", nil, nil, "10.0.0.1", "172.16.0.1", "fd00::1"), only(in("t", "10.1.2.3/8", "fd00::/64")), nil,
			[]string{`n-t-auto-hep: n "" 10.0.0.1,fd00::1`}, ""},
		{"a template in whose networks is nothing", autoNode("n", nil, nil, "10.0.0.1"), on(in("t", "172.16.0.0/12")), nil, []string{`n-auto-hep: n "*" 10.0.0.1`}, ""},
		{"a template's labels are before the node's, and ours before all", autoNode("n", zone, nil, "10.0.0.1"), only(v3.Template{GenerateName: "t", InterfaceCIDRs: []string{"0.0.0.0/0"},
			Labels: map[string]string{"role": "web", "more": "", labelCreatedBy: "me"}, Annotations: map[string]string{"x/y": "z"}}), nil,
			[]string{`n-t-auto-hep: n "" 10.0.0.1 more= role=web zone=a x/y=z`}, ""},
		{"a template for other nodes", autoNode("n", zone, nil, "10.0.0.1"), only(v3.Template{GenerateName: "t", InterfaceCIDRs: []string{"0.0.0.0/0"}, NodeSelector: "zone == 'b'"}), nil, nil, ""},
		{"a template for this node", autoNode("n", zone, nil, "10.0.0.1"), only(v3.Template{GenerateName: "t", InterfaceCIDRs: []string{"0.0.0.0/0"}, NodeSelector: "zone == 'a'"}), nil,
			[]string{`n-t-auto-hep: n "" 10.0.0.1 role=db zone=a`}, ""},
		{"interfaces by name", autoNode("n", nil, nil, "10.0.0.1"), only(at("t", "eth0|eth1")), autoIfaces{"eth1": ips("172.16.0.1"), "eth0": ips("10.0.0.1"), "wlan0": nil, "veth0": nil},
			[]string{`n-t-eth0-auto-hep: n "eth0" 10.0.0.1`, `n-t-eth1-auto-hep: n "eth1" 172.16.0.1`, `n-t-veth0-auto-hep: n "veth0" `}, ""},
		{"interfaces by name, addresses by network", autoNode("n", nil, nil, "10.0.0.1"), only(at("t", "^eth", "10.0.0.0/8")), autoIfaces{"eth0": ips("10.0.0.1", "172.16.0.1"), "eth1": ips("172.16.0.2")},
			[]string{`n-t-eth0-auto-hep: n "eth0" 10.0.0.1`, `n-t-eth1-auto-hep: n "eth1" `}, ""},
		{"no interface of the name", autoNode("n", nil, nil, "10.0.0.1"), only(at("t", "^bond")), autoIfaces{"eth0": ips("10.0.0.1")}, nil, ""},
		{"interfaces that nobody reports", autoNode("n", nil, nil, "10.0.0.1"), on(at("t", "^eth")), nil, []string{`n-auto-hep: n "*" 10.0.0.1`}, "template t: interfacePattern: the interfaces of the node are not known"},
		{"several templates", autoNode("n", nil, nil, "10.0.0.1", "172.16.0.1"), on(in("a", "10.0.0.0/8"), in("b.c", "172.16.0.0/12")), nil,
			[]string{`n-auto-hep: n "*" 10.0.0.1,172.16.0.1`, `n-a-auto-hep: n "" 10.0.0.1`, `n-b.c-auto-hep: n "" 172.16.0.1`}, ""},
		{"two templates of one name", autoNode("n", nil, nil, "10.0.0.1"), only(in("a", "10.0.0.0/8"), in("a", "10.0.0.0/16")), nil,
			[]string{`n-a-auto-hep: n "" 10.0.0.1`}, "more than one template makes a host endpoint n-a-auto-hep"},
		{"two templates whose host endpoints have one name", autoNode("n", nil, nil, "10.0.0.1"), only(at("a", "eth0"), in("a-eth0", "10.0.0.0/16")), autoIfaces{"eth0": nil},
			[]string{`n-a-eth0-auto-hep: n "eth0" `}, "more than one template makes"},

		{"a name that is too long", autoNode(long, nil, nil, "10.0.0.1"), on(), nil, []string{`fsetawr4cyeogg79xle7sas6qytoq8j2wa55iiu0owe-auto-hep: ` + long + ` "*" 10.0.0.1`}, ""},
		{"a name just as long as it may be", autoNode(long[:244], nil, nil, "10.0.0.1"), on(), nil, []string{long[:244] + `-auto-hep: ` + long[:244] + ` "*" 10.0.0.1`}, ""},
		{"an interface that no name may have in it", autoNode("n", nil, nil), only(at("t", "ETH")), autoIfaces{"ETH_0": ips("10.0.0.1")}, []string{`?: n "ETH_0" 10.0.0.1`}, ""},

		{"a selector that cannot be understood", autoNode("n", nil, nil, "10.0.0.1"), only(v3.Template{GenerateName: "t", InterfaceCIDRs: []string{"0.0.0.0/0"}, NodeSelector: "a = b"},
			in("u", "10.0.0.0/8")), nil, []string{`n-u-auto-hep: n "" 10.0.0.1`}, `template t: nodeSelector "a = b"`},
		{"a network that cannot be understood", autoNode("n", nil, nil, "10.0.0.1"), only(in("t", "10.0.0.0/8", "10.0.0.1")), nil, nil, "template t: interfaceCIDRs: "},
		{"a pattern that cannot be understood", autoNode("n", nil, nil, "10.0.0.1"), only(at("t", "(")), autoIfaces{}, nil, "template t: interfacePattern: error parsing regexp"},
	} {
		t.Run(c.says, func(t *testing.T) {
			out, err := autoHostEndpoints(c.node, c.config, c.ifaces)
			var have []string
			for _, h := range out {
				if errs := v3.Validate(h); len(errs) > 0 {
					t.Errorf("%s: %v", h.Name, errs)
				}
				if !automatic(h) || !slices.Equal(h.Spec.Profiles, []string{"projectcalico-default-allow"}) || len(h.Name) > 253 {
					t.Errorf("labels %v, profiles %v", h.Labels, h.Spec.Profiles)
				}
				have = append(have, autoLine(h))
			}
			for i := range c.want { // of a digest only that there is one
				if rest, ok := strings.CutPrefix(c.want[i], "?"); ok && i < len(have) {
					name, _, _ := strings.Cut(have[i], ":")
					if digest, ok := strings.CutSuffix(name, "-auto-hep"); ok && len(digest) > 35 {
						c.want[i] = name + rest
					}
				}
			}
			if diff := cmp.Diff(c.want, have); diff != "" {
				t.Errorf("(-want +have)\n%s", diff)
			}
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			again, _ := autoHostEndpoints(c.node, c.config, c.ifaces)
			if diff := cmp.Diff(out, again); diff != "" {
				t.Errorf("a second time (-want +have)\n%s", diff)
			}
		})
	}
}

// What is made of a node shares nothing with it.
func TestAutoHostEndpointsShareNothing(t *testing.T) {
	node, template := autoNode("n", map[string]string{"a": "b"}, nil, "10.0.0.2", "10.0.0.1"), v3.Template{GenerateName: "t", InterfacePattern: "e", Annotations: map[string]string{"c": "d"}}
	ifaces := autoIfaces{"eth0": ips("10.0.0.4", "10.0.0.3")}
	before, asWas := node.DeepCopy(), template.DeepCopy()
	out, err := autoHostEndpoints(node, &v3.AutoHostEndpointConfig{AutoCreate: v3.ControllerEnabled, Templates: []v3.Template{template}}, ifaces)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range out {
		h.Labels["x"], h.Spec.ExpectedIPs = "y", append(h.Spec.ExpectedIPs[:0], "192.0.2.1")
		if h.Annotations != nil {
			h.Annotations["x"] = "y"
		}
	}
	if !cmp.Equal(before, node) || !cmp.Equal(*asWas, template) || ifaces["eth0"][0] != ips("10.0.0.4")[0] {
		t.Errorf("they changed: %v %v %v", node, template, ifaces)
	}
}

func TestNodeInterfaces(t *testing.T) {
	for _, c := range []struct {
		text string // "" for no annotation
		want autoIfaces
		err  string
	}{
		{"", nil, ""},
		{"[]", autoIfaces{}, ""},
		{`[{"name":"tailscale0"},{"name":"wlp59s0","addresses":["192.168.1.105","fd00::1/64"]}]`, autoIfaces{"tailscale0": {}, "wlp59s0": ips("192.168.1.105", "fd00::1")}, ""},
		{"eth0", nil, "annotation projectcalico.org/Interfaces: invalid character"},
		{`[{"name":"eth0","addresses":["eth0"]}]`, nil, `interface eth0: "eth0" is no address of a node`},
	} {
		n := autoNode("n", nil, nil)
		if c.text != "" {
			metav1.SetMetaDataAnnotation(&n.ObjectMeta, annotationIfaces, c.text)
		}
		have, err := nodeInterfaces(n)
		if (have == nil) != (c.want == nil) || !maps.EqualFunc(have, c.want, slices.Equal) {
			t.Errorf("%s: %v, want %v", c.text, have, c.want)
		}
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: error %v, want %q", c.text, err, c.err)
		}
	}
}

// A node that says that it is alive is not looked at.
func TestNodeChanged(t *testing.T) {
	node := autoNode("n", map[string]string{"a": "b"}, map[string]string{"IPv4Address": "10.0.0.1/24"}, "10.0.0.1")
	for says, c := range map[string]struct {
		change func(*corev1.Node)
		is     bool
	}{
		"nothing": {func(*corev1.Node) {}, false},
		"a heartbeat": {func(n *corev1.Node) {
			n.Status.Conditions = []corev1.NodeCondition{{Type: "Ready"}}
			n.ResourceVersion = "2"
		}, false},
		"another annotation":   {func(n *corev1.Node) { n.Annotations["x"] = "y" }, false},
		"an address of Calico": {func(n *corev1.Node) { n.Annotations["projectcalico.org/IPv4Address"] = "10.0.0.2/24" }, true},
		"no address of Calico": {func(n *corev1.Node) { n.Annotations = nil }, true},
		"no interfaces":        {func(n *corev1.Node) { n.Annotations[annotationIfaces] = "" }, true},
		"a label":              {func(n *corev1.Node) { n.Labels["a"] = "c" }, true},
		"an address":           {func(n *corev1.Node) { n.Status.Addresses = nil }, true},
	} {
		now := node.DeepCopy()
		c.change(now)
		if have := nodeChanged(event.UpdateEvent{ObjectOld: node, ObjectNew: now}); have != c.is {
			t.Errorf("%s: %v", says, have)
		}
	}
}

// What is compared is what we write; the order of addresses is not.
func TestAsWanted(t *testing.T) {
	node := autoNode("n", map[string]string{"a": "b"}, nil, "10.0.0.1", "10.0.0.2")
	all, err := autoHostEndpoints(node, &v3.AutoHostEndpointConfig{AutoCreate: v3.ControllerEnabled}, nil)
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	want := all[0]
	for says, c := range map[string]struct {
		change func(*v3.HostEndpoint)
		same   bool
	}{
		"nothing":              {func(*v3.HostEndpoint) {}, true},
		"the API server's own": {func(h *v3.HostEndpoint) { h.UID, h.ResourceVersion, h.Annotations = "u", "1", map[string]string{} }, true},
		"a status":             {func(h *v3.HostEndpoint) { h.Status.ObservedGeneration = 1 }, true},
		"the order":            {func(h *v3.HostEndpoint) { slices.Reverse(h.Spec.ExpectedIPs) }, true},
		"an address":           {func(h *v3.HostEndpoint) { h.Spec.ExpectedIPs[0] = "10.0.0.3" }, false},
		"no addresses":         {func(h *v3.HostEndpoint) { h.Spec.ExpectedIPs = nil }, false},
		"a label":              {func(h *v3.HostEndpoint) { h.Labels["a"] = "c" }, false},
		"another label":        {func(h *v3.HostEndpoint) { h.Labels["c"] = "" }, false},
		"an annotation":        {func(h *v3.HostEndpoint) { h.Annotations = map[string]string{"a": "b"} }, false},
		"the node":             {func(h *v3.HostEndpoint) { h.Spec.Node = "m" }, false},
		"the interface":        {func(h *v3.HostEndpoint) { h.Spec.InterfaceName = "" }, false},
		"a profile":            {func(h *v3.HostEndpoint) { h.Spec.Profiles = nil }, false},
		"a port":               {func(h *v3.HostEndpoint) { h.Spec.Ports = []v3.EndpointPort{{Name: "http"}} }, false},
	} {
		have := want.DeepCopy()
		c.change(have)
		if is := asWanted(have, want); is != c.same {
			t.Errorf("%s: %v", says, is)
		}
	}
}

// autoCluster is an API server with a controller of automatic host endpoints.
type autoCluster struct {
	t *testing.T
	client.Client

	mu     sync.Mutex
	events []string
}

func startAuto(t *testing.T) *autoCluster {
	config := kube.Start(t)
	m, err := manager.New(config, manager.Options{Scheme: store.Scheme, Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		t.Fatal(err)
	}
	c := &autoCluster{t: t}
	r := &hostEndpointReconciler{Client: m.GetClient(), Event: func(about client.Object, warning bool, reason, message string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.events = append(c.events, fmt.Sprintf("%s %v %s: %s", about.GetName(), warning, reason, message))
	}}
	ctx, stop := context.WithCancel(context.Background())
	if err := r.SetupWithManager(ctx, m); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- m.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if c.Client, err = client.New(config, client.Options{Scheme: store.Scheme}); err != nil { // reads past the controller's cache
		t.Fatal(err)
	}
	return c
}

func (c *autoCluster) ok(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *autoCluster) node(n *corev1.Node) {
	c.t.Helper()
	status := n.Status
	c.ok(c.Create(c.t.Context(), n))
	n.Status = status
	c.ok(c.Status().Update(c.t.Context(), n))
}

// settings are made or changed.
func (c *autoCluster) settings(node v3.NodeControllerConfig) {
	c.t.Helper()
	now := &v3.KubeControllersConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	err := c.Get(c.t.Context(), client.ObjectKeyFromObject(now), now)
	now.Spec.Controllers.Node = &node
	if err != nil {
		c.ok(c.Create(c.t.Context(), now))
		return
	}
	c.ok(c.Update(c.t.Context(), now))
}

func (c *autoCluster) hep(name string) *v3.HostEndpoint {
	c.t.Helper()
	h := &v3.HostEndpoint{}
	c.ok(c.Get(c.t.Context(), client.ObjectKey{Name: name}, h))
	return h
}

// until the host endpoints are these and no others. A controller that is quick may be seen half way.
func (c *autoCluster) until(says string, want ...string) {
	c.t.Helper()
	slices.Sort(want)
	var have []string
	err := wait.PollUntilContextTimeout(c.t.Context(), 20*time.Millisecond, 20*time.Second, true, func(ctx context.Context) (bool, error) {
		var all v3.HostEndpointList
		if err := c.List(ctx, &all); err != nil {
			return false, err
		}
		have = nil
		for i := range all.Items {
			text := autoLine(&all.Items[i])
			if !automatic(&all.Items[i]) {
				text = "own " + text
			}
			have = append(have, text)
		}
		slices.Sort(have)
		return slices.Equal(have, want), nil
	})
	if err != nil {
		c.t.Fatalf("%s: %v\nhave\n%s\nwant\n%s", says, err, strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

func (c *autoCluster) told(says, text string) {
	c.t.Helper()
	var have []string
	err := wait.PollUntilContextTimeout(c.t.Context(), 20*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		have = slices.Clone(c.events)
		return slices.ContainsFunc(have, func(e string) bool { return strings.Contains(e, text) }), nil
	})
	if err != nil {
		c.t.Fatalf("%s: nobody is told %q: %q", says, text, have)
	}
}

func TestHostEndpointReconciler(t *testing.T) {
	c := startAuto(t)
	ctx := t.Context()
	never := v3.Period("0") // so that nothing is mended but by what is seen
	on := func(templates ...v3.Template) v3.NodeControllerConfig {
		return v3.NodeControllerConfig{ReconcilerPeriod: &never, HostEndpoint: &v3.AutoHostEndpointConfig{AutoCreate: v3.ControllerEnabled, Templates: templates}}
	}
	c.node(autoNode("n1", map[string]string{"zone": "a"}, map[string]string{"IPv4VXLANTunnelAddr": "192.168.0.1"}, "10.0.0.1"))
	c.node(autoNode("n2", nil, nil, "10.0.0.2"))
	own := &v3.HostEndpoint{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: v3.HostEndpointSpec{Node: "n1", InterfaceName: "eth0"}}
	c.ok(c.Create(ctx, own))
	stale := &v3.HostEndpoint{ObjectMeta: metav1.ObjectMeta{Name: "gone-auto-hep", Labels: map[string]string{labelCreatedBy: autoCreator}},
		Spec: v3.HostEndpointSpec{Node: "gone", InterfaceName: "*"}}
	c.ok(c.Create(ctx, stale))
	const (
		mine = `own mine: n1 "eth0" `
		one  = `n1-auto-hep: n1 "*" 10.0.0.1,192.168.0.1 zone=a`
		two  = `n2-auto-hep: n2 "*" 10.0.0.2`
	)
	c.until("without settings there are none", mine)
	c.settings(v3.NodeControllerConfig{HostEndpoint: &v3.AutoHostEndpointConfig{}})
	c.until("nor are there by default", mine)
	c.settings(on())
	c.until("enabled", mine, one, two)

	first := c.hep("n1-auto-hep")
	edit := first.DeepCopy()
	edit.Labels = map[string]string{labelCreatedBy: autoCreator, "zone": "b"}
	edit.Spec.Profiles, edit.Spec.ExpectedIPs = nil, []string{"192.0.2.1"}
	c.ok(c.Update(ctx, edit))
	c.until("what was edited is reverted", mine, one, two)
	if now := c.hep("n1-auto-hep"); now.UID != first.UID || !asWanted(now, first) {
		t.Errorf("it was %v, and is %v", first, now)
	}
	edit = c.hep("n1-auto-hep")
	edit.Spec.Node = "n2"
	c.ok(c.Update(ctx, edit))
	c.until("also its node", mine, one, two)
	c.ok(c.Delete(ctx, c.hep("n2-auto-hep")))
	c.until("what was deleted is there again", mine, one, two)

	var n1 corev1.Node
	c.ok(c.Get(ctx, client.ObjectKey{Name: "n1"}, &n1))
	n1.Annotations[annotationIfaces] = `[{"name":"eth0","addresses":["10.0.0.1"]},{"name":"eth1","addresses":["172.16.0.1"]}]`
	n1.Labels["zone"] = "c"
	c.ok(c.Update(ctx, &n1))
	const oneC = `n1-auto-hep: n1 "*" 10.0.0.1,172.16.0.1,192.168.0.1 zone=c`
	c.until("a node's labels and addresses are followed", mine, oneC, two)
	if now := c.hep("n2-auto-hep"); now.Generation != 1 {
		t.Errorf("what was as it should be has been written: generation %d", now.Generation)
	}

	c.settings(on(v3.Template{GenerateName: "t", InterfaceCIDRs: []string{"10.0.0.0/31"}, Labels: map[string]string{"x": "y"}, Annotations: map[string]string{"d": "e"}},
		v3.Template{GenerateName: "i", InterfacePattern: "eth1", NodeSelector: "zone == 'c'"}))
	const byNet, byName = `n1-t-auto-hep: n1 "" 10.0.0.1 x=y zone=c d=e`, `n1-i-eth1-auto-hep: n1 "eth1" 172.16.0.1 zone=c`
	c.until("templates", mine, oneC, two, byNet, byName)
	edit = c.hep("n1-t-auto-hep")
	edit.Annotations = nil
	c.ok(c.Update(ctx, edit))
	c.until("annotations are reverted too", mine, oneC, two, byNet, byName)

	c.settings(on(v3.Template{GenerateName: "i", InterfacePattern: "eth1"}))
	c.told("interfaces that nobody reports", "n2 true HostEndpointsInDoubt: some host endpoints are not made, and none is deleted: template i: interfacePattern: the interfaces of the node are not known")
	c.until("a template that is removed", mine, oneC, two, byName)
	c.ok(c.Get(ctx, client.ObjectKey{Name: "n1"}, &n1))
	delete(n1.Annotations, annotationIfaces)
	c.ok(c.Update(ctx, &n1))
	const oneLess = `n1-auto-hep: n1 "*" 10.0.0.1,192.168.0.1 zone=c`
	c.until("while interfaces are not known none is deleted", mine, oneLess, two, byName)
	c.settings(on())
	c.until("no templates", mine, oneLess, two)

	c.ok(c.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}))
	c.until("a node that is gone", mine, two)

	taken := &v3.HostEndpoint{ObjectMeta: metav1.ObjectMeta{Name: "n3-auto-hep"}, Spec: v3.HostEndpointSpec{Node: "n3", InterfaceName: "eth7"}}
	c.ok(c.Create(ctx, taken))
	c.node(autoNode("n3", nil, nil, "10.0.0.3"))
	c.told("a user's host endpoint is in the way", "n3-auto-hep true NotAutomatic: node n3 should have")
	c.until("it is left alone", mine, two, `own n3-auto-hep: n3 "eth7" `)
	c.ok(c.Delete(ctx, taken))
	c.until("it is not in the way any more", mine, two, `n3-auto-hep: n3 "*" 10.0.0.3`)

	own2 := c.hep("n3-auto-hep")
	delete(own2.Labels, labelCreatedBy)
	c.ok(c.Update(ctx, own2))
	c.settings(v3.NodeControllerConfig{HostEndpoint: &v3.AutoHostEndpointConfig{AutoCreate: v3.ControllerDisabled}})
	c.until("disabled: all that have the label are deleted, and no others", mine, `own n3-auto-hep: n3 "*" 10.0.0.3`)
	c.ok(c.Delete(ctx, own2))

	c.settings(on(v3.Template{GenerateName: "t", InterfaceCIDRs: []string{"10.0.0.0/30"}}))
	c.until("enabled again", mine, two, `n2-t-auto-hep: n2 "" 10.0.0.2`, `n3-auto-hep: n3 "*" 10.0.0.3`, `n3-t-auto-hep: n3 "" 10.0.0.3`)
	c.node(autoNode("n3-t", nil, nil, "10.0.0.4"))
	c.told("two nodes want one name", "n3-t-auto-hep true NameTaken: nodes n3 and n3-t should both have")
	c.until("the first keeps it", mine, two, `n2-t-auto-hep: n2 "" 10.0.0.2`, `n3-auto-hep: n3 "*" 10.0.0.3`, `n3-t-auto-hep: n3 "" 10.0.0.3`)
	c.ok(c.Delete(ctx, &v3.KubeControllersConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "default"}}))
	c.until("no settings any more", mine)
	if now := c.hep("mine"); now.Generation != 1 || now.ResourceVersion != own.ResourceVersion {
		t.Errorf("a user's host endpoint was written: %v", now)
	}
}
