package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tierwall/tierwall/controllers"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// answerWithin is how long an agent that runs has to do as a rescue file asks: some times what it looks after.
const answerWithin = 10 * time.Second

// rescue makes the node's host endpoints guard nothing: by the agent that runs, or else by itself.
func rescue(c *cli.Context) error {
	state := c.String("state")
	if state == "" {
		return usagef("--rescue needs --state")
	}
	path := filepath.Join(state, rescueName)
	unwritten := declare(path)
	if unwritten != nil {
		fmt.Fprintf(c.App.ErrWriter, "tierctl: an agent that runs cannot be told, and the next one will not know: %v\n", unwritten)
	} else if obeyed(c.Context, path) {
		fmt.Fprintf(c.App.Writer, "the agent has done it: host endpoints guard nothing while %s is there\n", path)
		return nil
	}
	kernel, err := nft.Open(ruleset.DefaultTable)
	if err != nil {
		return fmt.Errorf("opening the kernel's tables: %w", err)
	}
	defer kernel.Close()
	switch err := programRemembered(c, kernel, state); {
	case err == nil:
		fmt.Fprintf(c.App.Writer, "no agent runs here; done without: host endpoints guard nothing while %s is there\n", path)
		return nil
	case errors.Is(err, nft.ErrOwned):
		return fmt.Errorf("rescue: an agent runs here and does not answer: end it, and say this again: %w", err)
	default:
		fmt.Fprintf(c.App.ErrWriter, "tierctl: what is remembered cannot be enforced: %v\n", err)
	}
	if err := kernel.Delete(); err != nil {
		return fmt.Errorf("rescue: removing the table: %w", err)
	}
	fmt.Fprintf(c.App.Writer, "the table is taken out as a whole: neither hosts nor pods are guarded until an agent runs; that one leaves hosts alone while %s is there\n", path)
	return nil
}

// declare makes the file, if it is not there.
func declare(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return writeFile(path, nil, 0o600)
}

// removeRescue takes the file away, if it is there.
func removeRescue(state string) error {
	if state == "" {
		return nil
	}
	if err := os.Remove(filepath.Join(state, rescueName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// obeyed tells whether an agent answers.
func obeyed(ctx context.Context, path string) bool {
	ctx, stop := context.WithTimeout(ctx, answerWithin)
	defer stop()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		text, err := os.ReadFile(path)
		if err == nil && strings.HasPrefix(string(text), controllers.RescueObeyed) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-look.C:
		}
	}
}

// endRescue makes host endpoints guard again.
func endRescue(c *cli.Context) error {
	state := c.String("state")
	if state == "" {
		return usagef("--end-rescue needs --state")
	}
	path := filepath.Join(state, rescueName)
	if err := os.Remove(path); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(c.App.Writer, "%s is not there: host endpoints guard already\n", path)
		return nil
	} else if err != nil {
		return fmt.Errorf("ending the rescue: %w", err)
	}
	fmt.Fprintln(c.App.Writer, "host endpoints guard again as soon as the agent sees it")
	return nil
}

// programRemembered programs once what a node remembers: the snapshot of a cluster's objects or, for who is to be rescued, the store of a
// host without a cluster.
func programRemembered(c *cli.Context, kernel *nft.Conn, state string) error {
	node, err := nodeName(c)
	if err != nil {
		return err
	}
	options, err := policyOptions(c)
	if err != nil {
		return err
	}
	file := store.OpenBolt(filepath.Join(state, snapshotName)).Existing()
	var kept controllers.Kept
	err = file.Kept(c.Context, &kept)
	switch {
	case c.Bool("rescue") && (errors.Is(err, store.ErrNoStore) || c.IsSet("datastore")):
		if file, err = hostStore(c); err != nil {
			return err
		}
		kept = controllers.Kept{}
	case kept.Node != "" && kept.Node != node:
		return fmt.Errorf("%s is node %s's, and this is %s (--node, NODE_NAME)", filepath.Join(state, snapshotName), kept.Node, node)
	case errors.Is(err, store.ErrNoStore):
		return err
	default:
		if err != nil { // whether the objects can be read is another question
			fmt.Fprintf(c.App.ErrWriter, "tierctl: which interfaces the node had is not known: %v\n", err)
		}
		inCluster(&options)
	}
	a := controllers.Agent{Store: file, Kernel: kernel, Node: node, Policy: options, Once: true, Version: version, Log: newLog(c),
		Rescue: filepath.Join(state, rescueName), Rescued: c.Bool("rescue"), Expected: kept.Interfaces}
	return a.Run(c.Context)
}

// hostStore is that of a host without a cluster.
func hostStore(c *cli.Context) (*store.Bolt, error) {
	kind, path := datastore(c)
	if kind != boltDatastore {
		return nil, fmt.Errorf("this node remembers nothing: there is no %s", filepath.Join(c.String("state"), snapshotName))
	}
	return store.OpenBolt(path).Existing(), nil
}
