package calico

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// storedMeta is the annotation with what people wrote of the metadata.
const storedMeta = "projectcalico.org/metadata"

// Stored is an object of projectcalico.org/v3 as Calico keeps it in crd.projectcalico.org/v1: the metadata is in an annotation, and what is
// called NAME without a tier is default.NAME (contract §1.13.2). Finalizers are on the object as well: the API server has to know them.
// Objects of other groups are as they were.
func Stored(u *unstructured.Unstructured) *unstructured.Unstructured {
	u = u.DeepCopy()
	if u.GroupVersionKind().Group != v3Group {
		return u
	}
	kept := metav1.ObjectMeta{Labels: u.GetLabels(), Annotations: u.GetAnnotations(), Finalizers: u.GetFinalizers(), OwnerReferences: slices.Clone(u.GetOwnerReferences()),
		CreationTimestamp: u.GetCreationTimestamp()}
	for i := range kept.OwnerReferences {
		if r := &kept.OwnerReferences[i]; r.APIVersion == v3Group+"/v3" {
			r.APIVersion, r.UID = v1Group+"/v1", ReverseUID(r.UID)
		}
	}
	name := u.GetName()
	if slices.Contains(tiered, u.GetKind()) {
		kept.Name = name
		if !strings.Contains(name, ".") {
			name = "default." + name
		}
	}
	if u.GetKind() == "IPAMConfiguration" {
		u.SetKind("IPAMConfig")
	}
	text, _ := json.Marshal(kept) // it is made of text
	out := with(named(v1Group+"/v1", u.GetKind(), u.GetNamespace(), name), object{})
	if spec, ok := u.Object["spec"]; ok {
		out.Object["spec"] = spec
	}
	ours := func(all map[string]string) map[string]string {
		some := map[string]string{}
		for k, v := range all {
			if strings.Contains(k, "projectcalico.org/") || strings.Contains(k, "operator.tigera.io/") {
				some[k] = v
			}
		}
		return some
	}
	if labels := ours(u.GetLabels()); len(labels) > 0 {
		out.SetLabels(labels)
	}
	annotations := ours(u.GetAnnotations())
	annotations[storedMeta] = string(text)
	out.SetAnnotations(annotations)
	if len(kept.Finalizers) > 0 {
		out.SetFinalizers(kept.Finalizers)
	}
	return out
}

// tiered are the kinds that are in a tier.
var tiered = []string{"NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy"}

// stored is an object as this Calico keeps it.
func (c *Calico) stored(u *unstructured.Unstructured) *unstructured.Unstructured {
	u = u.DeepCopy()
	if f := finalizers[u.GetKind()]; f != "" && c.finalized() && u.GroupVersionKind().Group == v3Group {
		u.SetFinalizers([]string{f})
	}
	if c.Way == Native {
		return u
	}
	return Stored(u)
}

// finalizers that Calico's controllers put onto objects, and take away when nothing depends on them any more.
var finalizers = map[string]string{"Tier": "projectcalico.org/tier-controller", "IPPool": "projectcalico.org/ippool-finalizer"}

// ReverseUID gives the UID that an object has in the one of Calico's groups for that which it has in the other: the bits of each byte are
// reversed, but for those that say of which kind the UID is.
func ReverseUID(uid types.UID) types.UID {
	b, err := hex.DecodeString(strings.ReplaceAll(string(uid), "-", ""))
	if err != nil || len(b) != 16 {
		return uid
	}
	for i := range b {
		if i != 6 && i != 8 {
			b[i] = bits.Reverse8(b[i])
		}
	}
	return written(b)
}

// written is a UID of sixteen bytes.
func written(b []byte) types.UID {
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16]))
}

// uidOf is the same UID each time for what has one name.
func uidOf(name string) types.UID {
	b := sha1.Sum([]byte(name))
	b[6], b[8] = b[6]&0x0f|0x50, b[8]&0x3f|0x80
	return written(b[:16])
}
