package lab

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// What other programs do beside us is tested with those programs as Debian has them. They are not installed on this machine: their
// packages are unpacked in a folder, which a node's guests see as if they were, in mount and process namespaces of their own.

// unpacked gives the folder of packages, with those that they need and this machine has not.
func unpacked(packages ...string) (dir string, err error) {
	plan, err := planned(packages)
	if err != nil { // perhaps the lists of packages are missing, or old
		if out, failed := exec.Command("apt-get", "update", "-q").CombinedOutput(); failed != nil {
			return "", fmt.Errorf("asking apt-get what %s would need: %w; renewing its lists: %w: %s", packages, err, failed, out)
		}
		if plan, err = planned(packages); err != nil {
			return "", fmt.Errorf("asking apt-get what %s would need: %w", packages, err)
		}
	}
	caches, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	var names []string
	sum := sha256.New()
	for _, inst := range regexp.MustCompile(`(?m)^Inst (\S+) .*\n`).FindAllStringSubmatch(string(plan), -1) {
		names = append(names, inst[1])
		_, _ = io.WriteString(sum, inst[0]) // with the version; it does not fail
	}
	dir = filepath.Join(caches, "tierwall", fmt.Sprintf("debian-%x", sum.Sum(nil)[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp := dir + fmt.Sprintf(".%d", os.Getpid())
	if err := os.MkdirAll(filepath.Join(tmp, "usr"), 0o755); err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	cmd := exec.Command("sh", "-ec", `
		[ $# = 0 ] || apt-get -o APT::Sandbox::User=root -qq download "$@"
		for p in *.deb; do [ ! -e "$p" ] || dpkg -x "$p" .; rm -f "$p"; done
		for d in bin sbin lib; do [ ! -d $d ] || cp -a $d usr/; done`, "sh")
	cmd.Args, cmd.Dir = append(cmd.Args, names...), tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpacking %s: %w\n%s", names, err, out)
	}
	if err := os.Rename(tmp, dir); err != nil && !os.IsExist(err) {
		return "", err
	}
	return dir, nil
}

func planned(packages []string) ([]byte, error) {
	return exec.Command("apt-get", append([]string{"-s", "install", "--no-install-recommends"}, packages...)...).Output()
}

// guest is another program on a node, or several.
type guest struct {
	c    *cluster
	node string
	pid  string // of the process that holds the namespaces: with it all others end
}

// guest of a node has the programs of packages, and /run, /var/lib and /var/log of its own. setup is done there first.
func (c *cluster) guest(node, setup string, packages ...string) *guest {
	c.t.Helper()
	files, err := unpacked(packages...)
	if err != nil {
		if os.Getenv("CI") == "true" {
			c.t.Fatal(err)
		}
		c.t.Skipf("left out, for there is no %s here: %v", packages, err)
	}
	script := `set -e
		mount --make-rprivate /
		for d in usr etc; do [ ! -d ` + files + `/$d ] || mount -t overlay -o lowerdir=` + files + `/$d:/$d overlay /$d; done
		for d in run var/lib var/log; do mount -t tmpfs none /$d; done
		mount -t proc proc /proc
		writable() { cp -a "$1" /run/copy; mount -t tmpfs none "$1"; cp -a /run/copy/. "$1"; rm -r /run/copy; }
		` + setup + `
		echo ready
		sleep infinity & wait`
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	fatal(c.t, err)
	begun := make(chan error, 1)
	ended := make(chan struct{})
	go func() { // the thread that starts it must live as long as it does
		defer close(ended)
		_ = c.nodes[node].do(func() error {
			if err := cmd.Start(); err != nil {
				begun <- err
				return err
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			if line != "ready\n" {
				_ = cmd.Wait()
				err = fmt.Errorf("%w: %s", err, said.Bytes())
			}
			begun <- err
			return cmd.Wait()
		})
	}()
	fatal(c.t, <-begun)
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	return &guest{c, node, fmt.Sprint(cmd.Process.Pid)}
}

func (g *guest) command(words ...string) []string {
	return append([]string{"nsenter", "--target", g.pid, "--mount", "--pid", "--", "env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, words...)
}

// run a command, which must succeed.
func (g *guest) run(command string) string {
	g.c.t.Helper()
	return g.c.on(g.node, g.command("sh", "-c", command)...)
}

// daemon runs until the guest goes, or end is told its name. It is there when a command succeeds.
func (g *guest) daemon(name, command, there string) {
	g.c.t.Helper()
	g.run("sh -c 'echo $$ >/run/" + name + ".pid; exec " + command + "' >>/run/" + name + ".log 2>&1 &")
	g.until(name+" is there", there)
}

// end asks a daemon to end, and waits until it has.
func (g *guest) end(name string) {
	g.c.t.Helper()
	g.run("kill $(cat /run/" + name + ".pid)")
	g.until(name+" has ended", "! kill -0 $(cat /run/"+name+".pid)")
}

func (g *guest) until(what, command string) {
	g.c.t.Helper()
	words := g.command("sh", "-c", command)
	for deadline := time.Now().Add(patience); ; {
		var out []byte
		var err error
		fatal(g.c.t, g.c.nodes[g.node].do(func() error { out, err = exec.Command(words[0], words[1:]...).CombinedOutput(); return nil }))
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			g.c.t.Fatalf("never: %s: %v\n%s%s", what, err, out, g.run("tail -n 20 /run/*.log"))
		}
	}
}

// tryout is a connection from somewhere to a port, and what becomes of it.
type tryout struct {
	what, from, to string
	port           uint16
	want           Observation
}

// tries all at once.
func (c *cluster) tries(when string, all ...tryout) {
	c.t.Helper()
	for _, wait := range []time.Duration{patience, soon} {
		var some []tryout
		var flows []policy.Flow
		for _, w := range all {
			if f := tcp(w.from, w.to, w.port); (w.want == Arrived) == (wait == patience) {
				c.port++
				f.SrcPort = c.port
				some, flows = append(some, w), append(flows, f)
			}
		}
		seen, err := c.Send(c.t.Context(), flows, wait)
		fatal(c.t, err)
		for i, w := range some {
			if seen[i] != w.want {
				c.t.Errorf("%s: %s, from %s to %s port %d: %s, want %s", when, w.what, w.from, w.to, w.port, seen[i], w.want)
			}
		}
	}
}

var counters = regexp.MustCompile(`\[\d+:\d+\]|packets \d+ bytes \d+|(?m)^# (Generated|Completed).*$`)

// others are the rules on a node that are not ours, without counters.
func (c *cluster) others(node string) string {
	c.t.Helper()
	out := c.on(node, "iptables-save") + c.on(node, "ip6tables-save")
	for line := range strings.Lines(c.on(node, "nft", "list", "tables")) {
		if line = strings.TrimSpace(line); line != "table inet tierwall" {
			out += c.on(node, append([]string{"nft", "-s", "list"}, strings.Fields(line)...)...)
		}
	}
	return counters.ReplaceAllString(out, "")
}

var owner = regexp.MustCompile(` # progname \S+|(?m)^\tflags.*\n\n?`)

// ours is our table on a node, whoever owns it.
func (c *cluster) ours(node string) string {
	c.t.Helper()
	return owner.ReplaceAllString(c.on(node, "nft", "-s", "list", "table", "inet", "tierwall"), "")
}

// undisturbed tells whether rules are as they were before, in whatever order they are listed.
func (c *cluster) undisturbed(what, before, now string) {
	c.t.Helper()
	gone, come := linesWithout(before, now), linesWithout(now, before)
	if len(gone)+len(come) > 0 {
		c.t.Errorf("%s has changed\ngone:\n%s\ncome:\n%s", what, strings.Join(gone, "\n"), strings.Join(come, "\n"))
	}
}

// linesWithout are the lines of a text that another has not, or not as often.
func linesWithout(text, other string) (out []string) {
	left := map[string]int{}
	for line := range strings.Lines(other) {
		left[line]++
	}
	for line := range strings.Lines(text) {
		if left[line]--; left[line] < 0 {
			out = append(out, line)
		}
	}
	return out
}
