package main

import (
	"bufio"
	"context"
	"io"
	"strings"
	"testing"
)

const gnpNamed = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: %}\n"

func applyText(t *testing.T, datastore, text string) {
	t.Helper()
	var out strings.Builder
	if status := run(t.Context(), []string{"apply", "--datastore", datastore, "-f", "-"}, strings.NewReader(text), &out, &out); status != exitOK {
		t.Fatalf("exit status %d: %s", status, out.String())
	}
}

// get --watch prints what there is, and then what changes; other kinds are not told.
func TestGetWatches(t *testing.T) {
	datastore := "bolt:" + t.TempDir() + "/store.db"
	applyText(t, datastore, strings.ReplaceAll(gnpNamed, "%", "a"))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	read, write := io.Pipe()
	ended := make(chan int)
	go func() {
		status := run(ctx, []string{"get", "gnp", "-w", "--datastore", datastore}, nil, write, io.Discard)
		write.Close()
		ended <- status
	}()
	lines := bufio.NewScanner(read)
	for _, want := range []string{"NAME   TIER", "a      default"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("%q, want %q", lines.Text(), want)
		}
	}
	applyText(t, datastore, "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: x}\n---\n"+strings.ReplaceAll(gnpNamed, "%", "b"))
	if !lines.Scan() || strings.Join(strings.Fields(lines.Text()), " ") != "b default" {
		t.Fatalf("%q: want b, without headings", lines.Text())
	}
	stop()
	if lines.Scan() {
		t.Errorf("then: %q", lines.Text())
	}
	if status := <-ended; status != exitError {
		t.Errorf("exit status %d", status)
	}
}
