package crds

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/tierwall/tierwall/config/crd"
	"github.com/tierwall/tierwall/test/kube"
)

// server is one API server for all tests of this package; each test finds it without CRDs of ours.
var server = sync.OnceValues(func() (config *rest.Config, err error) {
	config, stopServer, err = kube.Serve()
	return config, err
})

var stopServer func() error

func TestMain(m *testing.M) {
	status := m.Run()
	if stopServer != nil {
		_ = stopServer()
	}
	os.Exit(status)
}

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site is a cluster that should have some CRDs.
type site struct {
	*Cluster
	t    *testing.T
	said []string
}

// begin with none of the CRDs there. which are the plurals of those that there should be; none for all.
func begin(t *testing.T, which ...string) *site {
	t.Helper()
	config, err := server()
	fatal(t, err)
	c, err := Open(config)
	fatal(t, err)
	s := &site{Cluster: c, t: t}
	for _, m := range c.Want {
		s.gone(m.CRD.Name)
	}
	if len(which) > 0 {
		c.Want = slices.DeleteFunc(slices.Clone(c.Want), func(m crd.Manifest) bool { return !slices.Contains(which, m.CRD.Spec.Names.Plural) })
	}
	return s
}

// gone waits until a CRD is, with all its objects.
func (s *site) gone(name string) {
	s.t.Helper()
	err := wait.PollUntilContextTimeout(s.t.Context(), 20*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		err := s.dynamic.Resource(crdResource).Delete(ctx, name, metav1.DeleteOptions{})
		return apierrors.IsNotFound(err), nil
	})
	fatal(s.t, err)
}

func (s *site) apply(force bool) error {
	s.t.Helper()
	s.said = nil
	return s.Apply(s.t.Context(), force, func(crd, done string) { s.said = append(s.said, crd+" "+done) })
}

func (s *site) findings() []Finding {
	s.t.Helper()
	out, err := s.Check(s.t.Context())
	fatal(s.t, err)
	return out
}

// crd as it is now.
func (s *site) crd(name string) *apiextensionsv1.CustomResourceDefinition {
	s.t.Helper()
	u, err := s.dynamic.Resource(crdResource).Get(s.t.Context(), name, metav1.GetOptions{})
	fatal(s.t, err)
	out := &apiextensionsv1.CustomResourceDefinition{}
	fatal(s.t, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out))
	return out
}

// install a CRD as somebody else does, and wait until it is served.
func (s *site) install(c *apiextensionsv1.CustomResourceDefinition) {
	s.t.Helper()
	c.TypeMeta = metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"}
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(c)
	fatal(s.t, err)
	_, err = s.dynamic.Resource(crdResource).Create(s.t.Context(), &unstructured.Unstructured{Object: object}, metav1.CreateOptions{FieldManager: "another"})
	fatal(s.t, err)
	fatal(s.t, s.established(s.t.Context(), c))
}

// foreign is a CRD with the names of ours that is another's.
func (s *site) foreign(change func(c *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion)) *apiextensionsv1.CustomResourceDefinition {
	c := s.Want[0].CRD.DeepCopy()
	c.Annotations = nil
	change(c, &c.Spec.Versions[0])
	return c
}

func (s *site) resource(version string) schema.GroupVersionResource {
	spec := s.Want[0].CRD.Spec
	return schema.GroupVersionResource{Group: spec.Group, Version: version, Resource: spec.Names.Plural}
}

func (s *site) create(version, object string) {
	s.t.Helper()
	u := &unstructured.Unstructured{}
	fatal(s.t, yaml.Unmarshal([]byte(object), &u.Object))
	u.SetAPIVersion(s.Want[0].CRD.Spec.Group + "/" + version)
	u.SetKind(s.Want[0].CRD.Spec.Names.Kind)
	_, err := s.dynamic.Resource(s.resource(version)).Create(s.t.Context(), u, metav1.CreateOptions{})
	fatal(s.t, err)
}

func (s *site) spec(version, name string) map[string]any {
	s.t.Helper()
	u, err := s.dynamic.Resource(s.resource(version)).Get(s.t.Context(), name, metav1.GetOptions{})
	fatal(s.t, err)
	spec, _, err := unstructured.NestedMap(u.Object, "spec")
	fatal(s.t, err)
	return spec
}

