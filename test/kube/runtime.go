package kube

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

const (
	containerdVersion = "v2.4.2"
	pluginsVersion    = "v1.9.1"
)

// containerRuntime are the commands of a container runtime, all but runc: that one is of use only with libseccomp, which is C.
var containerRuntime = []string{
	"github.com/containerd/containerd/v2/cmd/containerd@" + containerdVersion,
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@" + containerdVersion,
	"github.com/containerd/containerd/v2/cmd/ctr@" + containerdVersion,
	"github.com/containernetworking/plugins/plugins/main/bridge@" + pluginsVersion,
	"github.com/containernetworking/plugins/plugins/main/loopback@" + pluginsVersion,
	"github.com/containernetworking/plugins/plugins/main/ptp@" + pluginsVersion,
	"github.com/containernetworking/plugins/plugins/ipam/host-local@" + pluginsVersion,
	"github.com/containernetworking/plugins/plugins/meta/portmap@" + pluginsVersion,
}

// Runtime gives the folder that has containerd, its shim, ctr, runc and the CNI plugins, and builds them when it has not. runc is the
// machine's own, or else Debian's.
func Runtime() (dir string, err error) {
	ingredients := func(w io.Writer) error {
		_, err := fmt.Fprintln(w, containerRuntime)
		return err
	}
	return cached("runtime", ingredients, func(dir string) error {
		for _, command := range containerRuntime {
			if err := run(dir, "env", "GOBIN="+dir, "go", "install", "-trimpath", "-ldflags", "-s -w", command); err != nil {
				return err
			}
		}
		return findRunc(filepath.Join(dir, "runc"))
	})
}

func findRunc(as string) error {
	if have, err := exec.LookPath("runc"); err == nil {
		return os.Symlink(have, as)
	}
	tmp, err := os.MkdirTemp("", "runc-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if download(tmp, "runc") != nil { // perhaps the lists of packages are missing, or old
		if err := errors.Join(run(tmp, "apt-get", "update", "-q"), download(tmp, "runc")); err != nil {
			return fmt.Errorf("there is no runc: %w", err)
		}
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "runc_*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("one package of runc was to be downloaded, not %q", debs)
	}
	if err := run(tmp, "dpkg", "-x", debs[0], "."); err != nil {
		return err
	}
	return run(tmp, "cp", "usr/sbin/runc", as)
}

// download a package without installing it.
func download(dir, name string) error {
	return run(dir, "apt-get", "-o", "APT::Sandbox::User=root", "download", name)
}

// podProgram gives the program that the tests' pods run.
func podProgram() (file string, err error) {
	source, err := sourceDir()
	if err != nil {
		return "", err
	}
	dir, err := cached("pod", sourceFiles(filepath.Join(source, "pod"), "main.go"), func(dir string) error {
		return run(filepath.Join(source, "pod"), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, "pod"), ".")
	})
	return filepath.Join(dir, "pod"), err
}
