package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"unicode"
	"unicode/utf8"
)

// printable writes text for a terminal: what would move its cursor, colour it or turn its direction is shown instead, as "\x1b" is. Who
// writes an object decides what is in it, and somebody else looks at it. Only what paint has made is let through.
type printable struct {
	io.Writer
	colours bool
	mu      sync.Mutex // what is said while work is done at once
	bar     bool       // one of progress stands on the last line
}

// Write takes whole texts: what the program prints at once.
func (p *printable) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
	if _, err := p.Writer.Write(shown(text)); err != nil {
		return 0, err
	}
	return len(text), nil
}

// wipe takes the bar away.
func (p *printable) wipe() {
	if p.bar {
		p.bar = false
		io.WriteString(p.Writer, "\r\x1b[K")
	}
}

// shown gives the text itself where there is nothing to hide.
func shown(text []byte) []byte {
	var out []byte
	clean := 0 // what is before it is in out, or is nothing
	for at := 0; at < len(text); {
		r, n := utf8.DecodeRune(text[at:])
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			out = append(out, text[clean:at]...)
			if r == escape && bytes.HasPrefix(text[at+n:], ours()) {
				out, n = append(out, escape), n+len(ours())
			} else {
				word := fmt.Sprintf("%q", r)
				out = append(out, word[1:len(word)-1]...)
			}
			clean = at + n
		}
		at += n
	}
	if clean == 0 {
		return text
	}
	return append(out, text[clean:]...)
}
