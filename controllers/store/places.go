package store

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// places knows where in a file each field of a document stands.
type places struct {
	root   *yaml.Node // nil when the text is not even YAML
	line   int        // of the file, on which the document's text begins
	beyond error      // why there is more than one document in the text
}

// locate reads the document a second time, for the positions that the first reading does not keep. JSON may be indented with
// tabs, which YAML may not; inside JSON strings a tab cannot stand.
func (p *part) locate() *places {
	text := p.text
	if t := bytes.TrimSpace(text); len(t) > 0 && (t[0] == '{' || t[0] == '[') {
		text = bytes.ReplaceAll(text, []byte("\t"), []byte(" "))
	}
	m := &places{line: p.line}
	var doc, next yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&doc); err == nil && len(doc.Content) > 0 {
		m.root = doc.Content[0]
	}
	// The decoder of values reads the first document and drops the rest. YAML ends lines at carriage returns and at U+0085,
	// U+2028 and U+2029 too, so there may be markers that split did not see.
	if err := d.Decode(&next); err != io.EOF {
		m.beyond = fmt.Errorf("line %d: there is more after the end of the document: begin each with a line of ---, ended by a newline", max(next.Line, 1))
	}
	return m
}

// at gives the file's line and column of a node; of the document's beginning when there is none.
func (m *places) at(n *yaml.Node) (line, column int) {
	if n == nil {
		return m.line, 1
	}
	return m.line + n.Line - 1, n.Column
}

// field finds a path such as spec.ingress[0].action, or what of it there is. A scalar's place is its value's, unless its name is
// meant; of anything else it is the name's.
func (m *places) field(path string, name bool) (line, column int) {
	node, place := m.root, m.root
	for _, step := range steps(path) {
		key, value := child(node, step)
		if value == nil {
			break
		}
		node, place = value, value
		if key != nil && (name || value.Kind != yaml.ScalarNode) {
			place = key
		}
	}
	return m.at(place)
}

var pathStep = regexp.MustCompile(`[^.\[\]]+|\[[^\]]*\]`)

// steps of a path: names, and what stands in brackets.
func steps(path string) []string {
	if path == "metadata/spec" || path == "<nil>" {
		return nil
	}
	out := pathStep.FindAllString(path, -1)
	for i := range out {
		out[i] = strings.Trim(out[i], "[]")
	}
	return out
}

// child of a mapping by key or of a sequence by index. key is nil in a sequence; value is nil when there is none.
func child(n *yaml.Node, step string) (key, value *yaml.Node) {
	if n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case n == nil:
	case n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				return n.Content[i], n.Content[i+1]
			}
		}
	case n.Kind == yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n.Content) {
			return nil, n.Content[i]
		}
	}
	return nil, nil
}

func children(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	return n.Content
}

var (
	yamlLine   = regexp.MustCompile(`line (\d+): `)
	yamlPrefix = regexp.MustCompile(`^(error converting YAML to JSON: )?(yaml: )?(unmarshal errors:\s*)?`)
)

// place takes the line out of a YAML reader's error, which counts from the document's beginning.
func (m *places) place(err error) (line, column int, text string) {
	text = yamlPrefix.ReplaceAllString(err.Error(), "")
	line = m.line
	if found := yamlLine.FindStringSubmatch(text); found != nil {
		n, _ := strconv.Atoi(found[1])
		line += n - 1
		text = strings.Replace(text, found[0], "", 1)
	}
	return line, 1, "is not valid YAML: " + strings.TrimSpace(text)
}
