package draw

import (
	"crypto/sha256"
	_ "embed" // the page's parts
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"slices"

	"github.com/tierwall/tierwall/dataplane/reach"
)

//go:embed matrix.html
var pageText string

//go:embed matrix.css
var pageStyle string

//go:embed matrix.js
var pageScript string

// HTML writes a page of one file that shows the matrix, filters it and says of each cell what decides. It loads nothing, and its own policy lets it
// load nothing: the style and the script run because of what they are, and no other does.
func HTML(w io.Writer, m *reach.Matrix, title string) error {
	t, err := template.New("matrix").Parse(pageText)
	if err != nil {
		return fmt.Errorf("reading the page: %w", err)
	}
	err = t.Execute(w, struct {
		Title, Policy string
		Style         template.CSS
		Script        template.JS
		Matrix        pageMatrix
	}{title, pagePolicy(), template.CSS(pageStyle), template.JS(pageScript), pageMatrixOf(m)})
	if err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	return nil
}

func pagePolicy() string {
	return fmt.Sprintf("default-src 'none'; style-src %s; script-src %s; base-uri 'none'; form-action 'none'", pageHash(pageStyle), pageHash(pageScript))
}

func pageHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// pageMatrix is what the page's script reads. A matrix of 1,000 ends has a million cells, but few answers and fewer sorts of rows.
type pageMatrix struct {
	Ends    []pageEnd    `json:"ends"`
	Answers []pageAnswer `json:"answers"`
	Rows    [][]int      `json:"rows"` // each different row once: an answer, how many cells in turn say it, the next answer, …
}

type pageEnd struct {
	About      string   `json:"about"`
	Kind       int      `json:"kind"`
	Namespace  string   `json:"namespace"`
	Namespaces []string `json:"namespaces"`
	Members    []string `json:"members"`
	Row        int      `json:"row"`
}

type pageAnswer struct {
	Conns   string   `json:"conns"`
	Verdict verdict  `json:"verdict"`
	Why     []string `json:"why"`
}

func pageMatrixOf(m *reach.Matrix) pageMatrix {
	p := pageMatrix{Ends: []pageEnd{}, Answers: []pageAnswer{}, Rows: [][]int{}}
	seen := map[string]int{}
	for i := range m.Ends {
		e := &m.Ends[i]
		row := runs(m.Cells[i])
		key := fmt.Sprint(row)
		k, ok := seen[key]
		if !ok {
			k = len(p.Rows)
			seen[key] = k
			p.Rows = append(p.Rows, row)
		}
		p.Ends = append(p.Ends, pageEnd{e.About, int(e.Kind), e.Namespace, namespaces(e), members(e), k})
	}
	for i := range m.Answers {
		a := &m.Answers[i]
		p.Answers = append(p.Answers, pageAnswer{a.Conns, verdictOf(a), slices.Concat([]string{}, a.Why)})
	}
	return p
}

// runs of equal answers along a row, each followed by its length.
func runs(row []int) (out []int) {
	for j, a := range row {
		if j == 0 || a != row[j-1] {
			out = append(out, a, 0)
		}
		out[len(out)-1]++
	}
	return out
}
