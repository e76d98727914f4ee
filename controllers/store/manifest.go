package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	strictjson "sigs.k8s.io/json"
	kyaml "sigs.k8s.io/yaml"
)

// Document is one object of a file, or what is wrong with it.
type Document struct {
	File                  string
	Index                 int // of the object within its file
	Line, Column          int // where it begins, from 1
	Kind, Namespace, Name string
	Object                client.Object              // nil when there are Errors
	Written               *unstructured.Unstructured // the object before it was defaulted; with ReadOptions.Written
	Errors                []DocError
	Warnings              []DocError // of what is taken otherwise than it is written
	Foreign               bool       // the kind is one of Calico's that no store holds, which is among the Errors
	at                    *places
}

// Place is the file's line and column of a field, or of what of its path is there.
func (d *Document) Place(field string) (line, column int) {
	if d.at == nil || d.at.root == nil {
		return d.Line, d.Column
	}
	return d.at.field(field, false)
}

// Places finds the fields of a YAML or JSON text that is no object of its own, as a patch is.
func Places(text []byte) func(field string) (line, column int) {
	m := (&part{text: text, line: 1}).locate()
	return func(field string) (int, int) { return m.field(field, false) }
}

// DocError is one thing wrong with a Document, and where.
type DocError struct {
	Field, Message string
	Line, Column   int
}

// compare puts errors in the order in which they stand in their file.
func (e DocError) compare(o DocError) int {
	return cmp.Or(cmp.Compare(e.Line, o.Line), cmp.Compare(e.Column, o.Column), cmp.Compare(e.Field, o.Field))
}

// ReadOptions of Read.
type ReadOptions struct {
	Recursive bool      // into the directories of a directory too
	Namespace string    // of objects that do not name one; "" means default
	Stdin     io.Reader // what the path "-" reads
	// Raw are documents that are taken as they are written, whoever's they are: their Object is unstructured, and nobody has judged it.
	Raw     func(apiVersion, kind string) bool
	Written bool // keep each object as it is written, too
}

const maxDocument = 10 << 20 // bytes; the contract's §6.3

// Read reads files, directories (*.yaml, *.yml and *.json in lexical order) and "-". A file that cannot be read and a document
// that cannot be decoded are Documents with Errors, and do not keep the others from being read.
func Read(paths []string, o ReadOptions) (out []Document) {
	for _, path := range paths {
		for _, f := range expand(path, o) {
			out = append(out, f.documents(o)...)
		}
	}
	return out
}

// source is one file's text, or why there is none.
type source struct {
	name string
	text []byte
	err  error
}

func expand(path string, o ReadOptions) []source {
	if path == "-" && o.Stdin == nil {
		return []source{{"-", nil, errors.New("there is no standard input")}}
	}
	if path == "-" {
		text, err := io.ReadAll(o.Stdin)
		return []source{{"-", text, err}}
	}
	info, err := os.Stat(path)
	if err != nil {
		return []source{{path, nil, err}}
	}
	if !info.IsDir() {
		return []source{readFile(path)}
	}
	var out []source
	root := path
	if !os.IsPathSeparator(root[len(root)-1]) {
		root += string(filepath.Separator) // what a symbolic link points to, not the link
	}
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			out = append(out, source{name, nil, err})
		case d.IsDir() && name != root && !o.Recursive:
			return fs.SkipDir
		case !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)):
			out = append(out, readFile(name))
		}
		return nil
	})
	if err != nil {
		out = append(out, source{path, nil, err})
	}
	return out
}

func readFile(path string) source {
	text, err := os.ReadFile(path)
	return source{path, text, err}
}

func (s *source) documents(o ReadOptions) []Document {
	bad := func(line, column int, format string, args ...any) []Document {
		return []Document{{File: s.name, Line: line, Column: column,
			Errors: []DocError{{Message: fmt.Sprintf(format, args...), Line: line, Column: column}}}}
	}
	if s.err != nil {
		return bad(1, 1, "cannot be read: %v", s.err)
	}
	if line, column, ok := notText(s.text); ok {
		return bad(line, column, "is not UTF-8 text")
	}
	var out []Document
	for _, p := range split(s.text) {
		if len(p.text) > maxDocument {
			out = append(out, bad(p.line, 1, "the document has %d bytes: more than the %d that are accepted", len(p.text), maxDocument)...)
			continue
		}
		out = append(out, p.documents(s.name, o)...)
	}
	for i := range out {
		out[i].Index = i
	}
	return out
}

