package nft_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/ruleset"
	"github.com/tierwall/tierwall/test/lab"
)

// networks are n of 8 addresses each that do not touch.
func networks(n int) *ruleset.Table {
	s := &ruleset.Set{Name: "nets4-all", Type: ruleset.TypeIPv4, Interval: true}
	elems := make([]ruleset.Elem, 0, n)
	for i := range n {
		var from, to [4]byte
		binary.BigEndian.PutUint32(from[:], uint32(i)<<4)
		binary.BigEndian.PutUint32(to[:], uint32(i)<<4|7)
		elems = append(elems, addrElem(netip.AddrFrom4(from), netip.AddrFrom4(to)))
	}
	s.Elems = ruleset.ElemsOf(elems...)
	t := small(1)
	t.Sets = append([]*ruleset.Set{s}, t.Sets...)
	return t
}

// A million networks in one set arrive, all of them, in one transaction.
func TestAMillionNetworks(t *testing.T) {
	lab.Need(t, noNamespaces)
	n := 1_000_000
	if !mayEnlargeBuffers() {
		n = 2_000
		t.Logf("%d networks instead of 1000000: a transaction must fit into a socket's buffer, which only real root may enlarge", n)
	}
	want := networks(n)
	inNamespace(t, func() {
		c := open()
		defer c.Close()
		begin := time.Now()
		_, err := c.Apply(want)
		must(err)
		t.Logf("%d networks in %v", n, time.Since(begin))
		// A listing takes minutes, for the kernel counts from the first for every few hundred.
		arrived(t, want.Name, want.Sets[0].Name, want.Sets[0].Elems.Slice())
		more := networks(n + 1)
		begin = time.Now()
		changes, err := c.Apply(more)
		must(err)
		t.Logf("%v in %v", changes, time.Since(begin))
		arrived(t, want.Name, want.Sets[0].Name, more.Sets[0].Elems.Slice()[n:])
	})
}

// arrived asks the kernel for a thousand of the networks, the first and the last among them.
func arrived(t *testing.T, table, name string, nets []ruleset.Elem) {
	t.Helper()
	set := &nftables.Set{Table: &nftables.Table{Name: table, Family: nftables.TableFamilyINet}, Name: name, Interval: true}
	reader, err := nftables.New()
	must(err)
	for asked := range slices.Chunk(samples(nets), 100) { // the answers must fit into the socket's buffer
		found, err := reader.FindSetElements(set, asked)
		must(err)
		if len(found) != len(asked) {
			t.Errorf("%d of %d have arrived", len(found), len(asked))
		}
	}
}

// samples are a thousand addresses that the networks begin with, the first and the last among them.
func samples(nets []ruleset.Elem) (out []nftables.SetElement) {
	for i := 0; i < len(nets); i += max(1, len(nets)/1000) {
		out = append(out, nftables.SetElement{Key: nets[i].From.AsSlice()})
	}
	return append(out, nftables.SetElement{Key: nets[len(nets)-1].From.AsSlice()})
}

// What is more than the socket takes is refused by a message that says so, and what to do; the kernel has what it had. Real root may
// enlarge the buffer at will, so that it is another process, in a user namespace, that tries.
func TestTooBigATransaction(t *testing.T) {
	lab.Need(t, noNamespaces)
	if mayEnlargeBuffers() {
		inUserNamespace(t, "TestTooBigATransaction")
		return
	}
	text, err := os.ReadFile("/proc/sys/net/core/wmem_max")
	if err != nil {
		t.Fatal(err)
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	inNamespace(t, func() {
		c := open()
		defer c.Close()
		_, err := c.Apply(small(1))
		must(err)
		_, err = c.Apply(networks(3 * most / 40)) // of 40 bytes each; the kernel doubles what the socket may have
		for _, words := range []string{"too big for the kernel", "net.core.wmem_max", "CAP_NET_ADMIN"} {
			if err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("want an error of %q, got %v", words, err)
			}
		}
		if !errors.Is(err, unix.EMSGSIZE) {
			t.Error(err)
		}
		reads(t, c, small(1))
		_, err = c.Apply(small(2))
		must(err)
		reads(t, c, small(2))
	})
}

// inUserNamespace runs a test of this program again, in a user namespace.
func inUserNamespace(t *testing.T, name string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+name+"$", "-test.v")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+name) {
		t.Errorf("in a user namespace: %v\n%s", err, out)
	}
}

// A rule that is longer than a message can say is refused by its name, before the kernel is asked.
func TestTooLongARule(t *testing.T) {
	inNamespace(t, func() {
		c := open()
		defer c.Close()
		want := small(1)
		for range 2000 {
			want.Chains[0].Rules[0].Matches = append(want.Chains[0].Rules[0].Matches, want.Chains[0].Rules[0].Matches[0])
		}
		_, err := c.Apply(want)
		if err == nil || !strings.Contains(err.Error(), "chain out, rule 1 (the port): too big for the kernel") {
			t.Error(err)
		}
		if have, err := c.Read(); have != nil || err != nil {
			t.Errorf("there is %v, %v", have, err)
		}
	})
}

// What the kernel refuses is named.
func TestRefusalsAreNamed(t *testing.T) {
	inNamespace(t, func() {
		c := open()
		defer c.Close()
		_, err := c.Apply(refused()["a jump to a base chain"])
		if err == nil || !strings.Contains(err.Error(), "chain x, rule 1 ()") {
			t.Error(err)
		}
	})
}
