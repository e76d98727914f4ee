// Package crd is the schemas of the kinds that users write, and does to an object in this process what an API server that
// has these CRDs would do: prune, default, and validate by schema, list types and CEL. It knows the objects only as their
// schemas do; what a schema cannot say is in apis/v3.
//
// The manifests in this folder are for clusters. Those in standalone/ are of kinds that a cluster derives from others
// (WorkloadEndpoint from Pod, Profile from Namespace and ServiceAccount): a host without a cluster has them as objects, and
// they are not installed in clusters.
package crd

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

//go:embed *.yaml standalone/*.yaml
var files embed.FS

// Manifest is one CRD as it is in its file.
type Manifest struct {
	File       string
	Standalone bool // not for clusters
	YAML       []byte
	CRD        *apiextensionsv1.CustomResourceDefinition
}

// Manifests reads all of them, sorted by file.
var Manifests = sync.OnceValues(func() ([]Manifest, error) {
	var out []Manifest
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		m := Manifest{File: name, Standalone: path.Dir(name) == "standalone", YAML: text, CRD: &apiextensionsv1.CustomResourceDefinition{}}
		if err := yaml.UnmarshalStrict(text, m.CRD); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, m)
		return nil
	})
	slices.SortFunc(out, func(a, b Manifest) int { return strings.Compare(a.File, b.File) })
	return out, err
})

// Internal is the CRD in the form that the API server's own code works on.
func (m *Manifest) Internal() (*apiextensions.CustomResourceDefinition, error) {
	crd := m.CRD.DeepCopy()
	apiextensionsv1.SetDefaults_CustomResourceDefinition(crd)
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
	out := &apiextensions.CustomResourceDefinition{}
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(crd, out, nil); err != nil {
		return nil, fmt.Errorf("%s: %w", m.File, err)
	}
	return out, nil
}
