package lab

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// control sets options of a socket before it is bound.
type control func(network, address string, raw syscall.RawConn) error

func dial(f policy.Flow, set control) (net.Conn, error) {
	to := original(f)
	if f.Proto == policy.ProtoUDP {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.Src, f.SrcPort)), Control: set}
		return d.Dial("udp", netip.AddrPortFrom(to.Dst, to.DstPort).String())
	}
	d := net.Dialer{LocalAddr: &net.IPAddr{IP: f.Src.AsSlice()}, Control: set}
	return d.Dial(rawNetwork(f.Src, f.Proto), to.Dst.String())
}

// shareAddress lets several flows have one source port at a time.
func shareAddress(_, _ string, raw syscall.RawConn) error {
	return setOption(raw, unix.SOL_SOCKET, unix.SO_REUSEADDR)
}

// claimAddress lets a flow have a source address that its sender has not.
func claimAddress(network, address string, raw syscall.RawConn) error {
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if at, err := netip.ParseAddrPort(address); strings.Contains(network, "6") || err == nil && at.Addr().Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	return errors.Join(shareAddress(network, address, raw), setOption(raw, level, option))
}

func setOption(raw syscall.RawConn, level, option int) error {
	var err error
	if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); cerr != nil {
		return cerr
	}
	return err
}
