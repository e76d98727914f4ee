// Package controllers runs the loops that keep a node's kernel as the objects in a store say.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// Agent keeps one node's table as the objects say. It needs no memory of its own: what it finds in the kernel when it
// starts is taken over and corrected.
type Agent struct {
	Store   store.Store
	Kernel  *nft.Conn
	Node    string
	Policy  policy.Options
	Ruleset ruleset.Options
	Log     *slog.Logger
	Once    bool   // return when the store's state has been programmed once
	Reports bool   // tell the store what is enforced, as a NodeReport
	Version string // of the agent, for the report
	Metrics *Metrics
	Health  *Health
	// ReportEvery is how long one report waits for the next at least: in a cluster all nodes report at once.
	ReportEvery time.Duration
	ProcSysNet  string // where the host's is, if it is not nft.ProcSysNet
	Rescue      string // the file that makes host endpoints guard nothing; "" for none
	Rescued     bool   // as if it were there
	PutsBack    bool   // in the store too what was changed on trial and is not confirmed in time; a cluster's controller does so for all nodes
	// Expected are interfaces that the node is going to have, for an agent that runs before the network is up.
	Expected []nft.Interface

	memory  memory
	rescue  rescue
	lockout lockout
	trials  trials

	stranger bool              // no object is on this node
	refused  map[v3.Ref]string // what was last logged about each object that cannot be enforced as written
	noted    []policy.Note     // what was last logged about objects together
	judged   bool              // the connections, since the kernel's table last changed
	bridged  bridged           // the workload for which bridges must filter
	compiler *ruleset.Compiler
	taken    bool // the kernel has the compiler's last table
	second   bool // another agent has the node's table

	editions   map[v3.Ref]edition // of objects whose status alone may change
	progress   progress
	reported   *v1alpha1.NodeReportStatus // last
	reportedAt time.Time
	unreported string // why not
	reporting  retry

	because  causes
	starting starts
}

// Run programs the kernel until ctx ends. Nothing is programmed before the store has said everything once; when the
// store or the kernel fails, the kernel keeps what it has, and Run tries again.
func (a *Agent) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if a.Metrics == nil {
		a.Metrics = NewMetrics(prometheus.NewRegistry())
	}
	if a.Health == nil {
		a.Health = &Health{}
	}
	index := policy.NewIndex(a.Node, a.Policy)
	a.rescue = rescue{path: a.Rescue, always: a.Rescued}
	defer a.rescue.begin(index)()
	interfaces, err := nft.Interfaces(ctx)
	if err != nil {
		return err
	}
	bridges := a.setInterfaces(index, <-interfaces)
	foreign, err := a.Kernel.Foreign(ctx)
	if err != nil {
		return err
	}
	a.lookAround()
	a.trials.settle = a.PutsBack
	batches := coalesce(ctx, a.Store.Watch(ctx))
	a.refused, a.editions = map[v3.Ref]string{}, map[v3.Ref]edition{}
	revision, again := "", retry{first: 100 * time.Millisecond, most: slowest}
	a.reporting = retry{first: time.Second, most: time.Minute}
	var plan *policy.Plan
	var failed error // to program it
	for {
		a.Health.set(func(h *Health) { h.busy = time.Time{} })
		select {
		case <-ctx.Done():
			return nil
		case batch, open := <-batches:
			a.Health.set(func(h *Health) { h.busy = time.Now() })
			switch {
			case !open:
				return ended(ctx, "the store")
			case errors.Is(batch.err, store.ErrUnfollowed), errors.Is(batch.err, store.ErrUnremembered):
				a.Log.Warn(batch.err.Error())
				continue
			case batch.err != nil && a.Once:
				return batch.err
			case batch.err != nil:
				a.Metrics.storeErrors.Inc()
				a.Log.Error("the store cannot be read; the kernel keeps what it has", "error", batch.err)
				continue
			}
			a.Health.set(func(h *Health) { h.synced = !batch.remembered })
			was := a.memory.recall(a, batch.remembered)
			if !was {
				a.compare(revision, batch.revision)
			}
			news := a.told(index, &batch) || revision == "" || was
			revision = batch.revision
			if !news {
				wait := idle * a.ReportEvery
				if a.awaited() {
					wait = a.ReportEvery
				}
				if a.report(ctx, plan, failed, wait); failed == nil {
					a.Log.Debug("nothing new", "revision", revision)
				}
				continue
			}
			a.because.came(batch)
			a.look(index)
		case now, open := <-interfaces:
			if !open {
				return ended(ctx, "the kernel's list of addresses")
			}
			if bridges = a.setInterfaces(index, now); revision == "" {
				continue // the store has not said everything yet
			}
			a.because.add("the node's interfaces")
		case _, open := <-foreign:
			if !open {
				return ended(ctx, "what others do to the kernel's tables")
			}
			if revision == "" {
				continue
			}
			a.Metrics.foreign.Inc()
			a.memory.held = false // what another has changed is no older truth
			a.because.add("another program's change")
			a.Log.Warn("another program has changed the table: it is mended")
		case <-again.due():
		case <-a.reporting.due():
			a.report(ctx, plan, failed, 0)
			continue
		case <-a.rescue.looks():
			if !a.rescue.changed(index, a.Log) || revision == "" {
				continue
			}
			a.because.add("rescue")
		case <-a.trials.looks():
			if over := a.trials.expired(a.Log); revision == "" || !a.follow(index, over) {
				a.trials.putBack(ctx, a.Store, a.Log)
				continue
			}
			a.because.add("not confirmed in time")
		}
		plan = index.Plan()
		if a.memory.holds(a) {
			continue
		}
		start := time.Now()
		failed = a.program(plan, bridges, revision)
		a.Metrics.attempt(start, failed)
		a.Health.set(func(h *Health) { h.failed, h.applied = failed, h.applied || failed == nil })
		a.rescue.obeyed(failed)
		a.report(ctx, plan, failed, a.ReportEvery)
		a.trials.putBack(ctx, a.Store, a.Log)
		if a.Once {
			return failed
		}
		if failed != nil {
			a.retry(&again, failed, revision)
			continue
		}
		again.stop()
		a.first()
	}
}

