package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Foreign tells when another program has changed our table: Apply then mends it. Changes that the Conn itself makes are not told,
// several others' may be told as one, and when the kernel had more to tell than there was room for one is told to be sure. The
// channel is closed when ctx ends, or when the kernel tells no more. While the table is owned there is nothing to tell.
func (c *Conn) Foreign(ctx context.Context) (<-chan struct{}, error) {
	me, err := c.nl.GetPortID()
	if err != nil {
		return nil, fmt.Errorf("asking for our own port: %w", err)
	}
	events, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("connecting to follow nftables: %w", err)
	}
	if err := events.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return nil, errors.Join(fmt.Errorf("following nftables: %w", err), events.Close())
	}
	context.AfterFunc(ctx, func() { _ = events.Close() })
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		for {
			messages, err := events.Receive()
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			if err == nil && !anyForeign(messages, c.name, me) {
				continue
			}
			select {
			case out <- struct{}{}:
			default: // it has not been heard yet
			}
		}
	}()
	return out, nil
}

func anyForeign(messages []netlink.Message, table string, me uint32) bool {
	for _, m := range messages {
		if foreign(m, table, me) {
			return true
		}
	}
	return false
}

// foreign tells whether a message of the kernel's is of a change to the table that another port than ours has made.
func foreign(m netlink.Message, table string, me uint32) bool {
	const header = 4 // family, version, resource
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || m.Header.PID == me || len(m.Data) < header || m.Data[0] != unix.NFPROTO_INET {
		return false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[header:])
	if err != nil {
		return false
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		// The name of the table is attribute 1 of every kind of object; other kinds of message are of no family.
		if ad.Type() == unix.NFTA_TABLE_NAME {
			return ad.String() == table
		}
	}
	return false
}
