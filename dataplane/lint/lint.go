// Package lint finds what objects do that their authors hardly meant. Wherever it can it asks the plan, which says what is enforced, and
// not the text; so a finding holds for the endpoints that there are. It knows no files: a finding names an object and a field.
package lint

import (
	"cmp"
	"slices"
	"strings"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// Severity of a finding.
type Severity uint8

// The severities: what may be meant so, what hardly is, and what is not in force as it is written.
const (
	Info Severity = iota
	Warning
	Error
)

func (s Severity) String() string { return [...]string{"info", "warning", "error"}[s] }

// Check is one thing that is looked for. Its code never changes.
type Check struct {
	Code     string
	Severity Severity
	Title    string // what was found, in a few words
	Why      string // what comes of it
	Mend     string
	find     func(*world, func(about v3.Ref, field, format string, args ...any))
}

// Finding is one thing found in one object.
type Finding struct {
	Code     string
	Severity Severity
	About    v3.Ref
	Field    string
	Message  string
}

// Ignore is the annotation of an object by which its author says that some findings are meant: codes with commas between, or all.
const Ignore = "lint.tierwall.io/ignore"

// Checks are all, by code.
func Checks() []Check { return slices.Clone(checks) }

// Of objects: the findings, by object, field and code.
func Of(objects []v3.Object, o policy.Options) (out []Finding) {
	w := worldOf(objects, o)
	seen := map[Finding]bool{}
	for _, c := range checks {
		c.find(w, func(about v3.Ref, field, format string, args ...any) {
			f := Finding{c.Code, c.Severity, about, field, sprintf(format, args...)}
			if !seen[f] && !w.ignores(f) {
				out = append(out, f)
			}
			seen[f] = true
		})
	}
	slices.SortStableFunc(out, func(a, b Finding) int {
		return cmp.Or(a.About.Compare(b.About), strings.Compare(a.Field, b.Field), strings.Compare(a.Code, b.Code), strings.Compare(a.Message, b.Message))
	})
	return out
}

// world is all objects, and what comes of them.
type world struct {
	objects map[v3.Ref]v3.Object
	refs    []v3.Ref // sorted
	errs    map[v3.Ref]error
	index   *policy.Index
	plan    *policy.Plan
	ranks   []policy.Rank
	walks   []walk
}

func worldOf(objects []v3.Object, o policy.Options) *world {
	w := &world{objects: map[v3.Ref]v3.Object{}, errs: map[v3.Ref]error{}, index: policy.NewIndex("", o)}
	for _, obj := range objects {
		ref := v3.RefOf(obj)
		w.objects[ref], w.errs[ref] = obj, w.index.Set(obj)
		w.refs = append(w.refs, ref)
	}
	slices.SortFunc(w.refs, v3.Ref.Compare)
	w.plan, w.ranks = w.index.Plan(), w.index.Ranks()
	w.walks = walksOf(w.plan)
	return w
}

func (w *world) ignores(f Finding) bool {
	o := w.objects[f.About]
	if o == nil {
		return false
	}
	for _, code := range strings.Split(o.GetAnnotations()[Ignore], ",") {
		if code = strings.TrimSpace(code); code == f.Code || code == "all" {
			return true
		}
	}
	return false
}

// standings are the policies that are in force, or would be, in order.
func (w *world) standings(do func(r *policy.Rank, s *policy.Standing)) {
	for i := range w.ranks {
		for j := range w.ranks[i].Policies {
			do(&w.ranks[i], &w.ranks[i].Policies[j])
		}
	}
}

// selected are the endpoints of which some guard names a policy.
func (w *world) selected() map[v3.Ref][]*policy.Endpoint {
	out := map[v3.Ref][]*policy.Endpoint{}
	for i := range w.plan.Endpoints {
		e, seen := &w.plan.Endpoints[i], map[v3.Ref]bool{}
		for _, g := range e.Guards {
			for _, t := range slices.Concat(g.Tiers, g.Staged) {
				for _, ref := range t.Policies {
					if !seen[ref] {
						seen[ref] = true
						out[ref] = append(out[ref], e)
					}
				}
			}
		}
	}
	return out
}
