package nft

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// Enforcer is another program whose rules on this node decide on packets beside ours: what we accept, it may still drop.
type Enforcer struct {
	Name  string // of the program, or of a base chain that drops what no rule accepts
	What  string // it does, or did if it has gone and its rules have stayed
	Found string // how it is known: one of its chains, with its table, or an interface
	Count int    // of such chains
	// Policy tells that it enforces network policy as we do. Two such programs on one node are one too many.
	Policy bool
}

// Where it was found, and how many more chains like that one there are.
func (e Enforcer) Where() string {
	if e.Count > 1 {
		return fmt.Sprintf("%s and %d more like it", e.Found, e.Count-1)
	}
	return e.Found
}

// String says what was found, and where.
func (e Enforcer) String() string { return fmt.Sprintf("%s %s (%s)", e.Name, e.What, e.Where()) }

// enforcerMarks are what programs are known by: how the names of their chains begin, or their tables'.
var enforcerMarks = []struct {
	name, what    string
	table, chains string // the table if not any; the beginning of the chain's name
	policy        bool
}{
	{"Calico", "enforces policies of its own", "", "cali-pi-", true},
	{"Calico", "enforces policies of its own", "", "cali-po-", true},
	{"Calico", "enforces policies of its own", "", "cali-gi-", true},
	{"Calico", "enforces policies of its own", "", "cali-go-", true},
	{"Calico", "enforces policies of its own", "calico", "filter-cali-pi-", true},
	{"Calico", "enforces policies of its own", "calico", "filter-cali-po-", true},
	{"Calico", "has rules for pods' interfaces", "", "cali-tw-", false},
	{"Calico", "has rules for pods' interfaces", "", "cali-FORWARD", false},
	{"Calico", "has rules for pods' interfaces", "calico", "filter-cali-FORWARD", false},
	{"kube-router", "enforces NetworkPolicy", "", "KUBE-POD-FW-", true},
	{"kube-router", "enforces NetworkPolicy", "", "KUBE-NWPLCY-", true},
	{"Azure NPM", "enforces NetworkPolicy", "", "AZURE-NPM", true},
	{"Weave Net", "enforces NetworkPolicy", "", "WEAVE-NPC", true},
	{"kube-network-policies", "enforces NetworkPolicy", "kube-network-policies", "", true},
	{"Antrea", "enforces policies for nodes", "", "ANTREA-POL-", true},
	{"Cilium", "handles packets, and its policy in BPF cannot be seen from here", "", "CILIUM_", true},
	{"firewalld", "filters by zones", "firewalld", "filter_FORWARD", false},
	{"ufw", "filters", "", "ufw-before-forward", false},
	{"docker", "filters what is forwarded", "", "DOCKER-USER", false},
	{"docker", "filters what is forwarded", "docker-bridges", "filter-FORWARD", false},
}

// Enforcers finds those of the network namespace that it is called in, in nftables and in the tables of legacy iptables that are loaded.
// A program that leaves no chain cannot be found.
func Enforcers() ([]Enforcer, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("connecting to nftables: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("listing the chains of all tables: %w", err)
	}
	found := enforcers{}
	for _, ch := range chains {
		found.chain(family(ch.Table.Family), ch.Table.Name, ch.Name)
		if dropsTheRest(ch) {
			found.drop(family(ch.Table.Family), ch.Table.Name, ch.Name)
		}
	}
	tables, err := legacyTables()
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		for _, ch := range t.chains {
			found.chain("legacy "+t.family, t.name, ch)
		}
		for _, ch := range t.drops {
			found.drop("legacy "+t.family, t.name, ch)
		}
	}
	if err := found.cilium(); err != nil {
		return nil, err
	}
	return found.sorted(), nil
}

// dropsTheRest tells whether a base chain of others that sees packets to pods or to the host drops what it does not know.
func dropsTheRest(c *nftables.Chain) bool {
	return c.Type == nftables.ChainTypeFilter && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop && c.Hooknum != nil &&
		(*c.Hooknum == *nftables.ChainHookForward || *c.Hooknum == *nftables.ChainHookInput)
}

func family(f nftables.TableFamily) string {
	return map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
		nftables.TableFamilyBridge: "bridge", nftables.TableFamilyARP: "arp", nftables.TableFamilyNetdev: "netdev"}[f]
}

func foundAt(family, table, chain string) string {
	return fmt.Sprintf("table %s %s, chain %s", family, table, chain)
}

// enforcers by what they are and do.
type enforcers map[string]*Enforcer

func (all enforcers) add(e Enforcer) {
	key := e.Name + " " + e.What
	if have := all[key]; have != nil {
		have.Count++
		return
	}
	e.Count = 1
	all[key] = &e
}

func (all enforcers) chain(family, table, chain string) {
	for _, m := range enforcerMarks {
		if (m.table == "" || m.table == table) && strings.HasPrefix(chain, m.chains) {
			all.add(Enforcer{Name: m.name, What: m.what, Found: foundAt(family, table, chain), Policy: m.policy})
			return
		}
	}
}

// drop is of a base chain that drops what none of its rules accepts.
func (all enforcers) drop(family, table, chain string) {
	all.add(Enforcer{Name: chain, What: "drops what none of its rules accepts", Found: foundAt(family, table, chain)})
}

// cilium is known by its interface as well: without iptables it has no chain.
func (all enforcers) cilium() error {
	_, err := netlink.LinkByName("cilium_host")
	var none netlink.LinkNotFoundError
	switch {
	case errors.As(err, &none):
		return nil
	case err != nil:
		return fmt.Errorf("looking for cilium_host: %w", err)
	}
	all.add(Enforcer{Name: "Cilium", What: "handles packets, and its policy in BPF cannot be seen from here", Found: "interface cilium_host", Policy: true})
	return nil
}

// sorted, those that enforce policy first.
func (all enforcers) sorted() (out []Enforcer) {
	for _, e := range slices.Collect(maps.Values(all)) {
		out = append(out, *e)
	}
	slices.SortFunc(out, func(a, b Enforcer) int {
		switch {
		case a.Policy && !b.Policy:
			return -1
		case b.Policy && !a.Policy:
			return 1
		}
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.What, b.What))
	})
	return out
}
