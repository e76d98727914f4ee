// Command sbom says what a Go program is made of, as CycloneDX: `go run ./sbom -of ../bin/tierctl -json ../bin/tierctl.cdx.json`. What it
// says comes from the program itself, and the licences from the modules' own files; it has no time and no number of chance in it, so that
// it is the same for the same program. A licence that may not be linked with Apache-2.0 is an error, and so is none.
package main

import (
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/licensecheck"
)

// compatible are the licences, by SPDX's names, of what Apache-2.0 programs may be linked with.
var compatible = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "Unlicense", "0BSD"}

func main() {
	of := flag.String("of", "", "the program")
	out := flag.String("json", "", "the file to write")
	flag.Parse()
	if err := run(*of, *out); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(of, out string) error {
	info, err := buildinfo.ReadFile(of)
	if err != nil {
		return fmt.Errorf("reading what %s was built from: %w", of, err)
	}
	bom, err := describe(info)
	if err != nil {
		return fmt.Errorf("%s: %w", of, err)
	}
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer file.Close()
	return cdx.NewBOMEncoder(file, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
}

// describe a program: itself, the modules that are linked into it, and Go's own library.
func describe(info *buildinfo.BuildInfo) (*cdx.BOM, error) {
	dirs, err := modules()
	if err != nil {
		return nil, err
	}
	bom := cdx.NewBOM()
	own, err := component(&info.Main, dirs[info.Main.Path])
	if err != nil {
		return nil, err
	}
	own.Type = cdx.ComponentTypeApplication
	bom.Metadata = &cdx.Metadata{Component: &own}
	var all []cdx.Component
	var refs []string
	for _, m := range append(info.Deps, &debug.Module{Path: "std", Version: info.GoVersion}) {
		if m.Replace != nil {
			m = m.Replace
		}
		dir := dirs[m.Path]
		if m.Path == "std" {
			dir = runtime.GOROOT()
		}
		c, err := component(m, dir)
		if err != nil {
			return nil, err
		}
		all, refs = append(all, c), append(refs, c.BOMRef)
	}
	bom.Components = &all
	bom.Dependencies = &[]cdx.Dependency{{Ref: own.BOMRef, Dependencies: &refs}}
	return bom, nil
}

func component(m *debug.Module, dir string) (cdx.Component, error) {
	purl := "pkg:golang/" + m.Path + "@" + m.Version
	c := cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: purl}
	if sum, ok := strings.CutPrefix(m.Sum, "h1:"); ok { // of the module's files, as go.sum has it
		raw, err := base64.StdEncoding.DecodeString(sum)
		if err != nil {
			return c, fmt.Errorf("%s: its sum: %w", m.Path, err)
		}
		c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(raw)}}
	}
	licences, err := licencesIn(dir)
	if err != nil {
		return c, fmt.Errorf("%s: %w", m.Path, err)
	}
	c.Licenses = &licences
	return c, nil
}

// licencesIn the folder of a module: of its files that are called so.
func licencesIn(dir string) (out cdx.Licenses, err error) {
	if dir == "" {
		return nil, fmt.Errorf("go does not know where it is: run `go mod download`")
	}
	var names []string
	for _, pattern := range []string{"LICEN[CS]E*", "COPYING*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		names = append(names, found...)
	}
	var ids []string
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		for _, m := range licensecheck.Scan(text).Match {
			if !slices.Contains(compatible, m.ID) {
				return nil, fmt.Errorf("%s is %s, which is none of %v", filepath.Base(name), m.ID, compatible)
			}
			ids = append(ids, m.ID)
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("no licence that is known, in %q", names)
	}
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		out = append(out, cdx.LicenseChoice{License: &cdx.License{ID: id}})
	}
	return out, nil
}

// modules are where the files of the product's modules are.
func modules() (map[string]string, error) {
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Path}}\t{{.Dir}}", "all")
	cmd.Dir, cmd.Stderr = "..", os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing modules: %w", err)
	}
	dirs := map[string]string{}
	for line := range strings.Lines(string(text)) {
		path, dir, _ := strings.Cut(strings.TrimSpace(line), "\t")
		dirs[path] = dir
	}
	return dirs, nil
}
