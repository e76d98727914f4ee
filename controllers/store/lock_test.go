package store

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// A locked store refuses what those want to write who heed it, all of them and at once, and nobody else.
func TestStoresAreLocked(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) (heeds, goesOn Store){
		"bolt": func(t *testing.T) (Store, Store) {
			b := OpenBolt(filepath.Join(t.TempDir(), "store.db"))
			return b.Heeding(true), b
		},
		"kube": func(t *testing.T) (Store, Store) {
			k := kubeStore(t)
			return k.Heeding(true), k
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			heeds, goesOn := open(t)
			write := func(s Store, name string) error {
				_, err := s.Transact(ctx, func(tx Writer) error {
					_, err := tx.Create(set(name))
					return err
				})
				return err
			}
			must(t, write(heeds, "before"))
			must(t, SetLock(ctx, goesOn, "noon by me"))
			must(t, SetLock(ctx, goesOn, "later by another"))
			if by, err := LockedBy(ctx, heeds); err != nil || by != "noon by me" {
				t.Errorf("locked by %q, %v", by, err)
			}
			if err := write(heeds, "refused"); !errors.Is(err, ErrMigrating) || !strings.Contains(err.Error(), "noon by me") {
				t.Errorf("written while it was locked: %v", err)
			}
			must(t, write(goesOn, "agents"))
			must(t, SetLock(ctx, goesOn, ""))
			must(t, SetLock(ctx, goesOn, ""))
			must(t, write(heeds, "after"))
			if _, err := heeds.Get(ctx, setRef("refused")); !errors.Is(err, ErrNotFound) {
				t.Errorf("what was refused is there: %v", err)
			}
			tier, err := heeds.Get(ctx, lockedTier)
			must(t, err)
			if _, left := tier.GetAnnotations()[LockAnnotation]; left {
				t.Error("unlocked, and the annotation is still there")
			}
		})
	}
}
