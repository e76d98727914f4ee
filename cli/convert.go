package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	oldapi "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/tierwall/tierwall/apis/convert"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/reach"
)

// What convert converts to.
const (
	toCalico     = "calico"
	toKubernetes = "kubernetes"
)

func convertCommand() *cli.Command {
	return &cli.Command{
		Name: "convert", Usage: "put objects of other APIs and older versions into today's, and back",
		UsageText: "tierctl convert -f FILE [--to calico|kubernetes|" + convert.StoredVersion + "] [--base FILE] [--lossy] [-o yaml|json]",
		Description: "Kubernetes' NetworkPolicy becomes Calico's. AdminNetworkPolicy and BaselineAdminNetworkPolicy become ClusterNetworkPolicy;\n" +
			"crd.projectcalico.org/v1, and calicoctl's v1 (policy, hostEndpoint), become projectcalico.org/v3. What is current stays as it is.\n" +
			"With --to kubernetes all of Calico's policies together become NetworkPolicies and ClusterNetworkPolicies that decide the same about pods; where\n" +
			"pods are among the objects, that is proved. With --to " + convert.StoredVersion + " objects become what Calico without CRDs of its own API keeps.\n" +
			"What the target cannot say is an error, and nothing is printed; with --lossy it is a warning, and left out, unless more would be allowed then.",
		Flags: append(fileFlags(),
			&cli.StringFlag{Name: "to", Value: toCalico, Usage: "`WHOSE` objects they are to be: calico, kubernetes or " + convert.StoredVersion},
			&cli.StringSliceFlag{Name: "base", Usage: "YAML or JSON `FILE` or directory of what there is beside, and is not printed: namespaces, network sets, tiers, pods; may be repeated"},
			&cli.BoolFlag{Name: "lossy", Usage: "print what can be said, and warn of what cannot"},
			outputFlag("yaml (default), json")),
		Action: convertFiles,
	}
}

// older are the kinds that convert alone reads.
func older(apiVersion, kind string) bool {
	return apiVersion == convert.StoredVersion || convert.Old(apiVersion, kind) ||
		apiVersion == oldapi.GroupVersion.String() && (kind == "AdminNetworkPolicy" || kind == "BaselineAdminNetworkPolicy")
}

func convertFiles(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "yaml", "json")
	if err != nil {
		return err
	}
	to := c.String("to")
	if !slices.Contains([]string{toCalico, toKubernetes, convert.StoredVersion}, to) {
		return usagef("--to %q is none of calico, kubernetes and %s", to, convert.StoredVersion)
	}
	if len(c.StringSlice("filename")) == 0 {
		return usagef("convert needs -f FILE")
	}
	docs := store.Read(c.StringSlice("filename"), store.ReadOptions{Recursive: c.Bool("recursive"), Namespace: c.String("namespace"), Stdin: c.App.Reader, Raw: older, Written: true})
	if len(docs) == 0 {
		return fmt.Errorf("no objects in %v", c.StringSlice("filename"))
	}
	v := conversion{docs: docs, lossy: c.Bool("lossy"), plain: make([]*unstructured.Unstructured, len(docs)), typed: make([]client.Object, len(docs))}
	for i := range docs {
		v.today(i, to)
	}
	var out []any
	if to == toKubernetes && v.bad() == 0 {
		if out, err = v.onward(c); err != nil {
			return err
		}
	} else {
		for i := range docs {
			if to == convert.StoredVersion {
				v.stored(i)
			}
			if v.plain[i] != nil {
				out = append(out, v.plain[i].Object)
			}
		}
	}
	for _, d := range docs {
		printErrors(c, d)
	}
	if bad := v.bad(); bad > 0 {
		mend := ""
		if v.mendable {
			mend = ": --lossy leaves out what the target cannot say"
		}
		return fmt.Errorf("%d of %d objects cannot be converted%s", bad, len(docs), mend)
	}
	if err := v.proved(c); err != nil {
		return err
	}
	return printConverted(c, format, out)
}

