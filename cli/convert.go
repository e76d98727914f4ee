package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	oldapi "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/tierwall/tierwall/apis/convert"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

func convertCommand() *cli.Command {
	return &cli.Command{
		Name: "convert", Usage: "put objects of other APIs and older versions into today's", UsageText: "tierctl convert -f FILE [--to calico|kubernetes] [--lossy] [-o yaml|json]",
		Description: "Kubernetes' NetworkPolicy becomes Calico's or, with --to kubernetes, the other way round. AdminNetworkPolicy and BaselineAdminNetworkPolicy become\n" +
			"ClusterNetworkPolicy; crd.projectcalico.org/v1, and calicoctl's v1 (policy, hostEndpoint), become projectcalico.org/v3. What is current stays\n" +
			"as it is. What the target cannot say is an error, and nothing is printed; with --lossy it is a warning, and left out.",
		Flags: append(fileFlags(),
			&cli.StringFlag{Name: "to", Value: "calico", Usage: "`WHOSE` NetworkPolicy it is to be: calico or kubernetes"},
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
	if to != "calico" && to != "kubernetes" {
		return usagef("--to %q is neither calico nor kubernetes", to)
	}
	if len(c.StringSlice("filename")) == 0 {
		return usagef("convert needs -f FILE")
	}
	docs := store.Read(c.StringSlice("filename"), store.ReadOptions{Recursive: c.Bool("recursive"), Namespace: c.String("namespace"), Stdin: c.App.Reader, Raw: older, Written: true})
	if len(docs) == 0 {
		return fmt.Errorf("no objects in %v", c.StringSlice("filename"))
	}
	out := []any{}
	bad := 0
	for _, d := range docs {
		object := converted(&d, to, c.Bool("lossy"))
		if len(d.Errors) > 0 {
			bad++
		}
		if object != nil {
			out = append(out, object)
		}
		printErrors(c, d)
	}
	if bad > 0 {
		mend := ": --lossy leaves out what the target cannot say"
		if c.Bool("lossy") {
			mend = ""
		}
		return fmt.Errorf("%d of %d objects cannot be converted%s", bad, len(docs), mend)
	}
	return printConverted(c, format, out)
}

// converted is what a document says, in today's words or the target's, or nil for nothing. What is lost is an error of the document's, or a
// warning; that the result is none that admission would accept is an error always.
func converted(d *store.Document, to string, lossy bool) any {
	if lossy && d.Foreign {
		d.Warnings, d.Errors = append(d.Warnings, d.Errors...), nil
		return nil
	}
	if len(d.Errors) > 0 {
		return nil
	}
	object, lost, err := convertObject(d, to)
	if err != nil {
		line, column := d.Place("")
		d.Errors = append(d.Errors, store.DocError{Message: err.Error(), Line: line, Column: column})
		return nil
	}
	for _, l := range lost {
		line, column := d.Place(l.Field)
		e := store.DocError{Field: l.Field, Message: l.Why, Line: line, Column: column}
		if lossy {
			d.Warnings = append(d.Warnings, e)
		} else {
			d.Errors = append(d.Errors, e)
		}
	}
	u, err := plainObject(object)
	if err != nil {
		d.Errors = append(d.Errors, store.DocError{Message: err.Error(), Line: d.Line, Column: d.Column})
		return nil
	}
	d.Kind, d.Namespace, d.Name = u.GetKind(), u.GetNamespace(), u.GetName()
	if len(d.Errors) > 0 || older(u.GetAPIVersion(), u.GetKind()) {
		return nil
	}
	_, errs := store.Admit(u.DeepCopy(), nil)
	for _, e := range errs {
		line, column := d.Place(e.Field)
		if lossy && e.Field == "kind" { // there is none here
			d.Warnings = append(d.Warnings, store.DocError{Field: e.Field, Message: e.Detail, Line: line, Column: column})
			return nil
		}
		d.Errors = append(d.Errors, store.DocError{Field: e.Field, Message: "would be refused: " + store.ErrorText(d.Kind, e), Line: line, Column: column})
	}
	return u.Object
}

func convertObject(d *store.Document, to string) (any, []convert.Loss, error) {
	switch o := d.Object.(type) {
	case *networkingv1.NetworkPolicy:
		if to == "calico" {
			out, lost := convert.ToCalico(o)
			return out, lost, nil
		}
	case *v3.NetworkPolicy:
		if to == "kubernetes" {
			out, lost := convert.ToKubernetes(o)
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
