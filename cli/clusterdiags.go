package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tierwall/tierwall/controllers"
	"github.com/tierwall/tierwall/controllers/admission"
	"github.com/tierwall/tierwall/controllers/crds"
)

func clusterCommand() *cli.Command {
	return &cli.Command{
		Name: "cluster", Usage: "look at a cluster as a whole", UsageText: "tierctl cluster diags [-o FILE]",
		Subcommands: []*cli.Command{{
			Name: "diags", Usage: "all that helps to understand a cluster, in one archive", UsageText: "tierctl cluster diags [--since DURATION] [--focus-nodes NODES] [-o FILE]",
			Description: "Policies and all that they are decided from (objects.yaml, which tierctl trace -f reads), reports, events, the agents and controllers with their\n" +
				"logs, CRDs, admission, nodes. It needs no kubectl. Secrets and values of variables are never collected, and what looks like a token, a\n" +
				"password or a key is left out. Exit status 3: the archive is there, and something could not be had.",
			Flags: []cli.Flag{
				&cli.DurationFlag{Name: "since", Usage: "only logs newer than `DURATION`, e.g. 30m (default: all)"},
				&cli.IntFlag{Name: "max-logs", Value: 5, Usage: "logs of no more than `N` agents, and of as many controllers"},
				&cli.IntFlag{Name: "max-parallelism", Value: 10, Usage: "`N` questions at once"},
				&cli.StringFlag{Name: "focus-nodes", Usage: "agents of these `NODES` first, with commas between them"},
				&cli.BoolFlag{Name: "skip-temp-dir-cleanup", Usage: "taken as calicoctl has it: there is no such folder, the archive is written at once"},
				agentsFlag(), archiveFlag(), datastoreFlag(),
			},
			Action: clusterDiags,
		}},
	}
}

func clusterDiags(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if c.Int("max-logs") < 0 || c.Int("max-parallelism") < 1 || c.Duration("since") < 0 {
		return usagef("--max-logs and --since are 0 or more, --max-parallelism is 1 or more")
	}
	k, err := openComponents(c)
	if err != nil {
		return err
	}
	list := metav1.ListOptions{}
	ours := metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=tierwall"}
	parts := []part{
		{"version.txt", func(context.Context) ([]byte, error) { return k.versions() }},
		{"status.json", func(context.Context) ([]byte, error) { return statusText(c) }},
		{"objects.yaml", func(context.Context) ([]byte, error) { return objectsText(c) }},
		{"crds.json", func(ctx context.Context) ([]byte, error) { return k.crdsText(ctx) }},
		{"nodes.yaml", text(func(ctx context.Context) (any, error) { return k.core.Nodes().List(ctx, list) })},
		{"events.yaml", text(func(ctx context.Context) (any, error) { return k.events(ctx) })},
		{"leases.yaml", text(func(ctx context.Context) (any, error) {
			return k.coordination.Leases("").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + controllers.Lease})
		})},
		{"admission/validating.yaml", text(func(ctx context.Context) (any, error) {
			return k.groups.admission.ValidatingWebhookConfigurations().List(ctx, list)
		})},
		{"admission/mutating.yaml", text(func(ctx context.Context) (any, error) {
			return k.groups.admission.MutatingWebhookConfigurations().List(ctx, list)
		})},
		{"admission/endpoints.yaml", text(func(ctx context.Context) (any, error) {
			return k.slices.EndpointSlices("").List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + admission.Name})
		})},
		{"workloads/daemonsets.yaml", text(func(ctx context.Context) (any, error) {
			l, err := k.apps.DaemonSets("").List(ctx, ours)
			for i := range l.Items {
				bare(&l.Items[i].ObjectMeta, &l.Items[i].Spec.Template.Spec)
			}
			return l, err
		})},
		{"workloads/deployments.yaml", text(func(ctx context.Context) (any, error) {
			l, err := k.apps.Deployments("").List(ctx, ours)
			for i := range l.Items {
				bare(&l.Items[i].ObjectMeta, &l.Items[i].Spec.Template.Spec)
			}
			return l, err
		})},
	}
	for _, component := range []string{"agent", "controller"} {
		parts = append(parts, k.workload(c, component)...)
	}
	return writeArchive(c, "cluster", parts, c.Int("max-parallelism"))
}

// text makes a part of what the API server says, as YAML.
func text(get func(context.Context) (any, error)) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		v, err := get(ctx)
		if err != nil {
			return nil, err
		}
		return yaml.Marshal(v)
	}
}

