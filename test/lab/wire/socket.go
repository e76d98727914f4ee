package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// sockets of a node. They work from any thread, wherever it is.
type sockets struct {
	wires  int           // sends and receives frames on all far ends
	marks  int           // the same for markers, in the node
	send   map[bool]int  // the host's raw sockets, for packets with their IP header; true for IPv6
	listen map[local]int // raw sockets on which the host receives
	fds    []int
}

// local is what one raw socket receives.
type local struct {
	v6    bool
	proto uint8
}

func (s *sockets) open(inner, outside *namespace) error {
	s.send, s.listen = map[bool]int{}, map[local]int{}
	err := outside.do(func() (err error) {
		s.wires, err = s.packets(unix.ETH_P_ALL)
		return err
	})
	if err != nil {
		return err
	}
	return inner.do(func() (err error) {
		if s.marks, err = s.packets(etherMarker); err != nil {
			return err
		}
		for _, v6 := range []bool{false, true} {
			if s.send[v6], err = s.raw(local{v6, unix.IPPROTO_RAW}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *sockets) close() {
	for _, fd := range s.fds {
		_ = unix.Close(fd) // nothing is on its way
	}
	s.fds = nil
}

// A batch is the packets that are sent before those that came out are read: the kernel counts about 1.3 kB for each, and for
// each answer.
const (
	batch = 64
	room  = 200 << 10
)

// packets makes a socket for the frames of an Ethernet type on all interfaces, but for those that it sends itself.
func (s *sockets) packets(ether uint16) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(networkOrder(ether)))
	if err != nil {
		return 0, fmt.Errorf("packet socket: %w", err)
	}
	s.fds = append(s.fds, fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		return 0, fmt.Errorf("packet socket: %w", err)
	}
	return fd, s.prepare(fd)
}

func networkOrder(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

func (s *sockets) raw(l local) (int, error) {
	family := unix.AF_INET
	if l.v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(l.proto))
	if err != nil {
		return 0, fmt.Errorf("raw socket for protocol %d: %w", l.proto, err)
	}
	s.fds = append(s.fds, fd)
	return fd, s.prepare(fd)
}

func (s *sockets) listenFor(l local) (err error) {
	if _, there := s.listen[l]; !there && l.receivable() {
		s.listen[l], err = s.raw(l)
	}
	return err
}

// receivable tells what Linux gives to raw sockets at all.
func (l local) receivable() bool { return l.proto != 0 && l.proto != unix.IPPROTO_RAW }

// prepare makes room for all of a batch and for the answers to it, as far as an ordinary user may ask for it, and sees to it that
// nobody waits for ever.
func (s *sockets) prepare(fd int) error {
	wait := unix.NsecToTimeval(patience.Nanoseconds())
	err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, room),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait))
	if err != nil {
		return fmt.Errorf("setting up a socket: %w", err)
	}
	return nil
}
