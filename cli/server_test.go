package main

import (
	"bufio"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Who says nothing, too much, or takes his time, is not listened to for ever.
func TestServerHasLimits(t *testing.T) {
	s := server(http.NotFoundHandler())
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 {
		t.Errorf("a connection may be kept for ever: %+v", s)
	}
	s.ReadHeaderTimeout = 50 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(l) }() // it ends when it is closed
	defer s.Close()
	for said, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 64<<10) + "\r\n\r\n": "HTTP/1.1 431",
		"GET / HTTP/1.1\r\nHost:":           "", // and no more
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n": "HTTP/1.1 404",
	} {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(said)); err != nil {
			t.Fatal(err)
		}
		line, _ := bufio.NewReader(c).ReadString('\n')
		if !strings.HasPrefix(line, want) || want == "" && line != "" {
			t.Errorf("%.40q was answered %q, want %q", said, line, want)
		}
		_ = c.Close()
	}
}
