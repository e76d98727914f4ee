package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

func deleteCommand() *cli.Command {
	return &cli.Command{
		Name: "delete", Usage: "delete objects by kind and name, or those of a file",
		UsageText:   "tierctl delete KIND NAME...\n   tierctl delete -f FILE",
		Description: "All of them are deleted in one transaction, or none.",
		Flags: slices.Concat(fileFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "skip-not-exists", Aliases: []string{"s"}, Usage: "an object that does not exist is no error"},
			skipEmptyFlag(),
		}, writeFlags()),
		Action: deleteObjects,
	}
}

func deleteObjects(c *cli.Context) error {
	if len(c.StringSlice("filename")) > 0 {
		return write(c, "delete", func(tx store.Writer, d store.Document) (string, error) { return deleteOne(c, tx, refOf(d)) })
	}
	format, err := output(c, "json", "name")
	if err != nil {
		return err
	}
	if c.NArg() < 2 {
		return usagef("delete needs -f FILE, or KIND and at least one NAME")
	}
	refs, err := namedRefs(c)
	if err != nil {
		return err
	}
	if dryRunOf(c) == dryClient {
		return usagef("delete KIND NAME has nothing to check without the store: --dry-run=server")
	}
	s, err := openStore(c)
	if err != nil {
		return err
	}
	results := make([]string, len(refs))
	done, err := transact(c, s, func(tx store.Writer) error {
		var wrong []error
		for i, ref := range refs {
			if results[i], err = deleteOne(c, tx, ref); err != nil && !aboutObject(err) {
				return err
			}
			wrong = append(wrong, inCalicoWords(err))
		}
		return errors.Join(wrong...)
	})
	if err != nil {
		return nothing("deleted", err)
	}
	for i, ref := range refs {
		printResult(c, format, ref, results[i])
	}
	deleted := 0
	for _, r := range results {
		if r == "deleted" {
			deleted++
		}
	}
	if deleted == 0 {
		return done.end(c, format)
	}
	return done.end(c, format, fmt.Sprintf("Successfully deleted %d '%s' resource(s)", deleted, refs[0].Kind))
}

func deleteOne(c *cli.Context, tx store.Writer, ref v3.Ref) (string, error) {
	err := tx.Delete(ref)
	if errors.Is(err, store.ErrNotFound) && c.Bool("skip-not-exists") {
		return "not found", nil
	}
	return "deleted", err
}

// namedRefs are the objects that KIND NAME... and -n name.
func namedRefs(c *cli.Context) ([]v3.Ref, error) { return refsNamed(c, c.Args().Tail()) }

// refsNamed are the objects of KIND with these names.
func refsNamed(c *cli.Context, names []string) ([]v3.Ref, error) {
	kind, err := store.Lookup(c.Args().First())
	if err != nil {
		return nil, usageError{err}
	}
	namespace, err := namespaceOf(c, kind)
	if err != nil {
		return nil, err
	}
	if slices.Contains(names, "") {
		return nil, errEmptyName
	}
	var refs []v3.Ref
	for _, name := range names {
		refs = append(refs, v3.Ref{Kind: kind.Kind, Namespace: namespace, Name: name})
	}
	return refs, nil
}

// namespaceOf gives the namespace in which a command looks for objects of a kind: what -n says, or default.
func namespaceOf(c *cli.Context, kind store.Kind) (string, error) {
	namespace := c.String("namespace")
	switch {
	case kind.Namespaced && namespace == "":
		return "default", nil
	case !kind.Namespaced && namespace != "":
		return "", usagef("%s is not namespaced: leave out --namespace", kind.Kind)
	}
	return namespace, nil
}
