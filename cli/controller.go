package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tierwall/tierwall/controllers"
)

func controllerCommand() *cli.Command {
	return &cli.Command{
		Name: "controller", Usage: "do for a cluster what is done once for all nodes", UsageText: "tierctl controller --datastore kubernetes[:KUBECONFIG]",
		Description: "Keeps the built-in tiers, automatic host endpoints, and the status of policies, sets and host endpoints, and answers what the API server asks of\n" +
			"admission, until it is told to end. Of several one leads, and the others wait. Logs JSON lines on standard error.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "`NAMESPACE` of the Lease that the leader holds (default: none; there is no other controller)",
				EnvVars: []string{"POD_NAMESPACE"}},
			agentsFlag(),
			&cli.IntFlag{Name: "webhook-port", Usage: "`PORT` that the API server asks admission at, with a certificate that is kept in the namespace (default: none)"},
			&cli.BoolFlag{Name: "verbose", Usage: "log more"},
			listenFlag(), agentDatastoreFlag(),
		},
		Action: controller,
	}
}

func agentsFlag() cli.Flag {
	return &cli.StringFlag{Name: "agents", Value: "kubernetes.io/os=linux,type!=virtual-kubelet", Usage: "`SELECTOR` of the nodes that should have an agent: " +
		"a policy is Programmed when all of them have it in force"}
}

func controller(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	agents, err := labels.Parse(c.String("agents"))
	if err != nil {
		return usagef("agents: %v", err)
	}
	if port := c.Int("webhook-port"); port < 0 || port > 65535 || port > 0 && c.String("namespace") == "" {
		return usagef("webhook-port is a port, and needs --namespace, where its certificate is kept")
	}
	config, err := clusterOf(c)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
	defer stop()
	cluster := controllers.Cluster{Config: config, Namespace: c.String("namespace"), Webhook: c.Int("webhook-port"), Listen: c.String("listen"), Agents: agents, Log: newLog(c)}
	if err := cluster.Run(ctx); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	return nil
}
