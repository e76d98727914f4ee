// Package crds looks at the CRDs of a cluster, installs those that we need, and upgrades them. What kubectl and Helm do not ask before
// they replace a CRD is asked here: whether the objects that are there survive it.
//
//	ours ─┐
//	      ├─ Check ──► Findings ── Apply ──► the cluster's CRDs, and their objects in the version that is kept
//	have ─┘
//
// It knows objects only as their schemas do, and never deletes a CRD or an object.
package crds

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/tierwall/tierwall/config/crd"
)

// Annotations and labels of CRDs.
const (
	// SchemaAnnotation is of all our CRDs, whoever installs them: a number that grows when a schema changes.
	SchemaAnnotation = "tierwall.io/schema"
	// ReplacedAnnotation is the spec of another's CRD that Apply has replaced, as Restore puts it back: gzip, in base64.
	ReplacedAnnotation = "tierwall.io/replaced"
	// ManagedLabel says that Apply has written the CRD.
	ManagedLabel = "tierwall.io/managed-by"
	// manager is the name by which Apply owns fields.
	manager = "tierctl"
)

// State is what a CRD is, seen from ours.
type State string

// The states of a CRD.
const (
	Absent  State = "Absent"
	Current State = "Current"
	Older   State = "Older"   // ours, and Apply upgrades it
	Newer   State = "Newer"   // ours, of a later tierctl: Apply leaves it as it is, unless forced
	Foreign State = "Foreign" // another's, and Apply can take it over
	Refused State = "Refused" // Apply can do nothing about it
)

// Finding is what is so of one CRD.
type Finding struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Reasons are why it is refused.
	Reasons []string `json:"reasons,omitempty"`
	// Losses are objects that would lose something, or could not be written any more, if it were replaced by ours.
	Losses []string `json:"losses,omitempty"`
	// Lacks is what we need and it does not have, as it stands.
	Lacks []string `json:"lacks,omitempty"`
	// Notes are what else to know before it is replaced.
	Notes []string `json:"notes,omitempty"`

	have *apiextensionsv1.CustomResourceDefinition
	want *crd.Manifest
}

// Fit tells whether agents and the controller can work with the CRD as it stands.
func (f *Finding) Fit() bool {
	return f.State != Absent && f.State != Refused && len(f.Lacks) == 0
}

// Applicable tells whether Apply, forced or not, would do what there is to do about the CRD.
func (f *Finding) Applicable(force bool) bool {
	return f.State != Refused && (force || len(f.Losses) == 0)
}

// Cluster is a cluster's CRDs, and those that it should have.
type Cluster struct {
	Want    []crd.Manifest
	dynamic dynamic.Interface
	page    int64 // how many objects are asked for at a time
}

// Open names a cluster, which is to have our CRDs; nothing is asked of it yet.
func Open(config *rest.Config) (*Cluster, error) {
	config = rest.CopyConfig(config)
	if config.QPS == 0 {
		config.QPS, config.Burst = 100, 200
	}
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", config.Host, err)
	}
	all, err := crd.Manifests()
	if err != nil {
		return nil, err
	}
	c := &Cluster{dynamic: d, page: 500}
	for _, m := range all {
		if !m.Standalone {
			c.Want = append(c.Want, m)
		}
	}
	return c, nil
}

var (
	crdResource        = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	apiServiceResource = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}
)

// Check looks at each CRD, and at all objects of one that Apply would replace.
func (c *Cluster) Check(ctx context.Context) (out []Finding, err error) {
	servers := map[schema.GroupVersion]string{}
	for i := range c.Want {
		want := &c.Want[i]
		gv := schema.GroupVersion{Group: want.CRD.Spec.Group, Version: storage(want.CRD)}
		server, asked := servers[gv]
		if !asked {
			if server, err = c.aggregated(ctx, gv); err != nil {
				return nil, err
			}
			servers[gv] = server
		}
		f, err := c.find(ctx, want)
		if err != nil {
			return nil, err
		}
		if server != "" {
			f.refuse(server)
		}
		if f.State == Older || f.State == Newer || f.State == Foreign {
			if f.Losses, err = c.losses(ctx, f.have, want); err != nil {
				return nil, err
			}
		}
		out = append(out, f)
	}
	return out, nil
}

// Look is Check without what only Apply needs to know: what each CRD lacks as it stands. To read CRDs is all that it takes.
func (c *Cluster) Look(ctx context.Context) (out []Finding, err error) {
	for i := range c.Want {
		f, err := c.find(ctx, &c.Want[i])
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// aggregated says by which other server a version is served, if it is: the CRDs of its group then count for nothing.
func (c *Cluster) aggregated(ctx context.Context, gv schema.GroupVersion) (string, error) {
	name := gv.Version + "." + gv.Group
	u, err := c.dynamic.Resource(apiServiceResource).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	} else if err != nil {
		return "", fmt.Errorf("asking who serves %s: %w", gv, err)
	}
	service, found, err := unstructured.NestedMap(u.Object, "spec", "service")
	if !found || err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is served by the service %v/%v (APIService %s) and not by CRDs: objects would be its own, and a CRD would count for nothing. "+
		"Write its objects to a file with kubectl get -o yaml, remove that server with its APIService, apply, and create the objects anew",
		gv, service["namespace"], service["name"], name), nil
}

