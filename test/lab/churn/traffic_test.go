package churn

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/test/lab"
)

// manner is how a flow sends what it sends.
type manner uint8

const (
	datagrams   manner = iota // of UDP, from one port; nobody answers, so each of them is new to connection tracking
	connections               // of TCP, each new; a number goes there and comes back
	requests                  // for a TCP connection, each from a port of its own, of which nothing more comes
	stream                    // of TCP, open all the time; numbers go both ways
)

// flow is numbered packets from one end to another, and what became of them. One that is denied waits for nothing.
type flow struct {
	name     string
	manner   manner
	from, to netip.Addr
	port     uint16
	denied   bool

	sent, arrived, lost atomic.Uint64 // packets; lost counts retransmissions too

	first, last time.Time // when something denied arrived
	before      uint64    // what had arrived when it was last looked at
}

const clock = "15:04:05.000000"

// ends of flows.
var (
	one     = pair{"10.0.0.1", "fd00::1"}
	two     = pair{"10.0.0.2", "fd00::2"}
	three   = pair{"10.0.1.1", "fd00::1:1"}
	four    = pair{"10.0.1.2", "fd00::1:2"}
	outside = pair{"198.51.100.9", "2001:db8:f::9"}
)

type pair [2]string // the addresses of one end, of IPv4 and IPv6

func (p pair) addr(family int) netip.Addr { return netip.MustParseAddr(p[family]) }

func (p pair) addrs() []netip.Addr { return []netip.Addr{p.addr(0), p.addr(1)} }

// The ports, and what both policies say of them.
const (
	allowed     = 7000
	notIn       = 7001 // denied where packets come in
	notOut      = 7002 // denied where packets of pods go out; UDP only
	forStreams  = 7003
	longest     = 3 * time.Second // that an allowed packet may be under way; then it is lost, unless it comes after all
	mostWritten = 12              // incidents that are told one by one
)

// ways are every way of every manner, in both families.
func ways() (flows []*flow) {
	for _, way := range []struct {
		name     string
		from, to pair
	}{{"one node", one, two}, {"two nodes", one, three}, {"outside", outside, four}} {
		for family := range 2 {
			for _, w := range []struct {
				manner manner
				port   uint16
				denied bool
			}{{datagrams, allowed, false}, {datagrams, notIn, true}, {datagrams, notOut, true},
				{connections, allowed, false}, {requests, notIn, true}, {stream, forStreams, false}} {
				if w.port == notOut && way.from == outside {
					continue // nobody says what may leave there
				}
				name := fmt.Sprintf("%s, %s v%d", way.name, manners[w.manner], 4+2*family)
				if w.port == notOut {
					name += ", going out"
				}
				flows = append(flows, &flow{name: name, manner: w.manner, from: way.from.addr(family), to: way.to.addr(family), port: w.port, denied: w.denied})
			}
		}
	}
	return flows
}

var manners = [...]string{datagrams: "UDP", connections: "TCP connections", requests: "SYN", stream: "TCP stream"}

// traffic is flows that run until it is stopped.
type traffic struct {
	lab   *lab.Lab
	name  string
	flows []*flow
	burst int
	pace  time.Duration
	doing atomic.Pointer[string] // what is done to the table meanwhile

	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup // those who send
	hearing sync.WaitGroup // those who receive
	closers []io.Closer

	mu        sync.Mutex
	incidents []string
	more      int
}

// start sends bursts of each flow, one burst a pace.
func start(ctx context.Context, name string, l *lab.Lab, flows []*flow, burst int, pace time.Duration) (*traffic, error) {
	t := &traffic{lab: l, name: name, flows: flows, burst: burst, pace: pace}
	t.ctx, t.stop = context.WithCancel(ctx)
	t.does("nothing")
	runners := map[manner]func(*flow) (func(), error){datagrams: t.datagrams, connections: t.connections, requests: t.requests, stream: t.stream}
	for _, f := range flows {
		send, err := runners[f.manner](f)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %s: %w", name, f.name, err), t.end())
		}
		t.running.Go(func() {
			// All of a sender's sockets are made on its thread, which is where it sends from.
			if err := l.At(f.from, func() error { send(); return nil }); err != nil {
				t.lose(f, 1, err)
			}
		})
	}
	return t, nil
}

