package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v2"
	"go.etcd.io/bbolt"

	"github.com/tierwall/tierwall/cli/early"
	"github.com/tierwall/tierwall/dataplane/nft"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tierctl": main, pluginName: main, early.KubectlName: main})
}

// The scripts of testdata show each command at work on a store of their own, which TIERWALL_DATASTORE names.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			samples, err := filepath.Abs("../config/samples")
			if err != nil {
				return err
			}
			e.Setenv("SAMPLES", samples)
			e.Setenv("TIERWALL_DATASTORE", "bolt:"+e.WorkDir+"/store.db")
			return nil
		},
		// [namespaces]: network namespaces can be made here
		Condition: func(cond string) (bool, error) {
			if cond != "namespaces" {
				return false, fmt.Errorf("there is no such condition")
			}
			_, err := nft.Features()
			return err == nil || os.Getenv("CI") == "true", nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// status N COMMAND…: the command ends with exit status N
			"status": status,
			// fill FILE TEXT COUNT: writes TEXT COUNT times
			"fill": fill,
			// hex FILE BYTES…: writes bytes
			"hex": hex,
			// newer FILE: makes the store one of a newer version
			"newer": newer,
			// hold FILE: another process holds the file until the script ends
			"hold": hold,
		},
	})
}

func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND…")
	}
	err := ts.Exec(args[1], args[2:]...)
	have := "0"
	if err != nil {
		have = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if have != args[0] {
		ts.Fatalf("exit status %s, want %s", have, args[0])
	}
}

func fill(ts *testscript.TestScript, _ bool, args []string) {
	var n int
	_, err := fmt.Sscan(args[2], &n)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Repeat(args[1], n)), 0o600))
}

func hex(ts *testscript.TestScript, _ bool, args []string) {
	var text []byte
	for _, a := range args[1:] {
		var b byte
		_, err := fmt.Sscanf(a, "%x", &b)
		ts.Check(err)
		text = append(text, b)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), text, 0o600))
}

func newer(ts *testscript.TestScript, _ bool, args []string) {
	db, err := bbolt.Open(ts.MkAbs(args[0]), 0o600, nil)
	ts.Check(err)
	ts.Check(db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("version"), []byte("99")) }))
	ts.Check(db.Close())
}

func hold(ts *testscript.TestScript, _ bool, args []string) {
	db, err := bbolt.Open(ts.MkAbs(args[0]), 0o600, nil)
	ts.Check(err)
	ts.Defer(func() { db.Close() })
}

// Flags may stand anywhere, with or without "=", and a value may begin with "-".
func TestArrange(t *testing.T) {
	app := newApp(nil, nil, nil)
	for in, want := range map[string]string{
		"get gnp -o yaml":               "get -o yaml -- gnp",
		"get -o yaml gnp a b":           "get -o yaml -- gnp a b",
		"-o yaml get gnp":               "get -o yaml -- gnp",
		"get gnp -oyaml":                "get -o yaml -- gnp",
		"get gnp --output=yaml -A":      "get --output=yaml -A -- gnp",
		"apply -f - -R":                 "apply -f - -R --",
		"get gnp -- -o":                 "get -- gnp -o",
		"help get":                      "get --help --",
		"get --help":                    "get --help --",
		"":                              "--help",
		"trace --from a/b --port 80 -h": "trace --from a/b --port 80 -h --",
		"crds -o json check":            "crds check -o json --",
		"crds --help":                   "crds --help",
		"help crds":                     "crds --help",
	} {
		have, err := arrange(app, strings.Fields(in))
		if err != nil || strings.Join(have, " ") != want {
			t.Errorf("%q: %q, %v; want %q", in, have, err, want)
		}
	}
}

// A flag takes a value in every command that has it or in none, and every command says what it is for.
func TestFlagsAgree(t *testing.T) {
	app := newApp(nil, nil, nil)
	takes := flagsOf(app.Flags, app.Commands)
	each(app.Commands, func(c *cli.Command) {
		if c.Usage == "" || c.UsageText == "" {
			t.Errorf("%s has no usage", c.Name)
		}
		if c.Action == nil && (len(c.Subcommands) == 0 || len(c.Flags) > 0) {
			t.Errorf("%s must do something or have commands below it, and flags only if it does", c.Name)
		}
		for name, value := range flagsOf(c.Flags, nil) {
			if takes[name] != value {
				t.Errorf("%s: flag %s takes a value here and none elsewhere, or the other way round", c.Name, name)
			}
		}
	})
}

// The agent refuses a datastore of an unknown kind before it touches the kernel.
func TestAgentNeedsAStore(t *testing.T) {
	var errs strings.Builder
	if got := run(t.Context(), []string{"agent", "--datastore", "nonsense"}, nil, &errs, &errs); got != exitUsage {
		t.Errorf("exit status %d: %s", got, errs.String())
	}
}
