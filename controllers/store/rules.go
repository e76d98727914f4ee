package store

import (
	"errors"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// TieredKinds are those of policies that stand in a tier by name.
var TieredKinds = []string{"NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy"}

// TierOf a policy is the name of the tier that it stands in; "" for any other object.
func TierOf(obj client.Object) string {
	switch o := obj.(type) {
	case *v3.NetworkPolicy:
		return o.Spec.Tier
	case *v3.GlobalNetworkPolicy:
		return o.Spec.Tier
	case *v3.StagedNetworkPolicy:
		return o.Spec.Tier
	case *v3.StagedGlobalNetworkPolicy:
		return o.Spec.Tier
	}
	return ""
}

const defaultAllowProfile = "projectcalico-default-allow"

// allowed asks what one object alone cannot tell (contract §1.3, §1.10, §6.5).
func allowed(w Writer, ref v3.Ref, obj client.Object, update bool) error {
	switch {
	case ref.Kind == "Profile" && ref.Name == defaultAllowProfile:
		return fmt.Errorf("%s %w: it is built in", ref, ErrForbidden)
	case ref.Kind == "NetworkPolicy" && strings.HasPrefix(ref.Name, "knp.default."):
		return fmt.Errorf("%s %w: metadata.name: Kubernetes network policies are written as networking.k8s.io/v1 NetworkPolicy", ref, ErrForbidden)
	}
	tier := TierOf(obj)
	if tier == "" {
		return nil
	}
	if update {
		if old, err := w.Get(ref); err == nil && TierOf(old) == tier {
			return nil // a tier that has gone does not keep its policies from being changed
		}
	}
	if _, err := w.Get(v3.Ref{Kind: "Tier", Name: tier}); errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%s %w: spec.tier: tier %q does not exist", ref, ErrInvalid, tier)
	} else if err != nil {
		return err
	}
	return nil
}

func deletable(w Writer, ref v3.Ref) error {
	if ref.Kind != "Tier" {
		return nil
	}
	for _, t := range BuiltInTiers() {
		if t.Name == ref.Name {
			return fmt.Errorf("%s %w: a built-in tier cannot be deleted", ref, ErrForbidden)
		}
	}
	var inside []string
	for _, kind := range TieredKinds {
		objs, err := w.List(kind, "")
		if err != nil && !errors.Is(err, ErrCorruptObject) { // whichever tier that one is in
			return err
		}
		for _, o := range objs {
			if TierOf(o) == ref.Name {
				inside = append(inside, v3.RefOf(o.(v3.Object)).String())
			}
		}
	}
	if len(inside) > 0 {
		return fmt.Errorf("%s %w: the tier is not empty: %s", ref, ErrForbidden, strings.Join(inside, ", "))
	}
	return nil
}

// BuiltInTiers are there always (contract §1.3).
func BuiltInTiers() []*v3.Tier {
	tier := func(name string, order float64, action v3.Action) *v3.Tier {
		return &v3.Tier{
			TypeMeta:   metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "Tier"},
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       v3.TierSpec{Order: &order, DefaultAction: &action},
		}
	}
	return []*v3.Tier{tier("default", v3.DefaultTierOrder, v3.Deny), tier("kube-admin", 1000, v3.Pass), tier("kube-baseline", 10000000, v3.Pass)}
}
