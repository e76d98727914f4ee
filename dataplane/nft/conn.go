// Package nft does: it makes the kernel's nftables hold a ruleset.Table, in one transaction, and reads back what is really
// there. It knows how netlink says what a table says, and nothing of policy.
//
//	Table ── check ── Diff against what is there ── encode ──► one transaction, all or nothing
//	Table ◄─ decode ───────────────────────────────────────── the kernel
//
// A table is refused before the kernel is asked when it cannot mean what it says (check.go, places.go). What is written and what is read
// share one list of fields (fields.go), and what is read counts as ours only if it would be written exactly so.
//
// Beside its nftables the package knows what else of a host's kernel a table leans on: its interfaces and the pods routed to them
// (interfaces.go), whether bridges hand packets up (bridge.go), and the connections that a changed table should end (conntrack.go).
package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// Conn is a lasting connection to the nftables of the network namespace in which it was opened. Where the kernel knows how
// (6.9 and later), its table is owned and persistent: no other program can change it while the Conn is open, and it stays and
// filters when the Conn is closed. On an older kernel the table has no owner, and Foreign tells when somebody has touched it.
// A Conn is for one goroutine.
type Conn struct {
	nl    *nftables.Conn // which reads
	sock  *netlink.Conn  // the same socket, to which batches are sent
	room  int            // for one transaction in the socket's buffer, as far as is known
	name  string
	flags nftables.TableFlags // of a table that Apply makes

	// What the last Apply left in the kernel, or nil, and the generation of all of the kernel's nftables that had it. While
	// the generation stays, or the table is owned, it need not be read.
	last *ruleset.Table
	gen  uint32

	fault func(call string) error // of tests; nil
}

const owned = nftables.TableFlagOwner | nftables.TableFlagPersist

// Count is what a rule has seen.
type Count struct{ Packets, Bytes uint64 }

// ErrOwned says that another program owns the table and is alive: most likely a second agent.
var ErrOwned = errors.New("another program that is running owns the table")

// Open connects to the nftables of the caller's network namespace. table is the name of the one table, of family inet, that
// the Conn reads and writes.
func Open(table string) (*Conn, error) {
	c := &Conn{name: table, flags: owned}
	keep := func(s *netlink.Conn) error {
		c.sock = s
		return capAcknowledge(s)
	}
	nl, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(keep))
	if err != nil {
		return nil, fmt.Errorf("connecting to nftables: %w", err)
	}
	c.nl = nl
	return c, nil
}

// Close leaves the table as it is.
func (c *Conn) Close() error { return c.nl.CloseLasting() }

// attempts is how often something begins anew because another program changed nftables meanwhile.
const attempts = 10

// errMoved says that another program changed nftables while we read.
var errMoved = fmt.Errorf("nftables changed while they were read: %w", unix.ERESTART)

// manner is how an Apply goes about it, as the attempts before have taught.
type manner struct {
	flags nftables.TableFlags // of a table that it makes
	anew  bool                // delete the table, and make it again
	laid  bool                // what is new is there already, and nothing leads to it
}

// Apply makes the table in the kernel equal to want, in one transaction, before which another may lay ready what is new: after an
// error the kernel has what it had, but for what nothing leads to when it refuses to give that up again. It gives the changes that it made: none when the table was so already.
func (c *Conn) Apply(want *ruleset.Table) ([]ruleset.Change, error) {
	want, err := c.accept(want)
	if err != nil {
		return nil, err
	}
	how := manner{flags: c.flags}
	for attempt := 1; ; attempt++ {
		changes, err := c.try(want, how)
		switch {
		case err == nil:
			c.flags = how.flags
			return changes, nil
		case attempt == attempts:
		case errors.Is(err, unix.ERESTART), errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENFILE) && !how.anew: // a set has outgrown its size
			how.anew = true
			continue
		case errors.Is(err, errMaking) && how.flags != 0 && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)):
			how.flags = 0 // an older kernel: a table without an owner
			continue
		}
		return nil, fmt.Errorf("programming table %s: %w", c.name, err)
	}
}

// accept gives the table with everything said that it implies, if it can be programmed.
func (c *Conn) accept(want *ruleset.Table) (*ruleset.Table, error) {
	if want.Name != c.name {
		return nil, fmt.Errorf("table %s: the connection is for table %s", want.Name, c.name)
	}
	if err := check(want); err != nil {
		return nil, fmt.Errorf("table %s: %w", want.Name, err)
	}
	return explicit(want), nil
}

// errMaking marks an error of a transaction that makes the table or takes it over.
var errMaking = errors.New("making the table")

func (c *Conn) try(want *ruleset.Table, how manner) ([]ruleset.Change, error) {
	gen, err := c.generation()
	if err != nil {
		return nil, err
	}
	s, err := c.state(gen, how.flags)
	if err != nil {
		return nil, err
	}
	if s.exists && (how.anew || s.table != nil && clash(s.table, want)) {
		s.replace = true
	}
	if s.replace {
		s.table = nil
	}
	if first := ahead(s.table, want); first != nil && !how.laid {
		done, err := c.make(s, first, how.flags, gen)
		if err != nil {
			return nil, err
		}
		how.laid = true
		more, err := c.try(want, how)
		if err != nil {
			// What nothing leads to goes again; where it cannot, it does no harm, and the next Apply sees it.
			_, _ = c.try(s.table, how)
			return nil, err
		}
		return append(done, more...), nil
	}
	return c.make(s, want, how.flags, gen)
}

