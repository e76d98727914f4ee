package v3_test

import (
	"encoding/json"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// TestFelixJSON: what is read is written again, unknown fields and the difference between an empty list and none included.
func TestFelixJSON(t *testing.T) {
	for _, c := range []struct{ given, want string }{
		{`{}`, `{}`},
		{`null`, `{}`},
		{`{"failsafeInboundHostPorts":[]}`, `{"failsafeInboundHostPorts":[]}`},
		{`{"failsafeInboundHostPorts":null}`, `{}`},
		{`{"failsafeOutboundHostPorts":[{"port":53}],"kubeNodePortRanges":[]}`, `{"failsafeOutboundHostPorts":[{"port":53}],"kubeNodePortRanges":[]}`},
		{`{"logPrefix":"","logActionRateLimitBurst":0,"ipv6Support":false}`, `{"logPrefix":"","logActionRateLimitBurst":0,"ipv6Support":false}`},
		{`{"logPrefix":"a","b":{"z":1, "y":[null,1.5,"<"]}}`, `{"b":{"y":[null,1.5,"\u003c"],"z":1},"logPrefix":"a"}`},
		{`{"wireguardMTU":9007199254740993,"nothing":null}`, `{"nothing":null,"wireguardMTU":9007199254740993}`},
		{`{"LogPrefix":5,"logprefix":[]}`, `{"LogPrefix":5,"logprefix":[]}`},
		{`{"Unknown":1,"-":2,"":3}`, `{"":3,"-":2,"Unknown":1}`},
	} {
		spec := v3.FelixConfigurationSpec{LogPrefix: new(string), Unknown: map[string]json.RawMessage{"old": nil}}
		if err := json.Unmarshal([]byte(c.given), &spec); err != nil {
			t.Fatalf("%s: %v", c.given, err)
		}
		have, err := json.Marshal(spec)
		if err != nil || string(have) != c.want {
			t.Errorf("%s: %s, want %s (%v)", c.given, have, c.want, err)
		}
		var again v3.FelixConfigurationSpec
		if err := json.Unmarshal(have, &again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(spec, again); diff != "" {
			t.Errorf("%s, read again:\n%s", c.given, diff)
		}
		if diff := cmp.Diff(spec, *spec.DeepCopy()); diff != "" {
			t.Errorf("%s, copied:\n%s", c.given, diff)
		}
	}
}

// A field that is known stands, whatever an unknown one of the same name would say.
func TestFelixKnownBeforeUnknown(t *testing.T) {
	prefix := "a"
	spec := v3.FelixConfigurationSpec{LogPrefix: &prefix, Unknown: map[string]json.RawMessage{"logPrefix": json.RawMessage(`"b"`), "c": json.RawMessage(`1`)}}
	have, err := json.Marshal(spec)
	if want := `{"c":1,"logPrefix":"a"}`; err != nil || string(have) != want {
		t.Errorf("%s, want %s (%v)", have, want, err)
	}
	if len(spec.Unknown) != 2 || string(spec.Unknown["logPrefix"]) != `"b"` {
		t.Errorf("writing changed what was written: %s", spec.Unknown)
	}
}

func TestParseRateLimit(t *testing.T) {
	for _, c := range []struct {
		in      string
		n       uint64 // 0: refused
		seconds uint32
	}{
		{"1/second", 1, 1}, {"10/minute", 10, 60}, {"100/hour", 100, 3600}, {"9999/day", 9999, 86400},
		{"0/second", 0, 0}, {"10000/second", 0, 0}, {"01/second", 0, 0}, {"-1/second", 0, 0}, {"1.5/second", 0, 0}, {"10/fortnight", 0, 0},
		{"10/Second", 0, 0}, {"10/seconds", 0, 0}, {"10 / second", 0, 0}, {"10/", 0, 0}, {"/second", 0, 0}, {"10", 0, 0}, {"", 0, 0}, {"10/second\n", 0, 0},
	} {
		n, seconds, err := v3.ParseRateLimit(c.in)
		if n != c.n || seconds != c.seconds || (err == nil) != (c.n != 0) {
			t.Errorf("%q: %d in %d s, %v; want %d in %d s", c.in, n, seconds, err, c.n, c.seconds)
		}
		if err != nil && !strings.Contains(err.Error(), "second, minute, hour or day") {
			t.Errorf("%q: %q does not say what was expected", c.in, err)
		}
	}
}

func TestDurationParse(t *testing.T) {
	for in, want := range map[v3.Duration]string{
		"": "0s", "90s": "1m30s", "0.5s": "500ms", "1.25m": "1m15s", "1h2m3s4ms": "1h2m3.004s",
		"90": "", "s": "", "-1s": "", "1d": "", "1 s": "", `1s"`: "", "99999999999h": "", "\n": "", "é": "",
	} {
		have, err := in.Parse()
		if (err == nil) != (want != "") || err == nil && have.Duration.String() != want {
			t.Errorf("%q: %s, %v; want %q", string(in), have.Duration, err, want)
		}
	}
}

func TestProtoPortParse(t *testing.T) {
	const tcp, udp = 6, 17
	for _, c := range []struct {
		in     v3.ProtoPort
		proto  uint8
		net    string
		reason string
	}{
		{v3.ProtoPort{Port: 22}, tcp, "", ""},
		{v3.ProtoPort{Protocol: "tcp", Port: 1}, tcp, "", ""},
		{v3.ProtoPort{Protocol: "UDP", Port: 65535}, udp, "", ""},
		{v3.ProtoPort{Protocol: "Udp", Port: 53, Net: "10.0.0.0/8"}, udp, "10.0.0.0/8", ""},
		{v3.ProtoPort{Port: 53, Net: "10.1.2.3/8"}, tcp, "10.0.0.0/8", ""},
		{v3.ProtoPort{Port: 53, Net: "0.0.0.0/0"}, tcp, "0.0.0.0/0", ""},
		{v3.ProtoPort{Port: 53, Net: "fd00::/8"}, tcp, "fd00::/8", ""},
		{v3.ProtoPort{Port: 53, Net: "10.0.0.1"}, tcp, "10.0.0.1/32", ""},
		{v3.ProtoPort{Port: 53, Net: "fd00::1"}, tcp, "fd00::1/128", ""},
		{v3.ProtoPort{}, 0, "", "between 1 and 65535"},
		{v3.ProtoPort{Protocol: "sctp", Port: 1}, 0, "", "neither TCP nor UDP"},
		{v3.ProtoPort{Protocol: " tcp", Port: 1}, 0, "", "neither TCP nor UDP"},
		{v3.ProtoPort{Protocol: "6", Port: 1}, 0, "", "neither TCP nor UDP"},
		{v3.ProtoPort{Port: 1, Net: "10.0.0.0/33"}, 0, "", "is no network"},
		{v3.ProtoPort{Port: 1, Net: "example.com"}, 0, "", "is no network"},
		{v3.ProtoPort{Port: 1, Net: "fe80::1%eth0"}, 0, "", "is no network"},
		{v3.ProtoPort{Port: 1, Net: "::ffff:10.0.0.1"}, 0, "", "must be written as IPv4"},
	} {
		proto, port, net, err := c.in.Parse()
		if c.reason != "" {
			if err == nil || !strings.Contains(err.Error(), c.reason) || proto != 0 || port != 0 || net.IsValid() {
				t.Errorf("%+v: %d %d %s, %v; want %q and nothing else", c.in, proto, port, net, err, c.reason)
			}
			continue
		}
		want := netip.Prefix{}
		if c.net != "" {
			want = netip.MustParsePrefix(c.net)
		}
		if err != nil || proto != c.proto || port != c.in.Port || net != want {
			t.Errorf("%+v: %d %d %s, %v; want %d %d %s", c.in, proto, port, net, err, c.proto, c.in.Port, want)
		}
	}
}

// TestParseFailsafePorts: the vectors of contract §10.6 and their neighbours. nil is no list, and not an empty one.
func TestParseFailsafePorts(t *testing.T) {
	list := func(p ...v3.ProtoPort) []v3.ProtoPort { return p }
	const form = "expected port, protocol:port or protocol:network:port"
	for _, c := range []struct {
		in     string
		want   []v3.ProtoPort
		reason string
	}{
		{"none", []v3.ProtoPort{}, ""},
		{" None ", []v3.ProtoPort{}, ""},
		{"", nil, ""},
		{" , ", nil, ""},
		{"22", list(v3.ProtoPort{Protocol: "tcp", Port: 22}), ""},
		{"udp:[fd00::/8]:53", list(v3.ProtoPort{Protocol: "udp", Net: "fd00::/8", Port: 53}), ""},
		{"tcp:10.0.0.0/8:6443", list(v3.ProtoPort{Protocol: "tcp", Net: "10.0.0.0/8", Port: 6443}), ""},
		{"tcp:[10.0.0.0/8]:6443", list(v3.ProtoPort{Protocol: "tcp", Net: "10.0.0.0/8", Port: 6443}), ""},
		{"tcp:22,,udp:5", list(v3.ProtoPort{Protocol: "tcp", Port: 22}, v3.ProtoPort{Protocol: "udp", Port: 5}), ""},
		{" TCP:22 , 23,", list(v3.ProtoPort{Protocol: "tcp", Port: 22}, v3.ProtoPort{Protocol: "tcp", Port: 23}), ""},
		{"tcp:22,udp:[fd00::/8]:53", list(v3.ProtoPort{Protocol: "tcp", Port: 22}, v3.ProtoPort{Protocol: "udp", Net: "fd00::/8", Port: 53}), ""},
		{"sctp:1", nil, "neither TCP nor UDP"},
		{"22,none", nil, form},
		{"tcp:0", nil, "between 1 and 65535"},
		{"tcp:65536", nil, "from 0 to 65535"},
		{"tcp:99999999999999999999", nil, "from 0 to 65535"},
		{"tcp:-1", nil, form},
		{"tcp:", nil, form},
		{":22", nil, form},
		{"tcp::22", nil, form},
		{"tcp:ssh", nil, form},
		{"tcp:22:22:22", nil, form},
		{"tcp:fd00::/8:53", nil, form},
		{"tcp:[fd00::/8:53", nil, form},
		{"tcp:[]:53", nil, form},
		{"10.0.0.0/8:22", nil, "neither TCP nor UDP"},
		{"tcp:10.0.0.0/33:22", nil, "is no network"},
		{"tcp:example.com:22", nil, "is no network"},
	} {
		have, err := v3.ParseFailsafePorts(c.in)
		if diff := cmp.Diff(c.want, have); diff != "" {
			t.Errorf("%q (-want +have):\n%s", c.in, diff)
		}
		if (err == nil) != (c.reason == "") || err != nil && !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%q: %v, want %q", c.in, err, c.reason)
		}
	}
}

// What ParseFailsafePorts accepts, Parse accepts.
func TestParsedFailsafePortsAreSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.StringMatching(`((tcp|udp|sctp|x)?:?(\[?(fd00::/8|10\.0\.0\.0/8|a)\]?:)?[0-9]{0,6},?){0,3}`).Draw(t, "ports")
		ports, err := v3.ParseFailsafePorts(in)
		if err != nil && ports != nil {
			t.Fatalf("%q: %v beside %v", in, ports, err)
		}
		for _, p := range ports {
			if _, _, _, err := p.Parse(); err != nil {
				t.Fatalf("%q gives %+v: %v", in, p, err)
			}
		}
	})
}