// conversion is of the documents of files.
type conversion struct {
	docs     []store.Document
	lossy    bool
	mendable bool                         // --lossy would leave something out
	plain    []*unstructured.Unstructured // what each document says, in today's words or the target's; nil for nothing
	typed    []client.Object              // as admission would take it

	before, after []v3.Object // of a conversion of them together
	narrower      bool        // something that was allowed may be denied
}

func (v *conversion) bad() (n int) {
	for _, d := range v.docs {
		if len(d.Errors) > 0 {
			n++
		}
	}
	return n
}

// lose what the target cannot say: an error of the document's or, where it may be left out and is to be, a warning.
func (v *conversion) lose(d *store.Document, lost []convert.Loss) {
	for _, l := range lost {
		line, column := d.Place(l.Field)
		e := store.DocError{Field: l.Field, Message: l.Why, Line: line, Column: column}
		switch {
		case l.Then == convert.Frozen, v.lossy && l.Then != convert.Opens:
			if l.Then != convert.Differs {
				e.Message += " (" + l.Then.String() + ")"
			}
			d.Warnings = append(d.Warnings, e)
		case l.Then == convert.Opens:
			e.Message += " (" + l.Then.String() + ")"
			d.Errors = append(d.Errors, e)
		default:
			v.mendable = true
			d.Errors = append(d.Errors, e)
		}
	}
}

// today puts a document into today's words, and Kubernetes' into Calico's if it is to be so. That the result is none that admission would accept is an error always.
func (v *conversion) today(i int, to string) {
	d := &v.docs[i]
	if v.lossy && d.Foreign {
		d.Warnings, d.Errors = append(d.Warnings, d.Errors...), nil
		return
	}
	if len(d.Errors) > 0 {
		v.mendable = v.mendable || d.Foreign
		return
	}
	object, lost, err := convertObject(d, to)
	if err != nil {
		line, column := d.Place("")
		d.Errors = append(d.Errors, store.DocError{Message: err.Error(), Line: line, Column: column})
		return
	}
	v.lose(d, lost)
	u, err := plainObject(object)
	if err != nil {
		d.Errors = append(d.Errors, store.DocError{Message: err.Error(), Line: d.Line, Column: d.Column})
		return
	}
	d.Kind, d.Namespace, d.Name = u.GetKind(), u.GetNamespace(), u.GetName()
	if len(d.Errors) > 0 || older(u.GetAPIVersion(), u.GetKind()) {
		return
	}
	admitted, errs := store.Admit(u.DeepCopy(), nil)
	for _, e := range errs {
		line, column := d.Place(e.Field)
		if v.lossy && e.Field == "kind" { // there is none here
			d.Warnings = append(d.Warnings, store.DocError{Field: e.Field, Message: e.Detail, Line: line, Column: column})
			return
		}
		v.mendable = v.mendable || e.Field == "kind"
		d.Errors = append(d.Errors, store.DocError{Field: e.Field, Message: "would be refused: " + store.ErrorText(d.Kind, e), Line: line, Column: column})
	}
	v.plain[i], v.typed[i] = u, admitted
}

// stored puts an object of Calico's as it keeps it.
func (v *conversion) stored(i int) {
	d := &v.docs[i]
	if v.typed[i] == nil || v.plain[i].GroupVersionKind().Group != v3.GroupVersion.Group {
		return
	}
	u, err := plainObject(v.typed[i]) // with its defaults, which Calico would not give it
	if err != nil {
		d.Errors = append(d.Errors, store.DocError{Message: err.Error(), Line: d.Line, Column: d.Column})
		return
	}
	lost := convert.ToStored(u.Object)
	v.lose(d, lost)
	if u.GetAPIVersion() != convert.StoredVersion { // Calico keeps no such object
		v.plain[i], v.typed[i] = nil, nil
		return
	}
	for n, other := range v.plain[:i] {
		if other != nil && other.GroupVersionKind() == u.GroupVersionKind() && other.GetNamespace() == u.GetNamespace() && other.GetName() == u.GetName() {
			line, column := d.Place("metadata.name")
			d.Errors = append(d.Errors, store.DocError{Field: "metadata.name", Message: fmt.Sprintf("becomes %s, as %s does: Calico before 3.32 can have but one of them",
				u.GetName(), v.docs[n].Name), Line: line, Column: column})
		}
	}
	v.plain[i] = u
}

