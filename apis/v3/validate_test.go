package v3_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/test/verdicts"
)

// sound reads an object, gives it a name, and defaults it.
func sound(t *testing.T, kind, text string) v3.Object {
	t.Helper()
	obj := read(t, kind, text)
	if obj.GetName() == "" {
		obj.SetName("p")
	}
	v3.Default(obj)
	return obj
}

// TestValidate: one fault, one complaint, where it belongs.
func TestValidate(t *testing.T) {
	for _, c := range verdicts.Refused {
		errs := v3.Validate(sound(t, c.Kind, c.Object))
		if len(errs) != 1 || errs[0].Field != c.Field || !strings.Contains(errs[0].Error(), c.Reason) {
			t.Errorf("%s %s: want %s: %s\nhave %v", c.Kind, c.Object, c.Field, c.Reason, errs)
		}
	}
	seen := map[string]bool{}
	for _, c := range verdicts.Sound {
		seen[c.Kind] = true
		if errs := v3.Validate(sound(t, c.Kind, c.Object)); len(errs) > 0 {
			t.Errorf("%s %s: %v", c.Kind, c.Object, errs)
		}
	}
	if have := slices.Sorted(maps.Keys(seen)); !slices.Equal(have, kinds()) {
		t.Errorf("cases of %v, kinds are %v", have, kinds())
	}
}

// An object may have many faults; all of them are said.
func TestValidateSaysAll(t *testing.T) {
	errs := v3.Validate(sound(t, "GlobalNetworkPolicy", `
metadata: {name: a.b.c}
spec:
  selector: x
  namespaceSelector: y
  ingress: [{action: Allow, protocol: GRE, source: {nets: [a, b]}}]
  egress: [{action: Allow, destination: {ports: [80, 90]}}]
`))
	if len(errs) != 8 {
		t.Errorf("%d complaints, want 8: %v", len(errs), errs)
	}
}

// TestEveryReasonHasACase reads the reasons out of this package's own text: each must be what some case above is told.
func TestEveryReasonHasACase(t *testing.T) {
	var said []string
	for _, c := range verdicts.Refused {
		for _, e := range v3.Validate(sound(t, c.Kind, c.Object)) {
			said = append(said, e.Error())
		}
	}
	var count int
	for _, file := range []string{"validate.go", "validate_rule.go", "validate_endpoint.go", "validate_kubernetes.go", "validate_felix.go", "validate_kubecontrollers.go", "parse.go"} {
		for at, reason := range reasons(t, file) {
			count++
			if !slices.ContainsFunc(said, reason.MatchString) {
				t.Errorf("%s: no case is told %q", at, reason)
			}
		}
	}
	if count < 40 {
		t.Errorf("only %d reasons found", count)
	}
	t.Logf("%d reasons, %d cases", count, len(verdicts.Refused))
}

// verb is what formatting replaces.
var verb = regexp.MustCompile(`%[a-z]`)

// reasons are the sentences within the functions of a file, by their place.
func reasons(t *testing.T, file string) map[string]*regexp.Regexp {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*regexp.Regexp{}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		ast.Inspect(fn, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err == nil && strings.Count(text, " ") >= 2 {
				at := set.Position(lit.Pos())
				pattern := verb.ReplaceAllString(regexp.QuoteMeta(text), ".*")
				out[fmt.Sprintf("%s:%d", file, at.Line)+" "+text] = regexp.MustCompile(pattern)
			}
			return true
		})
	}
	return out
}
