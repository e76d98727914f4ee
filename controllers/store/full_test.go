package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// TestFullDisk gives a process of its own a disk of its own, which is too small.
func TestFullDisk(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "STORE_TEST_DISK="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM) && os.Getenv("CI") == "":
		t.Skip("no disk can be mounted here: ", err)
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	}
}

// onFullDisk is what the process does.
func onFullDisk(dir string) error {
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=400k"); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	// a store of our own: what does not fit is not written, and what was there is
	own := OpenBolt(filepath.Join(dir, "own", "store.db"))
	if _, err := own.Put(ctx, set("fits")); err != nil {
		return fmt.Errorf("one object: %w", err)
	}
	if _, err := own.Transact(ctx, func(w Writer) error { return createAll(w, 300) }); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("too much was written: %v", err)
	}
	if have, err := own.List(ctx, "GlobalNetworkSet", ""); err != nil || len(have) != 1 {
		return fmt.Errorf("after too much there are %d objects: %v", len(have), err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "own")); err != nil {
		return err
	}
	return snapshotOnFullDisk(ctx, dir)
}

// snapshotOnFullDisk: all is told, and what is wrong with the disk; once there is room all is remembered.
func snapshotOnFullDisk(ctx context.Context, dir string) error {
	elsewhere, err := os.MkdirTemp("", "full-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(elsewhere)
	s := OpenBolt(filepath.Join(elsewhere, "store.db"))
	if _, err := s.Transact(ctx, func(w Writer) error { return createAll(w, 300) }); err != nil {
		return err
	}
	snap := RememberIn(filepath.Join(dir, "snapshot.db"), s)
	watching, end := context.WithCancel(ctx)
	defer end()
	told, complaints := map[v3.Ref]client.Object{}, 0
	for e, err := range snap.Watch(watching) {
		switch {
		case err != nil && !errors.Is(err, ErrUnremembered), err != nil && !errors.Is(err, syscall.ENOSPC):
			return fmt.Errorf("told %w", err)
		case err != nil:
			if complaints++; len(told) < 300 {
				return fmt.Errorf("only %d objects were told before %w", len(told), err)
			}
			if err := syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT, "size=20m"); err != nil {
				return err
			}
			if _, err := s.Put(ctx, set("last")); err != nil {
				return err
			}
		case e.Type == Put:
			told[e.Ref] = e.Object
		}
		if told[setRef("last")] != nil && e.Type == Synced {
			end()
		}
	}
	if complaints != 1 {
		return fmt.Errorf("a full disk was told %d times", complaints)
	}
	if have, err := snap.file.List(ctx, "GlobalNetworkSet", ""); err != nil || len(have) != 301 {
		return fmt.Errorf("remembered are %d: %w", len(have), err)
	}
	return nil
}

// createAll makes sets of a kilobyte or two.
func createAll(w Writer, n int) error {
	for i := range n {
		var nets []string
		for j := range 100 {
			nets = append(nets, fmt.Sprintf("10.%d.%d.0/24", i%250, j))
		}
		if _, err := w.Create(set(fmt.Sprintf("s%d", i), nets...)); err != nil {
			return err
		}
	}
	return nil
}
