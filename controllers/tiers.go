package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

// Tiers keeps the tiers of a cluster as the contract wants them (§1.3): the built-in ones are there, and a tier that is deleted stays until
// the last policy has left it, for a policy without its tier is still enforced, at a place that nobody chose.
type Tiers struct {
	Store *store.Kube
	Log   *slog.Logger

	tiers map[string]*v3.Tier
	in    map[v3.Ref]string // the tier of each policy
}

// TierFinalizer is Calico's, so that either may take over from the other.
const TierFinalizer = "projectcalico.org/tier-controller"

// Tiered are the kinds that Tiers follows. A StagedKubernetesNetworkPolicy is always of the default tier, and keeps none.
func Tiered(k *store.Kind) bool {
	return k.Kind == "Tier" || slices.Contains(store.TieredKinds, k.Kind)
}

// Run until ctx ends.
func (t *Tiers) Run(ctx context.Context) error {
	t.tiers, t.in = map[string]*v3.Tier{}, map[v3.Ref]string{}
	k := keeper{store: t.Store.Following(Tiered), log: t.Log, what: "tiers cannot be kept", quiet: true, take: t.take, keep: t.keep} // the roll-up reads the same
	return k.run(ctx)
}

func (t *Tiers) take(e store.Event) {
	switch {
	case e.Ref.Kind == "Tier" && e.Type == store.Deleted:
		delete(t.tiers, e.Ref.Name)
	case e.Ref.Kind == "Tier":
		t.tiers[e.Ref.Name] = e.Object.(*v3.Tier)
	case e.Type == store.Deleted:
		delete(t.in, e.Ref)
	case e.Corrupt != nil: // whichever tier it is in: what it was in before
	default:
		t.in[e.Ref] = cmp.Or(store.TierOf(e.Object), "default")
	}
}

// keep every tier as it should be.
func (t *Tiers) keep(ctx context.Context) error {
	var errs []error
	for _, built := range store.BuiltInTiers() {
		if t.tiers[built.Name] == nil {
			errs = append(errs, t.create(ctx, built))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.tiers)) {
		errs = append(errs, t.one(ctx, t.tiers[name]))
	}
	return withoutBeaten(errors.Join(errs...))
}

func (t *Tiers) create(ctx context.Context, tier *v3.Tier) error {
	made, err := t.Store.Put(ctx, tier)
	if errors.Is(err, store.ErrExists) {
		return nil
	}
	if err != nil {
		return err
	}
	t.tiers[tier.Name] = made.(*v3.Tier) // until it is told
	t.Log.Info("created a built-in tier", "tier", tier.Name)
	return nil
}

func (t *Tiers) one(ctx context.Context, tier *v3.Tier) error {
	kept := slices.Contains(tier.Finalizers, TierFinalizer)
	if tier.DeletionTimestamp == nil {
		if kept {
			return nil
		}
		return t.Store.SetFinalizers(ctx, tier, append(slices.Clone(tier.Finalizers), TierFinalizer))
	}
	if !kept {
		return nil
	}
	inside := t.inside(tier.Name)
	if inside == "" {
		return t.Store.SetFinalizers(ctx, tier, slices.DeleteFunc(slices.Clone(tier.Finalizers), func(f string) bool { return f == TierFinalizer }))
	}
	now := tier.DeepCopy()
	apimeta.SetStatusCondition(&now.Status.Conditions, metav1.Condition{Type: v3.ConditionReady, Status: metav1.ConditionFalse,
		Reason: v3.ReasonTerminating, Message: "Waiting for policies to be removed: " + inside, ObservedGeneration: tier.Generation})
	if equality.Semantic.DeepEqual(now.Status, tier.Status) {
		return nil
	}
	return t.Store.PutStatus(ctx, client.Object(now))
}

// inside counts the policies in a tier by kind, for people: "2 GlobalNetworkPolicies, 1 NetworkPolicy"; "" for none.
func (t *Tiers) inside(tier string) string {
	count := map[string]int{}
	for ref, in := range t.in {
		if in == tier {
			count[ref.Kind]++
		}
	}
	var out []string
	for _, kind := range slices.Sorted(maps.Keys(count)) {
		if n := count[kind]; n == 1 {
			out = append(out, "1 "+kind)
		} else {
			out = append(out, fmt.Sprintf("%d %sies", n, strings.TrimSuffix(kind, "y")))
		}
	}
	return strings.Join(out, ", ")
}
