package leftovers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

var families = map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
	nftables.TableFamilyBridge: "bridge", nftables.TableFamilyARP: "arp", nftables.TableFamilyNetdev: "netdev"}

// iptablesTables are those of iptables, which iptables-nft keeps in nftables tables of the same names, of family ip and ip6.
var iptablesTables = []string{"filter", natTable, "mangle", "raw", "security"}

func tableName(t *nftables.Table) string { return families[t.Family] + " " + t.Name }

// nftTable is one in which something is the owners'.
type nftTable struct {
	*nftables.Table
	whole  bool // the table itself is an owner's, and goes
	chains []*nftables.Chain
	held   []*nftables.Chain // that a map of somebody else's leads to: they can only be emptied
	rules  []*nftables.Rule  // in chains of others
	sets   []*nftables.Set   // of a table of Calico's that stays for its NAT
}

// nftLeftovers reads nftables over netlink: iptables-nft-save refuses tables in which somebody has put a rule that it does not know.
func (s *search) nftLeftovers(c *nftables.Conn) (tables []nftTable, items []Item, err error) {
	all, err := c.ListTables()
	if err != nil {
		return nil, nil, fmt.Errorf("listing tables: %w", err)
	}
	for _, t := range all {
		var found nftTable
		var what []Item
		switch owner := s.tableOwner(t); {
		case owner != "" && (s.holds == "" || t.Family == nftables.TableFamilyARP):
			found, what = nftTable{Table: t, whole: true}, []Item{{Owner: owner, Kind: NFTTable, Name: tableName(t), Why: "it is " + owner + "'s own"}}
		case owner != "":
			found, what, err = s.allButNAT(c, t)
		case (t.Family == nftables.TableFamilyIPv4 || t.Family == nftables.TableFamilyIPv6) && slices.Contains(iptablesTables, t.Name):
			found, what, err = s.inShared(c, t)
		default:
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("reading table %s: %w", tableName(t), err)
		}
		tables, items = append(tables, found), append(items, what...)
	}
	return tables, items, nil
}

func (s *search) tableOwner(t *nftables.Table) string {
	for _, o := range s.owners {
		if slices.Contains(o.tables, tableName(t)) {
			return o.name
		}
	}
	return ""
}

func chainsOf(c *nftables.Conn, t *nftables.Table) (chains []*nftables.Chain, err error) {
	all, err := c.ListChainsOfTableFamily(t.Family)
	for _, ch := range all {
		if ch.Table.Name == t.Name {
			chains = append(chains, ch)
		}
	}
	return chains, err
}

// inShared finds chains and rules in a table of iptables-nft.
func (s *search) inShared(c *nftables.Conn, t *nftables.Table) (found nftTable, items []Item, err error) {
	found.Table = t
	in := "nft " + tableName(t)
	chains, err := chainsOf(c, t)
	if err != nil {
		return found, nil, err
	}
	mapped, lost := mappedChains(c, t), 0
	for _, ch := range chains {
		rules, err := c.GetRules(t, ch)
		if err != nil {
			return found, nil, fmt.Errorf("chain %s: %w", ch.Name, err)
		}
		if owner, why := s.chain(ch.Name); owner != "" && ch.Hooknum == nil {
			i := Item{Owner: owner, Kind: Chain, In: in, Name: ch.Name, Why: why, Stays: s.stays(owner, t.Name)}
			if mapped[ch.Name] && len(rules) == 0 && i.Stays == "" {
				i.Stays = "a map of somebody else's leads to it; it is empty"
			}
			switch {
			case i.Stays != "":
			case mapped[ch.Name]:
				found.held = append(found.held, ch)
			default:
				found.chains = append(found.chains, ch)
			}
			items = append(items, i)
			if i.Stays == "" {
				var all [][]string
				for _, r := range rules {
					all = append(all, comments(r))
				}
				lost += strangers(owner, all)
			}
			continue
		}
		before := len(found.rules)
		for _, r := range rules {
			target, comments := jumps(r), comments(r)
			owner, why := s.rule(target, comments)
			if owner == "" {
				continue
			}
			i := Item{Owner: owner, Kind: Rule, In: in, Name: ch.Name + described(target, comments), Why: why, Stays: s.stays(owner, t.Name)}
			if items = append(items, i); i.Stays == "" {
				found.rules = append(found.rules, r)
			}
		}
		if len(found.rules) > before && ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
			s.drops(in, ch.Name)
		}
	}
	s.loses(in, lost)
	return found, items, nil
}

// verdictHead is what a verdict has before the name of a chain: its code as an attribute, and the head of the name's.
const verdictHead = 8 + 4

