package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// endured is one line of the table that hostile prints: what an agent pays for objects that somebody wrote to hurt it.
type endured struct {
	Case    string  `json:"case"`
	MB      float64 `json:"mb"`       // the objects, as JSON
	Admit   float64 `json:"admit_s"`  // all of them
	Refused string  `json:"refused"`  // by which, or ""
	Set     float64 `json:"set_s"`    // told to the Index
	Plan    float64 `json:"plan_s"`   // made anew
	Table   float64 `json:"table_s"`  // compiled
	Apply   float64 `json:"apply_s"`  // committed, beside what was there
	Again   float64 `json:"again_s"`  // a hostile object is written again, otherwise
	Others  float64 `json:"others_s"` // somebody else's pod comes, meanwhile
	Peak    float64 `json:"peak_mb"`  // of the process
	Sets    int     `json:"sets"`
	Elems   int     `json:"elems"`
	Chains  int     `json:"chains"`
	Rules   int     `json:"rules"`
	Failed  string  `json:"failed"` // why it is not in force
}

// hostile measures each case in a process of its own, which is stopped when it takes too much.
func hostile(args []string) error {
	flags := flag.NewFlagSet("hostile", flag.ContinueOnError)
	short := flags.Bool("short", false, "a tenth of the sizes")
	one := flags.String("one", "", "measure this case alone, as JSON")
	only := flags.String("only", "", "the cases whose name has this in it")
	most := flags.Duration("most", 2*time.Minute, "how long a case may take")
	out := flags.String("json", "", "write the figures to this file too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	size := 1
	if *short {
		size = 10
	}
	if *one != "" {
		return endureOne(*one, size)
	}
	var all []endured
	for _, c := range attacks {
		if !strings.Contains(c.name, *only) {
			continue
		}
		e, err := endure(c.name, *short, *most)
		if err != nil {
			return fmt.Errorf("measuring %s: %w", c.name, err)
		}
		printEndured([]endured{e})
		all = append(all, e)
	}
	printEndured(all)
	return writeJSON(*out, all)
}

// endure a case in a process that may take so long, and so much memory.
func endure(name string, short bool, most time.Duration) (e endured, err error) {
	cmd := exec.Command("/proc/self/exe", "hostile", "-one", name, fmt.Sprintf("-short=%v", short))
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "GOTRACEBACK=none")
	stop := time.AfterFunc(most, func() { _ = cmd.Process.Kill() })
	text, err := cmd.Output()
	if !stop.Stop() {
		return endured{Case: name, Failed: "took more than " + most.String()}, nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 { // a Go program's end that has no memory
		return endured{Case: name, Failed: fmt.Sprintf("took more than %d GiB", mostMemory>>30)}, nil
	}
	if err != nil {
		return e, err
	}
	return e, json.Unmarshal(text, &e)
}

// mostMemory of a case: address space, of which Go needs more than it uses.
const mostMemory = 12 << 30

func endureOne(name string, size int) error {
	if err := unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: mostMemory, Max: mostMemory}); err != nil {
		return fmt.Errorf("limiting memory: %w", err)
	}
	for _, c := range attacks {
		if c.name != name {
			continue
		}
		e := endured{Case: name}
		if _, err := inNewNamespace(func() error { return e.measure(c, size) }); err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(e)
	}
	return fmt.Errorf("there is no case %q", name)
}

// timed adds how long f takes to a figure.
func timed(into *float64, f func()) {
	begin := time.Now()
	f()
	*into += time.Since(begin).Seconds()
}

// victim is a node that has its pods and policies in force already.
var victim = cluster{pods: 10_000, local: 100, policies: 100}

func (e *endured) measure(c attack, size int) error {
	n, err := victim.live()
	if err != nil {
		return err
	}
	defer n.kernel.Close()
	objects := c.objects(size)
	for _, o := range objects {
		e.admit(o)
	}
	for _, o := range objects {
		timed(&e.Set, func() { err = n.index.Set(o) })
		if err != nil && !policy.OnlyNotices(err) {
			e.Failed = first(err.Error())
		}
	}
	e.program(n)
	again := c.again(size)
	timed(&e.Again, func() { _, _, err = n.say(again, false) })
	if err != nil {
		e.Failed = first(err.Error())
	}
	timed(&e.Others, func() { _, _, err = n.say(n.pod(n.pods, "n0", 3), false) })
	if err != nil {
		e.Failed = first(err.Error())
	}
	e.Peak, err = peak()
	return err
}

// admit an object as the store does.
func (e *endured) admit(o client.Object) {
	text, err := json.Marshal(o)
	u := &unstructured.Unstructured{}
	if err == nil {
		err = u.UnmarshalJSON(text)
	}
	if err != nil {
		e.Refused = err.Error()
		return
	}
	e.MB += float64(len(text)) / 1e6
	var errs field.ErrorList
	timed(&e.Admit, func() { _, errs = store.Admit(u, nil) })
	if len(errs) > 0 {
		e.Refused = first(errs[0].Error())
	}
}

// program what the index says, step by step.
func (e *endured) program(n *liveNode) {
	var plan *policy.Plan
	timed(&e.Plan, func() { plan = n.index.Plan() })
	var table *ruleset.Table
	var changes []ruleset.Change
	timed(&e.Table, func() { table, changes = n.compiler.Compile(plan) })
	var err error
	timed(&e.Apply, func() { _, err = n.kernel.Change(table, changes) })
	if err != nil {
		e.Failed = first(err.Error())
	}
	e.Sets, e.Chains = len(table.Sets)+len(table.Maps), len(table.Chains)
	for _, s := range table.Sets {
		e.Elems += s.Elems.Len()
	}
	for _, m := range table.Maps {
		e.Elems += len(m.Entries)
	}
	for _, c := range table.Chains {
		e.Rules += len(c.Rules)
	}
}

// first line of a text, as much of it as fits into a table.
func first(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line[:min(len(line), 160)]
}

func printEndured(all []endured) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "hostile\tMB\tAdmit, s\tSet, s\tPlan, s\tCompile, s\tApply, s\tagain, s\tothers, s\tpeak, MiB\tsets\telements\tchains\trules\trefused or failed\t")
	for _, e := range all {
		fmt.Fprintf(w, "%s\t%.1f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.3f\t%.0f\t%d\t%d\t%d\t%d\t%s\t\n", e.Case, e.MB, e.Admit, e.Set, e.Plan, e.Table, e.Apply,
			e.Again, e.Others, e.Peak, e.Sets, e.Elems, e.Chains, e.Rules, strings.Trim(e.Refused+"; "+e.Failed, "; "))
	}
	_ = w.Flush()
}
