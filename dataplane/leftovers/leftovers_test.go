package leftovers_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/leftovers"
	"github.com/tierwall/tierwall/test/calico"
	"github.com/tierwall/tierwall/test/lab"
)

var noNamespaces error

func TestMain(m *testing.M) {
	noNamespaces = lab.Enter()
	os.Exit(m.Run())
}

// onMachine runs f on a thread with a network namespace of its own, which is gone afterwards.
func onMachine(t *testing.T, f func(m *machine)) {
	t.Helper()
	lab.Need(t, noNamespaces)
	for _, program := range []string{"iptables-legacy-restore", "iptables-nft-restore", "ipset", "nft", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	done := make(chan any)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with its namespace
		defer func() { done <- recover() }()
		must(unix.Unshare(unix.CLONE_NEWNET))
		f(&machine{t, t.TempDir(), 0})
	}()
	if p := <-done; p != nil {
		t.Fatal(p)
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// machine is a network namespace, with a folder for its files.
type machine struct {
	t       *testing.T
	root    string
	backups int
}

func (m *machine) options() leftovers.Options {
	return leftovers.Options{Of: leftovers.Owners(), Root: m.root}
}

// sh runs a script of real commands, which must succeed.
func (m *machine) sh(script string) string {
	cmd := exec.Command("sh", "-ec", script)
	cmd.Env = append(os.Environ(), "ROOT="+m.root)
	out, err := cmd.CombinedOutput()
	if err != nil {
		panic(fmt.Sprintf("%.60q…: %v: %s", script, err, out))
	}
	return string(out)
}

func (m *machine) find(o leftovers.Options) *leftovers.Leftovers {
	l, err := leftovers.Find(context.Background(), o)
	must(err)
	return l
}

func (m *machine) remove(o leftovers.Options) {
	for _, s := range leftovers.Steps(o) {
		must(s.Do(context.Background()))
	}
}

// all that is on the machine, with counters, without what only tells when it was asked.
func (m *machine) all() string {
	text := m.sh(`for v in legacy nft; do for p in iptables ip6tables; do echo "== $p $v"; $p-$v-save -c 2>/dev/null; done; done
		echo == nft; nft list ruleset; echo == sets; ipset save; echo == routes; ip route show table all; ip -6 route show table all
		echo == rules; ip rule; ip -6 rule; echo == links; ip -o link; echo == files; cd $ROOT; find etc opt run var -path var/lib/tierwall -prune -o -print | sort`)
	return policyCounters.ReplaceAllString(changing.ReplaceAllString(text, ""), "$1")
}

var changing = regexp.MustCompile(`(?m)^#.*\n| initval \S+|expires \S+|\n*local \S+ .*|\n*multicast .*|\n*anycast .*|^\d+: |@\S+|^ff00.*\n|link/ether \S+`)

// policyCounters of the kernel's own chains are set to zero by iptables-legacy-restore.
var policyCounters = regexp.MustCompile(`(?m)^(:\S+ \S+) \[\d+:\d+\]$`)

// What others have on the machine: beside the leftovers, in the same tables, before and behind them.
const foreign = `
echo 1 >/proc/sys/net/ipv6/conf/default/addr_gen_mode
for v in legacy nft; do for p in iptables ip6tables; do
	a=10.7.0.1; [ $p = iptables ] || a=fd00::7
	$p-$v-restore -c <<-END
		*filter
		:INPUT ACCEPT [7:700]
		:KUBE-FORWARD - [0:0]
		:KUBE-FIREWALL - [0:0]
		:DOCKER-USER - [0:0]
		:calico-mine - [0:0]
		[1:100] -A INPUT -j KUBE-FIREWALL
		[2:200] -A FORWARD -s $a -m comment --comment "mine: \"cali:\" is not at its beginning" -j ACCEPT
		[3:300] -A FORWARD -j KUBE-FORWARD
		[4:400] -A FORWARD -s $a -j calico-mine
		[5:500] -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
		COMMIT
		*nat
		:KUBE-SERVICES - [0:0]
		[6:600] -A PREROUTING -j KUBE-SERVICES
		[7:700] -A POSTROUTING -s $a -j MASQUERADE
		COMMIT
		*mangle
		[8:800] -A PREROUTING -s $a -j MARK --set-xmark 0x1/0x1
		COMMIT
		*raw
		COMMIT
	END
done; done
nft -f - <<END
table inet tierwall { chain cali-FORWARD { tcp dport 1 counter drop comment "cali:not Calico's, for the table is another's"; }; }
table ip kube-proxy { chain services { counter accept; }; }
END
ipset create cali-mine hash:net
ipset create other hash:net
ip link add eth0 type veth peer name eth1; ip link set eth0 up; ip link set eth1 up; ip address add 192.0.2.1/24 dev eth0; ip link set lo up
ip route add 10.8.0.0/16 via 192.0.2.2 proto bird
ip route add 10.9.0.0/16 via 192.0.2.2 proto static
ip rule add fwmark 0x1 lookup 7 priority 98; ip route add default via 192.0.2.2 table 7
ip link add vxlan0 type vxlan id 7 dstport 4789 local 192.0.2.1
mkdir -p $ROOT/etc/cni/net.d $ROOT/opt/cni/bin $ROOT/var/lib/cni $ROOT/var/log $ROOT/run; echo '{"type":"azure-vnet"}' >$ROOT/etc/cni/net.d/20-azure.conflist; echo x >$ROOT/opt/cni/bin/host-local
`

// What Calico, kube-router and Azure NPM leave.
const left = calico.Left + calico.LeftFiles + calico.LeftPlugin + `
ip -6 route add blackhole fd01::/122 proto 80
ip -6 route add fd02::/122 dev eth0 proto 80
ip route add 10.1.5.0/26 proto 80 nexthop via 192.0.2.2 dev eth0 weight 2 nexthop via 192.0.2.3 dev eth0 onlink
ip address add 10.1.1.1/32 dev vxlan.calico
`

// emptyChains are what the foreign rules' tables had anyway: leftovers' removal leaves the kernel's own chains that they were in.
const withAllTables = `
for p in iptables ip6tables; do for t in filter nat mangle raw; do for c in INPUT FORWARD OUTPUT PREROUTING POSTROUTING; do
	$p-nft -t $t -A $c -j ACCEPT 2>/dev/null && $p-nft -t $t -D $c -j ACCEPT || true
done; done; done
`

// Everything of theirs goes, and what others have stays byte for byte, in its order and with its counters. A second time there is nothing.
func TestRemove(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.sh(foreign + withAllTables)
		before := m.all()
		m.sh(left)
		full := m.all()
		if full == before {
			t.Fatal("nothing was left")
		}
		l := m.find(m.options())
		if len(l.Unseen) > 0 || len(l.Kept) > 0 {
			t.Errorf("unseen %q, kept %v", l.Unseen, l.Kept)
		}
		// The route of BIRD's that was there before counts as long as Calico's folder says that it was here: it is somebody's, so take it away here.
		m.sh("ip route del 10.8.0.0/16")
		before = strings.Replace(before, "10.8.0.0/16 via 192.0.2.2 dev eth0 proto bird \n", "", 1)
		m.remove(m.options())
		if diff := cmp.Diff(before, m.all()); diff != "" {
			t.Errorf("not as before (-before +after):\n%s", diff)
		}
		if l := m.find(m.options()); len(l.Items) > 0 || len(l.Unseen) > 0 {
			t.Errorf("left: %v, unseen %q", l.Items, l.Unseen)
		}
		m.remove(m.options())
	})
}

