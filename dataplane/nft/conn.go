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
// filters when the Conn is closed. On an older kernel the table has no owner, and Foreign tells when somebody has touched it; of several
// Conns one writes, until it is closed.
// A Conn is for one goroutine.
type Conn struct {
	nl      *nftables.Conn // which reads
	sock    *netlink.Conn  // the same socket, to which batches are sent
	room    int            // for one transaction in the socket's buffer, as far as is known
	answer  []byte         // the kernel's last one
	unheard bool           // it may have said more, which nobody has read
	name    string
	flags   nftables.TableFlags // of a table that Apply makes
	lock    *lock               // of a table that has no owner

	// What the last Apply left in the kernel, or nil; whether we own that, or else the generation of all of the kernel's nftables
	// that had it: while the table is owned, or the generation stays, it need not be read. And what its objects are, or nil.
	last  *ruleset.Table
	mine  bool
	gen   uint32
	known *objects

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
	if c.lock, err = newLock(); err != nil {
		return nil, errors.Join(err, nl.CloseLasting())
	}
	return c, nil
}

// Close leaves the table as it is.
func (c *Conn) Close() error { return errors.Join(c.nl.CloseLasting(), c.lock.close()) }

// attempts is how often something begins anew because another program changed nftables meanwhile.
const attempts = 10

// errMoved says that another program changed nftables while we read.
var errMoved = fmt.Errorf("nftables changed while they were read: %w", unix.ERESTART)

// manner is how an Apply goes about it, as the attempts before have taught.
type manner struct {
	flags nftables.TableFlags // of a table that it makes
	anew  bool                // delete the table, and make it again
}

// Apply makes the table in the kernel equal to want, in one transaction, before which another may lay ready what is new: after an
// error the kernel has what it had, but for what nothing leads to when it refuses to give that up again. It gives the changes that it
// made: none when the table was so already. The Conn keeps want, which must not be changed any more.
func (c *Conn) Apply(want *ruleset.Table) ([]ruleset.Change, error) { return c.Change(want, nil) }

