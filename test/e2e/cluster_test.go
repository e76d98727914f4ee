//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tierwall/tierwall/test/kube"
)

// Installing changes no verdict: what reached what before does so now, and nobody is selected by anything.
func TestInstalledWithoutPolicy(t *testing.T) {
	s := begin(t)
	s.apply(namespace("quiet") + pod("quiet", "a", n1, "x=z") + pod("quiet", "b", n2, "x=z"))
	pods := s.running("quiet")
	var v4 []string
	for _, n := range s.Nodes {
		v4 = append(v4, n.Addrs[0].String())
	}
	s.expect("pods, nodes and outside", opens("quiet/a", pods["b"]...), opens("quiet/b", pods["a"]...), opens("", pods["a"]...), opens("", pods["b"]...),
		opens("node/n1", pods["a"]...), opens("node/n1", pods["b"]...), flow{"quiet/a", "tcp", v4, "10250", answered}, flow{"quiet/b", "tcp", []string{"10.96.0.1"}, "443", answered})
	reports := s.kubectl("get", "nodereports.tierwall.io", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.policies} {.status.conditions[0].status}{"\n"}{end}`)
	if reports != "n1 0 True\nn2 0 True\n" {
		t.Errorf("the nodes report %q", reports)
	}
}

// Pods come and go under a policy, twenty at a time, two hundred in all: as soon as one is there it is guarded, and its guard goes with it.
func TestPodChurn(t *testing.T) {
	s := begin(t)
	s.apply(namespace("churn") + pod("churn", "friend", n1, "role=friend") + pod("churn", "stranger", n2, "role=stranger") + `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: servers, namespace: churn}
spec: {podSelector: {matchLabels: {role: server}}, ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]}
`)
	s.running("churn")
	const waves, size = 10, 20
	for wave := range waves {
		var objects strings.Builder
		for i := range size {
			objects.WriteString(pod("churn", fmt.Sprintf("server-%d-%d", wave, i), []string{n1, n2}[i%2], "role=server", fmt.Sprintf("wave=w%d", wave)))
		}
		s.command(s.Kubectl(t.Context(), "apply", "-f", "-"), objects.String())
		pods := s.running("churn")
		var to []string
		for name, addrs := range pods {
			if strings.HasPrefix(name, fmt.Sprintf("server-%d-", wave)) {
				to = append(to, addrs...)
			}
		}
		if len(to) != 2*size {
			t.Fatalf("%d pods have %d addresses", size, len(to))
		}
		s.expect(fmt.Sprintf("wave %d", wave), opens("churn/friend", to...), shuts("churn/stranger", to...))
		s.kubectl("-n", "churn", "delete", "pod", "-l", fmt.Sprintf("wave=w%d", wave), "--wait=true", "--timeout=60s")
	}
	s.eventually("the agents guard what is left", func() bool {
		out := s.kubectl("get", "nodereports.tierwall.io", "-o", "jsonpath={.items[*].status.endpoints}")
		counts := strings.Fields(out)
		return len(counts) == 2 && !slices.ContainsFunc(counts, func(n string) bool { return len(n) > 1 })
	})
}

// Services, as kube-proxy has them: egress policy sees the pod behind a service, whichever address the client used, and a NodePort's pod
// is guarded from outside.
func TestServices(t *testing.T) {
	s := begin(t)
	s.apply(namespace("svc") + pod("svc", "one", n1, "app=one") + pod("svc", "two", n2, "app=two") + pod("svc", "client1", n1, "role=client") + pod("svc", "client2", n2, "role=client") + `---
apiVersion: v1
kind: Service
metadata: {name: one, namespace: svc}
spec: {type: NodePort, externalTrafficPolicy: Local, ipFamilyPolicy: RequireDualStack, selector: {app: one}, ports: [{port: 8000, targetPort: http, nodePort: 30081}]}
---
apiVersion: v1
kind: Service
metadata: {name: two, namespace: svc}
spec: {type: NodePort, externalTrafficPolicy: Local, ipFamilyPolicy: RequireDualStack, selector: {app: two}, ports: [{port: 8000, targetPort: 80, nodePort: 30082}]}
`)
	s.running("svc")
	at := func(name string) []string {
		return strings.Fields(s.kubectl("-n", "svc", "get", "service", name, "-o", "jsonpath={.spec.clusterIPs[0]} {.spec.clusterIPs[1]}"))
	}
	one, two := at("one"), at("two")
	var n1Addrs, n2Addrs []string
	for _, a := range s.Nodes[0].Addrs {
		n1Addrs = append(n1Addrs, a.String())
	}
	for _, a := range s.Nodes[1].Addrs {
		n2Addrs = append(n2Addrs, a.String())
	}
	flows := func(toOne, toTwo, outside outcome) []flow {
		return []flow{{"svc/client1", "tcp", one, "8000", toOne}, {"svc/client2", "tcp", one, "8000", toOne},
			{"svc/client1", "tcp", two, "8000", toTwo}, {"svc/client2", "tcp", two, "8000", toTwo},
			{"", "tcp", n1Addrs, "30081", outside}, {"", "tcp", n2Addrs, "30082", outside}}
	}
	s.expect("no policy", flows(answered, answered, answered)...)
	s.apply(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: clients, namespace: svc}
spec: {podSelector: {matchLabels: {role: client}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: one}}}], ports: [{protocol: TCP, port: http}]}]}
`)
	s.expect("egress to one service's pods", flows(answered, nothing, answered)...)
	s.apply(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: servers, namespace: svc}
