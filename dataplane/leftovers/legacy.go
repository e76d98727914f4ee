package leftovers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
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
			program, err := f.tool("restore")
			if err != nil {
				return err
			}
			_, err = run(ctx, script, program, "--noflush", "-w", "10")
			return err
		}}
}

// legacy finds what is the owners' in a table, and makes what takes it out of there: rules of others' chains first, then the chains.
func (s *search) legacy(ctx context.Context, f legacyFamily, p legacyPart) (script string, items []Item, err error) {
	text, err := f.save(ctx, p.table)
	if err != nil || len(text) == 0 {
		return "", nil, err
	}
	in := "legacy " + f.family + " " + p.table
	t := parseSaved(text)
	var b strings.Builder
	for _, r := range t.rules {
		if owner, _ := s.chain(r.chain); owner != "" || p.hook != "" && r.chain != p.hook {
			continue
		}
		if owner, why := s.rule(r.jumps, r.comments); owner != "" {
			i := Item{Owner: owner, Kind: Rule, In: in, Name: r.text, Why: why, Stays: s.stays(owner, p.table)}
			if items = append(items, i); i.Stays == "" {
				fmt.Fprintf(&b, "-D %s\n", r.text)
			}
		}
	}
	if p.hook == "" {
		var flush, remove strings.Builder
		for _, name := range t.chains {
			owner, why := s.chain(name)
			if owner == "" {
				continue
			}
			i := Item{Owner: owner, Kind: Chain, In: in, Name: name, Why: why, Stays: s.stays(owner, p.table)}
			if items = append(items, i); i.Stays == "" {
				fmt.Fprintf(&flush, "-F %s\n", name)
				fmt.Fprintf(&remove, "-X %s\n", name)
			}
		}
		b.WriteString(flush.String() + remove.String())
	}
	if b.Len() == 0 {
		return "", items, nil
	}
	return "*" + p.table + "\n" + b.String() + "COMMIT\n", items, nil
}

// save gives a table with its counters; nothing if it is not loaded.
func (f legacyFamily) save(ctx context.Context, table string) ([]byte, error) {
	names, err := os.ReadFile(f.names)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !slices.Contains(strings.Fields(string(names)), table) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	program, err := f.tool("save")
	if err != nil {
		return nil, err
	}
	return run(ctx, "", program, "-c", "-t", table)
}

// tool is the program that saves or restores: where none is called legacy, that without a name of its own if it is one.
func (f legacyFamily) tool(what string) (string, error) {
	if path, err := look(f.program + "-legacy-" + what); err == nil {
		return path, nil
	}
	path, err := look(f.program + "-" + what)
	if err == nil {
		var said []byte
		if said, err = exec.Command(path, "--version").Output(); err == nil && !bytes.Contains(said, []byte("nf_tables")) {
			return path, nil
		}
	}
	return "", fmt.Errorf("tables of legacy iptables are loaded, and there is no %s-legacy-%s: install iptables", f.program, what)
}

// saved is a table as iptables-save gives it.
type saved struct {
	chains []string // that users made
	rules  []savedRule
}

type savedRule struct {
	text         string // chain and rule, as behind -A
	chain, jumps string
	comments     []string
}

func parseSaved(text []byte) (t saved) {
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, ":"); ok {
			if words := strings.Fields(name); len(words) > 1 && words[1] == "-" {
				t.chains = append(t.chains, words[0])
			}
			continue
		}
		if _, rule, ok := strings.Cut(line, "-A "); ok && (strings.HasPrefix(line, "[") || strings.HasPrefix(line, "-A ")) {
			t.rules = append(t.rules, parseRule(rule))
		}
	}
	return t
}

func parseRule(text string) savedRule {
	words := split(text)
	r := savedRule{text: text, chain: words[0]}
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

// run a program that must succeed; the error has what it said.
func run(ctx context.Context, input, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(input)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.Bytes(), nil
}

// look for a program also where root's are, whatever PATH says.
func look(program string) (path string, err error) {
	for _, at := range []string{program, "/usr/sbin/" + program, "/sbin/" + program} {
		if path, err = exec.LookPath(at); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed", program)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