// notText finds the first byte that is no UTF-8, or is NUL.
func notText(text []byte) (line, column int, found bool) {
	at := bytes.IndexByte(text, 0)
	if !utf8.Valid(text) {
		for i := 0; i < len(text); {
			r, n := utf8.DecodeRune(text[i:])
			if r == utf8.RuneError && n == 1 {
				if at < 0 || i < at {
					at = i
				}
				break
			}
			i += n
		}
	}
	if at < 0 {
		return 0, 0, false
	}
	line = 1 + bytes.Count(text[:at], []byte("\n"))
	return line, at - bytes.LastIndexByte(text[:at], '\n'), true
}

// part is the text of one YAML document and the line of its file on which it begins.
type part struct {
	text []byte
	line int
}

// split cuts a file where YAML says that a document begins or ends: at its lines of "---" and "...". Parts with nothing but
// comments are left out.
func split(text []byte) (out []part) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	p := part{line: 1}
	add := func() {
		if !blank(p.text) {
			out = append(out, p)
		}
	}
	line := 0
	for l := range bytes.Lines(text) {
		line++
		switch {
		case marks(l, "---"):
			add()
			// what stands behind the separator belongs to the document; blanks keep the columns right
			rest := bytes.TrimLeft(l[3:], " \t")
			p = part{text: append(bytes.Repeat([]byte(" "), len(l)-len(rest)), rest...), line: line}
		case marks(l, "..."):
			add()
			p = part{line: line + 1}
		default:
			p.text = append(p.text, l...)
		}
	}
	add()
	return out
}

// marks tells whether a line is the marker, alone or with something after a blank.
func marks(line []byte, marker string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(marker))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

func blank(text []byte) bool {
	for l := range bytes.Lines(text) {
		if l = bytes.TrimSpace(l); len(l) > 0 && l[0] != '#' && l[0] != '%' {
			return false
		}
	}
	return true
}

// documents of a part: one object, the items of a list, or the elements of an array.
func (p *part) documents(file string, o ReadOptions) []Document {
	m := p.locate()
	value, err := p.decode(m)
	if err != nil {
		line, column, text := m.place(err)
		return []Document{{File: file, Line: line, Column: column, Errors: []DocError{{Message: text, Line: line, Column: column}}}}
	}
	items, nodes := listItems(value, m.root)
	if items == nil {
		items, nodes = []any{value}, []*yaml.Node{m.root}
	}
	out := make([]Document, 0, len(items))
	for i, item := range items {
		var node *yaml.Node
		if i < len(nodes) {
			node = nodes[i]
		}
		d := Document{File: file}
		d.Line, d.Column = m.at(node)
		d.admit(item, &places{root: node, line: m.line}, o)
		out = append(out, d)
	}
	return out
}

// decode gives what the document says, with int64 and float64 as the API server has them. Duplicate keys are errors.
func (p *part) decode(m *places) (value any, err error) {
	text := p.text
	if trimmed := bytes.TrimSpace(text); trimmed[0] != '{' && trimmed[0] != '[' || strictly(trimmed) != nil {
		// not JSON, though it may be YAML in flow style
		if text, err = kyaml.YAMLToJSONStrict(text); err != nil {
			return nil, err
		}
		if m.beyond != nil {
			return nil, m.beyond
		}
	}
	err = utiljson.Unmarshal(text, &value)
	return value, err
}

func strictly(text []byte) error {
	var v any
	duplicates, err := strictjson.UnmarshalStrict(text, &v)
	if err == nil && len(duplicates) > 0 {
		return duplicates[0]
	}
	return err
}

// listItems are the elements of an array, or the items of a List. nil when it is neither.
func listItems(value any, node *yaml.Node) ([]any, []*yaml.Node) {
	if items, ok := value.([]any); ok {
		return items, children(node)
	}
	m, _ := value.(map[string]any)
	items, ok := m["items"].([]any)
	if !isList(m["apiVersion"], m["kind"]) || !ok && m["items"] != nil {
		return nil, nil
	}
	_, at := child(node, "items")
	return append([]any{}, items...), children(at)
}

