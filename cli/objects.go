package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/policy"
)

func fileFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "filename", Aliases: []string{"f"}, Usage: "YAML or JSON `FILE`, a directory of them, or - for standard input; may be repeated"},
		&cli.BoolFlag{Name: "recursive", Aliases: []string{"R"}, Usage: "look into the directories of a directory too"},
		namespaceFlag(),
	}
}

func namespaceFlag() cli.Flag {
	return &cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "`NAMESPACE` of the objects that do not name one (default: default)"}
}

func outputFlag(formats string) cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORMAT`: " + formats}
}

// output is the format asked for, which must be one of those that the command has.
func output(c *cli.Context, formats ...string) (string, error) {
	o := c.String("output")
	if o == "" {
		return "", nil
	}
	for _, f := range formats {
		if o == f {
			return o, nil
		}
	}
	return "", usagef("%s has no output format %q: it has %s", called(c), o, strings.Join(formats, ", "))
}

// called is a command as it is called, below those that it stands below.
func called(c *cli.Context) string { return strings.TrimPrefix(c.Command.HelpName, c.App.HelpName+" ") }

func noArguments(c *cli.Context) error {
	if c.NArg() > 0 {
		return usagef("%s takes no argument, but %q was given", called(c), c.Args().First())
	}
	return nil
}

// readDocuments reads what -f names.
func readDocuments(c *cli.Context) []store.Document {
	return store.Read(c.StringSlice("filename"), store.ReadOptions{
		Recursive: c.Bool("recursive"), Namespace: c.String("namespace"), Stdin: c.App.Reader, Written: c.Bool("server-side"),
	})
}

// readValid reads what -f names and refuses it whole when a document is wrong or two are for one object: every error
// goes to standard error, each with its place.
func readValid(c *cli.Context) ([]store.Document, error) {
	docs := readDocuments(c)
	bad := 0
	seen := map[v3.Ref]store.Document{}
	for _, d := range docs {
		if d.Object != nil && len(d.Errors) == 0 {
			if first, twice := seen[refOf(d)]; twice {
				d.Errors = []store.DocError{{Field: "metadata.name", Line: d.Line, Column: d.Column,
					Message: fmt.Sprintf("the same object as at %s:%d", first.File, first.Line)}}
			}
			seen[refOf(d)] = d
		}
		if len(d.Errors) > 0 {
			bad++
		}
		printErrors(c, d)
	}
	if bad > 0 {
		return docs, fmt.Errorf("%d of %d objects cannot be accepted", bad, len(docs))
	}
	return docs, nil
}

// noObjects is what -f has, and --skip-empty was not said.
func noObjects(c *cli.Context) error {
	files := c.StringSlice("filename")
	if info, err := os.Stat(files[0]); len(files) == 1 && err == nil && info.IsDir() {
		return fmt.Errorf("no resources specified in directory %s: there are no objects in %v; --skip-empty takes that for nothing to do", files[0], files)
	}
	return fmt.Errorf("no resources specified in file %s: there are no objects in %v; --skip-empty takes that for nothing to do", strings.Join(files, ", "), files)
}

func refOf(d store.Document) v3.Ref { return v3.RefOf(d.Object.(v3.Object)) }

// printErrors gives one line an error or a warning: FILE:LINE:COLUMN: [warning:] Kind/namespace/name: field: message.
func printErrors(c *cli.Context, d store.Document) {
	printEach(c, d, d.Warnings, "warning")
	printEach(c, d, d.Errors)
}

func printEach(c *cli.Context, d store.Document, all []store.DocError, before ...string) {
	for _, e := range all {
		words := append([]string{fmt.Sprintf("%s:%d:%d", d.File, e.Line, e.Column)}, before...)
		if d.Kind != "" {
			words = append(words, v3.Ref{Kind: d.Kind, Namespace: d.Namespace, Name: d.Name}.String())
		}
		if e.Field != "" {
			words = append(words, e.Field)
		}
		fmt.Fprintln(c.App.ErrWriter, strings.Join(append(words, e.Message), ": "))
	}
}

// fieldErrors are what an error of a store says of single fields, in our words or the API server's. They have no place yet.
func fieldErrors(kind string, err error) (out []store.DocError) {
	var many utilerrors.Aggregate
	if errors.As(err, &many) {
		for _, e := range many.Errors() {
			var f *field.Error
			if errors.As(e, &f) {
				out = append(out, store.DocError{Field: f.Field, Message: store.ErrorText(kind, f)})
			}
		}
	}
	var status apierrors.APIStatus
	if len(out) > 0 || !errors.As(err, &status) || status.Status().Details == nil {
		return out
	}
	for _, cause := range status.Status().Details.Causes {
		if cause.Field != "" && cause.Field != "<nil>" {
			out = append(out, store.DocError{Field: cause.Field, Message: cause.Message})
		}
	}
	return out
}

// notices are what a valid object does that its author may not think.
func notices(d store.Document) (out []store.DocError) {
	if d.Object == nil {
		return nil
	}
	for _, n := range policy.Notices(policy.NewIndex("", policy.Options{}).Set(d.Object)) {
		field, message, _ := strings.Cut(n.Error(), ": ")
		out = append(out, errorAt(d, field, message))
	}
	return out
}

// errorAt is an error in a field of a document.
func errorAt(d store.Document, field, message string) store.DocError {
	line, column := d.Place(field)
	return store.DocError{Field: field, Message: message, Line: line, Column: column}
}

// wrongWith is what a store says of a document's object, each field at its place.
func wrongWith(d store.Document, err error) (out []store.DocError) {
	for _, f := range fieldErrors(d.Kind, err) {
		out = append(out, errorAt(d, f.Field, f.Message))
	}
	if len(out) == 0 {
		about := v3.Ref{Kind: d.Kind, Namespace: d.Namespace, Name: d.Name}
		out = []store.DocError{errorAt(d, "", strings.TrimPrefix(inCalicoWords(err).Error(), about.String()+": "))}
	}
	return out
}

// objects come from -f when it is given, else from the store.
func objects(c *cli.Context) ([]client.Object, error) {
	if len(c.StringSlice("filename")) == 0 {
		return storedObjects(c)
	}
	docs, err := readValid(c)
	if err != nil {
		return nil, err
	}
	out := make([]client.Object, len(docs))
	for i, d := range docs {
		out[i] = d.Object
	}
	return out, nil
}

func storedObjects(c *cli.Context) (out []client.Object, err error) {
	s, err := openStore(c)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(c.Context)
	defer stop()
	for event, err := range s.Watch(ctx) {
		switch {
		case errors.Is(err, store.ErrUnfollowed): // what the cluster does not know it has none of
		case err != nil:
			return nil, err
		case event.Type == store.Synced:
			return out, nil
		case event.Corrupt != nil:
			fmt.Fprintf(c.App.ErrWriter, "warning: %s %v, and nothing of it is enforced: %v\n", event.Ref, store.ErrCorruptObject, event.Corrupt)
		case event.Type == store.Put:
			out = append(out, inForce(event.Object)...)
		}
	}
	return nil, ctx.Err()
}

// index takes in objects; what of them cannot be enforced is said on standard error.
func index(c *cli.Context, node string, objects []client.Object) (*policy.Index, error) {
	options, err := policyOptions(c)
	if err != nil {
		return nil, err
	}
	x := policy.NewIndex(node, options)
	for _, o := range objects {
		if err := x.Set(o); err != nil {
			fmt.Fprintf(c.App.ErrWriter, "warning: %v\n", err)
		}
	}
	if nodes := x.Nodes(); node != "" && !slices.Contains(nodes, node) {
		return nil, fmt.Errorf("no object is on node %q: the nodes are %s", node, strings.Join(nodes, ", "))
	}
	return x, nil
}

// planned is the plan; what of it may surprise is said on standard error.
func planned(c *cli.Context, x *policy.Index) *policy.Plan {
	p := x.Plan()
	for _, n := range p.Notes {
		fmt.Fprintf(c.App.ErrWriter, "warning: %s\n", n)
	}
	return p
}

func endpointToHostFlag() cli.Flag {
	return &cli.StringFlag{Name: "default-endpoint-to-host-action",
		Usage: "what becomes of a workload's traffic to its own host once its egress policy allowed it: `ACTION` Drop, Accept or Return"}
}

// policyOptions are the settings that flags and FELIX_ variables say, before every object (contract §1.11.1).
func policyOptions(c *cli.Context) (o policy.Options, err error) {
	if err := o.Felix.FromEnv(os.LookupEnv); err != nil {
		return o, usagef("%v", err)
	}
	if ofCluster(c) {
		inCluster(&o)
	}
	if text := c.String("default-endpoint-to-host-action"); text != "" {
		if _, ok := policy.ToHostActions[strings.ToLower(text)]; !ok {
			return o, usagef("default-endpoint-to-host-action %q is none of Drop, Accept and Return", text)
		}
		o.Felix.DefaultEndpointToHostAction = &text
	}
	switch text := c.String("established-connections"); strings.ToLower(text) {
	case "", "keep":
	case "reevaluate":
		o.Reevaluate = true
	default:
		return o, usagef("established-connections %q is neither Keep nor Reevaluate", text)
	}
	return o, nil
}

// inCluster is how Calico is installed in clusters: pods reach their own node unless somebody says otherwise.
func inCluster(o *policy.Options) {
	accept := "Accept"
	o.Base.DefaultEndpointToHostAction = &accept
}

func nodeFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "node", Usage: usage}
}

func hostname() (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("no --node given, and the host's name cannot be read: %w", err)
	}
	return strings.ToLower(name), nil
}

// calicoWords are what calicoctl says where we have words of our own: scripts look for them.
var calicoWords = []struct {
	is    error
	words string
}{
	{store.ErrNotFound, "resource does not exist"},
	{store.ErrExists, "resource already exists"},
	{store.ErrConflict, "update conflict"},
}

func inCalicoWords(err error) error {
	for _, w := range calicoWords {
		if errors.Is(err, w.is) {
			return fmt.Errorf("%s: %w", w.words, err)
		}
	}
	return err
}
