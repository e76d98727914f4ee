package controllers

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Automatic host endpoints have this label. Its value is Calico's, so that host endpoints which Calico made are taken over as they are.
const (
	labelCreatedBy   = "projectcalico.org/created-by"
	autoCreator      = "calico-kube-controllers"
	autoProfile      = "projectcalico-default-allow" // a node that no policy selects stays open
	autoSuffix       = "auto-hep"
	autoPeriod       = 5 * time.Minute
	autoInterfaces   = "*"
	annotationIfaces = "projectcalico.org/Interfaces"
)

// autoAnnotations are where Calico writes the addresses of a node that Kubernetes does not know.
var autoAnnotations = []string{
	"projectcalico.org/IPv4Address", "projectcalico.org/IPv6Address", // of BGP, with the prefix length of their network
	"projectcalico.org/IPv4IPIPTunnelAddr",
	"projectcalico.org/IPv4VXLANTunnelAddr", "projectcalico.org/IPv6VXLANTunnelAddr",
	"projectcalico.org/IPv4WireguardInterfaceAddr", "projectcalico.org/IPv6WireguardInterfaceAddr",
}

// errNoInterfaces is said of a template that asks for interfaces by name where nobody reports them.
var errNoInterfaces = errors.New("interfacePattern: the interfaces of the node are not known: annotation " + annotationIfaces + " is missing")

// autoHostEndpoints are those that a node should have (contract §1.11.2). ifaces are the node's interfaces with their addresses, or nil
// while they are not known. An error is of what could not be understood; the others are there beside it, but it is not certain that there
// are no more.
func autoHostEndpoints(node *corev1.Node, config *v3.AutoHostEndpointConfig, ifaces map[string][]netip.Addr) ([]*v3.HostEndpoint, error) {
	if config == nil || config.AutoCreate != v3.ControllerEnabled {
		return nil, nil
	}
	addrs, err := nodeAddresses(node)
	errs, ifaces := []error{err}, ownAddresses(ifaces)
	for _, more := range ifaces {
		addrs = append(addrs, more...)
	}
	var all []*v3.HostEndpoint
	if config.CreateDefaultHostEndpoint != v3.ControllerDisabled {
		all = append(all, autoHostEndpoint(node, &v3.Template{}, autoInterfaces, addrs, autoName(node.Name)))
	}
	for i := range config.Templates {
		t := &config.Templates[i]
		more, err := templateHostEndpoints(node, t, addrs, ifaces)
		if err != nil {
			errs = append(errs, fmt.Errorf("template %s: %w", t.GenerateName, err))
		}
		all = append(all, more...)
	}
	var out []*v3.HostEndpoint
	for _, h := range all {
		if slices.ContainsFunc(out, func(o *v3.HostEndpoint) bool { return o.Name == h.Name }) {
			errs = append(errs, fmt.Errorf("more than one template makes a host endpoint %s", h.Name))
			continue
		}
		out = append(out, h)
	}
	return out, errors.Join(errs...)
}

// templateHostEndpoints are one for the node's addresses in some networks, or one for each interface of some name.
func templateHostEndpoints(node *corev1.Node, t *v3.Template, addrs []netip.Addr, ifaces map[string][]netip.Addr) (out []*v3.HostEndpoint, err error) {
	if is, err := t.Selects(node.Labels); !is {
		return nil, err
	}
	var nets []netip.Prefix
	for _, text := range t.InterfaceCIDRs {
		net, err := v3.ParseInterfaceCIDR(text)
		if err != nil {
			return nil, fmt.Errorf("interfaceCIDRs: %q: %w", text, err)
		}
		nets = append(nets, net)
	}
	within := func(addrs []netip.Addr) []netip.Addr {
		return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool {
			return !slices.ContainsFunc(nets, func(n netip.Prefix) bool { return n.Contains(a) })
		})
	}
	if t.InterfacePattern == "" {
		if in := within(addrs); len(in) > 0 { // of neither interface nor address it would be no host endpoint
			out = append(out, autoHostEndpoint(node, t, "", in, autoName(node.Name, t.GenerateName)))
		}
		return out, nil
	}
	pattern, err := regexp.Compile(t.InterfacePattern)
	if err != nil {
		return nil, fmt.Errorf("interfacePattern: %w", err)
	}
	if ifaces == nil {
		return nil, errNoInterfaces
	}
	for _, name := range slices.Sorted(maps.Keys(ifaces)) {
		if !pattern.MatchString(name) {
			continue
		}
		in := ifaces[name]
		if len(nets) > 0 {
			in = within(in)
		}
		out = append(out, autoHostEndpoint(node, t, name, in, autoName(node.Name, t.GenerateName, name)))
	}
	return out, nil
}

