package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers"
	"github.com/tierwall/tierwall/controllers/store"
)

// What --confirm-within may be, and how long who waits waits at most: for agents to program a change, and for them to take it back.
const (
	shortestTrial = 5 * time.Second
	longestTrial  = 24 * time.Hour
	slowestAgent  = 15 * time.Second
	grace         = 5 * time.Second
	lookEvery     = 200 * time.Millisecond
)

func trialFlags() []cli.Flag {
	return []cli.Flag{
		&cli.DurationFlag{Name: "confirm-within", Usage: "the agents put everything back as it was after this `TIME` (5s to 24h), unless the change is confirmed: " +
			"for what may cut you from the host"},
		&cli.StringSliceFlag{Name: "check", Usage: "with --confirm-within: put everything back at once unless `tcp:HOST:PORT` can be reached from here; may be repeated"},
	}
}

func confirmCommand() *cli.Command {
	return &cli.Command{
		Name: "confirm", Usage: "keep what was changed with --confirm-within, or take it back", UsageText: "tierctl confirm [ID]\n   tierctl confirm --abort [ID]",
		Description: "ID is the change's; without it, the only one there is.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "abort", Usage: "put everything back as it was, now"},
			outputFlag("json (one line an object), name"), datastoreFlag(),
		},
		Action: confirm,
	}
}

// confirm ends a trial from another command than the one that began it.
func confirm(c *cli.Context) error {
	format, err := output(c, "json", "name")
	if err != nil {
		return err
	}
	if c.NArg() > 1 {
		return usagef("confirm takes one ID, but %d were given", c.NArg())
	}
	s, err := openStore(c)
	if err != nil {
		return err
	}
	objs, err := store.OnTrialIn(c.Context, s)
	if err != nil {
		return err
	}
	id, trial, err := theTrial(objs, c.Args().First())
	if err != nil {
		return err
	}
	if !c.Bool("abort") && !time.Now().Before(trial.Until) {
		return statusError{fmt.Errorf("change %s was to be confirmed until %s: it is taken back", id, clock(trial.Until)), exitTimeout}
	}
	done, err := settle(c.Context, s, id, refsOf(objs), !c.Bool("abort"))
	if err != nil {
		return err
	}
	if len(done) == 0 {
		return statusError{fmt.Errorf("change %s has just been taken back, or confirmed", id), exitTimeout}
	}
	for _, d := range done {
		result := "confirmed"
		if d.Stays != "" {
			result = "stays as it is: " + d.Stays
		} else if c.Bool("abort") {
			result = "put back"
		}
		printResult(c, format, v3.RefOf(d.Object.(v3.Object)), result)
	}
	return nil
}

// theTrial is the one with an ID, or the only one.
func theTrial(objs []client.Object, id string) (string, *store.Trial, error) {
	trials := map[string]*store.Trial{}
	for _, o := range objs {
		if t, err := store.TrialOf(o); err == nil && t != nil {
			trials[t.ID] = t
		}
	}
	ids := slices.Sorted(maps.Keys(trials))
	switch {
	case len(ids) == 0:
		return "", nil, errors.New("nothing is on trial: what was not confirmed in time has been taken back")
	case id == "" && len(ids) > 1:
		return "", nil, usagef("%d changes are on trial: say which: %s", len(ids), strings.Join(ids, ", "))
	case id == "":
		id = ids[0]
	case trials[id] == nil:
		return "", nil, fmt.Errorf("no change %s is on trial: there are %s; what was not confirmed in time has been taken back", id, strings.Join(ids, ", "))
	}
	return id, trials[id], nil
}

// settle a change: keep it, or put everything back.
func settle(ctx context.Context, s store.Store, id string, refs []v3.Ref, keep bool) ([]store.Settled, error) {
	return store.Settle(ctx, s, refs, keep, func(_ v3.Ref, t *store.Trial) bool { return t.ID == id })
}

func refsOf(objs []client.Object) (out []v3.Ref) {
	for _, o := range objs {
		out = append(out, v3.RefOf(o.(v3.Object)))
	}
	return out
}

// inForce is an object as agents take it: what is on trial is what it is to be, or what it was.
func inForce(obj client.Object) []client.Object {
	t, err := store.TrialOf(obj)
	if err != nil || t == nil {
		return []client.Object{obj}
	}
	now := t.Now(obj)
	if !time.Now().Before(t.Until) {
		if now, err = t.Before(obj); err != nil {
			return []client.Object{obj}
		}
	}
	if now == nil {
		return nil
	}
	return []client.Object{now}
}

