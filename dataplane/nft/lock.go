package nft

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// lock is who may write a table to which the kernel gives no owner: a name in the network namespace that one process at a time can have, and
// that is free again when the process is gone, however it went. It keeps out nobody but another Conn: a process of another user who has taken
// the name, as anybody may, is not believed.
type lock struct {
	fd       int
	held     bool
	listener net.Listener
}

// newLock is in the caller's network namespace, and not yet held.
func newLock() (*lock, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making a lock: %w", err)
	}
	return &lock{fd: fd}, nil
}

// hold the lock of a table; ErrOwned when another does.
func (l *lock) hold(table string) error {
	if l.held {
		return nil
	}
	name := lockName(table)
	err := unix.Bind(l.fd, name)
	switch {
	case errors.Is(err, unix.EADDRINUSE) && rightful(name):
		return fmt.Errorf("table %s: %w", table, ErrOwned)
	case errors.Is(err, unix.EADDRINUSE):
		return nil // not held: looked at again each time
	case err != nil:
		return fmt.Errorf("locking table %s: %w", table, err)
	}
	l.held = true
	if err := l.answer(); err != nil {
		return fmt.Errorf("locking table %s: %w", table, err)
	}
	return nil
}

func lockName(table string) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: "@tierwall/table/" + table}
}

// answer whoever asks whose the name is.
func (l *lock) answer() error {
	if err := unix.Listen(l.fd, 16); err != nil {
		return err
	}
	fd, err := unix.FcntlInt(uintptr(l.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "lock")
	defer f.Close()
	if l.listener, err = net.FileListener(f); err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.listener.Accept()
			if err != nil { // it is closed
				return
			}
			_ = c.Close() // the kernel has said whose it is
		}
	}()
	return nil
}

// rightful tells whether a process of our own user has a name, and answers.
func rightful(name *unix.SockaddrUnix) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 1}); err != nil { // and no longer for an answer
		return true
	}
	if err := unix.Connect(fd, name); err != nil {
		return false
	}
	who, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	return err != nil || int(who.Uid) == os.Geteuid()
}

func (l *lock) close() error {
	if l.listener != nil {
		_ = l.listener.Close() // nobody is answered any more
	}
	return unix.Close(l.fd)
}
