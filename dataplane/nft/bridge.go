package nft

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
)

// Packets between the ports of one bridge go from port to port, past the forward hook and all policy, unless the bridge hands them
// up. Pods of one node that hang on a bridge are such ports.
const bridgeSettings = "/proc/sys/net/bridge"

// BridgeFiltering makes packets between the ports of any bridge of the caller's network namespace pass the forward hook, where they
// do not already.
func BridgeFiltering() error {
	if _, err := os.Stat(bridgeSettings); errors.Is(err, fs.ErrNotExist) {
		if err := loadBridgeFilter(); err != nil {
			return fmt.Errorf("packets between the ports of a bridge cannot be filtered without the kernel's module br_netfilter; "+
				"load it on the host (modprobe br_netfilter): %w", err)
		}
	}
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		if err := switchOn(bridgeSettings + "/" + name); err != nil {
			return fmt.Errorf("filtering packets between the ports of a bridge: %w", err)
		}
	}
	return nil
}

func loadBridgeFilter() error {
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
