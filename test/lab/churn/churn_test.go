// Package churn shows that nothing that is denied comes through, and that nothing that is allowed is lost, while policies and pods
// change, agents are killed and start again, and others lay hands on the table. It sends numbered packets all the time, through
// real nodes with real agents, and the same through nodes that have no table at all: what is lost there is the kernel's doing.
package churn

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/test/lab"
)

var (
	swaps    = flag.Int("swaps", 1000, "how often all policies are replaced by others")
	churns   = flag.Int("churns", 1000, "how often pods come, go and are relabelled")
	kills    = flag.Int("kills", 32, "how often the agents are killed, and start again")
	foreign  = flag.Int("foreign", 24, "how often others lay hands on the table")
	most     = flag.Duration("most", 40*time.Second, "how long all this may take: when it is over, what has been done is judged")
	burst    = flag.Int("burst", 4, "how many packets a flow sends at a time")
	pace     = flag.Duration("pace", 8*time.Millisecond, "how often it does")
	seed     = flag.Uint64("seed", 0, "of what happens when; 0 for any")
	given    = flag.String("tierctl", "", "the tierctl to try; else it is built")
	patience = flag.Duration("patience", 30*time.Second, "with each of them")
)

var noNamespaces error

func TestMain(m *testing.M) {
	flag.Parse()
	noNamespaces = lab.Enter()
	os.Exit(m.Run())
}

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site is two nodes with their agents and a store, and what goes on there.
type site struct {
	*lab.Lab
	t       *testing.T
	rng     *rand.Rand
	store   *store.Bolt
	tierctl lab.Tierctl
	traffic *traffic
	peers   peers

	policies [2][]client.Object
	now      int    // the policies that are there
	revision string // of the store
}

var cluster = lab.Cluster{
	Nodes: []lab.Node{
		{Name: "n1", Uplinks: []lab.Uplink{{Iface: "eth0", Addrs: pair{"192.0.2.1", "2001:db8::1"}.addrs()}}},
		{Name: "n2", Uplinks: []lab.Uplink{{Iface: "eth0", Addrs: pair{"192.0.2.2", "2001:db8::2"}.addrs()}}},
	},
	Workloads: []lab.Workload{
		{Name: "a/one", Node: "n1", Addrs: one.addrs()},
		{Name: "a/two", Node: "n1", Addrs: two.addrs()},
		{Name: "a/three", Node: "n2", Addrs: three.addrs()},
		{Name: "a/four", Node: "n2", Addrs: four.addrs()},
	},
	Outside: outside.addrs(),
}

