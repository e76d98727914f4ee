package selector_test

import (
	"slices"
	"testing"

	"github.com/tierwall/tierwall/apis/selector"
)

// Whatever a selector matches has the labels that it requires; and how much it asks is counted.
func TestRequiredLabelsAndClauses(t *testing.T) {
	for _, c := range []struct {
		text     string
		required []string
		clauses  int
	}{
		{"", nil, 1},
		{"has(a)", []string{"a"}, 1},
		{"a == 'x' && b in {'x', 'y'} && c contains 'x' && d starts with 'x' && e ends with 'x'", []string{"a", "b", "c", "d", "e"}, 5},
		{"a != 'x' && b not in {'x'} && !has(c) && !(d == 'x')", nil, 4},
		{"has(a) || has(b)", nil, 2},
		{"has(a) && (has(b) || (has(c) && !has(d)))", []string{"a"}, 4},
	} {
		s, err := selector.Parse(c.text)
		if err != nil {
			t.Fatal(err)
		}
		if have := s.RequiredLabels(); !slices.Equal(have, c.required) || s.Clauses() != c.clauses {
			t.Errorf("%s requires %v and has %d clauses, want %v and %d", c.text, have, s.Clauses(), c.required, c.clauses)
		}
	}
}
