package crds

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tierwall/tierwall/config/crd"
)

// Restore puts back what Apply has taken over, unless objects would lose something by that and it is not forced.
func (c *Cluster) Restore(ctx context.Context, force bool, say func(crd, done string)) error {
	findings, err := c.Taken(ctx)
	if err != nil {
		return err
	}
	if err := refusals(findings, force); err != nil {
		return err
	}
	for i := range findings {
		f := &findings[i]
		if err := c.restore(ctx, f.want.CRD); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		say(f.Name, "restored")
	}
	return nil
}

// Taken are the CRDs that Apply has taken over, with what objects would lose if Restore put back what was there.
func (c *Cluster) Taken(ctx context.Context) ([]Finding, error) {
	findings, err := c.Look(ctx)
	if err != nil {
		return nil, err
	}
	findings = slices.DeleteFunc(findings, func(f Finding) bool { return f.have == nil || f.have.Annotations[ReplacedAnnotation] == "" })
	for i := range findings {
		if err := c.predecessor(ctx, &findings[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", findings[i].Name, err)
		}
	}
	return findings, nil
}

// predecessor makes what was there before ours the one that is wanted.
func (c *Cluster) predecessor(ctx context.Context, f *Finding) error {
	was := f.have.DeepCopy()
	if err := unpack(f.have.Annotations[ReplacedAnnotation], &was.Spec); err != nil {
		return err
	}
	judge := was.DeepCopy() // by the version in which objects will be stored
	judge.Spec.Versions = slices.DeleteFunc(judge.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return !v.Storage })
	losses, err := c.losses(ctx, f.have, &crd.Manifest{File: f.Name, CRD: judge})
	*f = Finding{Name: f.Name, State: Foreign, Losses: losses, have: f.have, want: &crd.Manifest{File: f.Name, CRD: was}}
	return err
}

func (c *Cluster) restore(ctx context.Context, was *apiextensionsv1.CustomResourceDefinition) error {
	delete(was.Annotations, ReplacedAnnotation)
	delete(was.Annotations, SchemaAnnotation)
	delete(was.Labels, ManagedLabel)
	was.ManagedFields = slices.DeleteFunc(was.ManagedFields, func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == manager && m.Operation == metav1.ManagedFieldsOperationApply
	})
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(was)
	if err != nil {
		return err
	}
	u := &unstructured.Unstructured{Object: object}
	u.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	_, err = c.dynamic.Resource(crdResource).Update(ctx, u, metav1.UpdateOptions{FieldManager: manager})
	return err
}

// pack and unpack a spec: a CRD may be greater than all annotations together.
func pack(spec *apiextensionsv1.CustomResourceDefinitionSpec) (string, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := errors.Join(json.NewEncoder(z).Encode(spec), z.Close()); err != nil {
		return "", fmt.Errorf("keeping what was there: %w", err)
	}
	return base64.StdEncoding.EncodeToString(b.Bytes()), nil
}

func unpack(text string, spec *apiextensionsv1.CustomResourceDefinitionSpec) error {
	const bound = 4 << 20 // no CRD is larger, for etcd takes none
	raw, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		var z *gzip.Reader
		if z, err = gzip.NewReader(bytes.NewReader(raw)); err == nil {
			*spec = apiextensionsv1.CustomResourceDefinitionSpec{}
			err = json.NewDecoder(io.LimitReader(z, bound)).Decode(spec)
		}
	}
	if err != nil {
		return fmt.Errorf("its annotation %s cannot be read: %w", ReplacedAnnotation, err)
	}
	return nil
}
