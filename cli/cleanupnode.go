package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tierwall/tierwall/config/systemd"
	"github.com/tierwall/tierwall/dataplane/leftovers"
)

func cleanupNodeCommand() *cli.Command {
	return &cli.Command{
		Name: "node", Usage: "what it has left on this machine: tables, chains, sets, routes, tunnels, files",
		UsageText: "tierctl cleanup node [--of OWNER] [--keep-cni] [-o json]\n   tierctl cleanup node --yes [--backup DIR] [--check tcp:HOST:PORT]",
		Description: "Lists everything, with why it is taken for a leftover; --yes removes it, after a backup that puts it back. Rules of others in the same tables\n" +
			"stay, and so does a pod's interface whatever is said. As root, in the machine's own namespaces. Exit status 3: something could not be looked at\n" +
			"or removed; 4: its owner still runs here, or pods live on Calico's network and --keep-cni is not said: nothing was removed.",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "of", Usage: "`OWNER`: " + strings.Join(leftovers.Owners(), ", ") + "; may be repeated (default: calico)"},
			&cli.BoolFlag{Name: "keep-cni", Usage: "Calico's CNI plugin and IPAM stay: its routes, interfaces, NAT and files too"},
			&cli.BoolFlag{Name: "yes", Usage: "remove it"},
			&cli.StringFlag{Name: "backup", Usage: "`DIR` to be made for what is removed (default: " + filepath.Join(systemd.State, "cleanup") + "/TIME)"},
			&cli.StringSliceFlag{Name: "check", Usage: "say so, and how to go back, if `tcp:HOST:PORT` can be reached from here before and not afterwards; may be repeated"},
			outputFlag("json (default: a list)"),
		},
		Action: cleanupNode,
	}
}

// nodeCleanup is what cleanup node -o json prints.
type nodeCleanup struct {
	*leftovers.Leftovers
	Refused []string `json:"refused"`
	Removed bool     `json:"removed"`
	Backup  string   `json:"backup,omitempty"`
}

func cleanupNode(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "json")
	if err != nil {
		return err
	}
	targets, err := checkTargets(c)
	if err != nil {
		return err
	}
	o := leftovers.Options{Of: c.StringSlice("of"), KeepCNI: c.Bool("keep-cni")}
	for _, name := range o.Of {
		if !slices.Contains(leftovers.Owners(), name) {
			return usagef("--of %q is none of %s", name, strings.Join(leftovers.Owners(), ", "))
		}
	}
	found, err := leftovers.Find(c.Context, o)
	if err != nil {
		return err
	}
	v := &nodeCleanup{Leftovers: found, Refused: found.Refused(o)}
	if c.Bool("yes") && len(v.Refused) == 0 && len(found.Items) > 0 {
		err = v.remove(c, o, targets)
	}
	if format == "json" {
		text, jsonErr := json.MarshalIndent(v, "", "  ")
		fmt.Fprintf(c.App.Writer, "%s\n", text)
		err = errors.Join(err, jsonErr)
	} else {
		v.print(c)
	}
	switch {
	case err != nil:
		return err
	case len(v.Refused) > 0 && (len(v.Items) > 0 || c.Bool("yes")):
		return statusError{fmt.Errorf("nothing was removed: %s", strings.Join(v.Refused, "; ")), exitRefused}
	case len(v.Unseen) > 0:
		return statusError{fmt.Errorf("not everything could be looked at: %s", strings.Join(v.Unseen, "; ")), exitPartly}
	}
	return nil
}

// remove everything after a backup, step by step, and look again.
func (v *nodeCleanup) remove(c *cli.Context, o leftovers.Options, targets []string) error {
	var reached []string
	for _, target := range targets {
		if err := reachable(c.Context, target); err != nil {
			fmt.Fprintf(c.App.ErrWriter, "tierctl: %s cannot be reached even before: %v\n", target, err)
			continue
		}
		reached = append(reached, target)
	}
	dir := c.String("backup")
	if dir == "" {
		dir = filepath.Join(systemd.State, "cleanup", time.Now().UTC().Format("20060102T150405Z"))
	}
	if err := leftovers.Backup(c.Context, v.Leftovers, dir); err != nil {
		return fmt.Errorf("nothing was removed: %w", err)
	}
	v.Backup = dir
	back := filepath.Join(dir, leftovers.RestoreScript) + " puts it back"
	for i, s := range leftovers.Steps(o) {
		if err := s.Do(c.Context); err != nil {
			return statusError{fmt.Errorf("%w; %s", err, back), map[bool]int{true: exitError, false: exitPartly}[i == 0]}
		}
	}
	again, err := leftovers.Find(c.Context, o)
	if err != nil {
		return err
	}
	if len(again.Items) > 0 {
		return statusError{fmt.Errorf("%s (%s) is still there: say this again; %s", again.Items[0].Name, again.Items[0].Kind, back), exitPartly}
	}
	v.Removed = true
	for _, target := range reached {
		if err := reachable(c.Context, target); err != nil {
			return fmt.Errorf("%s could be reached before and cannot be any more: %w; %s", target, err, back)
		}
		fmt.Fprintf(c.App.ErrWriter, "%s can be reached by a new connection\n", target)
	}
	return nil
}

// checkTargets are those of --check.
func checkTargets(c *cli.Context) (targets []string, err error) {
	for _, text := range c.StringSlice("check") {
		target, ok := strings.CutPrefix(text, "tcp:")
		if _, port, err := net.SplitHostPort(target); !ok || err != nil || port == "" {
			return nil, usagef("--check %q is no tcp:HOST:PORT", text)
		}
		targets = append(targets, target)
	}
	return targets, nil
}

func (v *nodeCleanup) print(c *cli.Context) {
	w := c.App.Writer
	group := ""
	for _, i := range v.Items {
		if g := strings.TrimSpace(fmt.Sprintf("%s: %s %s", i.Owner, i.Kind, i.In)); g != group {
			group = g
			fmt.Fprintln(w, g)
		}
		fmt.Fprintf(w, "  %s (%s)\n", i.Name, i.Why)
	}
	for _, i := range v.Kept {
		fmt.Fprintf(w, "stays: %s %s: %s\n", i.Kind, i.Name, i.Stays)
	}
	switch {
	case len(v.Items) == 0:
		fmt.Fprintln(w, "nothing is left here that would be removed")
	case v.Removed:
		fmt.Fprintf(w, "removed; %s puts it back\n", filepath.Join(v.Backup, leftovers.RestoreScript))
	case !c.Bool("yes"):
		fmt.Fprintf(w, "%s would be removed: say --yes\n", counted(len(v.Items), "leftover"))
	}
}
