// Command tierctl is the one binary of Tierwall: the command line that writes and explains policy, and the agent that
// enforces it on a node.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"
)

// Exit statuses, as the help lists them.
const (
	exitOK    = 0
	exitError = 1 // what was asked could not be done, or not all of it
	exitUsage = 2 // the command line itself is wrong
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program but for the process around it, and gives the exit status.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	out, errs = printable{out}, printable{errs}
	app := newApp(in, out, errs)
	args, err := arrange(app, args)
	if err == nil {
		err = app.RunContext(ctx, append([]string{app.Name}, args...))
	}
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(errs, "tierctl: %v\n", err)
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitError
}

// usageError says that the command line is wrong, rather than what it asks for.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func newApp(in io.Reader, out, errs io.Writer) *cli.App {
	app := &cli.App{
		Name:            "tierctl",
		Usage:           "write, explain and enforce tiered network policy",
		UsageText:       "tierctl COMMAND [flags] [arguments]   (flags may stand before or after arguments)",
		Description:     "Exit status: 0 done; 1 it could not be done, or not all of it; 2 the command line is wrong.",
		HideVersion:     true,
		HideHelpCommand: true,
		Reader:          in, Writer: out, ErrWriter: errs,
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return usageError{err} },
	}
	for _, v := range writeVerbs {
		app.Commands = append(app.Commands, v.command())
	}
	app.Commands = append(app.Commands, deleteCommand(), getCommand(), validateCommand(), traceCommand(), planCommand(),
		agentCommand(), bootCommand(), controllerCommand(), crdsCommand(), nodeCommand(), versionCommand())
	for _, c := range app.Commands {
		c.HideHelpCommand = true
		c.OnUsageError = app.OnUsageError
	}
	return app
}
