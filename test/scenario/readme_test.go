package scenario

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const readme = "../../dataplane/policy/README.md"

// What dataplane/policy/README.md says is shown: behind each rule stand the scenarios that show it, and each shows some rule.
func TestReadmeNamesEveryScenario(t *testing.T) {
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	known := names(t)
	unnamed := maps.Clone(known)
	for _, r := range rulesIn(string(text)) {
		if len(r.Scenarios) == 0 {
			t.Errorf("%q names no scenario", r.Heading)
		}
		for _, n := range r.Scenarios {
			if !known[n] {
				t.Errorf("%q names %s, and there is no such scenario", r.Heading, n)
			}
			delete(unnamed, n)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(unnamed)) {
		t.Errorf("no rule names scenario %s", n)
	}
}

// names of the corpus.
func names(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, s := range corpus(t) {
		out[s.Name] = true
	}
	return out
}

func corpus(t *testing.T) []Scenario {
	t.Helper()
	all, err := Load("../scenarios")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// rule is a heading of the third level, and the names in the paragraphs under it that begin with "scenarios:".
type rule struct {
	Heading   string
	Scenarios []string
}

func rulesIn(text string) (out []rule) {
	for _, part := range strings.Split("\n"+text, "\n### ")[1:] {
		heading, body, _ := strings.Cut(part, "\n")
		r := rule{Heading: strings.TrimSpace(heading)}
		for _, paragraph := range strings.Split(body, "\n\n") {
			if list, ok := strings.CutPrefix(strings.TrimSpace(paragraph), "scenarios:"); ok {
				r.Scenarios = append(r.Scenarios, strings.Fields(strings.ReplaceAll(list, ",", " "))...)
			}
		}
		out = append(out, r)
	}
	return out
}

func TestRulesIn(t *testing.T) {
	const text = `# The title

scenarios: of-no-rule

## A chapter

### First

It says so.

scenarios: a, b-c,
d

### Second

Nothing shows it; scenarios: is only a word here.

### Third
scenarios: e
`
	want := []rule{{"First", []string{"a", "b-c", "d"}}, {Heading: "Second"}, {"Third", []string{"e"}}}
	if diff := cmp.Diff(want, rulesIn(text)); diff != "" {
		t.Errorf("-want +have:\n%s", diff)
	}
}
