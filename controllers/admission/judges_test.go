package admission

import (
	"bytes"
	stdcmp "cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/test/verdicts"
)

// differences are what one judge says, or leaves out, unlike the others, and why. One that no object shows any more is none.
var differences = []struct {
	judge, reason string
	leavesOut     bool
	why           string
}{
	{"API server", "some validation rules were not checked because the object was invalid", false, "it says what it has left out, too"},
	{"bbolt", "metadata.nam: unknown field", true, "a store is given Go objects, whose metadata has no such field"},
}

// differ leaves out of the verdicts of a judge and of the others where they differ on purpose, and counts that.
func differ(judge string, own, others verdict, shown map[int]int) (verdict, verdict) {
	own, others = slices.Clone(own), slices.Clone(others)
	for i, d := range differences {
		from := &own
		if d.leavesOut {
			from = &others
		}
		n := len(*from)
		if d.judge == judge {
			*from = slices.DeleteFunc(*from, func(said string) bool { return strings.Contains(said, d.reason) })
		}
		shown[i] += n - len(*from)
	}
	return own, others
}

// verdict on an object: what is wrong with it, "field: reason", sorted; nothing when it is accepted.
type verdict []string

func (v verdict) sorted() verdict {
	slices.Sort(v)
	return slices.Compact(v)
}

// say puts one complaint as all judges do.
func say(at, reason string) string {
	if at == "" || at == "<nil>" {
		at = "metadata/spec" // an API server has no name for the whole object
	}
	return at + ": " + strings.TrimPrefix(reason, "Forbidden: ")
}

// table is every object that somebody has a verdict on, of the kinds that a cluster has.
func table(t *testing.T) (out []*unstructured.Unstructured) {
	t.Helper()
	var texts []string
	for _, r := range verdicts.Contract {
		for _, f := range r.Cases {
			for _, o := range f.Expand() {
				texts = append(texts, o.Text)
			}
		}
	}
	for _, f := range verdicts.Refused {
		texts = append(texts, "kind: "+f.Kind+"\n"+f.Object)
	}
	for _, f := range verdicts.Sound {
		texts = append(texts, "kind: "+f.Kind+"\n"+f.Object)
	}
	texts = append(texts, beside...)
	for _, text := range texts {
		u := read(t, text)
		if u.GetKind() != "Profile" && u.GetKind() != "WorkloadEndpoint" { // a cluster derives them
			out = append(out, u)
		}
	}
	return out
}

// beside are objects that only a store has a verdict on, or that are defaulted in some way of their own.
var beside = []string{
	"kind: NetworkPolicy\nmetadata: {name: knp.default.a}",
	"kind: NetworkPolicy",
	"kind: NetworkPolicy\nspec: {}",
	"kind: NetworkPolicy\nspec: {tier: ''}",
	"kind: NetworkPolicy\nspec: {tier: Bad}",
	"kind: NetworkPolicy\nmetadata: {labels: {a: b}}\nspec: {tier: t, types: []}",
	"kind: NetworkPolicy\nmetadata: {labels: {projectcalico.org/tier: wrong}}\nspec: {egress: [{action: Allow}]}",
	"kind: GlobalNetworkPolicy\nmetadata: {labels: {}}\nspec: {tier: t, ingress: [{action: Allow}], egress: [{action: Allow}]}",
	"kind: GlobalNetworkPolicy\nspec: {types: [Egress], ingress: [{action: Allow}]}",
	"kind: GlobalNetworkPolicy\nspec: {ingress: {}}",
	"kind: GlobalNetworkPolicy\nspec: {ingress: 5, types: null}",
	"kind: GlobalNetworkPolicy\nspec: [a]",
	"kind: StagedNetworkPolicy\nspec: {egress: [{action: Deny}]}",
	"kind: StagedGlobalNetworkPolicy\nspec: {stagedAction: Learn, tier: t}",
	"kind: StagedGlobalNetworkPolicy\nspec: {stagedAction: Delete, types: [Foo]}",
	"kind: StagedKubernetesNetworkPolicy",
	"kind: StagedKubernetesNetworkPolicy\nspec: {egress: [{}]}",
	"kind: StagedKubernetesNetworkPolicy\nspec: {policyTypes: [Egress], ingress: [{}]}",
}

// read makes an object of its text; what goes without saying is added.
func read(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	text = "apiVersion: projectcalico.org/v3\n" + text
	j, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	u := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(j, &u.Object); err != nil {
		t.Fatal(err)
	}
	if u.GetName() == "" {
		u.SetName("p")
	}
	if spec, ok := u.Object["spec"].(map[string]any); ok && u.GetKind() == "HostEndpoint" && spec["node"] == nil && len(spec) == 1 { // faults are of one field
		spec["node"] = "n1"
		if spec["interfaceName"] == nil && spec["expectedIPs"] == nil {
			spec["interfaceName"] = "eth0"
		}
	}
	if verdicts.Namespaced[u.GetKind()] && u.GetNamespace() == "" {
		u.SetNamespace("ns1")
	}
	return u
}

