package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/yaml"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

func nodeDiagsCommand() *cli.Command {
	return &cli.Command{
		Name: "diags", Usage: "all that helps to understand this machine, in one archive", UsageText: "tierctl node diags [--log-dir DIR] [-o FILE]",
		Description: "The table and whole nftables, interfaces, routes, settings of the kernel, the agent's health, metrics and journal, what the node remembers, its\n" +
			"report. What looks like a token, a password or a key is left out; read it all the same before you give it away. Exit status 3: the archive\n" +
			"is there, and something could not be had.",
		Flags: []cli.Flag{nodeNameFlag(), stateFlag(), archiveFlag(),
			&cli.StringFlag{Name: "log-dir", Usage: "`DIR` of logs to add (default: none; the agent's own are in the journal, or kubectl logs has them)"}, datastoreFlag()},
		Action: nodeDiags,
	}
}

func nodeDiags(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	node, err := nodeName(c)
	if err != nil {
		return err
	}
	parts := []part{
		{"version.txt", func(context.Context) ([]byte, error) { return versionsText(), nil }},
		{"status.json", func(context.Context) ([]byte, error) { return machineText(c) }},
		{"checksystem.txt", func(context.Context) ([]byte, error) { return systemText(c) }},
		{"nft/tierwall.nft", ofTable(tableText)},
		{"nft/counters.txt", ofTable(counterText)},
		{"nft/ruleset.nft", needed("nft", "-a", "list", "ruleset")},
		{"nft/iptables.txt", ifThere("iptables-save", "-c")},
		{"nft/ip6tables.txt", ifThere("ip6tables-save", "-c")},
		{"network/interfaces.json", func(context.Context) ([]byte, error) { return interfacesText(c.Context) }},
		{"network/ip-address.txt", ifThere("ip", "-d", "address")},
		{"network/ip-route.txt", ifThere("ip", "route", "show", "table", "all")},
		{"network/ip-rule.txt", ifThere("ip", "rule")},
		{"network/proc-route.txt", files("/proc/net/route", "/proc/net/ipv6_route")},
		{"network/sysctl.txt", files(sysctls...)},
		{"network/conntrack.txt", files("/proc/sys/net/netfilter/nf_conntrack_count", "/proc/sys/net/netfilter/nf_conntrack_max", "/proc/net/stat/nf_conntrack")},
		{"agent/health.txt", agentText("/healthz", "/readyz")},
		{"agent/metrics.txt", agentText("/metrics")},
		{"agent/journal.txt", ifThere("journalctl", "--no-pager", "-n", "20000", "-u", "tierwall.service", "-u", bootUnit)},
		{"report.yaml", func(ctx context.Context) ([]byte, error) { return reportText(ctx, c, node) }},
		{"snapshot.json", func(ctx context.Context) ([]byte, error) { return snapshotText(ctx, c.String("state")) }},
	}
	logs, err := logFiles(c.String("log-dir"))
	if err != nil {
		return err
	}
	return writeArchive(c, "node-"+node, append(parts, logs...), 4)
}

func versionsText() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "tierctl %s (%s, %s/%s)\nkernel %s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH, kernelVersion())
	for _, path := range []string{"/etc/os-release", "/proc/version"} {
		if text, err := os.ReadFile(path); err == nil {
			fmt.Fprintf(&b, "\n%s\n%s", path, text)
		}
	}
	return b.Bytes()
}

func machineText(c *cli.Context) ([]byte, error) {
	m, err := lookAtMachine(c)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = m.write(&b, "json")
	for _, text := range m.Unseen {
		err = errors.Join(err, errors.New(text))
	}
	return b.Bytes(), err
}

func systemText(c *cli.Context) ([]byte, error) {
	features, err := nft.Features()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, f := range features {
		fmt.Fprintf(&b, "%s: %s (%s)\n", f.Name, presence(&b, f), f.For)
	}
	return b.Bytes(), nil
}

// ofTable makes a part of the kernel's table.
func ofTable(text func(*nft.Conn) (string, error)) func(context.Context) ([]byte, error) {
	return func(context.Context) ([]byte, error) {
		k, err := nft.Open(ruleset.DefaultTable)
		if err != nil {
			return nil, err
		}
		defer k.Close()
		out, err := text(k)
		return []byte(out), err
	}
}

func tableText(k *nft.Conn) (string, error) {
	t, err := k.Read()
	if err != nil || t == nil {
		return "# there is no such table\n", err
	}
	return t.String(), nil
}

func counterText(k *nft.Conn) (string, error) {
	counts, err := k.Counters()
	var lines []string
	for id, n := range counts {
		lines = append(lines, fmt.Sprintf("%12d packets %14d bytes  %s\n", n.Packets, n.Bytes, id))
	}
	slices.Sort(lines)
	return strings.Join(lines, ""), err
}

