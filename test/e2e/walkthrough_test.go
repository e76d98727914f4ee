//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"
)

const (
	n1 = "n1" // its pods hang on a bridge
	n2 = "n2" // its pods are routed
)

// backendPolicy is walk-through A's to C's, with an ingress.
func backendPolicy(ingress string) string {
	return `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: backend-policy, namespace: development}
spec:
  podSelector: {matchLabels: {app: webapp, role: backend}}
  policyTypes: [Ingress]
  ingress: ` + ingress + "\n"
}

const backendService = `---
apiVersion: v1
kind: Service
metadata: {name: backend, namespace: development}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: webapp, role: backend}
  ports: [{port: 80}]
`

// Walk-throughs A to C: deny all inbound, allow by label, only from one namespace. Clients stand on the server's node and on the other,
// and go to the pod and through its Service, in both families.
func TestWalkthroughsAToC(t *testing.T) {
	s := begin(t)
	s.apply(namespace("development", "purpose=development") + namespace("production", "purpose=production") + backendService +
		pod("development", "backend1", n1, "app=webapp", "role=backend") + pod("development", "backend2", n2, "app=webapp", "role=backend") +
		pod("development", "friend1", n1, "app=webapp", "role=frontend") + pod("development", "friend2", n2, "app=webapp", "role=frontend") +
		pod("development", "stranger1", n1, "app=other") + pod("development", "stranger2", n2, "app=other") +
		pod("production", "friend1", n1, "app=webapp", "role=frontend") + pod("production", "friend2", n2, "app=webapp", "role=frontend"))
	s.running("production")
	pods := s.running("development")
	to := slices.Concat(pods["backend1"], pods["backend2"],
		strings.Fields(s.kubectl("-n", "development", "get", "service", "backend", "-o", "jsonpath={.spec.clusterIPs[0]} {.spec.clusterIPs[1]}")))
	if len(to) != 6 {
		t.Fatalf("the backend is at %v", to)
	}
	flows := func(friends, strangers, production outcome) (out []flow) {
		for who, want := range map[string]outcome{"development/friend": friends, "development/stranger": strangers, "production/friend": production} {
			for _, node := range []string{"1", "2"} {
				out = append(out, flow{who + node, "tcp", to, "80", want})
			}
		}
		return out
	}
	s.expect("no policy", flows(answered, answered, answered)...)
	s.apply(backendPolicy(`[]`))
	s.expect("A", flows(nothing, nothing, nothing)...)
	s.apply(backendPolicy(`[{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: webapp, role: frontend}}}]}]`))
	s.expect("B", flows(answered, nothing, answered)...)
	s.apply(backendPolicy(`[{from: [{namespaceSelector: {matchLabels: {purpose: development}}, podSelector: {matchLabels: {app: webapp, role: frontend}}}]}]`))
	s.expect("C", flows(answered, nothing, nothing)...)
}

// Walk-through D: a running client gets the label that the policy asks for, and another policy's client loses it.
func TestWalkthroughDLabelARunningClient(t *testing.T) {
	s := begin(t)
	s.apply(namespace("demo") + pod("demo", "server", n1, "app=server") + pod("demo", "client", n2, "app=nothing") + pod("demo", "beside", n1, "app=nothing"))
	to := s.running("demo")["server"]
	s.apply(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: demo-policy, namespace: demo}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{protocol: TCP, port: 80}]}]
`)
	s.expect("before", shuts("demo/client", to...), shuts("demo/beside", to...))
	for _, client := range []string{"client", "beside"} {
		s.kubectl("-n", "demo", "label", "pod", client, "app=client", "--overwrite")
	}
	s.expect("labelled", opens("demo/client", to...), opens("demo/beside", to...), flow{"demo/client", "tcp", to, "8080", nothing}, flow{"demo/client", "udp", to, "80", nothing})
	s.kubectl("-n", "demo", "label", "pod", "client", "app-")
	s.expect("and no more", shuts("demo/client", to...), opens("demo/beside", to...))
}

// Walk-through E: frontends of the same namespace, and no others.
func TestWalkthroughESameNamespaceOnly(t *testing.T) {
	s := begin(t)
	s.apply(namespace("shop") + namespace("other") + pod("shop", "backend", n2, "app=backend") + pod("shop", "frontend", n1, "app=frontend") +
		pod("shop", "passer-by", n2, "app=x") + pod("other", "frontend", n1, "app=frontend"))
	s.running("other")
	to := s.running("shop")["backend"]
	s.apply(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: backend-policy, namespace: shop}
spec:
  podSelector: {matchLabels: {app: backend}}
  ingress: [{from: [{podSelector: {matchLabels: {app: frontend}}}]}]
`)
	s.expect("E", opens("shop/frontend", to...), shuts("shop/passer-by", to...), shuts("other/frontend", to...))
}

