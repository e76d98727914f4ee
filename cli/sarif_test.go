package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	sarif "github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"

	"github.com/tierwall/tierwall/dataplane/lint"
)

// What lint -o sarif prints is what the standard's schema allows, with every check among the rules, and nothing that the standard does not know.
func TestSARIF(t *testing.T) {
	var out bytes.Buffer
	found := []lintFinding{
		{Code: "TW001", Object: "GlobalNetworkPolicy/a", Field: "spec.ingress[1]", File: "a dir/../x y.yaml", Line: 3, Column: 5, Message: "m", severity: lint.Warning},
		{Code: "TW009", Object: "Tier/t", Message: "of the datastore", severity: lint.Error},
		{Code: "TW005", Object: "Tier/t", File: "/abs/f.yaml", Line: 1, Column: 1, severity: lint.Info},
	}
	if err := writeSARIF(&out, found); err != nil {
		t.Fatal(err)
	}
	report, err := sarif.FromBytes(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	run := report.Runs[0]
	run.Language, run.Tool.Driver.Language, run.NewlineSequences = "en", "en", []string{"\n"} // which the library writes though nobody gave them
	if err := report.Validate(); err != nil {
		t.Error(err)
	}
	if have, want := len(run.Tool.Driver.Rules), len(lint.Checks()); have != want {
		t.Errorf("%d rules of %d checks", have, want)
	}
	for i, want := range []struct{ level, uri string }{{"warning", "x%20y.yaml"}, {"error", ""}, {"note", "file:///abs/f.yaml"}} {
		r := run.Results[i]
		uri := ""
		if p := r.Locations[0].PhysicalLocation; p != nil {
			uri = *p.ArtifactLocation.URI
		}
		if r.Level != want.level || uri != want.uri || *run.Tool.Driver.Rules[r.RuleIndex].ID != *r.RuleID {
			t.Errorf("result %d: level %s, uri %s, rule %d", i, r.Level, uri, r.RuleIndex)
		}
	}
	// each field of ours is one that the standard's Go types kept
	var ours, theirs map[string]any
	if json.Unmarshal(out.Bytes(), &ours) != nil || json.Unmarshal(again, &theirs) != nil {
		t.Fatal("not JSON")
	}
	if diff := cmp.Diff(ours, alike(ours, theirs)); diff != "" {
		t.Errorf("fields that the standard does not have: -ours +theirs\n%s", diff)
	}
}

// alike is what of have is in want, field by field.
func alike(want, have any) any {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok {
			return have
		}
		out := map[string]any{}
		for k := range w {
			if v, ok := h[k]; ok {
				out[k] = alike(w[k], v)
			}
		}
		return out
	case []any:
		h, ok := have.([]any)
		if !ok || len(h) != len(w) {
			return have
		}
		out := make([]any, len(w))
		for i := range w {
			out[i] = alike(w[i], h[i])
		}
		return out
	}
	return have
}
