package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/urfave/cli/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

// writeVerb is create, apply or replace: what it does with one object of a file.
type writeVerb struct {
	name, usage string
	flags       []cli.Flag
	one         func(c *cli.Context, tx store.Writer, d store.Document) (result string, err error)
}

var writeVerbs = []writeVerb{
	{"create", "create objects that do not exist yet", []cli.Flag{
		&cli.BoolFlag{Name: "skip-exists", Usage: "leave an object that exists as it is, without an error"}}, createOne},
	{"apply", "create objects, or replace those that exist", []cli.Flag{
		&cli.BoolFlag{Name: "server-side", Usage: "change only what the file says, and refuse what another manager of the object has"},
		&cli.StringFlag{Name: "field-manager", Usage: "with --server-side: `NAME` of who manages what the file says", Value: "tierctl"},
		&cli.BoolFlag{Name: "force-conflicts", Usage: "with --server-side: take fields from their managers"}}, applyOne},
	{"replace", "replace objects that exist", nil, replaceOne},
}

func (v writeVerb) command() *cli.Command {
	return &cli.Command{
		Name: v.name, Usage: v.usage,
		UsageText: fmt.Sprintf("tierctl %s -f FILE", v.name),
		Description: "All objects are read and validated first, and written in one transaction: all of them or none. A cluster has no transactions: there all\n" +
			"is first tried without effect; if somebody else comes in between, what can be written is, and the exit status is 3.",
		Flags: slices.Concat(fileFlags(), v.flags, []cli.Flag{skipEmptyFlag()}, writeFlags()),
		Action: func(c *cli.Context) error {
			if (c.IsSet("field-manager") || c.Bool("force-conflicts")) && !c.Bool("server-side") {
				return usagef("--field-manager and --force-conflicts go with --server-side only")
			}
			return write(c, v.name, func(tx store.Writer, d store.Document) (string, error) { return v.one(c, tx, d) })
		},
	}
}

func skipEmptyFlag() cli.Flag {
	return &cli.BoolFlag{Name: "skip-empty", Usage: "no objects are no error"}
}

func writeFlags() []cli.Flag {
	return append(trialFlags(),
		&cli.GenericFlag{Name: "dry-run", Value: new(dryRun), Usage: "keep nothing: server, or no value, does everything but keep it; client does not ask the store; none"},
		outputFlag("json (one line an object, then the store's revision), name"),
		datastoreFlag(),
	)
}

// dryRun is the value of --dry-run, which may stand alone.
type dryRun string

const (
	dryClient dryRun = "client"
	dryServer dryRun = "server"
)

// Set implements flag.Value.
func (d *dryRun) Set(text string) error {
	switch text {
	case "none", "false":
		*d = ""
	case "server", "true":
		*d = dryServer
	case "client":
		*d = dryClient
	default:
		return errors.New("expected none, client or server")
	}
	return nil
}

// String implements flag.Value.
func (d *dryRun) String() string { return string(*d) }

// IsBoolFlag lets the flag stand without a value.
func (d *dryRun) IsBoolFlag() bool { return true }

func dryRunOf(c *cli.Context) dryRun {
	if d, ok := c.Generic("dry-run").(*dryRun); ok {
		return *d
	}
	return ""
}

func createOne(c *cli.Context, tx store.Writer, d store.Document) (string, error) {
	_, err := tx.Create(d.Object)
	if errors.Is(err, store.ErrExists) && c.Bool("skip-exists") {
		return "exists", nil
	}
	return "created", err
}

func applyOne(c *cli.Context, tx store.Writer, d store.Document) (string, error) {
	old, err := tx.Get(refOf(d))
	switch {
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return "", err
	case c.Bool("server-side"):
		now, err := tx.Apply(d.Written, store.ApplyOptions{Manager: c.String("field-manager"), Force: c.Bool("force-conflicts")})
		return changed(old, now, "configured"), err
	case old == nil:
		d.Object.SetResourceVersion("")
		_, err = tx.Create(d.Object)
		return "created", err
	}
	return update(tx, d.Object, "configured")
}

func replaceOne(_ *cli.Context, tx store.Writer, d store.Document) (string, error) {
	return update(tx, d.Object, "replaced")
}

// update replaces an object. What kubectl notes on it of its own last apply stays, for else kubectl would not know what to remove.
func update(tx store.Writer, obj client.Object, result string) (string, error) {
	old, err := tx.Get(v3.RefOf(obj.(v3.Object)))
	if err != nil {
		return "", err
	}
	if last, ok := old.GetAnnotations()[corev1.LastAppliedConfigAnnotation]; ok {
		if _, own := obj.GetAnnotations()[corev1.LastAppliedConfigAnnotation]; !own {
			obj = obj.DeepCopyObject().(client.Object)
			annotations := maps.Clone(obj.GetAnnotations())
			if annotations == nil {
				annotations = map[string]string{}
			}
			annotations[corev1.LastAppliedConfigAnnotation] = last
			obj.SetAnnotations(annotations)
		}
	}
	now, err := tx.Update(obj)
	return changed(old, now, result), err
}

