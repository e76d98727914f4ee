package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	first  = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n"
	second = "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n"
)

func readText(text string) []Document {
	return Read([]string{"-"}, ReadOptions{Stdin: strings.NewReader(text)})
}

// summary has a line for each document: its place and name, or field, place and reason of each error.
func summary(docs []Document) (out []string) {
	for _, d := range docs {
		if d.Object != nil {
			out = append(out, fmt.Sprintf("%d:%d %s", d.Line, d.Column, d.Name))
		}
		for _, e := range d.Errors {
			out = append(out, fmt.Sprintf("%d:%d %s!", e.Line, e.Column, e.Field))
		}
	}
	return out
}

// However two documents are put into one file, either both are read or something is said: never is one lost.
func TestNoDocumentIsLost(t *testing.T) {
	for name, text := range map[string]string{
		"dashes":              first + "---\n" + second,
		"dashes and a blank":  first + "--- \n" + second,
		"dashes, tab, text":   first + "---\t# b\n" + second,
		"dashes and text":     first + "--- # b\n" + second,
		"end marker":          first + "...\n" + second,
		"end marker, comment": first + "... # done\n" + second,
		"both markers":        first + "...\n---\n" + second,
		"lines of Windows":    strings.ReplaceAll(first+"---\n"+second, "\n", "\r\n"),
		"comments between":    first + "---\n# nothing\n---\n" + second,
		"JSON, then YAML":     `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}` + "\n...\n" + second,
		"a List":              "apiVersion: v1\nkind: List\nitems:\n- " + indent(first) + "- " + indent(second),
		"a list of one kind":  "apiVersion: v1\nkind: NamespaceList\nitems:\n- " + indent(first) + "- " + indent(second),
		"an array":            "- " + indent(first) + "- " + indent(second),
		"an array of JSON":    `[{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}},{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"b"}}]`,
	} {
		var names []string
		for i, d := range readText(text) {
			if d.Index != i {
				t.Errorf("%s: document %d has the index %d", name, i, d.Index)
			}
			names = append(names, d.Name)
		}
		if diff := cmp.Diff([]string{"a", "b"}, names); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for name, text := range map[string]string{
		"carriage returns":    strings.ReplaceAll(first+"---\n"+second, "\n", "\r"),
		"next line":           strings.ReplaceAll(first+"---\n"+second, "\n", "\u0085"),
		"line separator":      first + "\u2028---\u2028" + second,
		"paragraph separator": first + "\u2029...\u2029" + second,
		"JSON side by side":   `{"kind":"Namespace"}{"kind":"Namespace"}`,
		"a list of no kind":   "apiVersion: v1\nkind: NonsenseList\nitems: []\n",
		"a list of no group":  "apiVersion: nonsense/v1\nkind: List\nitems: []\n",
		"items that are none": "apiVersion: v1\nkind: List\nitems: {}\n",
	} {
		docs := readText(text)
		if len(docs) != 1 || docs[0].Object != nil || len(docs[0].Errors) == 0 {
			t.Errorf("%s: %v", name, summary(docs))
		}
	}
}

// What is wrong with an object is said in the order in which it stands in the file, whatever a schema is checked in.
func TestErrorsAreInTheirOrder(t *testing.T) {
	text := "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: a}\nspec:\n" +
		"  selector: true\n  order: \"10\"\n  types: Ingress\n  applyOnForward: 1\n  ingress: [{action: Allow, odd: 1}]\n"
	want := []string{"5:13 spec.selector!", "6:10 spec.order!", "7:10 spec.types!", "8:19 spec.applyOnForward!", "9:29 spec.ingress[0].odd!"}
	for range 20 {
		if diff := cmp.Diff(want, summary(readText(text))); diff != "" {
			t.Fatal(diff)
		}
	}
}

func indent(text string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ") + "\n"
}

// Every error stands at the line and column of what it is about, or of its nearest parent when it is about what is missing.
func TestPlaces(t *testing.T) {
	for _, row := range []struct {
		text string
		want []string
	}{
		{first + "---\n" + second, []string{"1:1 a", "5:1 b"}},
		{"# why\n\n" + first, []string{"3:1 a"}},
		{gnp("\n  selector: all()\n  ingress:\n  - action: Allow\n  - action: allow\n"), []string{"8:13 spec.ingress[1].action!"}},
		{gnp("\n  ingres: []\n"), []string{"5:3 spec.ingres!"}},
		{gnp("\n  ingress:\n  - protocol: TCP\n"), []string{"6:5 spec.ingress[0].action!"}},
		{first + "---\n" + gnp("\n  order: [1]\n"), []string{"1:1 a", "9:3 spec.order!"}},
		{"{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Namespace\",\n\t\"metadata\": {\"name\": \"Bad\"}\n}\n", []string{"4:23 metadata.name!"}},
		{"apiVersion: v1\nkind: List\nitems:\n- " + indent(first) + "- kind: Namespace\n  apiVersion: v2\n  metadata: {name: b}\n",
			[]string{"4:3 a", "8:15 apiVersion!"}},
		{"kind: 1\napiVersion: 2\nmetadata: 3\n", []string{"2:13 apiVersion!", "1:7 kind!", "3:11 metadata!"}},
		{"apiVersion: v1\nkind: Namespace\nmetadata: {name: 5}\n", []string{"3:18 metadata.name!"}},
		{"apiVersion: v1\nkind: Nonsense\n", []string{"2:7 kind!"}},
		{"apiVersion: v1\n", []string{"1:1 kind!"}},
		{"kind: Namespace\n", []string{"1:1 apiVersion!"}},
		{"just text\n", []string{"1:1 !"}},
		{first + "kind: Pod\n", []string{"4:1 !"}},
		{"a: b\n\tc: d\n---\n" + first, []string{"2:1 !", "4:1 a"}},
		{"---\na: [\n---\n" + first, []string{"2:1 !", "4:1 a"}},
		{"a: 1\n\xff\n", []string{"2:1 !"}},
		{"a: 1\nb: \x00\n", []string{"2:4 !"}},
		{"apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: ns}\nspec:\n  nodeNam: n\n", []string{"5:3 spec.nodeNam!"}},
		{"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  podSelector: {}\n  ingress:\n  - from:\n    - ipBlock: {cidr: 10.0.0.0/33}\n",
			[]string{"8:23 spec.ingress[0].from[0].ipBlock.cidr!"}},
	} {
		if diff := cmp.Diff(row.want, summary(readText(row.text))); diff != "" {
			t.Errorf("%s\n%s", row.text, diff)
		}
	}
}

func TestReadsNothingItShouldNot(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'j'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.Repeat(fmt.Sprintf("*%c,", c-1), 9))
	}
	for name, row := range map[string]struct{ text, reason string }{
		"aliases that multiply": {bomb, "excessive aliasing"},
		"an alias of itself":    {"a: &a [*a]\n", "contains itself"},
		"deep arrays":           {strings.Repeat("[", 200000), "max depth"},
		"deep objects":          {strings.Repeat(`{"a":`, 200000), "max depth"},
		"a large document":      {"a: " + strings.Repeat("x", maxDocument), "more than"},
		"a duplicate key":       {`{"kind": "Pod", "kind": "Pod"}`, "already set"},
	} {
		docs := readText(row.text)
		if len(docs) != 1 || len(docs[0].Errors) != 1 || !strings.Contains(docs[0].Errors[0].Message, row.reason) {
			t.Errorf("%s: %+v", name, docs)
		}
	}
	for _, empty := range []string{"", "# nothing\n", "---\n---\n", "apiVersion: v1\nkind: List\nitems: []\n", "apiVersion: v1\nkind: List\nitems:\n", "[]\n"} {
		if docs := readText(empty); len(docs) > 0 {
			t.Errorf("%q: %v", empty, summary(docs))
		}
	}
}