// trying is a change on trial, for the command that makes it. nil is a change that is none.
type trying struct {
	*store.Trial
	store store.Store
	since time.Time
	tests *selfTest
	trier *store.Trier
}

// onTrial is what --confirm-within asks for.
func onTrial(c *cli.Context, s store.Store) (*trying, error) {
	within := c.Duration("confirm-within")
	switch {
	case !c.IsSet("confirm-within") && c.IsSet("check"):
		return nil, usagef("--check goes with --confirm-within")
	case !c.IsSet("confirm-within"):
		return nil, nil
	case within < shortestTrial || within > longestTrial:
		return nil, usagef("--confirm-within %s is not from %s to %s", within, shortestTrial, longestTrial)
	}
	tests, err := newSelfTest(c, s)
	if err != nil || dryRunOf(c) != "" {
		return nil, err
	}
	return &trying{Trial: store.NewTrial(whoami(), within), since: time.Now(), store: s, tests: tests}, nil
}

// whoami is for those who find the change.
func whoami() string {
	name := os.Getenv("SUDO_USER")
	if u, err := user.Current(); err == nil {
		name = cmp.Or(name, u.Username)
	}
	host, _ := os.Hostname() // who does not know his host is known by his name
	return cmp.Or(name, "somebody") + "@" + cmp.Or(host, "somewhere")
}

// writer puts on trial what is written by it, if anything is to be; what is on trial already nobody changes.
func (t *trying) writer(tx store.Writer) store.Writer {
	if t == nil {
		return store.OnTrial(tx, nil)
	}
	t.trier = store.OnTrial(tx, t.Trial)
	return t.trier
}

// begun says how a transaction went: what cannot be changed while it is on trial is refused, and what is begun but half is put back.
func (t *trying) begun(c *cli.Context, err error) error {
	switch {
	case errors.Is(err, store.ErrOnTrial):
		return statusError{err, exitRefused}
	case t != nil && errors.Is(err, store.ErrPartly):
		return t.putBack(c, exitRefused, err)
	}
	return err
}

// await what becomes of the change: agents program it, it is tested, and somebody confirms it. Otherwise everything is put back.
func (t *trying) await(c *cli.Context) error {
	if t == nil || len(t.trier.Changed) == 0 {
		return nil
	}
	fmt.Fprintf(c.App.ErrWriter, "on trial as change %s until %s\n", t.ID, clock(t.Until))
	if err := t.look(c); err != nil {
		return t.putBack(c, exitRefused, err)
	}
	asked, how := t.ask(c)
	fmt.Fprintf(c.App.ErrWriter, "%s, within %s: otherwise everything is put back\n", how, time.Until(t.Until).Round(time.Second))
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-c.Context.Done():
			return c.Context.Err()
		case keep := <-asked:
			if !keep {
				return t.putBack(c, exitRefused, errors.New("it is not wanted"))
			}
			switch done, err := settle(c.Context, t.store, t.ID, t.refs(), true); {
			case err != nil:
				fmt.Fprintf(c.App.ErrWriter, "tierctl: not confirmed yet, and tried again: %v\n", err)
				asked, _ = t.again()
				continue
			case len(done) == 0:
				asked = nil // somebody else was faster: the store says what he wanted
				continue
			}
			fmt.Fprintf(c.App.ErrWriter, "change %s is confirmed\n", t.ID)
			return nil
		case <-look.C:
		}
		switch ended, kept := t.ended(c.Context); {
		case ended && kept:
			fmt.Fprintf(c.App.ErrWriter, "change %s is confirmed\n", t.ID)
			return nil
		case ended && time.Now().Before(t.Due(t.since)):
			return statusError{fmt.Errorf("change %s has been taken back", t.ID), exitRefused}
		case ended:
			return statusError{fmt.Errorf("change %s was not confirmed in time: everything is put back as it was", t.ID), exitTimeout}
		case time.Now().After(t.Due(t.since).Add(grace)): // whoever should have done it has not
			return t.putBack(c, exitTimeout, errors.New("it was not confirmed in time"))
		}
	}
}

