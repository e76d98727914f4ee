package nft_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// The kernel that the other tests program has all that they need, and asking for it leaves nothing behind.
func TestFeatures(t *testing.T) {
	inNamespace(t, func() {
		before := shell("", "list", "ruleset")
		all, err := nft.Features()
		must(err)
		names := map[string]bool{}
		for _, f := range all {
			t.Logf("%-45s %-5s for %s: missing: %v", f.Name, f.Since, f.For, f.Missing)
			if f.Missing != nil {
				t.Errorf("%s: %v", f.Name, f.Missing)
			}
			if names[f.Name] || f.Name == "" || f.For == "" || f.Since == "" {
				t.Errorf("%+v: two of that name, or something is not said", f)
			}
			names[f.Name] = true
		}
		if after := shell("", "list", "ruleset"); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
	})
}

// What the kernel refuses is missing, and the reason is the kernel's.
func TestMissingFeature(t *testing.T) {
	inNamespace(t, func() {
		for name, table := range refused() {
			if err := nft.Probe(table); !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EMLINK) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := nft.Probe(&ruleset.Table{}); err != nil {
			t.Errorf("nothing is missing: %v", err)
		}
	})
}

// What is missing is named with the kernel that has it, unless it can be done without.
func TestLacking(t *testing.T) {
	all := []nft.Feature{{Name: "a"}, {Name: "b", Missing: unix.ENOENT, Optional: true}}
	if err := nft.Lacking(all); err != nil {
		t.Error(err)
	}
	all = append(all, nft.Feature{Name: "verdict maps", Since: "3.14", For: "everything", Missing: unix.EOPNOTSUPP})
	want := "the kernel has no verdict maps, which everything needs: it is there since 3.14: operation not supported"
	if err := nft.Lacking(all); err == nil || err.Error() != want || !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("got %v, want %s", err, want)
	}
}
