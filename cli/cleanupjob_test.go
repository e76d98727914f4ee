package main

import (
	"strings"
	"testing"
)

// What a pod has printed beside its result is no part of it, and one without a result is none.
func TestParseResult(t *testing.T) {
	v, err := parseResult([]byte("192.0.2.1:443 can be reached by a new connection\n{\n  \"items\": [],\ntierctl: trouble\n  \"removed\": true,\n  \"error\": \"trouble\"\n}\n"))
	if err != nil || !v.Removed || v.Error != "trouble" {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := parseResult([]byte("tierctl: trouble\n")); err == nil {
		t.Error("a result without one")
	}
}

// The worst of nodes decides: not in time, then partly; refused only where all are.
func TestStatusOfNodes(t *testing.T) {
	for _, row := range []struct {
		nodes []int
		want  int
	}{{[]int{0, 0}, 0}, {[]int{0, 1}, 3}, {[]int{0, 4}, 3}, {[]int{4, 4}, 4}, {[]int{5, 4}, 5}, {[]int{3, 5, 1}, 5}, {[]int{3}, 3}} {
		var results []nodeResult
		for _, status := range row.nodes {
			results = append(results, nodeResult{Node: "n", Status: status})
		}
		err := ofNodes(results)
		if have := map[bool]int{true: exitOK}[err == nil]; err != nil && statusOf(err) != row.want || err == nil && have != row.want {
			t.Errorf("%v: %v", row.nodes, err)
		}
	}
}

// The next node is left alone where one has lost a connection, has not ended, or says nothing; not where it only refuses.
func TestAlarming(t *testing.T) {
	for _, row := range []struct {
		result nodeResult
		want   bool
	}{
		{nodeResult{}, false},
		{nodeResult{Status: exitRefused}, false},
		{nodeResult{Status: exitTimeout}, true},
		{nodeResult{Status: exitError}, true},
		{nodeResult{Status: exitPartly, Result: &nodeCleanup{}}, false},
		{nodeResult{Status: exitError, Result: &nodeCleanup{Unreachable: []string{"192.0.2.1:443"}}}, true},
	} {
		if row.result.alarming() != row.want {
			t.Errorf("%+v", row.result)
		}
	}
}

// A Job's name is one that the label of its pods can have, and no two nodes' are the same.
func TestJobName(t *testing.T) {
	long := strings.Repeat("a.", 40)
	if a, b := jobName(long+"1"), jobName(long+"2"); len(a) > 63 || a == b {
		t.Errorf("%s and %s", a, b)
	}
	if name := jobName("n1"); name != "tierwall-cleanup-n1" {
		t.Error(name)
	}
}
