package nft_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/tierwall/tierwall/dataplane/nft"
)

const calicoChains = `*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:cali-FORWARD - [0:0]
:cali-tw-cali1 - [0:0]
-A FORWARD -j cali-FORWARD
-A cali-FORWARD -o cali1 -j cali-tw-cali1
`

// Others whose rules decide beside ours are found by what they leave, in nftables and in legacy iptables; nobody is where nobody is.
func TestEnforcers(t *testing.T) {
	for _, c := range []struct {
		name, program, rules string
		want                 []string // how what is said of each begins
		policy               bool     // the first of them is one of network policy
	}{
		{"by the chain alone", "nft -f -", "table inet others { chain cali-pi-x { }; }\ntable inet mine { chain FORWARD { type filter hook forward priority 0; policy accept; }; }",
			[]string{"Calico enforces policies of its own (table inet others, chain cali-pi-x)"}, true},
		{"nobody", "nft -f -", "table inet mine { chain FORWARD { type filter hook forward priority 0; policy accept; }; }", nil, false},
		{"Calico without policy", "iptables-restore", calicoChains + "COMMIT\n",
			[]string{"Calico has rules for pods' interfaces (table ip filter, chain cali-FORWARD and 1 more like it)"}, false},
		{"Calico without policy, legacy", "iptables-legacy-restore", calicoChains + "COMMIT\n",
			[]string{"Calico has rules for pods' interfaces (table legacy ip filter, chain cali-FORWARD and 1 more like it)"}, false},
		{"Calico", "iptables-restore", calicoChains + ":cali-pi-_x - [0:0]\n:cali-po-_x - [0:0]\nCOMMIT\n", []string{
			"Calico enforces policies of its own (table ip filter, chain cali-p", "Calico has rules for pods' interfaces"}, true},
		{"Calico, legacy, IPv6", "ip6tables-legacy-restore", calicoChains + ":cali-pi-_x - [0:0]\n-A cali-tw-cali1 -s fd00::/64 -j cali-pi-_x\nCOMMIT\n", []string{
			"Calico enforces policies of its own (table legacy ip6 filter, chain cali-pi-_x)", "Calico has rules for pods' interfaces"}, true},
		{"Calico in its own table", "nft -f -", "table ip calico { chain filter-cali-FORWARD { }; chain filter-cali-pi-np/a/b { }; }", []string{
			"Calico enforces policies of its own (table ip calico, chain filter-cali-pi-np/a/b)", "Calico has rules"}, true},
		{"kube-router", "iptables-restore", "*filter\n:KUBE-POD-FW-ABC - [0:0]\nCOMMIT\n", []string{"kube-router enforces NetworkPolicy (table ip filter, chain KUBE-POD-FW-ABC)"}, true},
		{"Azure NPM", "iptables-legacy-restore", "*filter\n:AZURE-NPM - [0:0]\n:AZURE-NPM-INGRESS - [0:0]\nCOMMIT\n",
			[]string{"Azure NPM enforces NetworkPolicy (table legacy ip filter, chain AZURE-NPM and 1 more like it)"}, true},
		{"Cilium", "ip link add cilium_host type veth peer cilium_net", "", []string{"Cilium handles packets, and its policy in BPF cannot be seen from here (interface cilium_host)"}, true},
		{"a policy of DROP", "iptables-restore", "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n", []string{"FORWARD drops what none of its rules accepts (table ip filter, chain FORWARD)"}, false},
		{"a policy of DROP, legacy", "iptables-legacy-restore", "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT DROP [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n",
			[]string{"INPUT drops what none of its rules accepts (table legacy ip filter, chain INPUT)"}, false},
		{"kube-proxy", "iptables-restore", "*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			words := strings.Fields(c.program)
			if _, err := exec.LookPath(words[0]); err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			inNamespace(t, func() {
				cmd := exec.Command(words[0], words[1:]...)
				cmd.Stdin = strings.NewReader(c.rules)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
				found, err := nft.Enforcers()
				must(err)
				var said []string
				for _, e := range found {
					said = append(said, e.String())
				}
				if !slices.EqualFunc(said, c.want, strings.HasPrefix) {
					t.Errorf("found %q, want %q", said, c.want)
				}
				if len(found) > 0 && found[0].Policy != c.policy {
					t.Errorf("%+v: is it of policy?", found[0])
				}
			})
		})
	}
}
