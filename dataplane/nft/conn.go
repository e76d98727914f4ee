// Package nft does: it makes the kernel's nftables hold a ruleset.Table, in one transaction, and reads back what is really
// there. It knows how netlink says what a table says, and nothing of policy.
package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// Conn is a lasting connection to the nftables of the network namespace in which it was opened. Where the kernel knows how
// (6.9 and later), its table is owned and persistent: no other program can change it while the Conn is open, and it stays and
// filters when the Conn is closed. A Conn is for one goroutine.
type Conn struct {
	nl    *nftables.Conn
	name  string
	flags nftables.TableFlags // of a table that Apply makes

	// What the last Apply left in the kernel, and the generation of all of the kernel's nftables that had it: while the
	// generation stays, the table need not be read.
	last *ruleset.Table
	gen  uint32
}

const owned = nftables.TableFlagOwner | nftables.TableFlagPersist

// Count is what a rule has seen.
type Count struct{ Packets, Bytes uint64 }

// ErrOwned says that another program owns the table and is alive: most likely a second agent.
var ErrOwned = errors.New("another program that is running owns the table")

// Open connects to the nftables of the caller's network namespace. table is the name of the one table, of family inet, that
// the Conn reads and writes.
func Open(table string) (*Conn, error) {
	nl, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("connecting to nftables: %w", err)
	}
	return &Conn{nl: nl, name: table, flags: owned}, nil
}

// Close leaves the table as it is.
func (c *Conn) Close() error { return c.nl.CloseLasting() }

// attempts is how often Apply begins anew because another program changed nftables meanwhile.
const attempts = 10

// Apply makes the table in the kernel equal to want, in one transaction: after an error the kernel has what it had. It gives
// the changes that it made: none when the table was so already.
func (c *Conn) Apply(want *ruleset.Table) ([]ruleset.Change, error) {
	if want.Name != c.name {
		return nil, fmt.Errorf("table %s: the connection is for table %s", want.Name, c.name)
	}
	for attempt := 1; ; attempt++ {
		changes, err := c.try(want)
		switch {
		case err == nil:
			return changes, nil
		case attempt == attempts:
		case errors.Is(err, unix.ERESTART), errors.Is(err, unix.EINTR):
			continue
		case c.flags != 0 && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)):
			c.flags = 0 // an older kernel: a table without an owner
			continue
		}
		return nil, fmt.Errorf("programming table %s: %w", c.name, err)
	}
}

func (c *Conn) try(want *ruleset.Table) ([]ruleset.Change, error) {
	gen, err := c.nl.GetGen()
	if err != nil {
		return nil, fmt.Errorf("reading the generation: %w", err)
	}
	s := state{table: c.last, replace: false}
	if c.last == nil || gen.ID != c.gen {
		if s, err = c.read(); err != nil {
			return nil, err
		}
	}
	if s.replace || s.table != nil && clash(s.table, want) {
		s.replace, s.table = s.exists, nil
	}
	changes := ruleset.Diff(s.table, want)
	if len(changes) == 0 && s.table != nil && !s.adopt {
		c.last, c.gen = want, gen.ID
		return nil, nil
	}
	c.last = nil
	if err := c.write(s, changes); err != nil {
		return nil, err
	}
	if err := c.nl.FlushWithGenID(gen.ID); err != nil {
		return nil, err
	}
	// Only if nobody else committed in between is what was written known to be what is there.
	if now, err := c.nl.GetGen(); err == nil && now.ID == gen.ID+1 {
		c.last, c.gen = want, now.ID
	}
	return changes, nil
}

// clash tells whether something in the kernel has the name, and is not the kind, of something wanted. The kernel cannot
// change what an object is: the table is made anew.
func clash(have, want *ruleset.Table) bool {
	kinds := map[string]string{}
	for _, s := range have.Sets {
		kinds["set "+s.Name] = fmt.Sprint(s.Type, s.Interval)
	}
	for _, m := range have.Maps {
		kinds["set "+m.Name] = fmt.Sprint("map", m.Type)
	}
	for _, c := range have.Chains {
		kinds["chain "+c.Name] = fmt.Sprint(c.Hook, c.Priority)
	}
	other := func(name, kind string) bool { k, ok := kinds[name]; return ok && k != kind }
	for _, s := range want.Sets {
		if other("set "+s.Name, fmt.Sprint(s.Type, s.Interval)) {
			return true
		}
	}
	for _, m := range want.Maps {
		if other("set "+m.Name, fmt.Sprint("map", m.Type)) {
			return true
		}
	}
	for _, c := range want.Chains {
		if other("chain "+c.Name, fmt.Sprint(c.Hook, c.Priority)) {
			return true
		}
	}
	return false
}

// Delete removes the table, if there is one.
func (c *Conn) Delete() error {
	t, err := c.find()
	if err != nil || t == nil {
		return err
	}
	c.last = nil
	c.nl.DelTable(t)
	if err := c.nl.Flush(); err != nil {
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
		if t.Name != c.name {
			continue
		}
		if me, err := c.nl.GetPortID(); err == nil && t.Flags&nftables.TableFlagOwner != 0 && t.Owner != me {
			return nil, fmt.Errorf("table %s: %w", c.name, ErrOwned)
		}
		return t, nil
	}
	return nil, nil
}

// Read gives the table that is in the kernel, or nil when there is none. A rule that is none of ours has the RuleID
// "not ours: …" and nothing else.
func (c *Conn) Read() (*ruleset.Table, error) {
	s, err := c.read()
	if err != nil {
		return nil, err
	}
	if s.replace && s.table == nil {
		return nil, fmt.Errorf("table %s is none of ours", c.name)
	}
	return s.table, nil
}

// Counters adds up what the rules of each RuleID have counted since they were written.
func (c *Conn) Counters() (map[ruleset.RuleID]Count, error) {
	t, err := c.find()
	if err != nil || t == nil {
		return nil, err
	}
	out := map[ruleset.RuleID]Count{}
	err = c.eachRule(t, func(_ *nftables.Chain, r *nftables.Rule) {
		if r == nil {
			return
		}
		if n, ok := counted(r); ok {
			id := commentOf(r)
			sum := out[id]
			out[id] = Count{sum.Packets + n.Packets, sum.Bytes + n.Bytes}
		}
	})
	return out, err
}
