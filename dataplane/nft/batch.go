package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// batch is one transaction in the form in which the kernel reads it, written message behind message into one piece of memory:
//
//	begin · message · message · … · end
//
//	message   header: length, type, flags, sequence   family, version, resource   attribute · attribute · …
//	attribute length, type   bytes, or attributes   zeros to four
//
// The library that we read with makes each attribute on its own and copies it into the next larger one, which for rulesets of some
// size takes longer than the kernel does (test/bench/README.md). A message's sequence number says, when the kernel refuses it, what
// it was about.
type batch struct {
	buf     []byte
	about   []subject // of each message, by sequence number
	message int       // where the message begins that is being written
	failed  error     // the first thing that could not be written
}

// subject is what a message is about: the change, and of a chain's rules which one; no change is the table itself.
type subject struct {
	change *ruleset.Change
	rule   int // from 1; 0 for the whole
}

func (s subject) String() string {
	switch {
	case s.change == nil:
		return "the table itself"
	case s.rule > 0:
		return fmt.Sprintf("chain %s, rule %d (%s)", s.change.Chain.Name, s.rule, s.change.Chain.Rules[s.rule-1].ID)
	}
	return s.change.String()
}

const (
	headerSize  = unix.SizeofNlMsghdr
	genmsgSize  = 4
	attrSize    = unix.SizeofNlAttr
	wholeHeader = headerSize + genmsgSize

	batchGenID = 1 // NFNL_BATCH_GENID
)

// newBatch begins a transaction that the kernel refuses unless its nftables are of the generation, if that is not 0.
func newBatch(gen uint32) *batch {
	b := &batch{}
	b.begin(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, subject{})
	if gen != 0 {
		b.u32(batchGenID, gen)
	}
	b.end()
	return b
}

// add begins a message to nftables; end ends it.
func (b *batch) add(typ, flags uint16, about subject) {
	b.begin(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, unix.NFPROTO_INET, 0, about)
}

func (b *batch) begin(typ, flags uint16, family byte, resource uint16, about subject) {
	b.message = len(b.buf)
	native := binary.NativeEndian
	b.buf = native.AppendUint32(b.buf, 0) // the length, which end knows
	b.buf = native.AppendUint16(b.buf, typ)
	b.buf = native.AppendUint16(b.buf, unix.NLM_F_REQUEST|flags)
	b.buf = native.AppendUint32(b.buf, uint32(len(b.about)))
	b.buf = native.AppendUint32(b.buf, 0)
	b.buf = append(b.buf, family, unix.NFNETLINK_V0, byte(resource>>8), byte(resource))
	b.about = append(b.about, about)
}

func (b *batch) end() {
	binary.NativeEndian.PutUint32(b.buf[b.message:], uint32(len(b.buf)-b.message))
}

// open an attribute, to be closed when its bytes or attributes are written.
func (b *batch) open(typ uint16) (at int) {
	at = len(b.buf)
	b.buf = append(b.buf, 0, 0)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
	return at
}

func (b *batch) nest(typ uint16) (at int) { return b.open(typ | unix.NLA_F_NESTED) }

func (b *batch) close(at int) {
	n := len(b.buf) - at
	if n > math.MaxUint16 && b.failed == nil {
		b.failed = fmt.Errorf("%s: %w: an attribute of %d bytes, and there can be %d", b.about[len(b.about)-1], errTooBig, n, math.MaxUint16)
	}
	binary.NativeEndian.PutUint16(b.buf[at:], uint16(n))
	for len(b.buf)%4 != 0 {
		b.buf = append(b.buf, 0)
	}
}

func (b *batch) bytes(typ uint16, value ...byte) {
	at := b.open(typ)
	b.buf = append(b.buf, value...)
	b.close(at)
}

func (b *batch) text(typ uint16, s string) {
	at := b.open(typ)
	b.buf = append(append(b.buf, s...), 0)
	b.close(at)
}

func (b *batch) u32(typ uint16, n uint32) {
	at := b.open(typ)
	b.buf = binary.BigEndian.AppendUint32(b.buf, n)
	b.close(at)
}

func (b *batch) u64(typ uint16, n uint64) {
	at := b.open(typ)
	b.buf = binary.BigEndian.AppendUint64(b.buf, n)
	b.close(at)
}

// value is data in a register, as NFTA_DATA_VALUE within the attribute.
func (b *batch) value(typ uint16, data []byte) {
	at := b.nest(typ)
	b.bytes(unix.NFTA_DATA_VALUE, data...)
	b.close(at)
}

// errTooBig says that something is more than the kernel takes at once.
var errTooBig = errors.New("too big for the kernel")

