// Command vuln asks govulncheck for known vulnerabilities in what the product calls: `go run ./vuln`. Where the database of them cannot
// be reached, it says that nothing was checked, and that is no error; everything else is. GOVULNDB names another database.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"time"
)

func main() {
	db := cmp.Or(os.Getenv("GOVULNDB"), "https://vuln.go.dev") // govulncheck's own
	if err := reach(db); err != nil {
		fmt.Printf("vuln: NOTHING WAS CHECKED: the database of vulnerabilities cannot be reached: %v\n", err)
		return
	}
	cmd := exec.Command("go", "tool", "-modfile=tools/go.mod", "govulncheck", "-db", db, "./...")
	cmd.Dir, cmd.Stdout, cmd.Stderr = "..", os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "vuln:", err)
		os.Exit(1)
	}
}

// reach tells why there is no way to the database. What it answers is for govulncheck to judge.
func reach(db string) error {
	at, err := url.Parse(db)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" {
		return nil
	}
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, at.JoinPath("index", "db.json").String(), nil)
	if err != nil {
		return nil
	}
	answer, err := http.DefaultClient.Do(ask)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}
