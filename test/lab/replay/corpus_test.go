package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	v3 "github.com/tierwall/tierwall/apis/v3"
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

// The kernel is the judge: agents on every node, and real packets for every flow of the corpus.
func TestCorpusWithRealPackets(t *testing.T) {
	needNamespaces(t)
	all, err := scenario.Load("../../scenarios")
	if err != nil {
		t.Fatal(err)
	}
	tierctl := buildTierctl(t)
	for _, s := range all {
		if s.Name == "missing-tier" {
			continue // a store refuses a policy of a tier that it does not have, so no agent can be shown one
		}
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			judge(t, &s, tierctl)
		})
	}
}

func judge(t *testing.T, s *scenario.Scenario, tierctl string) {
	dir := t.TempDir()
	objects, flows := filepath.Join(dir, "objects.json"), filepath.Join(dir, "flows.jsonl")
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
	r := &replay{files: files{objects}, flows: flows, tierctl: tierctl, action: toHost(&s.Options.Felix), say: t.Logf}
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
		if v.Observed != f.Verdict.String() {
			t.Errorf("%s\nseen: %s", f.Text, v.Observed)
		}
	}
}

func toHost(f *v3.FelixConfigurationSpec) string {
	if f.DefaultEndpointToHostAction == nil {
		return ""
	}
	return *f.DefaultEndpointToHostAction
}
