package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/journal"
	"github.com/tierwall/tierwall/controllers/migrate"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/reach"
)

func migrateCommand() *cli.Command {
	from := &cli.StringFlag{Name: "from", Usage: "`SOURCE`: " + strings.Join(migrate.Sources(), ", ") + ", or an export's file, - for standard input; by default what the cluster has"}
	lossy := &cli.BoolFlag{Name: "lossy", Usage: "leave out what cannot be carried"}
	replace := &cli.BoolFlag{Name: "replace", Usage: "write over objects of the datastore that say something else; rollback puts them back"}
	prune := &cli.BoolFlag{Name: "prune", Usage: "delete what an earlier run has written and the source has no more"}
	run := journalFlag()
	yes := yesFlag()
	return &cli.Command{
		Name: "migrate", Usage: "bring Calico's policies into the datastore, show that verdicts are the same, and go back", UsageText: "tierctl migrate plan|apply|verify|rollback|status [--from SOURCE]",
		Description: "From where Calico keeps them in the cluster (crd.projectcalico.org/v1, its own CRDs of projectcalico.org/v3, or another API server),\n" +
			"or from a file of calicoctl datastore migrate export. Calico goes on meanwhile: nothing of its own is changed but an APIService that\n" +
			"stands before our CRDs, and webhooks with nobody behind them. NetworkPolicies of Kubernetes, as under Azure NPM, are enforced where they are.",
		Subcommands: []*cli.Command{
			{Name: "plan", Usage: "say what would be written, what cannot be carried and why, and what does nothing here", UsageText: "tierctl migrate plan [--from SOURCE] [-o json]",
				Description: "Exit status: 0 there is nothing to do; 1 there is; 4 it would be refused.",
				Flags:       []cli.Flag{from, lossy, replace, prune, run, outputFlag("json"), datastoreFlag()}, Action: planMigration},
			{Name: "apply", Usage: "do it", UsageText: "tierctl migrate apply --yes [--from SOURCE] [--plan FILE] [--lossy] [--replace]",
				Description: "Everything is copied into the journal first, and tried before it is written. A run that was interrupted goes on. Done again it carries over\n" +
					"what has changed in the source since. Exit status 4: refused, and nothing was changed; 3: some of it is done.",
				Flags:  []cli.Flag{yes, from, lossy, replace, prune, &cli.StringFlag{Name: "plan", Usage: "a `FILE` that plan -o json wrote and somebody has read: refuse to do anything else"}, run, datastoreFlag()},
				Action: applyMigration},
			{Name: "verify", Usage: "compare what every packet met under the source with what it meets now", UsageText: "tierctl migrate verify [--from SOURCE] [-o json]",
				Description: "The source is taken as the journal's run has saved it, or, without a run, as it is. Exit status: 0 every packet fares as before, and the\n" +
					"source has not changed since; 1 not so; 2 trouble of any kind.",
				Flags: []cli.Flag{from, run, endpointToHostFlag(), outputFlag("json"), datastoreFlag()}, Action: verifyMigration},
			{Name: "rollback", Usage: "put back what the datastore had before", UsageText: "tierctl migrate rollback --yes",
				Description: "What somebody has changed since stays, and is said. CRDs that were taken over are given back; those that were installed stay.",
				Flags:       []cli.Flag{yes, &cli.BoolFlag{Name: "abandon", Usage: "also where the source or Calico's agents have gone, so that nobody enforces its policies then"}, run, datastoreFlag()}, Action: rollBackMigration},
			{Name: "status", Usage: "say how far the journal's run is", UsageText: "tierctl migrate status [-o json]",
				Description: "Exit status 1: a run is not at its end.", Flags: []cli.Flag{run, outputFlag("json"), datastoreFlag()}, Action: migrationStatus},
		},
	}
}