// Only what belongs to those that are asked for goes.
func TestOfOne(t *testing.T) {
	for _, owner := range leftovers.Owners() {
		onMachine(t, func(m *machine) {
			m.sh(foreign + left)
			m.sh("iptables-legacy -D cali-fw-cali1 -m set --match-set azure-npm-2 src -j DROP")
			o := leftovers.Options{Of: []string{owner}, Root: m.root}
			others := leftovers.Options{Of: slices.DeleteFunc(leftovers.Owners(), func(n string) bool { return n == owner }), Root: m.root}
			want, mine := m.find(others), m.find(o)
			if len(mine.Items) == 0 {
				t.Errorf("nothing of %s", owner)
			}
			m.remove(o)
			got := m.find(others)
			for _, l := range []*leftovers.Leftovers{want, got} {
				l.Items = slices.DeleteFunc(l.Items, func(i leftovers.Item) bool { return i.Kind == leftovers.Route }) // a device takes its routes along
			}
			if diff := cmp.Diff(want.Items, got.Items); diff != "" {
				t.Errorf("without %s: %s", owner, diff)
			}
		})
	}
}

// Ended before any of its steps a removal is put back; and one that is ended before each in turn, and goes on, comes to the same end. What is not put back is
// told in canonical.
func TestKilledBeforeEachStep(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.sh(foreign + withAllTables + "ip route del 10.8.0.0/16\n") // that of BIRD's would be taken for Calico's
		clean := canonical(m.all())
		m.sh(left)
		full := canonical(m.all())
		all := len(m.removal(0))
		for n := range all + 1 {
			m.removal(n)
			m.restoration(n % 3) // is ended too
			m.restoration(-1)
			m.same(fmt.Sprintf("ended before step %d and put back", n), full)
			if run := m.run(); n > 0 && run.Phase != leftovers.Restored {
				t.Errorf("put back: %+v", run)
			}
		}
		for n := range all {
			m.removal(n)
		}
		m.removal(-1)
		m.same("ended before each step, and gone on", clean)
		if run := m.run(); run.Phase != leftovers.Removed || len(m.find(m.options()).Items) > 0 {
			t.Errorf("gone on: %+v", run)
		}
		m.restoration(-1)
		m.same("put back from several backups", full)
		t.Logf("ended %d times while it removed, and %d while it put back", 2*all, all)
	})
}

