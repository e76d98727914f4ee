package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/rest"

	"github.com/tierwall/tierwall/controllers/cleanup"
	"github.com/tierwall/tierwall/controllers/journal"
)

func cleanupCommand() *cli.Command {
	journal := journalFlag()
	named := &cli.StringSliceFlag{Name: "named", Usage: "what plan says stays, and is to go too, as `KIND/NAME` or KIND/NAMESPACE/NAME; may be repeated"}
	yes := yesFlag()
	return &cli.Command{
		Name: "cleanup", Usage: "remove what Calico has left in a cluster", UsageText: "tierctl cleanup plan|apply|status|restore --datastore kubernetes[:KUBECONFIG]",
		Description: "What is Calico's is told by API groups and by the names that its manifests and its operator give. CRDs that Tierwall uses stay, with their objects.",
		Subcommands: []*cli.Command{
			{Name: "plan", Usage: "say what there is, what runs, what keeps it, and in which order it would go", UsageText: "tierctl cleanup plan [-o json]",
				Description: "Exit status: 0 nothing of Calico's is left; 1 something is; 4 it still runs, or not all could be looked at, so that nothing can be removed.",
				Flags:       []cli.Flag{named, outputFlag("json"), datastoreFlag()}, Action: planCleanup},
			{Name: "apply", Usage: "remove it", UsageText: "tierctl cleanup apply --yes [--plan FILE] [--force-finalizers]",
				Description: "Everything is copied into the journal first. A run that was interrupted goes on. Nothing is removed while Calico runs: exit status 4.",
				Flags: []cli.Flag{yes, named, &cli.BoolFlag{Name: "force-finalizers", Usage: "take away finalizers whose controllers are gone"},
					&cli.StringFlag{Name: "plan", Usage: "a `FILE` that plan -o json wrote and somebody has read: refuse to remove anything else"}, journal, datastoreFlag()}, Action: applyCleanup},
			{Name: "status", Usage: "say how far the journal's run is", UsageText: "tierctl cleanup status [-o json]",
				Description: "Exit status 1: a run is not at its end.", Flags: []cli.Flag{journal, outputFlag("json"), datastoreFlag()}, Action: runStatus("cleanup")},
			{Name: "restore", Usage: "make again what the journal's run has removed", UsageText: "tierctl cleanup restore --yes",
				Flags: []cli.Flag{yes, journal, datastoreFlag()}, Action: restoreRun("cleanup")},
			cleanupNodeCommand(),
		},
	}
}

// toClean is the cluster that the flags name.
func toClean(c *cli.Context) (*cleanup.Cluster, *rest.Config, error) {
	if err := noArguments(c); err != nil {
		return nil, nil, err
	}
	config, err := clusterOf(c)
	if err != nil {
		return nil, nil, err
	}
	cluster, err := cleanup.Open(config)
	return cluster, config, err
}

func foundCleanup(c *cli.Context) (*cleanup.Cluster, *cleanup.Inventory, *rest.Config, error) {
	cluster, config, err := toClean(c)
	if err != nil {
		return nil, nil, nil, err
	}
	o := cleanup.Options{Named: c.StringSlice("named")}
	i, err := cluster.Find(c.Context, o)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, name := range i.Nothing(o) {
		fmt.Fprintf(c.App.ErrWriter, "warning: --named %s: there is no such thing of Calico's\n", name)
	}
	return cluster, i, config, nil
}

func planCleanup(c *cli.Context) error {
	format, err := output(c, "json")
	if err != nil {
		return err
	}
	_, i, _, err := foundCleanup(c)
	if err != nil {
		return err
	}
	if format == "json" {
		encoder := json.NewEncoder(c.App.Writer)
		encoder.SetEscapeHTML(false)
		err = encoder.Encode(i)
	} else {
		printInventory(c, i)
	}
	switch {
	case err != nil:
		return err
	case len(i.Running()) > 0:
		return statusError{fmt.Errorf("%w: remove it as it was installed, e.g. az aks update --network-policy none", cleanup.ErrRunning), exitRefused}
	case len(i.Unknown) > 0:
		return statusError{cleanup.ErrUnknown, exitRefused}
	case len(i.Left()) > 0:
		return statusError{errors.New(""), exitError}
	}
	return nil
}

