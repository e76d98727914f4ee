package crd_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tierwall/tierwall/config/crd"
)

// TestUpdate: an object from before a rule was made may keep what the rule refuses, and may not take it up or change it
// (an API server's ratcheting). old and new are what the two differ in.
func TestUpdate(t *testing.T) {
	for _, c := range []struct{ says, old, new, field string }{
		{"a value that was too long stays while another changes",
			hep("interfaceName: abcdefghijklmnop"), hep("interfaceName: abcdefghijklmnop, profiles: [p]"), accepted},
		{"a value that was too long becomes another that is",
			hep("interfaceName: abcdefghijklmnop"), hep("interfaceName: abcdefghijklmnopq"), "spec.interfaceName"},
		{"a value becomes too long",
			hep("interfaceName: eth0"), hep("interfaceName: abcdefghijklmnop"), "spec.interfaceName"},
		{"a CEL rule on the unchanged spec",
			gnp("{preDNAT: true}"), gnp("{preDNAT: true}") + "\nstatus: {observedGeneration: 1}", accepted},
		{"a CEL rule on a spec that changes elsewhere",
			gnp("{preDNAT: true}"), gnp("{preDNAT: true, order: 1}"), "spec"},
		{"a CEL rule on one value",
			np("{tier: a.b}"), np("{tier: a.b, order: 1}"), accepted},
		{"a CEL rule on one value, which changes",
			np("{tier: a.b}"), np("{tier: b.a}"), "spec.tier"},
		{"a CEL rule within a list that does not change",
			np("{ingress: [{action: Allow, icmp: {type: 8}}]}"), np("{order: 1, ingress: [{action: Allow, icmp: {type: 8}}]}"), accepted},
		{"a CEL rule within a list that grows",
			np("{ingress: [{action: Allow, icmp: {type: 8}}]}"), np("{ingress: [{action: Allow, icmp: {type: 8}}, {action: Log}]}"), "spec.ingress[0]"},
		{"an enum that has lost a member",
			np("{performanceHints: [Foo]}"), np("{performanceHints: [Foo], order: 1}"), accepted},
		{"an item comes twice and always did",
			np("{types: [Ingress, Ingress]}"), np("{types: [Ingress, Ingress], order: 1}"), accepted},
		{"an item comes twice from now on",
			np("{types: [Ingress]}"), np("{types: [Ingress, Ingress]}"), "spec.types[1]"},
		{"what was wrong is put right",
			np("{ingress: [{action: Allow, icmp: {type: 8}}]}"), np("{ingress: [{action: Allow, protocol: ICMP, icmp: {type: 8}}]}"), accepted},
		{"a type that the decoder cannot read, however old",
			np("{order: 1}"), np("{order: '1'}"), "spec.order"},
		{"a rule about the whole object",
			named("Tier", "default", "{order: 5, defaultAction: Deny}"), named("Tier", "default", "{order: 6, defaultAction: Deny}"), "metadata/spec"},
	} {
		t.Run(c.says, func(t *testing.T) {
			old := parse(t, c.old)
			crd.Admit(old, nil) // defaults, as when it was stored
			unknown, errs := crd.Admit(parse(t, c.new), old)
			if len(unknown) > 0 {
				t.Errorf("unknown: %v", unknown)
			}
			check(t, c.says, fragment{c.new, c.field}, errs)
			if _, errs := crd.Admit(parse(t, c.new), nil); c.field != accepted && len(errs) == 0 {
				t.Errorf("refused only on update:\n%s", c.new)
			}
		})
	}
}

// TestBigPolicy: CEL spends on a policy as long as the schema allows, with long lists, within the budget of one request.
func TestBigPolicy(t *testing.T) {
	var nets, ports []string
	for i := range 50 {
		nets = append(nets, fmt.Sprintf("10.%d.0.0/16", i))
		ports = append(ports, fmt.Sprintf("%d", 8000+i), fmt.Sprintf("'%d:%d'", 9000+i, 9100+i))
	}
	rule := fmt.Sprintf(`{action: Allow, protocol: TCP, source: {nets: [%s]}, destination: {ports: [%s]}}`, strings.Join(nets, ","), strings.Join(ports[:50], ","))
	rules := strings.Repeat(rule+",", 1023) + rule
	if _, errs := judge(parse(t, gnp("{ingress: ["+rules+"]}"))); len(errs) > 0 {
		t.Errorf("%d errors, the first: %v", len(errs), errs[0])
	}
	if _, errs := judge(parse(t, gnp("{ingress: ["+rules+","+rule+"]}"))); len(errs) != 1 || errs[0].Field != "spec.ingress" {
		t.Errorf("one rule more: %v", errs)
	}
}

// TestAdmitPrunes: what the schema does not know is named and gone, at every depth, and what it has defaults for is there.
func TestAdmitPrunes(t *testing.T) {
	u := parse(t, `
kind: NetworkPolicy
metadata: {name: p, namespace: ns1, nonsense: 1}
spek: {}
spec:
  selectr: a
  egress: null
  ingress: [{action: Allow, source: {net: [10.0.0.0/8], ports: null}}]
`)
	unknown, errs := crd.Admit(u, nil)
	want := []string{"metadata.nonsense", "spec.ingress[0].source.net", "spec.selectr", "spek"}
	if len(errs) > 0 || !slices.Equal(unknown, want) {
		t.Errorf("unknown %q, want %q; %v", unknown, want, errs)
	}
	text := string(encode(t, u.Object))
	const left = `{"apiVersion":"projectcalico.org/v3","kind":"NetworkPolicy","metadata":{"name":"p","namespace":"ns1"},` +
		`"spec":{"ingress":[{"action":"Allow","source":{}}],"tier":"default"}}`
	if text != left {
		t.Errorf("left:\n%s\nwant:\n%s", text, left)
	}
}

// TestAdmitRefusesOthers: objects that no CRD of ours describes.
func TestAdmitRefusesOthers(t *testing.T) {
	for _, text := range []string{
		"kind: Nonsense", "kind: 5", "{}",
		"kind: Tier\napiVersion: projectcalico.org/v2", "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1", "kind: Tier\napiVersion: crd.projectcalico.org/v1",
	} {
		u := parseWhole(t, text)
		if _, errs := crd.Admit(u, nil); len(errs) != 1 || errs[0].Field != "kind" {
			t.Errorf("%s: %v", text, errs)
		}
	}
	for _, meta := range []string{"5", "[]", "{name: 5}", "{labels: [a]}", "{creationTimestamp: yesterday}"} {
		u := parse(t, "kind: Tier\nmetadata: "+meta)
		if _, errs := crd.Admit(u, nil); len(errs) == 0 || errs[0].Field != "metadata" {
			t.Errorf("metadata %s: %v", meta, errs)
		}
	}
}

// FuzzAdmit: whatever an object says, it is admitted or refused, and what is admitted can be decoded and admitted again.
func FuzzAdmit(f *testing.F) {
	for _, r := range contract {
		for _, fragment := range r.cases {
			f.Add([]byte("apiVersion: projectcalico.org/v3\n" + fragment.text))
		}
	}
	f.Add([]byte("[]"))
	f.Add([]byte("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: null}\nspec: 5\nstatus: []"))
	f.Fuzz(func(t *testing.T, text []byte) {
		u, err := read(text)
		if err != nil {
			return
		}
		obj, errs := judge(u.DeepCopy())
		if len(errs) == 0 {
			sameAgain(t, obj, untyped(t, obj))
			sound(t, obj)
		}
		_, _ = crd.Admit(u.DeepCopy(), u)
	})
}
