// Command replay builds the cluster that objects describe, runs a real agent on each of its nodes, sends each flow as real
// packets, and holds what it sees against what `tierctl trace` says. It takes any objects, not only ours.
//
// --setup names a file of lines
//
//	NODE: COMMAND …
//
// (and # comments): each is run with sh -c in the node's network namespace, in order, once the agents have programmed and before
// anything is sent. So nodes get what others would give them: NAT, routes, sysctls, rules of other programs. A command that fails
// ends the run.
//
// A flow is what tierctl trace reads. One with origTo is sent there, and arrives at its to if a setup command translates it; via,
// inIface and outIface are the way that it is led, and who is behind inIface sends it, from whatever address. It may also have
//
//	"expect": "Allow"   it arrives, and is answered where its protocol has answers
//	"expect": "Deny"    it does not arrive, or no answer comes back
//
// and is held against that too. A packet that an untracked policy lets through is one of trace's Allow also when the answer to it
// is lost, for the answer is judged on its own: "observed" is about the packet, "answered": false about its answer.
//
// Exit status: 0 no difference; 1 some; 2 the input is wrong; 3 this machine lets us make no network namespaces.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	var status interface{ Status() int }
	switch {
	case err == nil:
		return
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case errors.As(err, &status):
		fmt.Fprintf(os.Stderr, "replay: %v\n", err)
		os.Exit(status.Status())
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "replay: interrupted")
		os.Exit(130) // as a shell says it
	case errors.Is(err, lab.ErrNoNamespaces):
		fmt.Fprintf(os.Stderr, "replay: %v\n", err)
		os.Exit(3)
	}
	fmt.Fprintf(os.Stderr, "replay: %v\n", err)
	os.Exit(2)
}

// differs is the error for flows whose packets did not do what trace said.
type differs int

func (d differs) Error() string {
	return fmt.Sprintf("%d flows differ from what trace says or the flow expects", int(d))
}

func (d differs) Status() int { return 1 }

// replay is one run.
type replay struct {
	files   files
	flows   string
	setup   string // "" for none
	tierctl string
	action  string
	say     func(format string, args ...any) // what is being done
	in      io.Reader                        // what "-" is
	stdin   string                           // objects that came from there, for tierctl to read again

	lines    []map[string]json.RawMessage // of the flows, as they were written
	packets  []policy.Flow
	expects  map[int]lab.Observation      // of the flows that expect something: Arrived or Lost
	steps    []step                       // of the setup
	verdicts []map[string]json.RawMessage // of trace
}

type files []string

func (f *files) String() string     { return strings.Join(*f, ",") }
func (f *files) Set(s string) error { *f = append(*f, s); return nil }

func run(ctx context.Context, args []string, out, errs io.Writer) error {
	r := &replay{in: os.Stdin, say: func(string, ...any) {}}
	verbose := false
	set := flag.NewFlagSet("replay", flag.ContinueOnError)
	set.SetOutput(errs)
	set.Var(&r.files, "f", "`FILE` or directory of objects, or -; may be repeated")
	set.StringVar(&r.flows, "flows", "", "`FILE` of flows or -, one JSON object a line, as tierctl trace reads it;\n"+
		"it may say \"expect\": \"Allow\", that it is answered, or \"Deny\", and is then held against that too")
	set.StringVar(&r.setup, "setup", "", "`FILE` of lines NODE: COMMAND, run on the nodes before anything is sent")
	set.StringVar(&r.tierctl, "tierctl", "bin/tierctl", "`PATH` of tierctl")
	set.StringVar(&r.action, "default-endpoint-to-host-action", "", "`ACTION` of the agents and of trace")
	set.BoolVar(&verbose, "v", false, "say what is being done")
	if err := set.Parse(args); err != nil {
		return err
	}
	if len(r.files) == 0 || r.flows == "" || set.NArg() > 0 {
		return errors.New("usage: replay -f OBJECTS --flows FLOWS [--setup SETUP]")
	}
	if r.flows == "-" && slices.Contains(r.files, "-") {
		return errors.New("objects and flows cannot both come from standard input")
	}
	if verbose {
		r.say = func(format string, args ...any) { fmt.Fprintf(errs, "replay: "+format+"\n", args...) }
	}
	if err := lab.Enter(); err != nil {
		return err
	}
	return r.run(ctx, out, errs)
}

