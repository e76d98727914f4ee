package nft

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// lock is who may write a table to which the kernel gives no owner: a name in the network namespace that one process at a time can have, and
// that is free again when the process is gone, however it went. It keeps out nobody but another Conn.
type lock struct {
	fd   int
	held bool
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
	err := unix.Bind(l.fd, &unix.SockaddrUnix{Name: "@tierwall/table/" + table})
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("table %s: %w", table, ErrOwned)
	case err != nil:
		return fmt.Errorf("locking table %s: %w", table, err)
	}
	l.held = true
	return nil
}

func (l *lock) close() error { return unix.Close(l.fd) }
