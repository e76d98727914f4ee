package nft_test

import (
	"context"
	"testing"
	"time"

	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// What others do to a table without an owner is told, and mended by the next Apply.
func TestForeignChangesAreTold(t *testing.T) {
	inNamespace(t, func() {
		ctx, stop := context.WithCancel(t.Context())
		c := open()
		defer c.Close()
		c.Unowned()
		_, err := c.Apply(everyRule())
		must(err)
		told, err := c.Foreign(ctx)
		must(err)
		for _, others := range []string{
			"add chain inet tierwall mine", "flush chain inet tierwall every", "add rule inet tierwall input drop",
			"add element inet tierwall a4 { 192.0.2.1 }", "delete element inet tierwall m4 { 10.0.0.4 }",
			"delete table inet tierwall", "flush ruleset",
		} {
			shell(others, "-f", "-")
			select {
			case _, open := <-told:
				if !open {
					t.Fatalf("closed after %q", others)
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("not told of %q", others)
			}
			changes, err := c.Apply(everyRule())
			must(err)
			if len(changes) == 0 {
				t.Errorf("%s: there was nothing to mend", others)
			}
			reads(t, c, everyRule())
		}
		stop()
		for range told { // ends when the channel is closed
		}
	})
}

// Only messages of other ports, about our table, count.
func TestForeignMessages(t *testing.T) {
	const me, other = 100, 200
	attrs := func(name string) []byte {
		b, err := mdl.MarshalAttributes([]mdl.Attribute{{Type: unix.NFTA_TABLE_NAME, Data: []byte(name + "\x00")}})
		must(err)
		return b
	}
	message := func(subsystem, typ int, pid uint32, family byte, rest []byte) mdl.Message {
		return mdl.Message{Header: mdl.Header{Type: mdl.HeaderType(subsystem<<8 | typ), PID: pid}, Data: append([]byte{family, 0, 0, 0}, rest...)}
	}
	ours := attrs(ruleset.DefaultTable)
	for _, test := range []struct {
		name string
		m    mdl.Message
		want bool
	}{
		{"another's rule in ours", message(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWRULE, other, unix.NFPROTO_INET, ours), true},
		{"another deletes ours", message(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELTABLE, other, unix.NFPROTO_INET, ours), true},
		{"our own", message(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWRULE, me, unix.NFPROTO_INET, ours), false},
		{"another table", message(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWRULE, other, unix.NFPROTO_INET, attrs("tierwall2")), false},
		{"another family", message(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWRULE, other, unix.NFPROTO_IPV4, ours), false},
		{"another subsystem", message(unix.NFNL_SUBSYS_CTNETLINK, unix.NFT_MSG_NEWRULE, other, unix.NFPROTO_INET, ours), false},
		{"no name", message(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWGEN, other, unix.NFPROTO_INET, nil), false},
		{"no attributes", message(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWRULE, other, unix.NFPROTO_INET, []byte{1}), false},
		{"empty", mdl.Message{Header: mdl.Header{Type: unix.NFNL_SUBSYS_NFTABLES << 8}}, false},
	} {
		if got := nft.ForeignMessage(test.m, ruleset.DefaultTable, me); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