func (r *replay) run(ctx context.Context, out, errs io.Writer) error {
	dir, err := os.MkdirTemp("", "tierwall-replay-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cluster, err := r.read()
	if err != nil {
		return err
	}
	if err := r.trace(ctx, dir); err != nil {
		return err
	}
	start := time.Now()
	l, err := lab.Build(cluster)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := r.enforce(ctx, l, dir); err != nil {
		return err
	}
	if err := r.setUp(ctx, l); err != nil {
		return err
	}
	r.say("%d nodes, %d workloads and %d outsiders stand after %s", len(cluster.Nodes), len(cluster.Workloads),
		len(cluster.Outside)+len(cluster.Beyond), time.Since(start).Round(time.Millisecond))
	seen, err := r.send(ctx, l)
	if err != nil {
		return err
	}
	r.say("%d flows sent after %s", len(seen), time.Since(start).Round(time.Millisecond))
	return r.print(seen, out, errs)
}

// trace asks tierctl what it expects.
func (r *replay) trace(ctx context.Context, dir string) error {
	var in bytes.Buffer
	for _, l := range r.lines {
		if err := json.NewEncoder(&in).Encode(l); err != nil {
			return err
		}
	}
	path := filepath.Join(dir, "flows.jsonl")
	if err := os.WriteFile(path, in.Bytes(), 0o600); err != nil {
		return err
	}
	out, err := r.command(dir).Run(ctx, r.stdin, r.withFiles("trace", "--flows", path, "-o", "json",
		"--default-endpoint-to-host-action", r.action)...)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(out) {
		v := map[string]json.RawMessage{}
		if err := json.Unmarshal(line, &v); err != nil {
			return fmt.Errorf("reading what trace says: %w", err)
		}
		r.verdicts = append(r.verdicts, v)
	}
	if len(r.verdicts) != len(r.packets) {
		return fmt.Errorf("trace gave %d verdicts on %d flows", len(r.verdicts), len(r.packets))
	}
	return nil
}

func (r *replay) command(dir string) lab.Tierctl {
	return lab.Tierctl{Path: r.tierctl, Datastore: "bolt:" + filepath.Join(dir, "store.db")}
}

func (r *replay) withFiles(args ...string) []string {
	for _, f := range r.files {
		args = append(args, "-f", f)
	}
	return args
}

// enforce writes the objects to a store and waits until every agent has programmed them.
func (r *replay) enforce(ctx context.Context, l *lab.Lab, dir string) error {
	t := r.command(dir)
	revision, err := t.Write(ctx, r.stdin, r.withFiles("apply")...)
	if err != nil {
		return err
	}
	if err := l.StartAgents(t, "--default-endpoint-to-host-action", r.action); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	return l.WaitFor(ctx, revision)
}

const (
	patience     = 700 * time.Millisecond
	morePatience = 3 * time.Second
)

// send sends all flows, and those that did not do what was said of them once more with more patience.
func (r *replay) send(ctx context.Context, l *lab.Lab) ([]lab.Observation, error) {
	seen, err := l.Send(ctx, r.packets, patience)
	if err != nil {
		return nil, err
	}
	var again []policy.Flow
	var at []int
	for i, o := range seen {
		if len(r.differences(i, o)) > 0 {
			again, at = append(again, r.packets[i]), append(at, i)
		}
	}
	more, err := l.Send(ctx, again, morePatience)
	for k, o := range more {
		seen[at[k]] = o
	}
	return seen, err
}
