package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

// storedDefinition is a CRD of Calico's older API, as small as can be.
func storedDefinition(plural, kind, scope string) string {
	return `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ` + plural + `.crd.projectcalico.org}
spec:
  group: crd.projectcalico.org
  scope: ` + scope + `
  names: {plural: ` + plural + `, singular: ` + strings.ToLower(kind) + `, kind: ` + kind + `}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`
}

// What an operator sees who brings Calico's policies over: the plan, what is refused, the proof, what drifts, and the way back.
func TestMigrate(t *testing.T) {
	s := newSession(t)
	s.does(0, "migrate plan --journal @j.db", "no policies of Calico's are here; NetworkPolicies of Kubernetes are enforced as they are")
	s.does(2, "migrate plan --from nowhere --journal @j.db", `--from "nowhere" is none of crd.projectcalico.org/v1, projectcalico.org/v3, networking.k8s.io/v1, and there is no such file`)
	s.does(1, "migrate status --journal @j.db", "nothing was begun")
	s.file("nothing.yaml", "# nothing\n")
	s.does(1, "migrate apply --yes --from @nothing.yaml --journal @j.db", "nothing.yaml: there are no objects in it")
	s.does(1, "migrate apply --yes --from - --journal @j.db", "-: there are no objects in it")
	s.does(1, "migrate apply --yes --journal /proc/none/j.db", "journal /proc/none/j.db: mkdir /proc/none")
	s.does(1, "migrate rollback --yes --journal @j.db", "nothing was migrated")
	for _, d := range [][3]string{{"tiers", "Tier", "Cluster"}, {"globalnetworkpolicies", "GlobalNetworkPolicy", "Cluster"}, {"hostendpoints", "HostEndpoint", "Cluster"}, {"ippools", "IPPool", "Cluster"}} {
		s.create("apiextensions.k8s.io/v1", "customresourcedefinitions", "", storedDefinition(d[0], d[1], d[2]))
	}
	const stored = "apiVersion: crd.projectcalico.org/v1\n"
	s.create("crd.projectcalico.org/v1", "tiers", "", stored+"kind: Tier\nmetadata: {name: security}\nspec: {order: 100}\n")
	s.create("crd.projectcalico.org/v1", "globalnetworkpolicies", "", stored+"kind: GlobalNetworkPolicy\nmetadata: {name: default.web}\nspec: {selector: app == 'web', types: [Ingress], ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}\n")
	s.create("crd.projectcalico.org/v1", "ippools", "", stored+"kind: IPPool\nmetadata: {name: pods}\nspec: {cidr: 10.0.0.0/16}\n")
	s.create("crd.projectcalico.org/v1", "hostendpoints", "", stored+"kind: HostEndpoint\nmetadata: {name: n1, labels: {app: web}}\nspec: {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1]}\n")

	s.does(1, "migrate plan --journal @j.db", "from crd.projectcalico.org/v1 into kubernetes:", "Tier: 1 create\n", "GlobalNetworkPolicy/default.web becomes GlobalNetworkPolicy/web\n", "left: IPPool/pods: there is no IPPool here")
	s.does(0, "migrate apply --journal @j.db", "nothing was changed: --yes does it")
	s.file("elsewhere.json", `{"source": "crd.projectcalico.org/v1", "store": "kubernetes:https://192.0.2.1"}`)
	s.does(4, "migrate apply --yes --plan @elsewhere.json --journal @j.db", "nothing is migrated: what was read is from crd.projectcalico.org/v1 into kubernetes:https://192.0.2.1, and this from crd.projectcalico.org/v1 into kubernetes:")
	s.file("wrong.json", "[]")
	s.does(1, "migrate apply --yes --plan @wrong.json --journal @j.db", "wrong.json: is not what tierctl migrate plan -o json writes")
	var plan strings.Builder
	if status := run(t.Context(), []string{"migrate", "plan", "-o", "json", "--datastore", "kubernetes:" + s.kubeconfig, "--journal", "none.db"}, nil, &plan, os.Stderr); status != 1 {
		t.Fatalf("plan -o json: %d", status)
	}
	s.file("plan.json", plan.String())
	var made struct{ Source, Store string }
	must(t, json.Unmarshal([]byte(plan.String()), &made))
	s.file("empty.json", fmt.Sprintf(`{"source": %q, "store": %q}`, made.Source, made.Store))
	s.does(4, "migrate apply --yes --plan @empty.json --journal @j.db", "nothing is migrated: what was read does not have, or has otherwise, Tier/security, GlobalNetworkPolicy/web, HostEndpoint/n1")
	s.does(1, "migrate verify --journal @j.db", "crd.projectcalico.org/v1, as it is now: 3 objects", "only before") // nothing is written yet
	s.does(0, "migrate apply --yes --plan @plan.json --journal @j.db", "Tier/security created\nGlobalNetworkPolicy/web created\nHostEndpoint/n1 created\n")
	s.does(0, "migrate verify --journal @j.db", "crd.projectcalico.org/v1, as it was at ", "every packet fares as before")
	s.does(0, "migrate verify -o json --journal @j.db", `"policies":3`, `"drifted":[],"changes":[]`)
	s.does(0, "migrate plan --journal @j.db", "GlobalNetworkPolicy: 1 unchanged")
	s.does(0, "migrate apply --yes --journal @j.db", "there is nothing to do")
	s.does(0, "migrate status --journal @j.db", "Migrated: 3 objects from crd.projectcalico.org/v1 into kubernetes:", "1 left out")

	// the source goes on, and so does somebody here
	s.create("crd.projectcalico.org/v1", "globalnetworkpolicies", "", stored+"kind: GlobalNetworkPolicy\nmetadata: {name: default.more}\nspec: {selector: app == 'db', types: [Ingress]}\n")
	s.does(1, "migrate verify --journal @j.db", "GlobalNetworkPolicy/more made since: tierctl migrate apply carries that over", "by the source as it was then, and by the datastore as it is now:\n", "every packet fares as before")
	s.does(0, "migrate apply --yes --journal @j.db", "GlobalNetworkPolicy/more created")
	s.does(0, "delete gnp web", "Successfully deleted")
	s.does(1, "migrate verify --journal @j.db", "> n1: TCP 80: Deny, was Allow", "was ingress: GlobalNetworkPolicy/web rule 0 allows")
	s.does(1, "migrate apply --yes --journal @empty.json", "empty.json: the file is damaged, or is no journal (invalid database)")
	s.file("none.db", "")
	s.does(1, "migrate status --journal @none.db", "none.db: the file is damaged, or is no journal: it is empty")
	s.create("crd.projectcalico.org/v1", "globalnetworkpolicies", "", stored+"kind: GlobalNetworkPolicy\nmetadata: {name: default.bad}\nspec: {selector: 'app ==', types: [Ingress]}\n")
	s.does(4, "migrate apply --journal @j.db", "cannot be carried: GlobalNetworkPolicy/default.bad: spec.selector", "refused: 1 object cannot be carried, as above: --lossy leaves that out\n", "nothing is migrated: see above")
	s.does(4, "migrate rollback --journal @j.db", "nothing is migrated back: no agent of Calico's runs, so that nobody would enforce its policies; --abandon takes them away all the same")
	s.does(4, "migrate rollback --yes --journal @j.db", "no agent of Calico's runs")
	s.does(0, "migrate rollback --abandon --journal @j.db", "Migrated: 4 objects written from crd.projectcalico.org/v1; nothing was changed: --yes takes them back")
	s.does(0, "migrate rollback --yes --abandon --journal @j.db", "HostEndpoint/n1 deleted\nGlobalNetworkPolicy/more deleted\nTier/security deleted\n")
	s.does(0, "migrate status -o json --journal @j.db", `"phase":"RolledBack"`)
}
