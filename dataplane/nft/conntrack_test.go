package nft_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

const (
	denied  = 0x10 // the bit of the mark
	foreign = 0x3  // bits that other programs have set
)

// routed is a client and a server with a router between them, whose table drops what has the bit before it lets by what is
// established, and marks connections as another program would.
func routed(t *testing.T) (client, router, server *host, c *nft.Conn) {
	client, router, server = newHost(t), newHost(t), newHost(t)
	for i, end := range []*host{client, server} {
		port := []string{"c", "s"}[i]
		router.link(port, end, "eth0")
		router.do(func() {
			own(port, fmt.Sprintf("10.0.%d.1/24", i))
			own(port, fmt.Sprintf("fd00:%d::1/64", i))
		})
		end.do(func() {
			own("eth0", fmt.Sprintf("10.0.%d.2/24", i))
			own("eth0", fmt.Sprintf("fd00:%d::2/64", i))
			addRoute(route("eth0", "0.0.0.0/0", fmt.Sprintf("10.0.%d.1", i)))
			addRoute(route("eth0", "::/0", fmt.Sprintf("fd00:%d::1", i)))
		})
	}
	hasBit := ruleset.Match{Key: ruleset.KeyCTMark, Elem: ruleset.Elem{Num: denied, Mask: denied}}
	established := ruleset.Match{Key: ruleset.KeyCTState, Elem: ruleset.Elem{Num: ruleset.CTEstablished | ruleset.CTRelated}}
	router.do(func() {
		c = open()
		f := &ruleset.Chain{Name: "f", Hook: "forward", Rules: []ruleset.Rule{
			{Matches: []ruleset.Match{hasBit}, Verdict: ruleset.Verdict{Kind: ruleset.Drop}},
			{Matches: []ruleset.Match{established}, Verdict: ruleset.Verdict{Kind: ruleset.Accept}},
		}}
		_, err := c.Apply(&ruleset.Table{Name: ruleset.DefaultTable, Chains: []*ruleset.Chain{f}})
		must(err)
	})
	t.Cleanup(func() { must(c.Close()) })
	return client, router, server, c
}

// known is what the router knows of connections of a protocol, whose replies go to a port.
func known(router *host, proto uint8, port uint16) (out []nft.Connection) {
	router.do(func() {
		all, err := nft.Connections()
		must(err)
		for _, c := range all {
			if c.Proto == proto && c.ReplyDstPort == port {
				out = append(out, c)
			}
		}
	})
	return out
}

func mark(router *host, c nft.Connection, mask, value uint32) {
	router.do(func() { must(nft.Mark(c, mask, value)) })
}

// call makes a TCP connection, and gives its two ends.
func call(client, server *host, to string, listener net.Listener) (near, far net.Conn) {
	client.do(func() {
		d := net.Dialer{Timeout: 5 * time.Second}
		var err error
		near, err = d.Dial("tcp", net.JoinHostPort(to, "5000"))
		must(err)
	})
	far, err := listener.Accept()
	must(err)
	return near, far
}

// hears tells whether a byte comes within the time.
func hears(at net.Conn, within time.Duration) bool {
	must(at.SetReadDeadline(time.Now().Add(within)))
	_, err := at.Read(make([]byte, 1))
	return err == nil
}

func says(from net.Conn) {
	_, err := from.Write([]byte("x"))
	must(err)
}

