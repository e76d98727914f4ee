package convert

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// StoredVersion is the one in which Calico without CRDs of its own API keeps objects.
const StoredVersion = "crd.projectcalico.org/v1"

// storedMeta is the annotation that has what people wrote of the metadata (contract §1.13.2).
const storedMeta = "projectcalico.org/metadata"

// FromStored gives the object of projectcalico.org/v3 for one as Calico keeps it: the metadata is in an annotation, and policies of tier
// default are called default.NAME. What is given is the source's own, and changed.
func FromStored(o map[string]any) []Loss {
	var lost losses
	o["apiVersion"] = v3.GroupVersion.String()
	if o["kind"] == "IPAMConfig" {
		o["kind"] = "IPAMConfiguration"
	}
	delete(o, "status")
	m, _ := o["metadata"].(map[string]any)
	if m == nil {
		m = map[string]any{}
	}
	annotations, _ := m["annotations"].(map[string]any)
	text, kept := annotations[storedMeta].(string)
	name, _ := m["name"].(string)
	out := map[string]any{"name": name}
	if namespace, ok := m["namespace"]; ok {
		out["namespace"] = namespace
	}
	said := map[string]any{}
	if kept {
		if err := json.Unmarshal([]byte(text), &said); err != nil {
			lost.add("metadata.annotations["+storedMeta+"]", "is not what Calico writes: %v", err)
		}
	} else {
		said = map[string]any{"labels": m["labels"], "annotations": m["annotations"]}
		if name, cut := strings.CutPrefix(name, "default."); cut && tiered(o) && inDefault(o) {
			out["name"] = name
		}
	}
	if v, ok := said["name"].(string); ok && v != "" {
		out["name"] = v
	}
	for _, field := range []string{"labels", "annotations"} {
		if v, ok := said[field].(map[string]any); ok && len(v) > 0 {
			v = maps.Clone(v)
			delete(v, storedMeta)
			delete(v, "kubectl.kubernetes.io/last-applied-configuration")
			out[field] = v
		}
	}
	o["metadata"] = out
	return lost
}

func tiered(o map[string]any) bool {
	return slices.Contains([]any{"NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy"}, o["kind"])
}

func inDefault(o map[string]any) bool {
	spec, _ := o["spec"].(map[string]any)
	tier, _ := spec["tier"].(string)
	return tier == "" || tier == "default"
}
