package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/reach"
)

func whatIfCommand() *cli.Command {
	return &cli.Command{
		Name: "what-if", Usage: "say which packets would pass, or no longer pass, if objects were applied",
		UsageText: "tierctl what-if -f FILE [--base FILE] [--delete KIND/NAME] [-o json]",
		Description: "The objects of -f are laid over those of the datastore, or of --base, and nothing is written. Every packet between endpoints, hosts and\n" +
			"the outside is answered for; what a node translates, as to a service, is for tierctl trace.\n" +
			"Exit status: 0 no packet fares otherwise; 1 some do; 2 trouble of any kind.",
		Flags: slices.Concat(fileFlags(), []cli.Flag{
			&cli.StringSliceFlag{Name: "base", Usage: "YAML or JSON `FILE` or directory of what there is, in place of the datastore; may be repeated"},
			&cli.StringSliceFlag{Name: "delete", Usage: "as if `KIND/NAME` or KIND/NAMESPACE/NAME were deleted; may be repeated"},
			&cli.BoolFlag{Name: "staged", Usage: "as if the staged policies were in force"},
			endpointToHostFlag(), outputFlag("json"), datastoreFlag(),
		}),
		Action: func(c *cli.Context) error {
			changes, err := whatIf(c)
			if err == nil {
				err = printEffect(c, changes)
			}
			switch {
			case err != nil:
				return statusError{err, exitUsage}
			case len(changes) > 0:
				return statusError{errors.New(""), exitError}
			}
			return nil
		},
	}
}

func whatIf(c *cli.Context) ([]reach.Change, error) {
	if err := noArguments(c); err != nil {
		return nil, err
	}
	if _, err := output(c, "json"); err != nil {
		return nil, err
	}
	if len(c.StringSlice("filename"))+len(c.StringSlice("delete")) == 0 {
		return nil, usagef("what-if needs -f or --delete")
	}
	base, err := baseObjects(c)
	if err != nil {
		return nil, err
	}
	var news []client.Object
	if len(c.StringSlice("filename")) > 0 {
		if news, err = objects(c); err != nil {
			return nil, err
		}
	}
	after := laidOver(base, news)
	for _, text := range c.StringSlice("delete") {
		name, _, _ := strings.Cut(text, "/")
		kind, err := store.Lookup(name)
		if err != nil {
			return nil, usagef("--delete %s: %v", text, err)
		}
		ref := kind.Kind + strings.TrimPrefix(text, name)
		if slices.ContainsFunc(news, func(o client.Object) bool { return strings.EqualFold(v3.RefOf(o.(v3.Object)).String(), ref) }) {
			return nil, usagef("--delete %s: -f has %s too", text, ref)
		}
		n := len(after)
		after = slices.DeleteFunc(after, func(o client.Object) bool { return strings.EqualFold(v3.RefOf(o.(v3.Object)).String(), ref) })
		if len(after) == n {
			return nil, fmt.Errorf("--delete %s: there is no %s; it is KIND/NAME or KIND/NAMESPACE/NAME", text, ref)
		}
	}
	return effect(c, base, after)
}

func baseObjects(c *cli.Context) ([]client.Object, error) {
	files := c.StringSlice("base")
	if len(files) == 0 {
		return storedObjects(c)
	}
	var out []client.Object
	for _, d := range store.Read(files, store.ReadOptions{Recursive: c.Bool("recursive"), Namespace: c.String("namespace"), Stdin: c.App.Reader}) {
		for _, e := range d.Errors {
			return nil, fmt.Errorf("--base: %s:%d:%d: %s: %s", d.File, e.Line, e.Column, e.Field, e.Message)
		}
		out = append(out, d.Object)
	}
	return out, nil
}

// laidOver is objects with others in place of those of their names.
func laidOver(base, news []client.Object) []client.Object {
	replaced := map[v3.Ref]bool{}
	for _, o := range news {
		replaced[v3.RefOf(o.(v3.Object))] = true
	}
	kept := slices.DeleteFunc(slices.Clone(base), func(o client.Object) bool { return replaced[v3.RefOf(o.(v3.Object))] })
	return append(kept, news...)
}

