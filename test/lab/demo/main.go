// Command demo plays the walk-throughs that operators know, with tierctl, agents and real packets in a lab of network
// namespaces. Where there can be no namespaces it plays them by trace alone, says so, and ends with exit status 3.
package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/lab"
	"github.com/tierwall/tierwall/test/scenario"
)

//go:embed walkthroughs
var walkthroughs embed.FS

func main() {
	tierctl := flag.String("tierctl", "bin/tierctl", "`PATH` of tierctl")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status, err := run(ctx, *tierctl, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
	}
	os.Exit(status)
}

// demo is one run.
type demo struct {
	lab     *lab.Lab // nil when no packet can be sent
	tierctl lab.Tierctl
	out     io.Writer
	objects []client.Object // of the cluster
	index   *policy.Index

	count, wrong int
}

func run(ctx context.Context, tierctl string, out io.Writer) (status int, err error) {
	withoutPackets := lab.Enter()
	if withoutPackets != nil && !errors.Is(withoutPackets, lab.ErrNoNamespaces) {
		return 1, withoutPackets
	}
	dir, err := os.MkdirTemp("", "tierwall-demo-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	d := &demo{tierctl: lab.Tierctl{Path: tierctl, Datastore: "bolt:" + filepath.Join(dir, "store.db")}, out: out}
	start := time.Now()
	if err := d.play(ctx, withoutPackets == nil); err != nil {
		return 1, err
	}
	fmt.Fprintf(out, "\n%d probes, %d not as expected, in %s.\n", d.count, d.wrong, time.Since(start).Round(100*time.Millisecond))
	switch {
	case d.wrong > 0:
		return 1, nil
	case withoutPackets != nil:
		fmt.Fprintf(out, "NO PACKET WAS SENT: %v.\nWhat you saw is what trace says, not what a kernel did.\n", withoutPackets)
		return 3, nil
	}
	fmt.Fprintln(out, "Every probe was a real packet, and every namespace is gone again.")
	return 0, nil
}

func (d *demo) play(ctx context.Context, packets bool) error {
	chapters, err := d.read()
	if err != nil {
		return err
	}
	revision, err := d.apply(ctx, d.objects)
	if err != nil {
		return err
	}
	if packets {
		if err := d.build(ctx, revision); err != nil {
			return err
		}
		defer d.lab.Close()
	}
	for _, c := range chapters {
		fmt.Fprintf(d.out, "\n%s\n", strings.TrimSpace(string(c.Comment)))
		for _, f := range c.Files {
			if err := d.step(ctx, f.Name, string(f.Data)); err != nil {
				return fmt.Errorf("%s: %s: %w", strings.TrimSpace(string(c.Comment)), f.Name, err)
			}
		}
	}
	if !packets {
		return d.showTable(ctx)
	}
	return nil
}

func (d *demo) read() (chapters []*txtar.Archive, err error) {
	short, err := walkthroughs.ReadFile("walkthroughs/cluster.txt")
	if err != nil {
		return nil, err
	}
	if d.objects, err = scenario.Short(string(short)); err != nil {
		return nil, err
	}
	d.index = policy.NewIndex("", policy.Options{})
	for _, o := range d.objects {
		if err := d.index.Set(o); err != nil {
			return nil, err
		}
	}
	names, err := fs.Glob(walkthroughs, "walkthroughs/*.txtar")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		text, err := walkthroughs.ReadFile(name)
		if err != nil {
			return nil, err
		}
		chapters = append(chapters, txtar.Parse(text))
	}
	return chapters, nil
}

func (d *demo) apply(ctx context.Context, objs []client.Object) (revision string, err error) {
	list, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": objs})
	if err != nil {
		return "", err
	}
	return d.tierctl.Write(ctx, string(list), "apply", "-f", "-")
}

// build makes the lab. The outsiders of all probes live outside from the beginning.
func (d *demo) build(ctx context.Context, revision string) (err error) {
	var outsiders []policy.Flow
	for _, a := range []string{"203.0.113.10", "203.0.113.77"} {
		outsiders = append(outsiders, policy.Flow{Src: netip.MustParseAddr(a), Dst: netip.MustParseAddr("198.51.100.7")})
	}
	if d.lab, err = lab.Build(lab.ClusterOf(d.index.Plan(), outsiders)); err != nil {
		return err
	}
	if err := d.lab.StartAgents(d.tierctl); err != nil {
		return errors.Join(err, d.lab.Close())
	}
	return d.enforced(ctx, revision)
}

