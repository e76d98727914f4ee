// Command pod is the only program in the tests' pods: it serves, probes, or does nothing.
//
//	pod serve [-tcp 80,8080] [-udp 80]   answer with our name and the client's address
//	pod probe [-timeout 1s] tcp|udp HOST PORT
//	pod edges HOST PORT                  ask by UDP all the time, and tell when answers begin and end: "open" or "shut" and the time in ns
//	pod pause                            do nothing until SIGTERM
//
// A probe prints the answer and exits with 0; with 3 when it was refused, and with 1 when nothing came.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const refused = 3

func main() {
	commands := map[string]func([]string) error{"serve": serve, "probe": probe, "edges": edges, "pause": pause}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: pod serve|probe|edges|pause")
		os.Exit(2)
	}
	err := commands[os.Args[1]](os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		os.Exit(refused)
	case err != nil:
		os.Exit(1)
	}
}

// pause until we are asked to end. A container's first process gets no signal that it does not ask for.
func pause([]string) error {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	<-end
	return nil
}

func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	tcp := flags.String("tcp", "80,8080", "TCP `ports` with HTTP")
	udp := flags.String("udp", "80", "UDP `ports`")
	_ = flags.Parse(args) // it exits
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	for port := range fields(*tcp) {
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		go func() {
			failed <- http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, name, r.RemoteAddr) }))
		}()
	}
	for port := range fields(*udp) {
		c, err := net.ListenPacket("udp", ":"+port)
		if err != nil {
			return err
		}
		go func() { failed <- echo(c, name) }()
	}
	fmt.Println(name, "serves tcp", *tcp, "udp", *udp)
	go func() { failed <- pause(nil) }()
	return <-failed
}

func fields(list string) func(func(string) bool) {
	return strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' })
}

// echo answers each packet with our name, the sender's address, and what it said.
func echo(c net.PacketConn, name string) error {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, syscall.ECONNREFUSED) { // to an earlier answer
			continue
		}
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(writerTo{c, from}, "%s %s %s\n", name, from, buf[:n]) // whoever asked asks again
	}
}

type writerTo struct {
	net.PacketConn
	to net.Addr
}

func (w writerTo) Write(b []byte) (int, error) { return w.WriteTo(b, w.to) }

func probe(args []string) error {
	flags := flag.NewFlagSet("probe", flag.ExitOnError)
	timeout := flags.Duration("timeout", time.Second, "how long to wait for an answer")
	_ = flags.Parse(args) // it exits
	ask := map[string]func(string, time.Duration) ([]byte, error){"tcp": askTCP, "udp": askUDP}[flags.Arg(0)]
	if ask == nil || flags.NArg() != 3 {
		return errors.New("usage: pod probe [-timeout 1s] tcp|udp HOST PORT")
	}
	answer, err := ask(net.JoinHostPort(flags.Arg(1), flags.Arg(2)), *timeout)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(answer)
	return err
}

func askTCP(to string, timeout time.Duration) ([]byte, error) {
	client := http.Client{Timeout: timeout, Transport: &http.Transport{}} // no proxy
	r, err := client.Get("http://" + to + "/")
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	return io.ReadAll(r.Body)
}

// askUDP asks four times, for one packet may be lost.
func askUDP(to string, timeout time.Duration) ([]byte, error) {
	c, err := net.Dial("udp", to)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	buf := make([]byte, 64<<10)
	for range 4 {
		if _, err = c.Write([]byte("ping")); err != nil {
			return nil, err
		}
		if err = c.SetReadDeadline(time.Now().Add(timeout / 4)); err != nil {
			return nil, err
		}
		var n int
		if n, err = c.Read(buf); err == nil {
			return buf[:n], nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
	}
	return nil, err
}

const (
	every = 10 * time.Millisecond  // a question
	after = 100 * time.Millisecond // without an answer it is shut
)

// edges go on until we are ended. Each question is a connection of its own, for one that was allowed may go on: no port is used again before
// the kernel has forgotten what it was used for.
func edges(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: pod edges HOST PORT")
	}
	to, err := net.ResolveUDPAddr("udp", net.JoinHostPort(args[0], args[1]))
	if err != nil {
		return err
	}
	answers := make(chan time.Time, 1000) // when they were asked for
	last, open := time.Time{}, false
	const first = 2000
	port := first
	for tick := time.NewTicker(every); ; {
		select {
		case now := <-tick.C:
			if port++; port > 65000 {
				port = first
			}
			go func() {
				if asked(port, to) == nil {
					answers <- now
				}
			}()
			if open && now.Sub(last) > after {
				open = false
				fmt.Println("shut", last.UnixNano())
			}
		case at := <-answers:
			if at.After(last) {
				last = at
			}
			if !open {
				open = true
				fmt.Println("open", at.UnixNano())
			}
		}
	}
}

// asked once, and answered.
func asked(from int, to *net.UDPAddr) error {
	c, err := net.DialUDP("udp", &net.UDPAddr{Port: from}, to)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(after)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("?")); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1<<10))
	return err
}
