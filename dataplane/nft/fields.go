package nft

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// field is how the kernel loads a key into a register, and what the value is there.
type field struct {
	load   expr.Any // with Register or DestRegister 0, to be filled in
	size   int
	value  valueKind
	family uint32 // the nfproto that the packet must have, or 0
}

// valueKind is which fields of an Elem hold the value, and how it is written.
type valueKind uint8

const (
	number valueKind = iota // Num, big endian in size bytes
	native                  // Num, in the machine's order
	addr                    // From, To
	port                    // Port, PortTo
	ifname                  // Iface, NUL to 16 bytes; or what stands before its star
)

const ifnameSize = 16

func meta(k expr.MetaKey) expr.Any { return &expr.Meta{Key: k} }
func network(offset, size uint32) expr.Any {
	return &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}
}
func transport(offset, size uint32) expr.Any {
	return &expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: size}
}

// fields are all keys but those of concatenations.
var fields = map[ruleset.Key]field{
	ruleset.KeyIIFName:    {meta(expr.MetaKeyIIFNAME), ifnameSize, ifname, 0},
	ruleset.KeyOIFName:    {meta(expr.MetaKeyOIFNAME), ifnameSize, ifname, 0},
	ruleset.KeyNFProto:    {meta(expr.MetaKeyNFPROTO), 1, number, 0},
	ruleset.KeyL4Proto:    {meta(expr.MetaKeyL4PROTO), 1, number, 0},
	ruleset.KeyIPSAddr:    {network(12, 4), 4, addr, unix.NFPROTO_IPV4},
	ruleset.KeyIPDAddr:    {network(16, 4), 4, addr, unix.NFPROTO_IPV4},
	ruleset.KeyIP6SAddr:   {network(8, 16), 16, addr, unix.NFPROTO_IPV6},
	ruleset.KeyIP6DAddr:   {network(24, 16), 16, addr, unix.NFPROTO_IPV6},
	ruleset.KeySPort:      {transport(0, 2), 2, port, 0},
	ruleset.KeyDPort:      {transport(2, 2), 2, port, 0},
	ruleset.KeyICMPType:   {transport(0, 1), 1, number, 0},
	ruleset.KeyICMPCode:   {transport(1, 1), 1, number, 0},
	ruleset.KeyICMPv6Type: {transport(0, 1), 1, number, 0},
	ruleset.KeyICMPv6Code: {transport(1, 1), 1, number, 0},
	ruleset.KeyCTState:    {&expr.Ct{Key: expr.CtKeySTATE}, 4, native, 0},
	ruleset.KeyMark:       {meta(expr.MetaKeyMARK), 4, native, 0},
	ruleset.KeyCTMark:     {&expr.Ct{Key: expr.CtKeyMARK}, 4, native, 0},
	ruleset.KeyCTStatus:   {&expr.Ct{Key: expr.CtKeySTATUS}, 4, native, 0},
	ruleset.KeySAddrType:  {&expr.Fib{FlagSADDR: true, ResultADDRTYPE: true}, 4, native, 0},
}

// concats are the keys that are several fields side by side, and the registers that nft puts them in.
var concats = map[ruleset.Key][]part{
	ruleset.KeyIPSAddrPort:  {{ruleset.KeyIPSAddr, 1}, {ruleset.KeyL4Proto, 9}, {ruleset.KeySPort, 10}},
	ruleset.KeyIPDAddrPort:  {{ruleset.KeyIPDAddr, 1}, {ruleset.KeyL4Proto, 9}, {ruleset.KeyDPort, 10}},
	ruleset.KeyIP6SAddrPort: {{ruleset.KeyIP6SAddr, 1}, {ruleset.KeyL4Proto, 2}, {ruleset.KeySPort, 13}},
	ruleset.KeyIP6DAddrPort: {{ruleset.KeyIP6DAddr, 1}, {ruleset.KeyL4Proto, 2}, {ruleset.KeyDPort, 13}},

	ruleset.KeyIIFNameIPSAddr:  {{ruleset.KeyIIFName, 1}, {ruleset.KeyIPSAddr, 2}},
	ruleset.KeyIIFNameIP6SAddr: {{ruleset.KeyIIFName, 1}, {ruleset.KeyIP6SAddr, 2}},

	ruleset.KeyProtoDPort: {{ruleset.KeyL4Proto, 1}, {ruleset.KeyDPort, 9}},
}

type part struct {
	key      ruleset.Key
	register uint32
}

// loadInto copies a load with its register.
func (f field) loadInto(register uint32) expr.Any {
	switch l := f.load.(type) {
	case *expr.Meta:
		return &expr.Meta{Key: l.Key, Register: register}
	case *expr.Ct:
		return &expr.Ct{Key: l.Key, Register: register}
	case *expr.Fib:
		return &expr.Fib{FlagSADDR: l.FlagSADDR, ResultADDRTYPE: l.ResultADDRTYPE, Register: register}
	case *expr.Payload:
		return &expr.Payload{Base: l.Base, Offset: l.Offset, Len: l.Len, DestRegister: register}
	}
	return nil
}

// bytes of the two ends of an element's value; they are the same when it is no range.
func (f field) bytes(e ruleset.Elem) (from, to []byte) { return f.appendBytes(nil, nil, &e) }

