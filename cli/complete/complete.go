// Package complete says what the last word of a command line may become. It knows a program by what it is told of it, a value that can be
// written down, and imports next to nothing: a shell that waits for the next key asks it before the rest of the program has begun.
package complete

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Program is all that may stand on its command line.
type Program struct {
	Flags    []Flag    `json:"flags"` // of every command
	Commands []Command `json:"commands"`
	Kinds    []Kind    `json:"kinds"`
}

// Command has arguments or commands below it.
type Command struct {
	Names     []string  `json:"names"`
	Usage     string    `json:"usage"`
	Arguments []Noun    `json:"arguments,omitempty"` // of more than that there are, the last
	Flags     []Flag    `json:"flags,omitempty"`
	Commands  []Command `json:"commands,omitempty"`
}

// Flag has a value unless that is "".
type Flag struct {
	Names []string `json:"names"` // without dashes
	Usage string   `json:"usage"`
	Value Noun     `json:"value,omitempty"`
}

// Kind of object, by each of its names; the first is what it is called.
type Kind struct {
	Kind       string   `json:"kind"`
	Names      []string `json:"names"`
	Namespaced bool     `json:"namespaced,omitempty"`
}

// Noun is what a word stands for; one that begins with | is one of those words: |json|yaml.
type Noun string

// What words stand for, as usage texts call them.
const (
	KindName  Noun = "KIND"
	Name      Noun = "NAME" // of an object of the kind before it
	Namespace Noun = "NAMESPACE"
	Node      Noun = "NODE"
	Tier      Noun = "TIER"
	Endpoint  Noun = "ENDPOINT" // NAMESPACE/NAME of a pod or a workload endpoint, or the name of a host endpoint
	End       Noun = "END"      // an Endpoint or a Node
	Policy    Noun = "POLICY"   // KIND/[NAMESPACE/]NAME of a policy
	File      Noun = "FILE"
	Text      Noun = "TEXT" // anything
	Nothing   Noun = "-"    // no word may stand here
)

// OneOf is the Noun that is one of words.
func OneOf(words ...string) Noun { return Noun("|" + strings.Join(words, "|")) }

// Set gives the words that a Noun is one of.
func (n Noun) Set() ([]string, bool) {
	words, ok := strings.CutPrefix(string(n), "|")
	return strings.Split(words, "|"), ok
}

// Line is a command line as far as it goes.
type Line struct {
	Command   *Command // nil before there is one
	Flags     []string // those that were given, with their values: --a=b
	Arguments []string
	Want      Noun   // of the last word
	Before    string // what of the last word stays: --a= of --a=b
	Last      string // the rest of it
	flag      bool   // it is a flag's name
	commands  []Command
	p         *Program
}

// Read takes the words behind the program's name, of which the last, perhaps empty, is being typed.
func (p *Program) Read(words []string) *Line {
	l := &Line{p: p, commands: p.Commands}
	if len(words) == 0 {
		words = []string{""}
	}
	var of *Flag // the word to come is its value
	bare := false
	for _, w := range words[:len(words)-1] {
		switch {
		case of != nil:
			l.Flags, of = append(l.Flags, "--"+of.Names[0]+"="+w), nil
		case w == "--" && !bare:
			bare = true
		case !bare && len(w) > 1 && w[0] == '-':
			of = l.takeFlag(w)
		default:
			l.takeWord(w)
		}
	}
	l.last(words[len(words)-1], of, bare)
	return l
}

// takeFlag gives the flag when its value is the next word.
func (l *Line) takeFlag(w string) *Flag {
	name, value, has := strings.Cut(strings.TrimLeft(w, "-"), "=")
	f := l.flagNamed(name)
	if f == nil && w[1] != '-' { // -oyaml
		if f = l.flagNamed(w[1:2]); f != nil {
			value, has = w[2:], true
		}
	}
	switch {
	case f == nil:
	case f.Value != "" && !has:
		return f
	default:
		l.Flags = append(l.Flags, "--"+f.Names[0]+"="+value)
	}
	return nil
}

func (l *Line) takeWord(w string) {
	if i := slices.IndexFunc(l.commands, func(c Command) bool { return slices.Contains(c.Names, w) }); i >= 0 {
		l.Command, l.commands = &l.commands[i], l.commands[i].Commands
		return
	}
	l.Arguments = append(l.Arguments, w)
}

func (l *Line) last(w string, of *Flag, bare bool) {
	l.Last = w
	name, value, has := strings.Cut(w, "=")
	switch {
	case of != nil:
		l.Want = of.Value
	case !bare && strings.HasPrefix(w, "-") && has:
		if f := l.flagNamed(strings.TrimLeft(name, "-")); f != nil {
			l.Want, l.Before, l.Last = f.Value, name+"=", value
		}
	case !bare && strings.HasPrefix(w, "-"):
		l.flag = true
	case len(l.commands) == 0 && l.Command != nil:
		l.Want = l.Command.argument(len(l.Arguments))
	}
}

