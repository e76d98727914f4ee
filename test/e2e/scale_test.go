//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// usage is what an agent has used.
type usage struct {
	at            time.Time
	cpu, resident float64 // seconds, bytes
}

// agentUsage asks the agents themselves.
func (t *test) agentUsage() (all []usage) {
	t.Helper()
	names := t.kubectl("-n", "tierwall-system", "get", "pods", "-l", "app.kubernetes.io/component=agent", "-o", "jsonpath={.items[*].metadata.name}")
	for _, name := range strings.Fields(names) {
		u := usage{at: time.Now()}
		text := t.kubectl("get", "--raw", "/api/v1/namespaces/tierwall-system/pods/"+name+":9790/proxy/metrics")
		for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
			key, value, _ := strings.Cut(lines.Text(), " ")
			n, _ := strconv.ParseFloat(value, 64) // a comment is no number
			switch key {
			case "process_cpu_seconds_total":
				u.cpu = n
			case "process_resident_memory_bytes":
				u.resident = n
			}
		}
		all = append(all, u)
	}
	return all
}

// rest measures the agents for a while in which nothing happens: megabytes, and thousandths of a core.
func (t *test) rest(b *testing.B, what string) {
	before := t.agentUsage()
	time.Sleep(30 * time.Second) // what is measured is that nothing happens
	for i, now := range t.agentUsage() {
		b.ReportMetric(now.resident/1e6, fmt.Sprintf("MB-%s-%d", what, i+1))
		b.ReportMetric(1000*(now.cpu-before[i].cpu)/now.at.Sub(before[i].at).Seconds(), fmt.Sprintf("mcore-%s-%d", what, i+1))
	}
}

// Agents beside 10,000 pods of other nodes, which exist only in the API, under 100 policies that find them: memory and CPU at rest, and what
// it took to come there.
func BenchmarkTenThousandPods(b *testing.B) {
	const pods, nodes, namespaces = 10_000, 50, 20
	s := begin(b)
	config := rest.CopyConfig(s.Config)
	config.QPS, config.Burst = -1, 0
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		b.Fatal(err)
	}
	s.rest(b, "idle")
	before := s.agentUsage()
	begun := time.Now()
	ctx := context.Background()
	var objects strings.Builder
	for i := range nodes {
		fmt.Fprintf(&objects, "---\n{apiVersion: v1, kind: Node, metadata: {name: sim-%d, labels: {type: virtual-kubelet}}}\n", i)
	}
	for i := range namespaces {
		objects.WriteString(namespace(fmt.Sprintf("sim-%d", i)))
	}
	for i := range 100 {
		fmt.Fprintf(&objects, "---\n{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p%d, namespace: sim-%d}, spec: {podSelector: {}, "+
			"ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: app-%d}}}]}]}}\n", i, i%namespaces, i)
	}
	s.apply(objects.String())
	var running sync.WaitGroup
	failed := make(chan error, 16)
	for worker := range 16 {
		running.Go(func() {
			for i := worker; i < pods; i += 16 {
				if err := simulate(ctx, client, i, nodes, namespaces); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	running.Wait()
	select {
	case err := <-failed:
		b.Fatal(err)
	default:
	}
	took := time.Since(begun)
	for i, now := range s.agentUsage() {
		b.ReportMetric(now.cpu-before[i].cpu, fmt.Sprintf("cpu-s-coming-%d", i+1))
	}
	b.ReportMetric(took.Seconds(), "s-coming")
	s.rest(b, "10k")
}

// simulate a pod that runs on a node that is none.
func simulate(ctx context.Context, client kubernetes.Interface, i, nodes, namespaces int) error {
	ns, name := fmt.Sprintf("sim-%d", i%namespaces), fmt.Sprintf("pod-%d", i)
	no := false
	_, err := client.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": fmt.Sprintf("app-%d", i%200), "tier": "x"}},
		Spec: corev1.PodSpec{NodeName: fmt.Sprintf("sim-%d", i%nodes), AutomountServiceAccountToken: &no, Containers: []corev1.Container{{Name: "c", Image: "none",
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}}}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	ip := fmt.Sprintf("10.200.%d.%d", i/250, i%250+1)
	_, err = client.CoreV1().Pods(ns).Patch(ctx, name, types.MergePatchType,
		[]byte(`{"status":{"phase":"Running","podIP":"`+ip+`","podIPs":[{"ip":"`+ip+`"}]}}`), metav1.PatchOptions{}, "status")
	return err
}