func (f field) appendBytes(from, to []byte, e *ruleset.Elem) ([]byte, []byte) {
	switch f.value {
	case addr:
		return appendAddr(from, e.From), appendAddr(to, e.To)
	case port:
		return binary.BigEndian.AppendUint16(from, e.Port), binary.BigEndian.AppendUint16(to, e.PortTo)
	case ifname:
		name, star := strings.CutSuffix(e.Iface, "*")
		from, to = append(from, name...), append(to, name...)
		if !star {
			var zeros [ifnameSize]byte
			from, to = append(from, zeros[len(name):]...), append(to, zeros[len(name):]...)
		}
		return from, to
	case native:
		return binary.NativeEndian.AppendUint32(from, e.Num), binary.NativeEndian.AppendUint32(to, e.Num)
	}
	for shift := 8 * (f.size - 1); shift >= 0; shift -= 8 {
		from, to = append(from, byte(e.Num>>shift)), append(to, byte(e.Num>>shift))
	}
	return from, to
}

func appendAddr(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		four := a.As4()
		return append(b, four[:]...)
	}
	sixteen := a.As16()
	return append(b, sixteen[:]...)
}

// elem is the opposite of bytes.
func (f field) elem(from, to []byte) (e ruleset.Elem, ok bool) {
	if f.value == ifname && len(from) > 0 && len(from) < f.size {
		return ruleset.Elem{Iface: string(from) + "*"}, true
	}
	if len(from) != f.size || len(to) != f.size {
		return e, false
	}
	switch f.value {
	case addr:
		e.From, _ = netip.AddrFromSlice(from)
		e.To, ok = netip.AddrFromSlice(to)
		return e, ok
	case port:
		e.Port, e.PortTo = binary.BigEndian.Uint16(from), binary.BigEndian.Uint16(to)
	case ifname:
		e.Iface = strings.TrimRight(string(from), "\x00")
	case native:
		e.Num = binary.NativeEndian.Uint32(from)
	default:
		for _, b := range from {
			e.Num = e.Num<<8 | uint32(b)
		}
	}
	return e, true
}

// setType is how a set's elements are written: the field of a single one, or the parts of a concatenation.
type setType struct {
	key   nftables.SetDatatype
	parts []field
}

func single(t nftables.SetDatatype, size int, v valueKind) setType {
	return setType{t, []field{{size: size, value: v}}}
}

func addrPort(t nftables.SetDatatype, size int) setType {
	key := concatenated(t, nftables.TypeInetProto, nftables.TypeInetService)
	return setType{key, []field{{size: size, value: addr}, {size: 1, value: number}, {size: 2, value: port}}}
}

func ifaceAddr(t nftables.SetDatatype, size int) setType {
	return setType{concatenated(nftables.TypeIFName, t), []field{{size: ifnameSize, value: ifname}, {size: size, value: addr}}}
}

// concatenated types of a set. Two or three always fit into one: the library's error is for more than five.
func concatenated(types ...nftables.SetDatatype) nftables.SetDatatype {
	key, _ := nftables.ConcatSetType(types...)
	return key
}

var setTypes = map[ruleset.Type]setType{
	ruleset.TypeIfaceIPv4: ifaceAddr(nftables.TypeIPAddr, 4),
	ruleset.TypeIfaceIPv6: ifaceAddr(nftables.TypeIP6Addr, 16),
	ruleset.TypeProtoPort: {concatenated(nftables.TypeInetProto, nftables.TypeInetService), []field{{size: 1, value: number}, {size: 2, value: port}}},
	ruleset.TypeIPv4:      single(nftables.TypeIPAddr, 4, addr),
	ruleset.TypeIPv6:      single(nftables.TypeIP6Addr, 16, addr),
	ruleset.TypePort:      single(nftables.TypeInetService, 2, port),
	ruleset.TypeIPv4Port:  addrPort(nftables.TypeIPAddr, 4),
	ruleset.TypeIPv6Port:  addrPort(nftables.TypeIP6Addr, 16),
	ruleset.TypeIface:     single(nftables.TypeIFName, ifnameSize, ifname),
	ruleset.TypeICMP:      single(nftables.TypeICMPType, 1, number),
	ruleset.TypeICMPv6:    single(nftables.TypeICMP6Type, 1, number),
}

// appendBytes of an element's ends. Each part of a concatenation fills whole registers of four bytes.
func (t setType) appendBytes(from, to []byte, e *ruleset.Elem) ([]byte, []byte) {
	if len(t.parts) == 1 {
		return t.parts[0].appendBytes(from, to, e)
	}
	for i := range t.parts {
		f := &t.parts[i]
		if f.value == number {
			from, to = append(from, e.Proto), append(to, e.Proto)
		} else {
			from, to = f.appendBytes(from, to, e)
		}
		from, to = padded(from), padded(to)
	}
	return from, to
}

func padded(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// elem is the opposite of appendBytes. In a set a star is no wildcard, and a name that has one is none of ours.
func (t setType) elem(from, to []byte) (ruleset.Elem, bool) {
	e, ok := t.partsOf(from, to)
	return e, ok && !strings.Contains(e.Iface, "*")
}

func (t setType) partsOf(from, to []byte) (e ruleset.Elem, ok bool) {
	if len(t.parts) == 1 {
		return t.parts[0].elem(from, to)
	}
	for _, f := range t.parts {
		n := (f.size + 3) / 4 * 4
		if len(from) < n || len(to) < n {
			return e, false
		}
		p, ok := f.elem(from[:f.size], to[:f.size])
		if !ok {
			return e, false
		}
		switch f.value {
		case addr:
			e.From, e.To = p.From, p.To
		case port:
			e.Port, e.PortTo = p.Port, p.PortTo
		case ifname:
			e.Iface = p.Iface
		default:
			e.Proto = uint8(p.Num)
		}
		from, to = from[n:], to[n:]
	}
	return e, len(from) == 0
}