// mappedChains are those that a map of a table leads to. iptables makes no maps: they are somebody else's. Where they cannot be read none is known, and the
// kernel refuses to remove what one leads to.
func mappedChains(c *nftables.Conn, t *nftables.Table) map[string]bool {
	names := map[string]bool{}
	sets, _ := c.GetSets(t) // some kinds of others' our library does not know
	for _, set := range sets {
		if !set.IsMap || set.DataType.Name != nftables.TypeVerdict.Name {
			continue
		}
		elements, _ := c.GetSetElements(set)
		for _, e := range elements {
			if len(e.Val) > verdictHead { // the library leaves a verdict as the kernel gives it
				names[string(bytes.TrimRight(e.Val[verdictHead:], "\x00"))] = true
			}
		}
	}
	return names
}

// natLayer is how the names of chains for NAT begin in Calico's own tables.
const natLayer = "nat-"

// allButNAT finds what of a table of Calico's is not for NAT, nor used by that.
func (s *search) allButNAT(c *nftables.Conn, t *nftables.Table) (found nftTable, items []Item, err error) {
	found.Table = t
	chains, err := chainsOf(c, t)
	if err != nil {
		return found, nil, err
	}
	used := map[string]bool{}
	for _, ch := range chains {
		if !strings.HasPrefix(ch.Name, natLayer) {
			found.chains = append(found.chains, ch)
			items = append(items, Item{Owner: calico, Kind: NFTChain, In: tableName(t), Name: ch.Name, Why: "the table is calico's own"})
			continue
		}
		rules, err := c.GetRules(t, ch)
		if err != nil {
			return found, nil, fmt.Errorf("chain %s: %w", ch.Name, err)
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if l, ok := e.(*expr.Lookup); ok {
					used[l.SetName] = true
				}
			}
		}
	}
	sets, err := c.GetSets(t)
	if err != nil {
		return found, nil, err
	}
	for _, set := range sets {
		if !set.Anonymous && !used[set.Name] {
			found.sets = append(found.sets, set)
		}
	}
	stays := Item{Owner: calico, Kind: NFTTable, Name: tableName(t), Why: "it is calico's own", Stays: "its chains for NAT are " + s.stays(calico, natTable)}
	return found, append(items, stays), nil
}

// jumps is the chain that a rule leads to, or "".
func jumps(r *nftables.Rule) string {
	for _, e := range r.Exprs {
		if v, ok := e.(*expr.Verdict); ok && (v.Kind == expr.VerdictJump || v.Kind == expr.VerdictGoto) {
			return v.Chain
		}
	}
	return ""
}

// comments of a rule: nft's own, and those that iptables-nft writes as matches.
func comments(r *nftables.Rule) (all []string) {
	if text := userdata.Get(r.UserData, userdata.TypeComment); len(text) > 0 {
		all = append(all, string(bytes.TrimRight(text, "\x00")))
	}
	for _, e := range r.Exprs {
		m, ok := e.(*expr.Match)
		if !ok || m.Name != "comment" {
			continue
		}
		switch text := m.Info.(type) {
		case *xt.Comment:
			all = append(all, string(bytes.TrimRight([]byte(*text), "\x00")))
		case *xt.Unknown:
			all = append(all, string(bytes.TrimRight(*text, "\x00")))
		}
	}
	return all
}

func described(target string, comments []string) (text string) {
	if target != "" {
		text = " -j " + target
	}
	for _, c := range comments {
		text += fmt.Sprintf(" %q", c)
	}
	return text
}

func findNFT(_ context.Context, s *search) ([]Item, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	_, items, err := s.nftLeftovers(c)
	return items, err
}

// often is how many times a transaction is tried that somebody else's has come before.
const often = 5

// removeNFT takes everything out of all tables in one transaction. A rule by its handle, a chain by its name: what is not named stays as it
// is, with its counters. Who has changed a table meanwhile makes the kernel refuse all of it; it is then read anew.
func removeNFT(_ context.Context, s *search) (err error) {
	for range often {
		if err = s.removeNFTOnce(); err == nil || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EAGAIN) {
			return err
		}
	}
	return err
}

func (s *search) removeNFTOnce() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	tables, _, err := s.nftLeftovers(c)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if t.whole {
			c.DelTable(t.Table)
			continue
		}
		for _, r := range t.rules {
			if err := c.DelRule(r); err != nil {
				return err
			}
		}
		for _, ch := range slices.Concat(t.chains, t.held) {
			c.FlushChain(ch)
		}
		for _, set := range t.sets { // a map leads to chains
			c.DelSet(set)
		}
		for _, ch := range t.chains {
			c.DelChain(ch)
		}
	}
	return c.Flush()
}
