package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

func datastoreCommand() *cli.Command {
	flags := []cli.Flag{datastoreFlag()}
	return &cli.Command{
		Name: "datastore", Usage: "move objects from one datastore to another", UsageText: "tierctl datastore migrate export|import|lock|unlock",
		Subcommands: []*cli.Command{
			{
				Name: "migrate", Usage: "move objects from one datastore to another", UsageText: "tierctl datastore migrate export|import|lock|unlock",
				Description: "lock the old one, export it into a file, import that into the new one, tell agents of that one, unlock the old one. calicoctl's exports are read too.",
				Subcommands: []*cli.Command{
					{Name: "export", Usage: "print all objects, as YAML that apply and import read", UsageText: "tierctl datastore migrate export > FILE",
						Description: "The datastore must be locked. Of a cluster, Tierwall's kinds are printed; of a file all but nodes' reports. Status is left out.",
						Flags:       flags, Action: exportObjects},
					{Name: "import", Usage: "write all objects of an export, in one transaction, where there are none", UsageText: "tierctl datastore migrate import -f FILE",
						Description: "FILE is tierctl's or calicoctl's. What of it Tierwall does not have, or the cluster has of its own, is named and left out: exit status 3.\n" +
							"Exit status 4: the datastore has objects already.",
						Flags: append(fileFlags()[:1:1], datastoreFlag()), Action: importObjects},
					{Name: "lock", Usage: "have tierctl write nothing until unlock; agents go on", UsageText: "tierctl datastore migrate lock",
						Description: "An annotation of the tier default says since when. kubectl does not heed it.", Flags: flags, Action: setLock(lockedBy)},
					{Name: "unlock", Usage: "end lock", UsageText: "tierctl datastore migrate unlock", Flags: flags, Action: setLock(func() string { return "" })},
				},
			},
			{Name: "migrate-policy-names", Usage: "take the prefix default. off the names of policies in the tier default", UsageText: "tierctl datastore migrate-policy-names",
				Description: "Calico before 3.32 kept names so. All are renamed in one transaction, or none.", Flags: flags, Action: migrateNames},
		},
	}
}

// unheeding opens the datastore for who works on it while it is locked.
func unheeding(c *cli.Context) (store.Store, error) {
	s, err := createStore(c)
	switch s := s.(type) {
	case *store.Bolt:
		return s.Heeding(false), err
	case *store.Kube:
		return s.Heeding(false), err
	}
	return s, err
}

// lockedBy is who locks now.
func lockedBy() string {
	by := time.Now().UTC().Format(time.RFC3339)
	if host, err := os.Hostname(); err == nil {
		by += " by tierctl on " + host
	}
	return by
}

func setLock(by func() string) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := noArguments(c); err != nil {
			return err
		}
		s, err := openStore(c)
		if err != nil {
			return err
		}
		words := by()
		if err := store.SetLock(c.Context, existing(s), words); err != nil {
			return err
		}
		done := "Datastore unlocked."
		if words != "" {
			done = "Datastore locked."
		}
		_, err = fmt.Fprintln(c.App.Writer, done)
		return err
	}
}

func exportObjects(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	s, err := openStore(c)
	if err != nil {
		return err
	}
	switch by, err := store.LockedBy(c.Context, s); {
	case err != nil:
		return err
	case by == "":
		return errors.New("datastore is not locked, so what is written meanwhile might be lost: run tierctl datastore migrate lock first")
	}
	var text bytes.Buffer
	w := progress(c, "exporting kinds", len(store.Kinds()))
	defer w.end()
	for _, kind := range store.Kinds() {
		w.step()
		if !moves(s, kind.Kind) {
			continue
		}
		objs, err := s.List(c.Context, kind.Kind, "")
		if err != nil {
			return fmt.Errorf("exporting: %w", err)
		}
		for _, o := range objs {
			if err := export(&text, kind, o); err != nil {
				return err
			}
		}
	}
	_, err = c.App.Writer.Write(text.Bytes())
	return err
}

// moves tells whether objects of a kind are for this store to keep: reports are their agents' to write, and a cluster has objects of its own.
func moves(s store.Store, kind string) bool {
	k, cluster := s.(*store.Kube)
	return kind != "NodeReport" && (!cluster || k.Holds(kind))
}