func environment(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		text, ok := vars[name]
		return text, ok
	}
}

func to[T any](v T) *T { return &v }

// everySetting has a value for each variable, and none that is a default.
var everySetting = map[string]string{
	"FELIX_DEFAULTENDPOINTTOHOSTACTION": "ACCEPT", "FELIX_NFTABLESFILTERALLOWACTION": "return", "FELIX_NFTABLESFILTERDENYACTION": "Reject",
	"FELIX_NFTABLESMANGLEALLOWACTION": "RETURN", "FELIX_NFTABLESMARKMASK": "0xff000000", "FELIX_IPTABLESFILTERALLOWACTION": "Return",
	"FELIX_IPTABLESFILTERDENYACTION": "REJECT", "FELIX_IPTABLESMANGLEALLOWACTION": "Return", "FELIX_IPTABLESMARKMASK": "4278190080",
	"FELIX_INTERFACEPREFIX": "azv,cali", "FELIX_INTERFACEEXCLUDE": "/^eth/", "FELIX_FAILSAFEINBOUNDHOSTPORTS": "none",
	"FELIX_FAILSAFEOUTBOUNDHOSTPORTS": "tcp:22,udp:[fd00::/8]:53", "FELIX_KUBENODEPORTRANGES": "30000:32767, 80",
	"FELIX_DISABLECONNTRACKINVALIDCHECK": "True", "FELIX_WORKLOADSOURCESPOOFING": "any", "FELIX_ALLOWVXLANPACKETSFROMWORKLOADS": "1",
	"FELIX_ALLOWIPIPPACKETSFROMWORKLOADS": "yes", "FELIX_VXLANPORT": "8472", "FELIX_VXLANENABLED": "t", "FELIX_SERVICELOOPPREVENTION": "disabled",
	"FELIX_LOGPREFIX": " %t/%k ", "FELIX_LOGACTIONRATELIMIT": "10/minute", "FELIX_LOGACTIONRATELIMITBURST": "0", "FELIX_IPV6SUPPORT": "n",
}

