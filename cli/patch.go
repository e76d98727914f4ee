package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

func patchCommand() *cli.Command {
	return &cli.Command{
		Name: "patch", Usage: "change fields of an object",
		UsageText:   "tierctl patch KIND NAME... -p PATCH [-t strategic|merge|json]\n   tierctl patch KIND NAME... --patch-file FILE [-t strategic|merge|json]",
		Description: "A merge patch is the part of the object that changes; null takes a field away. A json patch is a list of operations, as RFC 6902 has them.\nA strategic patch knows which lists of Kubernetes' kinds are merged by a key; for the other kinds it is a merge patch.",
		Flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: "patch", Aliases: []string{"p"}, Usage: "the `PATCH`, as JSON or YAML"},
			&cli.StringFlag{Name: "patch-file", Usage: "a `FILE` with the patch"},
			&cli.StringFlag{Name: "type", Aliases: []string{"t"}, Usage: "`TYPE` of the patch: strategic, merge or json", Value: "strategic"},
			namespaceFlag(),
		}, writeFlags()),
		Action: patchObjects,
	}
}

// patch is what is to be changed, and where that was read.
type patch struct {
	file  string
	json  []byte
	apply func(old, patch []byte, like client.Object) ([]byte, error)
	place func(field string) (line, column int)
}

func patchObjects(c *cli.Context) error {
	p, err := readPatch(c)
	if err != nil {
		return err
	}
	return p.told(c, change(c, "patched", p.of))
}

// change does one thing with each object that is named, all in one transaction or nothing.
func change(c *cli.Context, result string, one func(v3.Ref, client.Object) (client.Object, error)) error {
	format, err := output(c, "json", "name")
	if err != nil {
		return err
	}
	if c.NArg() < 2 {
		return usagef("%s needs KIND and NAME", c.Command.Name)
	}
	refs, err := namedRefs(c)
	if err != nil {
		return err
	}
	s, err := openStore(c)
	if err != nil {
		return err
	}
	results := make([]string, len(refs))
	done, err := transact(c, s, func(tx store.Writer) error {
		for i, ref := range refs {
			if results[i], err = changeOne(c, tx, ref, result, one); err != nil {
				return inCalicoWords(err)
			}
		}
		return nil
	})
	if err != nil {
		return nothing("written", err)
	}
	for i, ref := range refs {
		printResult(c, format, ref, results[i])
	}
	return done.end(c, format, fmt.Sprintf("Successfully %s %d '%s' resource(s)", result, len(refs), refs[0].Kind))
}

// changeOne without the store's own trial when that is not wanted.
func changeOne(c *cli.Context, tx store.Writer, ref v3.Ref, result string, one func(v3.Ref, client.Object) (client.Object, error)) (string, error) {
	old, err := tx.Get(ref)
	if err != nil {
		return "", err
	}
	now, err := one(ref, old)
	if err == nil && dryRunOf(c) != dryClient {
		now, err = tx.Update(now)
	}
	if err != nil {
		return "", err
	}
	return changed(old, now, result), nil
}

// patchTypes are kubectl's.
var patchTypes = map[string]func(old, patch []byte, like client.Object) ([]byte, error){
	"strategic": func(old, patch []byte, like client.Object) ([]byte, error) {
		return strategicpatch.StrategicMergePatch(old, patch, like)
	},
	"merge": func(old, patch []byte, _ client.Object) ([]byte, error) { return jsonpatch.MergePatch(old, patch) },
	"json": func(old, patch []byte, _ client.Object) ([]byte, error) {
		p, err := jsonpatch.DecodePatch(patch)
		if err != nil {
			return nil, err
		}
		return p.Apply(old)
	},
}

func readPatch(c *cli.Context) (*patch, error) {
	p := &patch{file: "--patch", apply: patchTypes[c.String("type")]}
	text := []byte(c.String("patch"))
	switch {
	case p.apply == nil:
		return nil, usagef("patch has no type %q: it has strategic, merge and json", c.String("type"))
	case c.IsSet("patch") == c.IsSet("patch-file"):
		return nil, usagef("patch needs either -p PATCH or --patch-file FILE")
	case c.IsSet("patch-file"):
		var err error
		if p.file = c.String("patch-file"); p.file != "" {
			if text, err = os.ReadFile(p.file); err != nil {
				return nil, fmt.Errorf("reading the patch: %w", err)
			}
		}
	}
	var err error
	if p.json, err = yaml.YAMLToJSONStrict(text); err != nil {
		return nil, fmt.Errorf("%s: is neither JSON nor YAML: %w", p.file, err)
	}
	if kind := p.json[0]; c.String("type") == "json" && kind != '[' || c.String("type") != "json" && kind != '{' {
		return nil, fmt.Errorf("%s: a %s patch is %s", p.file, c.String("type"), map[bool]string{true: `a list of operations, e.g. [{"op": "remove", "path": "/spec/order"}]`,
			false: "a part of the object, e.g. spec: {order: 10}"}[c.String("type") == "json"])
	}
	p.place = store.Places(text)
	return p, nil
}

// of an object is the object patched.
func (p *patch) of(ref v3.Ref, old client.Object) (client.Object, error) {
	text, err := json.Marshal(old)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	was, now := &unstructured.Unstructured{}, &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(text, &was.Object); err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	if text, err = p.apply(text, p.json, old); err != nil {
		return nil, fmt.Errorf("%s: cannot be applied to %s: %w", p.file, ref, err)
	}
	if err := utiljson.Unmarshal(text, &now.Object); err != nil {
		return nil, fmt.Errorf("%s: %s patched: %w", p.file, ref, err)
	}
	for _, field := range [][]string{{"kind"}, {"apiVersion"}, {"metadata", "name"}, {"metadata", "namespace"}} {
		a, _, _ := unstructured.NestedFieldNoCopy(was.Object, field...)
		b, _, _ := unstructured.NestedFieldNoCopy(now.Object, field...)
		if a != b {
			return nil, fmt.Errorf("%s: %s: %s: a patch cannot change what an object is called", p.file, ref, strings.Join(field, "."))
		}
	}
	obj, errs := store.Admit(now, was)
	if len(errs) == 0 {
		return obj, nil
	}
	return nil, fmt.Errorf("%s %w as it would be: %w", ref, store.ErrInvalid, errs.ToAggregate())
}

// told says what is wrong with the object patched at its place in the patch.
func (p *patch) told(c *cli.Context, err error) error {
	kind, _ := store.Lookup(c.Args().First()) // if there were none there would be no object
	fields := fieldErrors(kind.Kind, err)
	for i := range fields {
		fields[i].Line, fields[i].Column = p.place(p.pathTo(fields[i].Field))
	}
	printEach(c, store.Document{File: p.file}, fields)
	return err
}

// pathTo is where a patch speaks of a field: in a list of operations, in the value of the last one on the way to it.
func (p *patch) pathTo(field string) string {
	var operations []struct{ Path string }
	if p.json[0] != '[' || json.Unmarshal(p.json, &operations) != nil {
		return field
	}
	for i, o := range slices.Backward(operations) {
		at := strings.NewReplacer("/", ".", "~1", "/", "~0", "~").Replace(strings.Trim(o.Path, "/"))
		dotted := strings.NewReplacer("[", ".", "]", "").Replace(field)
		if rest, ok := strings.CutPrefix(dotted+".", at+"."); ok {
			return strings.TrimSuffix(fmt.Sprintf("[%d].value.%s", i, rest), ".")
		}
	}
	return ""
}
