package convert

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// StoredVersion is the one in which Calico without CRDs of its own API keeps objects.
const StoredVersion = "crd.projectcalico.org/v1"

const (
	storedMeta    = "projectcalico.org/metadata" // the annotation that has what people wrote of the metadata (contract §1.13.2)
	lastApplied   = "kubectl.kubernetes.io/last-applied-configuration"
	defaultPrefix = "default."
)

// storedKinds are those that have another name there.
var storedKinds = map[any]string{"IPAMConfiguration": "IPAMConfig"}

// FromStored gives the object of projectcalico.org/v3 for one as Calico keeps it: the metadata is in an annotation, policies of tier default are
// called default.NAME, and one without types is for both directions. What is given is the source's own, and changed.
//
// The uid, and those of owners, are as Calico's API shows them. Whoever writes the object anew leaves them out: an owner that is made anew has another,
// and what names none that exists is collected as garbage. Finalizers are left out here: those who would take them away are Calico's.
func FromStored(o map[string]any) []Loss {
	var lost losses
	o["apiVersion"] = v3.GroupVersion.String()
	for now, there := range storedKinds {
		if o["kind"] == there {
			o["kind"] = now
		}
	}
	delete(o, "status")
	m := fields(o, "metadata")
	said := lost.storedMeta(m)
	out := map[string]any{"name": said["name"]}
	if name, _ := said["name"].(string); name == "" {
		name, _ = m["name"].(string)
		if tiered(o) && inDefault(o) { // of Calico that kept no names there, or of kubectl
			name = strings.TrimPrefix(name, defaultPrefix)
		}
		out["name"] = name
	}
	if namespace, ok := m["namespace"]; ok {
		out["namespace"] = namespace
	}
	for _, field := range []string{"labels", "annotations"} { // older Calico has both where Kubernetes has them
		v := map[string]any{}
		maps.Copy(v, fields(m, field))
		maps.Copy(v, fields(said, field))
		delete(v, storedMeta)
		delete(v, lastApplied)
		if len(v) > 0 {
			out[field] = v
		}
	}
	if uid, ok := m["uid"].(string); ok {
		out["uid"] = lost.uid("metadata.uid", uid)
	}
	owners, _ := said["ownerReferences"].([]any)
	if owners == nil {
		owners, _ = m["ownerReferences"].([]any)
	}
	if len(owners) > 0 { // those that say v3 are from before Calico told the two apart, and have the other's uid as well
		out["ownerReferences"] = lost.owners(owners, v3.GroupVersion.String(), StoredVersion, v3.GroupVersion.String())
	}
	o["metadata"] = out
	bothDirections(o)
	return lost
}

// storedMeta is what the annotation says.
func (l *losses) storedMeta(m map[string]any) map[string]any {
	said := map[string]any{}
	text, kept := fields(m, "annotations")[storedMeta].(string)
	if !kept {
		return said
	}
	if err := json.Unmarshal([]byte(text), &said); err != nil {
		l.add("metadata.annotations["+storedMeta+"]", "is not what Calico writes: %v", err)
		return map[string]any{}
	}
	if said == nil { // null
		return map[string]any{}
	}
	return said
}

// bothDirections are said for a policy that says none: so Calico takes one that is stored without types, where readers of projectcalico.org/v3 go by
// its rules.
func bothDirections(o map[string]any) {
	spec, _ := o["spec"].(map[string]any)
	if types, _ := spec["types"].([]any); !tiered(o) || spec == nil || len(types) > 0 || spec["stagedAction"] == "Delete" {
		return
	}
	spec["types"] = []any{"Ingress", "Egress"}
	if spec["preDNAT"] == true { // which has no other
		spec["types"] = []any{"Ingress"}
	}
}

// ToStored gives the object as Calico keeps it for one of projectcalico.org/v3 that has its defaults, for Calico would take others. What is given is
// the source's own, and changed.
func ToStored(o map[string]any) []Loss {
	var lost losses
	if slices.Contains([]any{"Profile", "WorkloadEndpoint", "Node"}, o["kind"]) {
		lost.add("kind", "Calico keeps no %s: it makes it from Kubernetes' own objects", o["kind"])
		return lost
	}
	o["apiVersion"] = StoredVersion
	if there, ok := storedKinds[o["kind"]]; ok {
		o["kind"] = there
	}
	delete(o, "status")
	m := fields(o, "metadata")
	said := map[string]any{}
	out := map[string]any{"name": m["name"]}
	if name, _ := m["name"].(string); tiered(o) {
		said["name"] = name
		if inDefault(o) && !strings.Contains(name, ".") {
			out["name"] = defaultPrefix + name
		}
	}
	if namespace, ok := m["namespace"]; ok {
		out["namespace"] = namespace
	}
	if uid, ok := m["uid"].(string); ok {
		out["uid"] = lost.uid("metadata.uid", uid)
	}
	for _, field := range []string{"labels", "annotations"} {
		v := maps.Clone(fields(m, field))
		delete(v, storedMeta)
		delete(v, lastApplied)
		if len(v) > 0 {
			said[field] = v
		}
		calicos := maps.Clone(v)
		maps.DeleteFunc(calicos, func(key string, _ any) bool { return !ofCalico(key) })
		if len(calicos) > 0 {
			out[field] = calicos
		}
	}
	if owners, _ := m["ownerReferences"].([]any); len(owners) > 0 {
		said["ownerReferences"] = lost.owners(owners, StoredVersion, v3.GroupVersion.String())
	}
	text, err := json.Marshal(said)
	if err != nil {
		lost.add("metadata", "%v", err)
	}
	fields(out, "annotations")[storedMeta] = string(text)
	o["metadata"] = out
	return lost
}

// ofCalico are the keys of labels and annotations that Calico keeps where Kubernetes has them, too.
func ofCalico(key string) bool {
	return strings.Contains(key, "projectcalico.org/") || strings.Contains(key, "operator.tigera.io/")
}

// owners are as they are, but those of some versions, which are of another with its uid.
func (l *losses) owners(all []any, to string, from ...string) (out []any) {
	for i, one := range all {
		r, _ := one.(map[string]any)
		r = maps.Clone(r)
		if version, _ := r["apiVersion"].(string); slices.Contains(from, version) {
			uid, _ := r["uid"].(string)
			r["apiVersion"], r["uid"] = to, l.uid(fmt.Sprintf("metadata.ownerReferences[%d].uid", i), uid)
		}
		out = append(out, r)
	}
	return out
}

func (l *losses) uid(at, uid string) string {
	there, err := StoredUID(uid)
	if err != nil {
		l.add(at, "%v", err)
	}
	return there
}

// StoredUID is the uid that an object has as Calico keeps it, for the one that it has in projectcalico.org/v3, and the other way round: each byte's bits
// are reversed, but of the two that say of what kind a uid is.
func StoredUID(uid string) (string, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(uid, "-", ""))
	if err != nil || len(b) != 16 {
		return "", fmt.Errorf("%q is no uid", uid)
	}
	for i := range b {
		if i != 6 && i != 8 {
			b[i] = bits.Reverse8(b[i])
		}
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

func tiered(o map[string]any) bool {
	return slices.Contains([]any{"NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy"}, o["kind"])
}

func inDefault(o map[string]any) bool {
	spec, _ := o["spec"].(map[string]any)
	tier, _ := spec["tier"].(string)
	return tier == "" || tier == "default"
}