// changed says what became of an object: created, result, or unchanged when what users write of it is as it was; and that a policy moves to
// another tier, which who takes its spec away may not have meant.
func changed(old, now client.Object, result string) string {
	switch {
	case old == nil:
		return "created"
	case now == nil:
		return result
	case sameContent(old, now):
		return "unchanged"
	}
	if from, to := store.TierOf(old), store.TierOf(now); from != to {
		return fmt.Sprintf("%s (moved from tier %s to tier %s)", result, from, to)
	}
	return result
}

func sameContent(a, b client.Object) bool {
	x, errX := json.Marshal(content(a))
	y, errY := json.Marshal(content(b))
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// content is an object without what only its store says of it.
func content(o client.Object) client.Object {
	o = o.DeepCopyObject().(client.Object)
	o.SetResourceVersion("")
	o.SetUID("")
	o.SetGeneration(0)
	o.SetCreationTimestamp(metav1.Time{})
	o.SetManagedFields(nil)
	return o
}

// errDryRun rolls a transaction back that would have succeeded.
var errDryRun = errors.New("dry run")

// written is what a transaction has done.
type written struct {
	revision string
	trial    *trying
}

// transact does all that f does in one transaction, on trial with --confirm-within, or with --dry-run nothing of it.
func transact(c *cli.Context, s store.Store, f func(store.Writer) error) (done written, err error) {
	if done.trial, err = onTrial(c, s); err != nil {
		return done, err
	}
	done.revision, err = s.Transact(c.Context, func(tx store.Writer) error {
		if err := f(done.trial.writer(tx)); err != nil || dryRunOf(c) == "" {
			return err
		}
		return errDryRun
	})
	if errors.Is(err, errDryRun) {
		err = nil
	}
	return done, done.trial.begun(c, err)
}

// end says which revision the store has and, of a change on trial, what becomes of it. Calicoctl's sentences of success come last.
func (w written) end(c *cli.Context, format string, sentences ...string) error {
	if err := errors.Join(printRevision(c, format, w.revision), w.trial.await(c)); err != nil {
		return err
	}
	if format == "" && dryRunOf(c) == "" {
		for _, s := range sentences {
			fmt.Fprintln(c.App.Writer, s)
		}
	}
	return nil
}

// outcome of one object of a file.
type outcome struct {
	result string
	err    error
}

// errRefused rolls a transaction back of which some objects cannot be written; what is wrong with each is in its outcome.
var errRefused = errors.New("cannot be written")

// write does one thing with each document of -f, in one transaction: all or nothing.
func write(c *cli.Context, verb string, one func(store.Writer, store.Document) (string, error)) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "json", "name")
	if err != nil {
		return err
	}
	docs, err := toWrite(c, verb)
	if err != nil {
		return err
	}
	if len(docs) == 0 {
		fmt.Fprintln(c.App.ErrWriter, "No resources specified")
		return nil
	}
	outcomes := make([]outcome, len(docs))
	var done written
	if dryRunOf(c) == dryClient {
		if err := tryAlone(docs, outcomes, verb); err != nil {
			return notWritten(c, verb, format, docs, outcomes, err)
		}
	} else if done, err = writeAll(c, verb, docs, outcomes, one); err != nil {
		return notWritten(c, verb, format, docs, outcomes, err)
	}
	for i, d := range docs {
		printResult(c, format, refOf(d), outcomes[i].result)
	}
	return done.end(c, format, fmt.Sprintf("Successfully %s %d %sresource(s)", pastOf[verb], len(docs), kindOfAll(docs)))
}

// pastOf are calicoctl's words.
var pastOf = map[string]string{"create": "created", "apply": "applied", "replace": "replaced", "delete": "deleted", "validate": "validated", "patch": "patched"}

// kindOfAll is 'Kind' where all are of one, as calicoctl says it.
func kindOfAll(docs []store.Document) string {
	for _, d := range docs {
		if d.Kind != docs[0].Kind {
			return ""
		}
	}
	return fmt.Sprintf("'%s' ", docs[0].Kind)
}

// toWrite reads the documents of -f; no document is an error unless --skip-empty says otherwise.
func toWrite(c *cli.Context, verb string) ([]store.Document, error) {
	if len(c.StringSlice("filename")) == 0 {
		return nil, usagef("%s needs -f FILE", verb)
	}
	docs, err := readValid(c)
	if err != nil {
		return nil, fmt.Errorf("%s: nothing was written: %w", failedTo(verb, docs), err)
	}
	if len(docs) == 0 && !c.Bool("skip-empty") {
		return nil, noObjects(c)
	}
	if verb != "delete" {
		for _, d := range docs {
			printEach(c, d, notices(d), "warning")
		}
	}
	return docs, nil
}

