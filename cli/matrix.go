package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/cli/draw"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/reach"
)

func matrixCommand() *cli.Command {
	return &cli.Command{
		Name: "matrix", Usage: "show who can reach whom",
		UsageText: "tierctl matrix [-f FILE] [--from END] [--to END] [--protocol TCP] [--port 80] [-o csv|json|html|svg]",
		Description: "Answers for every packet between endpoints, hosts and the outside, from the objects of -f or else of the datastore: those that all\n" +
			"rules treat alike are one row and one column. What a node translates, as to a service, is for tierctl trace.\n" +
			"END is a namespace, namespace/name of a pod or workload endpoint, a node, an address, or outside.",
		Flags: slices.Concat(fileFlags(), []cli.Flag{
			&cli.StringFlag{Name: "from", Usage: "only rows of this `END`"},
			&cli.StringFlag{Name: "to", Usage: "only columns of this `END`"},
			&cli.StringFlag{Name: "protocol", Usage: "only packets of `PROTOCOL`, by name or number (default: all)"},
			&cli.UintFlag{Name: "port", Usage: "only packets to this `PORT`"},
			&cli.BoolFlag{Name: "staged", Usage: "as if the staged policies were in force"},
			endpointToHostFlag(), outputFlag("csv, json, html, svg (default: a table)"), datastoreFlag(),
		}),
		Action: matrix,
	}
}

func matrix(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "csv", "json", "html", "svg")
	if err != nil {
		return err
	}
	options, err := reachOptions(c)
	if err != nil {
		return err
	}
	objs, err := objects(c)
	if err != nil {
		return err
	}
	x, err := index(c, "", objs)
	if err != nil {
		return err
	}
	var end func()
	options.Rows, end = rowsDone(c)
	m := reach.Of(planned(c, x), options)
	end()
	rows, columns := chosen(m, c.String("from")), chosen(m, c.String("to"))
	for flag, some := range map[string][]int{"from": rows, "to": columns} {
		if end := c.String(flag); len(some) == 0 && end != "" {
			return fmt.Errorf("--%s %s: no such namespace, workload, node or address is among the ends", flag, end)
		}
	}
	switch v := (matrixView{m, rows, columns}); format {
	case "csv":
		return v.csv(c.App.Writer)
	case "json":
		return json.NewEncoder(c.App.Writer).Encode(v.view())
	case "html":
		return draw.HTML(c.App.Writer, v.square(), "Who can reach whom")
	case "svg":
		return draw.SVG(c.App.Writer, v.square(), "Who can reach whom")
	default:
		return v.table(c.App.Writer)
	}
}

func reachOptions(c *cli.Context) (o reach.Options, err error) {
	o.Staged = c.Bool("staged")
	if c.Uint("port") > 65535 {
		return o, usagef("--port %d is more than 65535", c.Uint("port"))
	}
	if c.IsSet("port") && c.Uint("port") == 0 {
		return o, usagef("--port 0: leave it out for all ports")
	}
	o.Port = uint16(c.Uint("port"))
	if text := c.String("protocol"); text != "" {
		if o.Proto, err = policy.ProtocolNumber(text); err != nil {
			return o, usagef("--%v", err)
		}
	}
	if o.Port != 0 && o.Proto != 0 && !policy.HasPorts(o.Proto) {
		return o, usagef("--port goes with no protocol but TCP, UDP, SCTP and UDPLite")
	}
	return o, nil
}

// chosen are the ends that a person names; all without a name.
func chosen(m *reach.Matrix, end string) (out []int) {
	for i := range m.Ends {
		if end == "" || isNamed(&m.Ends[i], end) {
			out = append(out, i)
		}
	}
	return out
}

func isNamed(e *reach.End, text string) bool {
	if e.Kind == reach.Outside {
		return text == "outside" || slices.ContainsFunc(e.Nets, holds(text))
	}
	return slices.ContainsFunc(e.Members, func(r v3.Ref) bool {
		_, name, _ := strings.Cut(r.String(), "/")
		return name == text || r.String() == text || r.Namespace != "" && strings.TrimSuffix(text, "/") == r.Namespace
	})
}

// matrixView is some rows and columns of a matrix.
type matrixView struct {
	*reach.Matrix
	rows, columns []int
}

// square is the ends that are a row or a column, as both.
func (v *matrixView) square() *reach.Matrix {
	ends := slices.Concat(v.rows, v.columns)
	slices.Sort(ends)
	ends = slices.Compact(ends)
	out := &reach.Matrix{Answers: v.Answers}
	for _, r := range ends {
		out.Ends = append(out.Ends, v.Ends[r])
		var row []int
		for _, c := range ends {
			row = append(row, v.Cells[r][c])
		}
		out.Cells = append(out.Cells, row)
	}
	return out
}

