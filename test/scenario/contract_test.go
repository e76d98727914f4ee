package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// vectors are what the contract says of selectors, rules and evaluation, and its test vectors, a row each, and what shows it: names
// of scenarios, and of tests as package.Test. The rows follow the contract's sections.
var vectors = []struct{ section, what, shown string }{
	{"2.1", "grammar and white space", "apis/selector.TestVectors apis/selector.TestErrors"},
	{"2.1", "precedence of operators", "selector-operators-of-subjects selector-operators-of-peers"},
	{"2.1", "keywords as names of labels", "selector-operators-of-subjects apis/selector.TestVectors"},
	{"2.2", "missing labels", "selector-operators selector-operators-of-peers selector-operators-of-not-selectors"},
	{"2.2", "an empty value", "selector-empty-value"},
	{"2.3", "canonical form", "apis/selector.TestVectors apis/selector.TestPrintParse"},
	{"2.3", "identifiers", "apis/selector.TestID"},
	{"2.4", "errors", "apis/selector.TestErrors"},

	{"2.5", "NP without selectors", "policy-of-another-namespace"},
	{"2.5", "NP with selector", "subject-of-a-namespaced-policy-by-label"},
	{"2.5", "NP with serviceAccountSelector", "subject-of-a-namespaced-policy-by-service-account"},
	{"2.5", "GNP without selectors", "subject-of-a-global-policy"},
	{"2.5", "GNP with selector", "subject-by-label-takes-hosts"},
	{"2.5", "GNP with selector and namespaceSelector", "subject-by-label-and-namespace-leaves-hosts-out"},
	{"2.5", "GNP with selector and namespaceSelector", "subject-by-selector-and-namespace"},
	{"2.5", "GNP all() and all()", "subject-all-of-all-namespaces"},
	{"2.5", "GNP namespaceSelector !has()", "subject-without-a-namespace-label-hits-hosts"},
	{"2.5", "GNP namespaceSelector !=", "subject-by-negated-namespace-hits-hosts"},
	{"2.5", "GNP serviceAccountSelector all()", "subject-any-service-account"},
	{"2.5", "labels that selectors may use", "subject-by-calico-labels subject-by-inherited-labels"},
	{"2.5", "labels that selectors may use", "subject-has-namespace peer-namespace-by-name"},

	{"2.6", "no criteria, or only nets and ports", "peer-of-no-labels-is-everybody"},
	{"2.6", "selector", "peer-selector-in-a-namespace"},
	{"2.6", "notSelector alone", "not-selector-in-a-namespace not-selector-in-a-global-policy not-selector-of-a-destination"},
	{"2.6", "namespaceSelector all()", "peer-all-namespaces"},
	{"2.6", "namespaceSelector global()", "peer-global"},
	{"2.6", "namespaceSelector global() and selector", "peer-global-with-selector"},
	{"2.6", "namespaceSelector and selector", "peer-namespace-selector"},
	{"2.6", "namespaceSelector !has()", "peer-negated-namespace-hits-global"},
	{"2.6", "serviceAccounts by name", "peer-service-accounts peer-service-accounts-of-a-namespace"},
	{"2.6", "serviceAccounts by selector", "peer-service-accounts"},
	{"2.6", "serviceAccounts by both, and selector", "peer-service-accounts-with-selector"},
	{"2.6", "serviceAccounts that ask for nothing", "peer-service-accounts-of-a-namespace"},
	{"2.6", "selector and notSelector", "peer-not-selector-with-selector peer-not-selector-with-namespace"},
	{"2.6", "what addresses a peer has", "host-endpoint-as-peer peer-network-set-of-a-namespace"},
	{"2.6", "what addresses a peer has", "network-set-host-bits dual-stack-pods"},

	{"2.7", "by name and protocol", "named-ports named-ports-of-udp-and-sctp"},
	{"2.7", "without protocol", "named-port-of-any-protocol"},
	{"2.7", "of those that the side selects", "named-ports-of-selected-endpoints named-ports-of-the-source"},
	{"2.7", "at both ends", "named-ports-at-both-ends"},
	{"2.7", "negated", "not-named-port-of-selected not-named-ports-alone not-ports"},
	{"2.7", "of hosts and workload endpoints", "named-port-of-host workload-endpoint-named-port"},

	{"3.1", "action", "egress-actions host-ingress-actions"},
	{"3.1", "ipVersion", "ip-version ip-version-with-every-criterion"},
	{"3.1", "protocol", "protocols protocols-by-number sctp-ports udplite-is-not-udp"},
	{"3.1", "notProtocol", "protocols not-protocols not-protocol-and-icmp"},
	{"3.1", "icmp", "icmp-types icmpv6-types"},
	{"3.1", "notICMP", "not-icmp-without-protocol not-icmp-with-code not-icmp-within-icmp"},
	{"3.1", "http", "http-is-layer-four"},
	{"3.1", "metadata", "notes-change-nothing"},
	{"3.2", "nets and notNets", "egress-nets nets-at-both-ends not-nets-alone not-nets-within-nets every-ipv4-address"},
	{"3.2", "selectors", "peer-selector-in-a-namespace peer-namespace-selector not-selector-of-a-destination"},
	{"3.2", "services", "peer-service-ingress peer-service-egress"},
	{"3.2", "serviceAccounts", "peer-service-accounts"},
	{"3.2", "ports and notPorts", "ports-at-both-ends source-ports sctp-ports not-ports-alone not-ports-within-ports"},
	{"3.2", "what is refused", "config/crd.TestContract apis/v3.TestParsePort apis/v3.TestParseProtocol"},
	{"3.3", "all criteria, any member", "rules-in-order nets-and-selector nets-at-both-ends"},
	{"3.3", "all criteria, any member", "ports-at-both-ends own-end-of-a-rule peer-own-address"},
	{"3.3", "a set without members", "peer-that-nobody-is"},
	{"3.3", "HTTP is layer four", "http-is-layer-four"},
	{"3.4", "egress", "peer-service-egress service-of-several-ports services-in-a-global-policy"},
	{"3.4", "ingress", "peer-service-ingress services-at-both-ends"},
	{"3.4", "without pods", "service-without-pods"},
	{"3.4", "namespaces", "services-of-two-namespaces"},
	{"3.5", "ipVersion", "ip-version-with-every-criterion"},
	{"3.5", "nets", "nets-of-one-family every-ipv4-address"},
	{"3.5", "notNets", "not-nets-of-the-other-family not-nets-of-both-families-by-two-rules not-nets-alone"},

	{"4.1", "tiers", "tier-order tier-order-around-the-default-tier tier-ties-by-name"},
	{"4.1", "a tier that does not exist", "missing-tier"},
	{"4.1", "policies", "policy-order-and-ties fractional-order"},
	{"4.1", "kinds among each other", "tie-with-kubernetes-by-name tie-with-kubernetes-by-shorter-name"},
	{"4.1", "kinds among each other", "tie-with-kubernetes-of-the-same-name"},
	{"4.2", "the walk", "rules-in-order allow-is-final pass-reaches-the-next-tier pass-through-three-tiers egress-actions"},
	{"4.2", "no rules, and only Log", "ingress-type-without-rules log-alone-denies"},
	{"4.2", "a tier of nobody's", "tier-without-subject-is-skipped tier-of-one-direction"},
	{"4.2", "a tier of staged policies", "staged-has-no-effect"},
	{"4.2", "Pass of the last tier", "pass-from-the-last-tier pass-in-default-tier host-endpoint-own-profile"},
	{"4.2", "profiles", "open-by-default host-endpoint-without-policy unknown-profile-denies"},
	{"4.2", "both ends", "both-ends-must-allow same-node-both-ends host-to-host"},
	{"4.3", "untracked", "untracked-ingress-actions untracked-egress-actions untracked-tiers untracked-answers-need-rules"},
	{"4.3", "preDNAT", "pre-dnat-actions pre-dnat-tiers pre-dnat-allow-skips-later-host-policy"},
	{"4.3", "normal", "host-ingress-actions host-egress-actions"},
	{"4.3", "applyOnForward", "forward-ingress-actions forward-egress-actions"},
	{"4.3", "applyOnForward", "forward-has-no-profiles forward-is-free-without-policy"},
	{"4.3", "nothing of the first two at workloads", "untracked-is-nothing-to-workloads pre-dnat-is-nothing-to-workloads"},
	{"4.4", "which interface", "host-endpoint-by-address host-endpoints-by-smallest-name host-endpoint-named-and-by-address"},
	{"4.4", "all interfaces", "star-host-endpoint-guards-egress forward-star-between-local-pods pre-dnat-star-and-local-pods"},
	{"4.4", "no untracked policy there", "untracked-is-for-named-interfaces"},
	{"4.4", "default deny", "host-endpoint-without-policy"},
	{"4.4", "a host and its own pods", "host-reaches-its-own-pods"},
	{"4.4", "a pod and its own host", "pod-to-its-own-host-drop pod-to-its-own-host-accept pod-to-its-own-host-return"},
	{"4.4", "hostNetwork", "host-network-pod"},
	{"4.4", "NodePort", "node-port-passes-normal-policy pre-dnat-sees-the-original-port node-port-meets-forward-policy"},
	{"4.5", "lists", "failsafe-ports-all failsafe-lists-empty failsafe-port-for-one-network"},
	{"4.5", "answers before connections", "untracked-failsafe"},
	{"4.5", "not for pods and not for what is forwarded", "failsafe-is-for-hosts forward-has-no-failsafe"},
	{"4.6", "connections", "test/scenario.TestConnectionsAreKept invalid-packets-left-to-policy"},
	{"4.6", "loopback", "loopback-is-free-without-star star-host-endpoint-default-allow"},
	{"4.6", "ICMPv6", "neighbour-discovery neighbour-discovery-between-pods"},
	{"4.7", "spoofed sources", "spoofed-source spoofed-source-of-a-pod pod-with-allowed-source-prefixes"},
	{"4.7", "unknown interfaces", "unknown-interface-is-closed"},
	{"4.7", "tunnels", "tunnels-from-pods tunnels-allowed-from-pods"},
	{"4.8", "order", "kubernetes-stands-at-1000-deny-before kubernetes-stands-at-1000-deny-behind"},
	{"4.8", "subjects", "kubernetes-expressions kubernetes-policy-is-for-pods kubernetes-selector-and-ports"},
	{"4.8", "peers", "kubernetes-peers kubernetes-ip-block kubernetes-namespace-selector-finds-sets"},
	{"4.8", "ports", "kubernetes-ports kubernetes-ports-of-two-protocols kubernetes-end-port kubernetes-named-ports-of-peers"},
	{"4.8", "types", "kubernetes-types kubernetes-given-types"},
	{"4.8", "ClusterNetworkPolicy", "cluster-network-policy-priorities cluster-network-policy-rules-in-order"},
	{"4.8", "ClusterNetworkPolicy", "cluster-network-policy-one-direction"},
	{"4.8", "ClusterNetworkPolicy not understood", "dataplane/policy.TestClusterNetworkPolicyFailsClosed"},
	{"4.8", "ClusterNetworkPolicy not understood", "cluster-network-policy-domain-names-deny"},
	{"4.9", "never enforced", "staged-has-no-effect staged-actions staged-beside-enforced"},
	{"4.9", "evaluated beside", "staged-set-is-a-new-policy staged-replaces-the-policy-of-its-name"},
	{"4.9", "evaluated beside", "staged-deletion staged-at-a-host"},
	{"4.10", "Deny", "deny-action-reject deny-action-of-the-older-name"},
	{"4.10", "Log", "log-before-deny log-prefix-and-limit log-prefix-as-it-is"},

	{"10.1", "selectors", "apis/selector.TestVectors selector-operators-of-subjects selector-operators-of-peers"},
	{"10.2", "the rows of 2.5 and 2.6", "test/scenario.TestContractIsShown"},
	{"10.3", "admission", "config/crd.TestContract config/crd.TestBeyondTheSchema apis/v3.TestValidate"},
	{"10.4", "tiers", "tier-order tier-order-around-the-default-tier missing-tier"},
	{"10.4", "policies", "policy-order-and-ties"},
	{"10.5 #1", "no policy", "open-by-default"},
	{"10.5 #2", "types without rules", "ingress-type-without-rules"},
	{"10.5 #3", "a tier that passes, and Pass", "pass-from-the-last-tier"},
	{"10.5 #4", "Allow is final", "allow-is-final"},
	{"10.5 #5", "Pass to the next tier", "pass-reaches-the-next-tier"},
	{"10.5 #6", "only Log", "log-alone-denies"},
	{"10.5 #7", "Deny at 1001 and at 999", "kubernetes-stands-at-1000-deny-behind kubernetes-stands-at-1000-deny-before"},
	{"10.5 #8", "ties at 1000", "tie-with-kubernetes-by-name tie-with-kubernetes-by-shorter-name"},
	{"10.5 #9", "a staged tier", "staged-has-no-effect"},
	{"10.5 #10", "the baseline", "baseline-denies-alone baseline-is-overridden"},
	{"10.5 #11", "a host endpoint alone", "host-endpoint-without-policy host-endpoint-leaves-pods-alone"},
	{"10.5 #11", "a host endpoint alone", "node-port-passes-normal-policy"},
	{"10.5 #12", "one applyOnForward policy", "forward-has-no-failsafe"},
	{"10.5 #13", "preDNAT Deny, and failsafe", "pre-dnat-sees-the-original-port pre-dnat-failsafe"},
	{"10.5 #14", "default-allow and one policy", "star-host-endpoint-default-allow"},
	{"10.5 #15", "host to pod", "host-reaches-its-own-pods"},
	{"10.5 #16", "pod to host", "pod-to-its-own-host-drop pod-to-its-own-host-accept"},
	{"10.5 #17", "an open connection", "test/scenario.TestConnectionsAreKept"},
	{"10.5 #18", "notNets of the other family", "not-nets-of-the-other-family"},
	{"10.5 #19", "notSelector of a namespaced policy", "not-selector-in-a-namespace"},
	{"10.5 #20", "notSelector of a global policy", "not-selector-in-a-global-policy"},
	{"10.5 #21", "nets and selector", "nets-and-selector"},
	{"10.5 #22", "an unknown profile", "unknown-profile-denies"},
	{"10.6", "Kubernetes' selectors and ports", "kubernetes-selector-and-ports kubernetes-ports-of-two-protocols"},
	{"10.6", "failsafe ports as text", "apis/v3.TestParseFailsafePorts"},
	{"10.6", "prefix of a message", "log-prefix-and-limit"},
}