// end waits for what is under way.
func (t *traffic) end() error {
	t.stop()
	t.running.Wait()
	var errs []error
	for _, c := range t.closers {
		switch c := c.(type) {
		case interface{ SetReadDeadline(time.Time) error }:
			errs = append(errs, c.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		default:
			errs = append(errs, c.Close())
		}
	}
	t.hearing.Wait()
	for _, c := range t.closers {
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (t *traffic) does(what string) { t.doing.Store(&what) }

// note remembers an incident, and what was going on.
func (t *traffic) note(f *flow, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.incidents) == mostWritten {
		t.more++
		return
	}
	t.incidents = append(t.incidents, fmt.Sprintf("%s %s: %s: %s, while: %s", time.Now().Format(clock), t.name, f.name, what, *t.doing.Load()))
}

func (t *traffic) lose(f *flow, n uint64, why any) {
	f.lost.Add(n)
	t.note(f, fmt.Sprintf("lost %d: %v", n, why))
}

// came counts a packet that has arrived.
func (t *traffic) came(f *flow, number uint64) {
	f.arrived.Add(1)
	if !f.denied {
		return
	}
	t.mu.Lock()
	if f.last = time.Now(); f.first.IsZero() {
		f.first = f.last
	}
	t.mu.Unlock()
	t.note(f, fmt.Sprintf("number %d came through", number))
}

// forget what has been counted: a new count begins.
func (t *traffic) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.flows {
		f.sent.Store(0)
		f.arrived.Store(0)
		f.lost.Store(0)
		f.first, f.last = time.Time{}, time.Time{}
	}
	t.incidents, t.more = nil, 0
}

// open is how long denied packets have come through, of the flow of which they did longest.
func (t *traffic) open() (longest time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.flows {
		longest = max(longest, f.last.Sub(f.first))
	}
	return longest
}

// sum is the totals of the flows that are denied, or of those that are not.
func (t *traffic) sum(denied bool) (sent, arrived, lost uint64) {
	for _, f := range t.flows {
		if f.denied == denied {
			sent, arrived, lost = sent+f.sent.Load(), arrived+f.arrived.Load(), lost+f.lost.Load()
		}
	}
	return sent, arrived, lost
}

// String is the figures of each flow, and the incidents.
func (t *traffic) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:\n", t.name)
	for _, f := range t.flows {
		fmt.Fprintf(&b, "  %-32s ", f.name)
		if f.denied {
			fmt.Fprintf(&b, "denied   sent %8d  through %d\n", f.sent.Load(), f.arrived.Load())
		} else {
			fmt.Fprintf(&b, "allowed  sent %8d  lost %d\n", f.sent.Load(), f.lost.Load())
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, i := range t.incidents {
		fmt.Fprintf(&b, "  %s\n", i)
	}
	if t.more > 0 {
		fmt.Fprintf(&b, "  and %d more\n", t.more)
	}
	return b.String()
}

// each does one burst a pace until the end.
func (t *traffic) each(burst func() bool) {
	tick := time.NewTicker(t.pace)
	defer tick.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-tick.C:
			if !burst() {
				return
			}
		}
	}
}

// hear receives until the socket is closed or its deadline has come.
func (t *traffic) hear(c io.Closer, receive func() error) {
	t.closers = append(t.closers, c)
	t.hearing.Go(func() {
		for {
			if err := receive(); err != nil {
				return
			}
		}
	})
}

// datagrams waits for each allowed burst to arrive, so that no queue on the way is ever full.
func (t *traffic) datagrams(f *flow) (send func(), err error) {
	var server *net.UDPConn
	err = t.lab.At(f.to, func() (err error) {
		server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.to, f.port)))
		return err
	})
	if err != nil {
		return nil, err
	}
	p := pending{numbers: map[uint64]bool{}, missing: map[uint64]bool{}, none: make(chan struct{}, 1)}
	b := make([]byte, 64)
	t.hear(server, func() error {
		n, _, err := server.ReadFromUDPAddrPort(b)
		if err != nil || n != 8 {
			return err
		}
		number := binary.BigEndian.Uint64(b)
		switch was, late := p.remove(number); {
		case f.denied || was:
			t.came(f, number)
		case late:
			f.lost.Add(^uint64(0))
			t.note(f, fmt.Sprintf("number %d came after all", number))
		}
		return nil
	})
	return func() { t.sendDatagrams(f, &p) }, nil
}

