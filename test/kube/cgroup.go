package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const cgroups = "/sys/fs/cgroup"

// unified is where the cgroup tree of version 2 is, alone or beside those of version 1. Every process of a cluster begins in it under the
// cluster's name, and neither a namespace nor its parent's death gets it out: so all are killed at once (Linux 5.14), also when whoever
// started them is no more.
func unified() (string, error) {
	for _, dir := range []string{cgroups, filepath.Join(cgroups, "unified")} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no cgroup tree of version 2 is at %s", cgroups)
}

// makeCgroups makes what kubelets find as their root, in every tree there is, and gives the folder of the processes that no pod has.
func makeCgroups(name string, nodes []string) (processes string, err error) {
	trees, err := cgroupTrees()
	if err != nil {
		return "", err
	}
	for _, tree := range trees {
		for _, node := range nodes {
			if err := makeCgroup(tree, name, node); err != nil {
				return "", err
			}
		}
	}
	root, err := unified()
	if err != nil {
		return "", err
	}
	processes = filepath.Join(root, name, "processes") // a leaf: where controllers are on, only leaves have processes
	return processes, os.Mkdir(processes, 0o755)
}

func cgroupTrees() (trees []string, err error) {
	root, err := unified()
	if err != nil || root == cgroups {
		return []string{cgroups}, err
	}
	return filepath.Glob(filepath.Join(cgroups, "*"))
}

// makeCgroup makes a group and those it is in, with everything that they may use.
func makeCgroup(dir string, names ...string) error {
	for _, name := range names {
		parent := dir
		dir = filepath.Join(dir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := errors.Join(giveCPUs(parent, dir), giveControllers(parent)); err != nil {
			return err
		}
	}
	return nil
}

// giveCPUs is for version 1: a group begins without any, and no process may enter it.
func giveCPUs(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		text, err := os.ReadFile(filepath.Join(parent, file))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another controller's tree
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// giveControllers is for version 2: what a group may use, its parent must hand on.
func giveControllers(parent string) error {
	controllers, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(controllers)) {
		if err := os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("controller %s: %w", c, err)
		}
	}
	return nil
}

// killCgroup ends all processes of a cluster.
func killCgroup(ctx context.Context, name string) error {
	root, err := unified()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, name)
	err = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return poll(ctx, "the end of all processes of "+name, func() error {
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err == nil && !bytes.Contains(events, []byte("populated 0")) {
			err = errors.New("some are left")
		}
		return err
	})
}

// removeCgroups removes the groups of a cluster that has no process any more.
func removeCgroups(ctx context.Context, name string) error {
	trees, err := cgroupTrees()
	if err != nil {
		return err
	}
	return poll(ctx, "removing the cgroups of "+name, func() error {
		var errs []error
		for _, tree := range trees {
			errs = append(errs, removeCgroup(filepath.Join(tree, name)))
		}
		return errors.Join(errs...)
	})
}

func removeCgroup(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, d := range slices.Backward(dirs) { // the inner ones first
		if err := syscall.Rmdir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("%s: %w", d, err))
		}
	}
	return errors.Join(errs...)
}
