package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/lab"
	"github.com/tierwall/tierwall/test/scenario"
)

var noNamespaces error

func TestMain(m *testing.M) {
	noNamespaces = lab.Enter()
	os.Exit(m.Run())
}

func needNamespaces(t *testing.T) {
	t.Helper()
	lab.Need(t, noNamespaces)
}

func buildTierctl(t *testing.T) (path string) {
	path = filepath.Join(t.TempDir(), "tierctl")
	if out, err := exec.Command("go", "build", "-o", path, "../../../cli").CombinedOutput(); err != nil {
		t.Fatalf("building tierctl: %v\n%s", err, out)
	}
	return path
}

// unplayable are the scenarios that no store takes as they are, and why.
var unplayable = map[string]string{
	"missing-tier":                        "a store refuses a policy of a tier that it does not have, so no agent can be shown one",
	"settings-of-the-oldest-that-selects": "a store says itself when an object was made",
}

// unsendable are the scenarios with flows that the lab cannot send, and why. All others are sent.
var unsendable = map[string]string{
	"sources-that-are-of-one-link": "an address of a link is every link's, so nobody in the lab has it",
	"loopback-address-of-a-host":   "a loopback address is every host's, so nobody in the lab has it",
}

// The kernel is the judge: agents on every node, and real packets for every flow of the corpus.
func TestCorpusWithRealPackets(t *testing.T) {
	needNamespaces(t)
	all, err := scenario.Load("../../scenarios")
	if err != nil {
		t.Fatal(err)
	}
	tierctl := buildTierctl(t)
	for _, s := range all {
		if unplayable[s.Name] != "" {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			judge(t, &s, tierctl)
		})
	}
}

func judge(t *testing.T, s *scenario.Scenario, tierctl string) {
	dir := t.TempDir()
	objects, flows, setup := filepath.Join(dir, "objects.json"), filepath.Join(dir, "flows.jsonl"), filepath.Join(dir, "setup")
	text, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": s.Objects})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(objects, text, 0o600); err != nil {
		t.Fatal(err)
	}
	var lines bytes.Buffer
	for _, f := range s.Flows {
		if err := json.NewEncoder(&lines).Encode(f.Spec); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(flows, lines.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(setup, []byte(translations(t, s)), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &replay{files: files{objects}, flows: flows, setup: setup, tierctl: tierctl, action: toHost(&s.Options.Felix), say: t.Logf}
	var out, errs bytes.Buffer
	if err := r.run(t.Context(), &out, &errs); err != nil {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	seen := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
	if len(seen) != len(s.Flows) {
		t.Fatalf("%d of %d flows were seen", len(seen), len(s.Flows))
	}
	for i, f := range s.Flows {
		var v struct{ Observed string }
		if err := json.Unmarshal(seen[i], &v); err != nil {
			t.Fatal(err)
		}
		if unsent := v.Observed == "Unsent" && unsendable[s.Name] != ""; v.Observed != f.Verdict.String() && !unsent {
			t.Errorf("%s\nseen: %s", f.Text, v.Observed)
		}
	}
}

// translations are the setup that translates each flow as it says, at the node that is to do it.
func translations(t *testing.T, s *scenario.Scenario) string {
	index, err := s.Index("")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	made := map[string]bool{}
	for i, line := range s.Flows {
		f, err := index.Flow(line.Spec)
		if err != nil {
			t.Fatal(err)
		}
		if !f.OrigDst.IsValid() {
			continue
		}
		if f.SrcPort = line.Spec.SrcPort; f.SrcPort == 0 {
			f.SrcPort = uint16(firstPort + i) // as replay gives them
		}
		if !made[f.NATNode] {
			made[f.NATNode] = true
			fmt.Fprintf(&b, "%s: nft '%s'\n", f.NATNode, natTable)
		}
		translation(&b, f)
	}
	return b.String()
}

const natTable = "table inet nat { chain in { type nat hook prerouting priority dstnat; }; chain own { type nat hook output priority -100; };" +
	" chain out { type nat hook postrouting priority srcnat; }; }"

func translation(b *strings.Builder, f policy.Flow) {
	family, proto := "ip", strings.ToLower(policy.ProtoName(f.Proto))
	if f.Src.Is6() {
		family = "ip6"
	}
	for _, chain := range []string{"in", "own"} {
		fmt.Fprintf(b, "%s: nft add rule inet nat %s %s saddr %s %s daddr %s %s sport %d %s dport %d dnat %s to %s\n", f.NATNode, chain,
			family, f.Src, family, f.OrigDst, proto, f.SrcPort, proto, f.OrigDstPort, family, netip.AddrPortFrom(f.Dst, f.DstPort))
	}
	if f.Masquerade.IsValid() {
		fmt.Fprintf(b, "%s: nft add rule inet nat out %s saddr %s %s sport %d snat %s to %s\n", f.NATNode,
			family, f.Src, proto, f.SrcPort, family, f.Masquerade)
	}
}

func toHost(f *v3.FelixConfigurationSpec) string {
	if f.DefaultEndpointToHostAction == nil {
		return ""
	}
	return *f.DefaultEndpointToHostAction
}