// bare takes away the values of variables, and the copy of them that kubectl keeps.
func bare(m *metav1.ObjectMeta, s *corev1.PodSpec) {
	delete(m.Annotations, corev1.LastAppliedConfigAnnotation)
	m.ManagedFields = nil
	for _, containers := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range containers {
			for j := range containers[i].Env {
				if e := &containers[i].Env[j]; e.Value != "" {
					e.Value = "(left out)"
				}
			}
		}
	}
	for i := range s.EphemeralContainers {
		s.EphemeralContainers[i].Env = nil
	}
}

// workload is the pods of one component: their list, and logs of some.
func (k *components) workload(c *cli.Context, component string) []part {
	name := "workloads/" + component + "-pods.yaml"
	pods, err := k.pods(c.Context, component)
	if err != nil {
		return []part{{name, func(context.Context) ([]byte, error) { return nil, err }}}
	}
	focus := strings.FieldsFunc(c.String("focus-nodes"), func(r rune) bool { return r == ',' || r == ' ' })
	slices.SortStableFunc(pods, func(a, b corev1.Pod) int { return logRank(focus, &a) - logRank(focus, &b) })
	var out []part
	for i := range pods {
		bare(&pods[i].ObjectMeta, &pods[i].Spec)
		if i < c.Int("max-logs") {
			out = append(out, k.logs(c, component, &pods[i])...)
		}
	}
	return append(out, part{name, text(func(context.Context) (any, error) { return corev1.PodList{Items: pods}, nil })})
}

// logRank of a pod whose log is wanted: those of the nodes in focus come first, then those that are not well.
func logRank(focus []string, p *corev1.Pod) int {
	switch {
	case slices.Contains(focus, p.Spec.NodeName):
		return 0
	case !ready(p):
		return 1
	}
	return 2
}

// logs of a pod's containers, and of those before them that have ended.
func (k *components) logs(c *cli.Context, component string, p *corev1.Pod) (out []part) {
	for _, s := range p.Status.ContainerStatuses {
		for _, previous := range []bool{false, true} {
			if previous && s.RestartCount == 0 {
				continue
			}
			most := int64(partSize)
			options := &corev1.PodLogOptions{Container: s.Name, Previous: previous, LimitBytes: &most, Timestamps: true}
			if since := int64(c.Duration("since") / time.Second); since > 0 {
				options.SinceSeconds = &since
			} else {
				lines := int64(100_000)
				options.TailLines = &lines
			}
			name := fmt.Sprintf("logs/%s/%s-%s%s.log", component, p.Spec.NodeName, p.Name, map[bool]string{true: "-previous"}[previous])
			out = append(out, part{name, func(ctx context.Context) ([]byte, error) {
				from, err := k.core.Pods(p.Namespace).GetLogs(p.Name, options).Stream(ctx)
				if err != nil {
					return nil, err
				}
				defer from.Close()
				return io.ReadAll(io.LimitReader(from, partSize))
			}})
		}
	}
	return out
}

func (k *components) versions() ([]byte, error) {
	server, err := k.server.ServerVersion()
	if err != nil {
		return versionsText(), err
	}
	return fmt.Appendf(versionsText(), "\nKubernetes %s (%s)\n", server.GitVersion, server.Platform), nil
}

func statusText(c *cli.Context) ([]byte, error) {
	v, err := statusOfAll(c)
	if err != nil {
		return nil, err
	}
	return json.MarshalIndent(v, "", "  ")
}

// objectsText is all that agents decide from, as they keep it: of pods and nodes, no more than that takes.
func objectsText(c *cli.Context) ([]byte, error) {
	objs, err := storedObjects(c)
	var b bytes.Buffer
	for _, o := range objs {
		o.SetManagedFields(nil)
		annotations := o.GetAnnotations()
		delete(annotations, corev1.LastAppliedConfigAnnotation)
		o.SetAnnotations(annotations)
		text, failed := yaml.Marshal(o)
		err = errors.Join(err, failed)
		fmt.Fprintf(&b, "---\n%s", text)
	}
	return b.Bytes(), err
}

func (k *components) crdsText(ctx context.Context) ([]byte, error) {
	cluster, err := crds.Open(k.config)
	if err != nil {
		return nil, err
	}
	findings, err := cluster.Check(ctx)
	if err != nil {
		return nil, err
	}
	return json.MarshalIndent(findings, "", "  ")
}

// events of our components and of our objects.
func (k *components) events(ctx context.Context) (*corev1.EventList, error) {
	all, err := k.core.Events("").List(ctx, metav1.ListOptions{Limit: 10_000})
	if err != nil {
		return nil, err
	}
	all.Items = slices.DeleteFunc(all.Items, func(e corev1.Event) bool {
		about := e.InvolvedObject
		return !strings.HasPrefix(about.Name, "tierwall") && e.ReportingController != controllers.Lease &&
			!strings.HasPrefix(about.APIVersion, "projectcalico.org/") && !strings.HasPrefix(about.APIVersion, "tierwall.io/")
	})
	return all, nil
}
