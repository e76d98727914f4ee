package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"
)

// version is set by the linker: git describe of what was built.
var version = "unknown"

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version", UsageText: "tierctl version [-o json]",
		Flags: []cli.Flag{outputFlag("json")},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			format, err := output(c, "json")
			if err != nil {
				return err
			}
			platform := runtime.GOOS + "/" + runtime.GOARCH
			if format == "json" {
				return json.NewEncoder(c.App.Writer).Encode(map[string]string{"version": version, "go": runtime.Version(), "platform": platform})
			}
			_, err = fmt.Fprintf(c.App.Writer, "tierctl %s (%s, %s)\n", version, runtime.Version(), platform)
			return err
		},
	}
}
