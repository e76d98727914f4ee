package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
)

func journalFlag() cli.Flag {
	return &cli.StringFlag{Name: "journal", Usage: "`FILE` in which a run is written down before it is done; by default one for each datastore in $XDG_STATE_HOME/tierwall"}
}

func yesFlag() cli.Flag {
	return &cli.BoolFlag{Name: "yes", Usage: "do it; without it nothing is changed, and what would be is said"}
}

// journalPath is what the flag says, or a file for what runs do to a datastore, among what programs remember of a user.
func journalPath(c *cli.Context, doing, datastore string) (string, error) {
	if path := c.String("journal"); path != "" {
		return path, nil
	}
	state := os.Getenv("XDG_STATE_HOME")
	if state == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", usagef("--journal FILE is needed: %v", err)
		}
		state = filepath.Join(home, ".local", "state")
	}
	of := strings.Map(func(r rune) rune {
		if r == '/' || r == ':' {
			return '-'
		}
		return r
	}, strings.TrimPrefix(strings.TrimPrefix(datastore, "https://"), "http://"))
	return filepath.Join(state, "tierwall", doing+"-"+strings.Trim(of, "-")+".db"), nil
}
