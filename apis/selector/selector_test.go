package selector

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The vectors of contract §10.1. matches are for L0 to L4; "" where the contract gives none.
var vectors = []struct{ in, canonical, matches string }{
	{"", "all()", "TTTTT"},
	{"   ", "all()", "TTTTT"},
	{"all()", "all()", "TTTTT"},
	{"app == 'web'", `app == "web"`, "FTTFT"},
	{"app=='web'", `app == "web"`, "FTTFT"},
	{`  app  ==  "web"  `, `app == "web"`, "FTTFT"},
	{"app != 'web'", `app != "web"`, "TFFTF"},
	{"!(app == 'web')", `!app == "web"`, "TFFTF"},
	{"! app == 'web'", `!app == "web"`, "TFFTF"},
	{"app in {'web','db'}", `app in {"db", "web"}`, "FTTTT"},
	{"app in {}", `app in {}`, "FFFFF"},
	{"app not in {'web'}", `app not in {"web"}`, "TFFTF"},
	{"app notin {'web'}", `app not in {"web"}`, "TFFTF"},
	{"app not in {}", `app not in {}`, "TTTTT"},
	{"has(env)", "has(env)", "FFTTF"},
	{"has( env )", "has(env)", "FFTTF"},
	{"!!has(env)", "has(env)", "FFTTF"},
	{"!has(env)", "!has(env)", "TTFFT"},
	{"app contains 'e'", `app contains "e"`, "FTTFT"},
	{"app starts with 'w'", `app starts with "w"`, "FTTFT"},
	{"app startswith 'w'", `app starts with "w"`, "FTTFT"},
	{"app ends with 'b'", `app ends with "b"`, "FTTTT"},
	{"app endswith 'b'", `app ends with "b"`, "FTTTT"},
	{"app == 'web' && env == 'prod' || app == 'db'", `((app == "web" && env == "prod") || app == "db")`, "FFTTF"},
	{"app == 'db' || app == 'web' && env == 'prod'", `(app == "db" || (app == "web" && env == "prod"))`, "FFTTF"},
	{"(app == 'db' || app == 'web') && env == 'prod'", `((app == "db" || app == "web") && env == "prod")`, "FFTFF"},
	{"!has(env) && app == 'web'", `(!has(env) && app == "web")`, "FTFFT"},
	{"all() && !has(env)", "(all() && !has(env))", "TTFFT"},
	{"has(projectcalico.org/namespace)", "has(projectcalico.org/namespace)", "FFFFT"},
	{"!(has(a) && has(b))", "!(has(a) && has(b))", "TTTTT"},
	{`app == "it's"`, `app == "it's"`, "FFFFF"},
	{`app == 'say "no"'`, `app == 'say "no"'`, "FFFFF"},
	{"in == 'x'", `in == "x"`, "FFFFF"},
	{"not == 'x'", `not == "x"`, "FFFFF"},
	{"has(all)", "has(all)", "FFFFF"},
	{"-a == 'x'", `-a == "x"`, "FFFFF"},
	{"1a == ''", `1a == ""`, "FFFFF"},
	{"a in {'z','a','a'}", `a in {"a", "z"}`, ""},
	{"app in {'web',}", `app in {"web"}`, "FTTFT"},
	{"has(a) && (has(b) && has(c))", "(has(a) && (has(b) && has(c)))", ""},
	{"has(a)&&has(b)&&has(c)", "(has(a) && has(b) && has(c))", ""},
	{"global( )", "global()", "TTTTT"},
}

var labelMaps = []Map{
	{}, {"app": "web"}, {"app": "web", "env": "prod"}, {"app": "db", "env": "dev"},
	{"app": "web", "projectcalico.org/namespace": "ns1"},
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		s, err := Parse(v.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", v.in, err)
			continue
		}
		if s.String() != v.canonical {
			t.Errorf("Parse(%q) prints %q, want %q", v.in, s, v.canonical)
		}
		got := ""
		for _, m := range labelMaps {
			got += map[bool]string{true: "T", false: "F"}[s.Matches(m)]
		}
		if v.matches != "" && got != v.matches {
			t.Errorf("%q matches %s, want %s", v.in, got, v.matches)
		}
	}
}

// The texts of contract §2.4, and where and what this parser says of them.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		in       string
		column   int
		expected string
	}{
		{"a='b'", 2, "operator"},
		{"a = 'b'", 3, "operator"},
		{"a == b", 6, "value in quotes"},
		{"a ==", 5, "value in quotes"},
		{"a in 'x'", 6, "set of values"},
		{"a in {,}", 7, "value in quotes"},
		{"a in {'x' 'y'}", 11, ", or }"},
		{"a", 2, "operator"},
		{"all ()", 5, "operator"},
		{"has (a)", 5, "operator"},
		{"haskey(a)", 7, "operator"},
		{"ALL()", 4, "operator"},
		{"Has(a)", 4, "operator"},
		{"a !in {'x'}", 3, "operator"},
		{"has()", 5, "label name"},
		{"é == 'x'", 1, "label name"},
		{"a == 'b'\n", 9, "end of the selector"},
		{"# c", 1, "label name"},
		{"a:b == 'x'", 2, "operator"},
		{"a > 'b'", 3, "operator"},
		{"a not contains 'b'", 3, "operator"},
		{"a\n==", 2, "operator"},
		{"a == 'b' and c == 'd'", 10, "end of the selector"},
		{"a == 'b' c == 'd'", 10, "end of the selector"},
		{"a == 'b", 8, "closing '"},
		{"a == 'b' & c == 'd'", 10, "&&"},
		{"a == 'b' | c == 'd'", 10, "||"},
		{"( a == 'b'", 11, ")"},
		{"()", 2, "label name"},
		{"a == 'b' && ", 13, "label name"},
		{strings.Repeat("(", MaxNesting+1), MaxNesting + 2, "nested"},
		{strings.Repeat("a", maxLabel+1) + " == 'x'", maxLabel + 1, "operator"},
	} {
		_, err := Parse(c.in)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("Parse(%.40q) = %v, want an Error", c.in, err)
			continue
		}
		if e.Column != c.column || !strings.Contains(e.Expected, c.expected) {
			t.Errorf("Parse(%.40q): column %d expected %q, want column %d and %q", c.in, e.Column, e.Expected, c.column, c.expected)
		}
	}
}