// removal as far as before step n; -1 is to its end.
func (m *machine) removal(n int) []leftovers.Step {
	return m.journal(func(j *leftovers.Journal) []leftovers.Step {
		m.backups++
		return j.Remove(fmt.Sprintf("%s/%d", folder, m.backups))
	}, n)
}

func (m *machine) restoration(n int) []leftovers.Step {
	return m.journal(func(j *leftovers.Journal) []leftovers.Step {
		steps, err := j.Restore()
		if errors.Is(err, leftovers.ErrNone) {
			return nil
		}
		must(err)
		return steps
	}, n)
}

// journal opens it anew, as a process does that is begun.
func (m *machine) journal(of func(*leftovers.Journal) []leftovers.Step, n int) []leftovers.Step {
	j, err := leftovers.OpenJournal(m.options(), folder)
	must(err)
	defer j.Close()
	steps := of(j)
	for i, s := range steps {
		if i != n {
			must(s.Do(context.Background()))
			continue
		}
		break
	}
	return steps
}

func (m *machine) run() *leftovers.Run {
	r, err := leftovers.ReadRun(m.options(), folder)
	must(err)
	return r
}

func (m *machine) same(what string, want []string) {
	if diff := cmp.Diff(want, canonical(m.all())); diff != "" {
		panic(what + ": " + diff)
	}
}

const folder = "/var/lib/tierwall/cleanup"

// canonical is what all gives with its parts in the order of their names: where a chain or a route stands among others means nothing, and that is not put
// back. Rules keep their order within a chain.
func canonical(text string) []string {
	type line struct{ part, text string }
	var lines []line
	section, table, block := "", "", ""
	for text := range strings.Lines(text) {
		text = strings.TrimRight(text, "\n ")
		switch {
		case strings.HasPrefix(text, "== "):
			section, table, block = text, "", ""
		case strings.HasPrefix(text, "*"), strings.HasPrefix(text, "table "):
			table, block = text, ""
		case strings.HasPrefix(text, "\t") && strings.HasSuffix(text, "{"):
			block = text
		}
		part := section + table + block
		if _, rule, ok := strings.Cut(text, "-A "); ok {
			part += strings.Fields(rule)[0]
		} else if section != "== nft" {
			part += text
		}
		if text != "" && text != "}" {
			lines = append(lines, line{part, text})
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return strings.Compare(a.part, b.part) })
	var out []string
	for _, l := range lines {
		out = append(out, l.text)
	}
	return out
}

