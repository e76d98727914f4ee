package cleanup

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"
)

// The agents remove the table as those of config/deploy/remove.yaml do.
func TestRemovingAsTheManifest(t *testing.T) {
	for _, text := range strings.Split(manifest(t), "\n---\n") {
		u := &unstructured.Unstructured{}
		fatal(t, yaml.Unmarshal([]byte(text), &u.Object))
		if u.GetKind() != "DaemonSet" {
			continue
		}
		was, err := u.MarshalJSON()
		fatal(t, err)
		patch, err := os.ReadFile("../../config/deploy/remove.yaml")
		fatal(t, err)
		patch, err = yaml.YAMLToJSON(patch)
		fatal(t, err)
		want, err := strategicpatch.StrategicMergePatch(was, patch, &appsv1.DaemonSet{})
		fatal(t, err)
		if diff := cmp.Diff(specOf(t, want), removed(t, u)); diff != "" {
			t.Error(diff)
		}
		return
	}
	t.Error("no DaemonSet is in the manifest")
}

// What starts with the machine goes with it, as the chart's agent.remove has it: nobody installs it again, and the agent can write where it is.
func TestRemovingWhatStartsWithTheMachine(t *testing.T) {
	u := &unstructured.Unstructured{}
	fatal(t, yaml.Unmarshal([]byte(`
kind: DaemonSet
spec:
  updateStrategy: {type: OnDelete}
  template:
    spec:
      initContainers:
      - name: another
      - name: boot
        volumeMounts: [{name: state, mountPath: /state}, {name: units, mountPath: /host/units}]
      containers:
      - name: sidecar
      - name: agent
        args: [agent, --datastore=kubernetes, "--listen=:9790", --verbose]
        livenessProbe: {periodSeconds: 30}
        volumeMounts: [{name: state, mountPath: /state}, {name: state, mountPath: /state/bin, subPath: bin, readOnly: true}, {name: net, mountPath: /net}]
`), &u.Object))
	want := map[string]any{}
	fatal(t, yaml.Unmarshal([]byte(`
updateStrategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 100%}}
template:
  spec:
    initContainers: [{name: another}]
    containers:
    - name: sidecar
    - name: agent
      args: [agent, --datastore=kubernetes, --verbose, --remove]
      volumeMounts: [{name: state, mountPath: /state}, {name: net, mountPath: /net}, {name: units, mountPath: /host/units}]
`), &want))
	if diff := cmp.Diff(want, removed(t, u)); diff != "" {
		t.Error(diff)
	}
}

// removed is what the patch makes of a DaemonSet, without what says nothing.
func removed(t *testing.T, u *unstructured.Unstructured) map[string]any {
	t.Helper()
	patch, err := removing(u)
	fatal(t, err)
	was, err := u.MarshalJSON()
	fatal(t, err)
	text, err := jsonpatch.MergePatch(was, patch)
	fatal(t, err)
	spec := specOf(t, text)
	unstructured.RemoveNestedField(spec, "updateStrategy", "rollingUpdate", "maxSurge")
	if len(slice(spec, "template", "spec", "initContainers")) == 0 {
		unstructured.RemoveNestedField(spec, "template", "spec", "initContainers")
	}
	return spec
}

func specOf(t *testing.T, text []byte) map[string]any {
	t.Helper()
	u := map[string]any{}
	fatal(t, json.Unmarshal(text, &u))
	return u["spec"].(map[string]any)
}
