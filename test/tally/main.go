// Command tally reads the output of `go test -json`, prints what failed and how each package fared, and counts: tests that
// passed, that failed, and that were left out and why. Its exit status is 1 when a test failed or, where CI=true, was left out.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is a line of go test -json; see go doc test2json.
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

type tally struct {
	out                    io.Writer
	passed, failed, skip   int
	output                 map[string][]string // of each test that has not ended
	reasons                map[string]int      // for which tests were left out
	brokenPackages, builds int
}

func main() {
	t := &tally{out: os.Stdout, output: map[string][]string{}, reasons: map[string]int{}}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(t.out, lines.Text()) // what go says before it tests
			continue
		}
		t.take(e)
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintf(os.Stderr, "tally: %v\n", err)
		os.Exit(1)
	}
	if !t.end(os.Getenv("CI") == "true") {
		os.Exit(1)
	}
}

func (t *tally) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		t.output[key] = append(t.output[key], e.Output)
		return
	case "build-output":
		fmt.Fprint(t.out, e.Output)
		return
	case "build-fail":
		t.builds++
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	if e.Test == "" {
		t.pack(e)
		return
	}
	switch e.Action {
	case "pass":
		t.passed++
	case "skip":
		t.skip++
		t.reasons[reason(t.output[key])]++
	case "fail":
		t.failed++
		fmt.Fprint(t.out, strings.Join(t.output[key], ""))
	}
	delete(t.output, key)
}

func (t *tally) pack(e event) {
	if e.Action == "fail" {
		t.brokenPackages++
		fmt.Fprint(t.out, strings.Join(t.output[e.Package+" "], ""))
	}
	fmt.Fprintf(t.out, "%-4s %-52s %6.1fs\n", e.Action, e.Package, e.Elapsed)
}

// reason is what a test said when it was left out.
func reason(output []string) string {
	for _, line := range output {
		if _, why, ok := strings.Cut(line, ".go:"); ok {
			_, why, _ = strings.Cut(why, ": ")
			return strings.TrimSpace(why)
		}
	}
	return "no reason given"
}

func (t *tally) end(strict bool) bool {
	fmt.Fprintf(t.out, "\n%d tests passed, %d failed, %d left out.\n", t.passed, t.failed, t.skip)
	for why, n := range t.reasons {
		fmt.Fprintf(t.out, "%d: %s\n", n, why)
	}
	return t.failed == 0 && t.brokenPackages == 0 && t.builds == 0 && t.passed > 0 && (t.skip == 0 || !strict)
}