func TestID(t *testing.T) {
	for in, want := range map[string]string{
		"":             "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug",
		"has(env)":     "s:pOh9vVVT7UKHdox_bn7RZ8EZAu1hmP14p9D_CA",
		"app == 'web'": "s:oy593DLyi5BRwxLRqXScOfE9YMyW5S4KAhmzFg",
	} {
		if s, err := Parse(in); err != nil || s.ID() != want {
			t.Errorf("ID of %q is %q (%v), want %q", in, s.ID(), err, want)
		}
	}
}

func TestCompose(t *testing.T) {
	parse := func(in string) *Selector {
		s, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []struct {
		got  *Selector
		want string
	}{
		{And(nil, parse("has(a)"), nil), "has(a)"},
		{And(parse("has(a)"), parse("has(b) || has(c)")), "(has(a) && (has(b) || has(c)))"},
		{Not(parse("!has(a)")), "has(a)"},
		{parse("!has(a) && b == 'c'").Prefixed("pcns."), `(!has(pcns.a) && pcns.b == "c")`},
		{parse("!all() || has(b)").ReplaceAll(Has("x")), "(!has(x) || has(b))"},
		{parse("!all()").ReplaceAll(Not(Has("x"))), "has(x)"},
		{In("a", "z", "b", "z"), `a in {"b", "z"}`},
		{NotIn("a", "b"), `a not in {"b"}`},
		{Equals("a", "b"), `a == "b"`},
	} {
		if c.got.String() != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
		if again := parse(c.got.String()); again.ID() != c.got.ID() || again.String() != c.got.String() {
			t.Errorf("%s does not survive parsing", c.got)
		}
	}
	if And(nil, nil) != nil {
		t.Error("And of nothing asks for something")
	}
	if !parse("has(a) && !global()").UsesGlobal() || parse("all()").UsesGlobal() {
		t.Error("UsesGlobal")
	}
}

// TestPrintParse: what prints parses to the same, and matches the same.
func TestPrintParse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := anyNode(t, 4)
		s := of(n)
		again, err := Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("%s parses to %v, %v", s, again, err)
		}
		m := Map(rapid.MapOf(rapid.SampledFrom([]string{"a", "b", "in"}), rapid.SampledFrom([]string{"", "x", "xy"})).Draw(t, "labels"))
		if again.Matches(m) != s.Matches(m) {
			t.Fatalf("%s: matches differ on %v", s, m)
		}
	})
}

func anyNode(t *rapid.T, depth int) node {
	o := op(rapid.IntRange(int(opAll), int(opOr)).Draw(t, "op"))
	if depth == 0 && o >= opNot {
		o = opHas
	}
	n := node{op: o}
	switch o {
	case opAll, opGlobal:
	case opNot:
		return negate(anyNode(t, depth-1))
	case opAnd, opOr:
		for range rapid.IntRange(2, 3).Draw(t, "kids") {
			n.kids = append(n.kids, anyNode(t, depth-1))
		}
	default:
		n.label = rapid.SampledFrom([]string{"a", "b", "in", "not"}).Draw(t, "label")
		count := 1
		if o == opIn || o == opNotIn {
			count = rapid.IntRange(0, 2).Draw(t, "count")
		}
		for range count {
			n.values = append(n.values, rapid.SampledFrom([]string{"", "x", "y", `"`, "'"}).Draw(t, "value"))
		}
		if o == opIn || o == opNotIn {
			n.values = set(n.values)
		}
		if o == opHas {
			n.values = nil
		}
	}
	return n
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors {
		f.Add(v.in)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := Parse(in)
		if err != nil {
			_ = err.Error()
			return
		}
		again, err := Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("%q prints %q, which parses to %v, %v", in, s, again, err)
		}
	})
}

// What a selector requires holds for everything that it matches, and a conjunction requires what its parts do.
func TestRequires(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := anyNode(t, 3)
		m := Map(rapid.MapOf(rapid.SampledFrom([]string{"a", "b", "in"}), rapid.SampledFrom([]string{"", "x", "y"})).Draw(t, "labels"))
		for _, e := range n.requires() {
			if have, ok := m.Get(e.Label); n.matches(m) && (!ok || have != e.Value) {
				t.Fatalf("%v matches %v and requires %v", n, m, e)
			}
		}
	})
	s, err := Parse(`a == 'x' && (b in {'y'} && c in {'p','q'}) && (d == 'z' || has(e)) && !(f == 'w')`)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.Requires(), []Equality{{"a", "x"}, {"b", "y"}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestLabels(t *testing.T) {
	for text, want := range map[string]string{
		"all()": "", "b == 'x' && !has(a) || b in {'y'}": "a b", "!(c != 'x')": "c",
	} {
		s, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if have := strings.Join(s.Labels(), " "); have != want {
			t.Errorf("%s: %s", text, have)
		}
	}
}
