package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestBootFiles(t *testing.T) {
	root := t.TempDir()
	u := bootFiles{state: filepath.Join(root, "state"), units: filepath.Join(root, "units")}
	environment := []string{"NODE_NAME=n1", `FELIX_LOGPREFIX=a "b" 50%`}
	if err := u.install(environment); err == nil || !strings.Contains(err.Error(), "systemd does not start this machine") {
		t.Errorf("a machine without systemd: %v", err)
	}
	if _, err := os.Stat(u.state); !os.IsNotExist(err) {
		t.Errorf("something was written all the same: %v", err)
	}
	if err := os.MkdirAll(u.units, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again is the same
		if err := u.install(environment); err != nil {
			t.Fatal(err)
		}
	}
	unit := read(t, u.unit())
	if !strings.Contains(unit, "ExecStart="+u.program()+" boot --state "+u.state+"\n") || strings.Contains(unit, "/var/lib") {
		t.Errorf("the unit is\n%s", unit)
	}
	if got, want := read(t, u.environment()), "[Service]\nEnvironment=\"FELIX_LOGPREFIX=a \\\"b\\\" 50%%\"\nEnvironment=\"NODE_NAME=n1\"\n"; !strings.HasSuffix(got, want) {
		t.Errorf("its environment is\n%s", got)
	}
	if got := read(t, u.wanted()); got != unit {
		t.Errorf("what is wanted is\n%s", got)
	}
	if info, err := os.Stat(u.program()); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the program: %v, %v", info, err)
	}
	if path, err := exec.LookPath("systemd-analyze"); err == nil { // systemd's own opinion, where it can be had
		if out, err := exec.Command(path, "verify", u.unit()).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("systemd-analyze verify: %v\n%s", err, out)
		}
	}
	for _, name := range []string{snapshotName, rescueName} {
		if err := os.WriteFile(filepath.Join(u.state, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := u.remove(); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{u.state, u.units} {
		left, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(left) > 1 || len(left) == 1 && filepath.Base(left[0]) != "sysinit.target.wants" {
			t.Errorf("left is %v, %v", left, err)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What the command line says is what the unit has: of two that say the same, the flag.
func TestBootSettings(t *testing.T) {
	root := t.TempDir()
	u := bootFiles{state: filepath.Join(root, "state"), units: filepath.Join(root, "units")}
	if err := os.MkdirAll(u.units, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NODE_NAME", "another")
	t.Setenv("FELIX_DEFAULTENDPOINTTOHOSTACTION", "Drop")
	t.Setenv("FELIX_LOGPREFIX", "tw")
	var errs strings.Builder
	args := []string{"boot", "--install", "--node", "worker-7", "--default-endpoint-to-host-action", "Return", "--state", u.state, "--units", u.units}
	if status := run(t.Context(), args, strings.NewReader(""), &errs, &errs); status != exitOK {
		t.Fatal(status, errs.String())
	}
	want := "[Service]\nEnvironment=\"FELIX_DEFAULTENDPOINTTOHOSTACTION=Return\"\nEnvironment=\"FELIX_LOGPREFIX=tw\"\nEnvironment=\"NODE_NAME=worker-7\"\n"
	if got := read(t, u.environment()); !strings.HasSuffix(got, want) {
		t.Errorf("the environment is\n%s", got)
	}
	for _, args := range [][]string{{"agent", "--rescue", "--state", ""}, {"agent", "--end-rescue", "--state", ""}, {"boot", "--state", ""}} {
		if status := run(t.Context(), args, strings.NewReader(""), &errs, &errs); status != exitUsage {
			t.Errorf("%v: status %d", args, status)
		}
	}
}