// find tells what a CRD is by itself.
func (c *Cluster) find(ctx context.Context, want *crd.Manifest) (f Finding, err error) {
	f = Finding{Name: want.CRD.Name, want: want}
	u, err := c.dynamic.Resource(crdResource).Get(ctx, f.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		f.State = Absent
		return f, nil
	case err != nil:
		return f, fmt.Errorf("reading the CRD %s: %w", f.Name, err)
	}
	f.have = &apiextensionsv1.CustomResourceDefinition{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, f.have); err != nil {
		return f, fmt.Errorf("reading the CRD %s: %w", f.Name, err)
	}
	f.judge()
	return f, nil
}

func (f *Finding) refuse(reason string) { f.State, f.Reasons = Refused, append(f.Reasons, reason) }

func (f *Finding) judge() {
	have, want := f.have, defaulted(f.want.CRD)
	number, ours := have.Annotations[SchemaAnnotation]
	switch {
	case same(have, want) && !stale(have):
		f.State = Current
	case !ours:
		f.State = Foreign
		f.Notes = append(f.Notes, owners(have)...)
	case later(number, want.Annotations[SchemaAnnotation]):
		f.State = Newer
	default:
		f.State = Older
	}
	if v := version(have, storage(want)); v != nil {
		f.Lacks = lacks(v, version(want, storage(want)))
	}
	for _, v := range have.Status.StoredVersions {
		if version(want, v) == nil {
			f.Notes = append(f.Notes, fmt.Sprintf("objects are stored as %s: each is written again as %s", v, storage(want)))
		}
	}
	for _, reason := range obstacles(have, want, ours) {
		f.refuse(reason)
	}
}

// same tells whether a CRD is as ours. Short names and categories that others have given it do no harm.
func same(have, want *apiextensionsv1.CustomResourceDefinition) bool {
	spec := have.Spec.DeepCopy()
	if want.Spec.Names.ShortNames == nil {
		spec.Names.ShortNames = nil
	}
	spec.Names.Categories = want.Spec.Names.Categories
	return equality.Semantic.DeepEqual(*spec, want.Spec)
}

// obstacles are why a CRD cannot become ours, whatever its objects.
func obstacles(have, want *apiextensionsv1.CustomResourceDefinition, ours bool) (out []string) {
	if at := have.DeletionTimestamp; at != nil {
		out = append(out, fmt.Sprintf("it is being deleted, with all its objects: wait until it is gone; what keeps it are finalizers %v, or those of its objects", have.Finalizers))
	}
	if have.Spec.Scope != want.Spec.Scope {
		out = append(out, fmt.Sprintf("its objects are %s, ours %s: that cannot be changed; delete it if nobody needs it", have.Spec.Scope, want.Spec.Scope))
	}
	if have.Spec.Names.Kind != want.Spec.Names.Kind {
		out = append(out, fmt.Sprintf("its objects are of kind %s, not %s", have.Spec.Names.Kind, want.Spec.Names.Kind))
	}
	if s := have.Spec.Conversion; s != nil && s.Strategy == apiextensionsv1.WebhookConverter {
		out = append(out, "a webhook converts its versions into each other: whoever runs that must make "+storage(want)+" the only version first")
	}
	if v := version(have, storage(want)); !ours && (v == nil || !v.Served) {
		out = append(out, fmt.Sprintf("it does not serve %s: what its versions (%s) mean is not known", storage(want), strings.Join(names(have), ", ")))
	}
	return out
}

// stale tells whether objects may be stored in a version that the CRD does not have for storage.
func stale(have *apiextensionsv1.CustomResourceDefinition) bool {
	for _, v := range have.Status.StoredVersions {
		if v != storage(have) {
			return true
		}
	}
	return false
}

// owners are who else says what the CRD is, and may say it again.
func owners(have *apiextensionsv1.CustomResourceDefinition) (out []string) {
	seen := map[string]bool{}
	for _, m := range have.ManagedFields {
		if m.Subresource == "" && m.Manager != manager && !seen[m.Manager] {
			seen[m.Manager] = true
			out = append(out, m.Manager+" has written it, and may write it again")
		}
	}
	return out
}

// later tells whether one number of a schema is greater than another; what is no number is.
func later(a, b string) bool {
	x, err := strconv.Atoi(a)
	y, errOurs := strconv.Atoi(b)
	return err != nil || errOurs == nil && x > y
}

func defaulted(c *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.CustomResourceDefinition {
	c = c.DeepCopy()
	apiextensionsv1.SetDefaults_CustomResourceDefinition(c)
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&c.Spec)
	return c
}

// storage is the name of the version in which objects are stored.
func storage(c *apiextensionsv1.CustomResourceDefinition) string {
	for _, v := range c.Spec.Versions {
		if v.Storage {
			return v.Name
		}
	}
	return ""
}

func version(c *apiextensionsv1.CustomResourceDefinition, name string) *apiextensionsv1.CustomResourceDefinitionVersion {
	for i := range c.Spec.Versions {
		if c.Spec.Versions[i].Name == name {
			return &c.Spec.Versions[i]
		}
	}
	return nil
}

func names(c *apiextensionsv1.CustomResourceDefinition) (out []string) {
	for _, v := range c.Spec.Versions {
		out = append(out, v.Name)
	}
	return out
}

// ErrRefused says that a CRD cannot be made ours, and that therefore nothing was changed.
var ErrRefused = errors.New("nothing is changed")