// toMigrate is the site that the flags name, and what its journal is called by.
func toMigrate(c *cli.Context) (site *migrate.Site, datastore string, err error) {
	if err := noArguments(c); err != nil {
		return nil, "", err
	}
	s, err := openStore(c)
	if err != nil {
		return nil, "", err
	}
	if b, ok := s.(*store.Bolt); ok {
		site, err = migrate.Open(nil, s)
		return site, strings.TrimPrefix(b.String(), "bolt:"), err
	}
	config, err := clusterOf(c)
	if err != nil {
		return nil, "", err
	}
	site, err = migrate.Open(config, s)
	return site, config.Host, err
}

// sourceOf --from: one of the cluster's, or a file.
func sourceOf(c *cli.Context, site *migrate.Site) (*migrate.Source, error) {
	from := c.String("from")
	if from == "" || slices.Contains(migrate.Sources(), from) {
		if from == "" && !ofCluster(c) {
			return nil, usagef("%s needs --from FILE: the datastore is no cluster in which Calico could be", called(c))
		}
		return site.Read(c.Context, from)
	}
	if _, err := os.Stat(from); from != "-" && errors.Is(err, fs.ErrNotExist) {
		return nil, usagef("--from %q is none of %s, and there is no such file", from, strings.Join(migrate.Sources(), ", "))
	}
	text, err := readExport(c, from)
	if err != nil {
		return nil, err
	}
	name := from
	if from != "-" {
		if name, err = filepath.Abs(from); err != nil { // ./x and x are one
			return nil, err
		}
	}
	src := &migrate.Source{Name: name}
	every := func(string, string) bool { return true }
	docs := store.Read([]string{"-"}, store.ReadOptions{Stdin: bytes.NewReader(text), Raw: every})
	if len(docs) == 0 {
		return nil, fmt.Errorf("%s: there are no objects in it", from)
	}
	for _, d := range docs {
		d.File = from
		if len(d.Errors) > 0 {
			printErrors(c, d)
			return nil, fmt.Errorf("%s: line %d cannot be read", from, d.Line)
		}
		u := d.Object.(*unstructured.Unstructured) // Raw says so
		src.Objects = append(src.Objects, migrate.Object{At: fmt.Sprintf("%s:%d", name, d.Line), Was: u})
	}
	return src, nil
}

// planned is a plan, and what it is made from, seeing the journal if there is one.
type plannedMigration struct {
	site      *migrate.Site
	datastore string
	source    *migrate.Source
	*migrate.Plan
}

func (p *plannedMigration) make(c *cli.Context, j *migrate.Journal) (err error) {
	if p.source, err = sourceOf(c, p.site); err == nil {
		p.Plan, err = p.site.Plan(c.Context, p.source, j, migrate.Options{Lossy: c.Bool("lossy"), Replace: c.Bool("replace"), Prune: c.Bool("prune")})
	}
	return err
}

func planMigration(c *cli.Context) error {
	format, err := output(c, "json")
	if err != nil {
		return err
	}
	p := &plannedMigration{}
	if p.site, p.datastore, err = toMigrate(c); err != nil {
		return err
	}
	err = withMigration(c, p.datastore, journal.Read, func(j *migrate.Journal) error { return p.make(c, j) })
	if err != nil {
		return refusedMigration(err)
	}
	if format == "json" {
		encoder := json.NewEncoder(c.App.Writer)
		encoder.SetEscapeHTML(false)
		err = encoder.Encode(p.Plan)
	} else {
		printMigration(c, p.Plan)
	}
	switch {
	case err != nil:
		return err
	case len(p.Refused) > 0:
		return statusError{fmt.Errorf("%w: see above", migrate.ErrRefused), exitRefused}
	case !p.Nothing():
		return statusError{errors.New(""), exitError}
	}
	return nil
}

