package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

func getCommand() *cli.Command {
	return &cli.Command{
		Name: "get", Usage: "print objects",
		UsageText: "tierctl get KIND [NAME...] [-o FORMAT]\n   tierctl get -f FILE [-o FORMAT]",
		Description: "Templates see one object when one NAME is given, and else a list with items. Columns of custom-columns are headings of the kind's own\n" +
			"table, or HEADING:.path, e.g. -o custom-columns=NAME,TIER,LABELS:.metadata.labels",
		Flags: slices.Concat(fileFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "all-namespaces", Aliases: []string{"A", "a"}, Usage: "objects of every namespace"},
			&cli.StringFlag{Name: "selector", Usage: "only objects with these `LABELS`, e.g. app=web,tier!=front"},
			&cli.BoolFlag{Name: "export", Usage: "leave out what only this store knows of objects, so that another can have them; and the namespace of those that are named"},
			&cli.BoolFlag{Name: "show-managed-fields", Usage: "with yaml, json and templates: say who manages which field"},
			&cli.BoolFlag{Name: "no-headers", Usage: "a table without its headings"},
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "go on with what changes; objects that are gone are not told"},
			outputFlag(strings.Join(outputNames(), ", ") + " (default: a table)"), datastoreFlag(),
		}),
		Action: get,
	}
}

func get(c *cli.Context) error {
	if len(c.StringSlice("filename")) > 0 {
		return getFiles(c)
	}
	if c.NArg() == 0 {
		return usagef("get needs a KIND: one of %s", strings.Join(kindNames(), ", "))
	}
	kind, err := store.Lookup(c.Args().First())
	if err != nil {
		return usagef("failed to get resources: %w", err)
	}
	v, form, err := newView(c, kind)
	if err != nil {
		return err
	}
	namespace, err := scope(c, kind)
	if err != nil {
		return err
	}
	labelled, err := labelled(c)
	if err != nil {
		return err
	}
	if c.Bool("watch") {
		return watchObjects(c, v, form, namespace, labelled)
	}
	if v.format == "name" && c.NArg() == 1 && c.String("selector") == "" {
		if told, err := v.namesAlone(c, namespace); told {
			return err
		}
	}
	objs, missing, err := fetch(c, kind, namespace)
	if err != nil && len(objs) == 0 {
		return err
	}
	if len(objs) == 0 && len(missing) > 0 {
		return errors.Join(missing...)
	}
	objs = slices.DeleteFunc(objs, func(o client.Object) bool { return !labelled(o) })
	return errors.Join(form.print(v, c.App.Writer, objs), err, errors.Join(missing...))
}

// namesAlone prints all names where a store has them without the objects, and tells whether it is one.
func (v *getView) namesAlone(c *cli.Context, namespace string) (bool, error) {
	s, err := openStore(c)
	if err != nil {
		return true, err
	}
	b, ok := s.(*store.Bolt)
	if !ok {
		return false, nil
	}
	refs, err := b.Names(c.Context, v.kind.Kind, namespace)
	if err != nil {
		return true, err
	}
	return true, printNames(c.App.Writer, refs)
}

func kindNames() (out []string) {
	for _, k := range store.Kinds() {
		out = append(out, k.Singular)
	}
	return out
}

// scope is the namespace that get looks into, "" for all, by calicoctl's rules (contract §6.4).
func scope(c *cli.Context, kind store.Kind) (string, error) {
	switch {
	case c.Bool("all-namespaces") && c.String("namespace") != "":
		return "", usagef("cannot use both --namespace and --all-namespaces flags at the same time")
	case c.Bool("all-namespaces") && c.NArg() > 1:
		return "", usagef("cannot use --all-namespaces flag for getting a single resource: leave out the NAME, or say --namespace")
	case slices.Contains(c.Args().Tail(), ""):
		return "", errEmptyName
	case c.Bool("all-namespaces"):
		return "", nil
	}
	return namespaceOf(c, kind)
}

var errEmptyName = usagef("resource name may not be empty")

// labelled tells whether an object has the labels that --selector asks for.
func labelled(c *cli.Context) (func(client.Object) bool, error) {
	s, err := labels.Parse(c.String("selector"))
	if err != nil {
		return nil, usagef("--selector: %v", err)
	}
	return func(o client.Object) bool { return s.Matches(labels.Set(o.GetLabels())) }, nil
}