// writeAll does one thing with each document, and notes in outcomes what became of it. It goes on behind an object that is refused, so that
// all that is wrong is said at once.
func writeAll(c *cli.Context, verb string, docs []store.Document, outcomes []outcome, one func(store.Writer, store.Document) (string, error)) (written, error) {
	s, err := openFor(c, verb)
	if err != nil {
		return written{}, err
	}
	return transact(c, s, func(tx store.Writer) error {
		clear(outcomes)
		refused := 0
		bar := progress(c, verb, len(docs))
		defer bar.end()
		for _, i := range inOrder(docs, verb == "delete") {
			result, err := one(tx, docs[i])
			bar.step()
			if err != nil && !aboutObject(err) {
				return err
			}
			if outcomes[i] = (outcome{result, err}); err != nil {
				refused++
			}
		}
		if refused > 0 {
			return fmt.Errorf("%d of %d objects %w", refused, len(docs), errRefused)
		}
		return nil
	})
}

// openFor makes a new store only for a verb that can do something in one.
func openFor(c *cli.Context, verb string) (store.Store, error) {
	if verb != "replace" && verb != "delete" {
		return createStore(c)
	}
	s, err := openStore(c)
	if err != nil {
		return nil, err
	}
	return existing(s), nil
}

// tryAlone asks of each document what can be told of it without a store.
func tryAlone(docs []store.Document, outcomes []outcome, verb string) error {
	refused := 0
	for i, d := range docs {
		outcomes[i].result = pastOf[verb]
		if errs, _ := store.Allowed(d.Object, nil, anyTier); len(errs) > 0 && verb != "delete" { // the error is that function's
			outcomes[i].err = fmt.Errorf("%w: %w", store.ErrForbidden, errs.ToAggregate())
			refused++
		}
	}
	if refused > 0 {
		return fmt.Errorf("%d of %d objects %w", refused, len(docs), errRefused)
	}
	return nil
}

// aboutObject tells whether an error is about one object, and others may fare better.
func aboutObject(err error) bool {
	return slices.ContainsFunc([]error{store.ErrNotFound, store.ErrExists, store.ErrConflict, store.ErrOwned, store.ErrInvalid, store.ErrForbidden, store.ErrNoKind},
		func(is error) bool { return errors.Is(err, is) })
}

// notWritten tells what is wrong with each object, and, where some were written all the same, which.
func notWritten(c *cli.Context, verb, format string, docs []store.Document, outcomes []outcome, err error) error {
	partly, written := errors.Is(err, store.ErrPartly), 0
	for i, d := range docs {
		switch o := outcomes[i]; {
		case o.err != nil:
			printEach(c, d, wrongWith(d, o.err))
		case partly && o.result != "":
			written++
			printResult(c, format, refOf(d), o.result)
		case partly:
			printEach(c, d, []store.DocError{{Message: "was not tried", Line: d.Line, Column: d.Column}})
		}
	}
	if partly {
		fmt.Fprintf(c.App.ErrWriter, "Partial success: %s %d out of %d %sresources\n", pastOf[verb], written, len(docs), kindOfAll(docs))
		return err
	}
	return fmt.Errorf("%s: nothing was written: %w", failedTo(verb, docs), err)
}

// failedTo says it as calicoctl does.
func failedTo(verb string, docs []store.Document) string {
	switch {
	case slices.ContainsFunc(docs, func(d store.Document) bool { return d.Kind == "" }):
		return "failed to execute command"
	case len(docs) == 1:
		return fmt.Sprintf("failed to %s %sresource", verb, kindOfAll(docs))
	}
	return fmt.Sprintf("failed to %s any %sresources", verb, kindOfAll(docs))
}

// nothing was done, unless the error itself says what was.
func nothing(done string, err error) error {
	if errors.Is(err, store.ErrPartly) {
		return err
	}
	return fmt.Errorf("nothing was %s: %w", done, err)
}

// inOrder is the order in which objects of one call can be written whatever their order in the files: an object needs its namespace, and a
// policy its tier. For deletion it is the other way round.
func inOrder(docs []store.Document, reverse bool) []int {
	var namespaces, tiers, others []int
	for i, d := range docs {
		switch d.Kind {
		case "Namespace":
			namespaces = append(namespaces, i)
		case "Tier":
			tiers = append(tiers, i)
		default:
			others = append(others, i)
		}
	}
	if reverse {
		return slices.Concat(others, tiers, namespaces)
	}
	return slices.Concat(namespaces, tiers, others)
}

func printResult(c *cli.Context, format string, ref v3.Ref, result string) {
	switch dryRunOf(c) {
	case dryServer:
		result += " (dry run)"
	case dryClient:
		result += " (dry run, without the store)"
	case "":
		if c.IsSet("confirm-within") {
			result += " (on trial)"
		}
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
