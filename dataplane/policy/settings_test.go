package policy_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// A host endpoint that is found by its address does not stand on an interface that is excluded.
func TestExcludedInterfaces(t *testing.T) {
	service := netip.MustParseAddr("10.96.0.1")
	hep := &v3.HostEndpoint{}
	hep.Name, hep.Spec.Node, hep.Spec.ExpectedIPs = "h", "n1", []string{service.String()}
	for exclude, want := range map[string]int{"": 0, "kube-ipvs0": 0, "other": 1, "/^kube-/,lo": 0, "/ipvs/": 0, "kube-ipvs": 1} {
		x := policy.NewIndex("n1", policy.Options{})
		if err := x.Set(hep); err != nil {
			t.Fatal(err)
		}
		if exclude != "" {
			c := &v3.FelixConfiguration{}
			c.Name, c.Spec.InterfaceExclude = "default", &exclude
			if err := x.Set(c); err != nil {
				t.Fatal(err)
			}
		}
		x.SetInterfaces([]policy.Iface{{Name: "kube-ipvs0", Addrs: []netip.Addr{service}}})
		if got := len(x.Plan().Endpoints[0].Ifaces); got != want {
			t.Errorf("interfaceExclude %q: the endpoint stands on %d interfaces, want %d", exclude, got, want)
		}
	}
}

// A setting that makes no sense is told, by its field, and the one of before holds.
func TestSettingsThatMakeNoSense(t *testing.T) {
	text := func(s string) *string { return &s }
	rows := map[string]v3.FelixConfigurationSpec{
		"spec.defaultEndpointToHostAction": {DefaultEndpointToHostAction: text("Refuse")},
		"spec.nftablesFilterDenyAction":    {NFTablesFilterDenyAction: text("Deny")},
		"spec.logActionRateLimit":          {LogActionRateLimit: text("ten/second")},
		"spec.interfaceExclude":            {InterfaceExclude: text("/(/")},
		"spec.failsafeInboundHostPorts[0]": {FailsafeInboundHostPorts: &[]v3.ProtoPort{{Protocol: "ICMP", Port: 1}}},
		"spec.nodeSelector":                {NodeSelector: "a ="},
	}
	for field, spec := range rows {
		x := policy.NewIndex("n1", policy.Options{})
		before := x.Plan().Settings["n1"]
		c := &v3.FelixConfiguration{Spec: spec}
		c.Name = "some"
		if spec.NodeSelector == "" {
			c.Name = "default"
		}
		if err := x.Set(c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
		if after := x.Plan().Settings["n1"]; after.EndpointToHost != before.EndpointToHost || after.Reject != before.Reject || after.LogLimit != nil {
			t.Errorf("%s: %+v", field, after)
		}
	}
}

// A host endpoint that is found by its address does not stand on a workload's interface: one that an object names, or one that has
// a workload's name.
func TestHostEndpointsAreOnHostInterfaces(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.9")
	hep := &v3.HostEndpoint{}
	hep.Name, hep.Spec.Node, hep.Spec.ExpectedIPs = "h", "n1", []string{addr.String()}
	vm := &v3.WorkloadEndpoint{}
	vm.Name, vm.Namespace, vm.Spec.Node, vm.Spec.InterfaceName, vm.Spec.IPNetworks = "vm", "ns", "n1", "tap1", []string{"10.0.0.1/32"}
	for name, want := range map[string][]string{"eth0": {"eth0"}, "tap1": nil, "cali1": nil} {
		x := policy.NewIndex("n1", policy.Options{})
		if err := x.Set(hep); err != nil {
			t.Fatal(err)
		}
		if err := x.Set(vm); err != nil {
			t.Fatal(err)
		}
		x.SetInterfaces([]policy.Iface{{Name: name, Addrs: []netip.Addr{addr}}})
		if got := x.Plan().Endpoints[0]; got.Ref.Kind != "HostEndpoint" || !slices.Equal(got.Ifaces, want) {
			t.Errorf("%s: %s stands on %v, want %v", name, got.Ref, got.Ifaces, want)
		}
	}
}

// Every object wins over the base, and what the operator says himself over every object.
func TestSettingsInOrder(t *testing.T) {
	text := func(s string) *string { return &s }
	spec := func(action string) (out v3.FelixConfigurationSpec) {
		if action != "" {
			out.DefaultEndpointToHostAction = text(action)
		}
		return out
	}
	for _, c := range []struct{ base, object, own, want string }{
		{"", "", "", "Drop"}, {"Accept", "", "", "Accept"}, {"Accept", "Return", "", "Return"}, {"", "Return", "Accept", "Accept"}, {"Return", "Drop", "", "Drop"},
	} {
		x := policy.NewIndex("n1", policy.Options{Base: spec(c.base), Felix: spec(c.own)})
		object := &v3.FelixConfiguration{Spec: spec(c.object)}
		object.Name = "default"
		if err := x.Set(object); err != nil {
			t.Fatal(err)
		}
		if got := x.Plan().Settings["n1"].EndpointToHost; got != policy.ToHostActions[strings.ToLower(c.want)] {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
