package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
)

// Tierctl is the command line with its datastore.
type Tierctl struct{ Path, Datastore string }

// Run gives what a command prints; what it says on standard error is in the error.
func (t Tierctl) Run(ctx context.Context, stdin string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, t.Path, append(args, "--datastore", t.Datastore)...)
	cmd.Stdin = strings.NewReader(stdin)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("tierctl %s: %w\n%s", args[0], err, errs.String())
	}
	return out, nil
}

// Write runs a command that changes objects, and gives the revision that the store then has.
func (t Tierctl) Write(ctx context.Context, stdin string, args ...string) (revision string, err error) {
	out, err := t.Run(ctx, stdin, append(args, "-o", "json")...)
	if err != nil {
		return "", err
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	var last struct{ Revision string }
	if err := json.Unmarshal(lines[len(lines)-1], &last); err != nil {
		return "", fmt.Errorf("reading what tierctl %s says: %w", args[0], err)
	}
	return last.Revision, nil
}
