package nft

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ProcSysNet is where Linux has its settings. A container has a copy of its own that it may only read; its host's may be mounted elsewhere.
const ProcSysNet = "/proc/sys/net"

// BridgeFiltering makes packets between the ports of any bridge of the caller's network namespace pass the forward hook, where they
// do not already: they go from port to port, past all policy, unless the bridge hands them up, and pods of one node that hang on a bridge
// are such ports. procSysNet is ProcSysNet, or where it is mounted.
func BridgeFiltering(procSysNet string) error {
	bridgeSettings := filepath.Join(procSysNet, "bridge")
	if _, err := os.Stat(bridgeSettings); errors.Is(err, fs.ErrNotExist) {
		if err := loadBridgeFilter(bridgeSettings); err != nil {
			return fmt.Errorf("packets between the ports of a bridge cannot be filtered without the kernel's module br_netfilter; "+
				"load it on the host (modprobe br_netfilter): %w", err)
		}
	}
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		if err := switchOn(filepath.Join(bridgeSettings, name)); err != nil {
			return fmt.Errorf("filtering packets between the ports of a bridge: %w", err)
		}
	}
	return nil
}

func loadBridgeFilter(bridgeSettings string) error {
	if out, err := exec.Command("modprobe", "br_netfilter").CombinedOutput(); err != nil {
		return fmt.Errorf("loading it: %w %s", err, strings.TrimSpace(string(out)))
	}
	_, err := os.Stat(bridgeSettings)
	return err
}

// switchOn writes only what is not there already, for a container may see its host's settings and not write them.
func switchOn(setting string) error {
	have, err := os.ReadFile(setting)
	if err != nil || strings.TrimSpace(string(have)) == "1" {
		return err
	}
	return os.WriteFile(setting, []byte("1"), 0o600)
}
