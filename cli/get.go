package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

func getCommand() *cli.Command {
	return &cli.Command{
		Name: "get", Usage: "print objects",
		UsageText: "tierctl get KIND [NAME...] [-o wide|yaml|json|name]",
		Flags: []cli.Flag{
			namespaceFlag(),
			&cli.BoolFlag{Name: "all-namespaces", Aliases: []string{"A"}, Usage: "objects of every namespace"},
			outputFlag("wide, yaml, json, name (default: a table)"), datastoreFlag(),
		},
		Action: get,
	}
}

func get(c *cli.Context) error {
	format, err := output(c, "wide", "yaml", "json", "name")
	if err != nil {
		return err
	}
	if c.NArg() == 0 {
		return usagef("get needs a KIND: one of %s", strings.Join(kindNames(), ", "))
	}
	kind, err := store.Lookup(c.Args().First())
	if err != nil {
		return usageError{err}
	}
	all := c.Bool("all-namespaces")
	if all && (c.String("namespace") != "" || c.NArg() > 1) {
		return usagef("--all-namespaces goes with neither --namespace nor a NAME")
	}
	objs, missing, err := fetch(c, kind, all)
	if err != nil {
		return err
	}
	if err := printObjects(c, format, kind, objs, c.NArg() == 2); err != nil {
		return err
	}
	return errors.Join(missing...)
}

func kindNames() (out []string) {
	for _, k := range store.Kinds() {
		out = append(out, k.Singular)
	}
	return out
}

// fetch gets the objects that are named, or all; and what of the named is missing.
func fetch(c *cli.Context, kind store.Kind, all bool) (objs []client.Object, missing []error, err error) {
	s, err := openStore(c)
	if err != nil {
		return nil, nil, err
	}
	namespace := ""
	if !all {
		if namespace, err = namespaceOf(c, kind); err != nil {
			return nil, nil, err
		}
	}
	if c.NArg() == 1 {
		objs, err = s.List(c.Context, kind.Kind, namespace)
		return objs, nil, err
	}
	for _, name := range c.Args().Tail() {
		obj, err := s.Get(c.Context, v3.Ref{Kind: kind.Kind, Namespace: namespace, Name: name})
		switch {
		case errors.Is(err, store.ErrNotFound):
			missing = append(missing, err)
		case err != nil:
			return nil, nil, err
		default:
			objs = append(objs, obj)
		}
	}
	return objs, missing, nil
}

func printObjects(c *cli.Context, format string, kind store.Kind, objs []client.Object, one bool) error {
	switch format {
	case "name":
		for _, o := range objs {
			fmt.Fprintln(c.App.Writer, v3.RefOf(o.(v3.Object)))
		}
		return nil
	case "yaml", "json":
		return printTyped(c, format, objs, one)
	}
	return printRows(c, kind, objs, format == "wide")
}

// printTyped prints what apply can read again: the object itself when one name was asked for, else a list.
func printTyped(c *cli.Context, format string, objs []client.Object, one bool) error {
	var value any = map[string]any{"apiVersion": "v1", "kind": "List", "items": slices.Concat([]client.Object{}, objs)}
	switch {
	case one && len(objs) == 1:
		value = objs[0]
	case one:
		return nil
	}
	marshal := yaml.Marshal
	if format == "json" {
		marshal = func(v any) ([]byte, error) { return json.MarshalIndent(v, "", "  ") }
	}
	text, err := marshal(value)
	if err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s\n", strings.TrimRight(string(text), "\n"))
	return err
}

// column of the table that get prints.
type column struct {
	heading string
	wide    bool // only with -o wide
	value   func(client.Object) string
}

// printRows prints a table with calicoctl's headings (contract §6.6).
func printRows(c *cli.Context, kind store.Kind, objs []client.Object, wide bool) error {
	w := tabwriter.NewWriter(c.App.Writer, 5, 1, 3, ' ', 0)
	columns := append([]column{nameColumn}, kindColumns[kind.Kind]...)
	if kind.Namespaced {
		columns = append([]column{namespaceColumn}, columns...)
	}
	row := func(cell func(column) string) {
		var cells []string
		for _, col := range columns {
			if wide || !col.wide {
				cells = append(cells, cell(col))
			}
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	row(func(col column) string { return col.heading })
	for _, o := range objs {
		row(func(col column) string { return col.value(o) })
	}
	return w.Flush()
}