func (v *matrixView) answer(r, c int) *reach.Answer { return &v.Answers[v.Cells[r][c]] }

// apart tells whether a packet between two ends passes no node that is known.
func (v *matrixView) apart(r, c int) bool {
	return v.Ends[r].Kind == reach.Outside && v.Ends[c].Kind == reach.Outside
}

// table has a column a number, and below it what the letters in it mean.
func (v *matrixView) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "\tFROM \\ TO")
	for _, c := range v.columns {
		fmt.Fprintf(t, "\t%s", paint(w, normal, strconv.Itoa(c+1)))
	}
	fmt.Fprintln(t)
	letters, legend := map[string]string{}, []string{}
	for i := range v.Ends {
		row, column := slices.Contains(v.rows, i), slices.Contains(v.columns, i)
		if !row && !column {
			continue
		}
		fmt.Fprintf(t, "%d\t%s", i+1, cut(v.Ends[i].Kind.String()+" "+v.Ends[i].About, 48))
		for _, c := range v.columns {
			text := paint(w, normal, "")
			if row && !v.apart(i, c) {
				text = paintCell(w, cell(v.answer(i, c), letters, &legend))
			}
			fmt.Fprintf(t, "\t%s", text)
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	for _, line := range append([]string{"", paintCell(w, "all") + "  every packet", paintCell(w, "-") + "    none"}, legend...) {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	return nil
}

func paintCell(w io.Writer, text string) string {
	switch text {
	case "all":
		return paint(w, green, text)
	case "-":
		return paint(w, red, text)
	}
	return paint(w, normal, text)
}

// rowsDone shows how far a matrix is; begin is its option.
func rowsDone(c *cli.Context) (begin func(rows int) (done func()), end func()) {
	var w *work
	begin = func(rows int) func() {
		w = progress(c, "comparing", rows)
		return w.step
	}
	return begin, func() { w.end() }
}

// cell is an answer in a few letters.
func cell(a *reach.Answer, letters map[string]string, legend *[]string) string {
	switch {
	case a.All:
		return "all"
	case a.None:
		return "-"
	}
	l, ok := letters[a.Conns]
	if !ok {
		for n := len(letters); ; n = n/26 - 1 {
			l = string(rune('a'+n%26)) + l
			if n < 26 {
				break
			}
		}
		letters[a.Conns] = l
		*legend = append(*legend, fmt.Sprintf("%-4s %s", l, a.Conns))
	}
	return l
}

func (v *matrixView) csv(w io.Writer) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{"from", "from kind", "to", "to kind", "connections", "why"}) // Flush keeps the error
	for _, r := range v.rows {
		for _, c := range v.columns {
			if a := v.answer(r, c); !v.apart(r, c) {
				_ = out.Write([]string{v.Ends[r].About, v.Ends[r].Kind.String(), v.Ends[c].About, v.Ends[c].Kind.String(), a.Conns, strings.Join(a.Why, "; ")})
			}
		}
	}
	out.Flush()
	if err := out.Error(); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// endView is an end as -o json prints it.
type endView struct {
	Kind      string   `json:"kind"` // workload, host or outside
	About     string   `json:"about"`
	Namespace string   `json:"namespace,omitempty"`
	Members   []string `json:"members,omitempty"`
	Networks  []string `json:"networks,omitempty"`
}

func endViewOf(e *reach.End) endView {
	v := endView{Kind: e.Kind.String(), About: e.About, Namespace: e.Namespace}
	for _, m := range e.Members {
		v.Members = append(v.Members, m.String())
	}
	for _, n := range e.Nets {
		v.Networks = append(v.Networks, n.String())
	}
	return v
}

type pairView struct {
	From        int      `json:"from"` // index of ends
	To          int      `json:"to"`
	Connections string   `json:"connections"`
	Why         []string `json:"why"`
}

type reachView struct {
	Ends  []endView  `json:"ends"`
	Pairs []pairView `json:"pairs"`
}

func (v *matrixView) view() reachView {
	out := reachView{Ends: []endView{}, Pairs: []pairView{}}
	for i := range v.Ends {
		out.Ends = append(out.Ends, endViewOf(&v.Ends[i]))
	}
	for _, r := range v.rows {
		for _, c := range v.columns {
			if a := v.answer(r, c); !v.apart(r, c) {
				out.Pairs = append(out.Pairs, pairView{r, c, a.Conns, append([]string{}, a.Why...)})
			}
		}
	}
	return out
}
