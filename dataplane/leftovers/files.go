package leftovers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// calicoFiles in the order in which they go: a plugin's configuration before the plugin, and last what tells that Calico was here.
var calicoFiles = []struct {
	path, why string
	shared    bool // with other configurations that call Calico's plugins
}{
	{cniFolder + "/" + cniFile, "the configuration of Calico's CNI plugin", false},
	{cniFolder + "/calico-kubeconfig", "the credentials of Calico's CNI plugin", true},
	{"/opt/cni/bin/calico", "Calico's CNI plugin", true},
	{"/opt/cni/bin/calico-ipam", "Calico's IPAM plugin", true},
	{"/run/calico", "Calico's folder", false},
	{"/var/run/calico", "Calico's folder", false},
	{"/run/nodeagent", "Calico's folder for its volume driver", false},
	{"/var/run/nodeagent", "Calico's folder for its volume driver", false},
	{"/var/log/calico", "Calico's logs", false},
	{"/var/lib/calico", "Calico's folder", true},
}

// cgroupMount is made by calico-node.
const cgroupMount = "/run/calico/cgroup"

func findFiles(_ context.Context, s *search) (items []Item, err error) {
	if !s.of(calico) {
		return nil, nil
	}
	mounts, err := mountPoints()
	if err != nil {
		return nil, err
	}
	for _, f := range calicoFiles {
		path := s.path(f.path)
		if !exists(path) || strings.HasPrefix(f.path, "/var/run/") && linked(s.path("/var/run")) {
			continue
		}
		i := Item{Owner: calico, Kind: File, Name: path, Why: f.why, Stays: s.holds}
		if f.shared && len(s.cni.others) > 0 && i.Stays == "" {
			i.Stays = strings.Join(s.cni.others, ", ") + " needs it"
		}
		for _, m := range mounts {
			if below(m.path, path) && !s.ownMount(m) && i.Stays == "" {
				i.Stays = "something is mounted at " + m.path
			}
		}
		items = append(items, i)
	}
	return items, nil
}

// removeFiles. What is in a folder goes first: one that was ended goes on there.
func removeFiles(ctx context.Context, s *search) error {
	items, err := findFiles(ctx, s)
	if err != nil {
		return err
	}
	mounts, err := mountPoints()
	if err != nil {
		return err
	}
	var errs []error
	for _, i := range going(items) {
		for _, m := range mounts {
			if below(m.path, i.Name) {
				if err := unix.Unmount(m.path, 0); err != nil && !errors.Is(err, unix.EINVAL) {
					return fmt.Errorf("unmounting %s: %w", m.path, err)
				}
			}
		}
		errs = append(errs, os.RemoveAll(i.Name))
	}
	return errors.Join(errs...)
}

// linked tells whether a folder is one by a link, and will be met where it leads to.
func linked(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}

type mount struct{ path, kind string }

func (s *search) ownMount(m mount) bool { return m.kind == "cgroup2" && m.path == s.path(cgroupMount) }

// mountPoints of this process, those within others first.
func mountPoints() (mounts []mount, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		place, kind, _ := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(place); len(fields) > 4 {
			kind, _, _ = strings.Cut(kind, " ")
			mounts = append([]mount{{octal.Replace(fields[4]), kind}}, mounts...)
		}
	}
	return mounts, lines.Err()
}

// octal is how the kernel writes what would end a field.
var octal = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// below tells whether a path is another or within it.
func below(path, folder string) bool {
	rest, err := filepath.Rel(folder, path)
	return err == nil && rest != ".." && !strings.HasPrefix(rest, "../")
}
