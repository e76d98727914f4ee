package leftovers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// setsOfNAT are those that the rules use which masquerade pods' addresses; they stay with these.
var setsOfNAT = []string{"masq-ipam-pools", "all-ipam-pools", "network-ip-pools", "all-hosts-net", "this-host"}

// ipset is one of the kernel's.
type ipset struct{ name, kind string }

// listSets of the kernel; asking one that has no ipsets would load them.
func (o Options) listSets(ctx context.Context) (sets []ipset, err error) {
	if !exists("/sys/module/ip_set") {
		return nil, nil
	}
	list, err := o.program("ipset")
	if err != nil {
		return nil, err
	}
	text, err := list.run(ctx, "", "list", "-terse")
	for line := range strings.Lines(string(text)) {
		what, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch {
		case what == "Name":
			sets = append(sets, ipset{name: value})
		case what == "Type" && len(sets) > 0:
			sets[len(sets)-1].kind = value
		}
	}
	return sets, err
}

func findSets(ctx context.Context, s *search) (items []Item, err error) {
	all, err := s.listSets(ctx)
	for _, set := range all {
		for _, o := range s.owners {
			p := begins(o.sets, set.name)
			if p == "" {
				continue
			}
			i := Item{Owner: o.name, Kind: Set, Name: set.name, Why: "its name begins with " + p}
			if o.name == calico && s.holds != "" && slices.ContainsFunc(setsOfNAT, func(n string) bool { return strings.HasSuffix(i.Name, "0"+n) }) {
				i.Stays = s.stays(calico, natTable)
			}
			items = append(items, i)
		}
	}
	return items, err
}

// releasedWithin is how long the kernel may take to let a set go whose rules are removed: nftables frees them later.
const releasedWithin = 5 * time.Second

// removeSets destroys lists of sets before the sets in them. The kernel keeps one that a rule of somebody else's uses.
func removeSets(ctx context.Context, s *search) error {
	items, err := findSets(ctx, s)
	if err != nil {
		return err
	}
	all, err := s.listSets(ctx)
	if err != nil {
		return err
	}
	isList := map[string]bool{}
	for _, set := range all {
		isList[set.name] = set.kind == "list:set"
	}
	items = going(items)
	slices.SortStableFunc(items, func(a, b Item) int {
		switch {
		case isList[a.Name] == isList[b.Name]:
			return 0
		case isList[a.Name]:
			return -1
		}
		return 1
	})
	ctx, stop := context.WithTimeout(ctx, releasedWithin)
	defer stop()
	var errs []error
	for _, i := range items {
		if err := destroy(ctx, i.Name); err != nil {
			errs = append(errs, fmt.Errorf("ipset %s: %w", i.Name, err))
		}
	}
	return errors.Join(errs...)
}

func destroy(ctx context.Context, name string) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := netlink.IpsetDestroy(name)
		switch {
		case err == nil || errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, nl.IPSetError(nl.IPSET_ERR_BUSY)):
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w removed: a rule or a set of somebody else's uses it: remove that, and say this again", ErrNotAll)
		case <-again.C:
		}
	}
}
