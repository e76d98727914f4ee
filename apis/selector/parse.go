package selector

import (
	"fmt"
	"strings"
)

// MaxNesting is how deep parentheses and negations may nest. The API's 1024 characters hold less.
const MaxNesting = 1024

const maxLabel = 512

// Error is a text that is not a selector.
type Error struct {
	Text     string
	Column   int    // of the first character that does not fit, 1 is the first; it counts characters
	Expected string // what would have fitted there
}

func (e *Error) Error() string {
	if e.Column > len([]rune(e.Text)) {
		return fmt.Sprintf("column %d: expected %s, found the end of the selector", e.Column, e.Expected)
	}
	return fmt.Sprintf("column %d: expected %s, found %s", e.Column, e.Expected, quoted([]rune(e.Text)[e.Column-1:]))
}

// quoted shows where it went wrong, no longer than a glance takes.
func quoted(rest []rune) string {
	if len(rest) > 20 {
		rest = append(rest[:20:20], '…')
	}
	return fmt.Sprintf("%q", string(rest))
}

// Parse reads an expression; "" and blanks select everything. An error is an *Error.
func Parse(expr string) (*Selector, error) {
	p := parser{text: expr}
	p.blanks()
	if p.end() {
		return All(), nil
	}
	n, err := p.or()
	if err != nil {
		return nil, err
	}
	if !p.end() {
		return nil, p.expected("&&, || or the end of the selector")
	}
	return of(n), nil
}

// parser is a text and a place in it. Every method that reads something leaves the place behind the blanks after it.
type parser struct {
	text string
	pos  int
	deep int
}

func (p *parser) end() bool { return p.pos >= len(p.text) }

// blanks are spaces and tabs only: a line break is an error (contract §2.1).
func (p *parser) blanks() {
	for !p.end() && (p.text[p.pos] == ' ' || p.text[p.pos] == '\t') {
		p.pos++
	}
}

func (p *parser) expected(what string) error {
	return &Error{Text: p.text, Column: len([]rune(p.text[:p.pos])) + 1, Expected: what}
}

// take reads a token if it is next.
func (p *parser) take(token string) bool {
	if !strings.HasPrefix(p.text[p.pos:], token) {
		return false
	}
	p.pos += len(token)
	p.blanks()
	return true
}

func (p *parser) or() (node, error)  { return p.list(opOr, "||", p.and) }
func (p *parser) and() (node, error) { return p.list(opAnd, "&&", p.operation) }

// list reads one or more operands; one alone stands for itself.
func (p *parser) list(o op, sep string, operand func() (node, error)) (node, error) {
	var kids []node
	for {
		n, err := operand()
		if err != nil {
			return node{}, err
		}
		if kids = append(kids, n); !p.take(sep) {
			break
		}
	}
	if !p.end() && p.text[p.pos] == sep[0] { // a single & or |
		return node{}, p.expected(sep)
	}
	if len(kids) == 1 {
		return kids[0], nil
	}
	return node{op: o, kids: kids}, nil
}

// operation reads any number of "!" and a primary; pairs cancel.
func (p *parser) operation() (node, error) {
	not := false
	for p.take("!") {
		not = !not
	}
	n, err := p.primary()
	if err == nil && not {
		n = negate(n)
	}
	return n, err
}

// calls are the forms with parentheses, which allow no blank before them.
var calls = []struct {
	word string
	op   op
}{{"all(", opAll}, {"global(", opGlobal}, {"has(", opHas}}

func (p *parser) primary() (node, error) {
	if p.take("(") {
		return p.group()
	}
	for _, c := range calls {
		if !p.take(c.word) {
			continue
		}
		n := node{op: c.op}
		if c.op == opHas {
			if n.label = p.identifier(); n.label == "" {
				return n, p.expected("a label name")
			}
		}
		if !p.take(")") {
			return n, p.expected(")")
		}
		return n, nil
	}
	label := p.identifier()
	if label == "" {
		return node{}, p.expected("a label name, all(), has(…), ! or (")
	}
	return p.comparison(label)
}

func (p *parser) group() (node, error) {
	if p.deep++; p.deep > MaxNesting {
		return node{}, p.expected(fmt.Sprintf("at most %d nested parentheses", MaxNesting))
	}
	n, err := p.or()
	p.deep--
	if err == nil && !p.take(")") {
		err = p.expected(")")
	}
	return n, err
}

// identifier is "" when there is none.
func (p *parser) identifier() string {
	start := p.pos
	for !p.end() && isLabel(p.text[p.pos]) && p.pos-start < maxLabel {
		p.pos++
	}
	label := p.text[start:p.pos]
	p.blanks()
	return label
}

func isLabel(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_./-", c) >= 0
}

// operators in the order in which they are tried: words with a blank in them before their beginnings.
var operators = []struct {
	words []string
	op    op
}{
	{[]string{"=="}, opEq}, {[]string{"!="}, opNe},
	{[]string{"not", "in"}, opNotIn}, {[]string{"notin"}, opNotIn}, {[]string{"in"}, opIn},
	{[]string{"contains"}, opContains},
	{[]string{"starts", "with"}, opStartsWith}, {[]string{"startswith"}, opStartsWith},
	{[]string{"ends", "with"}, opEndsWith}, {[]string{"endswith"}, opEndsWith},
}

func (p *parser) comparison(label string) (node, error) {
	for _, o := range operators {
		if !p.operator(o.words) {
			continue
		}
		n := node{op: o.op, label: label}
		var err error
		if o.op == opIn || o.op == opNotIn {
			n.values, err = p.set()
		} else {
			n.values = make([]string, 1)
			n.values[0], err = p.value()
		}
		return n, err
	}
	return node{}, p.expected(fmt.Sprintf("an operator after label %q (==, !=, in, not in, contains, starts with, ends with)", label))
}

// operator reads all the words or nothing.
func (p *parser) operator(words []string) bool {
	start := p.pos
	for _, w := range words {
		if !p.take(w) {
			p.pos = start
			return false
		}
	}
	return true
}

func (p *parser) value() (string, error) {
	if p.end() || p.text[p.pos] != '"' && p.text[p.pos] != '\'' {
		return "", p.expected("a value in quotes")
	}
	n := strings.IndexByte(p.text[p.pos+1:], p.text[p.pos])
	if n < 0 {
		mark := p.text[p.pos : p.pos+1]
		p.pos = len(p.text)
		return "", p.expected("a closing " + mark)
	}
	v := p.text[p.pos+1 : p.pos+1+n]
	p.pos += n + 2
	p.blanks()
	return v, nil
}

func (p *parser) set() ([]string, error) {
	if !p.take("{") {
		return nil, p.expected("a set of values in { }")
	}
	var values []string
	for !p.take("}") {
		if len(values) > 0 {
			if !p.take(",") {
				return nil, p.expected(", or }")
			}
			if p.take("}") {
				break
			}
		}
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return set(values), nil
}