// awaited tells whether somebody waits for a report: an object's status says that it was first seen with a version that this node has in force, and has not
// reported.
func (a *Agent) awaited() bool {
	if a.reported == nil {
		return false
	}
	for kind, since := range a.progress.since {
		i := slices.IndexFunc(a.reported.Observed, func(o v1alpha1.ObservedKind) bool { return o.Kind == kind })
		if i < 0 || newer(since, a.reported.Observed[i].ResourceVersion) {
			return true
		}
	}
	return false
}

// idle is how many times longer a report waits that only says that statuses were written: each is told to every node.
const idle = 30

// ended is no error when we were told to end.
func ended(ctx context.Context, what string) error {
	if ctx.Err() != nil {
		return nil
	}
	return errors.New(what + " is not followed any more")
}

// compare warns of a store whose revision went back.
func (a *Agent) compare(last, now string) {
	was, err := strconv.ParseUint(last, 10, 64)
	if is, err2 := strconv.ParseUint(now, 10, 64); err == nil && err2 == nil && is < was {
		a.Log.Warn("the store's revision went back: it is another store or an older copy, and is followed now", "was", last, "is", now)
	}
}

// look warns when no object is on the agent's node: most likely its name is mistyped, and nothing is guarded.
func (a *Agent) look(index *policy.Index) {
	stranger := !index.HasNode(a.Node)
	if stranger && !a.stranger {
		a.Log.Warn("no object is on this node: nothing is guarded here", "node", a.Node)
	}
	a.stranger = stranger
}

// setInterfaces tells the index where host endpoints without an interface's name stand, and which workloads are routed to which
// interfaces. It gives the names of those that are bridges.
func (a *Agent) setInterfaces(index *policy.Index, from []nft.Interface) (bridges map[string]bool) {
	if k, ok := a.Store.(keeping); ok {
		if err := k.Keep(Kept{a.Node, from}); err != nil {
			a.Log.Warn("the node's interfaces cannot be remembered", "error", err)
		}
	}
	bridges = map[string]bool{}
	for _, f := range from {
		if f.Bridge {
			bridges[f.Name] = true
		}
	}
	from = expected(from, a.Expected)
	ifaces := make([]policy.Iface, len(from))
	for i, f := range from {
		ifaces[i] = policy.Iface{Name: f.Name, Addrs: f.Addrs, Peers: f.Peers, Nets: f.Nets,
			Shared: f.Bridge, Uplink: f.Uplink || !f.Bridge && len(f.Nets) > 0}
	}
	index.SetInterfaces(ifaces)
	return bridges
}

