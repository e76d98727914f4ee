package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"text/tabwriter"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// shapes are the tables that are compared, each on a road of its own, so that they can take turns every few milliseconds. The floor
// is there twice: how far the two are apart is how far any figure may be off.
var shapes = []struct {
	name string
	install
}{
	{"floor", floor}, {"floor again", floor}, {"no table", nothing}, {"ours", ours}, {"Calico's", calico},
}

var (
	allSizes   = []size{{1, 1}, {1, 5}, {1, 20}, {50, 1}, {50, 5}, {50, 20}, {250, 1}, {250, 5}, {250, 20}}
	shortSizes = []size{{1, 1}, {50, 5}, {250, 20}}
)

// figure is what some traffic costs with a table: the median of its ratios to the floor in the same round, and of nanoseconds.
type figure struct {
	size
	Table   string  `json:"table"`
	Traffic string  `json:"traffic"`
	Nanos   float64 `json:"cpu_ns"`
	Floor   float64 `json:"over_floor"`
	None    float64 `json:"over_no_table"`
}

// packets measures what a packet costs. In each round every table is measured once for each kind of traffic, in turn; a ratio is
// of two figures of one round, and its median over all rounds is what counts.
func packets(args []string) error {
	flags := flag.NewFlagSet("packets", flag.ContinueOnError)
	short := flags.Bool("short", false, "three sizes of nine")
	rounds := flags.Int("rounds", 21, "how often each is measured")
	out := flags.String("json", "", "write the figures to this file too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	sizes := allSizes
	if *short {
		sizes = shortSizes
	}
	var all []figure
	err := apart(func() (err error) { all, err = measure(sizes, *rounds); return err })
	if err != nil {
		return err
	}
	printFigures(all)
	return writeJSON(*out, all)
}

// measure on this thread, which it ties to one CPU.
func measure(sizes []size, rounds int) (all []figure, err error) {
	var one unix.CPUSet
	one.Set(runtime.NumCPU() - 1)
	var roads []*road
	for _, s := range shapes {
		r, err := build(s.name)
		if err != nil {
			return nil, err
		}
		roads = append(roads, r)
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return nil, fmt.Errorf("staying on one CPU: %w", err)
	}
	for _, s := range sizes {
		figures, err := measureSize(roads, s, rounds)
		if err != nil {
			return nil, fmt.Errorf("%d endpoints, %d policies: %w", s.Endpoints, s.Policies, err)
		}
		all = append(all, figures...)
	}
	return all, nil
}

func measureSize(roads []*road, s size, rounds int) ([]figure, error) {
	for i, r := range roads {
		err := r.in(r.node, func() error {
			if err := program("flush ruleset"); err != nil {
				return err
			}
			return shapes[i].install(s)
		})
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", r.name, err)
		}
		if err := r.open(); err != nil {
			return nil, fmt.Errorf("road %s: %w", r.name, err)
		}
		defer r.closeSockets()
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	nanos := make([][][]float64, len(kinds)) // by kind, road and round
	for k := range kinds {
		nanos[k] = make([][]float64, len(roads))
		for round := range rounds + 1 {
			runtime.GC()
			if err := turn(roads, &kinds[k], round, nanos[k]); err != nil {
				return nil, err
			}
		}
	}
	return figures(s, nanos), nil
}

// turn of each road, beginning with another one each round. The first round warms up.
func turn(roads []*road, t *traffic, round int, nanos [][]float64) error {
	for i := range roads {
		i = (i + round) % len(roads)
		r := roads[i]
		if err := netns.Set(r.client); err != nil {
			return err
		}
		ns, err := r.cost(t)
		if err != nil {
			return err
		}
		if round > 0 {
			nanos[i] = append(nanos[i], ns)
		}
	}
	return nil
}

func figures(s size, nanos [][][]float64) (out []figure) {
	for i := range shapes {
		for k := range kinds {
			n := nanos[k]
			out = append(out, figure{s, shapes[i].name, kinds[k].name, median(slices.Clone(n[i])), median(ratios(n[i], n[0])), median(ratios(n[i], n[2]))})
		}
	}
	return out
}

func ratios(a, b []float64) (out []float64) {
	for i := range a {
		out = append(out, a[i]/b[i])
	}
	return out
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

func printFigures(all []figure) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "endpoints\tpolicies\ttable\t")
	for _, k := range kinds {
		fmt.Fprintf(w, "%s, ns\t÷ floor\t÷ no table\t", k.name)
	}
	for i, f := range all {
		if i%len(kinds) == 0 {
			fmt.Fprintf(w, "\n%d\t%d\t%s\t", f.Endpoints, f.Policies, f.Table)
		}
		fmt.Fprintf(w, "%.0f\t%.2f\t%.2f\t", f.Nanos, f.Floor, f.None)
	}
	fmt.Fprintln(w)
	_ = w.Flush()
}
