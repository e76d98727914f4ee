package lab

import "net/netip"

// At runs f in the namespace of who has an address: sockets that it makes belong there.
func (l *Lab) At(a netip.Addr, f func() error) error {
	ns, err := l.ownerOf(a)
	if err != nil {
		return err
	}
	return ns.do(f)
}