// What others have changed in the same tables since stays when a backup is put back, and it can be put back twice.
func TestRestoreAmongOthers(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.sh(foreign + left + `nft 'add chain ip filter ts-input { type filter hook input priority 5; }; add rule ip filter ts-input tcp dport { 1, 2 } counter accept'`)
		m.removal(-1)
		m.sh(`for p in iptables-legacy iptables-nft ip6tables-legacy ip6tables-nft; do $p -N KUBE-SVC-NEW; $p -I FORWARD -j KUBE-SVC-NEW; $p -F KUBE-FORWARD; done; ipset create KUBE-NEW hash:ip; ipset add other 10.0.0.0/8`)
		m.restoration(-1)
		once := m.all()
		for _, want := range []string{"-A FORWARD -j KUBE-SVC-NEW", "tcp dport { 1, 2 } counter", "create KUBE-NEW", "add other 10.0.0.0/8", "-A cali-fw-cali1 -j DROP", "add cali40s:abc 10.1.0.0/16"} {
			if !strings.Contains(once, want) {
				t.Errorf("%q is not there", want)
			}
		}
		if strings.Contains(once, "-A KUBE-FORWARD") {
			t.Error("a rule of others' that went since is back")
		}
		m.sh("sh $ROOT" + folder + "/1/" + leftovers.RestoreScript + " $ROOT")
		if diff := cmp.Diff(canonical(once), canonical(m.all())); diff != "" {
			t.Errorf("put back twice: %s", diff)
		}
	})
}

// The journal holds one run, for one process at a time.
func TestJournal(t *testing.T) {
	onMachine(t, func(m *machine) {
		if r := m.run(); r != nil {
			t.Errorf("a run: %+v", r)
		}
		m.sh(foreign + left)
		m.removal(2)
		if r := m.run(); r.Phase != leftovers.Removing || !r.Unfinished() || !slices.Equal(r.Backups, []string{folder + "/1"}) {
			t.Errorf("begun: %+v", r)
		}
		j, err := leftovers.OpenJournal(m.options(), folder)
		must(err)
		if _, err := leftovers.OpenJournal(m.options(), folder); !errors.Is(err, leftovers.ErrBusy) {
			t.Errorf("open twice: %v", err)
		}
		must(j.Close())
		j, err = leftovers.OpenJournal(leftovers.Options{Root: m.root}, folder)
		must(err)
		if err := j.Remove(folder + "/x")[0].Do(context.Background()); !errors.Is(err, leftovers.ErrOther) {
			t.Errorf("another run: %v", err)
		}
		must(j.Close())
		must(os.WriteFile(m.root+folder+"/journal.json", []byte("{"), 0o600))
		if _, err := leftovers.OpenJournal(m.options(), folder); err == nil {
			t.Error("a journal that cannot be read was opened")
		}
	})
}

// Nothing is written where a backup cannot be made whole, and so nothing removed.
func TestBackupFails(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.sh(foreign + left)
		l := m.find(m.options())
		o := m.options()
		o.Root = ""
		if err := leftovers.Backup(context.Background(), o, l, "/proc/none/x"); err == nil {
			t.Error("a backup in /proc")
		}
		must(leftovers.Backup(context.Background(), m.options(), l, "/a/b"))
		if err := leftovers.Backup(context.Background(), m.options(), l, "/a/b"); err == nil {
			t.Error("a second backup was written over the first")
		}
	})
}

