package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

var quoted = regexp.MustCompile("`([^`]*)`")

// table is the rows below the heading of a README, cell by cell.
func table(t *testing.T, text, heading string) (rows [][]string) {
	t.Helper()
	_, text, found := strings.Cut(text, "\n## "+heading+"\n")
	if !found {
		t.Fatalf("there is no heading %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	for line := range strings.Lines(text) {
		if cells := strings.Split(strings.TrimSpace(line), "|"); len(cells) > 2 && !strings.HasPrefix(line, "|---") {
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells[1:len(cells)-1])
		}
	}
	if len(rows) < 2 {
		t.Fatalf("there is no table below %q", heading)
	}
	return rows[1:]
}

func inQuotes(cell string) (out []string) {
	for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
		out = append(out, m[1])
	}
	return out
}

// shows gives the text of the tests that a cell names; each must be there.
func shows(t *testing.T, cell string) (text string) {
	t.Helper()
	for _, name := range inQuotes(cell) {
		if strings.HasSuffix(name, ".txtar") {
			script, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Errorf("%s: %v", cell, err)
			}
			text += string(script)
			continue
		}
		out, err := exec.Command("grep", "-rlE", "--include=*_test.go", "^func "+name+`\(`, "..").Output()
		if err != nil {
			t.Errorf("%s: there is no test %s", cell, name)
		}
		for file := range strings.FieldsSeq(string(out)) {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Error(err)
			}
			text += string(source)
		}
	}
	return text
}

// calicos is a row of the table of calicoctl's commands: one command, or any, and some of its flags.
type calicos struct {
	words, flags []string
	ours, test   string
}

func parityRow(cells []string) calicos {
	row := calicos{ours: cells[1], test: cells[3]}
	for _, word := range strings.Fields(strings.Join(inQuotes(cells[0]), " ")) {
		if strings.HasPrefix(word, "-") {
			row.flags = append(row.flags, word)
		} else {
			row.words = append(row.words, word)
		}
	}
	return row
}

func (r calicos) String() string { return strings.Join(append(slices.Clone(r.words), r.flags...), " ") }

// Each of calicoctl's commands and flags that the README says are here is, and its test uses it; each that it says is not is not.
func TestParity(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	app := newApp(nil, nil, nil)
	for _, cells := range table(t, string(text), "calicoctl's commands and flags") {
		if len(cells) != 4 {
			t.Errorf("%v: has %d cells", cells, len(cells))
			continue
		}
		row := parityRow(cells)
		known, shown := flagsOf(app.Flags, nil), shows(t, row.test)
		if len(row.words) > 0 {
			command, err := find(app, row.words)
			switch {
			case row.ours == "not ours" && len(row.flags) == 0:
				if err == nil || notOurs(row.words) == nil {
					t.Errorf("%s: is here, or nobody says that it is not", row)
				}
				continue
			case err != nil:
				t.Errorf("%s: %v", row, err)
				continue
			}
			for name, takes := range flagsOf(command.Flags, nil) {
				known[name] = takes
			}
		}
		for _, f := range row.flags {
			name := strings.TrimLeft(f, "-")
			if has(known, name) != (row.ours != "not ours") {
				t.Errorf("%s: flag %s: here is %v", row, f, has(known, name))
			}
		}
		if row.ours == "not ours" {
			continue
		}
		if row.ours != "same" && row.ours != "better" {
			t.Errorf("%s: is %q, and must be same, better or not ours", row, row.ours)
		}
		for _, f := range append([]string{""}, row.flags...) {
			if !uses(shown, row.words, f) {
				t.Errorf("%s: no line of %s has tierctl %s %s", row, row.test, strings.Join(row.words, " "), f)
			}
		}
	}
}

// find a command by its words.
func find(app *cli.App, words []string) (*cli.Command, error) {
	path, err := descend(app, words, true)
	if err == nil && len(path) != len(words) {
		err = fmt.Errorf("is no command of its own")
	}
	if err != nil {
		return nil, err
	}
	return path[len(path)-1], nil
}

// uses tells whether a line of a test has tierctl, the command and the flag; of Go tests, whether command and flag are there.
func uses(text string, words []string, flag string) bool {
	command := regexp.MustCompile(`tierctl (.* )?` + strings.Join(words, " ") + `( |$)`)
	if len(words) == 0 {
		command = regexp.MustCompile(`tierctl `)
	}
	given := regexp.MustCompile(` ` + regexp.QuoteMeta(flag) + `([ =]|$)`)
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); command.MatchString(line) && (flag == "" || given.MatchString(line)) {
			return true
		}
	}
	return len(words) > 0 && strings.Contains(text, `"`+words[0]+`"`) && (flag == "" || strings.Contains(text, `"`+flag))
}

// Each test that the other tables name is there, and each exit status is one that its test has seen.
func TestTablesNameTests(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, cells := range table(t, string(text), "Where calicoctl is wrong") {
		if test := cells[len(cells)-1]; shows(t, test) == "" {
			t.Errorf("%s: has no test", cells[0])
		}
	}
	for _, cells := range table(t, string(text), "Commands that calicoctl does not have") {
		words := strings.Fields(strings.Join(inQuotes(cells[0]), " "))
		if _, err := find(newApp(nil, nil, nil), words); err != nil || !uses(shows(t, cells[2]), words, "") {
			t.Errorf("%s: is not here (%v), or %s does not use it", cells[0], err, cells[2])
		}
	}
	statuses := table(t, string(text), "Exit statuses")
	for i, cells := range statuses {
		if cells[0] != fmt.Sprint(i) || i > 0 && !strings.Contains(shows(t, cells[2]), "\nstatus "+cells[0]+" tierctl") {
			t.Errorf("status %s: no test in %s ends with it", cells[0], cells[2])
		}
	}
	if len(statuses) != exitTimeout+1 {
		t.Errorf("%d exit statuses are listed", len(statuses))
	}
}

// Every command is spoken of, in this folder's README or the project's.
func TestCommandsAreTold(t *testing.T) {
	text := ""
	for _, path := range []string{"README.md", "../README.md"} {
		more, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text += string(more)
	}
	for _, heading := range []string{"calicoctl's commands and flags", "Commands that calicoctl does not have"} {
		for _, row := range table(t, "\n"+text, heading) {
			text += "\ntierctl " + strings.Join(inQuotes(row[0]), " ")
		}
	}
	// tierctl crds check|apply is each of them; in a table the bar has a backslash before it
	text = oneOf.ReplaceAllStringFunc(strings.ReplaceAll(text, `\|`, "|"), func(s string) (each string) {
		before, last := s[:strings.LastIndex(s, " ")], s[strings.LastIndex(s, " "):]
		for name := range strings.SplitSeq(last, "|") {
			each += before + " " + strings.TrimSpace(name) + "\n"
		}
		return each
	})
	var told func(before string, commands []*cli.Command)
	told = func(before string, commands []*cli.Command) {
		for _, c := range commands {
			full := before + " " + c.Name
			if !regexp.MustCompile(full + `\b`).MatchString(text) {
				t.Errorf("nothing is said of %s", full)
			}
			told(full, c.Subcommands)
		}
	}
	told("tierctl", newApp(nil, nil, nil).Commands)
}

var oneOf = regexp.MustCompile(`tierctl( [a-z-]+)*? [a-z-]+(\|[a-z-]+)+`)
