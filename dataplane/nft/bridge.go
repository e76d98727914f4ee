package nft

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ProcSysNet is where Linux has its settings. A container has a copy of its own that it may only read; its host's may be mounted elsewhere.
const ProcSysNet = "/proc/sys/net"

// BridgeFiltering makes packets between the ports of any bridge of the caller's network namespace pass the forward hook, where they
// do not already: they go from port to port, past all policy, unless the bridge hands them up, and pods of one node that hang on a bridge
// are such ports. procSysNet is ProcSysNet, or where it is mounted.
func BridgeFiltering(procSysNet string) error {
	there := filepath.Join(procSysNet, "bridge")
	if _, err := os.Stat(there); errors.Is(err, fs.ErrNotExist) {
		if err := loadBridgeFilter(there); err != nil {
			return fmt.Errorf("packets between the ports of a bridge cannot be filtered without the kernel's module br_netfilter; "+
				"load it on the host (modprobe br_netfilter): %w", err)
		}
	}
	for _, name := range bridgeSettings {
		if err := write(setting(procSysNet, name), "1"); err != nil {
			return fmt.Errorf("filtering packets between the ports of a bridge: %w", err)
		}
	}
	return nil
}

var bridgeSettings = []string{"net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"}

// Unfiltered are the settings that BridgeFiltering would change, as they are now and as sysctl.conf says it. Without the module, nothing is
// filtered.
func Unfiltered(procSysNet string) (out []string, err error) {
	for _, name := range bridgeSettings {
		have, err := os.ReadFile(setting(procSysNet, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		if value := strings.TrimSpace(string(have)); value != "1" {
			out = append(out, name+"="+cmp.Or(value, "0"))
		}
	}
	return out, nil
}

// PutBack what Unfiltered has said, where it was changed and is as BridgeFiltering left it.
func PutBack(procSysNet string, found []string) error {
	var errs []error
	for _, f := range found {
		name, value, ok := strings.Cut(f, "=")
		if !ok || !slices.Contains(bridgeSettings, name) {
			errs = append(errs, fmt.Errorf("%q is no setting of ours: it is left as it is", f))
			continue
		}
		path := setting(procSysNet, name)
		have, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(have)) == "1" {
			err = write(path, value)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // without the module there is nothing to put back
			errs = append(errs, fmt.Errorf("putting %s back: %w", f, err))
		}
	}
	return errors.Join(errs...)
}

// setting is the file of a setting of net.
func setting(procSysNet, name string) string {
	return filepath.Join(procSysNet, strings.ReplaceAll(strings.TrimPrefix(name, "net."), ".", "/"))
}

func loadBridgeFilter(there string) error {
	if out, err := exec.Command("modprobe", "br_netfilter").CombinedOutput(); err != nil {
		return fmt.Errorf("loading it: %w %s", err, strings.TrimSpace(string(out)))
	}
	_, err := os.Stat(there)
	return err
}

// write only what is not there already, for a container may see its host's settings and not write them.
func write(setting, value string) error {
	have, err := os.ReadFile(setting)
	if err != nil || strings.TrimSpace(string(have)) == value {
		return err
	}
	return os.WriteFile(setting, []byte(value), 0o600)
}
