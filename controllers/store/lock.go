package store

import (
	"context"
	"errors"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// LockAnnotation of the tier default is there while the datastore is locked, and says since when and by whom. A lock stands among the
// objects, so that it is the same in a file and in a cluster, whoever may write tiers may lock, and everybody can see it. Who heeds it is
// the command line: agents and the controller go on, for they write only what is so.
const LockAnnotation = "tierwall.io/locked"

var lockedTier = v3.Ref{Kind: "Tier", Name: "default"}

// heeding is whether a store's Transact refuses to write while the store is locked.
type heeding bool

// Heeding is the same store for one who writes nothing while it is locked, or for one who does.
func (b *Bolt) Heeding(lock bool) *Bolt {
	out := *b
	out.heeding = heeding(lock)
	return &out
}

// Heeding is the same store for one who writes nothing while it is locked, or for one who does.
func (k *Kube) Heeding(lock bool) *Kube {
	out := *k
	out.heeding = heeding(lock)
	return &out
}

// heed gives ErrMigrating while the store is locked.
func (h heeding) heed(s fmt.Stringer, tx Writer) error {
	if !h {
		return nil
	}
	by, err := lockedBy(tx.Get(lockedTier))
	if err == nil && by != "" {
		err = fmt.Errorf("datastore %s %w since %s: tierctl datastore migrate unlock ends that", s, ErrMigrating, by)
	}
	return err
}

// LockedBy says since when and by whom the store is locked; "" when it is not.
func LockedBy(ctx context.Context, s Store) (string, error) { return lockedBy(s.Get(ctx, lockedTier)) }

func lockedBy(tier client.Object, err error) (string, error) {
	if errors.Is(err, ErrNotFound) { // nor is there anybody who could have locked it
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return tier.GetAnnotations()[LockAnnotation], nil
}

// SetLock locks the store with the words of who does it, or with none unlocks it. One that is locked already keeps its words.
func SetLock(ctx context.Context, s Store, by string) error {
	_, err := s.Transact(ctx, func(tx Writer) error {
		tier, err := tx.Get(lockedTier)
		if errors.Is(err, ErrNotFound) && by != "" {
			if tier, err = newLockedTier(tx); err != nil {
				return err
			}
		}
		was, err := lockedBy(tier, err)
		if err != nil || (was == "") == (by == "") {
			return err
		}
		annotations := map[string]string{}
		for k, v := range tier.GetAnnotations() {
			annotations[k] = v
		}
		if delete(annotations, LockAnnotation); by != "" {
			annotations[LockAnnotation] = by
		}
		tier.SetAnnotations(annotations)
		_, err = tx.Update(tier)
		return err
	})
	return err
}

// newLockedTier makes the tier in a cluster whose controller has not yet.
func newLockedTier(tx Writer) (client.Object, error) {
	for _, t := range BuiltInTiers() {
		if t.Name == lockedTier.Name {
			return tx.Create(t)
		}
	}
	return nil, fmt.Errorf("%s %w", lockedTier, ErrNotFound)
}