// onward puts all documents together into Kubernetes' policies.
func (v *conversion) onward(c *cli.Context) (out []any, err error) {
	base, err := beside(c)
	if err != nil {
		return nil, err
	}
	given := map[v3.Ref]*unstructured.Unstructured{} // and nil for what is beside
	for _, o := range base {
		v.before, given[v3.RefOf(o)] = append(v.before, withName(o)), nil
	}
	for i, o := range v.typed {
		if o != nil {
			o := withName(o.(v3.Object))
			if _, twice := given[v3.RefOf(o)]; twice {
				d := &v.docs[i]
				d.Errors = append(d.Errors, store.DocError{Field: "metadata.name", Message: "is given twice", Line: d.Line, Column: d.Column})
			}
			v.before, given[v3.RefOf(o)] = append(v.before, o), v.plain[i]
		}
	}
	k := convert.ToKubernetes(v.before)
	v.after = k.Objects
	for i, o := range v.typed {
		if o == nil {
			continue
		}
		lost := k.Losses[v3.RefOf(o.(v3.Object))]
		v.lose(&v.docs[i], lost)
		v.narrower = v.narrower || slices.ContainsFunc(lost, func(l convert.Loss) bool { return l.Then == convert.Denies })
	}
	if v.bad() > 0 {
		return nil, nil
	}
	for _, o := range k.Objects {
		u, there := given[v3.RefOf(o)]
		switch {
		case there && u == nil:
			continue
		case !there || v3.RefOf(o).Kind == v3.KindKubernetesClusterNetworkPolicy: // which may have another priority
			if u, err = plainObject(o); err != nil {
				return nil, err
			}
			if _, errs := store.Admit(u.DeepCopy(), nil); len(errs) > 0 {
				return nil, fmt.Errorf("%s would be refused: %w", v3.RefOf(o), errs.ToAggregate())
			}
		}
		out = append(out, u.Object)
	}
	return out, nil
}

// withName is a Namespace with the label that every API server gives it, for selectors to name it by.
func withName(o v3.Object) v3.Object {
	if _, ok := o.(*corev1.Namespace); ok {
		labels := maps.Clone(o.GetLabels())
		if labels == nil {
			labels = map[string]string{}
		}
		labels[corev1.LabelMetadataName] = o.GetName()
		o.SetLabels(labels)
	}
	return o
}

// beside is what --base has: what policies are about, and none of them, for all count.
func beside(c *cli.Context) (out []v3.Object, err error) {
	if len(c.StringSlice("base")) == 0 {
		return nil, nil
	}
	objects, err := baseObjects(c)
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		o := o.(v3.Object)
		switch ref := v3.RefOf(o); {
		case ref.Kind == "Tier", ref.Kind == "NetworkSet", ref.Kind == "GlobalNetworkSet":
		case o.GetObjectKind().GroupVersionKind().Group == v3.GroupVersion.Group, strings.HasPrefix(ref.Kind, "Kubernetes"):
			return nil, fmt.Errorf("--base: %s counts among what is converted: give it by -f", ref)
		}
		out = append(out, o)
	}
	return out, nil
}

