package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/tierwall/tierwall/controllers"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

func agentCommand() *cli.Command {
	return &cli.Command{
		Name: "agent", Usage: "enforce policy on this node", UsageText: "tierctl agent [--node NODE]",
		Description: "Follows the datastore and keeps the kernel's table " + ruleset.DefaultTable + " as it says, until it is told to end. The table stays in\n" +
			"the kernel and keeps filtering when the agent ends; --remove takes it out. Logs JSON lines on standard error.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "node", Usage: "`NODE` whose endpoints to guard (default: the host's name)", EnvVars: []string{"NODE_NAME"}},
			&cli.BoolFlag{Name: "once", Usage: "program the kernel once, and end"},
			&cli.BoolFlag{Name: "remove", Usage: "take the table out of the kernel, and end"},
			&cli.BoolFlag{Name: "verbose", Usage: "log each change of the kernel's table"},
			&cli.StringFlag{Name: "established-connections", Value: "Keep",
				Usage: "`WHAT` becomes of connections that a changed policy would deny: Keep them, or Reevaluate and end them"},
			endpointToHostFlag(), datastoreFlag(),
		},
		Action: agent,
	}
}

func agent(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	bolt, err := openStore(c)
	if err != nil {
		return err
	}
	s := bolt.Existing()
	options, err := policyOptions(c)
	if err != nil {
		return err
	}
	node := c.String("node")
	if node == "" {
		if node, err = hostname(); err != nil {
			return err
		}
	}
	level := slog.LevelInfo
	if c.Bool("verbose") {
		level = slog.LevelDebug
	}
	kernel, err := nft.Open(ruleset.DefaultTable)
	if err != nil {
		return fmt.Errorf("opening the kernel's tables: %w", err)
	}
	defer kernel.Close()
	a := controllers.Agent{
		Store: s, Kernel: kernel, Node: node, Policy: options, Once: c.Bool("once"), Reports: true, Version: version,
		Log: slog.New(slog.NewJSONHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: level})),
	}
	if c.Bool("remove") {
		if err := a.Remove(c.Context); err != nil {
			return err
		}
		rollOnce(c.Context, &controllers.Rollup{Store: s, Log: a.Log})
		return nil
	}
	// Only the agent has something to finish when it is told to end; every other command just ends.
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return runAgent(ctx, &a, &controllers.Rollup{Store: s, Log: a.Log})
}

// rollOnce writes the status of objects as far as that can be done: what is enforced does not depend on it.
func rollOnce(ctx context.Context, r *controllers.Rollup) {
	r.Once = true
	if err := r.Run(ctx); err != nil && !errors.Is(err, store.ErrNoStore) {
		r.Log.Warn("the status of objects cannot be written", "error", err)
	}
}

// runAgent runs an agent on a host without a cluster, where it writes the status of objects as well.
func runAgent(ctx context.Context, a *controllers.Agent, r *controllers.Rollup) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if a.Once {
		defer rollOnce(ctx, r)
		return a.Run(ctx)
	}
	var rolled sync.WaitGroup
	rolled.Go(func() { _ = r.Run(ctx) }) // it has said itself what went wrong
	defer rolled.Wait()
	defer stop()
	return a.Run(ctx)
}
