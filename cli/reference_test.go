package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// The reference and the manual page say what the commands say of themselves; go test ./cli -run TestGenerated -update writes them.
func TestGeneratedReference(t *testing.T) {
	app := newApp(nil, nil, nil)
	generated(t, "reference.md", reference(app))
	generated(t, "../config/man/tierctl.1", manual(app))
}

// Every command and every flag of it is in both, and man finds nothing wrong with the page.
func TestReferenceIsWhole(t *testing.T) {
	app := newApp(nil, nil, nil)
	md, man := reference(app), manual(app)
	for _, c := range leaves(app) {
		if !strings.Contains(md, "## tierctl "+c.path+"\n") || !strings.Contains(man, ".SS tierctl "+c.path+"\n") {
			t.Errorf("%s is missing", c.path)
		}
		for _, f := range c.Flags {
			if name := "--" + f.Names()[0]; !strings.Contains(md, name) || !strings.Contains(man, roff(name)) {
				t.Errorf("%s: %s is missing", c.path, name)
			}
		}
	}
	for _, name := range []string{"TIERWALL_DATASTORE", "KUBECONFIG", "K8S_API_TOKEN", "NODE_NAME", "NO_COLOR"} {
		if !strings.Contains(md, "| `"+name) || !strings.Contains(man, ".B "+name) {
			t.Errorf("%s is missing", name)
		}
	}
	if strings.Contains(md, "`tierctl __complete`") {
		t.Error("a hidden command is told of")
	}
	program, err := exec.LookPath("man")
	if err != nil {
		return // it is no part of a small Debian; the page is the same text everywhere
	}
	cmd := exec.CommandContext(t.Context(), program, "--warnings", "-l", "../config/man/tierctl.1")
	cmd.Env = append(os.Environ(), "MANWIDTH=100", "LC_ALL=C.UTF-8")
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Run(); err != nil || errs.Len() > 0 {
		t.Errorf("man: %v %s", err, errs.String())
	}
}

// leaf is a command that does something, and the words that call it.
type leaf struct {
	*cli.Command
	path string
}

func leaves(app *cli.App) (out []leaf) {
	var walk func(before string, commands []*cli.Command)
	walk = func(before string, commands []*cli.Command) {
		for _, c := range commands {
			switch path := before + c.Name; {
			case c.Hidden:
			case c.Action != nil:
				out = append(out, leaf{c, path})
				walk(path+" ", c.Subcommands)
			default:
				walk(path+" ", c.Subcommands)
			}
		}
	}
	walk("", app.Commands)
	return out
}

// flagText is a flag with its short names and the word for its value, and what it is for.
func flagText(f cli.Flag) (names, about string) {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return "", ""
	}
	var all []string
	for _, n := range f.Names() {
		all = append(all, dashed(n))
	}
	names, about = strings.Join(all, ", "), d.GetUsage()
	if takesValue(f) {
		word := "VALUE"
		if m := backquoted.FindStringSubmatch(about); m != nil {
			word = m[1]
		}
		names += " " + word
	}
	about = backquoted.ReplaceAllString(about, "$1")
	if value := d.GetDefaultText(); value != "" && value != `""` && takesValue(f) {
		about += " (default: " + strings.Trim(value, `"`) + ")"
	}
	if vars := d.GetEnvVars(); len(vars) > 0 {
		about += " [$" + strings.Join(vars, ", $") + "]"
	}
	return names, about
}

var backquoted = regexp.MustCompile("`([^`]+)`")

// reference is what each command's help says, as Markdown.
func reference(app *cli.App) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# tierctl\n\nWhat `tierctl COMMAND --help` says, of every command. Written by `make generate`; [README.md](README.md) has the examples.\n\n%s\n\n", app.Description)
	all := leaves(app)
	for _, c := range all {
		fmt.Fprintf(&b, "- [`tierctl %s`](#tierctl-%s): %s\n", c.path, strings.ReplaceAll(c.path, " ", "-"), c.Usage)
	}
	b.WriteString("- [the environment](#environment)\n\n## Flags of every command\n\n")
	flagRows(&b, app.Flags)
	b.WriteString("\n## Environment\n\n| variable | |\n|---|---|\n")
	for _, v := range variables(app) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", v.names, v.about)
	}
	for _, c := range all {
		fmt.Fprintf(&b, "\n## tierctl %s\n\n%s.\n\n```\n%s\n```\n\n", c.path, sentence(c.Usage), strings.TrimSpace(c.UsageText))
		if c.Description != "" {
			fmt.Fprintf(&b, "%s\n\n", strings.TrimSpace(c.Description))
		}
		flagRows(&b, c.Flags)
	}
	return b.String()
}