// Where there is nothing, all is installed; then it is current, and is not written again.
func TestInstall(t *testing.T) {
	s := begin(t)
	for _, f := range s.findings() {
		if f.State != Absent || f.Fit() {
			t.Errorf("%s: %+v", f.Name, f)
		}
	}
	fatal(t, s.apply(false))
	if len(s.said) != len(s.Want) {
		t.Errorf("said %q", s.said)
	}
	before := map[string]string{}
	for _, f := range s.findings() {
		if f.State != Current || !f.Fit() {
			t.Errorf("%s: %+v\n%s", f.Name, f, cmp.Diff(f.have.Spec, defaulted(f.want.CRD).Spec))
		}
		before[f.Name] = f.have.ResourceVersion
	}
	fatal(t, s.apply(false))
	for _, f := range s.findings() {
		if f.have.ResourceVersion != before[f.Name] || len(s.said) > 0 {
			t.Errorf("%s was written again; said %q", f.Name, s.said)
		}
	}
}

var yes = true

// What another's CRDs may be like, and what is made of each: with its objects it is taken over and put back, or is refused.
func TestAnothers(t *testing.T) {
	type (
		CRD     = apiextensionsv1.CustomResourceDefinition
		Version = apiextensionsv1.CustomResourceDefinitionVersion
	)
	for _, c := range []struct {
		is     string
		change func(c *CRD, v *Version)
		want   State
		says   string // reasons, lacks and notes have this
		fit    bool
	}{
		{"other columns and names", func(c *CRD, v *Version) {
			v.AdditionalPrinterColumns = append(v.AdditionalPrinterColumns, apiextensionsv1.CustomResourceColumnDefinition{Name: "Mine", Type: "string", JSONPath: ".spec.mine"})
			c.Spec.Names.ShortNames = []string{"theirs"}
		}, Foreign, "another has written it", true},
		{"other CEL", func(_ *CRD, v *Version) { v.Schema.OpenAPIV3Schema.XValidations = nil }, Foreign, "", true},
		{"no status of its own", func(_ *CRD, v *Version) { v.Subresources = nil }, Foreign, "status is no subresource", false},
		{"a field is missing", func(_ *CRD, v *Version) {
			spec := v.Schema.OpenAPIV3Schema.Properties["spec"]
			delete(spec.Properties, "defaultAction")
			spec.XValidations = nil
			v.Schema.OpenAPIV3Schema.XValidations = nil
			v.Schema.OpenAPIV3Schema.Properties["spec"] = spec
		}, Foreign, "spec.defaultAction is missing", false},
		{"a field has another type", func(_ *CRD, v *Version) {
			v.Schema.OpenAPIV3Schema.XValidations = nil
			v.Schema.OpenAPIV3Schema.Properties["spec"].Properties["defaultAction"] = props{XIntOrString: true}
		}, Foreign, "spec.defaultAction is an integer or a string, not of type string", false},
		{"it keeps everything", func(_ *CRD, v *Version) {
			v.Schema.OpenAPIV3Schema = &props{Type: "object", XPreserveUnknownFields: &yes}
		}, Foreign, "", true},
		{"objects are stored as v1", func(c *CRD, v *Version) {
			old := v.DeepCopy()
			old.Name, v.Storage = "v1", false
			c.Spec.Versions = append(c.Spec.Versions, *old)
		}, Foreign, "objects are stored as v1", true},
		{"v1 alone", func(_ *CRD, v *Version) { v.Name = "v1" }, Refused, "it does not serve v3: what its versions (v1) mean is not known", false},
		{"namespaced", func(c *CRD, _ *Version) { c.Spec.Scope = "Namespaced" }, Refused, "Namespaced, ours Cluster", false},
		{"another kind", func(c *CRD, _ *Version) { c.Spec.Names.Kind, c.Spec.Names.ListKind = "Storey", "StoreyList" }, Refused, "of kind Storey, not Tier", false},
		{"a webhook converts", func(c *CRD, v *Version) {
			old, url := v.DeepCopy(), "https://192.0.2.1/"
			old.Name, old.Storage = "v2", false
			c.Spec.Versions = append(c.Spec.Versions, *old)
			c.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
				ConversionReviewVersions: []string{"v1"}, ClientConfig: &apiextensionsv1.WebhookClientConfig{URL: &url}}}
		}, Refused, "a webhook converts", false},
	} {
		t.Run(c.is, func(t *testing.T) {
			s := begin(t, "tiers")
			s.install(s.foreign(c.change))
			before := s.crd("tiers.projectcalico.org")
			f := s.findings()[0]
			if all := strings.Join(slices.Concat(f.Reasons, f.Lacks, f.Notes), "\n"); f.State != c.want || f.Fit() != c.fit || !strings.Contains(all, c.says) {
				t.Fatalf("state %s, fit %v, says:\n%s", f.State, f.Fit(), all)
			}
			if c.want == Refused {
				err := s.apply(true)
				if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("apply: %v", err)
				}
				after := s.crd(f.Name) // of which the API server may have written the status meanwhile
				if diff := cmp.Diff(before.Spec, after.Spec) + cmp.Diff(before.Labels, after.Labels) + cmp.Diff(before.Annotations, after.Annotations); diff != "" {
					t.Errorf("it was written all the same: %s", diff)
				}
				return
			}
			s.create("v3", "metadata: {name: mine}\nspec: {order: 7}")
			spec := s.spec("v3", "mine")
			fatal(t, s.apply(false))
			if f := s.findings()[0]; f.State != Current || !f.Fit() {
				t.Errorf("taken over it is %+v", f)
			}
			if got := s.crd(f.Name).Status.StoredVersions; !slices.Equal(got, []string{"v3"}) {
				t.Errorf("objects may be stored as %v", got)
			}
			if now := s.spec("v3", "mine"); now["order"] != spec["order"] {
				t.Errorf("an object was %v, and is %v", spec, now)
			}
			err := s.Restore(t.Context(), false, func(string, string) {})
			if lost := strings.Contains(c.says, "is missing"); lost != errors.Is(err, ErrRefused) {
				t.Fatalf("restore: %v", err)
			} else if lost { // what was there would not keep what ours has added
				err = s.Restore(t.Context(), true, func(string, string) {})
			}
			fatal(t, err)
			if diff := cmp.Diff(before.Spec, s.crd(f.Name).Spec); diff != "" {
				t.Errorf("put back it is not what it was:\n%s", diff)
			}
			if now := s.spec("v3", "mine"); now["order"] != spec["order"] {
				t.Errorf("put back, an object was %v, and is %v", spec, now)
			}
		})
	}
}

