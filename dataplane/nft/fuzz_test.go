package nft_test

import (
	"encoding/binary"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// messagesOf cuts bytes into netlink messages, as far as their lengths make sense.
func messagesOf(b []byte) (out []netlink.Message) {
	const header = unix.SizeofNlMsghdr
	for len(b) >= header {
		n := int(binary.NativeEndian.Uint32(b))
		if n < header || n > len(b) {
			break
		}
		out = append(out, netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(binary.NativeEndian.Uint16(b[4:]))}, Data: b[header:n]})
		b = b[n:]
	}
	return out
}

// FuzzDecodeTable reads tables from a kernel that answers nonsense. What is read can be printed, compared and judged.
func FuzzDecodeTable(f *testing.F) {
	for _, t := range []*ruleset.Table{everyRule(), small(80), networks(3)} {
		b, err := nft.Written(t)
		must(err)
		f.Add(b)
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		all := messagesOf(b)
		name := ruleset.DefaultTable
		table, err := nft.Answered(name, func(asked []netlink.Message) (answer []netlink.Message, err error) {
			for _, q := range asked {
				for _, m := range all {
					if m.Header.Type == q.Header.Type-1 { // what makes a thing comes before what asks for it
						m.Header.Sequence, m.Header.PID, m.Header.Flags = q.Header.Sequence, q.Header.PID, netlink.Multi
						answer = append(answer, m)
					}
				}
				done := netlink.Message{Header: netlink.Header{Type: netlink.Done, Flags: netlink.Multi, Sequence: q.Header.Sequence, PID: q.Header.PID}}
				answer = append(answer, done)
			}
			return answer, nil
		})
		if err != nil || table == nil {
			return
		}
		_ = table.String()
		_ = nft.Check(table)
		_ = ruleset.Diff(table, small(80))
	})
}

// FuzzTold reads what the kernel says of itself: complaints, its generation, others' changes to tables, and the host's interfaces.
func FuzzTold(f *testing.F) {
	b, err := nft.Written(small(80))
	must(err)
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = nft.Complaint(b)
		_, _ = nft.DecodeGeneration(b)
		for _, m := range messagesOf(b) {
			_ = nft.ForeignMessage(m, ruleset.DefaultTable, 1)
			_ = nft.HostMatters(m)
		}
	})
}
