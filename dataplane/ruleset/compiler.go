package ruleset

import (
	"slices"

	"github.com/tierwall/tierwall/dataplane/policy"
)

// Compiler expresses one plan after another, and remembers the last: what has not changed since costs next to nothing.
//
//	only members of sets have changed          their sets alone are looked at
//	endpoints have come, gone or changed       and the guards that the last plan had not
//	policies have changed                      and the guards that these policies stand in
//
// The table of a plan does not depend on what came before it. A Compiler is for one goroutine.
type Compiler struct {
	options  Options
	worth    int // so many rules are worth a map by port
	last     *policy.Plan
	table    *Table
	settings policy.Settings
	hasNets  map[string]bool // of moving, as rules were last made by it
	moving   movingSets
	names    map[guardKey]guardName
	guards   *guards
}

// guardKey is where a guard's tiers are: a plan shares those that have not changed with the last.
type guardKey struct {
	at        *policy.Tier
	direction policy.Direction
}

// guardName is what a guard's chain is called.
type guardName struct {
	tiers []policy.Tier // which keeps them where they are
	name  string        // without the mode's suffix
}

// NewCompiler makes one that has expressed nothing yet.
func NewCompiler(o Options) *Compiler {
	return &Compiler{options: o, worth: worthMap, names: map[guardKey]guardName{}, guards: newGuards()}
}

// Compile expresses a plan. Equal plans give equal tables. changes are those from the table of the last plan, as Diff gives them, and
// never nil; for the first plan, those from nothing.
func (c *Compiler) Compile(p *policy.Plan) (t *Table, changes []Change) {
	if t, changes = c.moved(p); t == nil {
		t = c.whole(p)
		changes = Diff(c.table, t)
	}
	if changes == nil {
		changes = []Change{}
	}
	c.last, c.table = p, t
	return t, changes
}

// Compile expresses a plan for one who has no other.
func Compile(p *policy.Plan, o Options) *Table { return NewCompiler(o).whole(p) }

// moved is the table of a plan that differs from the last only in the members of its sets, and the changes; nil for any other.
func (c *Compiler) moved(p *policy.Plan) (*Table, []Change) {
	if c.last == nil || !p.SameRules(c.last) {
		return nil, nil
	}
	changed, others := c.moving.follow(p.Sets)
	if others {
		return nil, nil
	}
	next := *c.table
	if len(changed) > 0 {
		next.Sets = slices.Clone(next.Sets)
		put(next.Sets, changed)
	}
	return &next, Diff(c.table, &next)
}
