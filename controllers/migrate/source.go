package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/apis/convert"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/cleanup"
	"github.com/tierwall/tierwall/controllers/crds"
	"github.com/tierwall/tierwall/controllers/store"
)

// Where Calico keeps objects in a cluster, and where those are who have no Calico (contract §1.13).
var (
	Stored     = convert.StoredVersion
	Native     = v3.GroupVersion.String() // its own CRDs, or another API server
	Kubernetes = "networking.k8s.io/v1"   // nothing is moved: NetworkPolicies are enforced where they are
)

// Sources are the names of those in a cluster.
func Sources() []string { return []string{Stored, Native, Kubernetes} }

// Object is one of a source's.
type Object struct {
	At  string // where in a file
	Was *unstructured.Unstructured
}

// String names it as the source does.
func (o *Object) String() string {
	return v3.Ref{Kind: o.Was.GetKind(), Namespace: o.Was.GetNamespace(), Name: o.Was.GetName()}.String()
}

// key of its copy in a journal.
func (o *Object) key() string { return "was " + o.String() }

// Source is where policies come from.
type Source struct {
	Name    string
	Objects []Object
	inPlace bool   // the objects are where ours are to be
	service string // that the APIService before our CRDs leads to, "" for none
	found   string // which of the APIService's object that is
}

// Read the source of that name in the cluster, or, when it is "", the one that there is.
func (s *Site) Read(ctx context.Context, name string) (*Source, error) {
	if s.dynamic == nil {
		return nil, errors.New("only a file can be read into this datastore: it is no cluster")
	}
	src := &Source{Name: name}
	if err := s.aggregated(ctx, src); err != nil {
		return nil, err
	}
	stored, err := s.serves(Stored)
	if err != nil {
		return nil, err
	}
	native := src.service != ""
	if !native {
		if native, err = s.foreign(ctx); err != nil {
			return nil, err
		}
	}
	if name == "" {
		if name, err = guess(len(stored) > 0, native, src.service != ""); err != nil {
			return nil, err
		}
	}
	src.Name = name
	switch name {
	case Stored:
		if len(stored) == 0 {
			return nil, fmt.Errorf("the cluster has no %s", Stored)
		}
		return src, s.readAll(ctx, src, stored)
	case Native:
		if !native {
			return nil, fmt.Errorf("the CRDs of %s are ours or not there: nothing has to come from them", Native)
		}
		served, err := s.serves(Native)
		if err != nil {
			return nil, err
		}
		src.inPlace = src.service == ""
		return src, s.readAll(ctx, src, served)
	case Kubernetes:
		return src, nil
	}
	return nil, fmt.Errorf("%q is no source: it is one of %s, or a file", name, strings.Join(Sources(), ", "))
}

// guess the source. Behind an API server of its own Calico keeps objects in its older CRDs, if those are there.
func guess(stored, native, aggregated bool) (string, error) {
	switch {
	case stored && native && !aggregated:
		return "", fmt.Errorf("there are objects of both %s and %s: say which Calico uses (its CALICO_API_GROUP)", Stored, Native)
	case stored:
		return Stored, nil
	case native:
		return Native, nil
	}
	return Kubernetes, nil
}

// aggregated looks for the API server that serves our group, if there is one.
func (s *Site) aggregated(ctx context.Context, src *Source) error {
	name := v3.GroupVersion.Version + "." + v3.GroupVersion.Group
	u, err := s.dynamic.Resource(apiServices).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("asking who serves %s: %w", v3.GroupVersion, err)
	}
	service, found, err := unstructured.NestedMap(u.Object, "spec", "service")
	if found && err == nil {
		src.service, src.found = fmt.Sprintf("%v/%v", service["namespace"], service["name"]), name
	}
	return err
}

var apiServices = at("apiregistration.k8s.io/v1", "apiservices")

// foreign tells whether there are CRDs of our group that are another's.
func (s *Site) foreign(ctx context.Context) (bool, error) {
	findings, err := s.crds.Look(ctx)
	return slices.ContainsFunc(findings, func(f crds.Finding) bool { return f.State == crds.Foreign || f.State == crds.Refused }), err
}

// resource of a source.
type resource struct {
	schema.GroupVersionResource
	kind string
}