func text(u *unstructured.Unstructured) string {
	out, _ := json.Marshal(u.Object)
	return string(out)
}

// byAPIServer is a strict client's request: what kubectl sends.
func (c *cluster) byAPIServer(t *testing.T, u *unstructured.Unstructured) (verdict, *unstructured.Unstructured) {
	t.Helper()
	out, err := c.of(t, u).Create(t.Context(), u, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
	if apierrors.IsAlreadyExists(err) { // a built-in tier, which nobody can delete
		u = u.DeepCopy()
		old, err := c.of(t, u).Get(t.Context(), u.GetName(), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		u.SetResourceVersion(old.GetResourceVersion())
		out, err = c.of(t, u).Update(t.Context(), u, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
		return heard(err), out
	}
	return heard(err), out
}

var (
	unknown = regexp.MustCompile(`unknown field "([^"]+)"`)
	denied  = regexp.MustCompile(`ValidatingAdmissionPolicy '[^']+' with binding '[^']+' denied request: (.*)`)
)

// heard is the verdict in an API server's error.
func heard(err error) (out verdict) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		if err != nil {
			return verdict{err.Error()}
		}
		return nil
	}
	if m := denied.FindStringSubmatch(err.Error()); m != nil { // a policy's cause has no field: it is in the message
		return verdict{strings.Replace(m[1], "Forbidden: ", "", 1)}
	}
	if apierrors.IsBadRequest(err) {
		for _, m := range unknown.FindAllStringSubmatch(err.Error(), -1) {
			out = append(out, say(m[1], "unknown field"))
		}
	}
	if d := status.Status().Details; d != nil {
		for _, cause := range d.Causes {
			out = append(out, say(cause.Field, cause.Message))
		}
	}
	if len(out) == 0 {
		return verdict{err.Error()}
	}
	return out.sorted()
}

func mux(c *cluster) http.Handler {
	mux := http.NewServeMux()
	for path, h := range Handlers(c.store.Get) {
		mux.Handle(path, h)
	}
	return mux
}

// asked of the webhook's handlers.
func asked(t *testing.T, h http.Handler, path string, r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	t.Helper()
	r.UID = "1"
	body, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: r})
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, bytes.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	var answer admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Response == nil || answer.Response.UID != "1" {
		t.Fatalf("%v: %d %s", err, w.Code, w.Body)
	}
	return answer.Response
}

func request(u, old *unstructured.Unstructured) *admissionv1.AdmissionRequest {
	gvk := u.GroupVersionKind()
	r := &admissionv1.AdmissionRequest{Operation: admissionv1.Create, Name: u.GetName(), Namespace: u.GetNamespace(),
		Kind: metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}, Object: runtime.RawExtension{Raw: []byte(text(u))}}
	if old != nil {
		r.Operation, r.OldObject = admissionv1.Update, runtime.RawExtension{Raw: []byte(text(old))}
	}
	return r
}

// byWebhook asks the handler alone.
func byWebhook(t *testing.T, h http.Handler, u, old *unstructured.Unstructured) verdict {
	t.Helper()
	a := asked(t, h, PathValidate, request(u, old))
	if a.Allowed {
		return nil
	}
	if a.Result.Reason != metav1.StatusReasonInvalid || a.Result.Code != http.StatusUnprocessableEntity {
		t.Errorf("the status is %d %s", a.Result.Code, a.Result.Reason)
	}
	return heard(&apierrors.StatusError{ErrStatus: *a.Result})
}

var errRollback = errors.New("not in earnest")

// byBolt asks a store of a host without a cluster.
func byBolt(t *testing.T, s *store.Bolt, u *unstructured.Unstructured) (verdict, client.Object) {
	t.Helper()
	var out client.Object
	_, err := s.Transact(t.Context(), func(w store.Writer) (err error) {
		if out, err = w.Create(u.DeepCopy()); errors.Is(err, store.ErrExists) { // a built-in tier
			out, err = w.Update(u.DeepCopy())
		}
		return stdcmp.Or(err, errRollback)
	})
	return told(err), out
}

// told is the verdict in a store's error.
func told(err error) (out verdict) {
	if err == nil || errors.Is(err, errRollback) {
		return nil
	}
	var all utilerrors.Aggregate
	if !errors.As(err, &all) {
		return verdict{err.Error()}
	}
	for _, e := range all.Errors() {
		var f *field.Error
		if !errors.As(e, &f) {
			return verdict{err.Error()}
		}
		out = append(out, say(f.Field, f.ErrorBody()))
	}
	return out.sorted()
}