spec: {podSelector: {matchExpressions: [{key: app, operator: Exists}]}, ingress: [{from: [{podSelector: {}}]}]}
`)
	s.expect("and no ingress from outside", flows(answered, nothing, nothing)...)
	s.tierctlApply(`
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: to-two, namespace: svc}
spec:
  order: 1
  selector: role == 'client'
  types: [Egress]
  egress: [{action: Allow, destination: {services: {name: two}}}]
`)
	s.expect("and a rule that names the other service", flows(answered, answered, nothing)...)
}

// An agent that is killed, or is away, leaves the node guarded; the next takes over what it finds.
func TestAgentRestarts(t *testing.T) {
	s := begin(t)
	s.apply(namespace("held") + pod("held", "server", n1, "app=server") + pod("held", "routed", n2, "app=server") + pod("held", "friend", n2, "role=friend") + pod("held", "stranger", n1, "role=x"))
	pods := s.running("held")
	to := slices.Concat(pods["server"], pods["routed"])
	s.tierctlApply(`
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: held}
spec:
  selector: app == 'server' && projectcalico.org/namespace == 'held'
  ingress: [{action: Allow, source: {selector: role == 'friend'}}]
`)
	s.kubectl("wait", "--for=condition=Programmed", "gnp/held", "--timeout=30s")
	flows := []flow{opens("held/friend", to...), shuts("held/stranger", to...)}
	s.now("programmed", flows...)
	ctx, stop := context.WithCancel(t.Context())
	wrong := make(chan string, 1)
	go func() { // all the while
		for ctx.Err() == nil {
			if got := s.try("held/stranger", "tcp", pods["server"][0], "80", short); got != nothing && ctx.Err() == nil {
				wrong <- string(got)
				return
			}
		}
		wrong <- ""
	}()
	s.kubectl("-n", "tierwall-system", "delete", "pod", "-l", "app.kubernetes.io/component=agent", "--grace-period=0", "--force")
	s.now("no agent", flows...)
	s.kubectl("-n", "tierwall-system", "rollout", "status", "daemonset/tierwall-agent", "--timeout=60s")
	s.now("the next agent", flows...)
	stop()
	if got := <-wrong; got != "" {
		t.Errorf("while the agents changed the stranger got through once: %s", got)
	}
}

// What cannot be enforced as written, and got past admission, says so on the object, in an Event, and fails closed.
func TestPeopleAreTold(t *testing.T) {
	s := begin(t)
	s.withoutWebhook()
	s.apply(`
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: broken}
spec: {selector: "app ==", ingress: [{action: Allow}]}
`)
	s.kubectl("wait", "--for=condition=Accepted=false", "gnp/broken", "--timeout=30s")
	s.eventually("an Event", func() bool { return strings.Contains(s.kubectl("describe", "gnp", "broken"), "AcceptedInvalid") })
	described := s.kubectl("describe", "gnp", "broken")
	for _, want := range []string{"spec.selector", "Warning", "Programmed"} {
		if !strings.Contains(described, want) {
			t.Errorf("kubectl describe has no %q:\n%s", want, described)
		}
	}
}

// A node whose pods report nothing is no node that enforces: a Node without an agent keeps a policy from being Programmed, and once the Node
// is gone it is.
func TestNodeWithoutAnAgent(t *testing.T) {
	s := begin(t)
	s.apply(`
apiVersion: v1
kind: Node
metadata: {name: bare, labels: {kubernetes.io/os: linux}}
`)
	s.tierctlApply(`
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: everywhere}
spec: {selector: none == 'x', ingress: [{action: Allow}]}
`)
	s.eventually("it waits for the third", func() bool {
		return strings.Contains(s.kubectl("get", "gnp", "everywhere", "-o", "jsonpath={.status.conditions[?(@.type=='Programmed')].message}"), "on 2 of 3 nodes; not yet on bare")
	})
	s.kubectl("delete", "node", "bare")
	s.kubectl("wait", "--for=condition=Programmed", "gnp/everywhere", "--timeout=30s")
}

// ClusterNetworkPolicy's CRD is another project's and comes later; its policies are in force from then on, before every NetworkPolicy.
func TestClusterNetworkPolicy(t *testing.T) {
	s := begin(t)
	text, err := kube.ClusterNetworkPolicyCRD(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.apply(namespace("cnp") + pod("cnp", "server", n1, "app=server") + pod("cnp", "client", n2, "app=client"))
	to := s.running("cnp")["server"]
	s.expect("before", opens("cnp/client", to...))
	s.command(s.Kubectl(t.Context(), "apply", "--server-side", "-f", "-"), string(text))
	s.kubectl("wait", "--for=condition=Established", "crd/clusternetworkpolicies.policy.networking.k8s.io", "--timeout=30s")
	s.apply(`
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: no-clients}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: cnp}}}
  ingress:
  - {name: clients, action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}}]}
`)
	s.expect("in force", shuts("cnp/client", to...))
	s.kubectl("wait", "--for=condition=Programmed", "clusternetworkpolicies.policy.networking.k8s.io/no-clients", "--timeout=30s")
}
