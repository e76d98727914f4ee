package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// arrange puts the program's own flags first, then the command, its flags and its arguments, so that flags may stand anywhere on the
// command line; the library alone would take a flag behind an argument for an argument. It also finds the unknown command and
// the unknown flag, and says what was meant.
func arrange(app *cli.App, args []string) ([]string, error) {
	p := splitter{takesValue: flagsOf(app.Flags, app.Commands)}
	if err := p.split(args); err != nil {
		return nil, err
	}
	if len(p.words) > 0 && p.words[0] == "help" {
		p.words, p.flags = p.words[1:], []flagWords{{"--help"}}
	}
	if len(p.words) == 0 && (len(p.flags) == 0 || p.help()) {
		return []string{"--help"}, nil
	}
	if err := notOurs(p.words); err != nil {
		return nil, err
	}
	path, err := descend(app, p.words, p.help())
	if err != nil {
		return nil, err
	}
	command := path[len(path)-1]
	var line, full []string
	for _, c := range path {
		line, full = append(line, c.Name), append(full, c.Name)
	}
	global, known := flagsOf(app.Flags, nil), flagsOf(nil, []*cli.Command{command})
	delete(global, "help")
	delete(global, "h")
	var front []string
	for _, f := range p.flags {
		switch name := flagName(f[0]); {
		case has(known, name):
			line = append(line, f...)
		case has(global, name):
			front = append(front, f...)
		default:
			for n, v := range global {
				known[n] = v
			}
			return nil, usagef("%s has no flag %s%s; see '%s %s --help'", strings.Join(full, " "), dashed(name), suggest(dashed(name), dashedAll(known)),
				app.Name, strings.Join(full, " "))
		}
	}
	line = slices.Concat(front, line)
	if command.Action == nil { // only its help was asked for
		return line, nil
	}
	return slices.Concat(line, []string{"--"}, p.words[len(path):]), nil
}

// descend follows words from a command to the one below that does something, or as far as help is asked for.
func descend(app *cli.App, words []string, help bool) (path []*cli.Command, err error) {
	at, below := app.Name, app.Commands
	for {
		if len(words) == len(path) {
			if n := len(path); n > 0 && path[n-1].Action != nil {
				return path, nil
			}
			return nil, usagef("no command given: %s has %s; see '%s --help'", at, strings.Join(names(below), ", "), at)
		}
		word := words[len(path)]
		i := slices.IndexFunc(below, func(c *cli.Command) bool { return c.HasName(word) })
		if i < 0 {
			return nil, usagef("unknown command %q%s; see '%s --help'", strings.TrimPrefix(at+" "+word, app.Name+" "), suggest(word, names(below)), at)
		}
		path = append(path, below[i])
		at, below = at+" "+below[i].Name, below[i].Subcommands
		if len(below) == 0 || help && len(words) == len(path) {
			return path, nil
		}
	}
}

// splitter tells flags with their values from words.
type splitter struct {
	takesValue map[string]bool
	flags      []flagWords
	words      []string
}

// flagWords are a flag, and its value where that is a word of its own.
type flagWords []string

func (p *splitter) split(args []string) error {
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
		takes, known := p.takesValue[flagName(a)]
		if short := a[1:2]; !known && a[1] != '-' && p.takesValue[short] { // -oyaml
			p.flags = append(p.flags, flagWords{"-" + short, strings.TrimPrefix(a[2:], "=")})
			continue
		}
		f := flagWords{a}
		if takes && !strings.Contains(a, "=") {
			if len(args) == 0 {
				return usagef("flag %s needs a value", a)
			}
			f, args = append(f, args[0]), args[1:]
		}
		p.flags = append(p.flags, f)
	}
	return nil
}

func (p *splitter) help() bool {
	return slices.ContainsFunc(p.flags, func(f flagWords) bool { return f[0] == "--help" || f[0] == "-h" })
}

// flagName of -x, --x or --x=y.
func flagName(a string) string {
	if len(a) < 2 || a[0] != '-' {
		return ""
	}
	name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
	return name
}

// flagsOf the program and of commands with all below them, by each of their names, with whether they take a value. A name means the same
// everywhere.
func flagsOf(flags []cli.Flag, commands []*cli.Command) map[string]bool {
	out := map[string]bool{"help": false, "h": false}
	add := func(flags []cli.Flag) {
		for _, f := range flags {
			for _, n := range f.Names() {
				out[n] = takesValue(f)
			}
		}
	}
	add(flags)
	each(commands, func(c *cli.Command) { add(c.Flags) })
	return out
}

// takesValue tells whether the word behind a flag is its value.
func takesValue(f cli.Flag) bool {
	switch f := f.(type) {
	case *cli.BoolFlag:
		return false
	case *cli.GenericFlag:
		b, ok := f.Value.(interface{ IsBoolFlag() bool })
		return !ok || !b.IsBoolFlag()
	}
	return true
}

// each command, and each below it.
func each(commands []*cli.Command, do func(*cli.Command)) {
	for _, c := range commands {
		do(c)
		each(c.Subcommands, do)
	}
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
