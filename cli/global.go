package main

import (
	"flag"
	"fmt"
	"strings"

	"github.com/go-logr/logr"
	"github.com/urfave/cli/v2"
	"k8s.io/klog/v2"
)

// globalFlags may be given to every command, as calicoctl's may, and -c, which calicoctl has for all that touch a datastore.
func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "config", Aliases: []string{"c"}, DefaultText: "the first that is there of " + strings.Join(configFiles, " and "),
			Usage: "`FILE` that says where the datastore is and how it is reached, in calicoctl's format; see tierctl config view"},
		&cli.StringFlag{Name: "kubeconfig", Usage: "`FILE` that says where the cluster is and who asks, as kubectl has it [$KUBECONFIG]"},
		&cli.StringFlag{Name: "context", Usage: "`CONTEXT` of the kubeconfig to use [$K8S_CURRENT_CONTEXT]"},
		&cli.StringFlag{Name: "log-level", Aliases: []string{"l"}, Value: "panic", Usage: "what to log on standard error of talking to a cluster: `LEVEL` panic, fatal and " +
			"error, nothing; warn, what the client warns of; info, each request and retry; debug, with headers and bodies"},
		&cli.BoolFlag{Name: "allow-version-mismatch", Usage: "does nothing: versions of tierctl and of agents need not be the same; for scripts that were written for calicoctl"},
	}
}

// logLevels are calicoctl's, each with the verbosity of those files of the client's that speak of requests, or below zero for no log.
var logLevels = map[string]int{"panic": -1, "fatal": -1, "error": -1, "warn": 0, "warning": 0, "info": 6, "debug": 8, "trace": 9}

// logClient has the cluster's client log as --log-level says.
func logClient(c *cli.Context) error {
	level := strings.ToLower(c.String("log-level"))
	v, ok := logLevels[level]
	switch {
	case !ok:
		return usagef("log-level %q is none of panic, fatal, error, warn, info and debug", level)
	case v < 0:
		klog.SetLogger(logr.Discard())
		return nil
	}
	var f flag.FlagSet
	klog.InitFlags(&f)
	files := fmt.Sprintf("round_trippers=%d,request=%d,with_retry=%d,clientcmd=%d", v, v, v, v)
	for name, value := range map[string]string{"vmodule": files, "logtostderr": "false", "alsologtostderr": "false", "stderrthreshold": "FATAL"} {
		if err := f.Set(name, value); err != nil {
			return fmt.Errorf("log-level: %w", err)
		}
	}
	klog.ClearLogger()
	klog.SetOutput(c.App.ErrWriter)
	return nil
}