// A connection that is marked ends in both directions while others go on, and goes on when the mark is cleared; the other bits stay.
func TestMarkEndsAConnection(t *testing.T) {
	const soon, never = 10 * time.Second, 300 * time.Millisecond
	client, router, server, _ := routed(t)
	for _, family := range []struct{ from, to string }{{"10.0.0.2", "10.0.1.2"}, {"fd00:0::2", "fd00:1::2"}} {
		var listener net.Listener
		server.do(func() {
			var err error
			listener, err = net.Listen("tcp", net.JoinHostPort(family.to, "5000"))
			must(err)
		})
		near, far := call(client, server, family.to, listener)
		otherNear, otherFar := call(client, server, family.to, listener)
		for _, c := range []interface{ Close() error }{listener, near, far, otherNear, otherFar} {
			defer c.Close()
		}
		says(near)
		if !hears(far, soon) {
			t.Fatalf("to %s: nothing comes before anything is marked", family.to)
		}
		port := near.LocalAddr().(*net.TCPAddr).AddrPort().Port()
		found := known(router, 6, port)
		from, to := netip.MustParseAddr(family.from), netip.MustParseAddr(family.to)
		want := []nft.Connection{{Proto: 6, Src: from, Dst: to, SrcPort: port, DstPort: 5000,
			ReplySrc: to, ReplyDst: from, ReplySrcPort: 5000, ReplyDstPort: port}}
		if diff := cmp.Diff(want, found, cmpopts.IgnoreFields(nft.Connection{}, "ID"), sameAddr); diff != "" {
			t.Fatalf("-want +listed:\n%s", diff)
		}
		mark(router, found[0], foreign, foreign)
		mark(router, found[0], denied, denied)
		if got := known(router, 6, port)[0].Mark; got != foreign|denied {
			t.Errorf("marked: %#x", got)
		}
		says(near)
		says(far)
		if hears(far, never) || hears(near, never) {
			t.Errorf("to %s: what is marked goes on", family.to)
		}
		says(otherNear)
		if !hears(otherFar, soon) {
			t.Errorf("to %s: another connection has ended", family.to)
		}
		mark(router, found[0], denied, 0)
		if got := known(router, 6, port)[0].Mark; got != foreign {
			t.Errorf("cleared: %#x", got)
		}
		if !hears(far, soon) || !hears(near, soon) {
			t.Errorf("to %s: what is cleared does not go on", family.to)
		}
	}
}

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// A connection of any protocol is found again by what is listed of it.
func TestMarkAnyProtocol(t *testing.T) {
	client, router, server, _ := routed(t)
	echo := func(kind byte) []byte { return append([]byte{kind, 0, 0, 0, 0x12, 0x34, 0, 1}, "tierwall"...) }
	request := echo(8)
	request[2], request[3] = checksum(request)
	for _, test := range []struct {
		network, at string
		packet      []byte
		want        nft.Connection
	}{
		{"udp4", "10.0.1.2:5000", []byte("tierwall"), nft.Connection{Proto: 17, DstPort: 5000}},
		{"udp6", "[fd00:1::2]:5000", []byte("tierwall"), nft.Connection{Proto: 17, DstPort: 5000}},
		{"ip4:icmp", "10.0.1.2", request, nft.Connection{Proto: 1, ICMPType: 8, ICMPID: 0x1234}},
		{"ip6:ipv6-icmp", "fd00:1::2", echo(128), nft.Connection{Proto: 58, ICMPType: 128, ICMPID: 0x1234}},
		{"ip4:253", "10.0.1.2", []byte("tierwall"), nft.Connection{Proto: 253}},
		{"ip6:253", "fd00:1::2", []byte("tierwall"), nft.Connection{Proto: 253}},
	} {
		arrive(client, server, test.network, test.at, test.packet)
		var all []nft.Connection
		list := func() []nft.Connection {
			router.do(func() {
				var err error
				all, err = nft.Connections()
				must(err)
			})
			return slices.DeleteFunc(all, func(c nft.Connection) bool {
				return c.Proto != test.want.Proto || c.Src.Is4() != strings.Contains(test.network, "p4") // udp4, ip4
			})
		}
		found := list()
		if len(found) != 1 {
			t.Errorf("%s: found %+v", test.network, found)
			continue
		}
		test.want.ID, test.want.Src, test.want.Dst, test.want.SrcPort = found[0].ID, found[0].Src, found[0].Dst, found[0].SrcPort
		test.want.ReplySrc, test.want.ReplyDst = test.want.Dst, test.want.Src
		test.want.ReplySrcPort, test.want.ReplyDstPort = test.want.DstPort, test.want.SrcPort
		if diff := cmp.Diff(test.want, found[0], sameAddr); diff != "" {
			t.Errorf("%s: -want +listed:\n%s", test.network, diff)
		}
		mark(router, found[0], denied, denied)
		if now := list(); len(now) != 1 || now[0].Mark != denied {
			t.Errorf("%s: marked: %+v", test.network, now)
		}
	}
}

// arrive sends a packet that ends in "tierwall", and waits until it is there.
func arrive(from, to *host, network, at string, packet []byte) {
	var server net.PacketConn
	to.do(func() {
		var err error
		server, err = net.ListenPacket(network, at)
		must(err)
	})
	defer server.Close()
	from.do(func() {
		c, err := net.Dial(network, at)
		must(err)
		defer c.Close()
		_, err = c.Write(packet)
		must(err)
	})
	must(server.SetReadDeadline(time.Now().Add(10 * time.Second)))
	for b := make([]byte, 100); ; {
		n, _, err := server.ReadFrom(b)
		must(err)
		if bytes.HasSuffix(b[:n], []byte("tierwall")) {
			return
		}
	}
}

func checksum(b []byte) (hi, lo byte) {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	sum = ^(sum>>16 + sum&0xffff)
	return byte(sum >> 8), byte(sum)
}