// An object that would lose something, or be refused, is named, and then nothing at all is changed.
func TestLosses(t *testing.T) {
	s := begin(t, "globalnetworkpolicies", "tiers")
	s.install(s.foreign(func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
		v.Schema.OpenAPIV3Schema, v.SelectableFields = &props{Type: "object", XPreserveUnknownFields: &yes}, nil
	}))
	s.create("v3", "metadata: {name: good}\nspec: {order: 7}")
	s.create("v3", "metadata: {name: more}\nspec: {order: 7, theirs: {a: b}}")
	s.create("v3", "metadata: {name: other}\nspec: {order: text}")
	err := s.apply(false)
	if !errors.Is(err, ErrRefused) {
		t.Fatalf("apply: %v", err)
	}
	for _, want := range []string{"GlobalNetworkPolicy/more: spec.theirs would be lost", "GlobalNetworkPolicy/other: it would be refused: spec.order"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "good") {
		t.Errorf("an object that loses nothing is named: %v", err)
	}
	if f := s.findings(); f[0].State != Foreign || f[1].State != Absent {
		t.Errorf("something was changed: %+v", f)
	}
	fatal(t, s.apply(true))
	if f := s.findings(); f[0].State != Current || f[1].State != Current {
		t.Errorf("forced: %+v", f)
	}
}

// A CRD that is being deleted is not touched.
func TestBeingDeleted(t *testing.T) {
	s := begin(t, "tiers")
	fatal(t, s.apply(false))
	s.create("v3", "metadata: {name: held, finalizers: [example.com/held]}\nspec: {order: 7}")
	fatal(t, s.dynamic.Resource(crdResource).Delete(t.Context(), "tiers.projectcalico.org", metav1.DeleteOptions{}))
	err := s.apply(true)
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "it is being deleted") {
		t.Errorf("apply: %v", err)
	}
	patch := []byte(`{"metadata": {"finalizers": null}}`)
	_, err = s.dynamic.Resource(s.resource("v3")).Patch(t.Context(), "held", "application/merge-patch+json", patch, metav1.PatchOptions{})
	fatal(t, err)
}

// Where another server serves the group, a CRD would count for nothing.
func TestAggregated(t *testing.T) {
	s := begin(t)
	service := &unstructured.Unstructured{}
	fatal(t, yaml.Unmarshal([]byte(`
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v3.projectcalico.org}
spec: {group: projectcalico.org, version: v3, groupPriorityMinimum: 1500, versionPriority: 200, insecureSkipTLSVerify: true, service: {namespace: theirs, name: api, port: 443}}
`), &service.Object))
	// The API server has one of its own for the CRDs, until they are gone.
	fatal(t, wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		_, err := s.dynamic.Resource(apiServiceResource).Create(ctx, service.DeepCopy(), metav1.CreateOptions{})
		return err == nil, nil
	}))
	defer func() {
		fatal(t, s.dynamic.Resource(apiServiceResource).Delete(context.Background(), service.GetName(), metav1.DeleteOptions{}))
	}()
	err := s.apply(true)
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "the service theirs/api (APIService v3.projectcalico.org)") {
		t.Errorf("apply: %v", err)
	}
	for _, f := range s.findings() {
		if want := map[bool]State{true: Absent, false: Refused}[strings.HasSuffix(f.Name, ".tierwall.io")]; f.State != want {
			t.Errorf("%s is %s, want %s", f.Name, f.State, want)
		}
	}
}