// Every section of the contract's chapters 2 to 4 and of its vectors has a row, and what a row names exists.
func TestContractIsShown(t *testing.T) {
	known, rows := names(t), map[string]bool{}
	for _, v := range vectors {
		rows[v.section] = true
		for _, n := range strings.Fields(v.shown) {
			if dir, test, ok := strings.Cut(n, "."); ok {
				if !hasTest(t, dir, test) {
					t.Errorf("§%s %s: there is no test %s", v.section, v.what, n)
				}
			} else if !known[n] {
				t.Errorf("§%s %s: there is no scenario %s", v.section, v.what, n)
			}
		}
		if v.shown == "" {
			t.Errorf("§%s %s: nothing shows it", v.section, v.what)
		}
	}
	for _, s := range sections() {
		if !rows[s] {
			t.Errorf("§%s has no row", s)
		}
	}
}

// sections of the contract that have to do with verdicts.
func sections() (out []string) {
	for _, r := range []struct {
		chapter string
		last    int
	}{{"2.", 7}, {"3.", 5}, {"4.", 10}, {"10.", 6}, {"10.5 #", 22}} {
		for i := range r.last {
			if s := fmt.Sprint(r.chapter, i+1); s != "10.5" { // whose items are sections of their own
				out = append(out, s)
			}
		}
	}
	return out
}

func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(text), "\nfunc "+name+"(")
	})
}
