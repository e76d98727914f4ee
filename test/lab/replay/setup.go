package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/test/lab"
)

// step is a line of the setup.
type step struct {
	line          int
	node, command string
}

// readSetup reads what is to be run on the nodes of a cluster.
func (r *replay) readSetup(c lab.Cluster) error {
	if r.setup == "" {
		return nil
	}
	text, err := os.ReadFile(r.setup)
	if err != nil {
		return fmt.Errorf("reading the setup: %w", err)
	}
	for i, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		s, err := stepOf(line, c)
		if err != nil {
			return fmt.Errorf("%s:%d: %w", r.setup, i+1, err)
		}
		s.line = i + 1
		r.steps = append(r.steps, s)
	}
	return nil
}

func stepOf(line string, c lab.Cluster) (s step, err error) {
	node, command, ok := strings.Cut(line, ":")
	s.node, s.command = strings.TrimSpace(node), strings.TrimSpace(command)
	switch {
	case !ok || s.command == "":
		return s, fmt.Errorf("%q is not NODE: COMMAND", line)
	case !slices.ContainsFunc(c.Nodes, func(n lab.Node) bool { return n.Name == s.node }):
		return s, fmt.Errorf("no object is on node %q", s.node)
	}
	return s, nil
}

// setUp runs the setup.
func (r *replay) setUp(ctx context.Context, l *lab.Lab) error {
	for _, s := range r.steps {
		r.say("%s: %s", s.node, s.command)
		if err := l.Run(ctx, s.node, s.command); err != nil {
			return fmt.Errorf("%s:%d: %w", r.setup, s.line, err)
		}
	}
	return nil
}
