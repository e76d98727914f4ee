package scenario

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Short reads the short form of who is there:
//
//	node NAME ADDRESS,…
//	namespace NAME LABEL=VALUE …
//	serviceaccount NAMESPACE/NAME LABEL=VALUE …
//	pod NAMESPACE/NAME NODE ADDRESS,… LABEL=VALUE … [account:NAME] [port:NAME/PROTOCOL/NUMBER] [hostNetwork]
func Short(text string) (out []client.Object, err error) {
	for i, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		obj, err := clusterObject(words)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		out = append(out, obj)
	}
	return out, nil
}

func clusterObject(words []string) (client.Object, error) {
	if len(words) < 2 {
		return nil, fmt.Errorf("%q says too little", strings.Join(words, " "))
	}
	switch kind, name, rest := words[0], words[1], words[2:]; {
	case kind == "node" && len(rest) == 1:
		return Node(name, strings.Split(rest[0], ",")...), nil
	case kind == "namespace":
		return Namespace(name, labels(rest)), nil
	case kind == "serviceaccount":
		namespace, name, _ := strings.Cut(name, "/")
		return ServiceAccount(namespace, name, labels(rest)), nil
	case kind == "pod" && len(rest) >= 2:
		namespace, name, _ := strings.Cut(name, "/")
		p := Pod(namespace, name, rest[0], strings.Split(rest[1], ","), labels(rest[2:]))
		return p, podExtras(p, rest[2:])
	}
	return nil, fmt.Errorf("%q is none of the short forms", strings.Join(words, " "))
}

func labels(words []string) map[string]string {
	out := map[string]string{}
	for _, w := range words {
		if k, v, ok := strings.Cut(w, "="); ok {
			out[k] = v
		}
	}
	return out
}

func podExtras(p *corev1.Pod, words []string) error {
	for _, w := range words {
		key, value, _ := strings.Cut(w, ":")
		switch {
		case strings.Contains(w, "="):
		case key == "hostNetwork":
			p.Spec.HostNetwork = true
		case key == "account":
			p.Spec.ServiceAccountName = value
		case key == "port":
			parts := strings.Split(value, "/")
			if len(parts) != 3 {
				return fmt.Errorf("%q is not port:NAME/PROTOCOL/NUMBER", w)
			}
			n, err := strconv.ParseInt(parts[2], 10, 32)
			if err != nil {
				return fmt.Errorf("%q: %w", w, err)
			}
			c := &p.Spec.Containers[0]
			c.Ports = append(c.Ports, corev1.ContainerPort{Name: parts[0], Protocol: corev1.Protocol(parts[1]), ContainerPort: int32(n)})
		default:
			return fmt.Errorf("%q says nothing about a pod", w)
		}
	}
	return nil
}

func core(kind string) metav1.TypeMeta { return metav1.TypeMeta{APIVersion: "v1", Kind: kind} }

// Node with its internal addresses.
func Node(name string, addrs ...string) *corev1.Node {
	n := &corev1.Node{TypeMeta: core("Node"), ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, a := range addrs {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

// Namespace with its labels, and with the one that Kubernetes gives each.
func Namespace(name string, labels map[string]string) *corev1.Namespace {
	labels["kubernetes.io/metadata.name"] = name
	return &corev1.Namespace{TypeMeta: core("Namespace"), ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// ServiceAccount with its labels.
func ServiceAccount(namespace, name string, labels map[string]string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{TypeMeta: core("ServiceAccount"), ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}}
}

// Pod that runs.
func Pod(namespace, name, node string, addrs []string, labels map[string]string) *corev1.Pod {
	p := &corev1.Pod{TypeMeta: core("Pod"), ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}}
	p.Spec.NodeName = node
	p.Spec.Containers = []corev1.Container{{Name: "main", Image: "example"}}
	p.Status.Phase = corev1.PodRunning
	p.Status.PodIP = addrs[0]
	for _, a := range addrs {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a})
	}
	return p
}
