package main

import (
	"io"
	"net/url"
	"path/filepath"

	"github.com/tierwall/tierwall/dataplane/lint"
)

// What SARIF 2.1.0 has that lint says; its names are the standard's.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool       sarifTool     `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Results    []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifRule struct {
		ID       string       `json:"id"`
		Short    sarifText    `json:"shortDescription"`
		Full     sarifText    `json:"fullDescription"`
		Help     sarifText    `json:"help"`
		Defaults sarifDefault `json:"defaultConfiguration"`
	}
	sarifDefault struct {
		Level string `json:"level"`
	}
	sarifResult struct {
		RuleID    string          `json:"ruleId"`
		RuleIndex int             `json:"ruleIndex"`
		Level     string          `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations"`
	}
	sarifLocation struct {
		Physical *sarifPhysical `json:"physicalLocation,omitempty"`
		Logical  []sarifLogical `json:"logicalLocations"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   sarifRegion   `json:"region"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		Line   int `json:"startLine"`
		Column int `json:"startColumn"`
	}
	sarifLogical struct {
		Name string `json:"fullyQualifiedName"`
		Kind string `json:"kind"`
	}
)

const sarifSchema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

// sarifLevels: an Info is a note.
var sarifLevels = map[lint.Severity]string{lint.Info: "note", lint.Warning: "warning", lint.Error: "error"}

func writeSARIF(w io.Writer, found []lintFinding) error {
	run := sarifRun{ColumnKind: "unicodeCodePoints", Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "tierctl lint", Version: version}
	at := map[string]int{}
	for i, k := range lint.Checks() {
		at[k.Code] = i
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{k.Code, sarifText{k.Title}, sarifText{k.Why}, sarifText{k.Mend}, sarifDefault{sarifLevels[k.Severity]}})
	}
	for _, f := range found {
		l := sarifLocation{Logical: []sarifLogical{{f.Object, "object"}}}
		if f.Field != "" {
			l.Logical[0].Name += "/" + f.Field
		}
		if f.File != "" {
			l.Physical = &sarifPhysical{sarifArtifact{fileURI(f.File)}, sarifRegion{f.Line, f.Column}}
		}
		run.Results = append(run.Results, sarifResult{f.Code, at[f.Code], sarifLevels[f.severity], sarifText{f.Object + ": " + f.Message + ". " + f.Mend}, []sarifLocation{l}})
	}
	return indented(w, sarifLog{sarifSchema, "2.1.0", []sarifRun{run}})
}

// fileURI is relative where the file was named so; standard input has no better name.
func fileURI(path string) string {
	u := url.URL{Path: filepath.ToSlash(filepath.Clean(path))}
	if filepath.IsAbs(path) {
		u.Scheme = "file"
	}
	return u.String()
}