// printMigration a line a kind; what is left out, done nothing with or refused a line each.
func printMigration(c *cli.Context, p *migrate.Plan) {
	w := c.App.Writer
	fmt.Fprintf(w, "from %s into %s\n", p.Source, p.Store)
	for _, t := range p.InTheWay {
		fmt.Fprintf(w, "%s goes first, for it is in the way%s\n", &t, remarks(&t))
	}
	if len(p.CRDs) > 0 {
		fmt.Fprintf(w, "CRDs to be ours: %s\n", strings.Join(p.CRDs, ", "))
	}
	counts := p.Counts()
	for _, kind := range store.Kinds() {
		of := counts[kind.Kind]
		var words []string
		for _, does := range []migrate.Does{migrate.Creates, migrate.Replaces, migrate.Deletes, migrate.Unchanged} {
			if of[does] > 0 {
				words = append(words, fmt.Sprintf("%d %s", of[does], does))
			}
		}
		if len(words) > 0 {
			fmt.Fprintf(w, "%s: %s\n", kind.Kind, strings.Join(words, ", "))
		}
	}
	for _, m := range p.Moves {
		if m.From != "" && m.Does != migrate.Unchanged {
			fmt.Fprintf(w, "%s becomes %s\n", m.From, m.Ref())
		}
	}
	printLeft(w, p.Left)
	for _, n := range p.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	lost := 0
	for _, r := range p.Refused {
		if slices.ContainsFunc(p.Left, func(l migrate.Left) bool { return l.Lost && r == l.Refusal() }) { // it is above
			lost++
			continue
		}
		fmt.Fprintf(w, "refused: %s\n", r)
	}
	if lost > 0 {
		fmt.Fprintf(w, "refused: %s cannot be carried, as above: --lossy leaves that out\n", counted(lost, "object"))
	}
	if p.Source == migrate.Kubernetes {
		fmt.Fprintln(w, "no policies of Calico's are here; NetworkPolicies of Kubernetes are enforced as they are")
	}
}

// printLeft has one line for all that is left out for the same reason, if nothing is lost by it.
func printLeft(w io.Writer, left []migrate.Left) {
	many := map[string]int{}
	for _, l := range left {
		many[l.Why]++
	}
	for _, l := range left {
		switch {
		case l.Lost:
			fmt.Fprintf(w, "cannot be carried: %s: %s\n", l.What, l.Why)
		case many[l.Why] > 1:
			fmt.Fprintf(w, "left: %d such as %s: %s\n", many[l.Why], l.What, l.Why)
			many[l.Why] = 0
		case many[l.Why] == 1:
			fmt.Fprintf(w, "left: %s: %s\n", l.What, l.Why)
		}
	}
}

func applyMigration(c *cli.Context) error {
	p := &plannedMigration{}
	var err error
	if p.site, p.datastore, err = toMigrate(c); err != nil {
		return err
	}
	mode := journal.Read
	if c.Bool("yes") {
		mode = journal.Make
	}
	return refusedMigration(withMigration(c, p.datastore, mode, func(j *migrate.Journal) error {
		if j != nil && c.Bool("yes") {
			switch old, phase, err := j.Run(); {
			case err != nil:
				return err
			case phase == migrate.Defining || phase == migrate.Writing:
				if err := asRead(c, old); err != nil {
					return err
				}
				fmt.Fprintf(c.App.ErrWriter, "a run goes on that was %s\n", strings.ToLower(string(phase)))
				return migrated(c, p.site.Continue(c.Context, j, saying(c)))
			}
		}
		if err := p.make(c, j); err != nil {
			return err
		}
		if err := asRead(c, p.Plan); err != nil {
			return err
		}
		switch {
		case !c.Bool("yes"):
			printMigration(c, p.Plan)
			if len(p.Refused) > 0 {
				return fmt.Errorf("%w: see above", migrate.ErrRefused)
			}
			fmt.Fprintln(c.App.Writer, "nothing was changed: --yes does it")
			return nil
		case p.Nothing() && len(p.Refused) == 0:
			fmt.Fprintln(c.App.Writer, "there is nothing to do")
			return nil
		}
		if err := p.site.Begin(c.Context, j, p.source, p.Plan); err != nil {
			return err
		}
		return migrated(c, p.site.Continue(c.Context, j, saying(c)))
	}))
}

func saying(c *cli.Context) func(string) {
	return func(line string) { fmt.Fprintln(c.App.Writer, line) }
}

// asRead refuses what a plan that somebody has read does not have.
func asRead(c *cli.Context, p *migrate.Plan) error {
	file := c.String("plan")
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading the plan: %w", err)
	}
	var read migrate.Plan
	if err := json.Unmarshal(text, &read); err != nil || read.Source == "" || read.Store == "" {
		return fmt.Errorf("%s: is not what tierctl migrate plan -o json writes: %w", file, errors.Join(err, errors.New("it names no source")))
	}
	return p.Reviewed(&read)
}

