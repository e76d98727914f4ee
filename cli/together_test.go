package main

import "testing"

// What a file brings its own namespace and tier for is written after them, and if it is refused then that is said.
func TestWrittenTogether(t *testing.T) {
	s := newSession(t)
	policy := "/networkpolicies"
	s.refuse.Store(&policy)
	s.does(3, "apply -f "+s.file("refused.yaml", `apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: early.a, namespace: early}
spec: {tier: early}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: early}
---
apiVersion: v1
kind: Namespace
metadata: {name: early}
`), "meanwhile forbidden", "Partial success")
	s.refuse.Store(nil)
	s.does(0, "apply -f ../config/samples/shop.yaml", "Successfully applied")
	s.does(0, "apply -f @refused.yaml", "Successfully applied")
}
