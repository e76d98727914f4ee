package leftovers

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// program is one of the machine's, run as if the root were its own.
type program struct{ root, path string }

// usualPaths are where programs of root's are, whatever PATH says.
var usualPaths = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// program by its name: that of the machine whose root is given, or else one of where we run. It may be a link that only the root can follow.
func (o Options) program(name string) (program, error) {
	for _, root := range []string{o.Root, ""} {
		for _, folder := range append(filepath.SplitList(os.Getenv("PATH")), usualPaths...) {
			if at := path.Join(folder, name); path.IsAbs(folder) && exists(filepath.Join("/", root, at)) {
				return program{root, at}, nil
			}
		}
	}
	return program{}, fmt.Errorf("%s is not installed", name)
}

func (p program) name() string { return path.Base(p.path) }

// run it; it must succeed. The error has what it said.
func (p program) run(ctx context.Context, input string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Dir = "/"
	if p.root != "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: p.root}
	}
	cmd.Stdin = strings.NewReader(input)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("%s %s: %w: %s", p.name(), strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.Bytes(), nil
}