func autoHostEndpoint(node *corev1.Node, t *v3.Template, iface string, addrs []netip.Addr, name string) *v3.HostEndpoint {
	labels := map[string]string{}
	maps.Copy(labels, node.Labels)
	maps.Copy(labels, t.Labels)
	labels[labelCreatedBy] = autoCreator
	h := &v3.HostEndpoint{
		TypeMeta:   metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "HostEndpoint"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels, Annotations: maps.Clone(t.Annotations)},
		Spec:       v3.HostEndpointSpec{Node: node.Name, InterfaceName: iface, Profiles: []string{autoProfile}},
	}
	addrs = slices.Clone(addrs)
	slices.SortFunc(addrs, netip.Addr.Compare)
	for _, a := range slices.Compact(addrs) {
		h.Spec.ExpectedIPs = append(h.Spec.ExpectedIPs, a.String())
	}
	return h
}

// autoName joins the parts of a host endpoint's name. What is too long for a name, or is none, such as that of an interface in upper case,
// has a digest in its place: the one that Calico would have.
func autoName(parts ...string) string {
	name := strings.Join(append(parts, autoSuffix), "-")
	if len(validation.IsDNS1123Subdomain(name)) == 0 {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	digest := base64.RawURLEncoding.EncodeToString(sum[:])
	return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(digest)) + "-" + autoSuffix
}

// nodeAddresses are those that Kubernetes and Calico know of a node.
func nodeAddresses(node *corev1.Node) (out []netip.Addr, err error) {
	var errs []error
	take := func(from, text string) {
		a, err := nodeAddress(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", from, err))
			return
		}
		out = append(out, a)
	}
	for _, key := range autoAnnotations {
		if text := node.Annotations[key]; text != "" {
			take("annotation "+key, text)
		}
	}
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			take("status.addresses", a.Address)
		}
	}
	return out, errors.Join(errs...)
}

// nodeAddress may have a prefix length, which is of no interest.
func nodeAddress(text string) (netip.Addr, error) {
	alone, _, _ := strings.Cut(text, "/")
	a, err := netip.ParseAddr(alone)
	if err != nil || a.IsUnspecified() || a.IsMulticast() {
		return netip.Addr{}, fmt.Errorf("%q is no address of a node", text)
	}
	return a.Unmap().WithZone(""), nil
}

// ownAddresses leaves out those of interfaces that every node has: a rule that means one node must not find the others by them.
func ownAddresses(ifaces map[string][]netip.Addr) map[string][]netip.Addr {
	if ifaces == nil {
		return nil
	}
	out := map[string][]netip.Addr{}
	for name, addrs := range ifaces {
		out[name] = slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a.IsLoopback() || a.IsLinkLocalUnicast() })
	}
	return out
}

// nodeInterfaces are those that Calico's node agent, or whoever does as it does, reports by an annotation; nil where nobody does.
func nodeInterfaces(node *corev1.Node) (map[string][]netip.Addr, error) {
	text, ok := node.Annotations[annotationIfaces]
	if !ok {
		return nil, nil
	}
	var told []struct {
		Name      string   `json:"name"`
		Addresses []string `json:"addresses"`
	}
	if err := json.Unmarshal([]byte(text), &told); err != nil {
		return nil, fmt.Errorf("annotation %s: %w", annotationIfaces, err)
	}
	out := map[string][]netip.Addr{}
	for _, i := range told {
		out[i.Name] = []netip.Addr{}
		for _, text := range i.Addresses {
			a, err := nodeAddress(text)
			if err != nil {
				return nil, fmt.Errorf("annotation %s: interface %s: %w", annotationIfaces, i.Name, err)
			}
			out[i.Name] = append(out[i.Name], a)
		}
	}
	return out, nil
}