// fetch gets the objects that are named, or all; and what of the named is missing.
func fetch(c *cli.Context, kind store.Kind, namespace string) (objs []client.Object, missing []error, err error) {
	s, err := openStore(c)
	if err != nil {
		return nil, nil, err
	}
	if c.NArg() == 1 {
		objs, err = s.List(c.Context, kind.Kind, namespace)
		return objs, nil, err
	}
	for _, name := range c.Args().Tail() {
		obj, err := s.Get(c.Context, v3.Ref{Kind: kind.Kind, Namespace: namespace, Name: name})
		switch {
		case errors.Is(err, store.ErrNotFound):
			missing = append(missing, inCalicoWords(err))
		case err != nil:
			return nil, nil, err
		default:
			objs = append(objs, obj)
		}
	}
	return objs, missing, nil
}

// getFiles prints the stored objects that files name, kind by kind in the order of the files.
func getFiles(c *cli.Context) error {
	if c.NArg() > 0 || c.Bool("watch") || c.Bool("all-namespaces") {
		return usagef("get -f FILE goes with neither KIND, --watch nor --all-namespaces")
	}
	labelled, err := labelled(c)
	if err != nil {
		return err
	}
	docs, err := readValid(c)
	if err != nil {
		return err
	}
	s, err := openStore(c)
	if err != nil {
		return err
	}
	var objs []client.Object
	var missing []error
	for _, d := range docs {
		obj, err := s.Get(c.Context, refOf(d))
		switch {
		case errors.Is(err, store.ErrNotFound):
			missing = append(missing, fmt.Errorf("%s:%d: %w", d.File, d.Line, inCalicoWords(err)))
		case err != nil:
			return err
		case labelled(obj):
			objs = append(objs, obj)
		}
	}
	return errors.Join(printByKind(c, objs, len(docs) == 1), errors.Join(missing...))
}

// printByKind prints objects of several kinds: a table or a list for each kind, but one array as YAML and JSON.
func printByKind(c *cli.Context, objs []client.Object, one bool) error {
	of := map[string][]client.Object{}
	var kinds []string
	for _, o := range objs {
		kind := v3.RefOf(o.(v3.Object)).Kind
		if of[kind] == nil {
			kinds = append(kinds, kind)
		}
		of[kind] = append(of[kind], o)
	}
	for _, name := range kinds {
		kind, err := store.Lookup(name)
		if err != nil {
			return err
		}
		v, form, err := newView(c, kind)
		if err != nil {
			return err
		}
		v.one, v.array = one, !one
		if v.array && form.typed {
			return form.print(v, c.App.Writer, objs)
		}
		if err := form.print(v, c.App.Writer, of[name]); err != nil {
			return err
		}
	}
	return nil
}

// watchObjects prints what there is, and then each object that changes.
func watchObjects(c *cli.Context, v *getView, form *outputForm, namespace string, labelled func(client.Object) bool) error {
	if strings.HasPrefix(v.format, "y") || v.format == "json" || v.template != nil {
		v.one = true // each object by itself
	}
	s, err := openStore(c)
	if err != nil {
		return err
	}
	if k, ok := s.(*store.Kube); ok {
		s = k.Following(func(k *store.Kind) bool { return k.Kind == v.kind.Kind })
	}
	ctx, stop := context.WithCancel(c.Context)
	defer stop()
	var first []client.Object
	began := false
	for event, err := range existing(s).Watch(ctx) {
		o := event.Object
		switch {
		case err != nil && !errors.Is(err, store.ErrUnfollowed):
			return err
		case err == nil && event.Type == store.Synced && !began:
			began = true
			slices.SortFunc(first, func(a, b client.Object) int { return v3.RefOf(a.(v3.Object)).Compare(v3.RefOf(b.(v3.Object))) })
			if err := printEachOf(c, v, form, first); err != nil {
				return err
			}
			v.headless = true
		case err != nil || event.Type != store.Put || o == nil || event.Ref.Kind != v.kind.Kind, namespace != "" && event.Ref.Namespace != namespace,
			c.NArg() > 1 && !slices.Contains(c.Args().Tail(), event.Ref.Name), !labelled(o):
		case !began:
			first = append(first, o)
		default:
			if err := printEachOf(c, v, form, []client.Object{o}); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// printEachOf prints a table of objects, or each by itself.
func printEachOf(c *cli.Context, v *getView, form *outputForm, objs []client.Object) error {
	if v.columns != nil || v.format == "name" {
		return form.print(v, c.App.Writer, objs)
	}
	for _, o := range objs {
		if strings.HasPrefix(v.format, "y") {
			fmt.Fprintln(c.App.Writer, "---")
		}
		if err := form.print(v, c.App.Writer, []client.Object{o}); err != nil {
			return err
		}
	}
	return nil
}
