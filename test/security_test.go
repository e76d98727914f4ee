package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

var evidence = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z]*)(?:/([a-z]+))?`|`([a-z0-9]+(?:-[a-z0-9]+)+)`")

// What SECURITY.md claims is shown by tests and scenarios that there are.
func TestSecurityClaims(t *testing.T) {
	text, err := os.ReadFile("../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string]bool{"tierwall-agent": true, "tierwall-controller": true, "tierwall-editor": true}
	found := 0
	for _, m := range evidence.FindAllStringSubmatch(string(text), -1) {
		switch name, scenario := m[1], m[3]; {
		case name != "":
			if exec.Command("git", "grep", "-qE", `func `+name+`\(`, "--", "../*_test.go").Run() != nil {
				t.Errorf("there is no %s", name)
			}
		case !roles[scenario]:
			if _, err := os.Stat(filepath.Join("scenarios", scenario+".txtar")); err != nil {
				t.Error(err)
			}
		}
		found++
	}
	if found < 20 {
		t.Errorf("it names %d", found)
	}
}