// needed is what a program says.
func needed(program string, args ...string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		cmd := exec.CommandContext(ctx, program, args...)
		out := &bounded{most: 2 * partSize}
		var errs bounded
		errs.most = 4096
		cmd.Stdout, cmd.Stderr = out, &errs
		if err := cmd.Run(); err != nil {
			return out.Bytes(), fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
		}
		return out.Bytes(), nil
	}
}

// ifThere is needed for what is not everywhere.
func ifThere(program string, args ...string) func(context.Context) ([]byte, error) {
	if _, err := exec.LookPath(program); err != nil {
		return func(context.Context) ([]byte, error) { return nil, nil }
	}
	return needed(program, args...)
}

// bounded keeps the beginning of what is written, so that nobody fills the memory.
type bounded struct {
	bytes.Buffer
	most int
}

func (b *bounded) Write(text []byte) (int, error) {
	b.Buffer.Write(text[:min(len(text), max(0, b.most-b.Len()))])
	return len(text), nil
}

var sysctls = []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/*/rp_filter", "/proc/sys/net/ipv4/conf/*/forwarding",
	"/proc/sys/net/ipv6/conf/*/forwarding", "/proc/sys/net/ipv6/conf/*/disable_ipv6", "/proc/sys/net/bridge/*", "/proc/sys/net/netfilter/nf_conntrack_*"}

// files, each behind its name; what is not there is left out.
func files(patterns ...string) func(context.Context) ([]byte, error) {
	return func(context.Context) ([]byte, error) {
		var b bytes.Buffer
		var errs []error
		for _, pattern := range patterns {
			found, err := filepath.Glob(pattern)
			errs = append(errs, err)
			for _, path := range found {
				text, err := os.ReadFile(path)
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					errs = append(errs, err)
					continue
				}
				sep := " = "
				if bytes.IndexByte(bytes.TrimSpace(text), '\n') >= 0 {
					sep = "\n"
				}
				fmt.Fprintf(&b, "%s%s%s\n", path, sep, bytes.TrimRight(text, "\n"))
			}
		}
		return b.Bytes(), errors.Join(errs...)
	}
}

func interfacesText(ctx context.Context) ([]byte, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	known, err := nft.Interfaces(ctx)
	if err != nil {
		return nil, err
	}
	return json.MarshalIndent(map[string]any{"all": all, "asTheAgentKnowsThem": <-known}, "", "  ")
}

// agentText is what the agent that has the table says at an address; nothing where it does not listen.
func agentText(paths ...string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		held, err := holder()
		if err != nil || held.Process == 0 {
			return nil, err
		}
		p := processOf(held.Process)
		p.ask(ctx)
		var b bytes.Buffer
		for _, path := range paths {
			if p.Address == "" {
				break
			}
			text, err := fetchText(ctx, "http://"+p.Address+path)
			if err != nil {
				return b.Bytes(), err
			}
			if len(paths) > 1 {
				fmt.Fprintf(&b, "%s: ", path)
			}
			b.Write(text)
		}
		return b.Bytes(), nil
	}
}

func reportText(ctx context.Context, c *cli.Context, node string) ([]byte, error) {
	s, err := openStore(c)
	if err != nil {
		return nil, err
	}
	obj, err := s.Get(ctx, v3.Ref{Kind: "NodeReport", Name: node})
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(obj.(*v1alpha1.NodeReport))
}

// snapshotText says how much the node remembers, and of which node.
func snapshotText(ctx context.Context, state string) ([]byte, error) {
	file := store.OpenBolt(filepath.Join(state, snapshotName)).Existing()
	var kept controllers.Kept
	err := file.Kept(ctx, &kept)
	if errors.Is(err, store.ErrNoStore) {
		return nil, nil
	}
	counts := map[string]int{}
	for _, k := range store.Kinds() {
		objs, err := file.List(ctx, k.Kind, "")
		if err != nil {
			return nil, err
		}
		counts[k.Kind] = len(objs)
	}
	text, failed := json.MarshalIndent(map[string]any{"kept": kept, "objects": counts}, "", "  ")
	return text, errors.Join(err, failed)
}

// logFiles of a folder, not of those in it.
func logFiles(dir string) (out []part, err error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("--log-dir: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		out = append(out, part{"logs/" + e.Name(), func(context.Context) ([]byte, error) { return fileTail(filepath.Join(dir, e.Name())) }})
	}
	return out, nil
}

func fileTail(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-2*partSize)
	text := make([]byte, info.Size()-from)
	n, err := f.ReadAt(text, from)
	if n < len(text) && err != nil { // it was cut meanwhile
		return text[:n], nil
	}
	return text, nil
}