// refusedMigration marks what is refused as unsafe.
func refusedMigration(err error) error {
	for _, is := range []error{migrate.ErrRefused, journal.ErrOther, journal.ErrBusy} {
		if errors.Is(err, is) {
			return statusError{err, exitRefused}
		}
	}
	return err
}

// migrated says of a run that has stopped that some of it is done.
func migrated(c *cli.Context, err error) error {
	if err == nil || errors.Is(err, journal.ErrOther) {
		return err
	}
	return statusError{fmt.Errorf("%w; the same command goes on, tierctl migrate rollback goes back", err), exitPartly}
}

// withMigration opens the journal of the datastore; it is nil where there is none, and none is to be made.
func withMigration(c *cli.Context, datastore string, mode journal.Mode, do func(*migrate.Journal) error) error {
	path, err := journalPath(c, "migrate", datastore)
	if err != nil {
		return err
	}
	j, err := migrate.OpenJournal(path, mode)
	if errors.Is(err, fs.ErrNotExist) && mode != journal.Make {
		return do(nil)
	}
	if err != nil {
		return err
	}
	return errors.Join(do(j), j.Close())
}

func rollBackMigration(c *cli.Context) error {
	site, datastore, err := toMigrate(c)
	if err != nil {
		return err
	}
	mode := journal.Read
	if c.Bool("yes") {
		mode = journal.Change
	}
	return refusedMigration(withMigration(c, datastore, mode, func(j *migrate.Journal) error {
		if j == nil {
			return errNoMigration
		}
		p, phase, err := j.Run()
		switch {
		case err != nil:
			return err
		case phase == "":
			return errNoMigration
		case !c.Bool("yes"):
			ours := 0
			for _, m := range p.Moves {
				if m.Ours {
					ours++
				}
			}
			if err := site.Standing(c.Context, j); err != nil && !c.Bool("abandon") {
				return err
			}
			fmt.Fprintf(c.App.Writer, "%s: %d objects written from %s; nothing was changed: --yes takes them back\n", phase, ours, p.Source)
			return nil
		}
		return migrated(c, site.Rollback(c.Context, j, c.Bool("abandon"), saying(c)))
	}))
}

var errNoMigration = errors.New("nothing was migrated: there is nothing in the journal")

func migrationStatus(c *cli.Context) error {
	format, err := output(c, "json")
	if err != nil {
		return err
	}
	_, datastore, err := toMigrate(c)
	if err != nil {
		return err
	}
	path, err := journalPath(c, "migrate", datastore)
	if err != nil {
		return err
	}
	return refusedMigration(atWork(c, format, path, withMigration(c, datastore, journal.Read, func(j *migrate.Journal) error {
		if j == nil {
			return fmt.Errorf("there is no journal %s: nothing was begun", path)
		}
		p, phase, err := j.Run()
		if err != nil {
			return err
		}
		if phase == "" {
			return fmt.Errorf("journal %s: nothing was begun", path)
		}
		if format == "json" {
			err = json.NewEncoder(c.App.Writer).Encode(map[string]any{"phase": phase, "begun": p.Begun, "source": p.Source, "store": p.Store, "objects": len(p.Moves), "left": len(p.Left), "journal": path})
		} else {
			_, err = fmt.Fprintf(c.App.Writer, "%s: %d objects from %s into %s, %d left out, begun %s\njournal: %s\n", phase, len(p.Moves), p.Source, p.Store, len(p.Left), p.Begun.Format(time.RFC3339), path)
		}
		if err == nil && phase != migrate.Migrated && phase != migrate.RolledBack {
			return statusError{errors.New(""), exitError}
		}
		return err
	})))
}

