// Package leftovers finds what another policy engine has left on this machine, in the network namespace that it is called in, and removes it.
// Each place where something may be is looked at by a find and emptied by a remove that finds again first: a step that was killed is done again
// from its beginning, whatever it had done. It knows nothing of clusters, and touches nothing that is not named here as somebody's.
//
//	     owners                 places, in the order in which they are emptied
//	┌──────────────┐    nftables ─► legacy iptables ─► ipsets ─► ip rules ─► tunnels ─► routes ─► files
//	│ names, marks │       one         a step for
//	└──────────────┘    transaction    each table
package leftovers

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Options say whose leftovers are looked for, where, and what stays.
type Options struct {
	Of      []string // names of Owners; none: Calico
	KeepCNI bool     // Calico's CNI plugin and IPAM go on: its routes, interfaces, NAT and files stay
	Root    string   // where the machine's files and programs are; its network is that of the caller
}

// Item is one thing that was left.
type Item struct {
	Owner string `json:"owner"`
	Kind  Kind   `json:"kind"`
	In    string `json:"in,omitempty"` // the table or file system that it is in
	Name  string `json:"name"`
	Why   string `json:"why"`             // it is taken for a leftover
	Stays string `json:"stays,omitempty"` // why it is not removed
}

// Kind of an item.
type Kind string

// The kinds, in the order in which they are removed.
const (
	NFTTable  Kind = "nft table"
	NFTChain  Kind = "nft chain"
	Rule      Kind = "iptables rule"
	Chain     Kind = "iptables chain"
	Set       Kind = "ipset"
	IPRule    Kind = "ip rule"
	Interface Kind = "interface"
	Route     Kind = "route"
	File      Kind = "file"
)

// Leftovers are what was found.
type Leftovers struct {
	Items   []Item   `json:"items"`   // that would be removed
	Kept    []Item   `json:"kept"`    // that stay
	Running []string `json:"running"` // processes that would make it all again
	Pods    []string `json:"pods"`    // interfaces of Calico's whose other end is in a pod
	CNI     string   `json:"cni"`     // the configuration by which the container runtime calls Calico's plugin, if it does
	Unseen  []string `json:"unseen"`  // what could not be looked at
	Mind    []string `json:"mind"`    // what somebody should know before it goes
}

// Refused says why nothing may be removed.
func (l *Leftovers) Refused(o Options) (why []string) {
	for _, p := range l.Running {
		why = append(why, p+" runs here, and would make again what is removed")
	}
	if l.CNI != "" && len(l.Pods) > 0 && !o.KeepCNI {
		why = append(why, fmt.Sprintf("%s is in use and pods live on %s: move them to another CNI plugin, or say that Calico's stays", l.CNI, strings.Join(l.Pods, ", ")))
	}
	return why
}

// Step is a part of a removal that can be done again after it was ended at any point.
type Step struct {
	Name string
	Do   func(context.Context) error
}

// Errors of steps. Behind ErrNotAll the next may be done.
var (
	ErrRunning = errors.New("refused")            // an owner has come back, or pods of its
	ErrNotAll  = errors.New("not everything was") // done; what was not is told
)

// place is where leftovers may be.
type place struct {
	name   string
	find   func(context.Context, *search) ([]Item, error)
	remove func(context.Context, *search) error
}

// places in the order in which they are emptied. What decides on packets goes first and what only carries them afterwards, so that none is
// dropped that was let by before; an ip rule goes before the routes that it leads to, a device before what tells that it was Calico's.
func places() []place {
	all := []place{{"nftables", findNFT, removeNFT}}
	for _, f := range legacyFamilies {
		for _, part := range legacyParts {
			all = append(all, f.place(part))
		}
	}
	return append(all, place{"ipsets", findSets, removeSets}, place{"ip rules", findIPRules, removeIPRules},
		place{"tunnels", findInterfaces, removeInterfaces}, place{"routes", findRoutes, removeRoutes}, place{"files", findFiles, removeFiles})
}

// search is one look at the machine.
type search struct {
	Options
	owners  []owner
	running []string
	pods    []string
	cni     cni
	holds   string // why what carries pods' packets stays; "" if it goes
	mind    []string
}

// Find looks everywhere. What it could not look at is in Unseen; the error is that nothing could be said at all.
func Find(ctx context.Context, o Options) (*Leftovers, error) {
	s, err := begin(o)
	if err != nil {
		return nil, err
	}
	l := &Leftovers{Items: []Item{}, Kept: []Item{}, Running: s.running, Pods: s.pods, CNI: s.cni.inUse, Unseen: append([]string{}, s.cni.unseen...)}
	for _, p := range places() {
		items, err := p.find(ctx, s)
		if err != nil {
			l.Unseen = append(l.Unseen, fmt.Sprintf("%s: %v", p.name, err))
		}
		for _, i := range items {
			if i.Stays != "" {
				l.Kept = append(l.Kept, i)
			} else {
				l.Items = append(l.Items, i)
			}
		}
	}
	l.Mind = append([]string{}, s.mind...)
	if ebpf := s.path("/sys/fs/bpf/calico"); s.of(calico) && exists(ebpf) {
		l.Unseen = append(l.Unseen, ebpf+": Calico was in eBPF mode: its programs on interfaces are not looked for (bpftool net); a restart of the machine removes them")
	}
	return l, nil
}

// Steps to remove everything that Find finds with these options. Each looks anew, whether it may and what there is, and does nothing where that is nothing.
func Steps(o Options) (steps []Step) {
	for _, p := range places() {
		steps = append(steps, Step{p.name, func(ctx context.Context) error {
			s, err := begin(o)
			if err != nil {
				return err
			}
			if why := (&Leftovers{Running: s.running, Pods: s.pods, CNI: s.cni.inUse}).Refused(o); len(why) > 0 {
				return fmt.Errorf("%w: %s", ErrRunning, strings.Join(why, "; "))
			}
			if err := p.remove(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			return nil
		}})
	}
	return steps
}

func begin(o Options) (*search, error) {
	s := &search{Options: o}
	if len(o.Of) == 0 {
		s.Of = []string{calico}
	}
	for _, name := range s.Of {
		i := slices.IndexFunc(owners, func(w owner) bool { return w.name == name })
		if i < 0 {
			return nil, fmt.Errorf("leftovers of %q are not known: it is none of %s", name, strings.Join(Owners(), ", "))
		}
		s.owners = append(s.owners, owners[i])
	}
	var err error
	if s.running, err = s.processes(); err != nil {
		return nil, fmt.Errorf("looking for what runs: %w", err)
	}
	if !s.of(calico) {
		return s, nil
	}
	if s.pods, err = livePods(); err != nil {
		return nil, fmt.Errorf("looking for pods' interfaces: %w", err)
	}
	s.cni = s.findCNI()
	switch {
	case s.KeepCNI:
		s.holds = "Calico's CNI plugin stays"
	case len(s.pods) > 0:
		s.holds = "pods live on Calico's interfaces (" + strings.Join(s.pods, ", ") + ")"
	}
	return s, nil
}

func (s *search) of(name string) bool { return slices.Contains(s.Of, name) }

// path of a file of the machine.
func (o Options) path(p string) string { return filepath.Join("/", o.Root, p) }

// going are those of the items that do not stay.
func going(items []Item) []Item {
	return slices.DeleteFunc(items, func(i Item) bool { return i.Stays != "" })
}