func TestReadFilesAndDirectories(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"real", "real/sub", "real/z.yaml"} {
		must(t, os.Mkdir(at(d), 0o755))
	}
	for name, text := range map[string]string{"real/b.yml": second, "real/a.yaml": first, "real/sub/c.json": `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"c"}}`,
		"real/read.me": "no object", "real/bad.yaml": "a: ["} {
		must(t, os.WriteFile(at(name), []byte(text), 0o600))
	}
	must(t, os.Symlink(at("real"), at("link")))
	must(t, os.Symlink(at("nowhere"), at("broken")))
	for _, row := range []struct {
		path      string
		recursive bool
		want      []string
	}{
		{at("real"), false, []string{"1:1 a", "1:1 b", "1:1 !"}},
		{at("real") + "/", false, []string{"1:1 a", "1:1 b", "1:1 !"}},
		{at("real"), true, []string{"1:1 a", "1:1 b", "1:1 !", "1:1 c"}},
		{at("link"), true, []string{"1:1 a", "1:1 b", "1:1 !", "1:1 c"}},
		{at("real/read.me"), false, []string{"1:1 !"}},
		{at("broken"), false, []string{"1:1 !"}},
		{at("nowhere"), false, []string{"1:1 !"}},
		{"-", false, []string{"1:1 !"}}, // there is no standard input
	} {
		if diff := cmp.Diff(row.want, summary(Read([]string{row.path}, ReadOptions{Recursive: row.recursive}))); diff != "" {
			t.Errorf("%s: %s", row.path, diff)
		}
	}
	docs := Read([]string{at("real")}, ReadOptions{})
	if docs[1].File != at("real/b.yml") {
		t.Errorf("the file is named %q", docs[1].File)
	}
}

// A namespaced object is in the namespace that it names, else in the one asked for, else in default.
func TestNamespaceOfDocuments(t *testing.T) {
	for _, row := range []struct{ own, asked, want string }{
		{"", "", "default"}, {"", "x", "x"}, {"y", "", "y"}, {"x", "x", "x"}, {"y", "x", ""},
	} {
		text := fmt.Sprintf("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, namespace: %q}\n", row.own)
		d := Read([]string{"-"}, ReadOptions{Namespace: row.asked, Stdin: strings.NewReader(text)})[0]
		switch {
		case row.want == "" && (len(d.Errors) == 0 || d.Errors[0].Field != "metadata.namespace"):
			t.Errorf("%+v: %v", row, d)
		case row.want != "" && (d.Object == nil || d.Object.GetNamespace() != row.want || d.Namespace != row.want):
			t.Errorf("%+v: %v", row, d)
		}
	}
	if d := readText(strings.Replace(first, "name: a", "name: a, namespace: x", 1))[0]; d.Object == nil || d.Object.GetNamespace() != "" ||
		d.Namespace != "" || len(d.Warnings) != 1 || d.Warnings[0].Field != "metadata.namespace" {
		t.Errorf("a cluster-scoped object in a namespace: %v", d)
	}
}
