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

// nodeFolder is where a machine has the journal of its removals, and their backups.
var nodeFolder = filepath.Join(systemd.State, "cleanup")

func cleanupNodeCommand() *cli.Command {
	return &cli.Command{
		Name: "node", Usage: "what it has left on this machine, or on nodes: tables, chains, sets, routes, tunnels, files",
		UsageText: "tierctl cleanup node [--of OWNER] [--keep-cni] [-o json]\n   tierctl cleanup node --yes [--backup DIR] [--check tcp:HOST:PORT]\n" +
			"   tierctl cleanup node --restore [--yes]\n   tierctl cleanup node --nodes all|NODE[,NODE...] [--yes|--restore] [--datastore kubernetes[:KUBECONFIG]]",
		Description: "Lists everything, with why it is taken for a leftover; --yes removes it, after a backup that puts it back. Rules of others in the same tables\n" +
			"stay, and so does a pod's interface whatever is said. As root, in the machine's own namespaces. Ended at any moment, the same command goes on, and\n" +
			"--restore --yes puts back. Exit status 3: something could not be looked at, removed or put back; 4: its owner still runs here, or pods live on\n" +
			"Calico's network and --keep-cni is not said, or another removal is not at its end: nothing was removed. --nodes does it by Jobs, which are\n" +
			"deleted afterwards; none is begun behind one that has lost a connection. Exit status 3: a node failed; 5: one has not ended in time.",
		Flags: append([]cli.Flag{
			&cli.StringSliceFlag{Name: "of", Usage: "`OWNER`: " + strings.Join(leftovers.Owners(), ", ") + "; may be repeated (default: calico)"},
			&cli.BoolFlag{Name: "keep-cni", Usage: "Calico's CNI plugin and IPAM stay: its routes, interfaces, NAT and files too"},
			yesFlag(),
			&cli.BoolFlag{Name: "restore", Usage: "put back what the last removal here has removed"},
			&cli.StringFlag{Name: "backup", Usage: "`DIR` to be made for what is removed (default: " + nodeFolder + "/TIME)"},
			&cli.StringSliceFlag{Name: "check", Usage: "say so, and how to go back, if `tcp:HOST:PORT` can be reached from here before and not afterwards; may be repeated"},
			&cli.StringFlag{Name: "root", Usage: "`DIR` that has the machine's files and programs, as in a container (default: /)"},
			outputFlag("json (default: a list)"),
		}, nodesFlags()...),
		Action: cleanupNode,
	}
}

// nodeCleanup is what cleanup node -o json prints.
type nodeCleanup struct {
	*leftovers.Leftovers
	Refused     []string       `json:"refused"`
	Removed     bool           `json:"removed"`
	Restored    bool           `json:"restored"`
	Backup      string         `json:"backup,omitempty"` // that was made
	Run         *leftovers.Run `json:"run,omitempty"`    // the last of this machine
	Unreachable []string       `json:"unreachable"`      // what could be reached before, and cannot any more
	Error       string         `json:"error,omitempty"`
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
	o := leftovers.Options{Of: c.StringSlice("of"), KeepCNI: c.Bool("keep-cni"), Root: c.String("root")}
	for _, name := range o.Of {
		if !slices.Contains(leftovers.Owners(), name) {
			return usagef("--of %q is none of %s", name, strings.Join(leftovers.Owners(), ", "))
		}
	}
	if o.Root != "" && !filepath.IsAbs(o.Root) {
		return usagef("--root %q does not begin with /", o.Root)
	}
	if c.IsSet("nodes") {
		return cleanupNodes(c, format, o)
	}
	for _, flag := range []string{"at-once", "timeout", "job-namespace", "image"} {
		if c.IsSet(flag) {
			return usagef("--%s is for --nodes", flag)
		}
	}
	if len(targets) == 0 {
		targets = inPod()
	}
	v, err := cleanMachine(c, o, targets)
	if v == nil {
		return err
	}
	if format == "json" {
		if err != nil {
			v.Error = err.Error()
		}
		text, jsonErr := json.MarshalIndent(v, "", "  ")
		fmt.Fprintf(c.App.Writer, "%s\n", text)
		return errors.Join(err, jsonErr)
	}
	v.print(c)
	return err
}

// cleanMachine does what the flags say. Without a result nothing could be looked at.
func cleanMachine(c *cli.Context, o leftovers.Options, targets []string) (*nodeCleanup, error) {
	found, err := leftovers.Find(c.Context, o)
	if err != nil {
		return nil, err
	}
	v := &nodeCleanup{Leftovers: found, Refused: append([]string{}, found.Refused(o)...), Unreachable: []string{}}
	if v.Run, err = leftovers.ReadRun(o, nodeFolder); err != nil {
		return v, err
	}
	switch {
	case c.Bool("restore") && v.Run == nil:
		return v, leftovers.ErrNone
	case c.Bool("restore") && c.Bool("yes"):
		return v, v.restore(c, o)
	case c.Bool("restore"):
		return v, nil
	case len(v.Refused) > 0 && (len(v.Items) > 0 || c.Bool("yes")):
		return v, statusError{fmt.Errorf("nothing was removed: %s", strings.Join(v.Refused, "; ")), exitRefused}
	case c.Bool("yes") && (len(found.Items) > 0 || v.Run.Unfinished()):
		err = v.remove(c, o, targets)
	}
	if err == nil && len(v.Unseen) > 0 {
		err = statusError{fmt.Errorf("not everything could be looked at: %s", strings.Join(v.Unseen, "; ")), exitPartly}
	}
	return v, err
}

