package draw

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/tierwall/tierwall/dataplane/reach"
)

// mostLabel is how much an arrow says; the whole is in the matrix.
const mostLabel = 60

// DOT writes the graph of what may pass as Graphviz reads it.
func DOT(w io.Writer, m *reach.Matrix, title string) error {
	g := graphOf(m)
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "digraph reach {\n  label=%s; labelloc=t; rankdir=LR; compound=true; ranksep=1.2;\n", dotText(title, g.note))
	fmt.Fprint(out, "  fontname=\"Helvetica\"; node [fontname=\"Helvetica\" shape=box style=rounded]; edge [fontname=\"Helvetica\" fontsize=10];\n")
	for i := range g.groups {
		k := &g.groups[i]
		fmt.Fprintf(out, "  subgraph cluster_%d {\n    label=%s; style=rounded; color=gray;\n", i, dotText(append([]string{k.name}, k.notes...)...))
		for j, n := range k.nodes {
			fmt.Fprintf(out, "    n%d_%d [label=%s];\n", i, j, dotText(append([]string{n.about}, n.notes...)...))
		}
		fmt.Fprintln(out, "  }")
	}
	for _, a := range g.arrows {
		fmt.Fprintf(out, "  n%d_%d -> n%d_%d [label=%s", a.from.group, max(a.from.node, 0), a.to.group, max(a.to.node, 0), dotText(short(a.answer.Conns, mostLabel)))
		if a.from.node < 0 {
			fmt.Fprintf(out, " ltail=cluster_%d", a.from.group)
		}
		if a.to.node < 0 {
			fmt.Fprintf(out, " lhead=cluster_%d", a.to.group)
		}
		if a.both {
			fmt.Fprint(out, " dir=both")
		}
		if !a.answer.All {
			fmt.Fprint(out, " style=dashed")
		}
		fmt.Fprintln(out, "];")
	}
	fmt.Fprintln(out, "}")
	return flushed(out)
}

// dotText is lines as a quoted string of DOT. Graphviz also reads HTML's entities and backslashes in it.
func dotText(lines ...string) string {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "&", "&amp;")
	var out []string
	for _, l := range lines {
		if l != "" {
			out = append(out, escape.Replace(plain(l)))
		}
	}
	return `"` + strings.Join(out, `\n`) + `"`
}

// Mermaid writes the graph of what may pass as a flowchart of Mermaid's.
func Mermaid(w io.Writer, m *reach.Matrix, title string) error {
	g := graphOf(m)
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%%%% %s\nflowchart LR\n", mermaidLine(title))
	if g.note != "" {
		fmt.Fprintf(out, "  note[%s]\n", mermaidText(g.note))
	}
	for i := range g.groups {
		k := &g.groups[i]
		fmt.Fprintf(out, "  subgraph g%d[%s]\n", i, mermaidText(append([]string{k.name}, k.notes...)...))
		for j, n := range k.nodes {
			fmt.Fprintf(out, "    g%dn%d[%s]\n", i, j, mermaidText(append([]string{n.about}, n.notes...)...))
		}
		fmt.Fprintln(out, "  end")
	}
	for _, a := range g.arrows {
		line := "-.->"
		switch {
		case a.both && a.answer.All:
			line = "<-->"
		case a.both:
			line = "<-.->"
		case a.answer.All:
			line = "-->"
		}
		fmt.Fprintf(out, "  %s %s|%s| %s\n", mermaidSpot(a.from), line, mermaidText(short(a.answer.Conns, mostLabel)), mermaidSpot(a.to))
	}
	return flushed(out)
}

func mermaidSpot(s spot) string {
	if s.node < 0 {
		return fmt.Sprintf("g%d", s.group)
	}
	return fmt.Sprintf("g%dn%d", s.group, s.node)
}

// mermaidText is lines as a quoted string of Mermaid's, whose text is read as Markdown and HTML, after a search for styles and directives that heeds
// no quotes: what means something to one of them is an entity, which Mermaid writes #NUMBER;.
func mermaidText(lines ...string) string {
	var out []string
	for _, l := range lines {
		out = append(out, mermaidLine(l))
	}
	return `"` + strings.Join(out, "<br/>") + `"`
}

func mermaidLine(text string) string {
	var b strings.Builder
	for _, r := range plain(text) {
		if r < 0x80 && strings.ContainsRune("\"#&;:<>`*_[](){}|\\%$@!~'", r) {
			fmt.Fprintf(&b, "#%d;", r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func flushed(out *bufio.Writer) error {
	if err := out.Flush(); err != nil {
		return fmt.Errorf("writing the picture: %w", err)
	}
	return nil
}
