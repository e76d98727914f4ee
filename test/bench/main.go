// Command bench measures, in network namespaces of its own: `go run ./test/bench packets`. Every figure that counts is a ratio to
// another one of the same run.
package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
)

// commands are what can be measured. Each has its own flags; all have -short and -json FILE.
var commands = map[string]func(args []string) error{
	"change":  change,
	"hostile": hostile,
	"load":    load,
	"memory":  memory,
	"packets": packets,
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 || commands[args[0]] == nil {
		return fmt.Errorf("say what to measure: one of %v", slices.Sorted(maps.Keys(commands)))
	}
	return commands[args[0]](args[1:])
}

// writeJSON writes figures to a file, if it has a name.
func writeJSON(file string, figures any) error {
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(figures, "", "  ")
	if err == nil {
		err = os.WriteFile(file, append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	return nil
}