// make makes want of what is there at a generation.
func (c *Conn) make(s state, want *ruleset.Table, flags nftables.TableFlags, gen uint32) ([]ruleset.Change, error) {
	changes := ruleset.Diff(s.table, want)
	if s.settled() && len(changes) == 0 {
		c.last, c.gen = want, gen
		return nil, nil
	}
	c.last = nil
	if err := c.commit(s, changes, flags, gen); err != nil {
		return nil, err
	}
	// Only if the table is owned, or nobody else committed in between, is what was written known to be what is there.
	if now, err := c.generation(); err == nil && (flags == owned || now == gen+1) {
		c.last, c.gen = want, now
	}
	return changes, nil
}

// generation of all the nftables of the namespace: it grows with every commit.
func (c *Conn) generation() (uint32, error) {
	gen, err := c.nl.GetGen()
	if err != nil {
		return 0, fmt.Errorf("reading the generation: %w", err)
	}
	return gen.ID, nil
}

// state is what is there at a generation: what the last Apply left, where that is certain, or what is read.
func (c *Conn) state(gen uint32, flags nftables.TableFlags) (state, error) {
	t, err := c.ours()
	if err != nil {
		return state{}, err
	}
	if c.last != nil && t != nil && (gen == c.gen || t.Flags&owned == owned) {
		return state{table: c.last, exists: true, mine: t.Flags&owned == owned}, nil
	}
	s, err := c.read(t, flags)
	if err != nil {
		return state{}, err
	}
	if now, err := c.generation(); err != nil || now != gen {
		return state{}, errors.Join(err, errMoved)
	}
	return s, nil
}

func (c *Conn) commit(s state, changes []ruleset.Change, flags nftables.TableFlags, gen uint32) error {
	if s.mine {
		gen = 0 // nobody else can have changed it: others' commits need not stop us
	}
	err := c.send(c.write(s, changes, flags, gen))
	if err != nil && !s.settled() {
		return fmt.Errorf("%w: %w", errMaking, err)
	}
	return err
}

// clash tells whether something in the kernel has the name, and is not the kind, of something wanted. The kernel cannot
// change what an object is: the table is made anew.
func clash(have, want *ruleset.Table) bool {
	is := kinds(have)
	for name, kind := range kinds(want) {
		if k, ok := is[name]; ok && k != kind {
			return true
		}
	}
	return false
}

// kinds of a table's objects, by name. Sets and maps share their names.
func kinds(t *ruleset.Table) map[string]string {
	out := make(map[string]string, len(t.Sets)+len(t.Maps)+len(t.Chains))
	for _, s := range t.Sets {
		out["set "+s.Name] = fmt.Sprint(s.Type, s.Interval)
	}
	for _, m := range t.Maps {
		out["set "+m.Name] = fmt.Sprint("map", m.Type)
	}
	for _, c := range t.Chains {
		out["chain "+c.Name] = fmt.Sprint(c.Hook, c.Priority)
	}
	return out
}

// call is what tests fail instead of the kernel, before each call to it.
func (c *Conn) call(what string) error {
	if c.fault == nil {
		return nil
	}
	return c.fault(what)
}

// Delete removes the table, if there is one.
func (c *Conn) Delete() error {
	t, err := c.ours()
	if err != nil || t == nil {
		return err
	}
	c.last = nil
	w := &writer{newBatch(0), c.name}
	w.deleteTable()
	if err := c.send(w.batch); err != nil {
		return fmt.Errorf("deleting table %s: %w", c.name, err)
	}
	return nil
}

// find gives the table as the kernel lists it, or nil.
func (c *Conn) find() (*nftables.Table, error) {
	tables, err := c.nl.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == c.name {
			return t, nil
		}
	}
	return nil, nil
}

// ours is find for those who want to change the table: an error when somebody else owns it.
func (c *Conn) ours() (*nftables.Table, error) {
	t, err := c.find()
	if err != nil || t == nil || t.Flags&nftables.TableFlagOwner == 0 {
		return t, err
	}
	me, err := c.nl.GetPortID()
	if err != nil {
		return nil, fmt.Errorf("asking for our own port: %w", err)
	}
	if t.Owner != me {
		return nil, fmt.Errorf("table %s: %w", c.name, ErrOwned)
	}
	return t, nil
}

// Read gives the table that is in the kernel, whoever owns it, or nil when there is none. A rule that is none of ours has
// the RuleID "not ours: …" and nothing else; a table with objects that are none of ours is an error.
func (c *Conn) Read() (out *ruleset.Table, err error) {
	err = c.undisturbed(func() error {
		t, err := c.find()
		if err != nil || t == nil {
			out = nil
			return err
		}
		out, err = c.decode(t)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading table %s: %w", c.name, err)
	}
	return out, nil
}

// Counters adds up what the rules of each RuleID have counted since they were written.
func (c *Conn) Counters() (out map[ruleset.RuleID]Count, err error) {
	err = c.undisturbed(func() error {
		t, err := c.find()
		if err != nil || t == nil {
			out = nil
			return err
		}
		out = map[ruleset.RuleID]Count{}
		return c.eachRule(t, func(_ *nftables.Chain, r *nftables.Rule) {
			if r == nil {
				return
			}
			if n, ok := counted(r); ok {
				id := commentOf(r)
				sum := out[id]
				out[id] = Count{sum.Packets + n.Packets, sum.Bytes + n.Bytes}
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("counting in table %s: %w", c.name, err)
	}
	return out, nil
}

// undisturbed runs a read until nobody has changed nftables meanwhile: a listing takes several messages, and what is
// changed between two of them may be in it twice or not at all.
func (c *Conn) undisturbed(read func() error) error {
	for range attempts {
		before, err := c.generation()
		if err != nil {
			return err
		}
		failed := read()
		after, err := c.generation()
		switch {
		case err != nil:
			return err
		case before == after:
			return failed
		}
	}
	return errMoved
}