// export what a user could have written.
func export(w io.Writer, kind store.Kind, o client.Object) error {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return fmt.Errorf("exporting: %w", err)
	}
	u := unstructured.Unstructured{Object: fields}
	unwritten(&u)
	if annotations := u.GetAnnotations(); annotations[store.LockAnnotation] != "" {
		if delete(annotations, store.LockAnnotation); len(annotations) == 0 {
			annotations = nil
		}
		u.SetAnnotations(annotations)
	}
	if kind.Calico() || kind.Kind == v3.KindKubernetesClusterNetworkPolicy { // that of others is what they say of themselves
		delete(fields, "status")
	}
	text, err := yaml.Marshal(fields)
	if err != nil {
		return fmt.Errorf("exporting: %w", err)
	}
	_, err = fmt.Fprintf(w, "---\n%s", text)
	return err
}

// unwritten takes away what a store says of an object, and what ties it to others there.
func unwritten(u *unstructured.Unstructured) {
	for _, of := range []string{"resourceVersion", "uid", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields",
		"ownerReferences", "finalizers"} {
		unstructured.RemoveNestedField(u.Object, "metadata", of)
	}
}

func importObjects(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	files := c.StringSlice("filename")
	if len(files) != 1 {
		return usagef("import needs one -f FILE")
	}
	text, err := readExport(c, files[0])
	if err != nil {
		return err
	}
	s, err := unheeding(c)
	if err != nil {
		return err
	}
	docs, left, err := toImport(c, s, store.Read([]string{"-"}, store.ReadOptions{Stdin: bytes.NewReader(text)}), files[0])
	if err != nil {
		return fmt.Errorf("nothing was imported: %w", err)
	}
	if _, err := s.Transact(c.Context, func(tx store.Writer) error { return importAll(c, tx, s, docs) }); err != nil {
		return nothing("imported", err)
	}
	fmt.Fprintf(c.App.Writer, "Successfully imported %d resource(s) into %s\n", len(docs), s)
	if left > 0 {
		return statusError{fmt.Errorf("%d objects, or lists of them, were left out", left), exitPartly}
	}
	return nil
}

// readExport is the part of an export that has objects; calicoctl's exports have a ClusterInformation and addresses behind it.
func readExport(c *cli.Context, path string) (text []byte, err error) {
	if path == "-" {
		text, err = io.ReadAll(c.App.Reader)
	} else {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading an export: %w", err)
	}
	parts := bytes.Split(append([]byte("\n"), text...), []byte("\n===\n"))
	if len(parts) == 2 || len(parts) > 3 {
		return nil, fmt.Errorf("%s: is no export: it has %d parts between lines of ===, and tierctl's have one, calicoctl's three", path, len(parts))
	}
	if len(parts) == 3 {
		fmt.Fprintf(c.App.ErrWriter, "%s: left out: ClusterInformation and IPAM, behind ===: Tierwall does policy, and leaves pods' addresses to the CNI plugin\n", path)
	}
	return parts[0][1:], nil
}

// toImport are the documents that can be written, under the names that they have now; how many cannot be is the second.
func toImport(c *cli.Context, s store.Store, docs []store.Document, path string) (out []store.Document, left int, err error) {
	bad := 0
	for _, d := range docs {
		d.File = path
		switch {
		case d.Foreign:
			printEach(c, d, d.Errors, "left out")
			left++
		case len(d.Errors) > 0:
			printErrors(c, d)
			bad++
		case !moves(s, d.Kind):
			printEach(c, d, []store.DocError{{Line: d.Line, Column: d.Column, Message: "the nodes or the cluster have such objects of their own"}}, "left out")
			left++
		case strings.HasPrefix(d.Name, knpPrefix) && slices.Contains(store.TieredKinds, d.Kind):
			printEach(c, d, []store.DocError{{Line: d.Line, Column: d.Column, Message: "it stands for a NetworkPolicy of Kubernetes"}}, "left out")
			left++
		default:
			if name, old := nameNow(d.Object); old {
				printEach(c, d, []store.DocError{{Line: d.Line, Column: d.Column, Message: "its name is " + name + " now"}})
				d.Object.SetName(name)
			}
			d.Object.SetResourceVersion("")
			out = append(out, d)
		}
	}
	if bad > 0 {
		return nil, left, fmt.Errorf("%d of %d objects cannot be accepted", bad, len(docs))
	}
	return out, left, nil
}

