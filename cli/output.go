package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/util/jsonpath"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

// getView is how get prints objects: as -o says, of one kind, and whether exactly one was asked for.
type getView struct {
	format, detail string // of FORMAT=DETAIL
	kind           store.Kind
	one            bool
	array          bool // of objects of any kinds, not a list of one
	headless       bool
	managed        bool // show who manages which field
	export         bool // leave out what one store alone knows
	named          bool // with export: and the namespace, for another's
	columns        []column
	template       func(io.Writer, any) error
}

// outputForm is a FORMAT that get has; needs is what must stand behind its "=".
type outputForm struct {
	name, needs string
	ready       func(*getView) error // reads the detail
	print       func(*getView, io.Writer, []client.Object) error
	typed       bool // the objects themselves
}

// outputForms are calicoctl's and kubectl's.
var outputForms = []outputForm{
	{"", "", (*getView).tableColumns, (*getView).table, false},
	{"ps", "", (*getView).tableColumns, (*getView).table, false},
	{"wide", "", (*getView).tableColumns, (*getView).table, false},
	{"yaml", "", nil, (*getView).yaml, true},
	{"yml", "", nil, (*getView).yaml, true},
	{"json", "", nil, (*getView).json, true},
	{"name", "", nil, (*getView).names, false},
	{"jsonpath", "a template", (*getView).jsonpath, (*getView).templated, false},
	{"jsonpath-file", "a template file", fromFile((*getView).jsonpath), (*getView).templated, false},
	{"go-template", "a template", (*getView).goTemplate, (*getView).templated, false},
	{"go-template-file", "a template file", fromFile((*getView).goTemplate), (*getView).templated, false},
	{"custom-columns", "at least one column", (*getView).customColumns, (*getView).table, false},
	{"custom-columns-file", "a template file", fromFile((*getView).columnsOfFile), (*getView).table, false},
}

func outputNames() (out []string) {
	for _, f := range outputForms[1:] {
		name := f.name
		if f.needs != "" {
			name += "="
		}
		out = append(out, name)
	}
	return out
}

// newView is the view that the command line asks for; what it needs is read before anything is asked of a store.
func newView(c *cli.Context, kind store.Kind) (*getView, *outputForm, error) {
	v := &getView{kind: kind, one: c.NArg() == 2, headless: c.Bool("no-headers"), managed: c.Bool("show-managed-fields"), export: c.Bool("export"), named: c.NArg() > 1}
	v.format, v.detail, _ = strings.Cut(c.String("output"), "=")
	i := slices.IndexFunc(outputForms, func(f outputForm) bool { return f.name == v.format })
	if i < 0 {
		return nil, nil, usagef("unrecognized output format '%s': get has no output format %q: it has %s", v.format, v.format, strings.Join(outputNames(), ", "))
	}
	f := &outputForms[i]
	switch {
	case f.needs != "" && v.detail == "":
		return nil, nil, usagef("need to specify %s: -o %s=…", f.needs, f.name)
	case f.needs == "" && strings.Contains(c.String("output"), "="):
		return nil, nil, usagef("output format %s takes no value, but %q was given", f.name, v.detail)
	}
	if f.ready != nil {
		if err := f.ready(v); err != nil {
			return nil, nil, usageError{err}
		}
	}
	return v, f, nil
}

// fromFile reads the detail from the file that it names.
func fromFile(ready func(*getView) error) func(*getView) error {
	return func(v *getView) error {
		text, err := os.ReadFile(v.detail)
		if err != nil {
			return fmt.Errorf("-o %s: %w", v.format, err)
		}
		v.detail = string(text)
		return ready(v)
	}
}

func (v *getView) names(w io.Writer, objs []client.Object) error {
	refs := make([]v3.Ref, len(objs))
	for i, o := range objs {
		refs[i] = v3.RefOf(o.(v3.Object))
	}
	return printNames(w, refs)
}

