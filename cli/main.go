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
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/tierwall/tierwall/cli/early"
	"github.com/tierwall/tierwall/controllers/store"
)

// Exit statuses, as the help lists them.
const (
	exitOK      = 0
	exitError   = 1 // what was asked could not be done; of diff and lint: there is a difference, a finding
	exitUsage   = 2 // the command line itself is wrong; of diff: any trouble, as of kubectl's
	exitPartly  = 3 // some of it was done, and some was not
	exitRefused = 4 // it would not be safe
	exitTimeout = 5 // what was waited for did not come in time
)

func main() {
	if words, asked := early.Words(os.Args); asked {
		if completeWords(context.Background(), words, os.Stdout) != nil {
			os.Exit(exitError)
		}
		return
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program but for the process around it, and gives the exit status.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	out, errs = &printable{Writer: out, colours: coloured(out)}, &printable{Writer: errs, colours: coloured(errs)}
	app := newApp(in, out, errs)
	if plugin() {
		speakAsPlugin(app)
	}
	args, err := arrange(app, args)
	if err == nil {
		err = app.RunContext(ctx, append([]string{app.Name}, args...))
	}
	if err == nil {
		return exitOK
	}
	if apierrors.IsUnauthorized(err) {
		err = fmt.Errorf("connection is unauthorized: %w", err) // as calicoctl says it
	}
	if text := err.Error(); text != "" {
		fmt.Fprintf(errs, "%s %s%s\n", paint(errs, red, app.Name+":"), text, whereTo(app, err))
	}
	return statusOf(err)
}

// statusOf an error is what it says itself, or else exitError.
func statusOf(err error) int {
	var s statusError
	switch {
	case errors.As(err, &s):
		return s.status
	case errors.As(err, new(usageError)):
		return exitUsage
	case errors.Is(err, store.ErrPartly):
		return exitPartly
	}
	return exitError
}

// statusError ends the program with a status of its own. One without text has been told already.
type statusError struct {
	error
	status int
}

func (e statusError) Unwrap() error { return e.error }

// usageError says that the command line is wrong, rather than what it asks for.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func newApp(in io.Reader, out, errs io.Writer) *cli.App {
	app := &cli.App{
		Name:      "tierctl",
		Usage:     "write, explain and enforce tiered network policy",
		UsageText: "tierctl COMMAND [flags] [arguments]   (flags may stand before or after arguments)",
		Description: "Exit status: 0 done; 1 it could not be done, or there is a difference or a finding; 2 the command line is wrong;\n" +
			"3 only some of it was done; 4 refused, for it would not be safe; 5 not in time.",
		HideVersion:     true,
		HideHelpCommand: true,
		Reader:          in, Writer: out, ErrWriter: errs,
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return usageError{err} },
		Flags:          append(globalFlags(), colourFlag(), progressFlag()),
		Before:         logClient,
		Metadata:       map[string]any{},
	}
	var objects []*cli.Command
	for _, v := range writeVerbs {
		objects = append(objects, v.command())
	}
	objects = append(objects, deleteCommand(), patchCommand(), labelCommand(), confirmCommand(), getCommand(), diffCommand(), waitCommand(), validateCommand(),
		convertCommand(), datastoreCommand())
	for _, group := range []struct {
		name     string
		commands []*cli.Command
	}{
		{"Objects", objects},
		{"Why", []*cli.Command{traceCommand(), explainCommand(), lintCommand(), planCommand(), matrixCommand(), whatIfCommand(), graphCommand()}},
		{"Nodes and cluster", []*cli.Command{statusCommand(), nodeCommand(), clusterCommand(), crdsCommand(), migrateCommand(), cleanupCommand(), uninstallCommand()}},
		{"Running", []*cli.Command{agentCommand(), bootCommand(), controllerCommand()}},
		{"This program", []*cli.Command{configCommand(), completionCommand(), versionCommand()}},
	} {
		for _, c := range group.commands {
			c.Category = group.name
			app.Commands = append(app.Commands, c)
		}
	}
	each(app.Commands, func(c *cli.Command) {
		c.HideHelpCommand = true
		c.OnUsageError = app.OnUsageError
	})
	return app
}
