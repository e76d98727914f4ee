package main

import (
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"
)

// printable writes text for a terminal: what would move its cursor, colour it or turn its direction is shown instead, as "\x1b" is. Who
// writes an object decides what is in it, and somebody else looks at it.
type printable struct{ io.Writer }

// Write takes whole texts: what the program prints at once.
func (p printable) Write(text []byte) (int, error) {
	if _, err := p.Writer.Write(shown(text)); err != nil {
		return 0, err
	}
	return len(text), nil
}

// shown gives the text itself where there is nothing to hide.
func shown(text []byte) []byte {
	var out []byte
	clean := 0 // what is before it is in out, or is nothing
	for at := 0; at < len(text); {
		r, n := utf8.DecodeRune(text[at:])
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			out = append(out, text[clean:at]...)
			word := fmt.Sprintf("%q", r)
			out = append(out, word[1:len(word)-1]...)
			clean = at + n
		}
		at += n
	}
	if clean == 0 {
		return text
	}
	return append(out, text[clean:]...)
}
