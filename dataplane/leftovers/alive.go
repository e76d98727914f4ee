package leftovers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// processes of the owners that work on this network namespace. One whose namespace cannot be read counts: it may be this.
func (s *search) processes() (found []string, err error) {
	ours, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, dir := range all {
		name := s.known(dir)
		if name == "" {
			continue
		}
		if theirs, err := os.Readlink(filepath.Join(dir, "ns/net")); errors.Is(err, fs.ErrNotExist) || err == nil && theirs != ours {
			continue
		}
		found = append(found, fmt.Sprintf("%s (process %s)", name, filepath.Base(dir)))
	}
	return found, nil
}

// known is the program of the owners' that a process is, or "". It is known by its file, by its name or by what it was called as; a BIRD or confd is Calico's
// if it was given something of Calico's, for others use them too.
func (s *search) known(dir string) string {
	comm, _ := os.ReadFile(filepath.Join(dir, "comm")) // what has ended says nothing
	exe, _ := os.Readlink(filepath.Join(dir, "exe"))
	line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	first, _, _ := bytes.Cut(line, []byte{0})
	for _, name := range []string{strings.TrimSpace(string(comm)), filepath.Base(strings.TrimSuffix(exe, " (deleted)")), filepath.Base(string(first))} {
		for _, o := range s.owners {
			if slices.Contains(o.programs, name) {
				return name
			}
		}
		if slices.Contains([]string{"bird", "bird6", "confd"}, name) && s.of(calico) && (bytes.Contains(line, []byte("calico")) || calicoAbove(dir)) {
			return name
		}
	}
	return ""
}

// calicoAbove tells whether a process was begun by one of Calico's.
func calicoAbove(dir string) bool {
	for {
		text, err := os.ReadFile(filepath.Join(dir, "stat"))
		_, rest, ok := bytes.Cut(text, []byte(") "))
		fields := bytes.Fields(rest)
		if err != nil || !ok || len(fields) < 2 {
			return false
		}
		parent, _ := strconv.Atoi(string(fields[1])) // of the kernel's
		if parent <= 1 {
			return false
		}
		dir = filepath.Join("/proc", strconv.Itoa(parent))
		if comm, _ := os.ReadFile(filepath.Join(dir, "comm")); bytes.HasPrefix(comm, []byte("calico")) {
			return true
		}
	}
}

// birdRuns tells whether any BIRD works on this network namespace, whoever's.
func birdRuns() bool {
	ours, _ := os.Readlink("/proc/thread-self/ns/net")
	all, _ := filepath.Glob("/proc/[0-9]*/comm")
	return slices.ContainsFunc(all, func(path string) bool {
		comm, _ := os.ReadFile(path)
		name := strings.TrimSpace(string(comm))
		theirs, err := os.Readlink(filepath.Join(filepath.Dir(path), "ns/net"))
		return (name == "bird" || name == "bird6") && (err != nil || theirs == ours)
	})
}

// podPrefix is how Calico's plugin calls pods' interfaces.
const podPrefix = "cali"

// livePods are the interfaces that Calico's plugin made whose other end is in another network namespace.
func livePods() (names []string, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if a := l.Attrs(); l.Type() == "veth" && strings.HasPrefix(a.Name, podPrefix) && a.NetNsID >= 0 {
			names = append(names, a.Name)
		}
	}
	return names, nil
}

// cni is what the container runtime is told of Calico's plugin.
type cni struct {
	inUse  string   // the file that it follows, which is the first of its folder, if that names the plugin
	others []string // files that name it and are not called as Calico calls its own
	unseen []string
}

const (
	cniFolder = "/etc/cni/net.d"
	cniFile   = "10-calico.conflist"
)

func (s *search) findCNI() (c cni) {
	folder := s.path(cniFolder)
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.unseen = append(c.unseen, err.Error())
	}
	first := true
	for _, e := range entries { // in the order of their names, as runtimes have it
		path := filepath.Join(folder, e.Name())
		if !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(path)) {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			c.unseen = append(c.unseen, err.Error())
			continue
		}
		names := namesCalico(text)
		if names && first {
			c.inUse = path
		}
		if names && e.Name() != cniFile {
			c.others = append(c.others, path)
		}
		first = false
	}
	return c
}

// namesCalico tells whether a configuration calls one of Calico's plugins.
func namesCalico(text []byte) bool {
	type plugin struct {
		Type string
		IPAM struct{ Type string }
	}
	var list struct {
		plugin
		Plugins []plugin
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return bytes.Contains(text, []byte(`"calico`)) // in doubt it does
	}
	return slices.ContainsFunc(append(list.Plugins, list.plugin), func(p plugin) bool {
		return strings.HasPrefix(p.Type, calico) || strings.HasPrefix(p.IPAM.Type, calico)
	})
}
