// Command try starts the cluster that the tests use, for somebody to try something by hand, and takes it down again when it is asked to
// end. With -check it checks it instead of waiting; with -build it only builds; with -clean it only removes what is left of clusters whose process was killed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/tierwall/tierwall/test/kube"
)

func main() {
	check := flag.Bool("check", false, "check what tests rely on, and end")
	build := flag.Bool("build", false, "build what an API server needs, unless that was done, and end")
	clean := flag.Bool("clean", false, "remove what killed processes have left, and end")
	flag.Parse()
	do := func() error { return try(*check) }
	switch {
	case *clean:
		do = kube.Clean
	case *build:
		do = buildComponents
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func buildComponents() error {
	fmt.Fprintln(os.Stderr, "building Kubernetes' components, if that was never done here: ten minutes or so")
	_, err := kube.Components()
	return err
}

func try(check bool) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := kube.Up(ctx, kube.Options{Log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	if check {
		return c.Check(ctx)
	}
	fmt.Println(strings.Join(c.Kubectl(ctx, "get", "pods", "--all-namespaces").Args, " "))
	for _, n := range c.Nodes {
		fmt.Println(strings.Join(n.Command(ctx, "nft", "list", "ruleset").Args, " "))
	}
	<-ctx.Done()
	return nil
}