// Pods that live keep what carries their packets, and their interface whatever is said; the rules that would drop them go.
func TestLivePods(t *testing.T) {
	onMachine(t, func(m *machine) {
		other := exec.Command("unshare", "-n", "sleep", "100")
		must(other.Start())
		defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
		m.sh(foreign + left)
		m.sh(fmt.Sprintf(`ip link add cali1 type veth peer name eth9
			until [ "$(readlink /proc/%d/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do :; done
			ip link set eth9 netns %d; ip link set cali1 up; ip route add 10.1.1.7/32 dev cali1 proto 80`, other.Process.Pid, other.Process.Pid))
		o := m.options()
		l := m.find(o)
		if why := l.Refused(o); len(why) != 1 || !strings.Contains(why[0], "pods live on cali1") {
			t.Errorf("refused: %q", why)
		}
		before := m.all()
		for _, s := range leftovers.Steps(o) {
			if err := s.Do(context.Background()); !errors.Is(err, leftovers.ErrRunning) {
				t.Errorf("%s: %v", s.Name, err)
			}
		}
		if diff := cmp.Diff(before, m.all()); diff != "" {
			t.Errorf("refused, and done: %s", diff)
		}
		for _, keep := range []bool{true, false} {
			if !keep { // another plugin's configuration is followed now; the pods are still Calico's
				m.sh("mv $ROOT/etc/cni/net.d/10-calico.conflist $ROOT/etc/cni/net.d/90-calico.conflist")
			}
			o.KeepCNI = keep
			if why := m.find(o).Refused(o); len(why) > 0 {
				t.Errorf("refused: %q", why)
			}
			m.remove(o)
			after := m.all()
			for _, want := range []string{"cali1 <", "10.1.1.7 dev cali1", "blackhole 10.1.1.0/26", "vxlan.calico: <", "not from all fwmark 0x100000", "-j cali-nat-outgoing",
				"chain nat-cali-nat-outgoing", "cali40masq-ipam-pools", "\nvar/lib/calico/nodename", "\nopt/cni/bin/calico-ipam"} {
				if !strings.Contains(after, want) {
					t.Errorf("keep %v: %q is gone", keep, want)
				}
			}
			for _, gone := range []string{"cali-FORWARD -i", "Unknown interface", "chain filter-", "cali40s:abc", "KUBE-POD-FW", "AZURE-NPM", "cali40s-x"} {
				if strings.Contains(after, gone) {
					t.Errorf("keep %v: %q is there", keep, gone)
				}
			}
			if l := m.find(o); len(l.Items) > 0 || len(l.Kept) == 0 {
				t.Errorf("keep %v: %v", keep, l.Items)
			}
		}
	})
}

// Who would make it all again is told, if it works on this network namespace.
func TestRunning(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.sh(foreign + left)
		program := filepath.Join(t.TempDir(), "calico-node")
		m.sh("cp $(command -v sleep) " + program)
		for _, here := range []bool{true, false} {
			cmd := exec.Command(program, "100")
			if !here {
				cmd = exec.Command("unshare", "-n", program, "100")
			}
			must(cmd.Start())
			want := fmt.Sprintf("calico-node (process %d)", cmd.Process.Pid)
			seen := func() bool { return slices.Contains(m.find(m.options()).Running, want) }
			for !here && !isProgram(cmd.Process.Pid, program) {
				runtime.Gosched()
			}
			if seen() != here {
				t.Errorf("here %v: it is found to be %v", here, !here)
			}
			o := m.options()
			o.KeepCNI = true
			if refused := len(m.find(o).Refused(o)) > 0; refused != here {
				t.Errorf("here %v: refused %v", here, refused)
			}
			must(cmd.Process.Kill())
			_ = cmd.Wait()
		}
	})
}

func isProgram(pid int, path string) bool {
	exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return exe == path
}