func TestFromEnv(t *testing.T) {
	want := v3.FelixConfigurationSpec{
		DefaultEndpointToHostAction: to("Accept"), NFTablesFilterAllowAction: to("Return"), NFTablesFilterDenyAction: to("Reject"),
		NFTablesMangleAllowAction: to("Return"), NFTablesMarkMask: to[uint32](0xff000000), IptablesFilterAllowAction: to("Return"),
		IptablesFilterDenyAction: to("Reject"), IptablesMangleAllowAction: to("Return"), IptablesMarkMask: to[uint32](0xff000000),
		InterfacePrefix: to("azv,cali"), InterfaceExclude: to("/^eth/"), FailsafeInboundHostPorts: &[]v3.ProtoPort{},
		FailsafeOutboundHostPorts:    &[]v3.ProtoPort{{Protocol: "tcp", Port: 22}, {Protocol: "udp", Net: "fd00::/8", Port: 53}},
		KubeNodePortRanges:           &[]intstr.IntOrString{text("30000:32767"), text("80")},
		DisableConntrackInvalidCheck: to(true), WorkloadSourceSpoofing: to("Any"), AllowVXLANPacketsFromWorkloads: to(true),
		AllowIPIPPacketsFromWorkloads: to(true), VXLANPort: to[uint16](8472), VXLANEnabled: to(true), ServiceLoopPrevention: to("Disabled"),
		LogPrefix: to("%t/%k"), LogActionRateLimit: to("10/minute"), LogActionRateLimitBurst: to(0), IPv6Support: to(false),
	}
	var have v3.FelixConfigurationSpec
	if err := have.FromEnv(environment(everySetting)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("(-want +have):\n%s", diff)
	}
	asked := map[string]string{}
	if err := have.FromEnv(func(name string) (string, bool) { asked[name] = ""; return "", true }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(everySetting)), slices.Sorted(maps.Keys(asked))); diff != "" {
		t.Errorf("variables of this test and those asked for:\n%s", diff)
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("empty variables changed something (-want +have):\n%s", diff)
	}
}