const (
	oldPrefix = "default."
	knpPrefix = "knp.default." // of what Calico makes of Kubernetes' own
)

// nameNow of a policy in the tier default is without the prefix that Calico before 3.32 gave it.
func nameNow(o client.Object) (name string, old bool) {
	name, old = strings.CutPrefix(o.GetName(), oldPrefix)
	return name, old && store.TierOf(o) == "default"
}

// importAll writes documents where there is nothing yet.
func importAll(c *cli.Context, tx store.Writer, s store.Store, docs []store.Document) error {
	there, err := occupied(tx, s)
	if err != nil {
		return err
	}
	if len(there) > 0 {
		return statusError{fmt.Errorf("datastore %s has %s already, and an import would mix with it: tierctl apply -f does that", s, strings.Join(there, ", ")), exitRefused}
	}
	w := progress(c, "importing", len(docs)) // a cluster's once to try it, and once to do it
	defer w.end()
	for _, kind := range store.Kinds() { // tiers first
		for _, d := range docs {
			if d.Kind != kind.Kind {
				continue
			}
			if err := put(tx, d.Object); err != nil {
				return fmt.Errorf("%s:%d: %w", d.File, d.Line, err)
			}
			w.step()
		}
	}
	return nil
}

// occupied says of which kinds there are objects that are not there from the beginning.
func occupied(tx store.Writer, s store.Store) (out []string, err error) {
	for _, kind := range store.Kinds() {
		if !moves(s, kind.Kind) {
			continue
		}
		objs, err := tx.List(kind.Kind, "")
		if err != nil {
			return nil, err
		}
		if objs = slices.DeleteFunc(objs, fromTheBeginning); len(objs) > 0 {
			out = append(out, fmt.Sprintf("%d %s", len(objs), kind.Plural))
		}
	}
	return out, nil
}

// fromTheBeginning are built-in tiers, and what Calico or the controller has called default.
func fromTheBeginning(o client.Object) bool {
	switch o.GetObjectKind().GroupVersionKind().Kind {
	case "Tier":
		return slices.ContainsFunc(store.BuiltInTiers(), func(t *v3.Tier) bool { return t.Name == o.GetName() })
	case "FelixConfiguration", "KubeControllersConfiguration":
		return o.GetName() == "default"
	}
	return false
}

// put an object, in place of one that was there from the beginning.
func put(tx store.Writer, o client.Object) error {
	if _, err := tx.Get(v3.RefOf(o.(v3.Object))); err == nil && fromTheBeginning(o) {
		_, err = tx.Update(o)
		return err
	}
	_, err := tx.Create(o)
	return err
}

func migrateNames(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	s, err := openStore(c)
	if err != nil {
		return err
	}
	if _, err := s.List(c.Context, "Tier", ""); err != nil { // nothing to rename where there is no store
		return err
	}
	var done []string
	_, err = s.Transact(c.Context, func(tx store.Writer) error {
		done = nil // a cluster is asked twice
		for _, kind := range store.TieredKinds {
			renamed, err := rename(tx, kind)
			if err != nil {
				return err
			}
			done = append(done, renamed...)
		}
		return nil
	})
	if err != nil {
		return nothing("renamed", err)
	}
	for _, line := range done {
		fmt.Fprintln(c.App.Writer, line)
	}
	_, err = fmt.Fprintf(c.App.Writer, "Successfully renamed %d resource(s)\n", len(done))
	return err
}

// rename the policies of a kind that have an old name.
func rename(tx store.Writer, kind string) (done []string, err error) {
	objs, err := tx.List(kind, "")
	if err != nil {
		return nil, err
	}
	for _, o := range objs {
		name, old := nameNow(o)
		if !old {
			continue
		}
		was := v3.RefOf(o.(v3.Object))
		o.SetName(name)
		o.SetResourceVersion("")
		o.SetUID("")
		o.SetCreationTimestamp(metav1.Time{})
		if err := errors.Join(created(tx, o), tx.Delete(was)); err != nil {
			return nil, err
		}
		done = append(done, fmt.Sprintf("%s is %s", was, v3.RefOf(o.(v3.Object))))
	}
	return done, nil
}

func created(tx store.Writer, o client.Object) error {
	_, err := tx.Create(o)
	return err
}