// effect is which packets fare otherwise under other objects.
func effect(c *cli.Context, before, after []client.Object) ([]reach.Change, error) {
	options, err := policyOptions(c)
	if err != nil {
		return nil, err
	}
	was := policy.NewIndex("", options)
	for _, o := range before {
		_ = was.Set(o) // what cannot be enforced of what there is has been said when it was written
	}
	is, err := index(c, "", after)
	if err != nil {
		return nil, err
	}
	rows, end := rowsDone(c)
	defer end()
	return reach.Diff(was.Plan(), is.Plan(), reach.Options{Staged: c.Bool("staged"), Rows: rows}), nil
}

func effectFlag() cli.Flag {
	return &cli.BoolFlag{Name: "effect", Usage: "say as well which packets would fare otherwise, as what-if does"}
}

// printEffectOf prints what objects that are to be written do to packets.
func printEffectOf(c *cli.Context, changes []stored) error {
	base, err := storedObjects(c)
	if err != nil && !errors.Is(err, store.ErrNoStore) { // where there is none, nothing is in it
		return err
	}
	var news []client.Object
	for _, s := range changes {
		news = append(news, s.now)
	}
	effects, err := effect(c, base, laidOver(base, news))
	if err != nil {
		return err
	}
	return printEffect(c, effects)
}

type changeView struct {
	From        endView  `json:"from"`
	To          *endView `json:"to,omitempty"`
	Connections string   `json:"connections,omitempty"`
	Before      string   `json:"before,omitempty"` // Allow or Deny
	After       string   `json:"after,omitempty"`
	WhyBefore   []string `json:"whyBefore,omitempty"`
	WhyAfter    []string `json:"whyAfter,omitempty"`
	Only        string   `json:"only,omitempty"` // before or after: from is only there
}

func printEffect(c *cli.Context, changes []reach.Change) error {
	if c.String("output") == "json" {
		out := []changeView{}
		for i := range changes {
			out = append(out, changeViewOf(&changes[i]))
		}
		return json.NewEncoder(c.App.Writer).Encode(map[string]any{"changes": out})
	}
	var b strings.Builder
	if len(changes) == 0 {
		b.WriteString("every packet fares as before\n")
	}
	for i := range changes {
		changeText(c.App.Writer, &b, &changes[i])
	}
	_, err := fmt.Fprint(c.App.Writer, b.String())
	return err
}

func changeViewOf(ch *reach.Change) changeView {
	v := changeView{From: endViewOf(&ch.From), Only: ch.Only}
	if ch.Only == "" {
		to := endViewOf(&ch.To)
		v.To, v.Connections, v.Before, v.After = &to, ch.Conns, ch.Before.String(), ch.After.String()
		v.WhyBefore, v.WhyAfter = ch.WhyBefore, ch.WhyAfter
	}
	return v
}

func changeText(w io.Writer, b *strings.Builder, ch *reach.Change) {
	if ch.Only != "" {
		fmt.Fprintf(b, "%s: only %s\n", ch.From.About, ch.Only)
		return
	}
	fmt.Fprintf(b, "%s > %s: %s: %s, was %s\n", ch.From.About, ch.To.About, ch.Conns, paintVerdict(w, ch.After.String()), paintVerdict(w, ch.Before.String()))
	for _, side := range []struct {
		label string
		why   []string
	}{{"was", ch.WhyBefore}, {"is", ch.WhyAfter}} {
		for _, why := range side.why {
			fmt.Fprintf(b, "  %-3s %s\n", side.label, why)
		}
	}
}

// holds tells of networks whether they hold an address that a person names.
func holds(text string) func(netip.Prefix) bool {
	a, err := netip.ParseAddr(text)
	return func(n netip.Prefix) bool { return err == nil && n.Contains(a) }
}