// told takes in what the store has said. Where it is another store than before, what was known of the objects' editions counts no more.
func (a *Agent) told(index *policy.Index, b *batch) (news bool) {
	if b.anew {
		a.editions, a.reported = map[v3.Ref]edition{}, nil
		defer a.progress.anew(b.revision)
	}
	return a.take(index, b.events)
}

// take tells the index what changed, and logs what cannot be enforced as it is written. It is no news that the status of an object
// has changed, or what an agent reports.
func (a *Agent) take(index *policy.Index, events []store.Event) (news bool) {
	for _, e := range events {
		now, counted := editionOf(e)
		if was, known := a.editions[e.Ref]; e.Ref.Kind == kindReport || counted && known && was.same(now) {
			if a.ReportEvery > 0 { // others write statuses too: whoever rolls up may have seen the object first with this version
				a.progress.note(e)
				a.progress.asked(e)
			}
			continue
		}
		a.progress.note(e)
		a.lockout.take(e)
		a.because.object(e.Ref)
		a.starting.note(e, a.Node)
		if delete(a.editions, e.Ref); counted {
			a.editions[e.Ref] = now
		}
		news = true
		a.set(index, a.trials.take(e, a.Log))
	}
	if a.trials.over() {
		a.memory.held = false // the table that was found may be that of the trial
	}
	return news
}

// follow what is now to be followed instead of what the store says.
func (a *Agent) follow(index *policy.Index, events []store.Event) (news bool) {
	for _, e := range events {
		a.memory.held = false
		a.set(index, e)
	}
	return len(events) > 0
}

// set one object in the index, or take it out.
func (a *Agent) set(index *policy.Index, e store.Event) {
	var err error
	switch {
	case e.Corrupt != nil:
		index.Delete(e.Ref)
		err = fmt.Errorf("%s: %w: nothing of it is enforced: %w", e.Ref, store.ErrCorruptObject, e.Corrupt)
	case e.Type == store.Put:
		err = index.Set(e.Object)
	case e.Type == store.Deleted:
		index.Delete(e.Ref)
	}
	switch {
	case err == nil:
		delete(a.refused, e.Ref)
	case a.refused[e.Ref] != err.Error():
		a.refused[e.Ref] = err.Error()
		level, what := slog.LevelWarn, "not enforced as written"
		if policy.OnlyNotices(err) {
			level, what = slog.LevelInfo, "note"
		}
		a.Log.Log(context.Background(), level, what, "object", e.Ref.String(), "error", err)
	}
}

// program says that it has programmed only if all that the plan says is enforced then. What can be is, whatever else fails.
func (a *Agent) program(plan *policy.Plan, bridges map[string]bool, revision string) error {
	start := time.Now()
	a.lockout.look(plan)
	if notes := slices.Concat(a.lockout.notes, plan.Notes); !slices.Equal(a.noted, notes) {
		for _, n := range notes {
			a.Log.Warn(n.String())
		}
		a.noted = notes
	}
	unfiltered := a.bridged.look(plan, a.Node, bridges)
	if err := a.remember(plan); err != nil && !a.taken {
		return errors.Join(unfiltered, fmt.Errorf("the kernel keeps the table that it has: %w", err)) // or what it remembers would be lost
	} else if err != nil {
		unfiltered = errors.Join(unfiltered, err)
	}
	changes, err := a.apply(plan)
	if !errors.Is(err, nft.ErrOwned) {
		unfiltered = errors.Join(unfiltered, a.bridged.filter(a.procSysNet()))
	}
	if err != nil {
		return errors.Join(unfiltered, fmt.Errorf("the kernel keeps the table that it has: %w", err))
	}
	a.judged = a.judged && len(changes) == 0
	if err := errors.Join(unfiltered, a.reevaluate(plan)); err != nil {
		return err
	}
	a.programmed(plan, changes, revision, time.Since(start))
	return nil
}

