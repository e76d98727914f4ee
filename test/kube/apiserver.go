package kube

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/tierwall/tierwall/config/crd"
)

// Start runs an API server with etcd until the test ends. It has the CRDs of a cluster with Tierwall. Without kubelets and controllers,
// nothing becomes of its objects: a namespace that is deleted does not go.
func Start(t testing.TB) *rest.Config {
	t.Helper()
	config, stop, err := Serve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("stopping the API server: %v", err)
		}
	})
	return config
}

// Serve is Start for who ends it himself.
func Serve() (config *rest.Config, stop func() error, err error) {
	dir, err := Components()
	if err != nil {
		return nil, nil, err
	}
	crds, err := CRDs()
	if err != nil {
		return nil, nil, err
	}
	log.SetLogger(logr.Discard())
	e := &envtest.Environment{BinaryAssetsDirectory: dir, CRDs: crds}
	if config, err = e.Start(); err != nil {
		return nil, nil, fmt.Errorf("starting the API server: %w", err)
	}
	return config, e.Stop, nil
}

// CRDs are those that a cluster with Tierwall has: ours, and that of ClusterNetworkPolicy.
func CRDs() (out []*apiextensionsv1.CustomResourceDefinition, err error) {
	all, err := crd.Manifests()
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if !m.Standalone {
			out = append(out, m.CRD.DeepCopy())
		}
	}
	text, err := ClusterNetworkPolicyCRD(context.Background())
	if err != nil {
		return nil, err
	}
	foreign := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.Unmarshal(text, foreign); err != nil {
		return nil, fmt.Errorf("the CRD of ClusterNetworkPolicy: %w", err)
	}
	return append(out, foreign), nil
}

// ClusterNetworkPolicyCRD is as its own project has it.
func ClusterNetworkPolicyCRD(ctx context.Context) ([]byte, error) {
	dir, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/network-policy-api").Output()
	if err != nil {
		return nil, fmt.Errorf("finding the module of ClusterNetworkPolicy: %w", err)
	}
	return os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config", "crd", "experimental", "policy.networking.k8s.io_clusternetworkpolicies.yaml"))
}