func built(t *testing.T) *lab.Lab {
	t.Helper()
	lab.Need(t, noNamespaces)
	l, err := lab.Build(cluster)
	fatal(t, err)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// newSite has its agents running and its traffic under way.
func newSite(t *testing.T, tierctl string) *site {
	t.Helper()
	s := &site{Lab: built(t), t: t}
	from := *seed
	for from == 0 {
		from = rand.Uint64()
	}
	t.Logf("-seed %d", from)
	s.rng = rand.New(rand.NewPCG(from, 0))
	s.peers.rng = s.rng
	file := filepath.Join(t.TempDir(), "store.db")
	s.store, s.tierctl = store.OpenBolt(file), lab.Tierctl{Path: tierctl, Datastore: "bolt:" + file}
	for i, p := range policies {
		s.policies[i] = s.objects(p)
	}
	s.write(append(s.objects(standing), s.policies[0]...), nil)
	s.start()
	s.traffic = sends(t, "guarded", s.Lab, ways(), *pace)
	return s
}

// sends has flows under way until the test ends.
func sends(t *testing.T, name string, l *lab.Lab, flows []*flow, pace time.Duration) *traffic {
	t.Helper()
	c, err := start(t.Context(), name, l, flows, *burst, pace)
	fatal(t, err)
	t.Cleanup(func() { _ = c.end() }) // most likely it has ended
	return c
}

// unguarded are packets of the same kinds on nodes without agents: none is denied there.
func unguarded(t *testing.T) *traffic {
	flows := ways()
	for _, f := range flows {
		if f.denied = false; f.manner == requests {
			f.manner = connections
		}
	}
	return sends(t, "without a table", built(t), flows, 2**pace)
}

func (s *site) objects(yaml string) []client.Object {
	s.t.Helper()
	out, err := parse(yaml)
	fatal(s.t, err)
	return out
}

// write does one transaction.
func (s *site) write(put, gone []client.Object) {
	s.t.Helper()
	revision, err := s.store.Transact(s.t.Context(), func(tx store.Writer) error {
		for _, o := range put {
			if err := apply(tx, o); err != nil {
				return err
			}
		}
		for i := len(gone) - 1; i >= 0; i-- { // a tier when nothing is in it any more
			if err := tx.Delete(v3.RefOf(gone[i].(v3.Object))); err != nil {
				return err
			}
		}
		return nil
	})
	fatal(s.t, err)
	s.revision = revision
}

func apply(tx store.Writer, o client.Object) error {
	_, err := tx.Get(v3.RefOf(o.(v3.Object)))
	if errors.Is(err, store.ErrNotFound) {
		_, err = tx.Create(o)
		return err
	}
	if err == nil {
		_, err = tx.Update(o)
	}
	return err
}

func (s *site) start() {
	s.t.Helper()
	fatal(s.t, s.StartAgents(s.tierctl))
	s.wait()
}

// wait until the agents have programmed what is in the store.
func (s *site) wait() {
	s.t.Helper()
	ctx, stop := context.WithTimeout(s.t.Context(), *patience)
	defer stop()
	fatal(s.t, s.WaitFor(ctx, s.revision))
}

// moment waits for a random time: what is to happen next happens in the midst of something.
func (s *site) moment(most time.Duration) {
	select {
	case <-time.After(time.Duration(s.rng.Int64N(int64(most)))):
	case <-s.t.Context().Done():
	}
}

func (s *site) swap() {
	old := s.policies[s.now]
	s.now = 1 - s.now
	s.write(s.policies[s.now], old)
}

func (s *site) churn() {
	if s.rng.IntN(8) == 0 {
		s.write(s.objects(relabelled(s.rng)), nil)
		return
	}
	put, gone := s.peers.change()
	s.write(s.objects(put), s.objects(gone))
}

// kill kills the agents, in the midst of something or not, and starts others; sometimes those do not live long either.
func (s *site) kill() {
	for range s.rng.IntN(3) {
		s.swap()
	}
	s.moment(20 * time.Millisecond)
	fatal(s.t, s.KillAgents())
	if s.rng.IntN(2) == 0 {
		s.swap() // while nobody looks
	}
	if s.rng.IntN(3) == 0 {
		fatal(s.t, s.StartAgents(s.tierctl))
		s.moment(150 * time.Millisecond)
		fatal(s.t, s.KillAgents())
	}
	s.start()
}

// hands are what others do to a table.
var hands = []string{
	"delete table inet tierwall",
	"flush table inet tierwall",
	"flush chain inet tierwall to-workload",
	"insert rule inet tierwall from-workload accept",
	"insert rule inet tierwall to-workload drop",
	"flush map inet tierwall to-workload-iface",
	"add chain inet tierwall mine { type filter hook forward priority -30; policy drop; }",
}

// meddle has others lay hands on a table that has an owner: they cannot.
func (s *site) meddle() {
	node := s.Nodes()[s.rng.IntN(len(s.Nodes()))]
	if s.rng.IntN(4) == 0 {
		fatal(s.t, s.Run(s.t.Context(), node, "nft flush ruleset")) // it passes by
		return
	}
	command := hands[s.rng.IntN(len(hands))]
	if err := s.Run(s.t.Context(), node, fmt.Sprintf("nft '%s'", command)); err == nil {
		s.t.Errorf("another program could %s", command)
	} else if !strings.Contains(err.Error(), "Operation not permitted") {
		s.t.Errorf("%s: %v", command, err)
	}
}

// owned tells whether the kernel gives tables an owner that persists.
func (s *site) owned() bool {
	return s.Run(s.t.Context(), "n1", "nft list table inet tierwall | grep -q owner") == nil
}

func tierctl(t *testing.T, args ...string) string {
	t.Helper()
	if *given != "" {
		return *given
	}
	path := filepath.Join(t.TempDir(), "tierctl")
	args = append(append([]string{"build", "-o", path}, args...), "../../../cli")
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatalf("building tierctl: %v\n%s", err, out)
	}
	return path
}

// Nothing leaks and nothing is lost, whatever happens.
func TestNoLeakNoLoss(t *testing.T) {
	lab.Need(t, noNamespaces)
	s := newSite(t, tierctl(t))
	control := unguarded(t)
	began := time.Now()
	did := s.everything()
	took := time.Since(began)
	fatal(t, errors.Join(s.traffic.end(), control.end()))
	t.Logf("%s in %s\n%s%s", did, took.Round(time.Millisecond), s.traffic, control)
	for _, complaint := range s.traffic.verdict(control) {
		t.Error(complaint)
	}
}

// event is something that is done, and how often of eight times the next waits until the agents have done their part; else they
// do it together with the next.
type event struct {
	name string
	do   func()
	wait int
}

// everything does all that is to be done, in any order, and says how often each was done.
func (s *site) everything() string {
	var events []event
	more := func(n int, name string, do func(), wait int) {
		for range n {
			events = append(events, event{name, do, wait})
		}
	}
	more(*swaps, "swap", s.swap, 8)
	more(*churns, "churn", s.churn, 2)
	more(*kills, "kill", s.kill, 0)
	if s.owned() {
		more(*foreign, "hands of others", s.meddle, 0)
	} else {
		s.t.Log("this kernel gives tables no owner: others lay no hands on them here")
	}
	s.rng.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	done, over := map[string]int{}, time.Now().Add(*most)
	for i, e := range events {
		if time.Now().After(over) {
			s.t.Logf("-most %v is over: %d of %d were not done", *most, len(events)-i, len(events))
			break
		}
		s.traffic.does(fmt.Sprintf("%s %d", e.name, done[e.name]))
		e.do()
		if s.rng.IntN(8) < e.wait {
			s.wait()
		}
		done[e.name]++
	}
	s.wait()
	return fmt.Sprint(done)
}

// verdict says what must not be. What is lost without a table is not the table's doing.
func (t *traffic) verdict(control *traffic) (complaints []string) {
	complain := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	if sent, through, _ := t.sum(true); through > 0 || sent == 0 {
		complain("of %d denied packets %d came through", sent, through)
	}
	sent, arrived, lost := t.sum(false)
	sentThere, arrivedThere, lostThere := control.sum(false)
	if lost > lostThere || arrived == 0 {
		complain("of %d allowed packets %d were lost; without a table %d of %d", sent, lost, lostThere, sentThere)
	}
	if arrivedThere == 0 {
		complain("nothing arrived without a table: what else was seen means nothing")
	}
	return complaints
}
