package main

import (
	"context"
	"strings"
	"testing"
	"time"
)

// version --poll goes on until it is told to end, and prints only what has changed.
func TestVersionPolls(t *testing.T) {
	t.Setenv("TIERWALL_DATASTORE", "bolt:"+t.TempDir()+"/store.db")
	report := strings.NewReader("{apiVersion: tierwall.io/v1alpha1, kind: NodeReport, metadata: {name: n1}, status: {agentVersion: v1}}")
	var out strings.Builder
	if status := run(t.Context(), []string{"apply", "-f", "-"}, report, &out, &out); status != exitOK {
		t.Fatal(out.String())
	}
	ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stop()
	out.Reset()
	status := run(ctx, []string{"version", "--poll", "5ms"}, nil, &out, &out)
	if status != exitOK || strings.Count(out.String(), "Cluster Version:   v1\n") != 1 || ctx.Err() == nil {
		t.Errorf("status %d: %s", status, out.String())
	}
}
