package policy

import (
	"errors"

	corev1 "k8s.io/api/core/v1"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// profile is what an endpoint falls back on when no policy decided, and labels that it inherits (contract §1.10).
type profile struct {
	name   string
	labels map[string]string
	book   book
}

const defaultAllowProfile = "projectcalico-default-allow"

func (x *Index) setProfile(ref v3.Ref, o *v3.Profile) error {
	c := compiler{ref: ref, sets: map[string]setSpec{}}
	b := book{ref: ref, sets: c.sets}
	var in, out error
	b.policy.Ref = ref
	b.policy.Ingress, in = c.rules("spec.ingress", o.Spec.Ingress, Ingress)
	b.policy.Egress, out = c.rules("spec.egress", o.Spec.Egress, Egress)
	x.profiles[ref] = &profile{name: o.Name, labels: o.Spec.LabelsToApply, book: b}
	return errors.Join(in, out)
}

// namespaceProfile is kns.NAME: it allows everything, so that pods without policy are open.
func namespaceProfile(o *corev1.Namespace) *profile {
	return &profile{name: "kns." + o.Name, labels: prefixed(namespacePrefix, o.Labels, o.Name), book: allowBook("kns." + o.Name)}
}

// serviceAccountProfile is ksa.NAMESPACE.NAME: labels only.
func serviceAccountProfile(o *corev1.ServiceAccount) *profile {
	name := "ksa." + o.Namespace + "." + o.Name
	return &profile{name: name, labels: prefixed(serviceAccountPfx, o.Labels, o.Name), book: book{policy: Policy{Ref: profileRef(name)}}}
}

func prefixed(prefix string, labels map[string]string, name string) map[string]string {
	out := make(map[string]string, len(labels)+1)
	for k, v := range labels {
		out[prefix+k] = v
	}
	out[prefix+labelName] = name
	return out
}

func profileRef(name string) v3.Ref { return v3.Ref{Kind: "Profile", Name: name} }

func allowBook(name string) book {
	allow := []Rule{{Action: Allow, Families: AnyFamily}}
	return book{policy: Policy{Ref: profileRef(name), Ingress: allow, Egress: allow}}
}

// missingProfile denies both ways: what is not known is refused, not skipped (contract §1.10).
func missingProfile(name string) *profile {
	deny := []Rule{{Action: Deny, Families: AnyFamily, Note: "profile " + name + " is not known"}}
	return &profile{name: name, book: book{policy: Policy{Ref: profileRef(name), Ingress: deny, Egress: deny}}}
}

// profilesByName settles who speaks for a name: a Profile object before what is derived, else the smallest reference.
func (x *Index) profilesByName() map[string]*profile {
	refs := make(map[string]v3.Ref, len(x.profiles))
	for ref, p := range x.profiles {
		have, ok := refs[p.name]
		if !ok || profileRank(ref) < profileRank(have) || profileRank(ref) == profileRank(have) && ref.Compare(have) < 0 {
			refs[p.name] = ref
		}
	}
	out := make(map[string]*profile, len(refs)+1)
	out[defaultAllowProfile] = &profile{name: defaultAllowProfile, book: allowBook(defaultAllowProfile)}
	for name, ref := range refs {
		out[name] = x.profiles[ref]
	}
	return out
}

func profileRank(ref v3.Ref) int {
	if ref.Kind == "Profile" {
		return 0
	}
	return 1
}
