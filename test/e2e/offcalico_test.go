//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tierwall/tierwall/test/calico"
	"github.com/tierwall/tierwall/test/kube"
)

// scripts are the ways off Calico as cli/off-calico.md has them, by what their first comment calls them.
func (t *test) scripts() map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(t.root, "cli", "off-calico.md"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)```sh\n(#!/bin/sh\n# ([a-z-]+\\.sh): .*?)```\n").FindAllStringSubmatch(string(text), -1) {
		out[m[2]] = m[1]
	}
	return out
}

// office is where somebody runs the scripts: a folder of his own with what is in his PATH. What is not ours or kubectl is a program that asks the
// test to play it.
type office struct {
	*test
	dir, path string
}

func (t *test) office() *office {
	t.Helper()
	components, err := kube.Components()
	if err != nil {
		t.Fatal(err)
	}
	o := &office{test: t, dir: t.TempDir()}
	bin := filepath.Join(o.dir, "bin")
	o.path = strings.Join([]string{bin, filepath.Dir(t.tierctl), components, os.Getenv("PATH")}, ":")
	o.file("bin/sudo", "#!/bin/sh\nexec \"$@\"\n")
	for _, n := range t.Nodes { // ssh NODE COMMAND…
		o.file("on-"+n.Name, "#!/bin/sh\n"+quoted(n.Command(context.Background(), "").Args[:len(n.Command(context.Background(), "").Args)-1])+" \"$@\"\n")
	}
	o.file("bin/ssh", "#!/bin/sh\nset -e\nnode=$1; shift\nexec "+o.dir+"/on-$node \"$@\"\n")
	return o
}

func quoted(args []string) string {
	var out []string
	for _, a := range args {
		out = append(out, "'"+strings.ReplaceAll(a, "'", `'\''`)+"'")
	}
	return strings.Join(out, " ")
}

func (o *office) file(name, text string) string {
	o.Helper()
	path := filepath.Join(o.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		o.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		o.Fatal(err)
	}
	return path
}

// plays a program of that name: it says to the test that it was called, and ends when the test has done what it does.
func (o *office) plays(name string, do func(args string) error) {
	o.Helper()
	called, done := filepath.Join(o.dir, name+".called"), filepath.Join(o.dir, name+".done")
	for _, fifo := range []string{called, done} {
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			o.Fatal(err)
		}
	}
	o.file("bin/"+name, fmt.Sprintf("#!/bin/sh\necho \"$@\" >%s\nexit \"$(cat %s)\"\n", called, done))
	go func() {
		for o.Context().Err() == nil {
			args, err := os.ReadFile(called)
			if err != nil || len(args) == 0 {
				return // the test has ended
			}
			status := "0"
			if err := do(strings.TrimSpace(string(args))); err != nil {
				o.Errorf("%s %s: %v", name, args, err)
				status = "1"
			}
			if err := os.WriteFile(done, []byte(status), 0o600); err != nil {
				return
			}
		}
	}()
	o.Cleanup(func() { // who waits for a call waits no more
		if f, err := os.OpenFile(called, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			_ = f.Close()
		}
	})
}

// run a script with sh.
func (o *office) run(script string, env ...string) (out string, err error) {
	o.Helper()
	cmd := o.Command(o.Context(), "sh", o.file("script.sh", script))
	cmd.Dir, cmd.Env = o.dir, append(o.env(), env...)
	return said(cmd)
}

func (o *office) env() []string {
	return []string{"PATH=" + o.path, "HOME=" + o.dir, "KUBECONFIG=" + o.Kubeconfig}
}

// rules on a node: how many lines each lister gives.
const countRules = `for c in "nft list ruleset" iptables-save ip6tables-save iptables-legacy-save "ipset list" "ip rule" "ip route show table all"; do echo "$c: $($c 2>/dev/null | wc -l)"; done`

// leave on the nodes what Calico would have left, and note how much is there then. On n2 a pod that comes later has no network until it is removed.
// Where the kernel has no legacy iptables, that is said and not left.
func (t *test) leave(lines map[string]string) error {
	for i, n := range t.Nodes {
		backends := "legacy nft"
		if out, err := said(n.Command(t.Context(), "iptables-legacy", "-L", "-n")); err != nil {
			t.Logf("no legacy iptables on this machine: %s", out)
			backends = "nft"
		}
		out, err := said(n.Command(t.Context(), "env", "BACKENDS="+backends, "ADDRESS="+n.Addrs[0].String(), "NEIGHBOUR="+t.Nodes[1-i].Addrs[0].String(),
			"PODS="+[]string{"cali", "veth"}[i], "ROOT=", "sh", "-ec", `KNOWN=$(ip -o link | sed -n "s/^[0-9]*: \(veth[^@:]*\).*/\1/p")`+"\n"+calico.Left+calico.LeftFiles))
		if err != nil {
			return fmt.Errorf("leaving Calico's rules on %s: %w\n%s", n.Name, err, out)
		}
		t.Cleanup(func() { // what is not Calico's the script leaves
			if out, err := said(n.Command(context.Background(), t.tierctl, "cleanup", "node", "--of", "kube-router", "--of", "azure-npm", "--yes")); err != nil {
				t.Errorf("the leftovers of others on %s: %v\n%s", n.Name, err, out)
			}
		})
		if lines[n.Name], err = said(n.Command(t.Context(), "sh", "-c", countRules)); err != nil {
			return err
		}
	}
	return nil
}

// way off Calico.
type way struct {
	script  string
	calico  calico.Calico
	command string // that removes Calico, as its own people say
	left    calico.Calico
	env     []string
	without string // a CRD that the operator does not know yet
}

