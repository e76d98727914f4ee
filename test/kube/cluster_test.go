//go:build e2e

package kube

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestCluster(t *testing.T) {
	c, err := Up(t.Context(), Options{Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context()); err != nil {
		t.Error(err)
	}
	name := c.name
	begun := time.Now()
	if err := c.Down(); err != nil {
		t.Error(err)
	}
	t.Logf("down in %v", time.Since(begun))
	left(t, name)
}

// A cluster that was not to be finished leaves nothing either, and says how far it was.
func TestUpInVain(t *testing.T) {
	for _, build := range []func() (string, error){Components, Runtime, podProgram} {
		if _, err := build(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := Up(ctx, Options{Log: t.Logf}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "starting: ") {
		t.Errorf("Up in three seconds: %v", err)
	}
	owners, err := filepath.Glob(filepath.Join(stateDir("*"), "owner"))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range owners {
		if text, _ := os.ReadFile(o); strings.TrimSpace(string(text)) == strconv.Itoa(os.Getpid()) {
			t.Errorf("%s is left", o)
		}
	}
}

func left(t *testing.T, name string) {
	t.Helper()
	for _, pattern := range []string{"/run/netns/" + name + "*", stateDir(name), cgroups + "/" + name, cgroups + "/*/" + name} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) > 0 {
			t.Errorf("left: %v %v", files, err)
		}
	}
}
