package nft

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// Holder is who has a table now, and how the kernel keeps it.
type Holder struct {
	There   bool // the table is in the kernel
	Owned   bool // the kernel lets nobody but its holder change it; else a name among processes keeps other agents out
	Persist bool // it stays when its holder ends
	Process int  // that holds it: 0 for none, Unseen for one that cannot be seen from here
}

// Unseen is the process of a holder in another PID namespace, or one that we may not look at.
const Unseen = -1

// Holder tells who has the table now.
func (c *Conn) Holder() (h Holder, err error) {
	t, err := c.find()
	if err != nil {
		return h, err
	}
	if h.There = t != nil; !h.There {
		return h, nil
	}
	h.Owned, h.Persist = t.Flags&nftables.TableFlagOwner != 0, t.Flags&nftables.TableFlagPersist != 0
	if h.Owned && t.Owner != 0 {
		h.Process, err = processOfPort(t.Owner)
	} else if !h.Owned {
		h.Process = processOfLock(c.name)
	}
	return h, err
}

// Drift is what Apply would change.
func (c *Conn) Drift(want *ruleset.Table) ([]ruleset.Change, error) {
	have, err := c.Read()
	if err != nil {
		return nil, err
	}
	return ruleset.Diff(have, explicit(want)), nil
}

// processOfLock is who answers to the name by which a table without an owner is locked.
func processOfLock(table string) int {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Unseen
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, lockName(table)); err != nil {
		return 0
	}
	who, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || who.Pid == 0 {
		return Unseen
	}
	return int(who.Pid)
}

// processOfPort finds the process whose netlink socket has a port: the kernel lists the sockets with their inodes, and a process's descriptors
// name those.
func processOfPort(port uint32) (int, error) {
	text, err := os.ReadFile("/proc/thread-self/net/netlink")
	if err != nil {
		return Unseen, fmt.Errorf("looking for the holder of netlink port %d: %w", port, err)
	}
	socket := ""
	for line := range bytes.Lines(text) { // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
		f := strings.Fields(string(line))
		if len(f) >= 10 && f[1] == strconv.Itoa(unix.NETLINK_NETFILTER) && f[2] == strconv.FormatUint(uint64(port), 10) {
			socket = "socket:[" + f[9] + "]"
		}
	}
	if socket == "" {
		return Unseen, nil
	}
	descriptors, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return Unseen, err
	}
	for _, path := range descriptors {
		if to, err := os.Readlink(path); err == nil && to == socket {
			return strconv.Atoi(strings.Split(path, "/")[2])
		}
	}
	return Unseen, nil
}
