package main

import (
	"os"
	"strings"
	"testing"
)

const (
	agentsRole = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: tierwall-agent, labels: {app.kubernetes.io/name: tierwall}}\n"
	deadNode   = "apiVersion: v1\nkind: Node\nmetadata: {name: n2}\n"
	report     = "apiVersion: tierwall.io/v1alpha1\nkind: NodeReport\nmetadata: {name: n2}\n"
)

// What an operator sees who uninstalls: what is no longer enforced, what goes and what stays, what is refused, and the way back. That a node is taken
// its table out of is seen in controllers/cleanup and in test/e2e.
func TestUninstall(t *testing.T) {
	s := newSession(t)
	s.does(0, "uninstall", "no node has a table", "stay: 12 CRDs, with all policy: --crds removes them too\n", "0 objects of Tierwall's\nnothing was removed")
	s.does(0, "uninstall --yes --journal @u.db", "nothing of Tierwall's is left")
	s.does(2, "uninstall restor --yes --journal @u.db", `unknown command "uninstall restor"`)
	s.does(1, "uninstall status --journal @u.db", "nothing was begun")
	s.file("p.yaml", strings.ReplaceAll(clusterPolicy, "NAME", "p"))
	s.does(0, "apply -f @p.yaml")
	s.create("rbac.authorization.k8s.io/v1", "clusterroles", "", agentsRole)
	s.create("v1", "nodes", "", deadNode)
	s.create("tierwall.io/v1alpha1", "nodereports", "", report)
	s.does(4, "uninstall", "no longer enforced: 1 globalnetworkpolicies.projectcalico.org, on 1 node: n2\n", "node n2 would keep its table: it is not ready", "--without-node n2 goes on without it")
	s.does(4, "uninstall --yes --journal @u.db", "nothing was removed: it would not be safe: node n2")
	s.does(0, "uninstall --without-node n2", "accounts:\n  ClusterRole/tierwall-agent\n", "1 object of Tierwall's\nnothing was removed: --yes removes it")

	var plan strings.Builder
	if status := run(t.Context(), []string{"uninstall", "--without-node=n2", "-o", "json", "--datastore", "kubernetes:" + s.kubeconfig}, nil, &plan, os.Stderr); status != 0 {
		t.Fatalf("-o json: %d", status)
	}
	s.file("plan.json", plan.String())
	s.does(4, "uninstall --yes --crds --without-node n2 --plan @plan.json --journal @u.db", "plan.json does not have GlobalNetworkPolicy/p, ")
	s.does(0, "uninstall --yes --without-node n2 --plan @plan.json --journal @u.db", "ClusterRole/tierwall-agent deleted\n")
	s.does(0, "uninstall status --journal @u.db", "Removed: 1 of 1 objects removed")
	s.does(0, "get gnp p")
	s.does(0, "uninstall restore --yes --journal @u.db", "ClusterRole/tierwall-agent restored\n")

	s.does(0, "uninstall --yes --crds --without-node n2 --journal @u.db", "GlobalNetworkPolicy/p deleted\n", "CustomResourceDefinition/nodereports.tierwall.io deleted\n")
	s.does(0, "uninstall --crds", "0 objects of Tierwall's")
	s.does(0, "uninstall restore --yes --journal @u.db", "CustomResourceDefinition/tiers.projectcalico.org restored\n", "GlobalNetworkPolicy/p restored\n")
	s.does(0, "get gnp p")
	s.does(4, "cleanup status --journal @u.db", "the journal is of another run: uninstall")

	var out strings.Builder
	if status := run(t.Context(), []string{"uninstall", "--yes", "--datastore", "bolt:" + s.dir + "/host.db"}, nil, &out, &out); status != exitUsage || !strings.Contains(out.String(), "tierctl agent --remove") {
		t.Errorf("on a host: %d: %s", status, out.String())
	}
}
