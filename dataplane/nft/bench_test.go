package nft_test

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
	"github.com/tierwall/tierwall/test/scenario"
)

// What a change costs: a whole table of 10,000 pods and 200 policies, one pod's new address in it, and nothing new.
func BenchmarkApply(b *testing.B) {
	if noNamespaces != nil {
		b.Fatal(noNamespaces)
	}
	x := policy.NewIndex("n1", policy.Options{})
	objs := scenario.Big(10000, 200)
	for _, o := range objs {
		if err := x.Set(o); err != nil {
			b.Fatal(err)
		}
	}
	all := ruleset.Compile(x.Plan(), ruleset.Options{})
	extra := scenario.Pod("ns1", "extra", "n2", []string{"10.200.0.1"}, map[string]string{"app": "a1", "tier": "x1"})
	if err := x.Set(extra); err != nil {
		b.Fatal(err)
	}
	more := ruleset.Compile(x.Plan(), ruleset.Options{})
	in := func(name string, f func(*nft.Conn, *testing.B)) {
		b.Run(name, func(b *testing.B) {
			runtime.LockOSThread() // and never unlock: the thread ends with its namespace
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				b.Fatal(err)
			}
			c, err := nft.Open(ruleset.DefaultTable)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			apply(b, c, all)
			f(c, b)
		})
	}
	in("whole", func(c *nft.Conn, b *testing.B) {
		for b.Loop() {
			if err := c.Delete(); err != nil {
				b.Fatal(err)
			}
			apply(b, c, all)
		}
	})
	in("one-pod", func(c *nft.Conn, b *testing.B) {
		for b.Loop() {
			apply(b, c, more)
			apply(b, c, all)
		}
	})
	in("nothing", func(c *nft.Conn, b *testing.B) {
		for b.Loop() {
			apply(b, c, all)
		}
	})
}

func apply(b *testing.B, c *nft.Conn, t *ruleset.Table) {
	if _, err := c.Apply(t); err != nil {
		b.Fatal(err)
	}
}
