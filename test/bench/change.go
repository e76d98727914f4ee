package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// changed is one line of the table that change prints: how long it takes from Index.Set until the kernel has what was said.
type changed struct {
	Change string  `json:"change"`
	Pods   int     `json:"pods"`
	Median float64 `json:"median_ms"`
	P99    float64 `json:"p99_ms"`
	Growth float64 `json:"growth"` // of the median, over the smallest cluster
	Wrote  string  `json:"wrote"`  // what the last one changed in the kernel
}

// step is one change: an object, and whether it goes.
type step struct {
	name string
	do   func(n *liveNode, turn int) (o client.Object, goes bool)
}

// series are what is measured together, in turns: the last of a series undoes the first, so that the cluster stays as large.
var series = [][]step{
	{
		{"another node's pod comes", func(n *liveNode, turn int) (client.Object, bool) { return n.pod(n.pods+turn, "n7", turn), false }},
		{"another node's pod is relabelled", func(n *liveNode, turn int) (client.Object, bool) { return n.pod(n.pods+turn, "n7", turn+1), false }},
		{"another node's pod goes", func(n *liveNode, turn int) (client.Object, bool) { return n.pod(n.pods+turn, "n7", turn+1), true }},
	}, {
		{"an own pod comes", func(n *liveNode, turn int) (client.Object, bool) { return n.pod(n.pods+turn, "n0", turn), false }},
		{"an own pod is relabelled", func(n *liveNode, turn int) (client.Object, bool) { return n.pod(n.pods+turn, "n0", turn+1), false }},
		{"an own pod goes", func(n *liveNode, turn int) (client.Object, bool) { return n.pod(n.pods+turn, "n0", turn+1), true }},
	}, {
		{"a policy is edited", func(n *liveNode, turn int) (client.Object, bool) {
			return n.policy(turn%n.policies, 1080-turn%2), false
		}},
	},
}

// liveNode is a node's index, compiler and kernel.
type liveNode struct {
	cluster
	index    *policy.Index
	compiler *ruleset.Compiler
	kernel   *nft.Conn
}

func (c cluster) live() (*liveNode, error) {
	n := &liveNode{cluster: c, compiler: ruleset.NewCompiler(ruleset.Options{})}
	var err error
	if n.index, _, err = c.index(); err != nil {
		return nil, err
	}
	if _, err := inNewNamespace(func() error {
		n.kernel, err = nft.Open(ruleset.DefaultTable)
		return err
	}); err != nil {
		return nil, err
	}
	table, changes := n.compiler.Compile(n.index.Plan())
	_, err = n.kernel.Change(table, changes)
	return n, err
}

// say an object, or that it has gone, and give how long it takes until the kernel has it.
func (n *liveNode) say(o client.Object, goes bool) (took float64, wrote []ruleset.Change, err error) {
	begin := time.Now()
	if goes {
		n.index.Delete(v3.RefOf(o.(v3.Object)))
	} else if err := n.index.Set(o); err != nil {
		return 0, nil, err
	}
	table, changes := n.compiler.Compile(n.index.Plan())
	wrote, err = n.kernel.Change(table, changes)
	return time.Since(begin).Seconds() * 1000, wrote, err
}

// change measures what one change costs in clusters of several sizes, of which each has its turn after the other.
func change(args []string) error {
	flags := flag.NewFlagSet("change", flag.ContinueOnError)
	short := flags.Bool("short", false, "fewer turns, and no cluster of 10k")
	turns := flags.Int("turns", 500, "how often each change is made")
	out := flags.String("json", "", "write the figures to this file too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	sizes := []int{1_000, 10_000, 100_000}
	if *short {
		sizes, *turns = []int{1_000, 100_000}, min(*turns, 200)
	}
	var nodes []*liveNode
	for _, pods := range sizes {
		n, err := cluster{pods: pods, local: 250, policies: 1000}.live()
		if err != nil {
			return fmt.Errorf("a node of a cluster of %d pods: %w", pods, err)
		}
		defer n.kernel.Close()
		nodes = append(nodes, n)
	}
	var all []changed
	for _, steps := range series {
		more, err := measureChanges(nodes, steps, *turns)
		if err != nil {
			return err
		}
		all = append(all, more...)
	}
	printChanges(all)
	return writeJSON(*out, all)
}

// measureChanges makes the changes of a series, each node's after the other's, turn by turn.
func measureChanges(nodes []*liveNode, steps []step, turns int) (all []changed, err error) {
	took := make([][][]float64, len(steps)) // by step and node
	wrote := make([][]string, len(steps))
	for s := range steps {
		took[s], wrote[s] = make([][]float64, len(nodes)), make([]string, len(nodes))
	}
	runtime.GC() // what another series has left behind
	for turn := range turns {
		for s, step := range steps {
			for i, n := range nodes {
				o, goes := step.do(n, turn)
				ms, changes, err := n.say(o, goes)
				if err != nil {
					return nil, fmt.Errorf("%s, of %d pods: %w", step.name, n.pods, err)
				}
				took[s][i] = append(took[s][i], ms)
				wrote[s][i] = summary(changes)
			}
		}
	}
	for s, step := range steps {
		for i, n := range nodes {
			t := took[s][i]
			slices.Sort(t)
			c := changed{Change: step.name, Pods: n.pods, Median: t[len(t)/2], P99: t[len(t)*99/100], Wrote: wrote[s][i]}
			c.Growth = c.Median / took[s][0][len(t)/2]
			all = append(all, c)
		}
	}
	return all, nil
}

// summary of changes: how many of each sort.
func summary(changes []ruleset.Change) string {
	count := map[string]int{}
	var order []string
	for _, c := range changes {
		what := c.Op.String() + " "
		switch {
		case c.Set != nil:
			what += "set"
		case c.Map != nil:
			what += "map"
		default:
			what += "chain"
		}
		if c.Within && c.Chain == nil {
			what += " members"
		}
		if count[what]++; count[what] == 1 {
			order = append(order, what)
		}
	}
	text := ""
	for i, what := range order {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%d %s", count[what], what)
	}
	return text
}

func printChanges(all []changed) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "change\tpods\tmedian, ms\tp99, ms\t÷ the smallest\twrote\t")
	for _, c := range all {
		fmt.Fprintf(w, "%s\t%d\t%.3f\t%.3f\t%.2f\t%s\t\n", c.Change, c.Pods, c.Median, c.P99, c.Growth, c.Wrote)
	}
	_ = w.Flush()
}
