// Command replay builds the cluster that objects describe, runs a real agent on each of its nodes, sends each flow as real
// packets, and holds what it sees against what `tierctl trace` says. It takes any objects, not only ours.
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

	"github.com/tierwall/tierwall/controllers/store"
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

func (d differs) Error() string { return fmt.Sprintf("%d flows differ from what trace says", int(d)) }
func (d differs) Status() int   { return 1 }

// replay is one run.
type replay struct {
	files   files
	flows   string
	tierctl string
	action  string
	say     func(format string, args ...any) // what is being done
	in      io.Reader                        // what "-" is
	stdin   string                           // objects that came from there, for tierctl to read again

	lines    []map[string]json.RawMessage // of the flows, as they were written
	packets  []policy.Flow
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
	set.StringVar(&r.flows, "flows", "", "`FILE` of flows or -, one JSON object a line, as tierctl trace reads it")
	set.StringVar(&r.tierctl, "tierctl", "bin/tierctl", "`PATH` of tierctl")
	set.StringVar(&r.action, "default-endpoint-to-host-action", "", "`ACTION` of the agents and of trace")
	set.BoolVar(&verbose, "v", false, "say what is being done")
	if err := set.Parse(args); err != nil {
		return err
	}
	if len(r.files) == 0 || r.flows == "" || set.NArg() > 0 {
		return errors.New("usage: replay -f OBJECTS --flows FLOWS")
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
	r.say("%d nodes, %d workloads and %d outsiders stand after %s", len(cluster.Nodes), len(cluster.Workloads), len(cluster.Outside), time.Since(start).Round(time.Millisecond))
	seen, err := r.send(ctx, l)
	if err != nil {
		return err
	}
	r.say("%d flows sent after %s", len(seen), time.Since(start).Round(time.Millisecond))
	return r.print(seen, out, errs)
}

// read takes in objects and flows, and gives every flow that has ports a source port of its own.
func (r *replay) read() (c lab.Cluster, err error) {
	if slices.Contains(r.files, "-") {
		text, err := io.ReadAll(r.in)
		if err != nil {
			return c, fmt.Errorf("reading objects from standard input: %w", err)
		}
		r.stdin = string(text)
	}
	index := policy.NewIndex("", policy.Options{})
	for _, d := range store.Read(r.files, store.ReadOptions{Stdin: strings.NewReader(r.stdin)}) {
		for _, e := range d.Errors {
			err = errors.Join(err, fmt.Errorf("%s:%d:%d: %s: %s", d.File, e.Line, e.Column, e.Field, e.Message))
		}
		if d.Object != nil {
			_ = index.Set(d.Object) // what cannot be enforced is what the agents and trace say about it
		}
	}
	if err != nil {
		return c, err
	}
	text, err := r.flowsText()
	if err != nil {
		return c, fmt.Errorf("reading flows: %w", err)
	}
	for n, line := range strings.Split(string(text), "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		if err := r.flow(index, line); err != nil {
			return c, fmt.Errorf("%s:%d: %w", r.flows, n+1, err)
		}
	}
	return lab.ClusterOf(index.Plan(), r.packets), nil
}

func (r *replay) flowsText() ([]byte, error) {
	if r.flows == "-" {
		return io.ReadAll(r.in)
	}
	return os.ReadFile(r.flows)
}

const firstPort, ports = 49152, 16384 // those that clients take

func (r *replay) flow(index *policy.Index, line string) error {
	var spec policy.FlowSpec
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(line), &spec); err != nil {
		return fmt.Errorf("not a flow: %w", err)
	}
	if err := json.Unmarshal([]byte(line), &fields); err != nil {
		return fmt.Errorf("not a flow: %w", err)
	}
	f, err := index.Flow(spec)
	if err != nil {
		return err
	}
	if policy.HasPorts(f.Proto) && spec.SrcPort == 0 {
		f.SrcPort = uint16(firstPort + len(r.packets)%ports)
		fields["srcPort"] = fmt.Appendf(nil, "%d", f.SrcPort)
	}
	r.packets, r.lines = append(r.packets, f), append(r.lines, fields)
	return nil
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
	out, err := r.command(dir).Run(ctx, r.stdin, r.withFiles("trace", "--flows", path, "-o", "json", "--default-endpoint-to-host-action", r.action)...)
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

// send sends all flows, and those that did not do what trace says once more with more patience.
func (r *replay) send(ctx context.Context, l *lab.Lab) ([]lab.Observation, error) {
	seen, err := l.Send(ctx, r.packets, patience)
	if err != nil {
		return nil, err
	}
	var again []policy.Flow
	var at []int
	for i, o := range seen {
		if r.differs(i, o) {
			again, at = append(again, r.packets[i]), append(at, i)
		}
	}
	more, err := l.Send(ctx, again, morePatience)
	for k, o := range more {
		seen[at[k]] = o
	}
	return seen, err
}

// differs tells whether trace had said something else of a flow. What is not answered differs from either verdict.
func (r *replay) differs(i int, o lab.Observation) bool {
	return o != lab.Unsent && o.String() != r.expected(i)
}

// observed is Allow for a packet that has come where it was sent, answered or not.
func observed(o lab.Observation) string {
	if o == lab.Unanswered {
		o = lab.Arrived
	}
	return o.String()
}

func (r *replay) expected(i int) string { return strings.Trim(string(r.verdicts[i]["verdict"]), `"`) }

func (r *replay) print(seen []lab.Observation, out, errs io.Writer) error {
	bad, unsent := 0, 0
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for i, o := range seen {
		v := r.verdicts[i]
		v["observed"] = fmt.Appendf(nil, "%q", observed(o))
		if o == lab.Unanswered {
			v["answered"] = json.RawMessage("false")
		}
		if o == lab.Unsent {
			unsent++
		}
		if r.differs(i, o) {
			bad++
			fmt.Fprintf(errs, "replay: flow %d %s: trace says %s, seen %s\n", i, mustText(r.lines[i]), r.expected(i), o)
		}
		if err := encoder.Encode(v); err != nil {
			return err
		}
	}
	if unsent > 0 {
		fmt.Fprintf(errs, "replay: %d flows were not sent, for no flow begins with such a packet or nobody can have such an address\n", unsent)
	}
	if bad > 0 {
		return differs(bad)
	}
	return nil
}

func mustText(line map[string]json.RawMessage) string {
	text, err := json.Marshal(line)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
