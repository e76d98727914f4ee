package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
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

// Allowed asks what one object alone cannot tell (contract §1.3, §1.10, §6.5): whether its name is its author's to give, and whether there is
// the tier that it goes to. old is the stored object on an update, else nil; get is asked for the tier, and what it says but ErrNotFound is
// the error.
func Allowed(obj, old client.Object, get func(v3.Ref) (client.Object, error)) (field.ErrorList, error) {
	switch ref := v3.RefOf(obj.(v3.Object)); {
	case ref.Kind == "Profile" && ref.Name == defaultAllowProfile:
		return field.ErrorList{field.Forbidden(field.NewPath("metadata", "name"), "it is built in")}, nil
	case ref.Kind == "NetworkPolicy" && strings.HasPrefix(ref.Name, "knp.default."):
		return field.ErrorList{field.Forbidden(field.NewPath("metadata", "name"),
			"kubernetes network policies must be managed through the kubernetes API: write networking.k8s.io/v1 NetworkPolicy")}, nil
	}
	name, at := TierOf(obj), field.NewPath("spec", "tier")
	if name == "" || builtIn(name) || old != nil && TierOf(old) == name {
		return nil, nil // built-in tiers come again by themselves, and one that has gone does not keep its policies from being changed
	}
	tier, err := get(v3.Ref{Kind: "Tier", Name: name})
	switch {
	case errors.Is(err, ErrNotFound):
		return field.ErrorList{field.Invalid(at, name, fmt.Sprintf("tier %q does not exist: create it first, or in the same files; tierctl get tier lists those there are", name))}, nil
	case err == nil && tier.GetDeletionTimestamp() != nil:
		return field.ErrorList{field.Invalid(at, name, fmt.Sprintf("tier %q is being deleted", name))}, nil
	}
	return nil, err
}

// allowed is Allowed of what a Writer is to write.
func allowed(w Writer, ref v3.Ref, obj client.Object, update bool) error {
	var old client.Object
	if update {
		if was, err := w.Get(ref); err == nil {
			old = was
		}
	}
	errs, err := Allowed(obj, old, w.Get)
	switch {
	case err != nil:
		return err
	case len(errs) > 0 && errs[0].Type == field.ErrorTypeForbidden:
		return fmt.Errorf("%s %w: %w", ref, ErrForbidden, errs.ToAggregate())
	case len(errs) > 0:
		return fmt.Errorf("%s %w: %w", ref, ErrInvalid, errs.ToAggregate())
	}
	return nil
}

func deletable(w Writer, ref v3.Ref) error {
	if ref.Kind != "Tier" {
		return nil
	}
	if builtIn(ref.Name) {
		return fmt.Errorf("%s %w: The built-in tier '%s' cannot be deleted", ref, ErrForbidden, ref.Name) // as Calico says it
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

func builtIn(tier string) bool {
	return slices.ContainsFunc(BuiltInTiers(), func(t *v3.Tier) bool { return t.Name == tier })
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
