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
	"time"

	"github.com/vishvananda/netlink"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// Observation is what became of a flow's packets.
type Observation uint8

// The observations.
const (
	Lost       Observation = iota // nothing came
	Arrived                       // the packet came where it was sent, and its answer came back where the protocol has one
	Unsent                        // no first packet of a flow looks like that, or the lab has no such way: nothing was sent
	Unanswered                    // the packet came where it was sent, but no answer came back
)

// String is the verdict that an observation amounts to. What is Unanswered has been let through, but is of no use to anybody.
func (o Observation) String() string {
	return [...]string{Lost: "Deny", Arrived: "Allow", Unsent: "Unsent", Unanswered: "Unanswered"}[o]
}

// atOnce is how many flows are under way at a time.
const atOnce = 512

// Send sends each flow as a connection of its own, and says what became of each. A flow that nothing is seen of within wait is
// lost. Flows that are the same are sent once; a flow that has ports must name both.
func (l *Lab) Send(ctx context.Context, flows []policy.Flow, wait time.Duration) ([]Observation, error) {
	seen := map[policy.Flow]Observation{}
	var distinct []policy.Flow
	for _, f := range flows {
		if _, again := seen[f]; again {
			continue
		}
		seen[f] = Unsent
		if !sendable(f) {
			continue
		}
		switch err := l.steer(f); {
		case err == nil:
			distinct = append(distinct, f)
		case !errors.Is(err, errNoWay):
			return nil, err
		}
	}
	for _, w := range waves(distinct) {
		if err := l.forget(); err != nil {
			return nil, err
		}
		if err := l.sendWave(ctx, w, wait, seen); err != nil {
			return nil, err
		}
	}
	out := make([]Observation, len(flows))
	for i, f := range flows {
		out[i] = seen[f]
	}
	return out, nil
}

// forget makes the nodes forget the connections of an earlier wave, lest a flow be let through for what it has in common
// with one of them.
func (l *Lab) forget() error {
	if !l.sent {
		l.sent = true
		return nil
	}
	for name, n := range l.nodes {
		if err := n.link.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			return fmt.Errorf("forgetting the connections of node %s: %w", name, err)
		}
	}
	return nil
}

func (l *Lab) sendWave(ctx context.Context, flows []policy.Flow, wait time.Duration, seen map[policy.Flow]Observation) error {
	s := newSending(l, flows, wait)
	defer s.close()
	for _, f := range flows {
		if err := s.serve(f); err != nil {
			return fmt.Errorf("listening for %s: %w", text(f), err)
		}
	}
	out, errs := make([]Observation, len(flows)), make([]error, len(flows))
	tickets := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i, f := range flows {
		tickets <- struct{}{}
		all.Go(func() {
			defer func() { <-tickets }()
			if out[i], errs[i] = s.one(ctx, i, f); errs[i] != nil {
				errs[i] = fmt.Errorf("sending %s: %w", text(f), errs[i])
			}
		})
	}
	all.Wait()
	for i, f := range flows {
		seen[f] = out[i]
	}
	if err := ctx.Err(); err != nil {
		return err // and not once more for each flow
	}
	return errors.Join(errs...)
}

func text(f policy.Flow) string {
	return fmt.Sprintf("%s from %s to %s port %d", policy.ProtoName(f.Proto), f.Src, f.Dst, f.DstPort)
}

type listener struct {
	ns *namespace
	at server
}

// sending is one wave of a Send: its listeners, and what they have seen.
type sending struct {
	lab      *Lab
	wait     time.Duration
	base     uint32          // flow i carries the token base + i
	tcp      map[conn]int    // the flows over TCP, whose first packet carries nothing
	arrived  []*sync.Once    // of flow i
	seen     []chan struct{} // closed when flow i has arrived
	answered []chan struct{} // closed when the answer to flow i has come back
	servers  map[listener]bool
	closers  []func() error
	readers  sync.WaitGroup
}

func newSending(l *Lab, flows []policy.Flow, wait time.Duration) *sending {
	s := &sending{lab: l, wait: wait, base: rand.Uint32N(1 << 30), tcp: map[conn]int{}, servers: map[listener]bool{}}
	for i, f := range flows {
		s.arrived = append(s.arrived, &sync.Once{})
		s.seen = append(s.seen, make(chan struct{}))
		s.answered = append(s.answered, make(chan struct{}))
		if f.Proto == policy.ProtoTCP {
			s.tcp[connOf(translated(f))] = i
		}
	}
	return s
}

func (s *sending) close() {
	for _, c := range s.closers {
		_ = c() // they only read
	}
	s.readers.Wait()
}

// came notes that a flow has arrived; -1 is none of ours.
func (s *sending) came(i int) {
	if i >= 0 {
		s.arrived[i].Do(func() { close(s.seen[i]) })
	}
}

// byToken is the flow that a token is of, or -1.
func (s *sending) byToken(packet []byte, offset int) int {
	token, ok := tokenIn(packet, offset)
	if i := token - s.base; ok && uint64(i) < uint64(len(s.seen)) {
		return int(i)
	}
	return -1
}

// byConnection is the flow whose connection a TCP segment would begin, or -1.
func (s *sending) byConnection(segment []byte, from, to netip.Addr) int {
	src, dst, ok := synPorts(segment)
	i, ours := s.tcp[conn{policy.ProtoTCP, netip.AddrPortFrom(from, src), netip.AddrPortFrom(to, dst)}]
	if !ok || !ours {
		return -1
	}
	return i
}

