package churn

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/controllers/store"
)

// parse reads objects as tierctl does.
func parse(yaml string) (out []client.Object, err error) {
	for _, d := range store.Read([]string{"-"}, store.ReadOptions{Stdin: strings.NewReader(yaml)}) {
		if len(d.Errors) > 0 {
			return nil, fmt.Errorf("line %d: %v", d.Line, d.Errors)
		}
		out = append(out, d.Object)
	}
	return out, nil
}

// standing is what stays: the pods that packets go between, and an outside that policies know by name.
const standing = `
apiVersion: v1
kind: Namespace
metadata: {name: a}
---
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: a, labels: {client: "yes", role: front}}
spec: {nodeName: n1, containers: [{name: c, image: example}]}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: two, namespace: a, labels: {server: "yes"}}
spec: {nodeName: n1, containers: [{name: c, image: example}]}
status: {podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: three, namespace: a, labels: {server: "yes"}}
spec: {nodeName: n2, containers: [{name: c, image: example}]}
status: {podIP: 10.0.1.1, podIPs: [{ip: 10.0.1.1}, {ip: "fd00::1:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: four, namespace: a, labels: {server: "yes"}}
spec: {nodeName: n2, containers: [{name: c, image: example}]}
status: {podIP: 10.0.1.2, podIPs: [{ip: 10.0.1.2}, {ip: "fd00::1:2"}]}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: "2001:db8::1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}, {type: InternalIP, address: "2001:db8::2"}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: outside, labels: {zone: outside}}
spec: {nets: [198.51.100.0/24, "2001:db8:f::/48"]}
`

// policies are two ways to say the same of the flows: by other tiers, other rules and other sets. Both deny the flows that are
// denied where the other does, coming in or going out: a packet between two hooks while the policies change is judged by the old
// ones at one and by the new ones at the other, as any kernel does it.
var policies = [2]string{`
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: alpha}
spec: {order: 100}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: alpha.in}
spec:
  tier: alpha
  selector: has(server)
  types: [Ingress]
  ingress:
  - {action: Allow, protocol: UDP, source: {selector: client == 'yes'}, destination: {ports: [7000, 7002]}}
  - {action: Allow, protocol: TCP, source: {selector: client == 'yes'}, destination: {ports: [7000, 7003]}}
  - {action: Allow, protocol: UDP, source: {selector: zone == 'outside'}, destination: {ports: [7000]}}
  - {action: Allow, protocol: TCP, source: {selector: zone == 'outside'}, destination: {ports: [7000, 7003]}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: alpha.out}
spec:
  tier: alpha
  selector: has(client)
  types: [Egress]
  egress:
  - {action: Deny, protocol: UDP, destination: {ports: [7002]}}
  - {action: Allow}
`, `
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: beta}
spec: {order: 50}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: beta.in}
spec:
  tier: beta
  selector: server == 'yes'
  types: [Ingress]
  ingress:
  - {action: Deny, protocol: UDP, source: {selector: "role in {'front', 'back'}"}, destination: {ports: [7001]}}
  - {action: Deny, protocol: TCP, source: {notNets: [203.0.113.0/24]}, destination: {ports: [7001]}, ipVersion: 4}
  - {action: Deny, protocol: TCP, source: {notNets: ["2001:db8:1::/48"]}, destination: {ports: [7001]}, ipVersion: 6}
  - {action: Deny, protocol: UDP, source: {selector: has(zone)}, destination: {ports: ["7001:7002"]}}
  - {action: Pass}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: beta.out}
spec:
  tier: beta
  selector: client == 'yes'
  types: [Egress]
  egress:
  - {action: Allow, protocol: UDP, destination: {selector: has(server), ports: [7000, 7001]}}
  - {action: Allow, protocol: TCP, destination: {ports: ["7000:7003"]}}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: served, namespace: a}
spec:
  selector: has(server)
  types: [Ingress]
  ingress:
  - {action: Allow, source: {selector: role == 'front'}}
  - {action: Allow, source: {nets: [198.51.100.0/24]}}
  - {action: Allow, source: {nets: ["2001:db8:f::/48"]}}
`}

// peers are pods that come and go in sets that the policies read, some of them on the nodes themselves. Nothing is behind them.
type peers struct {
	rng   *rand.Rand
	there [64]string // what is there of each
}

// change gives a transaction: pods that come or are relabelled, and pods that go.
func (p *peers) change() (put string, gone string) {
	i := p.rng.IntN(len(p.there))
	if p.there[i] != "" && p.rng.IntN(3) == 0 {
		gone, p.there[i] = p.there[i], ""
		return "", gone
	}
	pick := func(words ...string) string { return words[p.rng.IntN(len(words))] }
	p.there[i] = fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: peer%d, namespace: a, labels: {%s}}
spec: {nodeName: %s, containers: [{name: c, image: example}]}
status: {podIP: 10.9.0.%d, podIPs: [{ip: 10.9.0.%d}, {ip: "fd09::%d"}]}
`, i, pick(`client: "yes", role: front`, `client: "yes"`, "role: back", "role: front", `server: "yes"`, `server: "yes", client: "yes"`, "app: other"),
		[]string{"n1", "n2", "n9", "n8"}[i%4], i+1, i+1, i+1)
	return p.there[i], ""
}

// relabelled is the pod that sends, whose address the rules of others name, with labels of which policies say nothing, or
// others that select it as before.
func relabelled(rng *rand.Rand) string {
	one := standing[strings.Index(standing, "apiVersion: v1\nkind: Pod\nmetadata: {name: one"):]
	one = one[:strings.Index(one, "---")]
	return strings.Replace(one, "role: front", fmt.Sprintf("role: front, generation: g%d", rng.IntN(4)), 1)
}
