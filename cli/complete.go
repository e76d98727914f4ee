package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/cli/complete"
	"github.com/tierwall/tierwall/cli/early"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/controllers/store/key"
)

// program is what the commands say of themselves. What words a command takes is what its usage text says, and what a flag's value is, the
// word in backquotes in its usage: what help says is what completion offers.
func program(app *cli.App) complete.Program {
	p := complete.Program{Flags: completeFlags(app.Flags), Commands: completeCommands(app.Commands)}
	for _, k := range store.Kinds() {
		p.Kinds = append(p.Kinds, complete.Kind{Kind: k.Kind, Names: append([]string{k.Singular, k.Plural}, k.Aliases...), Namespaced: k.Namespaced})
	}
	return p
}

func completeCommands(commands []*cli.Command) (out []complete.Command) {
	for _, c := range commands {
		if c.Hidden {
			continue
		}
		d := complete.Command{Names: c.Names(), Usage: c.Usage, Flags: completeFlags(c.Flags), Commands: completeCommands(c.Subcommands)}
		if d.Commands == nil {
			d.Arguments = argumentsOf(c)
		}
		out = append(out, d)
	}
	return out
}

func completeFlags(flags []cli.Flag) (out []complete.Flag) {
	for _, f := range flags {
		if v, ok := f.(cli.VisibleFlag); ok && !v.IsVisible() {
			continue
		}
		placeholder, usage := unquote(f)
		d := complete.Flag{Names: f.Names(), Usage: usage}
		if takesValue(f) {
			d.Value = valueOf(d.Names[0], placeholder, usage)
		}
		out = append(out, d)
	}
	return out
}

// unquote gives the word in backquotes, and the usage without them.
func unquote(f cli.Flag) (placeholder, usage string) {
	usage = f.(cli.DocGenerationFlag).GetUsage()
	if p := strings.SplitN(usage, "`", 3); len(p) == 3 {
		placeholder = p[1]
	}
	return placeholder, strings.ReplaceAll(usage, "`", "")
}

// nouns are what completion knows of the words that usage texts have; of others it knows nothing.
var nouns = map[string]complete.Noun{
	"KIND": complete.KindName, "NAME": complete.Name, "NAMESPACE": complete.Namespace, "NODE": complete.Node, "TIER": complete.Tier,
	"ENDPOINT": complete.Endpoint, "END": complete.End, "POLICY": complete.Policy, "FILE": complete.File, "DIR": complete.File,
	"DIRECTORY": complete.File, "KUBECONFIG": complete.File, "PATH": complete.File,
	"NAMESPACE/POD|HOSTENDPOINT": complete.Endpoint, "KIND/[NAMESPACE/]NAME": complete.Policy,
	"KEY=VALUE": complete.Text, "KEY": complete.Text, "ID": complete.Text, "KEY-": complete.Text,
	"SHELL": complete.OneOf("bash", "zsh", "fish", "powershell"),
}

// sets are the words that flags' values are one of, where no usage text lists them.
var sets = map[string]complete.Noun{
	"color": complete.OneOf("auto", "always", "never"), "progress": complete.OneOf("auto", "plain", "json", "none"),
	"log-level":                       complete.OneOf("panic", "fatal", "error", "warn", "info", "debug"),
	"protocol":                        complete.OneOf("TCP", "UDP", "SCTP", "UDPLite", "ICMP", "ICMPv6"),
	"default-endpoint-to-host-action": complete.OneOf("Drop", "Accept", "Return"), "established-connections": complete.OneOf("Keep", "Reevaluate"),
	"datastore": complete.OneOf("bolt:", "kubernetes"),
	"dry-run":   complete.OneOf("client", "server"),
	"type":      complete.OneOf("strategic", "merge", "json"),
	"for": complete.OneOf("condition=Accepted", "condition=Programmed", "condition=Ready", "condition=Enforcing", "delete", "create",
		"jsonpath="),
}

var inBrackets = regexp.MustCompile(`\([^)]*\)`)

// valueOf a flag.
func valueOf(name, placeholder, usage string) complete.Noun {
	if set, ok := sets[name]; ok {
		return set
	}
	if formats, ok := strings.CutPrefix(usage, "FORMAT: "); ok { // of outputFlag
		var words []string
		for _, f := range strings.Split(inBrackets.ReplaceAllString(formats, ""), ",") {
			words = append(words, strings.TrimSpace(f))
		}
		return complete.OneOf(words...)
	}
	if n, ok := nouns[placeholder]; ok && n != complete.Name {
		return n
	}
	return complete.Text
}

