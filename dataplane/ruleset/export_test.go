package ruleset

import "github.com/tierwall/tierwall/dataplane/policy"

// CompileWorth is Compile where so many rules are worth a map by port.
func CompileWorth(p *policy.Plan, o Options, worth int) *Table {
	k := NewCompiler(o)
	k.worth = worth
	return k.whole(p)
}
