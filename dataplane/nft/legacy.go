package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// legacy is one family of the iptables that were before nftables. The kernel gives a table as a row of entries, of which each says where
// the next begins and where in it is its target; at the head of a chain the target is named ERROR, and has the chain's name.
type legacy struct {
	names               string // the file with the tables that are loaded: asking for another would load it
	family              string
	domain, level       int
	targetAt, entrySize int
}

var legacies = []legacy{
	{"/proc/thread-self/net/ip_tables_names", "ip", unix.AF_INET, unix.IPPROTO_IP, 88, 112},
	{"/proc/thread-self/net/ip6_tables_names", "ip6", unix.AF_INET6, unix.IPPROTO_IPV6, 140, 168},
}

// options of getsockopt, and where things are in what they give (linux/netfilter_ipv4/ip_tables.h; IPv6 has the same).
const (
	legacyInfo, legacyEntries = 64, 65
	nameSize                  = 32
	infoUnderflow             = nameSize + 4 + 5*4 // where, for each hook, the rule is that is the chain's policy
	infoSize                  = infoUnderflow + 5*4 + 4
	infoLen                   = infoSize + 4
	entriesAt                 = nameSize + 8
	targetSize                = 32 // of a target's size, name and revision, before what it says
	verdictDrop               = -1 // as a target says it
)

// legacyTable is what is of interest in one.
type legacyTable struct {
	family, name string
	chains       []string // that users made
	drops        []string // chains of the kernel's own whose policy it is
}

// legacyTables reads those that are loaded.
func legacyTables() (all []legacyTable, err error) {
	for _, l := range legacies {
		names, err := os.ReadFile(l.names)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the kernel has none
		}
		if err != nil {
			return nil, err
		}
		for name := range strings.FieldsSeq(string(names)) {
			t, err := l.read(name)
			if err != nil {
				return nil, fmt.Errorf("reading the table %s of legacy iptables (%s): %w", name, l.family, err)
			}
			all = append(all, t)
		}
	}
	return all, nil
}

func (l legacy) read(name string) (legacyTable, error) {
	t := legacyTable{family: l.family, name: name}
	fd, err := unix.Socket(l.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return t, err
	}
	defer unix.Close(fd)
	info := make([]byte, infoLen)
	copy(info[:nameSize-1], name)
	if err := getsockopt(fd, l.level, legacyInfo, info); err != nil {
		return t, err
	}
	size := binary.NativeEndian.Uint32(info[infoSize:])
	entries := make([]byte, entriesAt+int(size))
	copy(entries[:nameSize-1], name)
	binary.NativeEndian.PutUint32(entries[nameSize:], size)
	if err := getsockopt(fd, l.level, legacyEntries, entries); err != nil {
		return t, err // with EAGAIN it has changed meanwhile
	}
	rules := entries[entriesAt:]
	t.chains = l.chains(rules)
	for hook, chain := range map[int]string{1: "INPUT", 2: "FORWARD"} {
		at := binary.NativeEndian.Uint32(info[infoUnderflow+4*hook:])
		target, _ := l.target(rules, int(at))
		if name == "filter" && len(target) >= 4 && int32(binary.NativeEndian.Uint32(target)) == verdictDrop {
			t.drops = append(t.drops, chain)
		}
	}
	return t, nil
}

// chains of a table; its last entry looks like the head of one, and is named ERROR.
func (l legacy) chains(rules []byte) (names []string) {
	for at := 0; ; {
		said, next := l.target(rules, at)
		if next <= at {
			return names
		}
		if head := rules[at : next-len(said)]; bytes.HasPrefix(head[len(head)-targetSize+2:], []byte("ERROR\x00")) {
			if name, _, _ := bytes.Cut(said, []byte{0}); string(name) != "ERROR" {
				names = append(names, string(name))
			}
		}
		at = next
	}
}

// target gives what the target of the entry at some place says, and where the next entry is: at 0 if that is no entry.
func (l legacy) target(rules []byte, at int) (said []byte, next int) {
	if at < 0 || at+l.entrySize > len(rules) {
		return nil, 0
	}
	begin := at + int(binary.NativeEndian.Uint16(rules[at+l.targetAt:])) + targetSize
	next = at + int(binary.NativeEndian.Uint16(rules[at+l.targetAt+2:]))
	if begin < at+l.entrySize+targetSize || next < begin || next > len(rules) {
		return nil, 0
	}
	return rules[begin:next], next
}

func getsockopt(fd, level, option int, value []byte) error {
	size := uint32(len(value))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&value[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
