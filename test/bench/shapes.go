package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
	"github.com/tierwall/tierwall/test/scenario"
)

// size of a node: so many workloads, each selected by so many policies of rulesEach rules. Every rule allows another port to one
// of the roles, and a packet that we send matches none but the last rule of its protocol in the last policy.
type size struct {
	Endpoints int `json:"endpoints"`
	Policies  int `json:"policies"`
}

const (
	rulesEach = 5
	roles     = 10
	members   = 100 // of each role
	tcpPort   = 7001
	udpPort   = 7002
)

// allowed is a rule.
type allowed struct {
	proto string
	role  int
	port  int
}

// rule i of policy p. The last two of the last policy are for what we send.
func (s size) rule(p, i int) allowed {
	n := p*rulesEach + i
	switch n - s.Policies*rulesEach {
	case -2:
		return allowed{"tcp", 0, tcpPort}
	case -1:
		return allowed{"udp", 0, udpPort}
	}
	return allowed{[]string{"tcp", "tcp", "udp"}[n%3], 1 + n%(roles-1), 1000 + n}
}

// addrs of a role, which are of pods elsewhere. The client has the first.
func addrs(role int) (out []netip.Addr) {
	if role == 0 {
		out = append(out, clientAddr)
	}
	for i := len(out); i < members; i++ {
		out = append(out, netip.AddrFrom4([4]byte{10, 66, byte(role), byte(i)}))
	}
	return out
}

func workload(i int) (iface string, addr netip.Addr) {
	return fmt.Sprintf("cali%d", i+1), netip.AddrFrom4([4]byte{10, 65, byte(i / 250), byte(i%250 + 1)})
}

// install a table in the caller's namespace.
type install func(size) error

func nothing(size) error { return nil }

// floor is what any firewall that knows connections has to do.
func floor(size) error {
	return program("table ip floor { chain forward { type filter hook forward priority 0; ct state established,related accept\naccept\n}\n}")
}

// program a table by the nft program.
func program(text string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft -f: %w: %.300s", err, out)
	}
	return nil
}

func ours(s size) error {
	table, err := s.table()
	if err != nil {
		return err
	}
	c, err := nft.Open(table.Name)
	if err != nil {
		return err
	}
	_, err = c.Apply(table)
	return errors.Join(err, c.Close())
}

// table is that of a node n1.
func (s size) table() (*ruleset.Table, error) {
	x := policy.NewIndex("n1", policy.Options{})
	for _, o := range s.objects() {
		if err := x.Set(o); err != nil {
			return nil, fmt.Errorf("what the table is of: %w", err)
		}
	}
	var ifaces []policy.Iface
	for i := range s.Endpoints {
		name, a := workload(i)
		ifaces = append(ifaces, policy.Iface{Name: name, Peers: []netip.Addr{a}})
	}
	x.SetInterfaces(ifaces)
	return ruleset.Compile(x.Plan(), ruleset.Options{}), nil
}

func (s size) objects() []client.Object {
	out := []client.Object{scenario.Namespace("bench", map[string]string{})}
	for i := range s.Endpoints {
		_, a := workload(i)
		out = append(out, scenario.Pod("bench", fmt.Sprintf("server%d", i), "n1", []string{a.String()}, map[string]string{"server": ""}))
	}
	for role := range roles {
		for i, a := range addrs(role) {
			labels := map[string]string{"role": fmt.Sprintf("r%d", role)}
			out = append(out, scenario.Pod("bench", fmt.Sprintf("client%d-%d", role, i), "n2", []string{a.String()}, labels))
		}
	}
	for p := range s.Policies {
		out = append(out, s.policy(p))
	}
	return out
}

func (s size) policy(p int) client.Object {
	o := &v3.NetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "NetworkPolicy"}}
	order := float64(p)
	o.Namespace, o.Name, o.Spec.Order, o.Spec.Selector = "bench", fmt.Sprintf("policy%02d", p), &order, "has(server)"
	for i := range rulesEach {
		a := s.rule(p, i)
		proto := intstr.FromString(strings.ToUpper(a.proto))
		o.Spec.Ingress = append(o.Spec.Ingress, v3.Rule{Action: v3.Allow, Protocol: &proto,
			Source:      v3.EntityRule{Selector: fmt.Sprintf("role == 'r%d'", a.role)},
			Destination: v3.EntityRule{Ports: []intstr.IntOrString{intstr.FromInt32(int32(a.port))}}})
	}
	v3.Default(o)
	return o
}
