package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tierwall/tierwall/controllers/cleanup"
	"github.com/tierwall/tierwall/controllers/journal"
)

func uninstallCommand() *cli.Command {
	return &cli.Command{
		Name: "uninstall", Usage: "remove Tierwall itself from a cluster, and its tables from the nodes",
		UsageText: "tierctl uninstall [--crds] [-o json]\n   tierctl uninstall --yes [--crds] [--plan FILE] [--without-node NODE]\n   tierctl uninstall status|restore",
		Description: "Says what would no longer be enforced, and what would go in which order, and changes nothing; --yes does it. Everything is copied into the journal\n" +
			"first, and comes back by restore. A run that was interrupted goes on. CRDs and all that people have written stay, unless --crds is said.\n" +
			"Exit status: 3 not all is done yet, e.g. a node does not answer; 4 it would not be safe, and nothing was removed.",
		Flags: []cli.Flag{yesFlag(),
			&cli.BoolFlag{Name: "crds", Usage: "also the CRDs, with all policy; those taken over from others are put back"},
			&cli.StringSliceFlag{Name: "without-node", Usage: "go on although `NODE` may keep its table; may be repeated"},
			&cli.StringFlag{Name: "plan", Usage: "a `FILE` that -o json wrote and somebody has read: refuse to remove anything else"},
			outputFlag("json (default: a list)"), journalFlag(), datastoreFlag()},
		Action: uninstall,
		Subcommands: []*cli.Command{
			{Name: "status", Usage: "say how far the journal's run is", UsageText: "tierctl uninstall status [-o json]",
				Description: "Exit status 1: a run is not at its end.", Flags: []cli.Flag{journalFlag(), outputFlag("json"), datastoreFlag()}, Action: runStatus("uninstall")},
			{Name: "restore", Usage: "install again what the journal's run has removed, with all policy", UsageText: "tierctl uninstall restore --yes",
				Flags: []cli.Flag{yesFlag(), journalFlag(), datastoreFlag()}, Action: restoreRun("uninstall")},
		},
	}
}

// ourOrders are what is ours to do: the controller whose finalizers they are goes with it.
var ourOrders = cleanup.Orders{ForceFinalizers: true}

func uninstall(c *cli.Context) error {
	format, err := output(c, "json")
	if err != nil {
		return err
	}
	at, err := connect(c)
	if err != nil {
		return err
	}
	if at.kind != kubeDatastore {
		return usagef("uninstall is for a cluster, and the datastore is %s (%s): --datastore kubernetes[:KUBECONFIG]. On a host without one: systemctl disable --now tierwall, "+
			"and tierctl agent --remove takes the table out; %s stays until you delete it", at, at.because, at.path)
	}
	cluster, config, err := toClean(c)
	if err != nil {
		return err
	}
	i, err := cluster.FindOurs(c.Context, cleanup.Ours{CRDs: c.Bool("crds"), Without: c.StringSlice("without-node")})
	if err != nil {
		return err
	}
	if !c.Bool("yes") {
		if err := asReviewed(c, i.Server, i.Left()); err != nil {
			return err
		}
		return planUninstall(c, format, i)
	}
	return withJournal(c, config, "uninstall", journal.Make, func(j *cleanup.Journal) error {
		going, on, err := toGo(c, j, i)
		switch {
		case err != nil:
			return err
		case on:
		case len(going) == 0 && i.Safe(ourOrders) == nil:
			fmt.Fprintln(c.App.Writer, "nothing of Tierwall's is left")
			return nil
		default:
			if err := cluster.Begin(j, i, ourOrders); err != nil {
				return refusedCleanup(err)
			}
		}
		for _, node := range c.StringSlice("without-node") {
			if err := j.GoWithout(node); err != nil {
				return err
			}
		}
		return cleaned("uninstall", cluster.Continue(c.Context, j, func(text string) { fmt.Fprintln(c.App.Writer, text) }))
	})
}

