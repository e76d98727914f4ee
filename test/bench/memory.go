package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// held is one line of the table that memory prints: what Index, Plan and Table of one node hold, and how long the first plan takes.
type held struct {
	Pods     int     `json:"pods"`
	Local    int     `json:"local"`
	Policies int     `json:"policies"`
	Heap     float64 `json:"heap_mb"` // that stays, with the objects gone
	Peak     float64 `json:"peak_mb"` // of the whole process, resident
	Index    float64 `json:"index_s"` // to tell the Index all objects
	Plan     float64 `json:"plan_s"`
	Compile  float64 `json:"compile_s"`
}

var memorySizes = []held{
	{Pods: 10_000, Policies: 1_000}, {Pods: 10_000, Policies: 10_000},
	{Pods: 100_000, Policies: 1_000}, {Pods: 100_000, Policies: 10_000},
	{Pods: 250_000, Policies: 1_000}, {Pods: 250_000, Policies: 10_000},
}

// memory measures each size in a process of its own.
func memory(args []string) error {
	flags := flag.NewFlagSet("memory", flag.ContinueOnError)
	short := flags.Bool("short", false, "the smallest and the largest only")
	one := flags.String("one", "", "measure this size alone, as JSON")
	out := flags.String("json", "", "write the figures to this file too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *one != "" {
		return measureOne(*one)
	}
	sizes := memorySizes
	if *short {
		sizes = []held{sizes[0], sizes[len(sizes)-1]}
	}
	for i := range sizes {
		sizes[i].Local = 200
		size, err := json.Marshal(sizes[i])
		if err != nil {
			return err
		}
		cmd := exec.Command("/proc/self/exe", "memory", "-one", string(size))
		cmd.Stderr = os.Stderr
		text, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("measuring %s: %w", size, err)
		}
		if err := json.Unmarshal(text, &sizes[i]); err != nil {
			return fmt.Errorf("measuring %s: %w", size, err)
		}
	}
	printHeld(sizes)
	return writeJSON(*out, sizes)
}

func measureOne(size string) error {
	var h held
	if err := json.Unmarshal([]byte(size), &h); err != nil {
		return err
	}
	x, took, err := cluster{pods: h.Pods, local: h.Local, policies: h.Policies}.index()
	if err != nil {
		return err
	}
	h.Index = took.Seconds()
	begin := time.Now()
	seconds := func() float64 {
		took := time.Since(begin).Seconds()
		begin = time.Now()
		return took
	}
	plan := x.Plan()
	h.Plan = seconds()
	compiler := ruleset.NewCompiler(ruleset.Options{})
	table, _ := compiler.Compile(plan)
	h.Compile = seconds()
	if h.Peak, err = peak(); err != nil {
		return err
	}
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	h.Heap = float64(stats.HeapAlloc) / (1 << 20)
	runtime.KeepAlive(x)
	runtime.KeepAlive(table)
	runtime.KeepAlive(compiler)
	return json.NewEncoder(os.Stdout).Encode(h)
}

// peak is the most memory that the process has had, in MiB.
func peak() (mb float64, err error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kb float64
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		return 0, fmt.Errorf("reading VmHWM: %w", err)
	}
	return kb / 1024, nil
}

func printHeld(all []held) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "pods\tof these local\tpolicies\theap, MiB\tpeak, MiB\tindex, s\tfirst plan, s\ttable, s\t")
	for _, h := range all {
		fmt.Fprintf(w, "%d\t%d\t%d\t%.0f\t%.0f\t%.2f\t%.2f\t%.2f\t\n", h.Pods, h.Local, h.Policies, h.Heap, h.Peak, h.Index, h.Plan, h.Compile)
	}
	_ = w.Flush()
}
