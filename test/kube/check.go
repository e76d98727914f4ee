package kube

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

//go:embed check.yaml
var checkObjects []byte

// Check tries what tests rely on, in the namespace default: pods of each shape start, all pairs of pods reach each other without source
// NAT, services are reached from pods and from outside, all in both families; logs and exec work.
func (c *Cluster) Check(ctx context.Context) error {
	begun := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, 2*patience, errors.New("the check takes too long"))
	defer cancel()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"objects", c.checkObjects}, {"pods", c.checkPods}, {"ways", c.checkWays}, {"logs and exec", c.checkKubelets},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("checking %s: %w", step.what, err)
		}
		c.log("%.1fs %s are as they should be", time.Since(begun).Seconds(), step.what)
	}
	return nil
}

func (c *Cluster) checkObjects(ctx context.Context) error {
	cmd := c.Kubectl(ctx, "apply", "--filename", "-")
	cmd.Stdin = bytes.NewReader(checkObjects)
	_, err := output(cmd)
	return err
}

func (c *Cluster) checkPods(ctx context.Context) error {
	for _, args := range [][]string{
		{"wait", "--for=condition=Ready", "pods", "--selector", "app=check", "--timeout=60s"},
		{"rollout", "status", "daemonset/agent", "--timeout=60s"},
		{"rollout", "status", "deployment/controller", "--timeout=60s"},
	} {
		if _, err := output(c.Kubectl(ctx, args...)); err != nil {
			return err
		}
	}
	return nil
}

// way is from a pod, or from outside, to somewhere that says who has asked.
type way struct {
	from          string // a pod, or nobody
	proto, to, on string
	answers, sees string // the pod that answers and the address that it sees, where we know them
}

func (c *Cluster) checkWays(ctx context.Context) error {
	pods, err := c.client.CoreV1().Pods(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{LabelSelector: "app=check"})
	if err != nil {
		return err
	}
	service, err := c.client.CoreV1().Services(metav1.NamespaceDefault).Get(ctx, "check", metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, w := range c.ways(pods.Items, service) {
		if err := c.await(ctx, fmt.Sprintf("%+v", w), func(ctx context.Context) error { return c.try(ctx, w) }); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) ways(pods []corev1.Pod, service *corev1.Service) (ways []way) {
	for _, proto := range []string{"tcp", "udp"} {
		for family := range controlPlane {
			for _, from := range pods {
				sees := from.Status.PodIPs[family].IP
				for _, to := range pods {
					ways = append(ways, way{from.Name, proto, to.Status.PodIPs[family].IP, "80", to.Name, sees})
				}
				ways = append(ways, way{from.Name, proto, service.Spec.ClusterIPs[family], "80", "", ""})
			}
			for _, n := range c.Nodes {
				ways = append(ways, way{proto: proto, to: n.Addrs[family].String(), on: "30080"})
			}
		}
	}
	return ways
}

func (c *Cluster) try(ctx context.Context, w way) error {
	cmd := c.Command(ctx, c.PodProgram, "probe", w.proto, w.to, w.on)
	if w.from != "" {
		var err error
		if cmd, err = c.PodCommand(ctx, metav1.NamespaceDefault, w.from, c.PodProgram, "probe", w.proto, w.to, w.on); err != nil {
			return err
		}
	}
	answer, err := output(cmd)
	if err != nil {
		return err
	}
	said := strings.Fields(answer)
	client, _, err := net.SplitHostPort(said[1])
	if err != nil || w.answers != "" && said[0] != w.answers || w.sees != "" && client != w.sees {
		return fmt.Errorf("the answer is %q", answer)
	}
	return nil
}

func (c *Cluster) checkKubelets(ctx context.Context) error {
	for _, pod := range []string{"a1", "b1"} {
		for _, args := range [][]string{
			{"logs", pod}, {"exec", pod, "--", "/pod", "probe", "tcp", "127.0.0.1", "80"}, {"exec", pod, "--", "/pod", "probe", "tcp", "::1", "8080"},
		} {
			answer, err := output(c.Kubectl(ctx, args...))
			if err != nil {
				return fmt.Errorf("kubectl %q: %w", args, err)
			}
			if !slices.Contains(strings.Fields(answer), pod) {
				return fmt.Errorf("kubectl %q says %q", args, answer)
			}
		}
	}
	return nil
}

// output of a command; an error carries what it said of it.
func output(cmd *exec.Cmd) (string, error) {
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, said.Bytes())
	}
	return out.String(), nil
}
