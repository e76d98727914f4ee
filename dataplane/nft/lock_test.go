package nft

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// One Conn at a time has the lock of a table, until it is closed; who has only taken its name is not believed.
func TestLock(t *testing.T) {
	locking := func() *lock {
		t.Helper()
		l, err := newLock()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	const table = "lock-test"
	first, second := locking(), locking()
	for range 2 { // who has it has it
		if err := first.hold(table); err != nil || !first.held {
			t.Fatalf("the first: %v", err)
		}
	}
	for range 100 { // however often he asks
		if err := second.hold(table); !errors.Is(err, ErrOwned) {
			t.Fatalf("the second: %v", err)
		}
	}
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	if err := second.hold(table); err != nil || !second.held {
		t.Errorf("after the first: %v", err)
	}
	if err := second.close(); err != nil {
		t.Fatal(err)
	}

	squatter, third := locking(), locking()
	if err := unix.Bind(squatter.fd, &unix.SockaddrUnix{Name: "@tierwall/table/" + table}); err != nil {
		t.Fatal(err)
	}
	if err := third.hold(table); err != nil || third.held {
		t.Errorf("beside one who does not answer: %v, %t", err, third.held)
	}
	if err := errors.Join(squatter.close(), third.hold(table), third.close()); err != nil {
		t.Errorf("when he has gone: %v", err)
	}
}
