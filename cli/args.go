package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// arrange puts the command first, then its flags, then its arguments, so that flags may stand anywhere on the command
// line; the library alone would take a flag behind an argument for an argument. It also finds the unknown command and
// the unknown flag, and says what was meant.
func arrange(app *cli.App, args []string) ([]string, error) {
	p := splitter{takesValue: flagsOf(app.Commands)}
	if err := p.split(args); err != nil {
		return nil, err
	}
	if len(p.words) > 0 && p.words[0] == "help" {
		p.words, p.flags = p.words[1:], []string{"--help"}
	}
	if len(p.words) == 0 {
		if len(p.flags) == 0 || p.help() {
			return []string{"--help"}, nil
		}
		return nil, usagef("no command given; see 'tierctl --help'")
	}
	command := app.Command(p.words[0])
	if command == nil {
		return nil, usagef("unknown command %q%s; see 'tierctl --help'", p.words[0], suggest(p.words[0], names(app.Commands)))
	}
	known := flagsOf([]*cli.Command{command})
	for _, f := range p.flags {
		if name := flagName(f); name != "" && p.isFlag[f] && !has(known, name) {
			return nil, usagef("%s has no flag %s%s; see 'tierctl %s --help'", command.Name, dashed(name), suggest(dashed(name), dashedAll(known)), command.Name)
		}
	}
	return slices.Concat([]string{command.Name}, p.flags, []string{"--"}, p.words[1:]), nil
}

// splitter tells flags with their values from words.
type splitter struct {
	takesValue   map[string]bool
	flags, words []string
	isFlag       map[string]bool // which of flags are not values
}

func (p *splitter) split(args []string) error {
	p.isFlag = map[string]bool{}
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		switch {
		case a == "--":
			p.words = append(p.words, args...)
			return nil
		case len(a) < 2 || a[0] != '-':
			p.words = append(p.words, a)
			continue
		}
		name := flagName(a)
		takes, known := p.takesValue[name]
		if short := a[1:2]; !known && a[1] != '-' && p.takesValue[short] { // -oyaml
			p.isFlag["-"+short] = true
			p.flags = append(p.flags, "-"+short, strings.TrimPrefix(a[2:], "="))
			continue
		}
		p.isFlag[a] = true
		p.flags = append(p.flags, a)
		if takes && !strings.Contains(a, "=") {
			if len(args) == 0 {
				return usagef("flag %s needs a value", a)
			}
			p.flags, args = append(p.flags, args[0]), args[1:]
		}
	}
	return nil
}

func (p *splitter) help() bool { return p.isFlag["--help"] || p.isFlag["-h"] }

// flagName of -x, --x or --x=y.
func flagName(a string) string {
	if len(a) < 2 || a[0] != '-' {
		return ""
	}
	name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
	return name
}

// flagsOf the commands, by each of their names, with whether they take a value. A name means the same everywhere.
func flagsOf(commands []*cli.Command) map[string]bool {
	out := map[string]bool{"help": false, "h": false}
	for _, c := range commands {
		for _, f := range c.Flags {
			_, isBool := f.(*cli.BoolFlag)
			for _, n := range f.Names() {
				out[n] = !isBool
			}
		}
	}
	return out
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

func dashedAll(flags map[string]bool) (out []string) {
	for _, n := range keys(flags) {
		out = append(out, dashed(n))
	}
	return out
}

func names(commands []*cli.Command) (out []string) {
	for _, c := range commands {
		out = append(out, c.Name)
	}
	return out
}

func keys(m map[string]bool) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func has(m map[string]bool, k string) bool { _, ok := m[k]; return ok }

// suggest gives ", did you mean X?" for the candidate that shares the longest beginning with what was typed, if that is
// two letters at least.
func suggest(typed string, candidates []string) string {
	best, length := "", 1+2*strings.Count(typed, "--")
	for _, c := range candidates {
		n := 0
		for n < min(len(c), len(typed)) && c[n] == typed[n] {
			n++
		}
		if n > length {
			best, length = c, n
		}
	}
	if best == "" {
		return ""
	}
	return ", did you mean " + best + "?"
}
