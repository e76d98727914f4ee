package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/tierwall/tierwall/config/systemd"
	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

func bootCommand() *cli.Command {
	return &cli.Command{
		Name: "boot", Usage: "enforce what this node enforced last, before its network is up", UsageText: "tierctl boot [--install]",
		Description: "Programs the kernel with what the node's agent remembers, and ends. A table that is there already stays as it is.\n" +
			"--install has systemd do so when the machine starts: it writes " + bootUnit + " with the settings of the present environment,\n" +
			"and copies this program beside the snapshot. The agent's --remove takes both away again.",
		Flags: []cli.Flag{
			nodeNameFlag(), stateFlag(), unitsFlag(), endpointToHostFlag(),
			&cli.BoolFlag{Name: "install", Usage: "have systemd do it when the machine starts"},
			&cli.BoolFlag{Name: "best-effort", Usage: "with --install: where that cannot be, say so and exit with status 0"},
		},
		Action: boot,
	}
}

const (
	snapshotName = "snapshot.db"
	rescueName   = "rescue"
	bootUnit     = "tierwall-boot.service"
)

func stateFlag() cli.Flag {
	return &cli.StringFlag{Name: "state", Value: systemd.State, EnvVars: []string{"TIERWALL_STATE"},
		Usage: "`FOLDER` of what the node remembers: " + snapshotName + ", what it enforces in a cluster; " + rescueName + ", see --rescue; \"\" for none"}
}

func unitsFlag() cli.Flag {
	return &cli.StringFlag{Name: "units", Value: "/etc/systemd/system", EnvVars: []string{"TIERWALL_UNITS"}, Usage: "`FOLDER` of systemd's units"}
}

func nodeNameFlag() cli.Flag {
	return &cli.StringFlag{Name: "node", Usage: "`NODE` whose endpoints to guard (default: the host's name)", EnvVars: []string{"NODE_NAME"}}
}

// nodeName is the flag's, or the host's.
func nodeName(c *cli.Context) (string, error) {
	if name := c.String("node"); name != "" {
		return name, nil
	}
	return hostname()
}

func boot(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	u := bootFiles{state: c.String("state"), units: c.String("units")}
	if u.state == "" {
		return usagef("boot needs --state")
	}
	if c.Bool("install") {
		settings, err := bootSettings(c)
		if err != nil {
			return err
		}
		err = u.install(settings)
		if err != nil && c.Bool("best-effort") {
			fmt.Fprintf(c.App.ErrWriter, "tierctl: this node will not enforce before its API server answers: %v\n", err)
			return nil
		}
		return err
	}
	return enforceRemembered(c, u.state)
}

// enforceRemembered programs what is remembered, once, unless the kernel has a table.
func enforceRemembered(c *cli.Context, state string) error {
	kernel, err := nft.Open(ruleset.DefaultTable)
	if err != nil {
		return fmt.Errorf("opening the kernel's tables: %w", err)
	}
	defer kernel.Close()
	if has, err := kernel.Has(); err != nil {
		return err
	} else if has {
		fmt.Fprintf(c.App.Writer, "table %s is in the kernel already, and stays as it is\n", ruleset.DefaultTable)
		return nil
	}
	return programRemembered(c, kernel, state)
}

// bootSettings are the variables by which the table is what it is.
func bootSettings(c *cli.Context) ([]string, error) {
	node, err := nodeName(c)
	if err != nil {
		return nil, err
	}
	if _, err := policyOptions(c); err != nil { // it would be refused when the machine starts
		return nil, err
	}
	out := []string{"NODE_NAME=" + node}
	const toHost = "FELIX_DEFAULTENDPOINTTOHOSTACTION="
	action := c.String("default-endpoint-to-host-action")
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "FELIX_") && (action == "" || !strings.HasPrefix(strings.ToUpper(v), toHost)) {
			out = append(out, v)
		}
	}
	if action != "" {
		out = append(out, toHost+action)
	}
	return out, nil
}

// bootFiles are where what starts with the machine is.
type bootFiles struct{ state, units string }

func (u bootFiles) program() string { return filepath.Join(u.state, "bin", "tierctl") }
func (u bootFiles) unit() string    { return filepath.Join(u.units, bootUnit) }
func (u bootFiles) environment() string {
	return filepath.Join(u.units, bootUnit+".d", "environment.conf")
}
func (u bootFiles) wanted() string { return filepath.Join(u.units, "sysinit.target.wants", bootUnit) }

// install the program, the unit, its environment and, last, what makes systemd start it.
func (u bootFiles) install(environment []string) error {
	if info, err := os.Stat(u.units); err != nil || !info.IsDir() {
		return fmt.Errorf("installing %s: %s is no folder: systemd does not start this machine", bootUnit, u.units)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("installing %s: %w", bootUnit, err)
	}
	text := strings.ReplaceAll(systemd.Boot, systemd.State, u.state)
	if err := errors.Join(copyFile(self, u.program()), writeFile(u.unit(), []byte(text), 0o644), writeFile(u.environment(), dropIn(environment), 0o644)); err != nil {
		return fmt.Errorf("installing %s: %w", bootUnit, err)
	}
	if err := os.MkdirAll(filepath.Dir(u.wanted()), 0o755); err != nil {
		return fmt.Errorf("installing %s: %w", bootUnit, err)
	}
	if err := os.Symlink("../"+bootUnit, u.wanted()); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("installing %s: %w", bootUnit, err)
	}
	return nil
}

// remove everything, and what is remembered.
func (u bootFiles) remove() error {
	if u.state == "" {
		return nil
	}
	var errs []error
	for _, path := range []string{u.wanted(), u.environment(), filepath.Dir(u.environment()), u.unit(), u.program(), filepath.Dir(u.program()),
		filepath.Join(u.state, snapshotName), filepath.Join(u.state, rescueName)} {
		err := os.Remove(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EBUSY) { // what else is there is somebody's
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing what starts with the machine: %w", err)
	}
	return nil
}

// dropIn is variables, as a drop-in of the unit.
func dropIn(environment []string) []byte {
	var out bytes.Buffer
	out.WriteString("# The agent's settings, written when it was installed.\n[Service]\n")
	for _, v := range slices.Sorted(slices.Values(environment)) {
		fmt.Fprintf(&out, "Environment=%s\n", strings.ReplaceAll(strconv.Quote(v), "%", "%%"))
	}
	return out.Bytes()
}

// writeFile replaces a file as a whole, and makes its folder.
func writeFile(path string, text []byte, mode fs.FileMode) error {
	return replaceFile(path, bytes.NewReader(text), mode)
}

func copyFile(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return replaceFile(to, f, 0o755)
}

func replaceFile(path string, from io.Reader, mode fs.FileMode) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // nothing is there after it was renamed
	_, err = io.Copy(f, from)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