// verification is what verify -o json prints.
type verification struct {
	Source   string       `json:"source"`
	Policies int          `json:"policies"` // objects of the source that verdicts follow from
	SavedAt  *time.Time   `json:"savedAt,omitempty"`
	Drifted  []string     `json:"drifted"` // what is not in the source as it was saved
	Changes  []changeView `json:"changes"`
	LeftOut  []string     `json:"leftOut,omitempty"`
	effects  []reach.Change
}

func verifyMigration(c *cli.Context) error {
	format, err := output(c, "json")
	if err != nil {
		return statusError{err, exitUsage}
	}
	v, err := verified(c)
	if err == nil && format == "json" {
		err = json.NewEncoder(c.App.Writer).Encode(v)
	} else if err == nil {
		err = v.print(c)
	}
	switch {
	case err != nil:
		return statusError{err, exitUsage}
	case len(v.Changes)+len(v.Drifted) > 0:
		return statusError{errors.New(""), exitError}
	}
	return nil
}

func verified(c *cli.Context) (*verification, error) {
	site, datastore, err := toMigrate(c)
	if err != nil {
		return nil, err
	}
	v := &verification{Drifted: []string{}, Changes: []changeView{}}
	var before []client.Object
	err = withMigration(c, datastore, journal.Read, func(j *migrate.Journal) error {
		before, err = v.source(c, site, j)
		return err
	})
	if err != nil {
		return nil, err
	}
	after, err := storedObjects(c)
	if err != nil {
		return nil, err
	}
	for _, o := range after { // what no source has is as it is
		if gvk := o.GetObjectKind().GroupVersionKind(); gvk.Group != v3.GroupVersion.Group || gvk.Kind == "WorkloadEndpoint" || gvk.Kind == "Profile" {
			before = append(before, o)
		}
	}
	if v.effects, err = effect(c, before, after); err != nil {
		return nil, err
	}
	for i := range v.effects {
		v.Changes = append(v.Changes, changeViewOf(&v.effects[i]))
	}
	return v, nil
}

// source is the policies that there were: as the journal's run has saved them, compared with what they are now, or as they are.
func (v *verification) source(c *cli.Context, site *migrate.Site, j *migrate.Journal) ([]client.Object, error) {
	var p *migrate.Plan
	var phase migrate.Phase
	var err error
	if j != nil {
		if p, phase, err = j.Run(); err != nil {
			return nil, err
		}
	}
	if phase == "" || phase == migrate.RolledBack {
		now, err := sourceOf(c, site)
		if err != nil {
			return nil, err
		}
		policies := now.Policies()
		v.Source, v.Policies = now.Name, len(policies)
		return policies, nil
	}
	saved, err := j.Source()
	if err != nil {
		return nil, err
	}
	policies := saved.Policies()
	v.Source, v.Policies, v.SavedAt = saved.Name, len(policies), &p.Begun
	for _, l := range p.Left {
		if l.Lost {
			v.LeftOut = append(v.LeftOut, l.What)
		}
	}
	if saved.Name == migrate.Stored {
		now, err := site.Read(c.Context, saved.Name)
		if err != nil {
			fmt.Fprintf(c.App.ErrWriter, "warning: whether the source has changed since cannot be told: %v\n", err)
			return policies, nil
		}
		v.Drifted = append(v.Drifted, saved.Differences(now)...)
	}
	return policies, nil
}

func (v *verification) print(c *cli.Context) error {
	w := c.App.Writer
	when := "as it is now"
	if v.SavedAt != nil {
		when = "as it was at " + v.SavedAt.Format(time.RFC3339)
	}
	fmt.Fprintf(w, "%s, %s: %s\n", v.Source, when, counted(v.Policies, "object"))
	for _, l := range v.LeftOut {
		fmt.Fprintf(w, "left out, and not compared: %s\n", l)
	}
	for _, d := range v.Drifted {
		by := "carries that over"
		if strings.HasSuffix(d, " deleted") {
			by = "--prune carries that over, unless it was deleted because Calico is being removed"
		}
		fmt.Fprintf(w, "%s since: tierctl migrate apply %s\n", d, by)
	}
	if len(v.Drifted) > 0 {
		fmt.Fprintln(w, "by the source as it was then, and by the datastore as it is now:")
	}
	return printEffect(c, v.effects)
}