// Each variable's name is the name of the field in JSON.
func TestVariablesAreFields(t *testing.T) {
	fields := map[string]bool{}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[v3.FelixConfigurationSpec]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields["FELIX_"+strings.ToUpper(name)] = true
	}
	for name, value := range everySetting {
		spec := v3.FelixConfigurationSpec{}
		if err := spec.FromEnv(environment(map[string]string{name: value})); err != nil {
			t.Fatal(err)
		}
		encoded, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		said := map[string]any{}
		if err := json.Unmarshal(encoded, &said); err != nil {
			t.Fatal(err)
		}
		for field := range said {
			if len(said) != 1 || "FELIX_"+strings.ToUpper(field) != name || !fields[name] {
				t.Errorf("%s sets %s", name, encoded)
			}
		}
		if len(said) == 0 {
			t.Errorf("%s sets nothing", name)
		}
	}
}

// TestFromEnvRefuses: every wrong variable is named, and nothing is taken over, not even from the right ones.
func TestFromEnvRefuses(t *testing.T) {
	wrong := map[string]struct{ value, reason string }{
		"FELIX_DEFAULTENDPOINTTOHOSTACTION": {"REJECT", `supported values: "Drop", "Accept", "Return"`},
		"FELIX_NFTABLESMARKMASK":            {"0x1", "needs at least two bits"},
		"FELIX_IPTABLESMARKMASK":            {"0x100000000", "no number from 0 to 4294967295"},
		"FELIX_INTERFACEPREFIX":             {"a b", "interface names begin with"},
		"FELIX_INTERFACEEXCLUDE":            {"/(/", "missing closing"},
		"FELIX_FAILSAFEINBOUNDHOSTPORTS":    {"sctp:1", "neither TCP nor UDP"},
		"FELIX_FAILSAFEOUTBOUNDHOSTPORTS":   {",", "has no ports"},
		"FELIX_KUBENODEPORTRANGES":          {"80,9:1", "minimum port number (9)"},
		"FELIX_IPV6SUPPORT":                 {"maybe", "neither true nor false"},
		"FELIX_VXLANPORT":                   {"65536", "no number from 0 to 65535"},
		"FELIX_LOGPREFIX":                   {"$", "letters, digits"},
		"FELIX_LOGACTIONRATELIMIT":          {"10/fortnight", "is no rate"},
		"FELIX_LOGACTIONRATELIMITBURST":     {"10000", "from 0 to 9999"},
	}
	all := maps.Clone(everySetting)
	for name, c := range wrong {
		all[name] = c.value
		spec := v3.FelixConfigurationSpec{LogPrefix: to("before")}
		err := spec.FromEnv(environment(map[string]string{name: c.value, "FELIX_VXLANENABLED": "true"}))
		if err == nil || !strings.HasPrefix(err.Error(), name+": ") || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s=%s: %v, want %q", name, c.value, err, c.reason)
		}
		if diff := cmp.Diff(v3.FelixConfigurationSpec{LogPrefix: to("before")}, spec, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: changed:\n%s", name, diff)
		}
	}
	var spec v3.FelixConfigurationSpec
	err := spec.FromEnv(environment(all))
	for name := range wrong {
		if err == nil || !strings.Contains(err.Error(), name+": ") {
			t.Errorf("%s is not named in: %v", name, err)
		}
	}
}
