package store

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

func felix(spec string) string { return named("FelixConfiguration", "default", spec) }

// TestFelixAtRest: a configuration is the same after it was written to a file and read from it by another store; fields that are
// not known are there, and an empty list of failsafe ports is not the default one.
func TestFelixAtRest(t *testing.T) {
	for _, c := range []struct{ given, want string }{
		{"{}", `{}`},
		{"{failsafeInboundHostPorts: [], kubeNodePortRanges: []}", `{"failsafeInboundHostPorts":[],"kubeNodePortRanges":[]}`},
		{"{failsafeInboundHostPorts: null, failsafeOutboundHostPorts: [{port: 53, protocol: UDP}]}", `{"failsafeOutboundHostPorts":[{"protocol":"UDP","port":53}]}`},
		{"{logPrefix: '', ipv6Support: false, defaultEndpointToHostAction: ACCEPT}", `{"defaultEndpointToHostAction":"Accept","ipv6Support":false}`},
		{"{failsafeOutboundHostPorts: [], wireguardMTU: 1440, routeTableRanges: [{min: 1, max: 250}], bpfLogFilters: {all: 'a<b'}, nothing: null}",
			`{"bpfLogFilters":{"all":"a\u003cb"},"failsafeOutboundHostPorts":[],"nothing":null,"routeTableRanges":[{"max":250,"min":1}],"wireguardMTU":1440}`},
	} {
		s, ctx := OpenBolt(filepath.Join(t.TempDir(), "store.db")), t.Context()
		doc := readOne(t, felix(c.given))
		if doc.Object == nil {
			t.Fatalf("%s: %+v", c.given, doc.Errors)
		}
		decodesAgain(t, doc)
		first, err := s.Put(ctx, doc.Object)
		must(t, err)
		read, err := OpenBolt(s.path).Get(ctx, v3.RefOf(doc.Object.(v3.Object)))
		must(t, err)
		spec, err := json.Marshal(read.(*v3.FelixConfiguration).Spec)
		must(t, err)
		if string(spec) != c.want {
			t.Errorf("%s:\n%s, want\n%s", c.given, spec, c.want)
		}
		for _, again := range []string{felix(c.given), felix(string(spec))} {
			same, err := s.Put(ctx, object(t, again))
			must(t, err)
			if same.GetResourceVersion() != first.GetResourceVersion() {
				t.Errorf("%s: put again, and it counts as changed", again)
			}
		}
	}
}

// TestFelixChanges: a field that is not known is part of the spec, and so is whether a list is empty or absent.
func TestFelixChanges(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	for i, spec := range []string{"{}", "{wireguardMTU: 1440}", "{wireguardMTU: 1420}", "{failsafeInboundHostPorts: []}", "{}"} {
		o, err := s.Put(ctx, object(t, felix(spec)))
		must(t, err)
		if o.GetGeneration() != int64(i+1) {
			t.Errorf("%s: generation %d, want %d", spec, o.GetGeneration(), i+1)
		}
	}
}

// TestFelixAdmission: what is wrong is refused where it stands, although unknown fields are taken.
func TestFelixAdmission(t *testing.T) {
	for _, c := range []struct{ text, field string }{
		{felix("{nodeSelector: all()}"), "spec.nodeSelector"},
		{felix("{failsafeInboundHostPorts: [{port: 22, nett: x}]}"), "spec.failsafeInboundHostPorts[0].nett"},
		{felix("{iptablesMarkMask: 1}"), "spec.iptablesMarkMask"},
		{felix("{failsafeinboundhostports: []}"), "spec.failsafeinboundhostports"},
		{felix("{vxlanPort: '4789'}"), "spec.vxlanPort"},
		{strings.Replace(felix("{}"), "spec:", "spek:", 1), "spek"},
	} {
		d := readOne(t, c.text)
		if d.Object != nil || len(d.Errors) != 1 || d.Errors[0].Field != c.field {
			t.Errorf("%s: %+v, want %s", c.text, d.Errors, c.field)
		}
	}
}