// CRDs of a later tierctl serve an earlier one as they are; to go back has to be forced, and what objects lose is said before.
func TestLater(t *testing.T) {
	s := begin(t, "tiers")
	later := s.Want[0].CRD.DeepCopy()
	later.Annotations[SchemaAnnotation] = "1000"
	later.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties["colour"] = props{Type: "string"}
	s.install(later)
	s.create("v3", "metadata: {name: mine}\nspec: {order: 7, colour: red}")
	if f := s.findings()[0]; f.State != Newer || !f.Fit() || len(f.Losses) != 1 || !strings.Contains(f.Losses[0], "spec.colour would be lost") {
		t.Errorf("it is %+v", f)
	}
	fatal(t, s.apply(false))
	if f := s.findings()[0]; f.State != Newer || len(s.said) != 1 || !strings.Contains(s.said[0], "left as it is") {
		t.Errorf("not forced: %+v; said %q", f, s.said)
	}
	fatal(t, s.apply(true))
	if f := s.findings()[0]; f.State != Current || !strings.Contains(strings.Join(s.said, ""), "downgraded") {
		t.Errorf("forced: %+v; said %q", f, s.said)
	}
}

// breaking lets so many writes of objects through, and no more.
type breaking struct {
	http.RoundTripper
	left atomic.Int64
}

var errBroken = errors.New("broken off")

func (b *breaking) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/tiers/") && b.left.Add(-1) < 0 {
		return nil, errBroken
	}
	return b.RoundTripper.RoundTrip(r)
}

// What is stored in a version that goes is written again, page by page, while others write and after it was broken off.
func TestStoredVersions(t *testing.T) {
	s := begin(t, "tiers")
	alpha := s.Want[0].CRD.DeepCopy()
	alpha.Annotations[SchemaAnnotation] = "0"
	alpha.Spec.Versions[0].Name = "v3alpha1"
	s.install(alpha)
	const objects = 40
	for i := range objects {
		s.create("v3alpha1", fmt.Sprintf("metadata: {name: t%d}\nspec: {order: %d}", i, i))
	}
	if f := s.findings()[0]; f.State != Older || f.Fit() == true && len(f.Notes) == 0 {
		t.Fatalf("before: %+v", f)
	}

	config, err := server()
	fatal(t, err)
	cut := &breaking{}
	cut.left.Store(objects / 2)
	config = rest.CopyConfig(config)
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { cut.RoundTripper = rt; return cut })
	broken, err := Open(config)
	fatal(t, err)
	broken.Want, broken.page = s.Want, 7
	if err := broken.Apply(t.Context(), false, func(string, string) {}); !errors.Is(err, errBroken) {
		t.Fatalf("broken off: %v", err)
	}
	if got := s.crd("tiers.projectcalico.org").Status.StoredVersions; !slices.Equal(got, []string{"v3alpha1", "v3"}) {
		t.Errorf("broken off, objects may be stored as %v", got)
	}
	if f := s.findings()[0]; f.State != Older || !f.Fit() {
		t.Errorf("broken off: %+v", f)
	}

	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	others.Go(func() { // writes all the while
		for i := 0; ctx.Err() == nil; i = (i + 1) % objects {
			patch := fmt.Appendf(nil, `{"metadata": {"labels": {"at": "%d"}}}`, time.Now().UnixNano())
			_, _ = s.dynamic.Resource(s.resource("v3")).Patch(ctx, fmt.Sprintf("t%d", i), "application/merge-patch+json", patch, metav1.PatchOptions{})
		}
	})
	s.page = 7
	err = s.apply(false)
	stop()
	others.Wait()
	fatal(t, err)
	now := s.crd("tiers.projectcalico.org")
	if !slices.Equal(now.Status.StoredVersions, []string{"v3"}) || len(now.Spec.Versions) != 1 {
		t.Errorf("objects may be stored as %v, and there are versions %v", now.Status.StoredVersions, names(now))
	}
	for i := range objects {
		if got := s.spec("v3", fmt.Sprintf("t%d", i))["order"]; got != int64(i) {
			t.Errorf("t%d has order %v", i, got)
		}
	}
	if f := s.findings()[0]; f.State != Current || !f.Fit() {
		t.Errorf("after: %+v", f)
	}
	t.Log(strings.Join(s.said, "\n"))
}
