package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/tierwall/tierwall/controllers/crds"
)

func crdsCommand() *cli.Command {
	force := &cli.BoolFlag{Name: "force", Usage: "also where objects lose something by it, and to CRDs older than those that are there"}
	return &cli.Command{
		Name: "crds", Usage: "look at a cluster's CRDs; install, upgrade or take them over", UsageText: "tierctl crds check|apply|restore --datastore kubernetes[:KUBECONFIG]",
		Description: "None of them deletes anything.",
		Subcommands: []*cli.Command{
			{Name: "check", Usage: "say of each CRD whether it is there and as it should be", UsageText: "tierctl crds check [-o json]",
				Description: "Also says what would become of its objects. Exit status 1: not all are fit for use.",
				Flags:       []cli.Flag{outputFlag("json (one line a CRD)"), datastoreFlag()}, Action: checkCRDs},
			{Name: "apply", Usage: "install and upgrade CRDs, and take over another's", UsageText: "tierctl crds apply [--force]",
				Description: "Installs those that are not there, upgrades ours, and takes over another's if no object loses anything by that; else it changes nothing.\n" +
					"Objects that are stored in a version which goes are written again.",
				Flags: []cli.Flag{force, datastoreFlag()}, Action: changeCRDs((*crds.Cluster).Apply)},
			{Name: "restore", Usage: "put back what apply has taken over", UsageText: "tierctl crds restore [--force]",
				Flags: []cli.Flag{force, datastoreFlag()}, Action: changeCRDs((*crds.Cluster).Restore)},
		},
	}
}

// clusterCRDs are those of the cluster that the flags name.
func clusterCRDs(c *cli.Context) (*crds.Cluster, error) {
	if err := noArguments(c); err != nil {
		return nil, err
	}
	config, err := clusterOf(c)
	if err != nil {
		return nil, err
	}
	return crds.Open(config)
}

func changeCRDs(change func(_ *crds.Cluster, _ context.Context, force bool, say func(crd, done string)) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		cluster, err := clusterCRDs(c)
		if err != nil {
			return err
		}
		return change(cluster, c.Context, c.Bool("force"), func(crd, done string) { fmt.Fprintf(c.App.Writer, "%s %s\n", crd, done) })
	}
}

func checkCRDs(c *cli.Context) error {
	format, err := output(c, "json")
	if err != nil {
		return err
	}
	cluster, err := clusterCRDs(c)
	if err != nil {
		return err
	}
	findings, err := cluster.Check(c.Context)
	if err != nil {
		return err
	}
	if format == "json" {
		err = writeFindings(c, findings)
	} else {
		err = printFindings(c, findings)
	}
	return errors.Join(err, unfit(findings))
}

func writeFindings(c *cli.Context, findings []crds.Finding) error {
	encoder := json.NewEncoder(c.App.Writer)
	encoder.SetEscapeHTML(false)
	for i := range findings {
		view := struct {
			crds.Finding
			Fit bool `json:"fit"`
		}{findings[i], findings[i].Fit()}
		if err := encoder.Encode(view); err != nil {
			return err
		}
	}
	return nil
}

// printFindings in a table, and below each CRD what is to be said of it.
func printFindings(c *cli.Context, findings []crds.Finding) error {
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "CRD\tSTATE\tFIT FOR USE")
	for i := range findings {
		f := &findings[i]
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Name, f.State, map[bool]string{true: "yes", false: "no"}[f.Fit()])
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for i := range findings {
		f := &findings[i]
		for _, said := range []struct {
			about string
			lines []string
		}{{"cannot be applied", f.Reasons}, {"lacks", f.Lacks}, {"would lose", f.Losses}, {"note", f.Notes}} {
			for _, line := range said.lines {
				fmt.Fprintf(c.App.Writer, "%s: %s: %s\n", f.Name, said.about, line)
			}
		}
	}
	return nil
}

// unfit says what to do about CRDs that are not fit for use.
func unfit(findings []crds.Finding) error {
	var apply, not []string
	for i := range findings {
		switch f := &findings[i]; {
		case f.Fit():
		case f.Applicable(false):
			apply = append(apply, f.Name)
		default:
			not = append(not, f.Name)
		}
	}
	switch {
	case len(not) > 0:
		return fmt.Errorf("not fit for use, and not to be applied: %s", strings.Join(not, ", "))
	case len(apply) > 0:
		return fmt.Errorf("%d CRDs are not fit for use; tierctl crds apply makes them so", len(apply))
	}
	return nil
}