// programmed says what was changed, and why.
func (a *Agent) programmed(plan *policy.Plan, changes []ruleset.Change, revision string, took time.Duration) {
	because := a.because.said()
	first := a.Health.Ready() != nil
	for _, c := range changes {
		level := slog.LevelInfo
		if first || c.Within && c.Chain == nil { // all of it is new, or addresses come and go
			level = slog.LevelDebug
		}
		a.Log.Log(context.Background(), level, "changed", "revision", revision, "change", c.String(), "because", because)
	}
	a.Metrics.changes.Add(float64(len(changes)))
	a.Metrics.endpoints.Set(float64(len(plan.Endpoints)))
	a.Metrics.policies.Set(float64(enforced(plan)))
	a.Metrics.sets.Set(float64(len(plan.Sets)))
	a.Metrics.refused.Set(float64(len(a.refused)))
	for _, d := range a.because.waited() {
		a.Metrics.told.Observe(d.Seconds())
	}
	for _, d := range a.starting.done(first) {
		a.Metrics.podStart.Observe(d.Seconds())
	}
	level := slog.LevelInfo
	if len(changes) == 0 && !first {
		level = slog.LevelDebug
	}
	a.Log.Log(context.Background(), level, "programmed", "revision", revision, "changes", len(changes), "took", took.String(), "because", because)
	a.because = causes{}
}

// apply the plan. What the compiler says has changed is since the last plan: it counts only where the kernel has taken that one.
func (a *Agent) apply(plan *policy.Plan) ([]ruleset.Change, error) {
	if a.compiler == nil {
		a.compiler = ruleset.NewCompiler(a.Ruleset)
	}
	table, changes := a.compiler.Compile(plan)
	if !a.taken {
		changes = nil
	}
	done, err := a.Kernel.Change(table, changes)
	a.taken = err == nil
	return done, err
}

// Remove takes the agent's table out of the kernel: nothing is enforced any more, and the node's report goes.
func (a *Agent) Remove(ctx context.Context) error {
	found, err := a.found()
	if err == nil {
		err = a.Kernel.Delete()
	}
	if err != nil {
		return fmt.Errorf("removing the table: %w", err)
	}
	if err := a.putBack(found); err != nil {
		a.Log.Warn("the table is gone; what was changed for it is not all put back", "error", err)
	}
	a.Log.Info("removed", "put back", found)
	if !a.Reports {
		return nil
	}
	report := &v1alpha1.NodeReport{}
	report.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kindReport))
	report.Name = a.Node
	err = a.Store.Delete(ctx, report)
	switch {
	case errors.Is(err, store.ErrNotFound):
		a.Log.Warn("this node has no report to remove: say --node if the agent had another name", "node", a.Node)
	case err != nil && !errors.Is(err, store.ErrNoStore):
		return fmt.Errorf("the table is gone; its report is not: %w", err)
	}
	return nil
}

// retry is a timer that waits twice as long each time, up to a bound.
type retry struct {
	first, most, wait time.Duration
	timer             *time.Timer
	at                time.Time // when timer is due
}

func (r *retry) due() <-chan time.Time {
	if r.timer == nil {
		return nil
	}
	return r.timer.C
}

func (r *retry) later() time.Duration {
	r.wait = min(max(2*r.wait, r.first), r.most)
	r.timer, r.at = time.NewTimer(r.wait), time.Now().Add(r.wait)
	return r.wait
}

// by a time it is due once, or sooner if it was.
func (r *retry) by(at time.Time) {
	if r.timer == nil || at.Before(r.at) || r.at.Before(time.Now()) {
		r.timer, r.at = time.NewTimer(time.Until(at)), at
	}
}

func (r *retry) stop() { r.timer, r.wait = nil, 0 }

// batch is the events that are acted on together, or an error of the store.
type batch struct {
	events     []store.Event
	revision   string
	anew       bool // the store is another than before, as store.Event says
	remembered bool // and it is what a store.Snapshot remembers
	told       time.Time
	err        error
}