// isList tells whether a document is a v1 List, or a list of one known kind such as GlobalNetworkPolicyList.
func isList(apiVersion, kind any) bool {
	version, _ := apiVersion.(string)
	name, _ := kind.(string)
	item, ok := strings.CutSuffix(name, "List")
	if name == "List" {
		return version == "v1"
	}
	_, err := kindOf(version, item)
	return ok && err == nil
}

// admit makes an object of one decoded value.
func (d *Document) admit(value any, at *places, o ReadOptions) {
	d.at = at
	fail := func(path string, format string, args ...any) {
		line, column := at.field(path, false)
		d.Errors = append(d.Errors, DocError{path, fmt.Sprintf(format, args...), line, column})
	}
	m, ok := value.(map[string]any)
	if !ok {
		fail("", "is not an object: expected fields such as apiVersion, kind and metadata")
		return
	}
	for _, w := range wanted {
		if v, ok := m[w.field]; ok && fmt.Sprintf("%T", v) != fmt.Sprintf("%T", w.like) {
			fail(w.field, "expected %s", w.text)
		}
	}
	if meta, ok := m["metadata"].(map[string]any); ok {
		for _, path := range []string{"name", "namespace"} {
			if v, ok := meta[path]; ok && v != nil && fmt.Sprintf("%T", v) != "string" {
				fail("metadata."+path, "expected text, not %v; quote it if it looks like a number", v)
			}
		}
	}
	if len(d.Errors) > 0 {
		return
	}
	u := &unstructured.Unstructured{Object: m}
	d.Kind, d.Namespace, d.Name = u.GetKind(), u.GetNamespace(), u.GetName()
	if o.Raw != nil && o.Raw(u.GetAPIVersion(), u.GetKind()) {
		d.Object = u
		return
	}
	kind, err := kindOf(u.GetAPIVersion(), u.GetKind())
	d.Foreign = errors.As(err, new(foreignError))
	if err == nil {
		d.Kind = kind.Kind
		if kind.Namespaced {
			switch {
			case d.Namespace == "" && o.Namespace != "":
				d.Namespace = o.Namespace
			case d.Namespace == "":
				d.Namespace = "default"
			case o.Namespace != "" && d.Namespace != o.Namespace:
				fail("metadata.namespace", "%s is not the namespace %s that was asked for", d.Namespace, o.Namespace)
				return
			}
			u.SetNamespace(d.Namespace)
		} else if d.Namespace != "" {
			line, column := at.field("metadata.namespace", false)
			d.Warnings = append(d.Warnings, DocError{"metadata.namespace", kind.Kind + " is not namespaced: the namespace is ignored", line, column})
			d.Namespace = ""
		}
	}
	if o.Written {
		d.Written = u.DeepCopy()
	}
	obj, errs := Admit(u, nil)
	for _, e := range errs {
		line, column := at.field(e.Field, e.Detail == unknownField)
		d.Errors = append(d.Errors, DocError{e.Field, errorText(e) + kind.meant(e), line, column})
	}
	slices.SortStableFunc(d.Errors, DocError.compare) // the schema's come in no order
	if len(d.Errors) == 0 {
		d.Object = obj
	}
}

// wanted is what the fields that every object has must look like before anything can be asked of them.
var wanted = []struct {
	field string
	like  any
	text  string
}{
	{"apiVersion", "", "text, e.g. projectcalico.org/v3"},
	{"kind", "", "text, e.g. GlobalNetworkPolicy"},
	{"metadata", map[string]any{}, "fields such as name"},
}

// ErrorText is what an error in a field of a kind's object says beside the field, and which field may have been meant.
func ErrorText(kind string, e *field.Error) string { return errorText(e) + refKind(kind).meant(e) }

// errorText is the error without its field, which has a place of its own.
func errorText(e *field.Error) string {
	if e.Detail == unknownField || e.BadValue == nil && e.Detail != "" {
		return e.Detail
	}
	return e.ErrorBody()
}