var (
	bracketed = regexp.MustCompile(`\[(-[^\]]*)\]`)                     // [-o json]
	given     = regexp.MustCompile(`\s--?[a-zA-Z][-a-zA-Z]*([= ]\S+)?`) // -f FILE
)

// argumentsOf a command are the words of the first line of its usage text that are no flag's.
func argumentsOf(c *cli.Command) (out []complete.Noun) {
	for _, w := range argumentWords(c) {
		noun, ok := nouns[w]
		if !ok {
			noun = complete.Text
		}
		out = append(out, noun)
	}
	return out
}

func argumentWords(c *cli.Command) (out []string) {
	line, _, _ := strings.Cut(c.UsageText, "\n")
	line, _, _ = strings.Cut(line, " > ")
	for _, w := range strings.Fields(given.ReplaceAllString(bracketed.ReplaceAllString(line, ""), "")) {
		if w = strings.TrimSuffix(strings.Trim(w, "[]"), "..."); strings.ToUpper(w) == w {
			out = append(out, w)
		}
	}
	return out
}

// completeTime is how long a cluster is waited for: somebody sits at the keyboard.
const completeTime = 2 * time.Second

// completeWords answers a shell as package early does, and asks clusters too. What cannot be found out is not offered, and nothing is said of it.
func completeWords(ctx context.Context, words []string, out io.Writer) error {
	app := newApp(strings.NewReader(""), io.Discard, io.Discard)
	p := program(app)
	line := p.Read(words)
	candidates := line.Candidates()
	if kinds := line.Live(); len(kinds) > 0 {
		ctx, stop := context.WithTimeout(ctx, completeTime)
		defer stop()
		candidates = line.Named(liveKeys(ctx, app, line, kinds))
	}
	return line.Print(out, candidates)
}

// liveKeys asks the datastore that the flags of the line, the environment and the configuration file say.
func liveKeys(ctx context.Context, app *cli.App, line *complete.Line, kinds []string) (out []key.Key) {
	names := &cli.Command{Name: early.Command, Flags: []cli.Flag{datastoreFlag()}, Action: func(c *cli.Context) error {
		if kind, path := datastore(c); kind == boltDatastore {
			out, _ = key.Read(path, kinds...)
			return nil
		}
		s, err := openStore(c)
		if err != nil {
			return err
		}
		for _, kind := range kinds {
			objs, err := s.List(c.Context, kind, "")
			if err != nil {
				continue // the cluster has no such kind
			}
			for _, o := range objs {
				out = append(out, key.Key(v3.RefOf(o.(v3.Object))))
			}
		}
		return nil
	}}
	app.Commands = []*cli.Command{names}
	known := flagsOf(app.Flags, app.Commands)
	args := []string{early.Command}
	for _, f := range line.Flags {
		if has(known, flagName(f)) {
			args = append(args, f)
		}
	}
	args, err := arrange(app, args)
	if err == nil {
		_ = app.RunContext(ctx, append([]string{app.Name}, args...))
	}
	return out
}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print a script that has a shell complete tierctl's words", UsageText: "tierctl completion SHELL",
		Description: "SHELL is bash, zsh, fish or powershell. Objects' names are those of the datastore.\n\n" +
			"   bash        source <(tierctl completion bash)                      in ~/.bashrc\n" +
			"   zsh         source <(tierctl completion zsh)                       in ~/.zshrc, after compinit\n" +
			"   fish        tierctl completion fish | source                       in ~/.config/fish/config.fish\n" +
			"   powershell  tierctl completion powershell | Out-String | iex       in $PROFILE",
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usagef("completion needs one SHELL: bash, zsh, fish or powershell")
			}
			script, ok := scripts[c.Args().First()]
			if !ok {
				return usagef("completion has no shell %q: it has bash, zsh, fish and powershell", c.Args().First())
			}
			_, err := fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}

// scripts are what completion prints.
var scripts = map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript, "powershell": powershellScript}

//go:embed scripts/tierctl.bash
var bashScript string

//go:embed scripts/tierctl.zsh
var zshScript string

//go:embed scripts/tierctl.fish
var fishScript string

//go:embed scripts/tierctl.ps1
var powershellScript string
