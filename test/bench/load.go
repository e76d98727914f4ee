package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// loaded is one line of the table that load prints: the same ruleset, by `nft -f` and by us.
type loaded struct {
	Case  string  `json:"case"`
	NFT   float64 `json:"nft_ms"`
	Ours  float64 `json:"ours_ms"`
	Ratio float64 `json:"ratio"`
}

type loadCase struct {
	name  string
	long  bool // left out by -short
	table func() *ruleset.Table
	text  func() string // what nft reads; nil is the text of our table
}

var loadCases = []loadCase{
	{"1k rules", false, func() *ruleset.Table { return ruleTable(1_000, 250) }, nil},
	{"10k rules", false, func() *ruleset.Table { return ruleTable(10_000, 2_500) }, nil},
	{"50k rules", true, func() *ruleset.Table { return ruleTable(50_000, 2_500) }, nil},
	{"hash set of 1k", false, func() *ruleset.Table { return setTable(1_000, false) }, nil},
	{"hash set of 100k", false, func() *ruleset.Table { return setTable(100_000, false) }, nil},
	{"hash set of 500k", true, func() *ruleset.Table { return setTable(500_000, false) }, nil},
	{"interval set of 1k", false, func() *ruleset.Table { return setTable(1_000, true) }, nil},
	{"interval set of 100k", false, func() *ruleset.Table { return setTable(100_000, true) }, nil},
	{"interval set of 500k", true, func() *ruleset.Table { return setTable(500_000, true) }, nil},
	{"250 x 20 policies, in Calico's shape", false, func() *ruleset.Table { return policyTable(size{250, 20}) }, size{250, 20}.calico},
	{"1 x 1000 policies, in Calico's shape", false, func() *ruleset.Table { return policyTable(size{1, 1000}) }, size{1, 1000}.calico},
}

// load measures how long it takes to commit a ruleset to a kernel that has none: by the nft program, which reads our own text, and
// by Apply. Each time in a new network namespace, the one after the other, and the medians count. What is there before the first
// system call (the text, the Table) is not measured; the start of the program is, as it is part of programming by program.
func load(args []string) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	short := flags.Bool("short", false, "leave out the largest rulesets")
	rounds := flags.Int("rounds", 5, "how often each is measured")
	out := flags.String("json", "", "write the figures to this file too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var all []loaded
	for _, c := range loadCases {
		if c.long && *short {
			continue
		}
		l, err := measureLoad(c, *rounds)
		if err != nil {
			return fmt.Errorf("loading %s: %w", c.name, err)
		}
		all = append(all, l)
	}
	printLoads(all)
	return writeJSON(*out, all)
}

func printLoads(all []loaded) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "load\tnft -f, ms\tours, ms\tnft -f ÷ ours\t")
	for _, l := range all {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t\n", l.Case, l.NFT, l.Ours, l.Ratio)
	}
	_ = w.Flush()
}

func measureLoad(c loadCase, rounds int) (loaded, error) {
	table := c.table()
	if c.text == nil {
		c.text = table.String
	}
	text := []byte(c.text())
	var theirs, ours []float64
	for range rounds {
		for _, m := range []struct {
			into *[]float64
			load func() error
		}{{&theirs, func() error { return byProgram(text) }}, {&ours, func() error { return byUs(table) }}} {
			ms, err := inNewNamespace(m.load)
			if err != nil {
				return loaded{}, err
			}
			*m.into = append(*m.into, ms)
		}
	}
	l := loaded{Case: c.name, NFT: middle(theirs), Ours: middle(ours)}
	l.Ratio = l.NFT / l.Ours
	return l, nil
}

func middle(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// policyTable is ours for the policies that Calico's shape is made of.
func policyTable(s size) *ruleset.Table {
	table, err := s.table()
	if err != nil {
		panic(err) // the policies are our own
	}
	return table
}

// byProgram gives nft its text by a pipe; the child is in the caller's namespace.
func byProgram(text []byte) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = bytes.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft -f: %w: %.200s", err, out)
	}
	return nil
}

func byUs(t *ruleset.Table) error {
	c, err := nft.Open(t.Name)
	if err != nil {
		return err
	}
	_, err = c.Apply(t)
	return errors.Join(err, c.Close())
}

// inNewNamespace gives how many milliseconds f takes on a thread that is alone in a new network namespace.
func inNewNamespace(f func() error) (ms float64, err error) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("making a network namespace: %w", err)
			return
		}
		runtime.GC()
		begin := time.Now()
		err := f()
		ms = float64(time.Since(begin)) / float64(time.Millisecond)
		done <- err
	}()
	err = <-done
	return ms, err
}

// ruleTable has so many rules of the form that policies have, in so many chains.
func ruleTable(rules, chains int) *ruleset.Table {
	t := &ruleset.Table{Name: ruleset.DefaultTable, Sets: []*ruleset.Set{{Name: "addr4-peers", Type: ruleset.TypeIPv4, Elems: ruleset.ElemsOf(addresses(10, false)...)}}}
	for i := range chains {
		c := ruleset.Chain{Name: fmt.Sprintf("policy/gnp/number-%06d/ingress", i)}
		for j := range rules / chains {
			port := uint16(1000 + j)
			c.Rules = append(c.Rules, ruleset.Rule{ID: ruleset.RuleID(fmt.Sprintf("gnp/number-%06d ingress %d", i, j)), Counter: true,
				Verdict: ruleset.Verdict{Kind: ruleset.Accept}, Matches: []ruleset.Match{
					{Key: ruleset.KeyL4Proto, Elem: ruleset.Elem{Num: unix.IPPROTO_TCP}},
					{Key: ruleset.KeyDPort, Elem: ruleset.Elem{Port: port, PortTo: port}},
					{Key: ruleset.KeyIPSAddr, Set: "addr4-peers"}}})
		}
		t.Chains = append(t.Chains, &c)
	}
	return t
}

func setTable(n int, interval bool) *ruleset.Table {
	return &ruleset.Table{Name: ruleset.DefaultTable,
		Sets: []*ruleset.Set{{Name: "addr4-peers", Type: ruleset.TypeIPv4, Interval: interval, Elems: ruleset.ElemsOf(addresses(n, interval)...)}}}
}

// addresses are n of 10.0.0.0/8 that do not touch, or as many pairs of neighbours.
func addresses(n int, pairs bool) []ruleset.Elem {
	out := make([]ruleset.Elem, 0, n)
	a := netip.AddrFrom4([4]byte{10, 0, 0, 0})
	for range n {
		e := ruleset.Elem{From: a, To: a}
		if pairs {
			e.To = a.Next()
		}
		out = append(out, e)
		a = a.Next().Next().Next().Next()
	}
	return out
}