// proved asks, where there are pods, whether every packet fares as before; or if something has been left out, whether none passes that did not.
func (v *conversion) proved(c *cli.Context) error {
	pods := 0
	for _, o := range v.before {
		if _, ok := o.(*corev1.Pod); ok {
			pods++
		}
	}
	if pods == 0 {
		return nil
	}
	changes := slices.DeleteFunc(reach.Diff(planOf(v.before), planOf(v.after), reach.Options{}), func(ch reach.Change) bool { return portZero.MatchString(ch.Conns) })
	var b strings.Builder
	wrong := 0
	for i := range changes {
		if !v.narrower || changes[i].After == policy.Allow {
			wrong++
		}
		changeText(c.App.ErrWriter, &b, &changes[i])
	}
	if len(changes) == 0 {
		fmt.Fprintf(&b, "every packet between %d pods, nodes and the outside fares as before\n", pods)
	}
	if _, err := fmt.Fprint(c.App.ErrWriter, b.String()); err != nil {
		return err
	}
	if wrong > 0 {
		return fmt.Errorf("the result decides otherwise about packets between %d pairs of ends, which is a mistake of tierctl's: it is not printed", wrong)
	}
	return nil
}

// portZero is of a packet that a ClusterNetworkPolicy cannot say: of all ports of a protocol it says those from 1. Nobody listens there.
var portZero = regexp.MustCompile(`^((^| \| )([^|]*: )?(none|(TCP|UDP|SCTP) 0(; (TCP|UDP|SCTP) 0)*))+$`)

func planOf(objects []v3.Object) *policy.Plan {
	x := policy.NewIndex("", policy.Options{})
	for _, o := range objects {
		_ = x.Set(o) // admission has judged each
	}
	return x.Plan()
}

func convertObject(d *store.Document, to string) (any, []convert.Loss, error) {
	switch o := d.Object.(type) {
	case *networkingv1.NetworkPolicy:
		if to == toCalico {
			out, lost := convert.ToCalico(o)
			return out, lost, nil
		}
	case *unstructured.Unstructured:
		return convertForeign(o)
	}
	if d.Written != nil && !judged(d.Written) { // of whose fields we know some
		return d.Written, nil, nil
	}
	return d.Object, nil, nil
}

// judged tells whether an object's status is what we say of it; that of a Pod is what it says of itself.
func judged(u *unstructured.Unstructured) bool {
	group := u.GroupVersionKind().Group
	return group == v3.GroupVersion.Group || group == oldapi.GroupVersion.Group
}

func convertForeign(u *unstructured.Unstructured) (any, []convert.Loss, error) {
	switch {
	case u.GetAPIVersion() == convert.StoredVersion:
		lost := convert.FromStored(u.Object)
		return u, lost, nil
	case convert.Old(u.GetAPIVersion(), u.GetKind()):
		lost := convert.FromOld(u.Object)
		return u, lost, nil
	case u.GetKind() == "AdminNetworkPolicy":
		var o oldapi.AdminNetworkPolicy
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, &o, true); err != nil {
			return nil, nil, err
		}
		out, lost := convert.FromAdmin(&o)
		return out, lost, nil
	}
	var o oldapi.BaselineAdminNetworkPolicy
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, &o, true); err != nil {
		return nil, nil, err
	}
	out, lost := convert.FromBaseline(&o)
	return out, lost, nil
}

// plainObject is what people write of an object.
func plainObject(object any) (*unstructured.Unstructured, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(text); err != nil {
		return nil, err
	}
	if judged(u) {
		delete(u.Object, "status")
	}
	unwritten(u)
	unstructured.RemoveNestedField(u.Object, "metadata", "labels", v3.LabelTier) // which every store gives it anew
	if len(u.GetLabels()) == 0 {
		unstructured.RemoveNestedField(u.Object, "metadata", "labels")
	}
	return u, nil
}

func printConverted(c *cli.Context, format string, all []any) error {
	if format == "json" {
		var v any = map[string]any{"apiVersion": "v1", "kind": "List", "items": all}
		if len(all) == 1 {
			v = all[0]
		}
		text, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.App.Writer, "%s\n", text)
		return err
	}
	var b strings.Builder
	for i, o := range all {
		text, err := yaml.Marshal(o)
		if err != nil {
			return err
		}
		if i > 0 {
			b.WriteString("---\n")
		}
		b.Write(text)
	}
	_, err := fmt.Fprint(c.App.Writer, b.String())
	return err
}
