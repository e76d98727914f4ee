// Package kube is the real Kubernetes that tests use: an API server with etcd in seconds (Start), and a cluster of two nodes with
// kubelets, containerd and kube-proxy (Up), all without a container engine. What they run is built from Go modules once, and kept in the
// user's cache under a name that says what it was built of.
package kube

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

const kubernetesVersion = "v1.37.1"

// names that the one binary of components goes by.
var names = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"}

// Components gives the folder that has etcd, kube-apiserver, kubectl and the other components, and builds them when it has not: that
// takes ten minutes and 3.5 GB of memory on two cores. TIERWALL_KUBE_CACHE names another folder for what is built.
func Components() (dir string, err error) {
	source, err := sourceDir()
	if err != nil {
		return "", err
	}
	return cached("components", sourceFiles(filepath.Join(source, "components"), "main.go", "go.mod", "go.sum"), func(dir string) error {
		var ldflags []string
		for _, p := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
			major, minor, _ := strings.Cut(strings.TrimPrefix(kubernetesVersion, "v"), ".")
			minor, _, _ = strings.Cut(minor, ".")
			for k, v := range map[string]string{"gitVersion": kubernetesVersion, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"} {
				ldflags = append(ldflags, fmt.Sprintf("-X %s.%s=%s", p, k, v))
			}
		}
		err := run(filepath.Join(source, "components"), "go", "build", "-trimpath", "-ldflags", "-s -w "+strings.Join(ldflags, " "), "-o", filepath.Join(dir, "components"), ".")
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := os.Symlink("components", filepath.Join(dir, n)); err != nil {
				return err
			}
		}
		return nil
	})
}

// sourceDir is where this package's files are.
func sourceDir() (string, error) {
	text, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	return filepath.Join(filepath.Dir(strings.TrimSpace(string(text))), "test", "kube"), nil
}

// cached gives the folder that build has filled for these ingredients, at some time and in some process: one at a time builds.
func cached(name string, ingredients func(io.Writer) error, build func(dir string) error) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH)
	if err := ingredients(h); err != nil {
		return "", err
	}
	root := os.Getenv("TIERWALL_KUBE_CACHE")
	if root == "" {
		caches, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		root = filepath.Join(caches, "tierwall")
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	dir := filepath.Join(root, name+"-"+hex.EncodeToString(h.Sum(nil)[:8]))
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	part, err := os.MkdirTemp(root, name+"-part-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(part)
	if err := build(part); err != nil {
		return "", fmt.Errorf("building %s: %w", name, err)
	}
	if err := os.Chmod(part, 0o755); err != nil {
		return "", err
	}
	return dir, os.Rename(part, dir)
}

func sourceFiles(dir string, files ...string) func(io.Writer) error {
	return func(w io.Writer) error {
		for _, f := range files {
			text, err := os.ReadFile(filepath.Join(dir, f))
			if err != nil {
				return err
			}
			fmt.Fprintln(w, f, len(text))
			_, _ = w.Write(text) // a hash takes all
		}
		return nil
	}
}

// run a command that builds something; an error carries what it said.
func run(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, said.Bytes())
	}
	return nil
}