// A tool that is missing is told of, and nothing is taken for empty because of it.
func TestUnseen(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.sh(foreign + left)
		bin := t.TempDir()
		m.sh("for p in iptables ip6tables; do printf '#!/bin/sh\\necho no; exit 3\\n' >" + bin + "/$p-legacy-save; chmod +x " + bin + "/$p-legacy-save; done")
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
		l := m.find(m.options())
		if len(l.Unseen) != 8 || !strings.Contains(l.Unseen[0], "legacy iptables, filter: ") {
			t.Errorf("unseen: %q", l.Unseen)
		}
	})
}

// While rules are removed a stream that they let by loses nothing, and what somebody else denies stays denied.
func TestNoPacketIsLost(t *testing.T) {
	for _, variant := range []string{"legacy", "nft"} {
		onMachine(t, func(m *machine) {
			m.sh("ip link set lo up\n" + strings.ReplaceAll(stream, "VARIANT", variant))
			server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5000})
			must(err)
			defer server.Close()
			must(server.SetReadBuffer(8 << 20))
			client, err := net.DialUDP("udp4", nil, server.LocalAddr().(*net.UDPAddr))
			must(err)
			defer client.Close()
			end, sent := make(chan struct{}), make(chan int)
			go func() {
				n := 0
				rate := time.NewTicker(50 * time.Microsecond)
				defer rate.Stop()
				for {
					select {
					case <-end:
						sent <- n
						return
					case <-rate.C:
					}
					if _, err := client.Write([]byte("x")); err == nil {
						n++
					} else {
						t.Errorf("packet %d: %v", n, err)
					}
				}
			}()
			got, buffer := 0, make([]byte, 16)
			received := make(chan struct{})
			go func() {
				defer close(received)
				for {
					if _, err := server.Read(buffer); err != nil {
						return
					}
					got++
				}
			}()
			m.remove(leftovers.Options{Root: m.root})
			close(end)
			n := <-sent
			must(server.SetReadDeadline(time.Now().Add(time.Second)))
			<-received
			if got != n || n == 0 {
				t.Errorf("%s: %d packets sent and %d have come", variant, n, got)
			}
			t.Logf("%s: %d packets while the rules were removed", variant, n)
			if l := m.find(leftovers.Options{Root: m.root}); len(l.Items) > 0 {
				t.Errorf("left: %v", l.Items)
			}
		})
	}
}

// Rules that let by only what another table has marked: with any of them gone too early packets would be dropped.
const stream = `
iptables-VARIANT-restore --noflush <<END
*raw
:cali-OUTPUT - [0:0]
-A OUTPUT -m comment --comment "cali:a" -j cali-OUTPUT
-A cali-OUTPUT -j MARK --set-xmark 0x10000/0x10000
COMMIT
*filter
:cali-OUTPUT - [0:0]
-A OUTPUT -m comment --comment "cali:b" -j cali-OUTPUT
-A OUTPUT -m comment --comment "cali:c" -m mark ! --mark 0x40000/0x40000 -j DROP
-A cali-OUTPUT -m mark ! --mark 0x10000/0x10000 -j DROP
-A cali-OUTPUT -j MARK --set-xmark 0x40000/0x40000
COMMIT
*mangle
:cali-POSTROUTING - [0:0]
-A POSTROUTING -m comment --comment "cali:d" -j cali-POSTROUTING
-A cali-POSTROUTING -m mark ! --mark 0x40000/0x40000 -j DROP
COMMIT
END
`

