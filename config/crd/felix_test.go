package crd_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/config/crd"
)

func felix(name, spec string) string { return named("FelixConfiguration", name, spec) }

// felixConfigurations is contract §1.11.1: the values of known fields, and unknown fields, which stay.
var felixConfigurations = []fragment{
	{felix("default", "{defaultEndpointToHostAction: ACCEPT, iptablesFilterDenyAction: reject, serviceLoopPrevention: '', workloadSourceSpoofing: aNy}"), accepted},
	{felix("default", "{defaultEndpointToHostAction: Reject}"), "spec.defaultEndpointToHostAction"},
	{felix("default", "{nftablesFilterDenyAction: Accept}"), "spec.nftablesFilterDenyAction"},
	{felix("default", "{nftablesMarkMask: 0xffff0000}"), accepted},
	{felix("default", "{nftablesMarkMask: 0x100000000}"), "spec.nftablesMarkMask"},
	{felix("default", "{nftablesMarkMask: -1}"), "spec.nftablesMarkMask"},
	{felix("default", "{nftablesMarkMask: '0xff000000'}"), "spec.nftablesMarkMask"},
	{felix("default", "{iptablesMarkMask: 8}"), "spec.iptablesMarkMask"},
	{felix("default", "{failsafeInboundHostPorts: [], failsafeOutboundHostPorts: [{port: 53, protocol: udp, net: 10.0.0.0/8}, {port: 1, protocol: TCP, net: 'fd00::/8'}]}"), accepted},
	{felix("default", "{failsafeInboundHostPorts: [{protocol: tcp}]}"), "spec.failsafeInboundHostPorts[0].port"},
	{felix("default", "{failsafeInboundHostPorts: [{port: 0}]}"), "spec.failsafeInboundHostPorts[0].port"},
	{felix("default", "{failsafeInboundHostPorts: [{port: 70000}]}"), "spec.failsafeInboundHostPorts[0].port"},
	{felix("default", "{failsafeInboundHostPorts: [{port: 1, protocol: sctp}]}"), "spec.failsafeInboundHostPorts[0].protocol"},
	{felix("default", "{failsafeOutboundHostPorts: [{port: 1, net: 10.0.0.0/33}]}"), "spec.failsafeOutboundHostPorts[0].net"},
	{felix("default", "{kubeNodePortRanges: ['30000:32767', 80]}"), accepted},
	{felix("default", "{kubeNodePortRanges: ['9:1']}"), "spec.kubeNodePortRanges[0]"},
	{felix("default", "{kubeNodePortRanges: [http]}"), "spec.kubeNodePortRanges[0]"},
	{felix("default", "{kubeNodePortRanges: [70000]}"), "spec.kubeNodePortRanges[0]"},
	{felix("default", "{kubeNodePortRanges: [1, 2, 3, 4, 5, 6, 7, 8]}"), "spec.kubeNodePortRanges"},
	{felix("default", "{vxlanPort: 0}"), "spec.vxlanPort"},
	{felix("default", "{disableConntrackInvalidCheck: 'yes'}"), "spec.disableConntrackInvalidCheck"},
	{felix("default", "{logPrefix: '%t/%k/%p: '}"), accepted},
	{felix("default", "{logPrefix: 'a$'}"), "spec.logPrefix"},
	{felix("default", "{logActionRateLimitBurst: 10000}"), "spec.logActionRateLimitBurst"},
	{felix("default", "{nftablesRefreshInterval: 0.5s, flowLogsFlushInterval: 1m30s, dataplaneWatchdogTimeout: 90s}"), accepted},
	{felix("default", "{nftablesRefreshInterval: 90}"), "spec.nftablesRefreshInterval"},
	{felix("default", "{ipsetsRefreshInterval: fast}"), "spec.ipsetsRefreshInterval"},
	{felix("default", "{interfacePrefix: 'a b'}"), "spec.interfacePrefix"},
	{felix("default", "{nftablesMode: auto}"), "spec.nftablesMode"},
	{felix("default", "{bpfEnabled: true, nftablesMode: Enabled, iptablesBackend: NFT, healthPort: 0, prometheusMetricsPort: 9091}"), accepted},
	{felix("default", "{wireguardEnabled: true, routeTableRanges: [{min: 1, max: 250}], bpfMapSizeRoute: 1, logSeverityScreen: Info}"), accepted},
	{felix("default", "{logprefix: a}"), "spec.logprefix"},
	{felix("pool", "{nodeSelector: a = b}"), "spec.nodeSelector"},
}

func TestFelixConfigurations(t *testing.T) {
	for _, f := range felixConfigurations {
		_, errs := judge(parse(t, f.text))
		check(t, "FelixConfiguration fields", f, errs)
	}
}

// TestFelixUnknownFieldsStay: what Calico has and we do not use goes through admission and the Go type unchanged, and nothing
// counts it as a mistake; within a field that is known, what is not known is one.
func TestFelixUnknownFieldsStay(t *testing.T) {
	u := parse(t, felix("default", `{logPrefix: a, wireguardMTU: 1440, bpfLogFilters: {all: "tcp"}, routeTableRanges: [{min: 1, max: 250}],
		nothing: null, failsafeInboundHostPorts: [{port: 22, nett: x}], failsafeOutboundHostPorts: [], kubeNodePortRanges: null}`))
	unknown, errs := crd.Admit(u, nil)
	if diff := cmp.Diff([]string{"spec.failsafeInboundHostPorts[0].nett"}, unknown); diff != "" || len(errs) > 0 {
		t.Fatalf("%v\n%s", errs, diff)
	}
	obj, err := decode(u)
	if err != nil {
		t.Fatal(err)
	}
	v3.Default(obj)
	const want = `{"bpfLogFilters":{"all":"tcp"},"failsafeInboundHostPorts":[{"port":22}],"failsafeOutboundHostPorts":[],"logPrefix":"a",` +
		`"nothing":null,"routeTableRanges":[{"max":250,"min":1}],"wireguardMTU":1440}`
	if have := string(encode(t, obj.(*v3.FelixConfiguration).Spec)); have != want {
		t.Errorf("%s\nwant %s", have, want)
	}
}
