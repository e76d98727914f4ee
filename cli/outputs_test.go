package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// What commands print for scripts has these fields: none goes away, or changes its name, unnoticed.
func TestGeneratedOutputs(t *testing.T) {
	datastore := shop(t)
	const policy = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: closed}\nspec: {order: 7, types: [Ingress]}\n"
	var b strings.Builder
	for _, args := range []string{
		"create -f -", "apply -f -", "replace -f -", "patch gnp closed -p {}", "label gnp closed team=shop", "get gnp closed", "validate -f -", "convert -f -",
		"status", "trace --from shop/web --to shop/db --port 22", "explain endpoint shop/db", "explain policy gnp/closed", "lint", "plan shop/db", "matrix",
		"what-if --delete GlobalNetworkPolicy/closed", "config view", "version", "delete gnp closed",
	} {
		var out, errs strings.Builder
		words := append(strings.Fields(args), "-o", "json")
		if flagNames := flagsOf(commandOf(t, words).Flags, nil); flagNames["datastore"] {
			words = append(words, "--datastore", datastore)
		}
		run(t.Context(), words, strings.NewReader(policy), &out, &errs)
		paths, err := fieldPaths(out.String())
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v: %s%s", args, err, out.String(), errs.String())
		}
		fmt.Fprintf(&b, "%s\n", args)
		for _, p := range paths {
			fmt.Fprintf(&b, "  %s\n", p)
		}
	}
	generated(t, "testdata/outputs.golden", b.String())
}

// commandOf the words is the one that they call.
func commandOf(t *testing.T, words []string) *cli.Command {
	for _, c := range leaves(newApp(nil, nil, nil)) {
		if strings.HasPrefix(strings.Join(words, " ")+" ", c.path+" ") {
			return c.Command
		}
	}
	t.Fatalf("%v is no command", words)
	return nil
}

// fieldPaths of all JSON values of a text, sorted.
func fieldPaths(text string) ([]string, error) {
	paths := map[string]bool{}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if len(v) == 0 {
				paths[at+"{}"] = true
			}
			for name, field := range v {
				walk(at+"."+name, field)
			}
		case []any:
			if len(v) == 0 {
				paths[at+"[]"] = true
			}
			for _, item := range v {
				walk(at+"[]", item)
			}
		default:
			paths[at] = true
		}
	}
	for d := json.NewDecoder(strings.NewReader(text)); ; {
		var v any
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			return slices.Sorted(maps.Keys(paths)), nil
		} else if err != nil {
			return nil, err
		}
		walk("", v)
	}
}

// A command has the formats that its help lists, which completion offers, and says them to who asks for another.
func TestOutputFormats(t *testing.T) {
	for _, c := range leaves(newApp(nil, nil, nil)) {
		i := slices.IndexFunc(c.Flags, func(f cli.Flag) bool { return f.Names()[0] == "output" })
		if i < 0 {
			continue
		}
		usage, ok := strings.CutPrefix(c.Flags[i].(*cli.StringFlag).Usage, "`FORMAT`: ")
		if !ok {
			continue // a file
		}
		var out, errs strings.Builder
		args := strings.Fields(c.path + " -o nonsense " + map[string]string{"get": "gnp", "patch": "gnp a -p {}"}[c.path])
		status := run(t.Context(), args, strings.NewReader(""), &out, &errs)
		_, has, _ := strings.Cut(strings.SplitN(errs.String(), "\n", 2)[0], ": it has ")
		help, said := formatsOf(usage), formatsOf(has)
		if status != exitUsage || out.Len() > 0 || len(help) == 0 || !slices.Equal(help, said) {
			t.Errorf("%s: exit status %d: help has %q; %s%s", c.path, status, help, out.String(), errs.String())
		}
	}
}

func formatsOf(text string) (out []string) {
	for _, f := range strings.Split(inBrackets.ReplaceAllString(text, ""), ",") {
		if f = strings.TrimSpace(f); f != "" {
			out = append(out, f)
		}
	}
	slices.Sort(out)
	return out
}