// What a rule, a set or a map of somebody else's uses is told, and everything else goes.
func TestUsedByOthers(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.sh(foreign + left + `
			iptables-legacy -A KUBE-FORWARD -m set --match-set cali40s:abc src -j ACCEPT
			ipset create mine list:set; ipset add mine cali60s:abc
			nft add rule ip filter INPUT tcp dport vmap { 7 : jump cali-FORWARD }`)
		var not []string
		j, err := leftovers.OpenJournal(m.options(), folder)
		must(err)
		defer j.Close()
		for _, s := range j.Remove(folder + "/1") {
			if err := s.Do(context.Background()); errors.Is(err, leftovers.ErrNotAll) {
				not = append(not, err.Error())
			} else {
				must(err)
			}
		}
		if text := strings.Join(not, "\n"); len(not) != 1 || !strings.Contains(text, "ipset cali40s:abc: not everything was removed: a rule or a set of somebody else's uses it") || !strings.Contains(text, "cali60s:abc") {
			t.Errorf("told: %s", text)
		}
		if run := m.run(); run.Phase != leftovers.Removed {
			t.Errorf("a set of others' keeps the run from its end: %+v", run)
		}
		l := m.find(m.options())
		var names []string
		for _, i := range l.Items {
			names = append(names, i.Name)
		}
		if !slices.Equal(names, []string{"cali40s:abc", "cali60s:abc"}) || len(l.Kept) != 1 || l.Kept[0].Name != "cali-FORWARD" {
			t.Errorf("left %q, kept %v", names, l.Kept)
		}
		for _, want := range []string{"tcp dport vmap { 7 : jump cali-FORWARD }", "-A KUBE-FORWARD -m set --match-set cali40s:abc src -j ACCEPT", "add mine cali60s:abc"} {
			if !strings.Contains(m.all(), want) {
				t.Errorf("%q is gone", want)
			}
		}
	})
}

// Who relies on what Calico lets by, and what goes with Calico's chains that is not its own, is told before.
func TestMind(t *testing.T) {
	onMachine(t, func(m *machine) {
		m.sh(foreign + left + `for p in iptables-legacy ip6tables-nft; do $p -P FORWARD DROP; $p -P OUTPUT DROP; $p -A cali-INPUT -p tcp -j ACCEPT; $p -A cali-INPUT -m comment --comment cali:x -j ACCEPT; done`)
		mind := strings.Join(m.find(leftovers.Options{Root: m.root}).Mind, "\n")
		for _, want := range []string{"legacy ip filter: the policy of FORWARD is DROP", "nft ip6 filter: the policy of FORWARD is DROP",
			"legacy ip filter: rules in Calico's chains without a comment of its, which go with them: 6", "nft ip6 filter: rules in Calico's chains without a comment of its, which go with them: 5"} {
			if !strings.Contains(mind, want) {
				t.Errorf("no %q in %s", want, mind)
			}
		}
		if strings.Contains(mind, "OUTPUT") {
			t.Errorf("a chain without a rule of Calico's is minded: %s", mind)
		}
	})
}

// In a container the machine's programs are run in the root that they know, by links that lead somewhere only there.
func TestProgramsOfARoot(t *testing.T) {
	onMachine(t, func(m *machine) {
		must(unix.Unshare(unix.CLONE_NEWNS))
		must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		m.sh(foreign + left + `
			for d in usr/bin usr/sbin usr/lib usr/lib64 usr/share dev proc sys; do [ -d /$d ] || continue; mkdir -p $ROOT/$d; mount --rbind /$d $ROOT/$d; done
			for d in bin sbin lib lib64; do [ ! -L /$d ] || ln -s $(readlink /$d) $ROOT/$d; [ -L /$d ] || { mkdir $ROOT/$d; mount --rbind /$d $ROOT/$d; }; done
			mkdir -p $ROOT/usr/local/sbin; touch $ROOT/run/xtables.lock
			printf '#!/bin/sh\necho "$@" >>/ran\nexec /usr/sbin/iptables-legacy-save "$@"\n' >$ROOT/only-here; chmod +x $ROOT/only-here
			ln -s /only-here $ROOT/usr/local/sbin/iptables-legacy-save`)
		want := canonical(m.all())
		m.removal(-1)
		if ran, _ := os.ReadFile(m.root + "/ran"); !strings.Contains(string(ran), "-t filter") {
			t.Error("the root's own program was not run")
		}
		if l := m.find(m.options()); len(l.Items) > 0 || len(l.Unseen) > 0 {
			t.Errorf("left %v, unseen %q", l.Items, l.Unseen)
		}
		m.restoration(-1)
		m.same("put back", want)
	})
}
