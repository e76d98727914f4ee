package controllers

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// rescue follows a file of the node's: while it is there, the node's host endpoints guard nothing. Whoever has locked himself out of a node
// makes the file at its console, and needs no cluster, no API server and no program of ours for it. Workloads stay guarded.
type rescue struct {
	path   string
	always bool
	on     bool
	told   bool // the file says that it is obeyed
	ticker *time.Ticker
}

// rescueEvery is how often the file is looked for.
const rescueEvery = time.Second

// RescueObeyed is what a rescue file says once the agent has done as it asks.
const RescueObeyed = "obeyed"

func (r *rescue) begin(index *policy.Index) (end func()) {
	if r.path == "" && !r.always {
		return func() {}
	}
	r.look(index)
	r.ticker = time.NewTicker(rescueEvery)
	return r.ticker.Stop
}

// looks is when to look again.
func (r *rescue) looks() <-chan time.Time {
	if r.ticker == nil {
		return nil
	}
	return r.ticker.C
}

func (r *rescue) look(index *policy.Index) (changed bool) {
	_, err := os.Stat(r.path)
	on := r.on // while the file cannot be looked at
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		on = err == nil
	}
	if on = on || r.always; on != r.on {
		r.on, r.told = on, false
		index.ReleaseHosts(on)
		return true
	}
	return false
}

func (r *rescue) changed(index *policy.Index, log *slog.Logger) bool {
	if !r.look(index) {
		return false
	}
	if r.on {
		log.Warn("this node's host endpoints guard nothing while there is a rescue file", "file", r.path)
	} else {
		log.Warn("the rescue file is gone: this node's host endpoints guard again", "file", r.path)
	}
	return true
}

// obeyed writes into the file that it is.
func (r *rescue) obeyed(failed error) {
	if !r.on || r.told || failed != nil {
		return
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return // it is obeyed all the same
	}
	defer f.Close()
	_, err = fmt.Fprintf(f, "%s since %s\n", RescueObeyed, time.Now().UTC().Format(time.RFC3339))
	r.told = err == nil
}

// refused is why not all is in force, for the report: nil when it is.
func (r *rescue) refused() error {
	if !r.on {
		return nil
	}
	return fmt.Errorf("the node's host endpoints guard nothing: %s is there", r.path)
}