func (c *Command) argument(n int) Noun {
	if len(c.Arguments) == 0 {
		return Nothing
	}
	return c.Arguments[min(n, len(c.Arguments)-1)]
}

// flagNamed is a flag of the command or the program, or of any command while there is none: flags may stand before it.
func (l *Line) flagNamed(name string) *Flag {
	for _, flags := range append([][]Flag{l.flags(), l.p.Flags}, flagsBelow(l.commands)...) {
		if i := slices.IndexFunc(flags, func(f Flag) bool { return slices.Contains(f.Names, name) }); i >= 0 {
			return &flags[i]
		}
	}
	return nil
}

func (l *Line) flags() []Flag {
	if l.Command == nil {
		return nil
	}
	return l.Command.Flags
}

func flagsBelow(commands []Command) (out [][]Flag) {
	for _, c := range commands {
		out = append(append(out, c.Flags), flagsBelow(c.Commands)...)
	}
	return out
}

// Flag gives the value that was given to a flag.
func (l *Line) Flag(name string) string {
	for _, f := range slices.Backward(l.Flags) {
		if value, ok := strings.CutPrefix(f, "--"+name+"="); ok {
			return value
		}
	}
	return ""
}

// Kind is the kind that the first argument names, or nil.
func (l *Line) Kind() *Kind {
	if len(l.Arguments) == 0 {
		return nil
	}
	return l.p.KindNamed(l.Arguments[0])
}

// KindNamed is the kind of that name, or nil.
func (p *Program) KindNamed(name string) *Kind {
	i := slices.IndexFunc(p.Kinds, func(k Kind) bool { return slices.Contains(k.Names, strings.ToLower(name)) })
	if i < 0 {
		return nil
	}
	return &p.Kinds[i]
}

// Candidate is what the last word may become, and what that is.
type Candidate struct{ Word, Usage string }

// Candidates gives those that need no store; a Noun that Live finds names for needs one.
func (l *Line) Candidates() (out []Candidate) {
	add := func(usage string, words ...string) {
		for _, w := range words {
			out = append(out, Candidate{w, usage})
		}
	}
	set, isSet := l.Want.Set()
	switch {
	case l.flag:
		for _, f := range append(slices.Clone(l.flags()), l.p.Flags...) {
			add(f.Usage, dashed(f.Names)...)
		}
	case isSet:
		add("", set...)
	case l.Want == KindName:
		for _, k := range l.p.Kinds {
			if l.Last == "" {
				add(k.Kind, k.Names[0])
			} else {
				add(k.Kind, k.Names...)
			}
		}
	case l.Want == "":
		for _, c := range l.commands {
			add(c.Usage, c.Names...)
		}
	}
	return out
}

// dashed are a flag's names with dashes; of a flag that has a long name, that alone.
func dashed(names []string) (out []string) {
	for _, n := range names {
		if len(n) > 1 {
			out = append(out, "--"+n)
		}
	}
	if out == nil {
		out = []string{"-" + names[0]}
	}
	return out
}

// What a shell does with candidates, as the completion of github.com/spf13/cobra numbers it, which kubectl expects of its plugins.
const (
	noSpace = 2 // behind a single candidate
	noFile  = 4 // where there is none
)

// opened tells whether the last word is one of a set's and what stands behind it, as bolt:PATH is; that may be a file.
func (l *Line) opened() bool {
	set, _ := l.Want.Set()
	return slices.ContainsFunc(set, func(w string) bool {
		return w != "" && strings.ContainsAny(w[len(w)-1:], ":=") && strings.HasPrefix(l.Last, w) && l.Last != w
	})
}

// Print writes those candidates that the last word may become, one a line with a tab and what it is, and then what is to be done with them.
func (l *Line) Print(w io.Writer, candidates []Candidate) error {
	how := noFile
	if l.Want == File || l.opened() {
		how = 0
	}
	var b strings.Builder
	for _, c := range candidates {
		if !strings.HasPrefix(c.Word, l.Last) || l.Want == Name && slices.Contains(l.Arguments, c.Word) {
			continue
		}
		if strings.HasSuffix(c.Word, "=") || strings.HasSuffix(c.Word, ":") {
			how |= noSpace
		}
		fmt.Fprintf(&b, "%s%s", l.Before, c.Word)
		if usage, _, _ := strings.Cut(c.Usage, "\n"); usage != "" {
			fmt.Fprintf(&b, "\t%s", usage)
		}
		b.WriteByte('\n')
	}
	_, err := fmt.Fprintf(w, "%s:%d\n", b.String(), how)
	return err
}