// Walk-through F: a bastion guards the nodes. Host endpoints are made by the controller; who is not the bastion does not reach a port
// that is no failsafe port, and the cluster goes on.
func TestWalkthroughFBastion(t *testing.T) {
	s := begin(t)
	hub := strings.Fields(s.command(s.Command(t.Context(), "sh", "-c", "ip -4 -o addr show scope global | awk '{print $4}'"), ""))
	bastion, _, _ := strings.Cut(hub[0], "/")
	s.apply(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: host-server, namespace: default}
spec:
  selector: {matchLabels: {app: host-server}}
  template:
    metadata: {labels: {app: host-server}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 1
      containers:
      - {name: pod, image: "tierwall.test/pod:1", imagePullPolicy: Never, args: [serve, -tcp, "2222,80", -udp, ""]}
`)
	s.kubectl("rollout", "status", "daemonset/host-server", "--timeout=60s")
	var v4 []string
	for _, n := range s.Nodes {
		v4 = append(v4, n.Addrs[0].String())
	}
	s.expect("nothing is guarded", flow{"", "tcp", v4, "2222", answered}, flow{"node/n1", "tcp", v4[1:], "2222", answered})
	s.tierctlApply(`
apiVersion: projectcalico.org/v3
kind: KubeControllersConfiguration
metadata: {name: default}
spec: {controllers: {node: {hostEndpoint: {autoCreate: Enabled}}}}
`)
	s.eventually("automatic host endpoints", func() bool {
		out := s.tierctlRun("", "get", "hostendpoint", "-o", "name")
		return strings.Contains(out, "n1-auto-hep") && strings.Contains(out, "n2-auto-hep")
	})
	s.expect("host endpoints alone change nothing", flow{"", "tcp", v4, "2222", answered}, flow{"node/n1", "tcp", v4[1:], "2222", answered})
	s.tierctlApply(`
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: management, labels: {net: management}}
spec: {nets: ["` + bastion + `/32"]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: bastion}
spec:
  order: 10
  selector: has(projectcalico.org/created-by)
  types: [Ingress]
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: net == 'management'}, destination: {ports: [2222]}}
  - {action: Deny, protocol: TCP, destination: {ports: [2222]}}
  - {action: Allow}
`)
	s.kubectl("wait", "--for=condition=Programmed", "globalnetworkpolicies.projectcalico.org/bastion", "--timeout=30s")
	s.expect("F", flow{"", "tcp", v4, "2222", answered}, flow{"node/n1", "tcp", v4[1:], "2222", nothing}, flow{"node/n2", "tcp", v4[:1], "2222", nothing},
		flow{"node/n1", "tcp", v4[1:], "80", answered})
	shown := s.kubectl("get", "gnp,tier,hep,gns", "-o", "wide")
	if !strings.Contains(shown, "PROGRAMMED") || !strings.Contains(shown, "on 2 of 2 nodes") {
		t.Errorf("kubectl shows %s", shown)
	}
	t.Log(shown + s.kubectl("describe", "gnp", "bastion"))
	s.kubectl("get", "nodes") // the nodes still reach their API server
	if got := s.kubectl("get", "nodereports.tierwall.io", "-o", "jsonpath={.items[*].status.conditions[0].status}"); got != "True True" {
		t.Errorf("the nodes report %q", got)
	}
}

// Walk-through G: security staff write global policy with tierctl, application teams write theirs with kubectl; both hold, in tier order.
func TestWalkthroughGTiers(t *testing.T) {
	s := begin(t)
	s.apply(namespace("app") + pod("app", "db", n1, "role=db") + pod("app", "web", n2, "role=web") + pod("app", "scanner", n2, "role=scanner"))
	to := s.running("app")["db"]
	s.apply(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: app}
spec: {podSelector: {matchLabels: {role: db}}, ingress: [{from: [{podSelector: {}}], ports: [{protocol: TCP, port: 80}]}]}
`)
	s.expect("the team's policy", opens("app/web", to...), opens("app/scanner", to...), flow{"app/web", "tcp", to, "8080", nothing})
	s.tierctlApply(`
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 100}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.no-scanners}
spec:
  tier: security
  order: 10
  namespaceSelector: kubernetes.io/metadata.name == 'app'
  types: [Ingress]
  ingress:
  - {action: Deny, source: {selector: role == 'scanner'}}
  - {action: Pass}
`)
	s.kubectl("wait", "--for=condition=Programmed", "globalnetworkpolicies.projectcalico.org/security.no-scanners", "--timeout=30s")
	// what is programmed is in force at once
	s.now("programmed", opens("app/web", to...), shuts("app/scanner", to...), flow{"app/web", "tcp", to, "8080", nothing})
	if out := s.tierctlRun("", "trace", "--from", "app/scanner", "--to", "app/db", "--port", "80"); !strings.Contains(out, "security.no-scanners") {
		t.Errorf("trace says %s", out)
	}
	tiers := s.kubectl("get", "tiers.projectcalico.org", "-o", "name")
	for _, want := range []string{"security", "default", "kube-admin", "kube-baseline"} {
		if !slices.Contains(strings.Fields(tiers), "tier.projectcalico.org/"+want) {
			t.Errorf("no tier %s in %s", want, tiers)
		}
	}
}