// again is an answer that was given already, and could not be followed.
func (t *trying) again() (<-chan bool, string) {
	answer := make(chan bool, 1)
	time.AfterFunc(time.Second, func() { answer <- true })
	return answer, ""
}

// look whether the change is in force, and whether what must not be cut is.
func (t *trying) look(c *cli.Context) error {
	ctx, stop := context.WithTimeout(c.Context, min(slowestAgent, time.Until(t.Due(t.since))/2))
	defer stop()
	changed := slices.Collect(maps.Values(t.trier.Changed))
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		reports, err := reports(ctx, t.store)
		if err == nil {
			err = controllers.Programmed(reports, changed)
		}
		if err == nil {
			return t.tests.run(c, reports)
		}
		if ended, _ := t.ended(ctx); ended { // somebody has confirmed it, or taken it back, already
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no agent has shown that it is in force, and that it would put it back: %w (does tierctl agent run here?)", err)
		case <-look.C:
		}
	}
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// reports of nodes.
func reports(ctx context.Context, s store.Store) (out []*v1alpha1.NodeReport, err error) {
	objs, err := s.List(ctx, "NodeReport", "")
	for _, o := range objs {
		if r, ok := o.(*v1alpha1.NodeReport); ok {
			out = append(out, r)
		}
	}
	return out, err
}

// ask who sits at the terminal, if anybody does, and say how else to confirm.
func (t *trying) ask(c *cli.Context) (answer <-chan bool, how string) {
	in, ok := c.App.Reader.(*os.File)
	if !ok || !isTerminal(in) || slices.Contains(c.StringSlice("filename"), "-") {
		return nil, "confirm it by tierctl confirm " + t.ID
	}
	_ = unix.IoctlSetInt(int(in.Fd()), unix.TCFLSH, unix.TCIFLUSH) // what was typed before the question is no answer to it
	said := make(chan bool, 1)
	go func() {
		line, err := bufio.NewReader(in).ReadString('\n')
		if errors.Is(err, io.EOF) && line == "" { // the terminal is gone, or says no more: somebody may confirm it elsewhere
			return
		}
		line = strings.ToLower(strings.TrimSpace(line))
		said <- line == "" || line == "y" || line == "yes"
	}()
	return said, "press Enter to keep it (no and Enter puts it back at once), or say tierctl confirm " + t.ID
}

// ended tells whether no object is on this trial any more, and whether they are as they were on it. Who does not reach the store knows nothing.
func (t *trying) ended(ctx context.Context) (ended, kept bool) {
	kept = true
	for ref, on := range t.trier.Changed {
		now, err := t.store.Get(ctx, ref)
		switch is, _ := trialOf(now, err); {
		case is != nil && is.ID == t.ID, err != nil && !errors.Is(err, store.ErrNotFound):
			return false, false
		}
		was, _ := store.TrialOf(on)
		want := was.Now(on)
		kept = kept && (want == nil) == (err != nil) && (want == nil || want.GetGeneration() == now.GetGeneration() && maps.Equal(want.GetLabels(), now.GetLabels()))
	}
	return true, kept
}

func trialOf(obj client.Object, err error) (*store.Trial, error) {
	if err != nil {
		return nil, err
	}
	return store.TrialOf(obj)
}

// putBack everything, for a reason; the agents do in the end what cannot be done here.
func (t *trying) putBack(c *cli.Context, status int, why error) error {
	done, err := settle(c.Context, t.store, t.ID, t.refs(), false)
	if err != nil {
		return statusError{fmt.Errorf("change %s: %w; it cannot be put back from here, and the agents do so at %s: %w", t.ID, why, clock(t.Until), err), status}
	}
	if len(done) == 0 {
		if _, kept := t.ended(c.Context); kept {
			fmt.Fprintf(c.App.ErrWriter, "change %s is confirmed: it stays, although %v\n", t.ID, why)
			return nil
		}
	}
	for _, d := range done {
		if d.Stays != "" {
			fmt.Fprintf(c.App.ErrWriter, "%s stays as it is: %s\n", v3.RefOf(d.Object.(v3.Object)), d.Stays)
		}
	}
	return statusError{fmt.Errorf("change %s: %w: everything is put back as it was", t.ID, why), status}
}

func (t *trying) refs() []v3.Ref { return slices.Collect(maps.Keys(t.trier.Changed)) }

func clock(at time.Time) string { return at.Local().Format(time.TimeOnly) }