// printInventory a line an object, stage by stage.
func printInventory(c *cli.Context, i *cleanup.Inventory) {
	w := c.App.Writer
	if running := i.Running(); len(running) > 0 {
		fmt.Fprintln(w, "still running:")
		for j := range running {
			fmt.Fprintf(w, "  %s (%s)\n", &running[j], running[j].Running)
		}
	}
	stage := cleanup.Stage(-1)
	for _, t := range i.Left() {
		if t.Stage != stage {
			stage = t.Stage
			fmt.Fprintf(w, "%s:\n", stage)
		}
		fmt.Fprintf(w, "  %s%s\n", &t, remarks(&t))
	}
	for _, t := range i.Things {
		if t.Kept != "" && t.Stage != cleanup.Objects {
			fmt.Fprintf(w, "stays: %s: %s\n", &t, t.Kept)
		}
	}
	for _, u := range i.Unknown {
		fmt.Fprintf(w, "could not be looked at: %s\n", u)
	}
	printPolicies(w, i)
	fmt.Fprintf(w, "%d objects of Calico's, %d stay\n", len(i.Left()), len(i.Things)-len(i.Left()))
}

// printPolicies that go, and are nowhere else perhaps.
func printPolicies(w io.Writer, i *cleanup.Inventory) {
	if policies := i.Policies(); policies > 0 {
		fmt.Fprintf(w, "policies among them, which are in the journal alone afterwards, unless tierctl migrate has brought them over: %d\n", policies)
	}
}

// remarks are what else there is to say of a thing.
func remarks(t *cleanup.Thing) string {
	var out []string
	if t.Terminating {
		out = append(out, "is being deleted")
	}
	if len(t.Orphaned) > 0 {
		out = append(out, "nobody takes away its finalizers "+strings.Join(t.Orphaned, ", "))
	}
	if len(t.Waits) > 0 {
		out = append(out, "waits for "+strings.Join(t.Waits, ", "))
	}
	out = append(out, t.Trouble...)
	if len(out) == 0 {
		return ""
	}
	return " (" + strings.Join(out, "; ") + ")"
}

func applyCleanup(c *cli.Context) error {
	cluster, i, config, err := foundCleanup(c)
	if err != nil {
		return err
	}
	if !c.Bool("yes") {
		if err := asReviewed(c, i.Server, i.Left()); err != nil {
			return err
		}
		printInventory(c, i)
		fmt.Fprintln(c.App.Writer, "nothing was removed: --yes removes it")
		return nil
	}
	return withJournal(c, config, "cleanup", journal.Make, func(j *cleanup.Journal) error {
		going, on, err := toGo(c, j, i)
		switch {
		case err != nil:
			return err
		case on && len(i.Running()) > 0: // it came back meanwhile
			return refusedCleanup(fmt.Errorf("%w: %s", cleanup.ErrRunning, &i.Running()[0]))
		case on:
		case len(going) == 0 && len(i.Unknown) == 0:
			fmt.Fprintln(c.App.Writer, "nothing of Calico's is left")
			return nil
		default:
			err := cluster.Begin(j, i, cleanup.Orders{ForceFinalizers: c.Bool("force-finalizers")})
			if errors.Is(err, cleanup.ErrOrphaned) {
				err = fmt.Errorf("%w: --force-finalizers takes them away", err)
			}
			if err != nil {
				return refusedCleanup(err)
			}
			printPolicies(c.App.ErrWriter, i)
		}
		return cleaned("cleanup", cluster.Continue(c.Context, j, func(text string) { fmt.Fprintln(c.App.Writer, text) }))
	})
}

// toGo is what is to be removed, as it was reviewed: what there is, or, where a run goes on, what that was begun with.
func toGo(c *cli.Context, j *cleanup.Journal, i *cleanup.Inventory) (going []cleanup.Thing, on bool, err error) {
	p, phase, err := j.Run()
	if err != nil {
		return nil, false, err
	}
	server, going := i.Server, i.Left()
	if on = phase == cleanup.Saving || phase == cleanup.Removing; on {
		server, going = p.Server, p.Things
	}
	if err := asReviewed(c, server, going); err != nil {
		return nil, false, err
	}
	if on {
		fmt.Fprintf(c.App.ErrWriter, "a run goes on that was %s\n", strings.ToLower(string(phase)))
	}
	return going, on, nil
}

// asReviewed refuses to remove what a plan that somebody has read does not have, or from another cluster.
func asReviewed(c *cli.Context, server string, going []cleanup.Thing) error {
	file := c.String("plan")
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading the plan: %w", err)
	}
	var reviewed cleanup.Inventory
	if err := json.Unmarshal(text, &reviewed); err != nil {
		return fmt.Errorf("%s: is no plan that tierctl has written with -o json: %w", file, err)
	}
	if reviewed.Server != server {
		return statusError{fmt.Errorf("%s is of the cluster at %s, not %s: nothing was removed", file, cmp.Or(reviewed.Server, "an address that it does not say"), server), exitRefused}
	}
	var more []string
	for _, t := range going {
		if !slices.ContainsFunc(reviewed.Left(), func(r cleanup.Thing) bool {
			return r.APIVersion == t.APIVersion && r.String() == t.String() && r.Way == t.Way
		}) {
			more = append(more, t.String())
		}
	}
	if len(more) > 0 {
		return statusError{fmt.Errorf("%s does not have %s: nothing was removed", file, strings.Join(more, ", ")), exitRefused}
	}
	return nil
}