// Change is Apply for one who knows the changes from the table of the last Apply or Change to want: those that Diff gives, in its
// order, or nil if he does not know. Where the kernel is known to have that last table, nothing but the changes is looked at.
// Otherwise, and when they are in doubt, the whole is, as by Apply.
func (c *Conn) Change(want *ruleset.Table, known []ruleset.Change) ([]ruleset.Change, error) {
	if want.Name != c.name {
		return nil, fmt.Errorf("table %s: the connection is for table %s", want.Name, c.name)
	}
	how := manner{flags: c.flags}
	for attempt := 1; ; attempt++ {
		changes, err := c.try(want, known, how)
		switch {
		case err == nil:
			c.flags = how.flags
			return changes, nil
		case errors.Is(err, errWrong):
			return nil, err
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

var (
	errMaking = errors.New("making the table")                   // or taking it over
	errWrong  = errors.New("the table cannot mean what it says") // found by us, before the kernel was asked
)

func (c *Conn) try(want *ruleset.Table, known []ruleset.Change, how manner) ([]ruleset.Change, error) {
	if how.flags == 0 {
		if err := c.lock.hold(c.name); err != nil {
			return nil, err
		}
	}
	s, err := c.state(how.flags)
	if err != nil {
		return nil, err
	}
	changes, objects, err := c.judge(&s, want, known, how)
	if err != nil {
		return nil, err
	}
	if s.settled() && len(changes) == 0 {
		c.remember(want, objects, s.mine, s.gen)
		return nil, nil
	}
	c.forget()
	gen, err := c.commit(s, changes, how.flags)
	if err != nil {
		return nil, err
	}
	c.remember(want, objects, how.flags == owned, gen)
	return changes, nil
}

// remember what the kernel has. Our own commit has made the generation one more; if others have committed since, it is more than
// that, and the table will be read.
func (c *Conn) remember(t *ruleset.Table, known *objects, mine bool, gen uint32) {
	c.last, c.known, c.mine, c.gen = t, known, mine, gen
}

func (c *Conn) forget() { c.remember(nil, nil, false, 0) }

// judge whether the table can be programmed, and by which changes. What is remembered is right, so that only the changes to it are
// looked at, unless they are in doubt; then, and for a table that was read, the whole is.
func (c *Conn) judge(s *state, want *ruleset.Table, known []ruleset.Change, how manner) ([]ruleset.Change, *objects, error) {
	if s.remembered && !how.anew {
		if known == nil {
			known = ruleset.Diff(s.table, want)
		}
		if c.known == nil {
			c.known = learn(s.table)
		}
		if c.known.accept(known, s.table, want) == nil {
			return said(known, s.table), c.known, nil
		}
		c.known = nil
	}
	if err := check(want); err != nil {
		return nil, nil, fmt.Errorf("table %s: %w", want.Name, wrong{err})
	}
	if s.remembered {
		s.table = explicit(s.table)
	}
	s.replace = s.replace || s.exists && (how.anew || s.table != nil && clash(s.table, want))
	if s.replace {
		s.table = nil
	}
	return ruleset.Diff(s.table, explicit(want)), learn(want), nil
}

// wrong marks an error as errWrong and says nothing more.
type wrong struct{ error }

func (wrong) Is(target error) bool { return target == errWrong }

// generation of all the nftables of the namespace: it grows with every commit.
func (c *Conn) generation() (uint32, error) {
	if err := c.call("reading the generation"); err != nil {
		return 0, err
	}
	b := &batch{}
	b.begin(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC, 0, subject{})
	b.end()
	err := c.write(b.buf)
	var m []byte
	if err == nil {
		m, err = c.receive()
	}
	if err != nil {
		return 0, fmt.Errorf("reading the generation: %w", err)
	}
	return decodeGeneration(m)
}

// state is what is there: what the last Apply left, where that is certain, or what is read.
func (c *Conn) state(flags nftables.TableFlags) (state, error) {
	if c.last != nil && c.mine {
		return state{table: c.last, exists: true, mine: true, remembered: true}, nil
	}
	gen, err := c.generation()
	if err != nil {
		return state{}, err
	}
	if c.last != nil && gen == c.gen {
		return state{table: c.last, exists: true, remembered: true, gen: gen}, nil
	}
	c.forget()
	t, err := c.ours()
	if err != nil {
		return state{}, err
	}
	s, err := c.read(t, flags)
	if err != nil {
		return state{}, err
	}
	if now, err := c.generation(); err != nil || now != gen {
		return state{}, errors.Join(err, errMoved)
	}
	s.gen = gen
	return s, nil
}

// commit the changes, and give the generation that has them.
func (c *Conn) commit(s state, changes []ruleset.Change, flags nftables.TableFlags) (gen uint32, err error) {
	first, then := ahead(changes)
	if len(first) == 0 || s.table == nil { // or nobody is filtered yet, or by something that cannot stay
		return s.gen + 1, c.transact(s, changes, flags)
	}
	err = c.transact(s, first, flags)
	if err == nil {
		s = state{exists: true, mine: flags == owned, gen: s.gen + 1}
		err = c.transact(s, then, flags)
	}
	if err != nil {
		// What nothing leads to goes again; where it cannot, it does no harm, and the next Apply sees it.
		_ = c.transact(state{exists: true, mine: true}, undone(first), flags)
		return 0, err
	}
	return s.gen + 1, nil
}

// transact makes the changes in one transaction.
func (c *Conn) transact(s state, changes []ruleset.Change, flags nftables.TableFlags) error {
	gen := s.gen
	if s.mine {
		gen = 0 // nobody else can have changed it: others' commits need not stop us
	}
	err := c.send(c.transaction(s, changes, flags, gen))
	if err != nil && !s.settled() {
		return fmt.Errorf("%w: %w", errMaking, err)
	}
	return err
}

// clash tells whether something in the kernel has the name, and is not the kind, of something wanted. The kernel cannot
// change what an object is: the table is made anew. Only a base chain can go and come again in one transaction.
func clash(have, want *ruleset.Table) bool {
	is := kinds(have)
	for r, kind := range kinds(want) {
		if k, ok := is[r]; ok && k != kind && (k.hook == "" || kind.hook == "") {
			return true
		}
	}
	return false
}

// call comes before each call to the kernel. Tests let it fail in the kernel's place.
func (c *Conn) call(what string) error {
	if c.unheard {
		c.drain()
	}
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
	if t.Flags&nftables.TableFlagOwner == 0 {
		if err := c.lock.hold(c.name); err != nil {
			return err
		}
	}
	c.forget()
	w := &writer{newBatch(0), c.name}
	w.deleteTable()
	if err := c.send(w.batch); err != nil {
		return fmt.Errorf("deleting table %s: %w", c.name, err)
	}
	return nil
}

// Has tells whether the table is in the kernel, whoever owns it, and has a rule: one that was flushed has none.
func (c *Conn) Has() (has bool, err error) {
	t, err := c.find()
	if err != nil || t == nil {
		return false, err
	}
	err = c.eachRule(t, func(_ *nftables.Chain, r *nftables.Rule) { has = has || r != nil })
	return has, err
}

// find gives the table as the kernel lists it, or nil.
func (c *Conn) find() (*nftables.Table, error) {
	if err := c.call("listing tables"); err != nil {
		return nil, err
	}
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

// Comments are those of a chain's rules, in order; none where there is no such chain.
func (c *Conn) Comments(chain string) (out []ruleset.RuleID, err error) {
	err = c.undisturbed(func() error {
		t, err := c.find()
		if err != nil || t == nil {
			out = nil
			return err
		}
		rules, err := c.nl.GetRules(t, &nftables.Chain{Name: chain})
		out = nil
		for _, r := range rules {
			out = append(out, commentOf(r))
		}
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the comments of chain %s in table %s: %w", chain, c.name, err)
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
