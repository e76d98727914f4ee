package scenario

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierwall/tierwall/dataplane/policy"
)

func TestParseFlows(t *testing.T) {
	eight := uint8(8)
	got, err := ParseFlows(`
# who may
a/b > c/d TCP 80 from 1000 : Deny ingress default NetworkPolicy/c/p 0

n1 > 10.0.0.1 ICMP type 8 code 1 : Allow
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []Flow{
		{Line: 3, Text: "a/b > c/d TCP 80 from 1000 : Deny ingress default NetworkPolicy/c/p 0", Verdict: policy.Deny,
			Spec: policy.FlowSpec{From: "a/b", To: "c/d", Protocol: "TCP", Port: 80, SrcPort: 1000},
			By:   []string{"ingress", "default", "NetworkPolicy/c/p", "0"}},
		{Line: 5, Text: "n1 > 10.0.0.1 ICMP type 8 code 1 : Allow", Verdict: policy.Allow, By: []string{},
			Spec: policy.FlowSpec{From: "n1", To: "10.0.0.1", Protocol: "ICMP", ICMPType: &eight, ICMPCode: 1}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +have:\n%s", diff)
	}
}

func TestParseFlowsRefuses(t *testing.T) {
	for _, line := range []string{
		"a > b", "a > b TCP 80", "a b c TCP 80 : Deny", "a > b TCP 80 : Maybe", "a > b TCP 80 : Deny inwards default - -",
		"a > b TCP 80 : Deny ingress default -", "a > b TCP eighty : Deny", "a > b TCP 80 from : Deny", "a > b TCP 65536 : Deny",
	} {
		if got, err := ParseFlows(line); err == nil {
			t.Errorf("%q is read as %+v", line, got)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, err := range map[string]error{
		"section": (&Scenario{}).section("flow", ""), "options": (&Scenario{}).section("options", "defaultEndpointToHostAction: Reject"),
		"cluster": (&Scenario{}).section("cluster", "pod a/b"), "extras": (&Scenario{}).section("cluster", "pod a/b n1 10.0.0.1 hostnetwork"),
		"objects": (&Scenario{}).section("objects.yaml", "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: a.b}\n"),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