// refusedCleanup marks what is refused as unsafe.
func refusedCleanup(err error) error {
	for _, is := range []error{cleanup.ErrRunning, cleanup.ErrOrphaned, cleanup.ErrUnknown, cleanup.ErrUnsafe, journal.ErrOther, journal.ErrBusy} {
		if errors.Is(err, is) {
			return statusError{fmt.Errorf("nothing was removed: %w", err), exitRefused}
		}
	}
	return err
}

// cleaned says of a run that has stopped that some of it is done.
func cleaned(of string, err error) error {
	if err == nil || errors.Is(err, journal.ErrOther) {
		return refusedCleanup(err)
	}
	return statusError{fmt.Errorf("%w; the same command goes on, tierctl %s restore puts back", err, of), exitPartly}
}

// withJournal opens the journal of the cluster.
func withJournal(c *cli.Context, config *rest.Config, of string, mode journal.Mode, do func(*cleanup.Journal) error) error {
	path, err := journalPath(c, of, config.Host)
	if err != nil {
		return err
	}
	j, err := cleanup.OpenJournal(path, of, mode)
	if errors.Is(err, fs.ErrNotExist) && mode != journal.Make {
		return fmt.Errorf("there is no journal %s: nothing was begun", path)
	}
	if err != nil {
		return refusedCleanup(err)
	}
	return errors.Join(do(j), j.Close())
}

// runStatus says how far the run of a command is.
func runStatus(of string) cli.ActionFunc {
	return func(c *cli.Context) error {
		format, err := output(c, "json")
		if err != nil {
			return err
		}
		_, config, err := toClean(c)
		if err != nil {
			return err
		}
		path, err := journalPath(c, of, config.Host)
		if err != nil {
			return err
		}
		return atWork(c, format, path, withJournal(c, config, of, journal.Read, func(j *cleanup.Journal) error {
			p, phase, err := j.Run()
			if err != nil {
				return err
			}
			if phase == "" {
				return fmt.Errorf("journal %s: nothing was begun", path)
			}
			gone := 0
			for i := range p.Things {
				if j.Gone(&p.Things[i]) {
					gone++
				}
			}
			if format == "json" {
				err = json.NewEncoder(c.App.Writer).Encode(map[string]any{"phase": phase, "begun": p.Begun, "server": p.Server, "objects": len(p.Things), "gone": gone, "journal": path})
			} else {
				_, err = fmt.Fprintf(c.App.Writer, "%s: %d of %d objects removed, begun %s, on %s\njournal: %s\n", phase, gone, len(p.Things), p.Begun.Format(time.RFC3339), p.Server, path)
			}
			if err == nil && phase != cleanup.Removed && phase != cleanup.Restored {
				return statusError{errors.New(""), exitError}
			}
			return err
		}))
	}
}

// atWork says of a journal that cannot be read because a run has it that there is one, which is not at its end.
func atWork(c *cli.Context, format, path string, err error) error {
	if !errors.Is(err, journal.ErrBusy) {
		return err
	}
	if format == "json" {
		err = json.NewEncoder(c.App.Writer).Encode(map[string]any{"phase": "AtWork", "journal": path})
	} else {
		_, err = fmt.Fprintf(c.App.Writer, "at work: another run has the journal at this moment\njournal: %s\n", path)
	}
	return errors.Join(err, statusError{errors.New(""), exitError})
}

// restoreRun turns the run of a command round.
func restoreRun(of string) cli.ActionFunc {
	return func(c *cli.Context) error {
		cluster, config, err := toClean(c)
		if err != nil {
			return err
		}
		mode := journal.Read
		if c.Bool("yes") {
			mode = journal.Change
		}
		return withJournal(c, config, of, mode, func(j *cleanup.Journal) error {
			if !c.Bool("yes") {
				p, phase, err := j.Run()
				switch {
				case err != nil:
					return err
				case phase == "" || phase == cleanup.Saving:
					return cleanup.ErrNothing
				}
				fmt.Fprintf(c.App.Writer, "%d objects of the run that is %s; nothing was changed: --yes makes again those that are not there\n", len(p.Things), phase)
				return nil
			}
			return cleaned(of, cluster.Restore(c.Context, j, func(text string) { fmt.Fprintln(c.App.Writer, text) }))
		})
	}
}