// byTierctl asks the program, of all objects at once.
func byTierctl(t *testing.T, objs []*unstructured.Unstructured) (out []verdict) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "tierctl")
	if text, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../cli").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	var file strings.Builder
	for _, u := range objs {
		file.WriteString("---\n" + text(u) + "\n")
	}
	cmd := exec.CommandContext(t.Context(), program, "validate", "-o", "json", "-f", "-")
	cmd.Stdin = strings.NewReader(file.String())
	cmd.Stderr = os.Stderr
	lines, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for line := range bytes.Lines(lines) {
		var one struct {
			Errors []struct{ Field, Message string }
		}
		if err := json.Unmarshal(line, &one); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		var v verdict
		for _, e := range one.Errors {
			reason, _, _ := strings.Cut(e.Message, ", did you mean ") // only who has the file before him is helped so far
			v = append(v, say(e.Field, reason))
		}
		out = append(out, v.sorted())
	}
	if len(out) != len(objs) {
		t.Fatalf("%d verdicts on %d objects", len(out), len(objs))
	}
	return out
}

// TestJudges: an API server with all of admission, the webhook alone, bbolt and tierctl validate say the same of every object: the same
// verdict, the same field, the same reason. And what they accept they default alike, whether the API server does it or the webhook.
func TestJudges(t *testing.T) {
	c := clusterOf(t)
	c.namespace(t, "ns1")
	c.put(t, read(t, "kind: Tier\nmetadata: {name: t}"))
	bolt := store.OpenBolt(filepath.Join(t.TempDir(), "store.db"))
	if _, err := bolt.Put(t.Context(), read(t, "kind: Tier\nmetadata: {name: t}")); err != nil {
		t.Fatal(err)
	}
	objs := table(t)
	files := byTierctl(t, objs)
	handler := mux(c)
	c.install(t, deploy, policyKind, policyBound)
	c.serve(t, "ValidatingWebhookConfiguration")
	c.judging(t)

	for by, install := range map[string]func(*testing.T){
		"the API server": func(t *testing.T) { c.install(t, defaulting, mutatingKind, mutatingKind+"Binding") },
		"the webhook":    func(t *testing.T) { c.serve(t, "MutatingWebhookConfiguration") },
	} {
		t.Run("defaulted by "+by, func(t *testing.T) {
			install(t)
			until(t, "the tier's label is there", func() bool {
				_, u := c.byAPIServer(t, read(t, "kind: GlobalNetworkPolicy"))
				types, _, _ := unstructured.NestedSlice(u.Object, "spec", "types")
				return u.GetLabels()[v3.LabelTier] == "default" && len(types) == 1
			})
			refusals, shown := map[string]int{}, map[int]int{}
			for i, u := range objs {
				inCluster, now := c.byAPIServer(t, u)
				onHost, stored := byBolt(t, bolt, u)
				asked := byWebhook(t, handler, u, nil)
				for judge, v := range map[string]verdict{"API server": inCluster, "bbolt": onHost, "tierctl validate": files[i]} {
					own, others := differ(judge, v, asked, shown)
					if diff := cmp.Diff(others, own, cmpopts.EquateEmpty()); diff != "" {
						t.Errorf("%s\n(-webhook +%s)\n%s", text(u), judge, diff)
					}
				}
				for _, said := range inCluster {
					refusals[said]++
				}
				if len(onHost) == 0 && len(inCluster) == 0 {
					sameDefaults(t, now, stored)
				}
			}
			for i, d := range differences {
				if shown[i] == 0 {
					t.Errorf("no object shows any more that %s differs in %q, because %s", d.judge, d.reason, d.why)
				}
			}
			t.Logf("%d objects, %d reasons", len(objs), len(refusals))
		})
	}
}

// judging waits until what judges is in force.
func (c *cluster) judging(t *testing.T) {
	t.Helper()
	until(t, "the webhook judges", func() bool {
		v, _ := c.byAPIServer(t, read(t, "kind: GlobalNetworkPolicy\nspec: {selector: '=='}"))
		return len(v) > 0
	})
	until(t, "the policies judge", func() bool {
		v, _ := c.byAPIServer(t, read(t, "kind: NetworkPolicy\nmetadata: {name: knp.default.a}"))
		return len(v) == 1 && !strings.Contains(v[0], "webhook")
	})
}

// sameDefaults: what admission fills in is in the cluster as it is in bbolt. Whoever stages a deletion may give types, which mean nothing:
// they stay in a cluster as they are written.
func sameDefaults(t *testing.T, inCluster *unstructured.Unstructured, onHost client.Object) {
	t.Helper()
	stored, err := runtime.DefaultUnstructuredConverter.ToUnstructured(onHost)
	if err != nil {
		t.Fatal(err)
	}
	if action, _, _ := unstructured.NestedString(stored, "spec", "stagedAction"); action == "Delete" {
		return
	}
	for _, path := range defaulted {
		have, _, _ := unstructured.NestedFieldNoCopy(inCluster.Object, path...)
		want, _, _ := unstructured.NestedFieldNoCopy(stored, path...)
		if diff := cmp.Diff(want, have); diff != "" && !strings.Contains("[]", fmt.Sprint(have)) {
			t.Errorf("%s: %s (-bbolt +cluster)\n%s", text(inCluster), path, diff)
		}
	}
}
