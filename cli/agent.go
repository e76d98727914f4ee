package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/urfave/cli/v2"
	"k8s.io/klog/v2"

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
			nodeNameFlag(), stateFlag(), unitsFlag(),
			&cli.BoolFlag{Name: "rescue", Usage: "have this node's host endpoints guard nothing, until --end-rescue: for who has locked himself out; needs no cluster"},
			&cli.BoolFlag{Name: "end-rescue", Usage: "have them guard again"},
			&cli.BoolFlag{Name: "once", Usage: "program the kernel once, and end"},
			&cli.BoolFlag{Name: "remove", Usage: "take the table out of the kernel, and end"},
			&cli.BoolFlag{Name: "verbose", Usage: "log each change of the kernel's table"},
			&cli.StringFlag{Name: "established-connections", Value: "Keep",
				Usage: "`WHAT` becomes of connections that a changed policy would deny: Keep them, or Reevaluate and end them"},
			&cli.StringFlag{Name: "proc-sys-net", Usage: "`PATH` where the host's " + nft.ProcSysNet + " is mounted, for an agent in a container", Value: nft.ProcSysNet,
				EnvVars: []string{"TIERWALL_PROC_SYS_NET"}},
			listenFlag(), endpointToHostFlag(), agentDatastoreFlag(),
		},
		Action: agent,
	}
}

func agent(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	switch {
	case c.Bool("rescue"):
		return rescue(c)
	case c.Bool("end-rescue"):
		return endRescue(c)
	}
	s, err := openStore(c)
	if err != nil {
		return err
	}
	s = existing(s)
	options, err := policyOptions(c)
	if err != nil {
		return err
	}
	node, err := nodeName(c)
	if err != nil {
		return err
	}
	kernel, err := nft.Open(ruleset.DefaultTable)
	if err != nil {
		return fmt.Errorf("opening the kernel's tables: %w", err)
	}
	defer kernel.Close()
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	a := controllers.Agent{
		Store: s, Kernel: kernel, Node: node, Policy: options, Once: c.Bool("once"), Reports: true, Version: version,
		Log: newLog(c), Metrics: controllers.NewMetrics(metrics), Health: &controllers.Health{}, ProcSysNet: c.String("proc-sys-net"),
	}
	_, alone := s.(*store.Bolt)
	a.PutsBack = alone
	if !alone {
		a.ReportEvery = time.Second + rand.N(time.Second) // not all nodes at once
	}
	state := c.String("state")
	if state != "" {
		a.Rescue = filepath.Join(state, rescueName)
	}
	if !alone && !a.Once && state != "" {
		a.Store = store.RememberIn(filepath.Join(state, snapshotName), s)
	}
	if c.Bool("remove") {
		if !alone { // first, or what is remembered would be enforced again when the machine starts
			return errors.Join(bootFiles{state, c.String("units")}.remove(), a.Remove(c.Context))
		}
		if err := errors.Join(a.Remove(c.Context), removeRescue(state)); err != nil {
			return err
		}
		rollOnce(c.Context, &controllers.Rollup{Store: s, Log: a.Log})
		return nil
	}
	// Only the agent has something to finish when it is told to end; every other command just ends.
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if address := c.String("listen"); address != "" {
		close, err := serve(address, a.Health.Handler(metrics))
		if err != nil {
			return err
		}
		defer close()
	}
	if !alone { // the controller rolls up for all nodes
		return a.Run(ctx)
	}
	return runAgent(ctx, &a, &controllers.Rollup{Store: s, Log: a.Log})
}

func listenFlag() cli.Flag {
	return &cli.StringFlag{Name: "listen", Usage: "`ADDRESS` to serve /healthz, /readyz and /metrics at, e.g. :9790 (default: none)"}
}

// serve until close is called.
func serve(address string, h http.Handler) (close func(), err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serving health and metrics: %w", err)
	}
	s := server(h)
	go func() { _ = s.Serve(l) }() // it ends when it is closed
	return func() { _ = s.Close() }, nil
}

// newLog logs JSON lines on standard error; what libraries say goes there too.
func newLog(c *cli.Context) *slog.Logger {
	level := slog.LevelInfo
	if c.Bool("verbose") {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewJSONHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: level}))
	klog.SetSlogLogger(log.With("from", "client-go"))
	return log
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
