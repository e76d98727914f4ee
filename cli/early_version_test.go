package main

import (
	"bytes"
	"testing"

	"github.com/tierwall/tierwall/cli/early"
)

// What is answered early is what the program would have said.
func TestVersionEarly(t *testing.T) {
	var out, complaints bytes.Buffer
	if status := run(t.Context(), []string{"version", "--client"}, &bytes.Buffer{}, &out, &complaints); status != 0 {
		t.Fatalf("status %d: %s", status, complaints.String())
	}
	if out.String() != early.Client() {
		t.Errorf("tierctl version --client said %q, early says %q", out.String(), early.Client())
	}
}
