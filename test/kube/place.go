package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// place is where processes of the cluster are: a thread that stays in namespaces. What is started on it is in them too, and the kernel
// kills it when the thread ends, which is no later than our own end.
type place struct {
	calls chan func()
	gone  chan struct{}
	proc  string // its folder in /proc
}

// newPlace has a thread that is where enter goes.
func newPlace(enter func() error) (*place, error) {
	p := &place{calls: make(chan func()), gone: make(chan struct{})}
	entered := make(chan error, 1)
	onThread(func() {
		p.proc = fmt.Sprintf("/proc/%d/task/%d", os.Getpid(), unix.Gettid())
		err := enter()
		entered <- err
		for err == nil {
			select {
			case call := <-p.calls:
				call()
			case <-p.gone:
				return
			}
		}
	})
	return p, <-entered
}

// do runs f there.
func (p *place) do(f func() error) error {
	done := make(chan error, 1)
	select {
	case p.calls <- func() { done <- f() }:
		return <-done
	case <-p.gone:
		return errors.New("the cluster is down")
	}
}

// dial connects from there.
func (p *place) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = p.do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address) // an address is no name: nobody else is asked for it
		return err
	})
	return conn, err
}

// reaches fails when no TCP connection can be made from there.
func (p *place) reaches(ctx context.Context, address string) error {
	conn, err := p.dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (p *place) close() {
	if p != nil {
		close(p.gone)
	}
}

// elsewhere does something on a thread of its own.
func elsewhere(f func() error) error {
	done := make(chan error, 1)
	onThread(func() { done <- f() })
	return <-done
}

// onThread runs f on a thread that ends with it. That is never the process's first thread: it cannot end, and would stay in the
// namespaces that f enters.
func onThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return // still locked: the thread ends
		}
		begun := make(chan struct{})
		onThread(func() { close(begun); f() })
		<-begun // as long as we hold the first thread, f gets another
		runtime.UnlockOSThread()
	}()
}