// remove everything after a backup, step by step, and see whether what could be reached still can be.
func (v *nodeCleanup) remove(c *cli.Context, o leftovers.Options, targets []string) (err error) {
	j, err := leftovers.OpenJournal(o, nodeFolder)
	if err != nil {
		return refusedRun(err)
	}
	defer func() { err = errors.Join(err, j.Close()) }()
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
		dir = filepath.Join(nodeFolder, time.Now().UTC().Format("20060102T150405.000Z"))
	}
	err = do(c, j.Remove(dir))
	v.Run = j.Run()
	if v.Run != nil && slices.Contains(v.Run.Backups, dir) {
		v.Backup = dir
	}
	v.Removed = v.Run != nil && v.Run.Phase == leftovers.Removed
	const back = "tierctl cleanup node --restore --yes puts back"
	if err != nil {
		return fmt.Errorf("%w; the same command goes on, %s", err, back)
	}
	for _, target := range reached {
		if err := reachable(c.Context, target); err != nil {
			v.Unreachable = append(v.Unreachable, fmt.Sprintf("%s: %v", target, err))
			continue
		}
		fmt.Fprintf(c.App.ErrWriter, "%s can be reached by a new connection\n", target)
	}
	if len(v.Unreachable) > 0 {
		return fmt.Errorf("what could be reached before cannot be any more: %s; %s", strings.Join(v.Unreachable, "; "), back)
	}
	return nil
}

func (v *nodeCleanup) restore(c *cli.Context, o leftovers.Options) (err error) {
	o.Of, o.KeepCNI = v.Run.Of, v.Run.KeepCNI
	j, err := leftovers.OpenJournal(o, nodeFolder)
	if err != nil {
		return refusedRun(err)
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	steps, err := j.Restore()
	if err != nil {
		return err
	}
	err = do(c, steps)
	v.Run = j.Run()
	v.Restored = v.Run.Phase == leftovers.Restored
	return err
}

// do all steps. What one could not do and the next do not need is told at the end.
func do(c *cli.Context, steps []leftovers.Step) error {
	var not []string
	for i, s := range steps {
		switch err := s.Do(c.Context); {
		case errors.Is(err, leftovers.ErrNotAll):
			not = append(not, err.Error())
		case err != nil && i == 0:
			return refusedRun(fmt.Errorf("nothing was done: %w", err))
		case err != nil:
			return statusError{errors.New(strings.Join(append(not, err.Error()), "; ")), exitPartly}
		}
	}
	if len(not) > 0 {
		return statusError{errors.New(strings.Join(not, "; ")), exitPartly}
	}
	return nil
}

// refusedRun marks what is refused as unsafe.
func refusedRun(err error) error {
	for _, is := range []error{leftovers.ErrRunning, leftovers.ErrBusy, leftovers.ErrOther} {
		if errors.Is(err, is) {
			return statusError{err, exitRefused}
		}
	}
	return err
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
	if c.Bool("restore") {
		v.printRestore(c)
		return
	}
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
	for _, m := range v.Mind {
		fmt.Fprintf(w, "mind: %s\n", m)
	}
	if v.Run.Unfinished() && !v.Removed {
		fmt.Fprintf(w, "a run of %s is not at its end: --yes goes on, --restore --yes puts back\n", v.Run.Begun.Format(time.RFC3339))
	}
	switch {
	case v.Removed:
		fmt.Fprintf(w, "removed; tierctl cleanup node --restore --yes puts it back, from %s\n", strings.Join(v.Run.Backups, ", "))
	case len(v.Items) == 0:
		fmt.Fprintln(w, "nothing is left here that would be removed")
	case !c.Bool("yes"):
		fmt.Fprintf(w, "%s would be removed: say --yes\n", counted(len(v.Items), "leftover"))
	}
}

func (v *nodeCleanup) printRestore(c *cli.Context) {
	w := c.App.Writer
	switch {
	case v.Run == nil:
	case v.Restored:
		fmt.Fprintf(w, "put back from %s\n", strings.Join(v.Run.Backups, ", "))
	case !c.Bool("yes"):
		fmt.Fprintf(w, "the run of %s is %s; what it has removed would be put back from %s: say --yes\n", v.Run.Begun.Format(time.RFC3339),
			strings.ToLower(string(v.Run.Phase)), strings.Join(v.Run.Backups, ", "))
	}
}