// planUninstall says what would be done, and refuses what would be refused.
func planUninstall(c *cli.Context, format string, i *cleanup.Inventory) error {
	if format == "json" {
		encoder := json.NewEncoder(c.App.Writer)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(i); err != nil {
			return err
		}
		return refusedCleanup(i.Safe(ourOrders))
	}
	printUninstall(c.App.Writer, i, c.Bool("crds"))
	if err := i.Safe(ourOrders); err != nil {
		return refusedCleanup(err)
	}
	fmt.Fprintln(c.App.Writer, "nothing was removed: --yes removes it")
	return nil
}

// reasons are why a stage comes when it does.
var reasons = map[cleanup.Stage]string{
	cleanup.Nodes:       "the agents take the table out of each kernel, where it would stay; all must answer before anything else goes",
	cleanup.Admission:   "or it could refuse what follows",
	cleanup.Programs:    "or they would make objects and finalizers anew",
	cleanup.Objects:     "what people have written; tiers behind their policies",
	cleanup.Spaces:      "if nothing of others is in it",
	cleanup.Definitions: "when they have no objects any more",
}

// printUninstall a line an object, stage by stage, behind what will no longer be enforced.
func printUninstall(w io.Writer, i *cleanup.Inventory, crds bool) {
	printEnforced(w, i.Enforced)
	stage := cleanup.Stage(-1)
	for _, t := range i.Left() {
		if t.Stage != stage {
			stage = t.Stage
			why := ""
			if reasons[stage] != "" {
				why = " " + reasons[stage]
			}
			fmt.Fprintf(w, "%s:%s\n", stage, why)
		}
		how := ""
		if t.Way == cleanup.HandedBack || t.Way == cleanup.Released {
			how = ": " + string(t.Way)
		}
		fmt.Fprintf(w, "  %s%s\n", &t, how)
	}
	stay := 0
	for _, t := range i.Things {
		switch {
		case t.Kept != "" && t.Stage == cleanup.Definitions:
			stay++
		case t.Kept != "" && t.Stage != cleanup.Objects:
			fmt.Fprintf(w, "stays: %s: %s\n", &t, t.Kept)
		}
	}
	if !crds && stay > 0 {
		fmt.Fprintf(w, "stay: %s, with all policy: --crds removes them too\n", counted(stay, "CRD"))
	}
	for _, u := range i.Unknown {
		fmt.Fprintf(w, "could not be looked at: %s\n", u)
	}
	fmt.Fprintf(w, "%s of Tierwall's\n", counted(len(i.Left()), "object"))
}

func printEnforced(w io.Writer, e *cleanup.Enforced) {
	var what, nodes []string
	for _, r := range slices.Sorted(maps.Keys(e.Policies)) {
		what = append(what, fmt.Sprintf("%d %s", e.Policies[r], r))
	}
	if e.HostEndpoints > 0 {
		what = append(what, fmt.Sprintf("%d hostendpoints.projectcalico.org", e.HostEndpoints))
	}
	for _, n := range e.Nodes {
		nodes = append(nodes, n.Name)
	}
	const most = 10
	if len(nodes) > most {
		nodes = append(nodes[:most], fmt.Sprintf("and %d more", len(e.Nodes)-most))
	}
	switch {
	case len(nodes) == 0:
		fmt.Fprintln(w, "no node has a table, as far as is known")
	case len(what) == 0:
		fmt.Fprintf(w, "no policy is enforced; tables are on %s: %s\n", counted(len(e.Nodes), "node"), strings.Join(nodes, ", "))
	default:
		fmt.Fprintf(w, "no longer enforced: %s, on %s: %s\n", strings.Join(what, ", "), counted(len(e.Nodes), "node"), strings.Join(nodes, ", "))
	}
	for j := range e.Others {
		fmt.Fprintf(w, "runs, and enforces what it reads: %s (%s)\n", &e.Others[j], e.Others[j].Running)
	}
}
