package leftovers

import (
	"fmt"
	"slices"
	"strings"
)

const calico = "calico"

// owner is a program whose leftovers are known by what it calls them.
type owner struct {
	name     string
	tables   []string // of nftables, with their family, that are its own
	chains   []string // how the names of its chains begin
	comments []string // how the comments of its rules in others' chains begin
	sets     []string // how the names of its ipsets begin
	programs []string // that make these
}

// owners with what Felix itself takes for its own when it cleans up after another mode or an older version, and what the other two are told by.
// That kube-router's rule about a mark has no word of its own is so in its older versions.
var owners = []owner{
	{name: calico,
		tables:   []string{"ip calico", "ip6 calico", "arp calico-arp"},
		chains:   []string{"cali-", "califw-", "calitw-", "califh-", "calith-", "calipi-", "calipo-", "felix-"},
		comments: []string{"cali:"},
		sets:     []string{"cali40", "cali60", "cali4t", "cali6t", "cali4-", "cali6-", "felix-"},
		programs: []string{"calico", "calico-node", "calico-felix", "felix", "calico-typha"}},
	{name: "kube-router",
		chains:   []string{"KUBE-ROUTER-", "KUBE-NWPLCY-", "KUBE-POD-FW-"},
		comments: []string{"kube-router netpol", "KUBE-ROUTER rule to explicitly ACCEPT", "rule to explicitly ACCEPT traffic that comply to network policies"},
		sets:     []string{"kube-router-", "KUBE-SRC-", "KUBE-DST-", "inet6:kube-router-", "inet6:KUBE-SRC-", "inet6:KUBE-DST-"},
		programs: []string{"kube-router"}},
	{name: "azure-npm",
		chains:   []string{"AZURE-NPM"},
		sets:     []string{"azure-npm-"},
		programs: []string{"azure-npm"}},
}

// Owners are the names of those whose leftovers can be found.
func Owners() (names []string) {
	for _, o := range owners {
		names = append(names, o.name)
	}
	return names
}

// natTable is the network's and stays with it: without it pods that go on have no way out.
const natTable = "nat"

// chain tells whose a chain of iptables is, and by what.
func (s *search) chain(name string) (owner, why string) {
	for _, o := range s.owners {
		if p := begins(o.chains, name); p != "" {
			return o.name, "its name begins with " + p
		}
	}
	return "", ""
}

// rule tells whose a rule in a chain of others' is.
func (s *search) rule(jumps string, comments []string) (owner, why string) {
	for _, o := range s.owners {
		for _, c := range comments {
			if p := begins(o.comments, c); p != "" {
				return o.name, "its comment begins with " + p
			}
		}
	}
	if owner, _ := s.chain(jumps); owner != "" {
		return owner, "it leads to " + jumps
	}
	return "", ""
}

// stays tells why something in a table of iptables stays.
func (s *search) stays(owner, table string) string {
	if owner == calico && table == natTable && s.holds != "" {
		return "pods' way out of the cluster: " + s.holds
	}
	return ""
}

// drops warns of a chain whose policy meets what the owners' rules let by until they go.
func (s *search) drops(in, chain string) {
	s.mind = append(s.mind, fmt.Sprintf("%s: the policy of %s is DROP: it meets afterwards what the rules that go let by", in, chain))
}

// strangers counts rules in a chain of Calico's that it has not written, for all that it writes there has a comment of its.
func strangers(owner string, comments [][]string) (n int) {
	for _, c := range comments {
		if owner == calico && !slices.ContainsFunc(c, func(text string) bool { return strings.HasPrefix(text, "cali:") }) {
			n++
		}
	}
	return n
}

// loses warns of them.
func (s *search) loses(in string, strangers int) {
	if strangers > 0 {
		s.mind = append(s.mind, fmt.Sprintf("%s: rules in Calico's chains without a comment of its, which go with them: %d", in, strangers))
	}
}

func begins(prefixes []string, name string) string {
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) {
			return p
		}
	}
	return ""
}
