package main

import (
	"encoding/json"
	"fmt"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

func validateCommand() *cli.Command {
	return &cli.Command{
		Name: "validate", Usage: "check objects in files as admission would, without a store",
		UsageText: "tierctl validate -f FILE [-o json]",
		Flags:     append(fileFlags(), &cli.BoolFlag{Name: "skip-empty", Usage: "no objects are no error"}, outputFlag("json (one line an object)")),
		Action:    validate,
	}
}

// verdictOnObject is what validate -o json says of one object.
type verdictOnObject struct {
	File      string         `json:"file"`
	Index     int            `json:"index"`
	Line      int            `json:"line"`
	Kind      string         `json:"kind"`
	Namespace string         `json:"namespace,omitempty"`
	Name      string         `json:"name"`
	Valid     bool           `json:"valid"`
	Errors    []errorInField `json:"errors"`
	Warnings  []errorInField `json:"warnings,omitempty"`
}

type errorInField struct {
	Field   string `json:"field"`
	Message string `json:"message"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
}

func validate(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "json")
	if err != nil {
		return err
	}
	if len(c.StringSlice("filename")) == 0 {
		return usagef("validate needs -f FILE")
	}
	docs := readDocuments(c)
	if len(docs) == 0 && !c.Bool("skip-empty") {
		return noObjects(c)
	}
	if len(docs) == 0 {
		fmt.Fprintln(c.App.ErrWriter, "No resources specified")
		return nil
	}
	bad := 0
	encoder := json.NewEncoder(c.App.Writer)
	encoder.SetEscapeHTML(false)
	for _, d := range docs {
		d.Warnings = append(d.Warnings, notices(d)...)
		d.Errors = append(d.Errors, forbidden(d)...)
		if len(d.Errors) > 0 {
			bad++
		}
		if format == "json" {
			err = encoder.Encode(verdictOn(d))
		} else if printErrors(c, d); len(d.Errors) == 0 {
			_, err = fmt.Fprintf(c.App.Writer, "%s:%d: %s valid\n", d.File, d.Line, v3.Ref{Kind: d.Kind, Namespace: d.Namespace, Name: d.Name})
		}
		if err != nil {
			return err
		}
	}
	if bad > 0 {
		return fmt.Errorf("%s: %d of %d objects are invalid", failedTo("validate", docs), bad, len(docs))
	}
	if format == "" {
		_, err = fmt.Fprintf(c.App.Writer, "Successfully validated %d %sresource(s)\n", len(docs), kindOfAll(docs))
	}
	return err
}

// forbidden is what any store would say of an object that is sound. Which tiers there are only a store knows.
func forbidden(d store.Document) (out []store.DocError) {
	if d.Object == nil {
		return nil
	}
	errs, _ := store.Allowed(d.Object, nil, anyTier) // the error is that function's
	for _, e := range errs {
		out = append(out, errorAt(d, e.Field, e.ErrorBody()))
	}
	return out
}

// anyTier is one who knows no tier and doubts none.
func anyTier(v3.Ref) (client.Object, error) { return &v3.Tier{}, nil }

func verdictOn(d store.Document) verdictOnObject {
	v := verdictOnObject{d.File, d.Index, d.Line, d.Kind, d.Namespace, d.Name, len(d.Errors) == 0, []errorInField{}, nil}
	for _, e := range d.Errors {
		v.Errors = append(v.Errors, errorInField{e.Field, e.Message, e.Line, e.Column})
	}
	for _, e := range d.Warnings {
		v.Warnings = append(v.Warnings, errorInField{e.Field, e.Message, e.Line, e.Column})
	}
	return v
}
