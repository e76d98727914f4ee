package main

import (
	"cmp"
	"io"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/tierwall/tierwall/cli/draw"
	"github.com/tierwall/tierwall/dataplane/reach"
)

// graphs are the formats of graph.
var graphs = map[string]func(io.Writer, *reach.Matrix, string) error{"svg": draw.GraphSVG, "dot": draw.DOT, "mermaid": draw.Mermaid}

func graphCommand() *cli.Command {
	return &cli.Command{
		Name: "graph", Usage: "draw what may pass between whom",
		UsageText: "tierctl graph [-f FILE] [-n NAMESPACE] [--staged] [-o svg|dot|mermaid]",
		Description: "The same as tierctl matrix, as a picture: ends that policy treats alike are a box each, and an arrow says what may pass. What is the\n" +
			"same for many is said once. Answers from the objects alone, of -f or else of the datastore.",
		Flags: slices.Concat(fileFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "staged", Usage: "as if the staged policies were in force"},
			endpointToHostFlag(), outputFlag("svg (the default), dot (as Graphviz reads it), mermaid"), datastoreFlag(),
		}),
		Action: drawGraph,
	}
}

func drawGraph(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "svg", "dot", "mermaid")
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
	m := reach.Of(planned(c, x), reach.Options{Staged: c.Bool("staged")})
	return graphs[cmp.Or(format, "svg")](c.App.Writer, m, "What may pass")
}