func (t *traffic) sendDatagrams(f *flow, p *pending) {
	client, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.from, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.to, f.port)))
	if err != nil {
		t.lose(f, 1, err)
		return
	}
	defer client.Close()
	number := uint64(0)
	t.each(func() bool {
		doing, began := *t.doing.Load(), time.Now()
		for range t.burst {
			number++
			f.sent.Add(1)
			if !f.denied {
				p.add(number)
			}
			if _, err := client.Write(binary.BigEndian.AppendUint64(nil, number)); err != nil {
				t.note(f, fmt.Sprintf("sending number %d: %v", number, err))
			}
		}
		if !f.denied {
			if missing := p.wait(longest); len(missing) > 0 {
				t.lose(f, uint64(len(missing)), fmt.Sprintf("numbers %v, sent at %s while: %s", missing, began.Format(clock), doing))
			}
		}
		return true
	})
}

// pending are the numbers that are under way, and those that have been for too long.
type pending struct {
	mu      sync.Mutex
	numbers map[uint64]bool
	missing map[uint64]bool
	none    chan struct{}
}

func (p *pending) add(n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.numbers[n] = true
}

// remove tells whether the number was under way, or had been given up.
func (p *pending) remove(n uint64) (was, late bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was, late = p.numbers[n], p.missing[n]
	delete(p.numbers, n)
	delete(p.missing, n)
	if was && len(p.numbers) == 0 {
		select {
		case p.none <- struct{}{}:
		default: // it is known
		}
	}
	return was, late
}

// wait gives the numbers that have not arrived in time, and gives them up.
func (p *pending) wait(most time.Duration) (missing []uint64) {
	deadline := time.NewTimer(most)
	defer deadline.Stop()
	for {
		p.mu.Lock()
		left := len(p.numbers)
		p.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-p.none:
		case <-deadline.C:
			p.mu.Lock()
			defer p.mu.Unlock()
			missing = slices.Sorted(maps.Keys(p.numbers))
			maps.Copy(p.missing, p.numbers)
			clear(p.numbers)
			return missing
		}
	}
}

// listen serves connections at the end of a flow.
func (t *traffic) listen(f *flow, serve func(*net.TCPConn)) error {
	return t.lab.At(f.to, func() error {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.to, f.port)))
		if err != nil {
			return err
		}
		t.hear(l, func() error {
			c, err := l.AcceptTCP()
			if err == nil {
				t.hearing.Go(func() { serve(c) })
			}
			return err
		})
		return nil
	})
}

func (t *traffic) dial(f *flow) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, FallbackDelay: -1, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.from, 0))}
	c, err := d.Dial("tcp", netip.AddrPortFrom(f.to, f.port).String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// again is how many packets of a connection this end has had to send again, but for those that turned out to have arrived before:
// a busy machine answers late.
func again(c *net.TCPConn) (n uint64) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = uint64(info.Total_retrans) - min(uint64(info.Total_retrans), uint64(info.Dsack_dups))
		}
	})
	return n
}

// resent counts as lost what this end of a connection has sent again.
func (t *traffic) resent(f *flow, c *net.TCPConn) {
	if n := again(c); n > 0 {
		t.lose(f, n, "sent again")
	}
}

func (t *traffic) connections(f *flow) (send func(), err error) {
	err = t.listen(f, func(c *net.TCPConn) {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second)) // the client may be gone without a word
		b := make([]byte, 8)
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		if _, err := c.Write(b); err == nil {
			_, _ = c.Read(b) // until the client ends it
		}
		t.resent(f, c)
	})
	return func() {
		number := uint64(0)
		t.each(func() bool {
			number++
			f.sent.Add(1)
			if err := t.connect(f, number); err != nil {
				t.lose(f, 1, fmt.Sprintf("connection %d: %v", number, err))
			}
			return true
		})
	}, err
}

