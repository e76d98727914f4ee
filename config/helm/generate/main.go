// Command generate writes what is made of the CRDs and of the chart: the CRDs as templates of the chart, the kustomization that lists
// them and, where it is given a helm, config/deploy/tierwall.yaml. It is run in the root of the module, after the CRDs are written.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/tierwall/tierwall/config/crd"
)

const (
	chart     = "config/helm/tierwall"
	templates = chart + "/templates/crds"
	manifest  = "config/deploy/tierwall.yaml"
	// kustomizations of this name are not among the *.yaml that are CRDs
	kustomization = "config/crd/Kustomization"
	notice        = "Written by config/helm/generate; not to be edited."
)

func main() {
	helm := flag.String("helm", "", "the `program` helm, to write "+manifest)
	flag.Parse()
	if err := generate(*helm); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func generate(helm string) error {
	if _, err := os.Stat(chart); err != nil {
		return fmt.Errorf("not in the root of the module: %w", err)
	}
	files, err := fromCRDs()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(templates); err != nil { // a kind that is no more
		return err
	}
	for name, text := range files {
		if err := write(name, text); err != nil {
			return err
		}
	}
	if helm == "" {
		return nil
	}
	text, err := deploy(helm)
	if err != nil {
		return err
	}
	return write(manifest, text)
}

func write(name string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o644)
}

// fromCRDs is the text of each file that is made of the CRDs alone.
func fromCRDs() (map[string][]byte, error) {
	all, err := crd.Manifests()
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	list := "# " + notice + "\napiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"
	for _, m := range all {
		if m.Standalone {
			continue
		}
		text, err := template(string(m.YAML))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.File, err)
		}
		files[templates+"/"+m.File] = []byte(text)
		list += "- " + m.File + "\n"
	}
	files[kustomization] = []byte(list)
	return files, nil
}

// template makes a CRD one of the chart's: installed if the values say so, and kept when the release goes.
func template(text string) (string, error) {
	const metadata = "\nmetadata:\n  annotations:\n"
	text = strings.TrimPrefix(text, "---\n")
	text = strings.NewReplacer("{{", `{{ "{{" }}`).Replace(text)
	head, tail, ok := strings.Cut(text, metadata)
	if !ok || strings.Contains(tail, metadata) {
		return "", errors.New("it does not begin as controller-gen's do")
	}
	return "{{- /* " + notice + " */}}\n{{- if .Values.crds.install }}\n" + head + metadata + "    helm.sh/resource-policy: keep\n" + tail + "{{- end }}\n", nil
}

// deploy is the chart as one manifest with its namespace, without the CRDs, which config/deploy takes from config/crd.
func deploy(helm string) ([]byte, error) {
	cmd := exec.Command(helm, "template", "tierwall", chart, "--namespace", "tierwall-system", "--kube-version", "1.31.0",
		"--set", "namespace.create=true,crds.install=false")
	var failed bytes.Buffer
	cmd.Stderr = &failed
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("helm template: %w: %s", err, strings.TrimSpace(failed.String()))
	}
	return append([]byte("# "+notice+"\n"), text...), nil
}
