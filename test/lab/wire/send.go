package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// Send sends packets, each as the first of its connection, and tells the fate of each. It waits for nothing but the kernel: a
// marker that has gone the way of the packets behind them says that there will be no more.
func (n *Node) Send(packets []Packet) ([]Fate, error) {
	fates := make([]Fate, len(packets))
	err := onOneProcessor(func() error {
		for _, w := range waves(packets) {
			if err := n.forget(); err != nil {
				return err
			}
			if err := n.sendWave(packets, w.places, fates); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("sending packets: %w", err)
	}
	return fates, nil
}

// forget makes the node forget the connections of an earlier wave. Where connection tracking is not there before the first rule
// asks for it, it is made as we need it then.
func (n *Node) forget() error {
	if !n.tracks {
		err := n.inner.set(ofTracking)
		if n.tracks = err == nil; err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := n.inner.link.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return fmt.Errorf("forgetting connections: %w", err)
	}
	return nil
}

// onOneProcessor runs f so that all that it sends waits in one queue of the kernel: what is sent first comes first.
func onOneProcessor(f func() error) error {
	return onOwnThread(func() error {
		var may, one unix.CPUSet
		if err := unix.SchedGetaffinity(0, &may); err != nil {
			return fmt.Errorf("asking for processors: %w", err)
		}
		i := 0
		for !may.IsSet(i) {
			i++
		}
		one.Set(i)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			return fmt.Errorf("staying on one processor: %w", err)
		}
		return f()
	})
}

// sending is one wave under way.
type sending struct {
	*Node
	sent  map[parcel]int // the places of the packets
	fates []Fate
}

func (n *Node) sendWave(packets []Packet, places []int, fates []Fate) error {
	s := sending{n, map[parcel]int{}, fates}
	if err := s.listenFor(packets, places); err != nil {
		return err
	}
	for some := range slices.Chunk(places, batch) {
		if err := s.sendBatch(packets, some); err != nil {
			return err
		}
	}
	return nil
}

func (s *sending) sendBatch(packets []Packet, places []int) error {
	for _, i := range places {
		if err := s.send(i, &packets[i]); err != nil {
			return fmt.Errorf("%+v: %w", packets[i], err)
		}
	}
	if err := s.drainWires(); err != nil {
		return err
	}
	return s.drainHost()
}

// listenFor makes the sockets on which the host would receive the packets.
func (s *sending) listenFor(packets []Packet, places []int) error {
	var missing []local
	for _, i := range places {
		l := local{packets[i].Dst.Is6(), packets[i].Proto}
		if _, there := s.sockets.listen[l]; !there {
			missing = append(missing, l)
		}
	}
	if missing == nil {
		return nil
	}
	return s.inner.do(func() error {
		for _, l := range missing {
			if err := s.sockets.listenFor(l); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *sending) send(i int, p *Packet) error {
	s.fates[i] = Lost
	s.token++
	original := p.original()
	packet, err := packetOf(original, s.token)
	if err != nil {
		return err
	}
	arriving, err := packetOf(p.Flow, s.token)
	if err != nil {
		return err
	}
	id, _ := unwrap(arriving)
	s.sent[id] = i
	if p.In == "" {
		return s.sendFromHost(&original, packet)
	}
	l := s.links[p.In]
	if l == nil {
		return fmt.Errorf("there is no interface %q", p.In)
	}
	ether := uint16(etherIPv4)
	if p.Src.Is6() {
		ether = etherIPv6
	}
	to := &unix.SockaddrLinklayer{Ifindex: l.far}
	return unix.Sendto(s.sockets.wires, frame(s.nextHop(l, &original), l.farAddr, ether, packet), 0, to)
}

// nextHop is whom the far end of a link gives a packet to: the node, or who is on the same bridge.
func (s *sending) nextHop(l *link, f *policy.Flow) []byte {
	switch near := s.ports[f.Dst]; {
	case !l.onBridge:
		return l.nearAddr
	case near != nil:
		return near.farAddr
	}
	return hardware(bridgeEnd, 0)
}

// sendFromHost gives no error when the output hook refuses the packet: it is lost, as on a wire.
func (s *sending) sendFromHost(f *policy.Flow, packet []byte) error {
	var to unix.Sockaddr = &unix.SockaddrInet6{Addr: f.Dst.As16()}
	if f.Dst.Is4() {
		to = &unix.SockaddrInet4{Addr: f.Dst.As4()}
	}
	err := unix.Sendto(s.sockets.send[f.Dst.Is6()], packet, 0, to)
	if errors.Is(err, unix.EPERM) {
		return nil
	}
	return err
}

// drainWires reads all that has come to the far ends. A packet waits twice at most in its processor's queue: on its way into
// the node and on its way out. A marker goes into the node behind all packets, and then another goes out behind all of them.
func (s *sending) drainWires() error {
	var via *link
	for f := range s.facts {
		if f.kind == elsewhere {
			via = s.links[f.link]
		}
	}
	s.token++
	near, far := &unix.SockaddrLinklayer{Ifindex: via.near.Attrs().Index}, &unix.SockaddrLinklayer{Ifindex: via.far}
	mark := binary.BigEndian.AppendUint32(nil, s.token)
	if err := unix.Sendto(s.sockets.wires, frame(via.nearAddr, via.farAddr, etherMarker, mark), 0, far); err != nil {
		return fmt.Errorf("sending a marker into the node: %w", err)
	}
	if err := s.readUntil(s.sockets.marks, s.token); err != nil {
		return fmt.Errorf("waiting for a marker to come into the node: %w", err)
	}
	if err := unix.Sendto(s.sockets.marks, frame(via.farAddr, via.nearAddr, etherMarker, mark), 0, near); err != nil {
		return fmt.Errorf("sending a marker out of the node: %w", err)
	}
	if err := s.readUntil(s.sockets.wires, s.token); err != nil {
		return fmt.Errorf("waiting for a marker to come out of the node: %w", err)
	}
	return s.nothingDropped()
}

// readUntil reads frames until a marker comes, and notes those that bring a packet of ours.
func (s *sending) readUntil(fd int, token uint32) error {
	b := make([]byte, 2048)
	for {
		size, from, err := unix.Recvfrom(fd, b, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case size < 18:
			continue
		}
		switch binary.BigEndian.Uint16(b[12:]) {
		case etherMarker:
			if binary.BigEndian.Uint32(b[14:]) == token {
				return nil
			}
		case etherIPv4, etherIPv6:
			if id, ok := unwrap(b[14:size]); ok {
				if err := s.came(id, Out(s.byFarIndex[from.(*unix.SockaddrLinklayer).Ifindex])); err != nil {
					return err
				}
			}
		}
	}
}

// nothingDropped makes sure that the kernel had room for everything that came.
func (s *sending) nothingDropped() error {
	stats, err := unix.GetsockoptTpacketStats(s.sockets.wires, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	switch {
	case err != nil:
		return fmt.Errorf("asking for dropped packets: %w", err)
	case stats.Drops > 0:
		return fmt.Errorf("%d packets have been seen by nobody, for lack of room", stats.Drops)
	}
	return nil
}

// came notes the fate of a packet, if it is one of the wave. A packet has one fate.
func (s *sending) came(id parcel, fate Fate) error {
	i, ours := s.sent[id]
	switch {
	case !ours:
		return nil
	case s.fates[i] != Lost:
		return fmt.Errorf("one packet has two fates: %s and %s", s.fates[i], fate)
	}
	s.fates[i] = fate
	return nil
}

// drainHost reads all that the host has received.
func (s *sending) drainHost() error {
	b := make([]byte, 2048)
	for l, fd := range s.sockets.listen {
		for {
			size, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("receiving protocol %d: %w", l.proto, err)
			}
			if err := s.received(l, b[:max(size, 0)]); err != nil {
				return err
			}
		}
	}
	return nil
}

// received notes a packet from a raw socket, which has its IP header only in IPv4.
func (s *sending) received(l local, b []byte) error {
	id := parcel{l.proto, string(b)}
	if !l.v6 {
		id, _ = unwrap(b)
	}
	return s.came(id, Local)
}