// The original direction is what the client asked for, and the reply's that to which it was translated.
func TestConnectionsAreAsBeforeTranslation(t *testing.T) {
	client, router, server, _ := routed(t)
	router.do(func() {
		shell(`table ip nat {
			chain p {
				type nat hook prerouting priority -100;
				ip daddr 10.9.9.9 udp dport 53 dnat to 10.0.1.2:5000
			}
		}`, "-f", "-")
	})
	var at net.PacketConn
	server.do(func() {
		var err error
		at, err = net.ListenPacket("udp4", "10.0.1.2:5000")
		must(err)
	})
	defer at.Close()
	var port uint16
	client.do(func() {
		c, err := net.Dial("udp4", "10.9.9.9:53")
		must(err)
		defer c.Close()
		port = c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		says(c)
	})
	must(at.SetReadDeadline(time.Now().Add(10 * time.Second)))
	_, _, err := at.ReadFrom(make([]byte, 1))
	must(err)
	found := known(router, 17, port)
	a := addrs("10.0.0.2", "10.9.9.9", "10.0.1.2")
	want := []nft.Connection{{Proto: 17, Src: a[0], Dst: a[1], SrcPort: port, DstPort: 53,
		ReplySrc: a[2], ReplyDst: a[0], ReplySrcPort: 5000, ReplyDstPort: port}}
	if diff := cmp.Diff(want, found, cmpopts.IgnoreFields(nft.Connection{}, "ID"), sameAddr); diff != "" {
		t.Fatalf("-want +listed:\n%s", diff)
	}
	mark(router, found[0], denied, denied)
	if got := known(router, 17, port)[0].Mark; got != denied {
		t.Errorf("marked: %#x", got)
	}
}

// A connection that another has brought about is told from the rest, and one in a zone is found there.
func TestConnectionsExpectedAndInZones(t *testing.T) {
	h := newHost(t)
	h.do(func() {
		a := addrs("10.0.0.1", "10.0.0.2")
		control := nft.Connection{Proto: 6, Src: a[0], Dst: a[1], SrcPort: 40000, DstPort: 21,
			ReplySrc: a[1], ReplyDst: a[0], ReplySrcPort: 21, ReplyDstPort: 40000}
		data, zoned := control, control
		data.SrcPort, data.ReplyDstPort, data.Expected = 40001, 40001, true
		zoned.SrcPort, zoned.ReplyDstPort, zoned.Zone = 40002, 40002, 7
		must(nft.Track(control, nil))
		must(nft.Track(data, &control))
		must(nft.Track(zoned, nil))
		must(nft.Mark(zoned, denied, denied))
		zoned.Mark = denied
		have, err := nft.Connections()
		must(err)
		slices.SortFunc(have, func(a, b nft.Connection) int { return int(a.SrcPort) - int(b.SrcPort) })
		want := []nft.Connection{control, data, zoned}
		if diff := cmp.Diff(want, have, cmpopts.IgnoreFields(nft.Connection{}, "ID"), sameAddr); diff != "" {
			t.Errorf("-want +listed:\n%s", diff)
		}
	})
}

// That a connection has gone is no error; that a mark cannot be is one, and so is a connection that is none.
func TestMarkErrors(t *testing.T) {
	h := newHost(t)
	h.do(func() {
		a := addrs("10.0.0.1", "10.0.0.2")
		gone := nft.Connection{Proto: 6, Src: a[0], Dst: a[1], SrcPort: 1, DstPort: 2}
		if err := nft.Mark(gone, 1, 1); err != nil {
			t.Errorf("a connection that has gone: %v", err)
		}
		if err := nft.Mark(gone, 1, 2); err == nil {
			t.Error("a value outside its mask was taken")
		}
		if err := nft.Mark(nft.Connection{}, 1, 1); err == nil {
			t.Error("no connection at all was taken")
		}
	})
}

// What is written of a connection's original direction is read back.
func TestConnectionThereAndBack(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		pool := draw(rt, "family", pool4, pool6)
		want := nft.Connection{Proto: rapid.Uint8().Draw(rt, "proto"), Src: draw(rt, "src", pool...), Dst: draw(rt, "dst", pool...),
			Zone: rapid.Uint16().Draw(rt, "zone"), Mark: rapid.Uint32().Draw(rt, "mark")}
		switch want.Proto {
		case 1, 58:
			want.ICMPType, want.ICMPCode = rapid.Byte().Draw(rt, "type"), rapid.Byte().Draw(rt, "code")
			want.ICMPID = rapid.Uint16().Draw(rt, "id")
		default:
			want.SrcPort, want.DstPort = rapid.Uint16().Draw(rt, "sport"), rapid.Uint16().Draw(rt, "dport")
		}
		message, err := nft.MarkMessage(want, 0xffffffff, want.Mark)
		if err != nil {
			rt.Fatal(err)
		}
		have, err := nft.DecodeConnection(message)
		if err != nil || have != want {
			rt.Fatalf("want %+v, got %+v, %v", want, have, err)
		}
	})
}

// Whatever the kernel may say, there is an answer.
func FuzzDecodeConnection(f *testing.F) {
	message, err := nft.MarkMessage(nft.Connection{Proto: 6, Src: pool4[0], Dst: pool4[1]}, 1, 1)
	must(err)
	f.Add(message)
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = nft.DecodeConnection(b) })
}