// serve listens where a flow goes to. Over TCP it listens twice: for connections, and for the packets that ask for one, so
// that a packet that was stopped is told from an answer that was.
func (s *sending) serve(f policy.Flow) error {
	ns, err := s.lab.receiver(f)
	if err != nil {
		return err
	}
	switch f.Proto {
	case policy.ProtoUDP:
		return s.once(ns, serverOf(f), s.serveUDP)
	case policy.ProtoTCP:
		if err := s.once(ns, serverOf(f), s.serveTCP); err != nil {
			return err
		}
	}
	return s.once(ns, server{f.Dst, f.Proto, 0}, s.serveRaw)
}

func (s *sending) once(ns *namespace, at server, listen func(server) error) error {
	if s.servers[listener{ns, at}] {
		return nil
	}
	s.servers[listener{ns, at}] = true
	return ns.do(func() error { return listen(at) })
}

// serveTCP leaves connections open: a server that ends one first would have its last packets under way in the next wave.
func (s *sending) serveTCP(at server) error {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(at.addr, at.port)))
	if err != nil {
		return err
	}
	s.closers = append(s.closers, l.Close)
	s.readers.Go(func() {
		var open []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			open = append(open, c)
		}
		for _, c := range open {
			_ = c.Close() // the client has reset it
		}
	})
	return nil
}

func (s *sending) serveUDP(at server) error {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.addr, at.port)))
	if err != nil {
		return err
	}
	s.closers = append(s.closers, c.Close)
	s.readers.Go(func() {
		b := make([]byte, 64)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			s.came(s.byToken(b[:n], 0))
			_, _ = c.WriteToUDPAddrPort(b[:n], from)
		}
	})
	return nil
}

func (s *sending) serveRaw(at server) error {
	c, err := net.ListenIP(rawNetwork(at.addr, at.proto), &net.IPAddr{IP: at.addr.AsSlice()})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, c.Close)
	s.readers.Go(func() {
		b := make([]byte, 1500)
		for {
			n, sender, err := c.ReadFromIP(b)
			if err != nil {
				return
			}
			if at.proto == policy.ProtoTCP {
				from, _ := netip.AddrFromSlice(sender.IP)
				s.came(s.byConnection(b[:n], from.Unmap(), at.addr))
				continue
			}
			s.came(s.byToken(b[:n], tokenOffset(at.proto)))
		}
	})
	return nil
}

func rawNetwork(a netip.Addr, proto uint8) string {
	if a.Is4() {
		return fmt.Sprintf("ip4:%d", proto)
	}
	return fmt.Sprintf("ip6:%d", proto)
}

// one sends a flow and waits for it to arrive, and for the answer if there is to be one.
func (s *sending) one(ctx context.Context, i int, f policy.Flow) (Observation, error) {
	ns, lies, err := s.lab.sender(f)
	if err != nil {
		return Lost, err
	}
	control := shareAddress
	if lies {
		control = claimAddress
	}
	if f.Proto == policy.ProtoTCP {
		o, err := s.connect(ctx, ns, i, f, control)
		if lies && o == Unanswered {
			o = Arrived // the answer is for whose address it is
		}
		return o, err
	}
	var c net.Conn
	if err := ns.do(func() (err error) { c, err = dial(f, control); return err }); err != nil {
		return Lost, err
	}
	defer c.Close()
	done := s.seen[i]
	if hasAnswer(f) && !lies {
		done = s.answered[i]
		go s.readAnswer(c, i, f)
	}
	packet := packetOf(original(f), s.base+uint32(i))
	// Twice, for the first may be lost while addresses are being resolved.
	for range 2 {
		if _, err := c.Write(packet); err != nil && !refused(err) {
			return Lost, err
		}
		select {
		case <-done:
			return Arrived, nil
		case <-ctx.Done():
			return Lost, ctx.Err()
		case <-time.After(s.wait / 2):
		}
	}
	return s.withoutAnswer(i), nil
}

// withoutAnswer is what became of a flow to which no answer came back.
func (s *sending) withoutAnswer(i int) Observation {
	select {
	case <-s.seen[i]:
		return Unanswered
	default:
		return Lost
	}
}

// readAnswer reads until the answer to a flow has come or the connection is closed.
func (s *sending) readAnswer(c net.Conn, i int, f policy.Flow) {
	b := make([]byte, 1500)
	for {
		n, err := receive(c, b)
		if err != nil && !refused(err) {
			return
		}
		if err == nil && isAnswer(f, b[:n]) && s.byToken(b[:n], tokenOffset(f.Proto)) == i {
			close(s.answered[i])
			return
		}
	}
}

// receive reads a packet without its IP header, which Read would leave on.
func receive(c net.Conn, b []byte) (n int, err error) {
	if ip, ok := c.(*net.IPConn); ok {
		n, _, err = ip.ReadFromIP(b)
		return n, err
	}
	return c.Read(b)
}

// connect makes a TCP connection, and resets it so that its ports are free again at once.
func (s *sending) connect(ctx context.Context, ns *namespace, i int, f policy.Flow, set control) (Observation, error) {
	ctx, stop := context.WithTimeout(ctx, s.wait)
	defer stop()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.Src, f.SrcPort)), FallbackDelay: -1, Control: set}
	to := original(f)
	var c net.Conn
	err := ns.do(func() (err error) {
		c, err = d.DialContext(ctx, "tcp", netip.AddrPortFrom(to.Dst, to.DstPort).String())
		return err
	})
	switch {
	case err == nil:
		_ = c.(*net.TCPConn).SetLinger(0)
		return Arrived, c.Close()
	case os.IsTimeout(err) || errors.Is(err, context.DeadlineExceeded) || refused(err):
		return s.withoutAnswer(i), nil
	}
	return Lost, err
}
