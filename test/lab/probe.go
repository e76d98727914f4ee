package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// Observation is what became of a flow's packets.
type Observation uint8

// The observations.
const (
	Lost    Observation = iota // nothing came
	Arrived                    // the packet came where it was sent, and over TCP a connection was made
	Unsent                     // no first packet of a flow looks like that: connection tracking would call it invalid
)

// atOnce is how many flows are under way at a time.
const atOnce = 256

// Send sends each flow as a connection of its own, and says what became of each. A flow that nothing is seen of within wait is
// lost. Flows that are the same are sent once.
func (l *Lab) Send(ctx context.Context, flows []policy.Flow, wait time.Duration) ([]Observation, error) {
	s := &sending{lab: l, wait: wait, base: rand.Uint32N(1 << 30), seen: make([]chan struct{}, len(flows)), servers: map[server]bool{}}
	defer s.close()
	first := map[policy.Flow]int{}
	out := make([]Observation, len(flows))
	for i, f := range flows {
		s.seen[i] = make(chan struct{})
		if _, again := first[f]; again || !sendable(f) {
			continue
		}
		first[f] = i
		if err := s.serve(f); err != nil {
			return nil, fmt.Errorf("listening for %s: %w", text(f), err)
		}
	}
	errs := make([]error, len(flows))
	tickets := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i, f := range flows {
		if !sendable(f) {
			out[i] = Unsent
			continue
		}
		if first[f] != i {
			continue
		}
		tickets <- struct{}{}
		all.Go(func() {
			defer func() { <-tickets }()
			out[i], errs[i] = s.one(ctx, i, f)
		})
	}
	all.Wait()
	for i, f := range flows {
		if sendable(f) {
			out[i] = out[first[f]]
		}
		if errs[i] != nil {
			errs[i] = fmt.Errorf("sending %s: %w", text(f), errs[i])
		}
	}
	return out, errors.Join(errs...)
}

func text(f policy.Flow) string {
	return fmt.Sprintf("%s from %s to %s port %d", policy.ProtoName(f.Proto), f.Src, f.Dst, f.DstPort)
}

// sending is one Send: its listeners, and what they have seen.
type sending struct {
	lab     *Lab
	wait    time.Duration
	base    uint32 // flow i carries the token base + i
	mu      sync.Mutex
	seen    []chan struct{} // closed when flow i has arrived
	servers map[server]bool
	closers []func() error
}

// server is where flows arrive: a port, or every packet of a protocol.
type server struct {
	addr  netip.Addr
	proto uint8
	port  uint16
}

func serverOf(f policy.Flow) server {
	if f.Proto == policy.ProtoTCP || f.Proto == policy.ProtoUDP {
		return server{f.Dst, f.Proto, f.DstPort}
	}
	return server{f.Dst, f.Proto, 0}
}

func (s *sending) close() {
	for _, c := range s.closers {
		_ = c() // they only read
	}
}

// arrived notes the flow that a token is of; tokens of others are none of ours.
func (s *sending) arrived(token uint32) {
	i := token - s.base
	if uint64(i) >= uint64(len(s.seen)) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.seen[i]:
	default:
		close(s.seen[i])
	}
}

func (s *sending) owner(a netip.Addr) (*namespace, error) {
	ns := s.lab.owner[a]
	if ns == nil {
		return nil, fmt.Errorf("nobody in the lab has the address %s", a)
	}
	return ns, nil
}

// serve listens where a flow goes to.
func (s *sending) serve(f policy.Flow) error {
	at := serverOf(f)
	if s.servers[at] {
		return nil
	}
	ns, err := s.owner(f.Dst)
	if err != nil {
		return err
	}
	s.servers[at] = true
	return ns.do(func() error {
		switch f.Proto {
		case policy.ProtoTCP:
			return s.serveTCP(at)
		case policy.ProtoUDP:
			return s.serveUDP(at)
		}
		return s.serveRaw(at)
	})
}

func (s *sending) serveTCP(at server) error {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(at.addr, at.port)))
	if err != nil {
		return err
	}
	s.closers = append(s.closers, l.Close)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return nil
}

func (s *sending) serveUDP(at server) error {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.addr, at.port)))
	if err != nil {
		return err
	}
	s.closers = append(s.closers, c.Close)
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if token, ok := tokenIn(b[:n], 0); ok {
				s.arrived(token)
			}
			_, _ = c.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	return nil
}

func (s *sending) serveRaw(at server) error {
	c, err := net.ListenIP(rawNetwork(at.addr, at.proto), &net.IPAddr{IP: at.addr.AsSlice()})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, c.Close)
	go func() {
		b := make([]byte, 1500)
		for {
			n, _, err := c.ReadFromIP(b)
			if err != nil {
				return
			}
			if token, ok := tokenIn(b[:n], tokenOffset(at.proto)); ok {
				s.arrived(token)
			}
		}
	}()
	return nil
}

func rawNetwork(a netip.Addr, proto uint8) string {
	if a.Is4() {
		return fmt.Sprintf("ip4:%d", proto)
	}
	return fmt.Sprintf("ip6:%d", proto)
}

// one sends a flow and waits for it to arrive.
func (s *sending) one(ctx context.Context, i int, f policy.Flow) (Observation, error) {
	ns, err := s.owner(f.Src)
	if err != nil {
		return Lost, err
	}
	if f.Proto == policy.ProtoTCP {
		return s.connect(ctx, ns, f)
	}
	var c net.Conn
	if err := ns.do(func() (err error) { c, err = dial(f); return err }); err != nil {
		return Lost, err
	}
	defer c.Close()
	packet := packetOf(f, s.base+uint32(i))
	// Twice, for the first may be lost while addresses are being resolved.
	for range 2 {
		if _, err := c.Write(packet); err != nil && !refused(err) {
			return Lost, err
		}
		select {
		case <-s.seen[i]:
			return Arrived, nil
		case <-ctx.Done():
			return Lost, ctx.Err()
		case <-time.After(s.wait / 2):
		}
	}
	return Lost, nil
}

func dial(f policy.Flow) (net.Conn, error) {
	if f.Proto == policy.ProtoUDP {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.Src, f.SrcPort)), Control: shareAddress}
		return d.Dial("udp", netip.AddrPortFrom(f.Dst, f.DstPort).String())
	}
	return net.DialIP(rawNetwork(f.Src, f.Proto), &net.IPAddr{IP: f.Src.AsSlice()}, &net.IPAddr{IP: f.Dst.AsSlice()})
}

// shareAddress lets several flows have one source port at a time.
func shareAddress(_, _ string, raw syscall.RawConn) error {
	var err error
	if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }); cerr != nil {
		return cerr
	}
	return err
}

// connect makes a TCP connection, and resets it so that its ports are free again at once.
func (s *sending) connect(ctx context.Context, ns *namespace, f policy.Flow) (Observation, error) {
	ctx, stop := context.WithTimeout(ctx, s.wait)
	defer stop()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.Src, f.SrcPort)), FallbackDelay: -1, Control: shareAddress}
	var c net.Conn
	err := ns.do(func() (err error) {
		c, err = d.DialContext(ctx, "tcp", netip.AddrPortFrom(f.Dst, f.DstPort).String())
		return err
	})
	switch {
	case err == nil:
		_ = c.(*net.TCPConn).SetLinger(0)
		return Arrived, c.Close()
	case os.IsTimeout(err) || errors.Is(err, context.DeadlineExceeded) || refused(err):
		return Lost, nil
	}
	return Lost, err
}