func (t *traffic) connect(f *flow, number uint64) error {
	c, err := t.dial(f)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetLinger(0) // so that its port is free again
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	b := binary.BigEndian.AppendUint64(nil, number)
	if _, err := c.Write(b); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	t.came(f, number)
	t.resent(f, c)
	return nil
}

// requests are seen where they arrive by a raw socket for just that port.
func (t *traffic) requests(f *flow) (send func(), err error) {
	network, ports := "ip4:tcp", []unix.SockFilter{
		{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0}, // the length of the IPv4 header
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: 2},
	}
	if f.to.Is6() {
		network, ports = "ip6:tcp", []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 2}}
	}
	ports = append(ports, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(f.port), Jf: 1},
		unix.SockFilter{Code: unix.BPF_RET, K: 1500}, unix.SockFilter{Code: unix.BPF_RET, K: 0})
	var server *net.IPConn
	err = t.lab.At(f.to, func() (err error) {
		server, err = net.ListenIP(network, &net.IPAddr{IP: f.to.AsSlice()})
		return err
	})
	if err != nil {
		return nil, err
	}
	raw, err := server.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(ports)), Filter: &ports[0]})
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	b := make([]byte, 1500)
	t.hear(server, func() error {
		n, from, err := server.ReadFromIP(b)
		if err == nil && n >= 4 && from.IP.Equal(f.from.AsSlice()) && binary.BigEndian.Uint16(b[2:]) == f.port {
			t.came(f, uint64(binary.BigEndian.Uint16(b)))
		}
		return err
	})
	return func() {
		t.each(func() bool {
			for range t.burst {
				f.sent.Add(1)
				if err := request(f); err != nil {
					t.note(f, fmt.Sprintf("sending: %v", err))
				}
			}
			return true
		})
	}, nil
}

// request sends the first packet of a TCP connection, and no more.
func request(f *flow) error {
	family := unix.AF_INET
	if f.from.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(f.from, 0)); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if err := unix.Connect(fd, sockaddr(f.to, f.port)); !errors.Is(err, unix.EINPROGRESS) {
		return os.NewSyscallError("connect", err)
	}
	return nil
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
	}
	return &unix.SockaddrInet6{Addr: a.As16(), Port: int(port)}
}

// stream counts what either end has had to send again, and that every number comes, in order.
func (t *traffic) stream(f *flow) (send func(), err error) {
	err = t.listen(f, func(c *net.TCPConn) {
		defer c.Close()
		t.follow(f, c, func(b []byte) error {
			t.came(f, binary.BigEndian.Uint64(b))
			_, err := c.Write(b)
			return err
		})
		t.resent(f, c)
	})
	return func() {
		c, err := t.dial(f)
		if err != nil {
			t.lose(f, 1, err)
			return
		}
		var back sync.WaitGroup
		back.Go(func() { t.follow(f, c, func([]byte) error { return nil }) })
		number := uint64(0)
		t.each(func() bool {
			number++
			f.sent.Add(1)
			_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second))
			_, err := c.Write(binary.BigEndian.AppendUint64(nil, number))
			if err != nil {
				t.lose(f, 1, err)
			}
			return err == nil
		})
		_ = c.CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(longest))
		back.Wait()
		t.resent(f, c)
		_ = c.Close()
	}, err
}

// follow reads the numbers of a stream until it ends.
func (t *traffic) follow(f *flow, c *net.TCPConn, then func(b []byte) error) {
	b := make([]byte, 8)
	for want := uint64(1); ; want++ {
		_, err := io.ReadFull(c, b)
		if errors.Is(err, io.EOF) {
			return
		}
		if number := binary.BigEndian.Uint64(b); err == nil && number != want {
			err = fmt.Errorf("number %d came for %d", number, want)
		}
		if err == nil {
			err = then(b)
		}
		if err != nil {
			t.lose(f, 1, err)
			return
		}
	}
}
