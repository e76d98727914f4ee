package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/lint"
)

func lintCommand() *cli.Command {
	return &cli.Command{
		Name: "lint", Usage: "find what objects do that their authors hardly meant",
		UsageText: "tierctl lint [-f FILE] [-o table|json|sarif|github] [--severity warning] [--disable CODE,...]\n   tierctl lint --explain CODE",
		Description: "Exit status 1 when there is a finding of --severity or worse. An object's annotation " + lint.Ignore + ": CODE,CODE or all\n" +
			"says that findings are meant.",
		Flags: slices.Concat(fileFlags(), []cli.Flag{
			&cli.StringFlag{Name: "severity", Usage: "the least `SEVERITY` that makes the exit status 1: info, warning or error", Value: "warning"},
			&cli.StringSliceFlag{Name: "disable", Usage: "`CODE` that is not looked for; may be repeated, or have commas"},
			&cli.StringFlag{Name: "explain", Usage: "say what `CODE` is about, or all, and nothing else"},
			endpointToHostFlag(), outputFlag("table, json, sarif, github (default: text)"), datastoreFlag(),
		}),
		Action: lintObjects,
	}
}

// lintFinding is a finding and where it is: in a file, or in the datastore.
type lintFinding struct {
	Code     string `json:"code"`
	Severity string `json:"severity"`
	Object   string `json:"object"`
	Field    string `json:"field,omitempty"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	Message  string `json:"message"`
	Why      string `json:"why"`
	Mend     string `json:"mend"`

	severity lint.Severity
}

func lintObjects(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "table", "json", "sarif", "github")
	if err != nil {
		return err
	}
	if code := c.String("explain"); code != "" {
		return explainChecks(c.App.Writer, code)
	}
	least, err := severityOf(c.String("severity"))
	if err != nil {
		return err
	}
	disabled, err := codes(c.StringSlice("disable"))
	if err != nil {
		return err
	}
	found, err := findings(c, disabled)
	if err != nil {
		return trouble(err)
	}
	if err := lintFormats[format](c.App.Writer, found); err != nil {
		return trouble(err)
	}
	if n := countFrom(found, least); n > 0 {
		return statusError{fmt.Errorf("findings of severity %s or worse: %d", least, n), exitError}
	}
	return nil
}

// trouble is what kept lint from looking: another exit status than that of findings.
func trouble(err error) error { return statusError{err, exitUsage} }

func countFrom(found []lintFinding, least lint.Severity) (n int) {
	for _, f := range found {
		if f.severity >= least {
			n++
		}
	}
	return n
}

func severityOf(text string) (lint.Severity, error) {
	for _, s := range []lint.Severity{lint.Info, lint.Warning, lint.Error} {
		if s.String() == text {
			return s, nil
		}
	}
	return 0, usagef("--severity %q is none of info, warning and error", text)
}

// codes are those of a list, each of which must be one.
func codes(texts []string) (out []string, err error) {
	for _, text := range texts {
		for _, code := range strings.Split(text, ",") {
			if _, err := checkOf(code); err != nil {
				return nil, err
			}
			out = append(out, strings.ToUpper(code))
		}
	}
	return out, nil
}

func checkOf(code string) (lint.Check, error) {
	all := lint.Checks()
	i := slices.IndexFunc(all, func(k lint.Check) bool { return strings.EqualFold(k.Code, code) })
	if i < 0 {
		return lint.Check{}, usagef("there is no check %q: they are %s to %s; see tierctl lint --explain all", code, all[0].Code, all[len(all)-1].Code)
	}
	return all[i], nil
}

func explainChecks(w io.Writer, code string) error {
	all := lint.Checks()
	if code != "all" {
		k, err := checkOf(code)
		if err != nil {
			return err
		}
		all = []lint.Check{k}
	}
	var p page
	for _, k := range all {
		p.line(0, "%s %s: %s", k.Code, k.Severity, k.Title)
		p.line(2, "%s", k.Why)
		p.line(2, "To mend: %s", k.Mend)
	}
	_, err := fmt.Fprint(w, p.String())
	return err
}

// findings of the objects of -f or of the datastore, with their places.
func findings(c *cli.Context, disabled []string) (out []lintFinding, err error) {
	var objs []v3.Object
	docs := map[v3.Ref]store.Document{}
	take := func(o client.Object) { objs = append(objs, o.(v3.Object)) }
	if len(c.StringSlice("filename")) > 0 {
		all, err := readValid(c)
		if err != nil {
			return nil, err
		}
		for _, d := range all {
			docs[refOf(d)] = d
			take(d.Object)
		}
	} else {
		all, err := storedObjects(c)
		if err != nil {
			return nil, err
		}
		for _, o := range all {
			take(o)
		}
	}
	options, err := policyOptions(c)
	if err != nil {
		return nil, err
	}
	for _, f := range lint.Of(objs, options) {
		if slices.Contains(disabled, f.Code) {
			continue
		}
		k, _ := checkOf(f.Code)
		l := lintFinding{f.Code, f.Severity.String(), f.About.String(), f.Field, "", 0, 0, f.Message, k.Why, k.Mend, f.Severity}
		if d, ok := docs[f.About]; ok {
			l.File = d.File
			l.Line, l.Column = d.Place(f.Field)
		}
		out = append(out, l)
	}
	slices.SortStableFunc(out, func(a, b lintFinding) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return out, nil
}

// where is FILE:LINE:COLUMN: of a finding that is in a file.
func (f *lintFinding) where() string {
	if f.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d:%d: ", f.File, f.Line, f.Column)
}

var lintFormats = map[string]func(io.Writer, []lintFinding) error{
	"": lintText, "table": lintTable, "json": lintJSON, "github": lintGitHub, "sarif": writeSARIF,
}

var severityColours = map[lint.Severity]colour{lint.Info: normal, lint.Warning: yellow, lint.Error: red}

func lintText(w io.Writer, found []lintFinding) error {
	for _, f := range found {
		at := f.Object
		if f.Field != "" {
			at += ": " + f.Field
		}
		if _, err := fmt.Fprintf(w, "%s%s %s: %s: %s\n    mend: %s\n", f.where(), paint(w, severityColours[f.severity], f.Severity), f.Code, at, f.Message, f.Mend); err != nil {
			return err
		}
	}
	return nil
}

func lintTable(w io.Writer, found []lintFinding) error {
	t := tabwriter.NewWriter(w, 5, 1, 3, ' ', 0)
	fmt.Fprintf(t, "CODE\t%s\tOBJECT\tFIELD\tFINDING\n", paint(w, normal, "SEVERITY"))
	for _, f := range found {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", f.Code, paint(w, severityColours[f.severity], f.Severity), f.Object, f.Field, f.Message)
	}
	return t.Flush()
}

func lintJSON(w io.Writer, found []lintFinding) error {
	return indented(w, append([]lintFinding{}, found...))
}

func indented(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// gitHubWords are the kinds of annotations that GitHub's runners know.
var gitHubWords = map[lint.Severity]string{lint.Info: "notice", lint.Warning: "warning", lint.Error: "error"}

// lintGitHub prints workflow commands, which become annotations of the lines of a change.
func lintGitHub(w io.Writer, found []lintFinding) error {
	value := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	for _, f := range found {
		at := ""
		if f.File != "" {
			at = fmt.Sprintf("file=%s,line=%d,col=%d,", property.Replace(filepath.ToSlash(f.File)), f.Line, f.Column)
		}
		message := fmt.Sprintf("%s: %s. %s", f.Object, f.Message, f.Mend)
		if _, err := fmt.Fprintf(w, "::%s %stitle=%s::%s\n", gitHubWords[f.severity], at, property.Replace(f.Code+" "+f.Field), value.Replace(message)); err != nil {
			return err
		}
	}
	return nil
}
