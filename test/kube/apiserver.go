package kube

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	e, err := environmentOf(Components())
	if err != nil {
		return nil, nil, err
	}
	if config, err = e.Start(); err != nil {
		return nil, nil, fmt.Errorf("starting the API server: %w", err)
	}
	return config, e.Stop, nil
}

func environmentOf(components string, err error) (*envtest.Environment, error) {
	if err != nil {
		return nil, err
	}
	crds, err := CRDs()
	if err != nil {
		return nil, err
	}
	log.SetLogger(logr.Discard())
	return &envtest.Environment{BinaryAssetsDirectory: components, CRDs: crds}, nil
}

// Server is an API server that can be stopped, and whose etcd can go back to what it was. It keeps its address and its users.
type Server struct {
	Config *rest.Config
	env    *envtest.Environment
	dir    string
}

// StartServer starts one, which ends with the test.
func StartServer(t testing.TB) *Server {
	t.Helper()
	e, err := environmentOf(Components())
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{env: e, dir: t.TempDir()}
	for _, folder := range []string{"etcd", "certs"} {
		if err := os.Mkdir(filepath.Join(s.dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	e.ControlPlane.Etcd, e.ControlPlane.APIServer = &envtest.Etcd{DataDir: s.path("etcd")}, &envtest.APIServer{CertDir: s.path("certs"), StopTimeout: time.Second}
	if s.Config, err = e.Start(); err != nil {
		t.Fatal(fmt.Errorf("starting the API server: %w", err))
	}
	t.Cleanup(func() { _ = e.Stop() }) // perhaps it is stopped already
	return s
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

// Stop ends the API server, which is killed if it takes too long, and etcd.
func (s *Server) Stop() error {
	_ = s.env.ControlPlane.APIServer.Stop()
	return s.env.ControlPlane.Etcd.Stop()
}

// Again starts both where they were.
func (s *Server) Again() error {
	if err := s.env.ControlPlane.Etcd.Start(); err != nil {
		return err
	}
	return s.env.ControlPlane.APIServer.Start()
}

// Save keeps what etcd has, while it is stopped.
func (s *Server) Save() error { return os.CopyFS(s.path("saved"), os.DirFS(s.path("etcd"))) }

// Restore puts back what was saved, while etcd is stopped.
func (s *Server) Restore() error {
	if err := os.RemoveAll(s.path("etcd")); err != nil {
		return err
	}
	if err := os.CopyFS(s.path("etcd"), os.DirFS(s.path("saved"))); err != nil {
		return err
	}
	return os.Chmod(s.path("etcd"), 0o700)
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