// serves is what the cluster has of a version.
func (s *Site) serves(groupVersion string) (out []resource, err error) {
	list, err := s.served.ServerResourcesForGroupVersion(groupVersion)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking for %s: %w", groupVersion, err)
	}
	for _, r := range list.APIResources {
		if !strings.Contains(r.Name, "/") {
			out = append(out, resource{at(groupVersion, r.Name), r.Kind})
		}
	}
	return out, nil
}

func (s *Site) readAll(ctx context.Context, src *Source, of []resource) error {
	for _, r := range of {
		for next := ""; ; {
			list, err := s.dynamic.Resource(r.GroupVersionResource).List(ctx, metav1.ListOptions{Limit: s.page, Continue: next})
			if err != nil {
				return fmt.Errorf("reading %s of %s: %w", r.Resource, src.Name, err)
			}
			for i := range list.Items {
				src.Objects = append(src.Objects, Object{Was: &list.Items[i]})
			}
			if next = list.GetContinue(); next == "" {
				break
			}
		}
	}
	slices.SortStableFunc(src.Objects, func(a, b Object) int { return strings.Compare(a.String(), b.String()) })
	return nil
}

// is the object in words of projectcalico.org/v3, and what is lost on the way. Of its owners it keeps those that are not Calico's policies: they
// have the same uid as before.
func (o *Object) is() (*unstructured.Unstructured, []convert.Loss) {
	u := o.Was.DeepCopy()
	switch {
	case u.GetAPIVersion() == convert.StoredVersion:
		lost := convert.FromStored(u.Object)
		u.SetUID("")
		if owners := othersAlone(u.GetOwnerReferences()); len(owners) > 0 {
			u.SetOwnerReferences(owners)
		} else {
			unstructured.RemoveNestedField(u.Object, "metadata", "ownerReferences")
		}
		return u, lost
	case convert.Old(u.GetAPIVersion(), u.GetKind()):
		return u, convert.FromOld(u.Object)
	}
	meta := map[string]any{"name": u.GetName()}
	if n := u.GetNamespace(); n != "" {
		meta["namespace"] = n
	}
	u.Object = map[string]any{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind(), "metadata": meta, "spec": u.Object["spec"]}
	labels, annotations := o.Was.GetLabels(), o.Was.GetAnnotations()
	delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
	if len(labels) > 0 {
		u.SetLabels(labels)
	}
	if len(annotations) > 0 {
		u.SetAnnotations(annotations)
	}
	if owners := othersAlone(o.Was.GetOwnerReferences()); len(owners) > 0 {
		u.SetOwnerReferences(owners)
	}
	if u.Object["spec"] == nil {
		delete(u.Object, "spec")
	}
	return u, nil
}

// othersAlone are owners that are not Calico's: those are written anew by a run and have another uid then, or go with Calico, and would take with them what they own.
func othersAlone(owners []metav1.OwnerReference) []metav1.OwnerReference {
	return slices.DeleteFunc(owners, func(r metav1.OwnerReference) bool { return cleanup.Calicos(r.APIVersion) })
}

// ofKubernetes tells of what Calico makes of Kubernetes' own policies, and keeps in its etcd.
func ofKubernetes(u *unstructured.Unstructured) bool {
	return u.GetKind() == "NetworkPolicy" && strings.HasPrefix(u.GetName(), "knp.default.")
}

// Policies are the objects of the source that verdicts follow from. What no store would take is not among them: Calico ignores such an object,
// or takes it for something else than it says (contract §1.12).
func (src *Source) Policies() (out []client.Object) {
	for _, o := range src.byName() {
		out = append(out, o)
	}
	return out
}

// byName are the source's objects as a store would take them.
func (src *Source) byName() objects {
	out := objects{}
	for i := range src.Objects {
		u, lost := src.Objects[i].is()
		if len(lost) > 0 || ofKubernetes(u) || u.GroupVersionKind().Group != v3.GroupVersion.Group {
			continue
		}
		if o, errs := store.Admit(u, nil); len(errs) == 0 {
			out[v3.RefOf(o.(v3.Object))] = o
		}
	}
	return out
}

// Differences are what a later look at the source finds otherwise, a line an object.
func (src *Source) Differences(later *Source) (out []string) {
	before, now := src.byName(), later.byName()
	for ref, o := range before {
		switch is := now[ref]; {
		case is == nil:
			out = append(out, ref.String()+" deleted")
		case !same(o, is):
			out = append(out, ref.String()+" changed")
		}
	}
	for ref := range now {
		if before[ref] == nil {
			out = append(out, ref.String()+" made")
		}
	}
	slices.Sort(out)
	return out
}
