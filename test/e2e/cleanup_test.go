//go:build e2e

package e2e

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tierwall/tierwall/test/calico"
	"github.com/tierwall/tierwall/test/kube"
)

// machineRoot is the root that a node's leftovers are in: its own /etc is this machine's. Programs are this machine's.
const machineRoot = "/var/lib/machine"

const makeRoot = `
for d in usr/bin usr/sbin usr/lib usr/lib64 usr/share dev proc sys; do [ -d /$d ] || continue; mkdir -p $ROOT/$d; mount --rbind /$d $ROOT/$d; mount --make-rprivate $ROOT/$d; done
for d in bin sbin lib lib64; do [ ! -L /$d ] || ln -s $(readlink /$d) $ROOT/$d; done
mkdir -p $ROOT/run $ROOT/etc/cni/net.d $ROOT/opt/cni/bin $ROOT/var/lib $ROOT/var/log
for p in iptables-legacy ip6tables-legacy iptables-nft ip6tables-nft; do for t in filter nat mangle raw; do for c in INPUT FORWARD OUTPUT PREROUTING POSTROUTING; do
	$p -t $t -A $c -j ACCEPT 2>/dev/null && $p -t $t -D $c -j ACCEPT || true
done; done; done
`

// ends runs tierctl, which must end with a status, and gives what it said.
func (t *test) ends(status int, args ...string) string {
	t.Helper()
	out, err := said(t.Command(t.Context(), t.tierctl, append(args, "--datastore", "kubernetes:"+t.Kubeconfig)...))
	var exit *exec.ExitError
	if have := 0; err != nil && !errors.As(err, &exit) || exit != nil && exit.ExitCode() != status || exit == nil && status != have {
		t.Fatalf("tierctl %s: %v, want exit status %d\n%s", strings.Join(args, " "), err, status, out)
	}
	return out
}

// onNode runs a script there.
func (t *test) onNode(n *kube.Node, script string) string {
	t.Helper()
	return t.command(n.Command(t.Context(), "sh", "-ec", "export ROOT="+machineRoot+" ADDRESS="+n.Addrs[0].String()+" NEIGHBOUR=172.31.0.254\n"+script), "")
}

// network of a node, without what comes and goes with pods.
func (t *test) network(n *kube.Node) string {
	t.Helper()
	return t.othersRules(n) + t.onNode(n, "ip rule; ip -6 rule; ip route show table all proto 80; ip -6 route show table all proto 80; ipset list -n; ip -o link show type vxlan; "+
		"cd $ROOT; find etc opt run var ! -path 'var/lib/tierwall*' ! -name xtables.lock | sort")
}

// What real commands have left on both nodes closes the pods that came later. A Job on each node says what there is, is refused while Calico is there, removes it, and
// puts it back; what kube-proxy and Tierwall have stays.
func TestCleanupNodes(t *testing.T) {
	s := begin(t)
	s.apply(namespace("tidy") + pod("tidy", "a", n1, "x=z") + pod("tidy", "b", n2, "x=z"))
	pods := s.running("tidy")
	ways := []flow{{"tidy/a", "tcp", []string{"10.96.0.1"}, "443", answered}, {"tidy/b", "tcp", []string{"10.96.0.1"}, "443", answered}, opens("tidy/a", pods["b"]...), opens("tidy/b", pods["a"]...)}
	shut := []flow{shuts("tidy/a", pods["b"]...), shuts("tidy/b", pods["a"]...)}
	clean, full := map[*kube.Node]string{}, map[*kube.Node]string{}
	for i, n := range s.Nodes {
		s.onNode(n, makeRoot)
		t.Cleanup(func() {
			_ = n.Command(context.Background(), "sh", "-c", "for d in "+machineRoot+"/usr/* "+machineRoot+"/dev "+machineRoot+"/proc "+machineRoot+"/sys; do umount -R -l $d; done").Run()
		})
		clean[n] = s.network(n)
		s.onNode(n, "PODS="+[]string{"cni", "veth"}[i]+"\n"+calico.Left+calico.LeftFiles+calico.LeftPlugin)
		full[n] = s.network(n)
	}
	s.expect("left", shut...)

	node := []string{"cleanup", "node", "--root", machineRoot, "--of", "calico", "--of", "kube-router", "--of", "azure-npm", "--nodes"}
	clean1 := func(status int, more ...string) string {
		t.Helper()
		return s.ends(status, append(append([]string{}, node...), more...)...)
	}
	out := clean1(0, "all")
	if strings.Count(out, "would be removed") != 2 || !strings.Contains(out, "n2 ") {
		t.Errorf("a look: %s", out)
	}
	t.Logf("a look:\n%s", out)
	s.now("looked at", shut...)

	s.apply(pod("tidy", "calico-node", n1, "k8s-app=calico-node"))
	s.running("tidy")
	if out := clean1(4, "n1", "--yes"); !strings.Contains(out, "pod tidy/calico-node is still there") {
		t.Errorf("refused: %s", out)
	}
	s.kubectl("-n", "tidy", "delete", "pod", "calico-node", "--now")
	if out := clean1(5, "n1", "--yes", "--image", "tierwall.test/none:1", "--timeout", "4s"); !strings.Contains(out, "it has not ended in time: its pod tierwall-cleanup-n1-") {
		t.Errorf("an image that is not there: %s", out)
	}
	clean1(1, "n1,n7", "--yes")
	s.now("not removed", shut...)
	for _, n := range s.Nodes {
		if diff := cmp.Diff(full[n], s.network(n)); diff != "" {
			t.Errorf("node %s is changed: %s", n.Name, diff)
		}
	}

	if out := clean1(0, "all", "--yes", "-o", "json"); strings.Count(out, `"removed": true`) != 2 {
		t.Errorf("removed: %s", out)
	}
	s.expect("removed", ways...)
	for _, n := range s.Nodes {
		if diff := cmp.Diff(clean[n], s.network(n)); diff != "" {
			t.Errorf("node %s is not as it was: %s", n.Name, diff)
		}
		s.onNode(n, "nft list table inet tierwall >/dev/null; ls $ROOT/var/lib/tierwall/cleanup/*/restore.sh")
	}
	if out := clean1(0, "all", "--yes"); strings.Count(out, "clean") != 2 {
		t.Errorf("again: %s", out)
	}
	s.eventually("no Job is left", func() bool {
		return s.kubectl("-n", "tierwall-system", "get", "jobs,pods", "-l", "app.kubernetes.io/component=cleanup", "-o", "name") == ""
	})

	clean1(0, "n2", "--restore", "--yes")
	s.expect("put back on one", shuts("tidy/b", pods["a"]...))
	clean1(0, "n2", "--yes")
	s.expect("and removed again", ways...)
}