func printNames(w io.Writer, refs []v3.Ref) error {
	var text strings.Builder
	for _, ref := range refs {
		fmt.Fprintln(&text, ref)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func (v *getView) yaml(w io.Writer, objs []client.Object) error {
	return v.typed(w, objs, yaml.Marshal)
}

func (v *getView) json(w io.Writer, objs []client.Object) error {
	return v.typed(w, objs, func(x any) ([]byte, error) {
		var out bytes.Buffer
		encoder := json.NewEncoder(&out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		err := encoder.Encode(x)
		return out.Bytes(), err
	})
}

// typed prints what apply can read again: the object itself when one name was asked for, else a list of its kind, as calicoctl does.
func (v *getView) typed(w io.Writer, objs []client.Object, marshal func(any) ([]byte, error)) error {
	if v.one && len(objs) == 0 {
		return nil
	}
	value, err := v.value(objs)
	if err != nil {
		return err
	}
	var printed any = value
	if v.array {
		printed = value["items"]
	}
	text, err := marshal(printed)
	if err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", strings.TrimRight(string(text), "\n"))
	return err
}

// value is what a template sees, and what is printed as YAML and JSON.
func (v *getView) value(objs []client.Object) (map[string]any, error) {
	items := make([]any, 0, len(objs))
	for _, o := range objs {
		item, err := v.untyped(o)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	if v.one && len(items) == 1 {
		return items[0].(map[string]any), nil
	}
	return map[string]any{"apiVersion": v.kind.GVK.GroupVersion().String(), "kind": v.kind.GVK.Kind + "List",
		"metadata": map[string]any{"resourceVersion": ""}, "items": items}, nil
}

// exported is what an object has only in its own store.
var exported = []string{"uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
	"managedFields", "selfLink"}

func (v *getView) untyped(o client.Object) (map[string]any, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("printing: %w", err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		return nil, fmt.Errorf("printing: %w", err)
	}
	meta, _ := out["metadata"].(map[string]any) // every object has it
	if !v.managed {
		delete(meta, "managedFields")
	}
	if v.export {
		for _, field := range exported {
			delete(meta, field)
		}
		if v.named {
			delete(meta, "namespace")
		}
	}
	return out, nil
}

func (v *getView) jsonpath() error {
	p := jsonpath.New("output").AllowMissingKeys(true)
	if err := p.Parse(v.detail); err != nil {
		return fmt.Errorf("-o jsonpath: %w", err)
	}
	v.template = p.Execute
	return nil
}

// goTemplate has calicoctl's function join.
func (v *getView) goTemplate() error {
	t, err := template.New("output").Funcs(template.FuncMap{"join": joinItems}).Parse(v.detail)
	if err != nil {
		return fmt.Errorf("-o go-template: %w", err)
	}
	v.template = t.Execute
	return nil
}

func joinItems(items []any, with string) string {
	var out []string
	for _, i := range items {
		out = append(out, fmt.Sprint(i))
	}
	return strings.Join(out, with)
}

// templated prints nothing of a template that fails half way.
func (v *getView) templated(w io.Writer, objs []client.Object) error {
	if v.one && len(objs) == 0 {
		return nil
	}
	value, err := v.value(objs)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := v.template(&out, value); err != nil {
		return fmt.Errorf("-o %s: %w", v.format, err)
	}
	_, err = w.Write(out.Bytes())
	return err
}

// tableColumns are calicoctl's (contract §6.6).
func (v *getView) tableColumns() error {
	for _, col := range columnsOf(v.kind) {
		if v.format == "wide" || !col.wide {
			v.columns = append(v.columns, col)
		}
	}
	return nil
}

func columnsOf(kind store.Kind) (out []column) {
	if kind.Namespaced {
		out = append(out, namespaceColumn)
	}
	return append(append(out, nameColumn), kindColumns[kind.Kind]...)
}

// customColumns are headings of the kind's own columns, as for calicoctl, or HEADING:PATH, as for kubectl.
func (v *getView) customColumns() error {
	own := columnsOf(v.kind)
	for _, text := range strings.Split(v.detail, ",") {
		heading, path, ok := strings.Cut(strings.TrimSpace(text), ":")
		if ok {
			col, err := v.pathColumn(heading, path)
			if err != nil {
				return err
			}
			v.columns = append(v.columns, col)
			continue
		}
		i := slices.IndexFunc(own, func(col column) bool {
			return strings.EqualFold(strings.ReplaceAll(col.heading, " ", ""), strings.ReplaceAll(heading, " ", ""))
		})
		if i < 0 {
			var known []string
			for _, col := range own {
				known = append(known, col.heading)
			}
			return fmt.Errorf("%s has no column %q: it has %s, and kubectl's HEADING:.path for any other field", v.kind.Kind, heading, strings.Join(known, ", "))
		}
		v.columns = append(v.columns, own[i])
	}
	return nil
}

// columnsOfFile has a line of headings and a line of paths.
func (v *getView) columnsOfFile() error {
	lines := strings.SplitN(strings.TrimSpace(v.detail), "\n", 2)
	headings := strings.Fields(lines[0])
	if len(lines) < 2 || len(headings) != len(strings.Fields(lines[1])) {
		return fmt.Errorf("-o custom-columns-file: expected a line of headings, and a line with as many paths")
	}
	for i, path := range strings.Fields(lines[1]) {
		col, err := v.pathColumn(headings[i], path)
		if err != nil {
			return err
		}
		v.columns = append(v.columns, col)
	}
	return nil
}

// pathColumn shows what a path finds: .metadata.name, metadata.name or {.metadata.name}.
func (v *getView) pathColumn(heading, path string) (column, error) {
	text := strings.TrimSuffix(strings.TrimPrefix(path, "{"), "}")
	p := jsonpath.New(heading).AllowMissingKeys(true)
	if err := p.Parse("{." + strings.TrimPrefix(text, ".") + "}"); err != nil || heading == "" || text == "" {
		return column{}, fmt.Errorf("-o custom-columns: %q is not HEADING:.path", heading+":"+path)
	}
	return column{heading: heading, value: func(o client.Object) string {
		m, err := v.untyped(o)
		if err != nil {
			return err.Error()
		}
		return pathText(p, m)
	}}, nil
}

// pathText is what a path finds in an object, joined by commas; <none> when that is nothing, as kubectl says it.
func pathText(p *jsonpath.JSONPath, m map[string]any) string {
	all, err := p.FindResults(m)
	var out []string
	for _, results := range all {
		for _, r := range results {
			if r.IsValid() && r.CanInterface() && r.Interface() != nil {
				out = append(out, fmt.Sprint(r.Interface()))
			}
		}
	}
	if err != nil || len(out) == 0 {
		return "<none>"
	}
	return strings.Join(out, ",")
}

func (v *getView) table(w io.Writer, objs []client.Object) error {
	t := tabwriter.NewWriter(w, 5, 1, 3, ' ', 0)
	row := func(cell func(column) string) {
		cells := make([]string, len(v.columns))
		for i, col := range v.columns {
			cells[i] = cell(col)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	if !v.headless {
		row(func(col column) string { return col.heading })
	}
	for _, o := range objs {
		row(func(col column) string { return col.value(o) })
	}
	return t.Flush()
}
