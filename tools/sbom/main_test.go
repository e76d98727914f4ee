package main

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func written(t *testing.T) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("the test does not know what it was built from")
	}
	info.Main = *info.Deps[0] // the tools' own licence is the folder's above
	bom, err := describe(info)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := cdx.NewBOMEncoder(&text, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// What is said of a program is the same each time, and names what is linked into it.
func TestDescribe(t *testing.T) {
	text := written(t)
	if again := written(t); again != text {
		t.Error("it is not the same again")
	}
	for _, words := range []string{`"specVersion": "1.7"`, `"purl": "pkg:golang/github.com/CycloneDX/cyclonedx-go@v`, `"name": "std"`, `"id": "Apache-2.0"`, `"alg": "SHA-256"`} {
		if !strings.Contains(text, words) {
			t.Errorf("there is no %s in\n%s", words, text)
		}
	}
	for _, words := range []string{"serialNumber", "timestamp"} {
		if strings.Contains(text, words) {
			t.Errorf("there is a %s", words)
		}
	}
}

// A licence that may not be linked, or none, is an error.
func TestLicencesAreRefused(t *testing.T) {
	dir := t.TempDir()
	if _, err := licencesIn(dir); err == nil || !strings.Contains(err.Error(), "no licence") {
		t.Error(err)
	}
	gpl := "This program is free software: you can redistribute it and/or modify it under the terms of the GNU General Public License as " +
		"published by the Free Software Foundation, either version 3 of the License, or (at your option) any later version."
	if err := os.WriteFile(filepath.Join(dir, "COPYING"), []byte(gpl), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := licencesIn(dir); err == nil || !strings.Contains(err.Error(), "GPL") {
		t.Error(err)
	}
}
