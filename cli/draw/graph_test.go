package draw_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/tierwall/tierwall/cli/draw"
	"github.com/tierwall/tierwall/dataplane/reach"
)

type picture = func(io.Writer, *reach.Matrix, string) error

var matrices = map[string]func() *reach.Matrix{
	"small": small, "hostile": evil, "many": func() *reach.Matrix { return big(40) }, "none": func() *reach.Matrix { return &reach.Matrix{} },
	"open": func() *reach.Matrix {
		return matrixOf([]reach.End{pods("a", "a"), pods("b", "b"), nodes("n")}, func(_, _ string) string { return "all" })
	},
}

func drawn(t *testing.T, draw picture, m *reach.Matrix, title string) string {
	t.Helper()
	var out bytes.Buffer
	if err := draw(&out, m, title); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestPicturesAreTheSameEachTime(t *testing.T) {
	for name, p := range map[string]picture{"HTML": draw.HTML, "SVG": draw.SVG, "GraphSVG": draw.GraphSVG, "DOT": draw.DOT, "Mermaid": draw.Mermaid} {
		for what, m := range matrices {
			if drawn(t, p, m(), "x") != drawn(t, p, m(), "x") {
				t.Errorf("%s of %s: the same matrix gives other bytes", name, what)
			}
		}
	}
}

// SVG is XML of our own elements, whatever names say.
func TestSVG(t *testing.T) {
	for name, p := range map[string]picture{"matrix": draw.SVG, "graph": draw.GraphSVG} {
		for what, m := range matrices {
			text := drawn(t, p, m(), hostile)
			for d := xml.NewDecoder(strings.NewReader(text)); ; {
				token, err := d.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("%s of %s: %v", name, what, err)
				}
				if e, ok := token.(xml.StartElement); ok && !strings.Contains(" svg title style rect text path circle g defs marker ", " "+e.Name.Local+" ") {
					t.Errorf("%s of %s has <%s>", name, what, e.Name.Local)
				}
			}
		}
	}
	if text := drawn(t, draw.SVG, big(1000), "many"); len(text) > 16<<20 {
		t.Errorf("1000 ends are %d bytes", len(text))
	}
}

// A crowd of arrows has no labels, and goes straight: to find a place for each of many thousands took minutes.
func TestGraphOfACrowd(t *testing.T) {
	for n, labelled := range map[int]bool{20: true, 60: false} {
		var ends []reach.End
		for i := range n {
			ends = append(ends, pods(fmt.Sprint("n", i), "p"))
		}
		text := drawn(t, draw.GraphSVG, matrixOf(ends, func(from, to string) string { return "TCP " + from[1:2] + to[1:2] }), "crowd")
		if arrows := strings.Count(text, "marker-end="); arrows < n*n/4 {
			t.Errorf("%d ends have %d arrows", n, arrows)
		}
		if strings.Contains(text, `class="conns"`) != labelled {
			t.Errorf("%d ends: labels should be there: %t", n, labelled)
		}
	}
}

// Graphviz reads what we write, and finds in it the names as they are.
func TestDOTInGraphviz(t *testing.T) {
	if _, err := exec.LookPath("dot"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("left out, for there is no graphviz here: %v", err)
	}
	for what, m := range matrices {
		cmd := exec.Command("dot", "-Tsvg")
		cmd.Stdin = strings.NewReader(drawn(t, draw.DOT, m(), hostile))
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil || strings.Contains(errs.String(), "syntax") {
			t.Errorf("%s: %v: %s", what, err, errs.String())
		}
		if what == "small" {
			for _, want := range []string{"shop/front and 2 more", "TCP 8080; UDP 5000&#45;5010", "open to all: all"} {
				if !strings.Contains(string(out), want) {
					t.Errorf("no %q in what graphviz draws", want)
				}
			}
		}
	}
}

// mermaidLines are the only kinds of lines that our flowcharts have: within quotes there is nothing that Mermaid reads.
var mermaidLines = regexp.MustCompile(`^(%% ` + mermaidWord + `|flowchart LR|  note\[` + mermaidQuoted + `\]|  subgraph g\d+\[` + mermaidQuoted + `\]|    g\d+n\d+\[` + mermaidQuoted +
	`\]|  end|  g\d+(n\d+)? (-->|-\.->|<-->|<-\.->)\|` + mermaidQuoted + `\| g\d+(n\d+)?)$`)

const (
	mermaidWord   = "(?:[^\"#&;:<>`*_\\[\\](){}|\\\\%$@!~'\\pC]|#\\d+;)*"
	mermaidQuoted = `"` + mermaidWord + `(?:<br/>` + mermaidWord + `)*"`
)

func TestMermaid(t *testing.T) {
	for what, m := range matrices {
		for line := range strings.Lines(drawn(t, draw.Mermaid, m(), hostile)) {
			if !mermaidLines.MatchString(strings.TrimSuffix(line, "\n")) {
				t.Errorf("%s: %q", what, line)
			}
		}
	}
}

func TestGraphText(t *testing.T) {
	want := `%% The shop
flowchart LR
  subgraph g0["outside"]
    g0n0["0.0.0.0/0 but 2 networks"]
    g0n1["203.0.113.0/28"]
  end
  subgraph g1["hosts"]
    g1n0["node-1<br/>reaches all#58; all"]
  end
  subgraph g2["dev"]
    g2n0["dev/toolbox<br/>open to all#58; all<br/>reaches all but shop/db#58; all"]
  end
  subgraph g3["dns"]
    g3n0["dns/coredns-a and 1 more"]
  end
  subgraph g4["shop"]
    g4n0["shop/api"]
    g4n1["shop/db"]
    g4n2["shop/front and 2 more"]
  end
  g0n0 -.->|"TCP 80,443"| g4n2
  g0n1 -.->|"TCP 22"| g1n0
  g3n0 -.->|"UDP 53"| g1n0
  g4n0 -.->|"TCP 443"| g0n0
  g4n0 -.->|"TCP 53#59; UDP 53"| g3n0
  g4n0 -.->|"TCP 5432"| g4n1
  g4n2 -.->|"TCP 53#59; UDP 53"| g3n0
  g4n2 -.->|"TCP 8080#59; UDP 5000-5010"| g4n0
`
	if have := drawn(t, draw.Mermaid, small(), "The shop"); have != want {
		t.Errorf("have\n%s", have)
	}
	if have := drawn(t, draw.Mermaid, matrices["open"](), "Open"); !strings.Contains(have, `note["every end can reach every other#58; all"]`) || strings.Contains(have, "-->") {
		t.Errorf("all to all is not said once:\n%s", have)
	}
}
