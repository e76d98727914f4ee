package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"github.com/tierwall/tierwall/cli/complete"
	"github.com/tierwall/tierwall/cli/early"
)

var rewrite = flag.Bool("update", false, "write what is made of the commands anew")

// generated compares a file with what it is made of.
func generated(t *testing.T, path, want string) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), want); diff != "" {
		t.Errorf("%s is not what the commands say; go test ./cli -run TestGenerated -update writes it:\n%s", path, diff)
	}
}

// What package early knows of the commands is what they say of themselves.
func TestGeneratedProgram(t *testing.T) {
	text, err := json.MarshalIndent(program(newApp(nil, nil, nil)), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	generated(t, "early/program.json", string(text)+"\n")
}

// Every word in a usage text stands for something that completion knows, and every flag's value has a name there.
func TestEveryWordIsKnown(t *testing.T) {
	each(newApp(nil, nil, nil).Commands, func(c *cli.Command) {
		for _, w := range argumentWords(c) {
			if _, ok := nouns[w]; !ok {
				t.Errorf("%s: completion does not know what %s is: see nouns", c.Name, w)
			}
		}
		for _, f := range c.Flags {
			placeholder, usage := unquote(f)
			if takesValue(f) && placeholder == "" {
				if _, ok := sets[f.Names()[0]]; !ok {
					t.Errorf("%s --%s: its usage says in no backquotes what its value is: %s", c.Name, f.Names()[0], usage)
				}
			}
		}
	})
}

// shop is a datastore of the sample of that name.
func shop(t *testing.T) (where string) {
	t.Helper()
	where = "bolt:" + filepath.Join(t.TempDir(), "store.db")
	var errs bytes.Buffer
	if got := run(t.Context(), []string{"apply", "-f", "../config/samples/shop.yaml", "--datastore", where}, nil, &bytes.Buffer{}, &errs); got != exitOK {
		t.Fatal(errs.String())
	}
	return where
}

// completed are the words that may stand at the end of a line.
func completed(t *testing.T, line string) (out []string) {
	t.Helper()
	var b bytes.Buffer
	if err := completeWords(t.Context(), strings.Split(line, " "), &b); err != nil {
		t.Fatal(err)
	}
	for _, l := range strings.Split(strings.TrimSpace(b.String()), "\n") {
		word, _, _ := strings.Cut(l, "\t")
		out = append(out, word)
	}
	return out
}

func TestComplete(t *testing.T) {
	where := shop(t)
	t.Setenv("TIERWALL_DATASTORE", where)
	for line, want := range map[string]string{
		"appl":                                "apply :4",
		"crds ":                               "check apply restore :4",
		"crds ap":                             "apply :4",
		"get globalnetworkp":                  "globalnetworkpolicy globalnetworkpolicies globalnetworkpolicies.projectcalico.org globalnetworkpolicy.projectcalico.org :4",
		"get gnp ":                            "security.quarantine :4",
		"get tier ":                           "default kube-admin kube-baseline security :4",
		"get GNP s":                           "security.quarantine :4",
		"get pod ":                            ":4", // of the namespace default
		"get pod -n shop ":                    "db web :4",
		"-n shop get pod ":                    "db web :4",
		"get -nshop pod web ":                 "db :4",
		"get pod --namespace=shop w":          "web :4",
		"get pod -n ":                         "shop :4",
		"get pod --namespace=s":               "--namespace=shop :4",
		"get gnp -o js":                       "json jsonpath= jsonpath-file= :6",
		"get gnp --no-h":                      "--no-headers :4",
		"get gnp --col":                       "--color :4",
		"get gnp -- --col":                    ":4",
		"trace --to sh":                       "shop/db shop/web :4",
		"trace --protocol U":                  "UDP UDPLite :4",
		"explain policy Kub":                  "KubernetesNetworkPolicy/shop/db :4",
		"plan ":                               "shop/db shop/web :4",
		"apply -f ":                           ":0",
		"apply ":                              ":4",
		"completion p":                        "powershell :4",
		"get gnp --datastore b":               "bolt: :6",
		"get gnp --datastore bolt:x":          ":0",
		"get gnp --datastore bolt:/nowhere ":  ":4",
		"--datastore=" + where + " get gnp s": "security.quarantine :4",
	} {
		if have := strings.Join(completed(t, line), " "); have != want {
			t.Errorf("%q: %q, want %q", line, have, want)
		}
	}
}

// Package early, which the process runs before main, says what main would say.
func TestEarlySaysTheSame(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	where := shop(t)
	t.Setenv("TIERWALL_DATASTORE", where)
	for _, line := range []string{"", "get ", "get pod -n shop ", "trace --from ", "get gnp -o j", "get pod -n shop --datastore " + where + " "} {
		c := exec.CommandContext(t.Context(), exe)
		c.Args = append([]string{"tierctl", early.Command}, strings.Split(line, " ")...)
		// what has begun before it has is said in the trace, and main is not
		c.Env = append(os.Environ(), "GODEBUG=inittrace=1")
		var out, trace bytes.Buffer
		c.Stdout, c.Stderr = &out, &trace
		if err := c.Run(); err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		if err := completeWords(t.Context(), strings.Split(line, " "), &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.String(), out.String()); diff != "" {
			t.Errorf("%q: %s", line, diff)
		}
		if begun := strings.Count(trace.String(), "\n"); begun > 120 {
			t.Errorf("%q: %d packages had begun: does package early import something that begins late?", line, begun)
		}
	}
}

// shells complete a line that is typed, by the script that tierctl prints. Each runs tierctl with the completed line, whose output is in the file out.
var shells = []struct{ name, start, setUp string }{
	{"bash", "bash --noprofile --norc -i", "source <(tierctl completion bash)"},
	{"zsh", "zsh -f -i", "autoload -Uz compinit; compinit -u -d $HOME/dump; source <(tierctl completion zsh)"},
}

// typed are lines with tabs, and what get prints once they are completed.
var typed = []struct{ keys, want string }{
	{"tierctl get gnp sec\t -o name", "GlobalNetworkPolicy/security.quarantine\n"},
	{"tierctl get pod -n sh\tw\t -o name", "Pod/shop/web\n"},
	{"tierctl get pod --namespace=sh\td\t -o name", "Pod/shop/db\n"},
	{"tierctl get -f sam\t -o name", "Tier/security\n"},
}

func TestShells(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	where := shop(t)
	for _, s := range shells {
		t.Run(s.name, func(t *testing.T) {
			home := t.TempDir()
			for _, err := range []error{os.Symlink(exe, filepath.Join(home, "tierctl")), os.WriteFile(filepath.Join(home, "sample.yaml"),
				[]byte("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: security}\nspec: {order: 1}\n"), 0o600)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			keys := s.setUp + "\n"
			for i, line := range typed {
				keys += fmt.Sprintf("%s > out%d\n", line.keys, i)
			}
			typeInto(t, home, where, strings.Fields(s.start), keys+"exit\n")
			for i, line := range typed {
				if have, err := os.ReadFile(filepath.Join(home, fmt.Sprintf("out%d", i))); err != nil || string(have) != line.want {
					t.Errorf("%q printed %q, %v; want %q", line.keys, have, err, line.want)
				}
			}
		})
	}
	t.Run("fish", func(t *testing.T) {
		for line, want := range map[string]string{"get gnp s": "security.quarantine", "get pod -n shop w": "web", "trace --from=shop/w": "--from=shop/web\tPod"} {
			c := exec.CommandContext(t.Context(), "fish", "--no-config", "-c", "tierctl completion fish | source; complete -C 'tierctl "+line+"'")
			home := t.TempDir()
			if err := os.Symlink(exe, filepath.Join(home, "tierctl")); err != nil {
				t.Fatal(err)
			}
			c.Env = append(os.Environ(), "HOME="+home, "PATH="+home+":"+os.Getenv("PATH"), "TIERWALL_DATASTORE="+where)
			have, err := c.CombinedOutput()
			if err != nil || strings.TrimSpace(string(have)) != want {
				t.Errorf("%q: %q, %v; want %q", line, have, err, want)
			}
		}
	})
}

// typeInto types keys into a shell on a terminal, and waits until it has ended.
func typeInto(t *testing.T, home, where string, command []string, keys string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), command[0], command[1:]...)
	c.Dir = home
	c.Env = append(os.Environ(), "HOME="+home, "PATH="+home+":"+os.Getenv("PATH"), "TIERWALL_DATASTORE="+where, "TERM=dumb", "PS1=$ ")
	screen := typeOn(t, c, keys)
	t.Logf("on the screen:\n%s", screen)
}

// What objects are called is told to a terminal only when it is what can be a name.
func TestNamesAreNames(t *testing.T) {
	p := complete.Program{Commands: []complete.Command{{Names: []string{"plan"}, Arguments: []complete.Noun{complete.Tier}}}}
	if have := p.Read([]string{"plan", ""}).Named([]complete.Key{{Kind: "Tier", Name: "a\x1b[2J"}, {Kind: "Tier", Name: "b c"}, {Kind: "Tier", Name: "d"}}); len(have) != 1 {
		t.Errorf("%q", have)
	}
}
