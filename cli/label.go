package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

func labelCommand() *cli.Command {
	return &cli.Command{
		Name: "label", Usage: "set and remove labels of an object",
		UsageText: "tierctl label KIND NAME KEY=VALUE... KEY-...\n   tierctl label KIND NAME KEY... --remove",
		Flags: slices.Concat([]cli.Flag{
			&cli.BoolFlag{Name: "overwrite", Usage: "change labels that are there with another value"},
			&cli.BoolFlag{Name: "remove", Usage: "remove the labels"},
			namespaceFlag(),
		}, writeFlags()),
		Action: labelObject,
	}
}

// labelling is one label to set or, without a value, to remove.
type labelling struct {
	key, value string
	remove     bool
	done       string // set, updated or removed
}

func labelObject(c *cli.Context) error {
	format, err := output(c, "json", "name")
	if err != nil {
		return err
	}
	if c.NArg() < 3 {
		return usagef("label needs KIND, NAME and at least one KEY=VALUE or KEY-")
	}
	labels, err := labellings(c)
	if err != nil {
		return err
	}
	refs, err := refsNamed(c, []string{c.Args().Get(1)})
	if err != nil {
		return err
	}
	s, err := openStore(c)
	if err != nil {
		return err
	}
	kind, name := c.Args().Get(0), c.Args().Get(1)
	result := ""
	done, err := transact(c, s, func(tx store.Writer) error {
		result, err = changeOne(c, tx, refs[0], "labeled", func(_ v3.Ref, old client.Object) (client.Object, error) {
			return labelledWith(old, labels, kind, name, c.Bool("overwrite"))
		})
		return inCalicoWords(err)
	})
	if err != nil {
		return err
	}
	if format != "" || dryRunOf(c) != "" {
		printResult(c, format, refs[0], result)
		return done.end(c, format)
	}
	var sentences []string
	for _, l := range labels {
		preposition := "on"
		if l.remove {
			preposition = "from"
		}
		sentences = append(sentences, fmt.Sprintf("Successfully %s label %s %s %s %s", l.done, l.key, preposition, kind, name))
	}
	return done.end(c, format, sentences...)
}

// labellings are what stands behind KIND NAME.
func labellings(c *cli.Context) (out []labelling, err error) {
	for _, text := range c.Args().Slice()[2:] {
		key, value, sets := strings.Cut(text, "=")
		bare, minus := strings.CutSuffix(text, "-")
		switch {
		case sets && key != "" && !c.Bool("remove"):
			out = append(out, labelling{key: key, value: value})
		case !sets && minus && bare != "":
			out = append(out, labelling{key: bare, remove: true})
		case !sets && c.Bool("remove") && text != "":
			out = append(out, labelling{key: text, remove: true})
		default:
			return nil, usagef("invalid label %s: expected KEY=VALUE, KEY-, or KEY with --remove", text)
		}
		last := out[len(out)-1]
		if slices.ContainsFunc(out[:len(out)-1], func(l labelling) bool { return l.key == last.key }) {
			return nil, usagef("label %s is named twice", last.key)
		}
	}
	return out, nil
}

// labelledWith is an object with other labels. What keeps one from being set or removed is said in calicoctl's words.
func labelledWith(old client.Object, all []labelling, kind, name string, overwrite bool) (client.Object, error) {
	obj := old.DeepCopyObject().(client.Object)
	labels := maps.Clone(obj.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	var wrong []error
	for i := range all {
		l := &all[i]
		have, there := labels[l.key]
		switch {
		case l.key == v3.LabelTier:
			wrong = append(wrong, fmt.Errorf("label %s of %s %s says which tier it is in, and is always spec.tier: tierctl patch changes that", l.key, kind, name))
		case l.remove && !there:
			wrong = append(wrong, fmt.Errorf("cannot remove label of %s %s, key %s does not exist", kind, name, l.key))
		case l.remove:
			delete(labels, l.key)
			l.done = "removed"
		case there && have != l.value && !overwrite:
			wrong = append(wrong, fmt.Errorf("failed to update label of %s %s, key %s is already present. please use '--overwrite' to set a new value", kind, name, l.key))
		case there:
			labels[l.key], l.done = l.value, "updated"
		default:
			labels[l.key], l.done = l.value, "set"
		}
	}
	obj.SetLabels(labels)
	return obj, errors.Join(wrong...)
}
