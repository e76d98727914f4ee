package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	"github.com/urfave/cli/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/tierwall/tierwall/controllers/store"
)

func diffCommand() *cli.Command {
	apply := writeVerbs[slices.IndexFunc(writeVerbs, func(v writeVerb) bool { return v.name == "apply" })]
	return &cli.Command{
		Name: "diff", Usage: "show what apply would change",
		UsageText: "tierctl diff -f FILE",
		Description: "Each object is compared as it is stored with what would be stored, defaults included; a cluster says that itself, by a dry run.\n" +
			"Exit status: 0 nothing would change; 1 something would; 2 trouble of any kind, as of kubectl diff.",
		Flags: slices.Concat(fileFlags(), apply.flags, []cli.Flag{skipEmptyFlag(), effectFlag(), datastoreFlag()}),
		Action: func(c *cli.Context) error {
			changes, err := changesOf(c, apply)
			if err == nil {
				err = printChanges(c, changes)
			}
			if err == nil && c.Bool("effect") {
				err = printEffectOf(c, changes)
			}
			if err != nil {
				return statusError{err, exitUsage}
			}
			if slices.ContainsFunc(changes, stored.differs) {
				return statusError{errors.New(""), exitError}
			}
			return nil
		},
	}
}

// stored is an object of a file as it is stored, nil when it is not, and as it would be.
type stored struct {
	document    store.Document
	before, now client.Object
}

func (s stored) differs() bool { return s.before == nil || !sameContent(s.before, s.now) }

// changesOf -f are what a verb would make of the store; nothing is kept of it.
func changesOf(c *cli.Context, v writeVerb) ([]stored, error) {
	docs, err := toWrite(c, v.name)
	if err != nil || len(docs) == 0 {
		return nil, err
	}
	s, err := openStore(c)
	if err != nil {
		return nil, err
	}
	if b, ok := s.(*store.Bolt); ok && newStore(b) { // it is not made for this
		dir, err := os.MkdirTemp("", "tierctl")
		if err != nil {
			return nil, fmt.Errorf("making a store to try it in: %w", err)
		}
		defer os.RemoveAll(dir)
		s = store.OpenBolt(filepath.Join(dir, "store.db"))
	}
	out := make([]stored, len(docs))
	outcomes := make([]outcome, len(docs))
	_, err = s.Transact(c.Context, func(tx store.Writer) error {
		refused := 0
		for _, i := range inOrder(docs, false) {
			out[i].document = docs[i]
			if out[i], err = wouldBe(c, tx, docs[i], v); err != nil && !aboutObject(err) {
				return err
			}
			if outcomes[i].err = err; err != nil {
				refused++
			}
		}
		if refused > 0 {
			return fmt.Errorf("%d of %d objects %w", refused, len(docs), errRefused)
		}
		return errDryRun
	})
	if !errors.Is(err, errDryRun) {
		return nil, notWritten(c, v.name, "", docs, outcomes, err)
	}
	return out, nil
}

func wouldBe(c *cli.Context, tx store.Writer, d store.Document, v writeVerb) (s stored, err error) {
	s.document = d
	if s.before, err = tx.Get(refOf(d)); err != nil && !errors.Is(err, store.ErrNotFound) {
		return s, err
	}
	if err != nil {
		s.before = nil
	}
	if _, err = v.one(c, tx, d); err != nil {
		return s, err
	}
	s.now, err = tx.Get(refOf(d))
	return s, err
}

// printChanges prints a unified diff for each object that would change.
func printChanges(c *cli.Context, changes []stored) error {
	for _, s := range changes {
		if !s.differs() {
			continue
		}
		before, err := diffable(s.before)
		if err != nil {
			return err
		}
		now, err := diffable(s.now)
		if err != nil {
			return err
		}
		from := refOf(s.document).String()
		if s.before == nil {
			from = "/dev/null"
		}
		text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{A: before, B: now, FromFile: from,
			ToFile: fmt.Sprintf("%s (%s:%d)", refOf(s.document), s.document.File, s.document.Line), Context: 3})
		if err != nil {
			return fmt.Errorf("%s: %w", refOf(s.document), err)
		}
		if _, err := fmt.Fprint(c.App.Writer, paintDiff(c.App.Writer, text)); err != nil {
			return err
		}
	}
	return nil
}

// paintDiff gives a unified diff its usual colours.
func paintDiff(w io.Writer, text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		k := plain
		switch {
		case i < 2: // the names
			k = bold
		case strings.HasPrefix(line, "+"):
			k = green
		case strings.HasPrefix(line, "-"):
			k = red
		case strings.HasPrefix(line, "@@"):
			k = faint
		}
		lines[i] = paint(w, k, line)
	}
	return strings.Join(lines, "\n")
}

// diffable is what users write of an object, as lines of YAML.
func diffable(o client.Object) ([]string, error) {
	if o == nil {
		return nil, nil
	}
	m, err := (&getView{export: true}).untyped(o)
	if err != nil {
		return nil, err
	}
	delete(m, "status")
	text, err := yaml.Marshal(m)
	return difflib.SplitLines(strings.TrimSuffix(string(text), "\n")), err
}
