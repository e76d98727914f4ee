package nft_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
	"github.com/tierwall/tierwall/test/lab"
)

// other has in place of some of everyRule's objects other ones, with an interval set and a chain that are new.
func other() *ruleset.Table {
	t := everyRule()
	a := netip.MustParseAddr("192.0.2.1")
	t.Sets[0].Elems = ruleset.ElemsOf(addrElem(a, a))
	t.Sets = append(t.Sets, &ruleset.Set{Name: "z", Type: ruleset.TypeIPv4, Interval: true, Elems: ruleset.ElemsOf(addrElem(a, a.Next()))})
	every := slices.IndexFunc(t.Chains, func(c *ruleset.Chain) bool { return c.Name == "every" })
	t.Chains[every].Rules = append(t.Chains[every].Rules[:7:7], ruleset.Rule{Verdict: ruleset.Verdict{Kind: ruleset.Jump, Chain: "z"}})
	t.Chains = append(t.Chains, &ruleset.Chain{Name: "z", Rules: []ruleset.Rule{{Matches: []ruleset.Match{{Key: ruleset.KeyIPSAddr, Set: "z"}}, Counter: true}}})
	return t
}

// Each call to the kernel fails in turn: then the kernel has the old table or the new one, and the next Apply makes the new one.
func TestEachCallFails(t *testing.T) {
	lab.Need(t, noNamespaces)
	failed := map[string]int{}
	for _, owned := range []bool{true, false} {
		for _, had := range []*ruleset.Table{nil, everyRule()} {
			for _, reopen := range []bool{false, had != nil} {
				for _, errno := range []error{unix.EIO, unix.ERESTART} {
					for nth := 0; ; nth++ {
						call, err := failing(had, other(), owned, reopen, nth, errno)
						if err != nil {
							t.Fatalf("owned %v, a table before %v, reopened %v: call %d (%s) fails with %v: %v", owned, had != nil, reopen, nth, call, errno, err)
						}
						if call == "" {
							break
						}
						failed[call]++
					}
				}
			}
		}
	}
	for _, call := range []string{"reading the generation", "listing tables", "listing objects", "listing flow tables", "listing sets",
		"listing elements", "listing chains", "listing rules", "making room", "sending", "receiving"} {
		if failed[call] == 0 {
			t.Errorf("%s has never failed", call)
		}
	}
	t.Logf("failed: %v", failed)
}

// failing goes from one table to another while the nth call fails, and gives which call that was, if there were so many.
func failing(had, want *ruleset.Table, owned, reopen bool, nth int, errno error) (call string, err error) {
	failed := isolated(func() {
		c := opened(owned)
		if had != nil {
			_, err := c.Apply(had)
			must(err)
		}
		if reopen {
			must(c.Close())
			c = opened(owned)
		}
		defer c.Close()
		count := 0
		c.Fault(func(what string) error {
			if count++; count != nth+1 {
				return nil
			}
			call = what
			return errno
		})
		_, err := c.Apply(want)
		c.Fault(nil)
		if err != nil && !errors.Is(err, errno) {
			panic(fmt.Sprintf("another error: %v", err))
		}
		oneOf(had, want, err == nil)
		_, err = c.Apply(want)
		must(err)
		oneOf(nil, want, true)
	})
	return call, failed
}

func opened(owned bool) *nft.Conn {
	c := open()
	if !owned {
		c.Unowned()
	}
	return c
}

// oneOf two tables is in the kernel, or surely the second.
func oneOf(had, want *ruleset.Table, second bool) {
	c := open()
	defer c.Close()
	have, err := c.Read()
	must(err)
	is := func(t *ruleset.Table) bool { return have != nil && len(ruleset.Diff(have, nft.Explicit(t))) == 0 }
	switch {
	case is(want):
	case second:
		panic(fmt.Sprintf("there is %s", have))
	case had == nil && have != nil, had != nil && !is(had):
		panic(fmt.Sprintf("there is neither the old nor the new table: %s", have))
	}
}

// When the kernel refuses and that cannot be heard, nobody takes the refusal for an answer of his own.
func TestRefusalIsNotHeard(t *testing.T) {
	for name, bad := range refused() {
		for _, owned := range []bool{true, false} {
			inNamespace(t, func() {
				c := opened(owned)
				defer c.Close()
				_, err := c.Apply(small(1))
				must(err)
				c.Fault(func(what string) error {
					if what == "receiving" {
						return unix.EIO
					}
					return nil
				})
				if _, err := c.Apply(bad); !errors.Is(err, unix.EIO) {
					t.Errorf("%s: %v", name, err)
				}
				c.Fault(nil)
				reads(t, c, small(1))
				_, err = c.Apply(small(2))
				must(err)
				reads(t, c, small(2))
			})
		}
	}
}
