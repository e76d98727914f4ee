package lint_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/lint"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/scenario"
)

var update = flag.Bool("update", false, "rewrite the findings of testdata")

func objectsOf(t *testing.T, archive *txtar.Archive) (out []v3.Object, want string) {
	t.Helper()
	for _, f := range archive.Files {
		switch f.Name {
		case "cluster":
			objs, err := scenario.Short(string(f.Data))
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range objs {
				out = append(out, o.(v3.Object))
			}
		case "objects.yaml":
			for _, d := range store.Read([]string{"-"}, store.ReadOptions{Stdin: strings.NewReader(string(f.Data))}) {
				if len(d.Errors) > 0 {
					t.Fatalf("%s: %v", d.Name, d.Errors)
				}
				out = append(out, d.Object.(v3.Object))
			}
		case "findings":
			want = string(f.Data)
		}
	}
	return out, want
}

func findings(objs []v3.Object) string {
	var b strings.Builder
	for _, f := range lint.Of(objs, policy.Options{}) {
		fmt.Fprintf(&b, "%s %s %s %s: %s\n", f.Code, f.Severity, f.About, f.Field, f.Message)
	}
	return b.String()
}

// Every check finds what it is for in CODE.txtar, and does not in CODE-not.txtar, which is the same put right.
func TestChecks(t *testing.T) {
	seen := map[string]bool{}
	for i, c := range lint.Checks() {
		if c.Code != fmt.Sprintf("TW%03d", i+1) || c.Title == "" || c.Why == "" || c.Mend == "" {
			t.Errorf("%s is not the code of check %d, or it does not say why and how to mend", c.Code, i+1)
		}
		for _, name := range []string{c.Code, c.Code + "-not"} {
			path := filepath.Join("testdata", name+".txtar")
			seen[path] = true
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Error(err)
				continue
			}
			objs, want := objectsOf(t, archive)
			have := findings(objs)
			if found := strings.Contains(have, c.Code); found != (name == c.Code) {
				t.Errorf("%s: found %v:\n%s", name, found, have)
			}
			if diff := cmp.Diff(want, have); diff != "" && !*update {
				t.Errorf("%s: -want +have:\n%s", name, diff)
			}
			if *update {
				archive.Files[len(archive.Files)-1].Data = []byte(have)
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, f := range files {
		if !seen[f] {
			t.Errorf("%s is no check's", f)
		}
	}
}

// The table of the CLI's README has every check, as it is.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../cli/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range lint.Checks() {
		if row := fmt.Sprintf("| `%s` | %s | %s |", c.Code, c.Severity, c.Title); !strings.Contains(string(text), row) {
			t.Errorf("cli/README.md has no row\n%s", row)
		}
	}
}

// An author may say that a finding is meant.
func TestIgnore(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/TW004.txtar")
	if err != nil {
		t.Fatal(err)
	}
	objs, _ := objectsOf(t, archive)
	for text, want := range map[string]bool{"": true, "TW001": true, "TW001, TW004": false, "all": false} {
		for _, o := range objs {
			o.SetAnnotations(map[string]string{lint.Ignore: text})
		}
		if have := strings.Contains(findings(objs), "TW004"); have != want {
			t.Errorf("%q: found %v", text, have)
		}
	}
}

// A rule that is called a shadow never decides a flow of the corpus, and the corpus has some.
func TestShadowsNeverDecide(t *testing.T) {
	all, err := scenario.Load("../../test/scenarios")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, s := range all {
		x, err := s.Index("")
		if err != nil {
			t.Fatal(err)
		}
		p := x.Plan()
		shadows := map[string]bool{}
		for _, h := range lint.Shadows(p) {
			shadows[fmt.Sprint(h.Policy, h.Direction, h.Rule)] = true
			n++
		}
		for _, f := range s.Flows {
			flow, err := x.Flow(f.Spec)
			if err != nil {
				t.Fatal(err)
			}
			for _, step := range p.Trace(flow).Steps {
				if step.Rule >= 0 && shadows[fmt.Sprint(step.Policy, step.Direction, step.Rule)] {
					t.Errorf("%s: %s\nby a shadow: %+v", s.Name, f.Text, step)
				}
			}
		}
	}
	if n == 0 {
		t.Error("no scenario has a shadow")
	}
}

// What is sound in the corpus is not called an error.
func TestCorpusHasNoErrors(t *testing.T) {
	all, err := scenario.Load("../../test/scenarios")
	if err != nil {
		t.Fatal(err)
	}
	meant := regexp.MustCompile(`missing-tier|domain-names|policies-before-connections`)
	for _, s := range all {
		var objs []v3.Object
		for _, o := range s.Objects {
			objs = append(objs, o.(v3.Object))
		}
		for _, f := range lint.Of(objs, s.Options) {
			if f.Severity == lint.Error && len(s.Complaints) == 0 && !meant.MatchString(s.Name) {
				t.Errorf("%s: %+v", s.Name, f)
			}
		}
	}
}