var ways = []way{
	{script: "off-calico-aks.sh", command: "az", calico: calico.Calico{Way: calico.Operator, Objects: calico.Objects(500, 50)}, left: calico.Calico{Way: calico.AKS, Faults: calico.AllFaults},
		env: []string{"RESOURCE_GROUP=shop", "CLUSTER=shop"}},
	{script: "off-calico-operator.sh", command: "helm", without: "whiskers.operator.tigera.io", calico: calico.Calico{Way: calico.Operator, Objects: calico.Objects(30, 8)},
		left: calico.Calico{Way: calico.Operator, Gone: true, Faults: calico.DeadWebhook | calico.StaleAPIService | calico.StuckNamespaces | calico.Orphans}},
	{script: "off-calico-manifest.sh", calico: calico.Calico{Way: calico.Manifest, Objects: calico.Objects(30, 8)}},
}

// protecting is a policy of Calico's for the pods of these tests.
func protecting(namespace string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": map[string]any{"name": "tier-04.friends"},
		"spec": map[string]any{"tier": "tier-04", "order": 1.0, "selector": "app == 'server' && projectcalico.org/namespace == '" + namespace + "'", "types": []any{"Ingress"},
			"ingress": []any{map[string]any{"action": "Allow", "source": map[string]any{"selector": "role == 'friend'"}}}}}}
}

// Each script of cli/off-calico.md, word for word: what Calico's policies say is in force afterwards, by Tierwall; nothing of Calico's is in the
// cluster or on the nodes, whatever was wrong; and a second time there is nothing to do.
func TestOffCalico(t *testing.T) {
	s := begin(t)
	scripts := s.scripts()
	t.Cleanup(func() {
		args := []string{"delete", "--ignore-not-found", "--wait=false", "namespace"}
		for n := range calico.Teams {
			args = append(args, fmt.Sprintf("team-%d", n))
		}
		if out, err := said(s.Kubectl(context.Background(), args...)); err != nil {
			t.Errorf("taking namespaces away: %v\n%s", err, out)
		}
	})
	if len(scripts) != len(ways) {
		t.Errorf("%d scripts in the documentation, %d tested", len(scripts), len(ways))
	}
	for i, w := range ways {
		t.Run(strings.TrimSuffix(w.script, ".sh"), func(t *testing.T) { begin(t).goes(w, scripts[w.script], fmt.Sprintf("off-%d", i)) })
	}
}

func (t *test) goes(w way, script, space string) {
	t.Helper()
	if script == "" {
		t.Fatalf("the documentation has no %s", w.script)
	}
	t.apply(namespace(space) + pod(space, "server", n1, "app=server") + pod(space, "routed", n2, "app=server") + pod(space, "friend", n2, "role=friend") + pod(space, "stranger", n1, "role=x"))
	pods := t.running(space)
	to := slices.Concat(pods["server"], pods["routed"])
	w.calico.Image, w.calico.Args = "tierwall.test/pod:1", []string{"serve"}
	w.calico.Objects = append(slices.Clone(w.calico.Objects), protecting(space))
	o := t.office()
	t.Cleanup(func() {
		cmd := t.Command(context.Background(), t.tierctl, "migrate", "rollback", "--yes", "--abandon", "--datastore", "kubernetes")
		cmd.Env = o.env()
		if out, err := said(cmd); err != nil {
			t.Errorf("putting back what the cluster was: %v\n%s", err, out)
		}
	})
	if err := w.calico.Install(t.Context(), t.Config); err != nil {
		t.Fatal(err)
	}
	t.expect("nobody enforces", opens(space+"/stranger", to...), opens(space+"/friend", to...))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	operated := make(chan error, 1)
	go func() { operated <- w.calico.Operate(ctx, t.Config) }()
	if w.without != "" {
		t.kubectl("delete", "crd", w.without, "--timeout=60s")
	}
	before := map[string]string{}
	if w.command == "" {
		if err := t.leave(before); err != nil {
			t.Fatal(err)
		}
	} else {
		o.plays(w.command, func(string) error {
			return errors.Join(w.calico.Stop(ctx, t.Config), t.leave(before), w.left.Install(ctx, t.Config))
		})
	}
	begun := time.Now()
	out, err := o.run(script, w.env...)
	t.Logf("%s: %.1f s\n%s", w.script, time.Since(begun).Seconds(), tail(out, 40))
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-operated; err != nil && ctx.Err() == nil {
		t.Error(err)
	}
	for _, n := range t.Nodes {
		t.Logf("lines on %s before and after:\n%s", n.Name, beside(before[n.Name], t.command(n.Command(t.Context(), "sh", "-c", countRules), "")))
	}
	t.apply(pod(space, "late", n2, "role=x") + pod(space, "later", n2, "role=friend"))
	t.running(space)
	t.expect("off Calico", opens(space+"/friend", to...), opens(space+"/later", to...), shuts(space+"/stranger", to...), shuts(space+"/late", to...))
	if out, err := o.run(script, w.env...); err != nil || !strings.Contains(out, "nothing of Calico's is left") {
		t.Errorf("a second time: %v\n%s", err, out)
	}
}

func tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// beside puts the last words of one text's lines behind those of another's.
func beside(a, b string) string {
	after := strings.Split(strings.TrimSpace(b), "\n")
	var out strings.Builder
	for i, line := range strings.Split(strings.TrimSpace(a), "\n") {
		fmt.Fprintf(&out, "  %s → %s\n", line, after[i][strings.LastIndex(after[i], " ")+1:])
	}
	return out.String()
}