// send commits the transaction: all of it or, with an error, nothing. The kernel works while it is being sent to, so that whatever
// it has to say is there when send returns; silence is success.
func (c *Conn) send(b *batch) error {
	if b.failed != nil {
		return b.failed
	}
	b.begin(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, subject{})
	b.end()
	if err := c.makeRoom(len(b.buf)); err != nil {
		return err
	}
	if err := c.call("sending"); err != nil {
		return err
	}
	if err := c.write(b.buf); err != nil {
		return fmt.Errorf("sending %d bytes: %w", len(b.buf), err)
	}
	return c.answers(b)
}

// write to the kernel, which has done what it is told when write returns.
func (c *Conn) write(b []byte) error {
	raw, err := c.sock.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(sent, unix.EAGAIN)
	})
	return errors.Join(err, sent)
}

// makeRoom in the socket's buffer for a whole transaction, which the kernel takes in one piece only.
func (c *Conn) makeRoom(n int) (err error) {
	const spare = 4096 // the kernel's own share of a buffer
	if n+spare <= c.room {
		return nil
	}
	if err := c.call("making room"); err != nil {
		return err
	}
	// The kernel keeps twice what it is asked for, in an int.
	if err := c.sock.SetWriteBuffer(min(n+spare, math.MaxInt32/2)); err != nil {
		return fmt.Errorf("making room for %d bytes: %w", n, err)
	}
	if c.room, err = c.sock.WriteBuffer(); err != nil {
		return fmt.Errorf("making room for %d bytes: %w", n, err)
	}
	if n+spare > c.room {
		return fmt.Errorf("%w: the transaction has %d bytes, and the socket takes %d: unless that is all that there can be, sysctl "+
			"net.core.wmem_max must be larger, or we must have CAP_NET_ADMIN on the host itself: %w", errTooBig, n, c.room-spare, unix.EMSGSIZE)
	}
	return nil
}

// answers reads all that the kernel has said about the transaction. Of several complaints the first counts.
func (c *Conn) answers(b *batch) error {
	if err := c.call("receiving"); err != nil {
		c.unheard = true
		return err
	}
	var refused, lost error
	for {
		m, err := c.receive()
		switch {
		case errors.Is(err, unix.EAGAIN) && refused == nil:
			return lost
		case errors.Is(err, unix.EAGAIN):
			return refused
		case errors.Is(err, unix.ENOBUFS): // there were more complaints than there was room for
			lost = fmt.Errorf("receiving: %w", err)
		case err != nil:
			c.unheard = true
			return fmt.Errorf("receiving: %w", err)
		case refused == nil:
			refused = b.complaint(m)
		}
	}
}

// largestAnswer is what the kernel puts at most into one piece of a listing, once it has seen a buffer of that size; and for each piece
// of a set's elements it begins to count at the first one.
const largestAnswer = 32 << 10

// receive a message that is there already; EAGAIN says that there is none.
func (c *Conn) receive() (m []byte, err error) {
	raw, err := c.sock.SyscallConn()
	if err != nil {
		return nil, err
	}
	if c.answer == nil {
		c.answer = make([]byte, largestAnswer)
	}
	var got error
	n := 0
	err = raw.Read(func(fd uintptr) bool {
		n, _, got = unix.Recvfrom(int(fd), c.answer, unix.MSG_DONTWAIT)
		return !errors.Is(got, unix.EINTR)
	})
	return c.answer[:max(n, 0)], errors.Join(err, got)
}

// drain what was said about a transaction whose answers could not be read, so that nobody takes it for an answer to him.
func (c *Conn) drain() {
	c.unheard = false
	for {
		if _, err := c.receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
	}
}

// complaint is what a message from the kernel says against the transaction, if it does.
func (b *batch) complaint(m []byte) error {
	const about = headerSize + 4 + 8 // where the sequence number is in the header of ours that is quoted behind the error's number
	native := binary.NativeEndian
	if len(m) < about+4 || native.Uint16(m[4:]) != unix.NLMSG_ERROR {
		return nil
	}
	code := int32(native.Uint32(m[headerSize:]))
	if code == 0 {
		return nil
	}
	errno := unix.Errno(-code)
	if seq := native.Uint32(m[about:]); seq > 0 && int(seq) < len(b.about) {
		return fmt.Errorf("%s: %w", b.about[seq], errno)
	}
	return fmt.Errorf("the transaction as a whole: %w", errno)
}

// capAcknowledge has the kernel quote of what it refuses the header only: a message may have 64 KiB, and thousands be refused.
func capAcknowledge(s *netlink.Conn) error { return s.SetOption(netlink.CapAcknowledge, true) }
