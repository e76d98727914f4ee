package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

// writeVerb is create, apply or replace: what it does with one object of a file.
type writeVerb struct {
	name, usage string
	flags       []cli.Flag
	one         func(c *cli.Context, tx store.Writer, obj client.Object) (result string, err error)
}

var writeVerbs = []writeVerb{
	{"create", "create objects that do not exist yet", []cli.Flag{
		&cli.BoolFlag{Name: "skip-exists", Usage: "leave an object that exists as it is, without an error"}}, createOne},
	{"apply", "create objects, or replace those that exist", nil, applyOne},
	{"replace", "replace objects that exist", nil, replaceOne},
}

func (v writeVerb) command() *cli.Command {
	return &cli.Command{
		Name: v.name, Usage: v.usage,
		UsageText:   fmt.Sprintf("tierctl %s -f FILE", v.name),
		Description: "All objects are read and validated first, and written in one transaction: all of them or none.",
		Flags:       slices.Concat(fileFlags(), v.flags, writeFlags()),
		Action: func(c *cli.Context) error {
			return write(c, v.name, func(tx store.Writer, d store.Document) (string, error) { return v.one(c, tx, d.Object) })
		},
	}
}

func writeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "dry-run", Usage: "do everything but keep nothing"},
		&cli.BoolFlag{Name: "skip-empty", Usage: "no objects are no error"},
		outputFlag("json (one line an object, then the store's revision), name"),
		datastoreFlag(),
	}
}

func createOne(c *cli.Context, tx store.Writer, obj client.Object) (string, error) {
	_, err := tx.Create(obj)
	if errors.Is(err, store.ErrExists) && c.Bool("skip-exists") {
		return "exists", nil
	}
	return "created", err
}

func applyOne(_ *cli.Context, tx store.Writer, obj client.Object) (string, error) {
	_, err := tx.Get(v3.RefOf(obj.(v3.Object)))
	if errors.Is(err, store.ErrNotFound) {
		obj.SetResourceVersion("")
		_, err = tx.Create(obj)
		return "created", err
	}
	if err != nil {
		return "", err
	}
	return update(tx, obj, "configured")
}

func replaceOne(_ *cli.Context, tx store.Writer, obj client.Object) (string, error) {
	return update(tx, obj, "replaced")
}

// update says unchanged when the stored object stays as it was.
func update(tx store.Writer, obj client.Object, result string) (string, error) {
	old, err := tx.Get(v3.RefOf(obj.(v3.Object)))
	if err != nil {
		return "", err
	}
	now, err := tx.Update(obj)
	if err == nil && now.GetResourceVersion() == old.GetResourceVersion() {
		result = "unchanged"
	}
	return result, err
}

// errDryRun rolls a transaction back that would have succeeded.
var errDryRun = errors.New("dry run")

// write does one thing with each document of -f, in one transaction: all or nothing.
func write(c *cli.Context, verb string, one func(store.Writer, store.Document) (string, error)) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "json", "name")
	if err != nil {
		return err
	}
	if len(c.StringSlice("filename")) == 0 {
		return usagef("%s needs -f FILE", verb)
	}
	docs, err := readValid(c)
	if err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	if len(docs) == 0 && !c.Bool("skip-empty") {
		return fmt.Errorf("no objects in %v", c.StringSlice("filename"))
	}
	if verb != "delete" {
		for _, d := range docs {
			printEach(c, d, notices(d), "warning")
		}
	}
	s, err := createStore(c)
	if err != nil {
		return err
	}
	results := make([]string, len(docs))
	revision, err := s.Transact(c.Context, func(tx store.Writer) error {
		for _, i := range tiersFirst(docs, verb == "delete") {
			if results[i], err = one(tx, docs[i]); err != nil {
				return fmt.Errorf("%s:%d: %w", docs[i].File, docs[i].Line, err)
			}
		}
		if c.Bool("dry-run") {
			return errDryRun
		}
		return nil
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return nothing("written", err)
	}
	for i, d := range docs {
		printResult(c, format, refOf(d), results[i])
	}
	return printRevision(c, format, revision)
}

// nothing was done, unless the error itself says what was.
func nothing(done string, err error) error {
	if errors.Is(err, store.ErrPartly) {
		return err
	}
	return fmt.Errorf("nothing was %s: %w", done, err)
}

// tiersFirst is the order in which objects of one call can be written whatever their order in the files: a policy needs
// its tier. For deletion it is the other way round.
func tiersFirst(docs []store.Document, reverse bool) []int {
	var tiers, others []int
	for i, d := range docs {
		if d.Kind == "Tier" {
			tiers = append(tiers, i)
		} else {
			others = append(others, i)
		}
	}
	if reverse {
		return append(others, tiers...)
	}
	return append(tiers, others...)
}

func printResult(c *cli.Context, format string, ref v3.Ref, result string) {
	if c.Bool("dry-run") {
		result += " (dry run)"
	}
	switch format {
	case "json":
		line, _ := json.Marshal(struct {
			Kind      string `json:"kind"`
			Namespace string `json:"namespace,omitempty"`
			Name      string `json:"name"`
			Result    string `json:"result"`
		}{ref.Kind, ref.Namespace, ref.Name, result})
		fmt.Fprintf(c.App.Writer, "%s\n", line)
	case "name":
		fmt.Fprintln(c.App.Writer, ref)
	default:
		fmt.Fprintln(c.App.Writer, ref, result)
	}
}

func printRevision(c *cli.Context, format, revision string) error {
	if format != "json" {
		return nil
	}
	_, err := fmt.Fprintf(c.App.Writer, "{\"revision\":%q}\n", revision)
	return err
}
