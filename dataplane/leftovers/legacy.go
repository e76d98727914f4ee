package leftovers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// legacyFamily is one family of the iptables that were before nftables.
type legacyFamily struct {
	family, program string
	names           string // the file with the tables that are loaded: asking for another would load it
}

var legacyFamilies = []legacyFamily{{"ip", "iptables", "/proc/thread-self/net/ip_tables_names"}, {"ip6", "ip6tables", "/proc/thread-self/net/ip6_tables_names"}}

// legacyPart is what goes in one transaction: a table or, of one, what a hook leads to.
type legacyPart struct{ table, hook string }

// legacyParts in the order in which they go, each a transaction of the kernel's of its own. What filter's rules accept they mark, so that mangle's
// behind them let it be: those go before. What mangle's and raw's before them accept they mark, so that filter's let it be: those go after.
var legacyParts = []legacyPart{{"mangle", "POSTROUTING"}, {"filter", ""}, {"mangle", ""}, {"raw", ""}, {natTable, ""}, {"security", ""}}

func (f legacyFamily) place(p legacyPart) place {
	name := "legacy " + f.program + ", " + p.table
	if p.hook != "" {
		name += " " + p.hook
	}
	return place{name,
		func(ctx context.Context, s *search) (items []Item, err error) {
			if p.hook == "" { // what a hook leads to is told with its table
				_, items, err = s.legacy(ctx, f, p)
			}
			return items, err
		},
		func(ctx context.Context, s *search) error {
			script, _, err := s.legacy(ctx, f, p)
			if err != nil || script == "" {
				return err
			}
			restore, err := s.legacyTool(f, "restore")
			if err != nil {
				return err
			}
			_, err = restore.run(ctx, script, "--noflush", "-w", "10")
			return err
		}}
}

// legacy finds what is the owners' in a table, and makes what takes it out of there: rules of others' chains first, then the chains.
func (s *search) legacy(ctx context.Context, f legacyFamily, p legacyPart) (script string, items []Item, err error) {
	text, err := s.legacySave(ctx, f, p.table)
	if err != nil || len(text) == 0 {
		return "", nil, err
	}
	in := "legacy " + f.family + " " + p.table
	t := parseSaved(text)
	theirs := s.owned(t)
	var b strings.Builder
	for _, r := range theirs.rules {
		if p.hook != "" && r.chain != p.hook {
			continue
		}
		owner, why := s.rule(r.jumps, r.comments)
		i := Item{Owner: owner, Kind: Rule, In: in, Name: r.text, Why: why, Stays: s.stays(owner, p.table)}
		if items = append(items, i); i.Stays == "" {
			fmt.Fprintf(&b, "-D %s\n", r.text)
		}
	}
	if p.hook == "" {
		var flush, remove strings.Builder
		lost := 0
		for _, name := range theirs.chains {
			owner, why := s.chain(name)
			i := Item{Owner: owner, Kind: Chain, In: in, Name: name, Why: why, Stays: s.stays(owner, p.table)}
			if items = append(items, i); i.Stays == "" {
				fmt.Fprintf(&flush, "-F %s\n", name)
				fmt.Fprintf(&remove, "-X %s\n", name)
				lost += strangers(owner, theirs.comments(name))
			}
		}
		b.WriteString(flush.String() + remove.String())
		s.loses(in, lost)
	}
	for _, chain := range t.policies {
		if slices.ContainsFunc(theirs.rules, func(r savedRule) bool { return r.chain == chain }) {
			s.drops(in, chain)
		}
	}
	if b.Len() == 0 {
		return "", items, nil
	}
	return "*" + p.table + "\n" + b.String() + "COMMIT\n", items, nil
}

// owned is what of a table is the owners': their chains, with the rules in them, and the rules in chains of others.
type owned struct {
	chains        []string
	inside, rules []savedRule
}

func (s *search) owned(t saved) (o owned) {
	for _, name := range t.chains {
		if owner, _ := s.chain(name); owner != "" {
			o.chains = append(o.chains, name)
		}
	}
	for _, r := range t.rules {
		if owner, _ := s.chain(r.chain); owner != "" {
			o.inside = append(o.inside, r)
		} else if owner, _ := s.rule(r.jumps, r.comments); owner != "" {
			o.rules = append(o.rules, r)
		}
	}
	return o
}

// comments of the rules in a chain.
func (o *owned) comments(chain string) (all [][]string) {
	for _, r := range o.inside {
		if r.chain == chain {
			all = append(all, r.comments)
		}
	}
	return all
}

// legacySave gives a table with its counters; nothing if it is not loaded.
func (o Options) legacySave(ctx context.Context, f legacyFamily, table string) ([]byte, error) {
	names, err := os.ReadFile(f.names)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !slices.Contains(strings.Fields(string(names)), table) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	save, err := o.legacyTool(f, "save")
	if err != nil {
		return nil, err
	}
	return save.run(ctx, "", "-c", "-t", table)
}

// legacyTool is the program that saves or restores, or with "" that changes a rule: where none is called legacy, that without a name of its own if it is one.
func (o Options) legacyTool(f legacyFamily, what string) (program, error) {
	if what != "" {
		what = "-" + what
	}
	if p, err := o.program(f.program + "-legacy" + what); err == nil {
		return p, nil
	}
	p, err := o.program(f.program + what)
	if err == nil {
		var said []byte
		if said, err = p.run(context.Background(), "", "--version"); err == nil && !bytes.Contains(said, []byte("nf_tables")) {
			return p, nil
		}
	}
	return program{}, fmt.Errorf("tables of legacy iptables are loaded, and there is no %s-legacy%s: install iptables", f.program, what)
}

// saved is a table as iptables-save gives it.
type saved struct {
	chains   []string // that users made
	policies []string // that the kernel's own chains have, behind their names, where that is not ACCEPT
	rules    []savedRule
}

type savedRule struct {
	text         string // chain and rule, as behind -A
	chain, jumps string
	words        []string // of text, without the chain
	comments     []string
	position     int    // in its chain, from 1
	counters     string // as in [1:2]
}

func parseSaved(text []byte) (t saved) {
	position := map[string]int{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, ":"); ok {
			switch words := strings.Fields(name); {
			case len(words) > 1 && words[1] == "-":
				t.chains = append(t.chains, words[0])
			case len(words) > 1 && words[1] != "ACCEPT":
				t.policies = append(t.policies, words[0])
			}
			continue
		}
		if counters, rule, ok := strings.Cut(line, "-A "); ok && (strings.HasPrefix(line, "[") || strings.HasPrefix(line, "-A ")) {
			r := parseRule(rule)
			position[r.chain]++
			r.position, r.counters = position[r.chain], strings.Trim(counters, "[] ")
			t.rules = append(t.rules, r)
		}
	}
	return t
}

func parseRule(text string) savedRule {
	words := split(text)
	r := savedRule{text: text, chain: words[0], words: words[1:]}
	for i, w := range words[:len(words)-1] {
		switch w {
		case "-j", "-g":
			r.jumps = words[i+1]
		case "--comment":
			r.comments = append(r.comments, words[i+1])
		}
	}
	return r
}

// split a rule into words as iptables-restore does: what is in double quotes is one, and a backslash there takes its meaning from what follows.
func split(text string) (words []string) {
	var word strings.Builder
	quoted, escaped, begun := false, false, false
	for _, c := range text {
		switch {
		case escaped:
			word.WriteRune(c)
			escaped = false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			quoted, begun = !quoted, true
		case !quoted && (c == ' ' || c == '\t'):
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(c)
			begun = true
		}
	}
	return append(words, word.String())
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
