package main

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// traffic is something of which we measure the cost: so many times the same.
type traffic struct {
	name  string
	times int
	send  func(*road) error
	about string
}

// kinds are what is measured. How often is such that it takes about ten milliseconds: short enough that another program seldom
// comes between, and long enough for the clock.
var kinds = []traffic{
	{"new TCP", 400, (*road).newConnection, "a TCP connection that is made, accepted and reset"},
	{"request", 1500, (*road).request, "a request of one byte and its response on an open TCP connection"},
	{"UDP", 1500, (*road).newFlow, "a UDP datagram, the first of its flow, from a socket that is made for it"},
	{"raw UDP", 3000, (*road).newDatagram, "the same from one raw socket: all that is left is the way"},
	{"stream", 500, (*road).stream, "48 KiB of an open TCP connection, which pass as one packet"},
}

// cpu that this thread has used, which has all that a packet costs in it (see road). Softirq time is in it unless the kernel has
// IRQ_TIME_ACCOUNTING.
func cpu() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("reading the thread's CPU time: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// cost of each one of some traffic, in nanoseconds. The thread must be in the client's namespace.
func (r *road) cost(t *traffic) (float64, error) {
	before, err := cpu()
	if err != nil {
		return 0, err
	}
	for range t.times {
		if err := t.send(r); err != nil {
			return 0, fmt.Errorf("%s on road %s: %w", t.name, r.name, err)
		}
	}
	after, err := cpu()
	return float64(after-before) / float64(t.times), err
}

var (
	tcpTo = &unix.SockaddrInet4{Port: tcpPort, Addr: serverAddr.As4()}
	udpTo = &unix.SockaddrInet4{Port: udpPort, Addr: serverAddr.As4()}
	rawTo = &unix.SockaddrInet4{Addr: serverAddr.As4()}
	abort = &unix.Linger{Onoff: 1}
)

// newConnection is four packets, the first of which is new: SYN, SYN ACK, ACK, RST. A connection that is reset leaves nothing behind
// at either end, so thousands can follow each other.
func (r *road) newConnection() error {
	near, far, err := r.connect()
	if err != nil {
		return err
	}
	if err := unix.SetsockoptLinger(near, unix.SOL_SOCKET, unix.SO_LINGER, abort); err != nil {
		return err
	}
	if err := unix.Close(near); err != nil {
		return err
	}
	return unix.Close(far)
}

func (r *road) connect() (near, far int, err error) {
	if near, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err != nil {
		return 0, 0, err
	}
	if err = unix.Connect(near, tcpTo); err != nil {
		return 0, 0, fmt.Errorf("connecting: %w", err)
	}
	far, _, err = unix.Accept(r.listener)
	return near, far, err
}

var (
	one   [1]byte
	block [48 << 10]byte
)

func (r *road) request() error {
	for _, way := range [][2]int{{r.near, r.far}, {r.far, r.near}} {
		if _, err := unix.Write(way[0], one[:]); err != nil {
			return err
		}
		if n, err := unix.Read(way[1], one[:]); n != 1 || err != nil {
			return fmt.Errorf("reading %d bytes: %w", n, err)
		}
	}
	return nil
}

func (r *road) stream() error {
	if n, err := unix.Write(r.near, block[:]); n != len(block) || err != nil {
		return fmt.Errorf("writing %d bytes: %w", n, err)
	}
	for left := len(block); left > 0; {
		n, err := unix.Read(r.far, block[:left])
		if n == 0 || err != nil {
			return fmt.Errorf("reading %d bytes: %w", n, err)
		}
		left -= n
	}
	return nil
}

// newFlow is what a program does that asks and forgets, such as a resolver.
func (r *road) newFlow() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Sendto(fd, one[:], 0, udpTo); err != nil {
		return err
	}
	if n, err := unix.Read(r.udp, one[:]); n != 1 || err != nil {
		return fmt.Errorf("a datagram of %d bytes arrived: %w", n, err)
	}
	return unix.Close(fd)
}

// newDatagram sends from another port each time, and sees that it arrives.
func (r *road) newDatagram() error {
	r.port = max(r.port+1, 1024)
	binary.BigEndian.PutUint16(r.datagram[20:], r.port)
	if err := unix.Sendto(r.raw, r.datagram[:], 0, rawTo); err != nil {
		return err
	}
	if n, err := unix.Read(r.udp, one[:]); n != 1 || err != nil {
		return fmt.Errorf("a datagram of %d bytes arrived: %w", n, err)
	}
	return nil
}

// udpDatagram of one byte, without a checksum; the kernel fills in that of IPv4.
func udpDatagram() (d [29]byte) {
	d[0], d[8], d[9] = 0x45, 64, unix.IPPROTO_UDP
	copy(d[12:], clientAddr.AsSlice())
	copy(d[16:], serverAddr.AsSlice())
	binary.BigEndian.PutUint16(d[22:], udpPort)
	binary.BigEndian.PutUint16(d[24:], 9)
	return d
}
