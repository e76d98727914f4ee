package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

var evidence = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z]*)(?:/([a-z]+))?`|`([a-z0-9]+(?:-[a-z0-9]+)+)`")

// What these documents claim is shown by tests and scenarios that there are.
func TestClaims(t *testing.T) {
	var text []byte
	for _, file := range []string{"../SECURITY.md", "../config/deploy/README.md"} {
		more, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, more...)
	}
	roles := map[string]bool{"tierwall-agent": true, "tierwall-controller": true, "tierwall-editor": true, "tierwall-webhook": true}
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
	if found < 40 {
		t.Errorf("it names %d", found)
	}
}
