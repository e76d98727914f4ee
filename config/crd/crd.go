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
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
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
var Manifests = sync.OnceValues(func() (out []Manifest, err error) {
	err = eachFile(func(name string, text []byte) error {
		m, err := parse(name, text)
		out = append(out, m)
		return err
	})
	slices.SortFunc(out, func(a, b Manifest) int { return strings.Compare(a.File, b.File) })
	return out, err
})

func eachFile(f func(name string, text []byte) error) error {
	return fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		return f(name, text)
	})
}

func parse(name string, text []byte) (Manifest, error) {
	m := Manifest{File: name, Standalone: path.Dir(name) == "standalone", YAML: text, CRD: &apiextensionsv1.CustomResourceDefinition{}}
	if err := yaml.UnmarshalStrict(text, m.CRD); err != nil {
		return m, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

// What a manifest is of stands in lines of its own, which are found in no time: to parse all manifests takes longer than most commands.
var (
	groupLine   = regexp.MustCompile(`(?m)^  group: (.+)$`)
	kindLine    = regexp.MustCompile(`(?m)^    kind: (.+)$`)
	versionLine = regexp.MustCompile(`(?m)^  (?:- |  )name: (v.+)$`)
)

func kindOf(text []byte) (schema.GroupVersionKind, error) {
	group, version, kind := groupLine.FindSubmatch(text), versionLine.FindSubmatch(text), kindLine.FindSubmatch(text)
	if group == nil || version == nil || kind == nil {
		return schema.GroupVersionKind{}, errors.New("it does not say of what kind it is")
	}
	return schema.GroupVersionKind{Group: string(group[1]), Version: string(version[1]), Kind: string(kind[1])}, nil
}

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
