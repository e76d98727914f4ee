package ruleset_test

import (
	"testing"

	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
	"github.com/tierwall/tierwall/test/scenario"
)

// A node's table from its plan, and its difference from the last.
func BenchmarkCompile(b *testing.B) {
	p := indexOf("n1", policy.Options{}, scenario.Big(10000, 200)).Plan()
	b.ReportAllocs()
	for b.Loop() {
		ruleset.Compile(p, ruleset.Options{})
	}
}

func BenchmarkDiff(b *testing.B) {
	p := indexOf("n1", policy.Options{}, scenario.Big(10000, 200)).Plan()
	one, two := ruleset.Compile(p, ruleset.Options{}), ruleset.Compile(p, ruleset.Options{})
	b.ReportAllocs()
	for b.Loop() {
		ruleset.Diff(one, two)
	}
}
