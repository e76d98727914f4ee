package crds

import (
	"context"
	"fmt"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tierwall/tierwall/config/crd"
)

const most = 20 // objects of a kind are named

// each object of a CRD, in one of its versions; some may come twice, where the list has to begin anew.
func (c *Cluster) each(ctx context.Context, of *apiextensionsv1.CustomResourceDefinition, version string, do func(*unstructured.Unstructured) error) error {
	resource := schema.GroupVersionResource{Group: of.Spec.Group, Version: version, Resource: of.Spec.Names.Plural}
	options := metav1.ListOptions{Limit: c.page}
	for {
		list, err := c.dynamic.Resource(resource).List(ctx, options)
		if apierrors.IsResourceExpired(err) && options.Continue != "" {
			options.Continue = ""
			continue
		}
		if err != nil {
			return fmt.Errorf("listing %s: %w", resource.GroupResource(), err)
		}
		for i := range list.Items {
			if err := do(&list.Items[i]); err != nil {
				return err
			}
		}
		if options.Continue = list.GetContinue(); options.Continue == "" {
			return nil
		}
	}
}

// losses are the objects of a CRD that would lose a field, or could not be written any more, if another took its place. What others' programs
// have written into status they will write again.
func (c *Cluster) losses(ctx context.Context, have *apiextensionsv1.CustomResourceDefinition, want *crd.Manifest) (out []string, err error) {
	from := readable(have, storage(want.CRD))
	if from == "" {
		return nil, fmt.Errorf("the CRD %s serves no version: its objects cannot be read", have.Name)
	}
	admit, err := want.Admitter()
	if err != nil {
		return nil, err
	}
	seen, more := map[string]bool{}, 0
	err = c.each(ctx, have, from, func(u *unstructured.Unstructured) error {
		name := strings.TrimPrefix(u.GetNamespace()+"/"+u.GetName(), "/")
		if seen[name] {
			return nil
		}
		seen[name] = true
		u.SetAPIVersion(want.CRD.Spec.Group + "/" + storage(want.CRD))
		lost := loses(admit, u)
		switch {
		case lost == "":
		case len(out) < most:
			out = append(out, u.GetKind()+"/"+name+": "+lost)
		default:
			more++
		}
		return nil
	})
	if more > 0 {
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	return out, err
}

func loses(admit func(*unstructured.Unstructured) ([]string, error), u *unstructured.Unstructured) string {
	unknown, err := admit(u)
	var said []string
	for _, path := range unknown {
		if path != "status" && !strings.HasPrefix(path, "status.") {
			said = append(said, path+" would be lost")
		}
	}
	if err != nil {
		said = append(said, "it would be refused: "+err.Error())
	}
	return strings.Join(said, "; ")
}

// readable is a version in which objects can be read: the one that is asked for, or any.
func readable(c *apiextensionsv1.CustomResourceDefinition, want string) (out string) {
	for _, v := range c.Spec.Versions {
		if v.Served && (out == "" || v.Name == want) {
			out = v.Name
		}
	}
	return out
}