func (d *demo) enforced(ctx context.Context, revision string) error {
	if d.lab == nil {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	return d.lab.WaitFor(ctx, revision)
}

func (d *demo) step(ctx context.Context, what, text string) error {
	switch what {
	case "say":
		fmt.Fprintf(d.out, "  %s\n", strings.TrimSpace(text))
		return nil
	case "apply":
		return d.change(ctx, text, "apply", "-f", "-")
	case "delete":
		return d.change(ctx, "", append([]string{"delete"}, strings.Fields(text)...)...)
	case "label":
		return d.label(ctx, strings.Fields(text))
	case "probes":
		return d.probe(ctx, text)
	}
	return errors.New("no such step")
}

func (d *demo) change(ctx context.Context, stdin string, args ...string) error {
	fmt.Fprintf(d.out, "  $ tierctl %s\n", strings.Join(args, " "))
	for line := range strings.Lines(stdin) {
		fmt.Fprintf(d.out, "      %s", line)
	}
	revision, err := d.tierctl.Write(ctx, stdin, args...)
	if err != nil {
		return err
	}
	return d.enforced(ctx, revision)
}

// label does what kubectl label does to a pod.
func (d *demo) label(ctx context.Context, words []string) error {
	if len(words) != 2 {
		return errors.New("expected NAMESPACE/POD KEY=VALUE")
	}
	key, value, _ := strings.Cut(words[1], "=")
	for _, o := range d.objects {
		if p, ok := o.(*corev1.Pod); ok && p.Namespace+"/"+p.Name == words[0] {
			p.Labels[key] = value
			fmt.Fprintf(d.out, "  the pod %s gets the label %s\n", words[0], words[1])
			revision, err := d.apply(ctx, []client.Object{p})
			if err != nil {
				return err
			}
			return d.enforced(ctx, revision)
		}
	}
	return fmt.Errorf("no pod %s", words[0])
}

// probe sends each flow, and prints what was expected, what was seen, and what decided.
func (d *demo) probe(ctx context.Context, text string) error {
	flows, err := scenario.ParseFlows(text)
	if err != nil {
		return err
	}
	seen, err := d.send(ctx, flows)
	if err != nil {
		return err
	}
	for i, f := range flows {
		v, err := d.trace(ctx, f)
		if err != nil {
			return err
		}
		how, have := "traced", v.Verdict
		if d.lab != nil {
			how, have = "seen", seen[i]
		}
		d.count++
		mark := "ok   "
		if have != f.Verdict.String() || v.Verdict != have {
			d.wrong++
			mark = "WRONG"
		}
		packet, _, _ := strings.Cut(f.Text, " : ")
		fmt.Fprintf(d.out, "    %s %-52s expected %-5s %s %-5s by %s\n", mark, packet, f.Verdict, how, have, v.by())
	}
	return nil
}

func (d *demo) send(ctx context.Context, flows []scenario.Flow) ([]string, error) {
	if d.lab == nil {
		return nil, nil
	}
	packets := make([]policy.Flow, len(flows))
	for i, f := range flows {
		var err error
		if packets[i], err = d.index.Flow(f.Spec); err != nil {
			return nil, err
		}
		packets[i].SrcPort = uint16(50000 + d.count + i) // a connection of its own
	}
	seen, err := d.lab.Send(ctx, packets, 700*time.Millisecond)
	out := make([]string, len(seen))
	for i, o := range seen {
		out[i] = o.String()
	}
	return out, err
}

// verdict is what trace says.
type verdict struct {
	Verdict         string
	Egress, Ingress *end
}

type end struct {
	Verdict, Tier, Policy, Why string
	Rule                       *int
}

func (d *demo) trace(ctx context.Context, f scenario.Flow) (v verdict, err error) {
	out, err := d.tierctl.Run(ctx, "", "trace", "--from", f.Spec.From, "--to", f.Spec.To, "--protocol", string(f.Spec.Protocol),
		"--port", fmt.Sprint(f.Spec.Port), "-o", "json")
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal(out, &v)
}

// by says which tier, policy and rule decided.
func (v verdict) by() string {
	j, direction := v.Ingress, "ingress"
	if v.Egress != nil && (j == nil || v.Egress.Verdict == "Deny") {
		j, direction = v.Egress, "egress"
	}
	if j == nil {
		return "no policy: neither end is guarded"
	}
	words := []string{direction}
	if j.Tier != "" {
		words = append(words, "tier "+j.Tier)
	}
	if j.Policy != "" {
		words = append(words, j.Policy)
	}
	if j.Rule != nil {
		words = append(words, fmt.Sprintf("rule %d", *j.Rule))
	} else {
		words = append(words, j.Why)
	}
	return strings.Join(words, ", ")
}

// showTable prints what an agent would have programmed.
func (d *demo) showTable(ctx context.Context) error {
	out, err := d.tierctl.Run(ctx, "", "plan", "--node", "n1", "--nft")
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\nWhat the agent of node n1 would program now (tierctl plan --node n1 --nft):\n%s", out)
	return nil
}