func flagRows(b *strings.Builder, flags []cli.Flag) {
	if len(flags) == 0 {
		return
	}
	b.WriteString("| flag | |\n|---|---|\n")
	for _, f := range flags {
		names, about := flagText(f)
		fmt.Fprintf(b, "| `%s` | %s |\n", strings.ReplaceAll(names, "|", `\|`), strings.NewReplacer("|", `\|`, "<", "&lt;", "\n", " ").Replace(about))
	}
}

// envVariable is one of the environment, with its other names, and what it does.
type envVariable struct{ names, about string }

// variables are those of settings, of flags, and of the terminal.
func variables(app *cli.App) (out []envVariable) {
	for _, k := range knobs {
		about := k.name + " of the configuration file"
		switch {
		case k.flag != "":
			about = "as " + dashed(k.flag) + ", or " + about
		case strings.HasPrefix(k.name, "etcd"):
			about = "of etcd, which is no datastore of Tierwall's"
		case slices.Contains([]string{"k8sDisableNodePoll", "usePodCIDR", "calicoAPIGroup"}, k.name):
			about = "read, as calicoctl does, and changes nothing"
		}
		if k.env != "" {
			out = append(out, envVariable{k.env + ", CALICO_" + k.env, about})
		}
	}
	known := map[string]bool{}
	for _, c := range leaves(app) {
		for _, f := range c.Flags {
			d, ok := f.(cli.DocGenerationFlag)
			if !ok {
				continue
			}
			for _, name := range d.GetEnvVars() {
				if !known[name] {
					out = append(out, envVariable{name, "as " + dashed(f.Names()[0]) + ", where the flag names it: tierctl " + c.path})
				}
				known[name] = true
			}
		}
	}
	return append(out, envVariable{"FELIX_…", "a field of FelixConfiguration, before what objects say"},
		envVariable{"NO_COLOR, CLICOLOR_FORCE, TERM", "whether words are coloured: see --color"})
}

func sentence(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

// manual is the same as a page for man.
func manual(app *cli.App) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH TIERCTL 1 \"\" \"Tierwall\" \"Tierwall\"\n.SH NAME\ntierctl \\- %s\n.SH SYNOPSIS\n%s\n.SH DESCRIPTION\nEvery command, with its flags.\n.SH OPTIONS\n",
		roff(app.Usage), roff(app.UsageText))
	manFlags(&b, app.Flags)
	b.WriteString(".SH COMMANDS\n")
	for _, c := range leaves(app) {
		fmt.Fprintf(&b, ".SS tierctl %s\n%s.\n.PP\n.nf\n%s\n.fi\n", c.path, roff(sentence(c.Usage)), roff(strings.TrimSpace(c.UsageText)))
		if c.Description != "" {
			fmt.Fprintf(&b, ".PP\n%s\n", roff(strings.TrimSpace(c.Description)))
		}
		manFlags(&b, c.Flags)
	}
	fmt.Fprintf(&b, ".SH EXIT STATUS\n%s\n", roff(app.Description))
	b.WriteString(".SH ENVIRONMENT\n")
	for _, v := range variables(app) {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(v.names), roff(v.about))
	}
	fmt.Fprintf(&b, ".SH FILES\n.TP\n%s\nthe datastore of a host without a cluster\n.TP\n%s\nconfiguration files; the first that is there is read\n", roff(boltDefault),
		roff(strings.Join(configFiles, ", ")))
	b.WriteString(".SH SEE ALSO\n.BR kubectl (1),\n.BR nft (8)\n")
	return b.String()
}

func manFlags(b *strings.Builder, flags []cli.Flag) {
	for _, f := range flags {
		names, about := flagText(f)
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(names), roff(about))
	}
}

// roff is text that begins no request and keeps its dashes and backslashes.
func roff(text string) string {
	lines := strings.Split(strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text), "\n")
	for i, l := range lines {
		if l = strings.TrimSpace(l); strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			l = `\&` + l
		}
		lines[i] = l
	}
	return strings.Join(lines, "\n")
}
